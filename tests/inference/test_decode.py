"""One step with the cache, and the weights laid out for it."""

from pathlib import Path

import pytest
import torch
from small_models import CONFIG, PROMPTS, VOCAB_SIZE, random_model

from sllm.inference.decode import decode, new_cache, prefill, prepare
from sllm.inference.generator import TextGenerator
from sllm.model.families import make_model


@torch.no_grad()
def test_prefill_and_decode_are_the_models_last_logits() -> None:
    model = random_model().eval()
    tokens = torch.randint(VOCAB_SIZE, (3, 20))
    cache = new_cache(model, 3, 24)
    torch.testing.assert_close(prefill(model, tokens[:, :16], cache), model(tokens[:, :16])[:, -1], atol=1e-4, rtol=0)
    for i in range(16, 20):
        expected = model(tokens[:, : i + 1])[:, -1]
        torch.testing.assert_close(decode(model, tokens[:, i], cache, i), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_bf16_weights_are_close_to_fp32(rows: int) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(VOCAB_SIZE, (rows, 1))
    exact = make_model(CONFIG, VOCAB_SIZE).eval()
    rounded = prepare(make_model(CONFIG, VOCAB_SIZE), "bf16")
    rounded.load_state_dict(exact.state_dict())
    with torch.no_grad():
        expected, found = exact(tokens), rounded(tokens).float()
    assert not torch.equal(expected, found)
    torch.testing.assert_close(found, expected, atol=0.02 * expected.std().item(), rtol=0.02)


def test_preparing_for_fp32_changes_no_value() -> None:
    model, tokens = random_model().eval(), torch.randint(VOCAB_SIZE, (3, 20))
    with torch.no_grad():
        before = model(tokens)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        after = prepare(model, "fp32")(tokens)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_bf16_generates(directory: Path) -> None:
    texts = TextGenerator(directory, device="cpu", dtype="bf16").generate(PROMPTS, 40, temperature=0)
    assert len(texts) == len(PROMPTS)
    assert all(texts)
