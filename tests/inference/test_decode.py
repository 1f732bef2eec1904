"""One step with the cache, and the weights laid out for it."""

from pathlib import Path

import pytest
import torch
from small_models import PROMPTS, VOCAB_SIZE, each_kind, random_model

from sllm.inference.decode import decode, new_cache, prefill, prepare
from sllm.inference.generator import TextGenerator


@each_kind
@torch.no_grad()
def test_prefill_and_decode_are_the_models_last_logits(kind: str) -> None:
    model = random_model(kind=kind).eval()
    tokens = torch.randint(VOCAB_SIZE, (3, 20))
    cache = new_cache(model, 3, 24)
    assert cache[0][0].shape == (3, model.config.kv_heads, 24, model.config.head_width)
    torch.testing.assert_close(prefill(model, tokens[:, :16], cache), model(tokens[:, :16])[:, -1], atol=1e-4, rtol=0)
    for i in range(16, 20):
        expected = model(tokens[:, : i + 1])[:, -1]
        torch.testing.assert_close(decode(model, tokens[:, i], cache, i), expected, atol=1e-4, rtol=0)


@each_kind
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_bf16_weights_are_close_to_fp32(rows: int, kind: str) -> None:
    exact, rounded = random_model(kind=kind).eval(), prepare(random_model(kind=kind), "bf16")
    tokens, cache = torch.randint(VOCAB_SIZE, (rows, 20)), new_cache(rounded, rows, 20)
    with torch.no_grad():
        expected, found = exact(tokens)[:, -1], prefill(rounded, tokens[:, :19], cache)
        assert {rounded.embed(tokens).dtype, cache[0][0].dtype, cache[-1][1].dtype} == {torch.float32}
        found = decode(rounded, tokens[:, 19], cache, 19).float()
    assert not torch.equal(expected, found)
    assert (found - expected).square().mean().sqrt() < 0.03 * expected.std()


@each_kind
def test_preparing_for_fp32_changes_no_value(kind: str) -> None:
    model, tokens = random_model(kind=kind).eval(), torch.randint(VOCAB_SIZE, (3, 20))
    with torch.no_grad():
        before = model(tokens)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        after = prepare(model, "fp32")(tokens)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


@each_kind
@torch.no_grad()
def test_a_padded_row_decodes_as_it_does_alone(kind: str) -> None:
    model, row = random_model(kind=kind).eval(), torch.randint(VOCAB_SIZE, (1, 12))
    batch, padding = torch.cat([torch.randint(VOCAB_SIZE, (1, 12)), row]), torch.tensor([0, 5])
    alone, cache = new_cache(model, 1, 12), new_cache(model, 2, 12)
    prefill(model, row[:, 5:9], alone)
    prefill(model, batch[:, :9], cache, padding)
    for i in range(9, 12):
        expected = decode(model, row[:, i], alone, i - 5)
        torch.testing.assert_close(decode(model, batch[:, i], cache, i, padding)[1:], expected, atol=1e-4, rtol=0)


def test_bf16_generates(directory: Path) -> None:
    texts = TextGenerator(directory, device="cpu", dtype="bf16").generate(PROMPTS, 40, temperature=0)
    assert len(texts) == len(PROMPTS)
    assert all(texts)
