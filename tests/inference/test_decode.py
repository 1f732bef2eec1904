"""One step with the cache, and the weights laid out for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_models import KINDS, PROMPTS, VOCAB_SIZE, each_kind, random_model
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from sllm.inference.decode import Decoder, Record, decode, new_cache, prefill, prepare
from sllm.inference.generator import TextGenerator, next_tokens
from sllm.inference.sampling import Choice, Sampling, utf8_table
from sllm.model.shared import LanguageModel
from sllm.tokenizer import Tokenizer


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
        torch.testing.assert_close(decode(model, tokens[:, i], cache, torch.tensor([i])), expected, atol=1e-4, rtol=0)


@each_kind
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_bf16_weights_are_close_to_fp32(rows: int, kind: str) -> None:
    exact, rounded = random_model(kind=kind).eval(), prepare(random_model(kind=kind), "bf16")
    tokens, cache = torch.randint(VOCAB_SIZE, (rows, 20)), new_cache(rounded, rows, 20)
    with torch.no_grad():
        expected, found = exact(tokens)[:, -1], prefill(rounded, tokens[:, :19], cache)
        assert {rounded.embed(tokens).dtype, cache[0][0].dtype, cache[-1][1].dtype} == {torch.float32}
        found = decode(rounded, tokens[:, 19], cache, torch.tensor([19])).float()
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
    batch, begins = torch.cat([torch.randint(VOCAB_SIZE, (1, 12)), row]), torch.tensor([[0], [5]])
    alone, cache = new_cache(model, 1, 12), new_cache(model, 2, 12)
    prefill(model, row[:, 5:9], alone)
    prefill(model, batch[:, :9], cache, begins)
    for i in range(9, 12):
        expected = decode(model, row[:, i], alone, torch.tensor([i - 5]))
        found = decode(model, batch[:, i], cache, torch.tensor([i]), begins)[1:]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


HOW = {
    "greedy, penalized": Sampling(temperature=0, repetition_penalty=1.3),
    "top-k": Sampling(temperature=1.2, top_k=20, top_p=0.9),
    "top-p": Sampling(temperature=1.5, top_p=0.97),
    "greedy": Sampling(temperature=0),
}
TEXTS = [[[2, 70, 71, 72, 73], [2], [2, 80, 90]], [[2, 99], [2, 98], [2, 100]], [[2, *range(60, 72)], [2, 5], [2, 60]]]
"""Three batches; the first and the last are ragged."""


def read_anew(
    model: LanguageModel, prompts: list[list[int]], steps: int, sampling: Sampling, seed: int, utf8: Tensor | None
) -> list[list[int]]:
    """What the model goes on with, were nothing kept between two tokens: each whole text is read anew, alone."""
    generator, rows = torch.Generator().manual_seed(seed), [list(prompt) for prompt in prompts]
    choice = Choice(sampling, len(rows), model.vocab_size, torch.device("cpu"), utf8)
    choice.begin(prompts)
    for _ in range(steps):
        choice.draw(generator)
        choice(torch.cat([model(torch.tensor([row]))[:, -1] for row in rows]))
        for row, token in zip(rows, choice.token.tolist(), strict=True):
            row.append(token)
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


def played_back(recordings: list[GraphModule]) -> Record:
    """Records as a CUDA graph does: which operations there were, on which tensors, and nothing of what Python did."""

    def record(step: Callable[[], None]) -> Callable[[], None]:
        recorded: list[GraphModule] = []

        def play() -> None:
            if recorded:
                recorded[0]()
            else:
                recorded.append(make_fx(step)())  # which takes the step
                recordings.extend(recorded)

        return play

    return record


@pytest.mark.parametrize(("kind", "how"), list(zip(KINDS, HOW, strict=True)))
@torch.inference_mode()
def test_texts_are_those_of_reading_them_anew(kind: str, how: str) -> None:
    """Whatever the lengths and whatever was read before; with a step that is recorded, and without."""
    model, sampling = random_model(seed=3, kind=kind).eval(), HOW[how]
    utf8 = utf8_table(Tokenizer([]), torch.device("cpu")) if "penalized" not in how else None
    recordings: list[GraphModule] = []
    kept = Decoder(model, 3, 40, sampling, utf8, played_back(recordings))
    for seed, prompts in enumerate(TEXTS):
        expected = read_anew(model, prompts, 18, sampling, seed, utf8)
        for decoder in (kept, None):
            generator = torch.Generator().manual_seed(seed)
            columns = list(next_tokens(model, prompts, 18, sampling, generator, utf8, decoder))
            assert torch.stack(columns, dim=1).tolist() == expected
    assert len(recordings) == 4, "one for each bucket of lengths, ragged or not"
    assert len({tuple(row) for row in expected}) == 3


def test_bf16_generates(directory: Path) -> None:
    texts = TextGenerator(directory, device="cpu", dtype="bf16").generate(PROMPTS, 40, temperature=0)
    assert len(texts) == len(PROMPTS)
    assert all(texts)


@each_kind
def test_a_table_that_is_only_looked_up_keeps_its_rows_together(kind: str) -> None:
    model = prepare(random_model(kind=kind), "fp32")
    assert model.embedding.weight.is_contiguous() == ("untied" in kind)
    assert model.head is None or not model.head.weight.is_contiguous()
