"""How a token is chosen. Transformers' samplers are the oracle of ours."""

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import talk
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from sllm.errors import UserError
from sllm.inference.generator import TextGenerator
from sllm.inference.sampling import Sampling, likeliest, penalize_repetition, sample


def noise(logits: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.empty(logits.shape).exponential_(generator=torch.Generator().manual_seed(seed))


def drawn(logits: torch.Tensor, top_k: int | None, top_p: float, draws: int = 60) -> list[set[int]]:
    rows = [sample(logits, noise(logits, seed), 1.0, top_k, top_p) for seed in range(draws)]
    return [set(column) for column in torch.stack(rows, dim=1).tolist()]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(0.05, 1.0))
def test_sampling_keeps_the_tokens_transformers_keeps(seed: int, top_k: int, top_p: float) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * 3
    expected = TopKLogitsWarper(top_k)(None, logits)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    allowed = [set(row.isfinite().nonzero().flatten().tolist()) for row in expected]
    for found, kept in zip(drawn(logits, top_k, top_p), allowed, strict=True):
        assert found <= kept


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(None, 1.0, 1.0), (5, 1.0, 1.0), (None, 0.6, 0.7), (8, 0.8, 1.5)]
)
def test_sampling_frequencies_are_the_probabilities(top_k: int | None, top_p: float, temperature: float) -> None:
    logits = torch.randn(20, generator=torch.Generator().manual_seed(2)) * 2
    expected = logits[None] / temperature
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    draws = 20_000
    rows = logits.expand(draws, 20)
    tokens = sample(rows, noise(rows), temperature, top_k, top_p)
    frequencies = torch.bincount(tokens, minlength=20) / draws
    torch.testing.assert_close(frequencies, expected.softmax(-1)[0], atol=0.015, rtol=0)


def by_sorting(
    logits: torch.Tensor, temperature: float, top_k: int | None, top_p: float, generator: torch.Generator
) -> torch.Tensor:
    """As a token is drawn where sorting costs nothing."""
    probabilities = (logits / temperature).softmax(dim=-1)
    if top_k is not None:
        kept, tokens = logits.topk(top_k)
        probabilities = torch.full_like(logits, -torch.inf).scatter(-1, tokens, kept / temperature).softmax(dim=-1)
    ordered, tokens = probabilities.sort(dim=-1, descending=True)
    left_out = ordered.cumsum(dim=-1) - ordered >= top_p
    probabilities = torch.zeros_like(ordered).scatter(-1, tokens, ordered.masked_fill(left_out, 0))
    return torch.multinomial(probabilities, num_samples=1, generator=generator).squeeze(-1)


@pytest.mark.parametrize("top_k", [None, 7, 300])
@pytest.mark.parametrize("top_p", [0.02, 0.5, 0.95, 1.0])
def test_nothing_that_avoids_sorting_draws_another_token(top_k: int | None, top_p: float) -> None:
    for seed in range(10):
        logits = torch.randn(16, 2000, generator=torch.Generator().manual_seed(seed)) * (1 + seed % 4)
        expected = by_sorting(logits, 0.7, top_k, top_p, torch.Generator().manual_seed(seed))
        assert torch.equal(sample(logits, noise(logits, seed), 0.7, top_k, top_p), expected)


@given(
    st.lists(st.sampled_from([1, 1, 2, 3, 100, 10_000]), min_size=1, max_size=60),
    st.floats(0, 1, exclude_min=True) | st.sampled_from([0.25, 0.5, 0.75]),
)
def test_the_likeliest_that_reach_a_probability_together(weights: list[int], top_p: float) -> None:
    probabilities = torch.tensor([weights], dtype=torch.float32)
    probabilities /= probabilities.sum()
    larger = [sum(other for other in weights if other > weight) for weight in weights]
    near = [abs(before / sum(weights) - top_p) < 1e-6 for before in larger]
    expected = [before / sum(weights) < top_p for before in larger]
    found = likeliest(probabilities, top_p)[0].tolist()
    assert [a for a, unsure in zip(found, near, strict=True) if not unsure] == [
        a for a, unsure in zip(expected, near, strict=True) if not unsure
    ]
    assert found[weights.index(max(weights))]


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(4, 50)
    assert sample(logits, noise(logits), 0).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits = torch.randn(3, 50)
    ids = torch.randint(50, (3, 12))
    seen = torch.zeros(3, 50, dtype=torch.bool).scatter(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    torch.testing.assert_close(penalize_repetition(logits, seen, penalty), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.2},
        {"repetition_penalty": 0.0},
    ],
)
def test_values_without_meaning_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


finite = st.floats(-(2.0**127), 2.0**127, width=32)


positive = st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)


@given(
    rows=st.integers(1, 12).flatmap(lambda size: st.lists(st.lists(finite, min_size=size, max_size=size), min_size=1)),
    temperature=st.just(0.0) | positive,
    top_k=st.none() | st.integers(1, 10**30),
    top_p=st.floats(0, 1, exclude_min=True),
    penalty=positive,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    masked=st.booleans(),
    data=st.data(),
)
def test_any_numbers_give_a_token(
    rows: list[list[float]],
    temperature: float,
    top_k: int | None,
    top_p: float,
    penalty: float,
    dtype: torch.dtype,
    masked: bool,
    data: st.DataObject,
) -> None:
    Sampling(temperature, top_k, top_p, penalty)
    logits = torch.tensor(rows).to(dtype)
    seen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=logits.numel(), max_size=logits.numel())))
    logits = penalize_repetition(logits, seen.view_as(logits), penalty)
    if masked:
        logits[:, 1:] = -torch.inf
    tokens = sample(logits, noise(logits), temperature, top_k, top_p)
    assert tokens.shape == (len(rows),)
    assert logits.gather(1, tokens[:, None]).isfinite().all()


@given(
    st.floats() | st.floats(0, 10),
    st.none() | st.integers() | st.integers(1, 5),
    st.floats() | st.floats(0.01, 1),
    st.floats() | st.floats(0.01, 10),
)
def test_numbers_are_refused_or_serve(temperature: float, top_k: int | None, top_p: float, penalty: float) -> None:
    logits = torch.tensor([[3.0, -2.0, 0.0, 1.0]])
    serves = (math.isfinite(temperature) and temperature >= 0 and (top_k is None or top_k > 0) and 0 < top_p <= 1) and (
        math.isfinite(penalty) and penalty > 0
    )
    with contextlib.nullcontext() if serves else pytest.raises(UserError):
        Sampling(temperature, top_k, top_p, penalty)
    if serves:
        penalized = penalize_repetition(logits, logits > 0, penalty)
        assert 0 <= sample(penalized, noise(penalized), temperature, top_k, top_p).item() < 4


@pytest.mark.parametrize("temperature", [1e-38, 1e-45, 5e-324])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    logits = torch.randn(4, 50)
    assert sample(logits, noise(logits), temperature).tolist() == logits.argmax(-1).tolist()


def test_the_smallest_top_p_keeps_the_likeliest() -> None:
    logits = torch.randn(4, 50)
    assert sample(logits, noise(logits), 1.0, top_p=1e-300).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("seed", [-1, 2**64, -(10**30)])
def test_a_seed_has_64_bits(generator: TextGenerator, seed: int) -> None:
    for use in (generator.generate, generator.stream, lambda text, seed: talk(generator, [text], seed=seed)):
        with pytest.raises(UserError, match="seed"):
            list(use("a", seed=seed))
    assert generator.generate("a", 4, seed=2**64 - 1)
    assert talk(generator, ["a", "b"], seed=2**64 - 1)
