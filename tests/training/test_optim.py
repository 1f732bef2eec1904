"""The learning rate as a function of the step, and what is decayed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm.config import ModelConfig, TrainConfig, decay_start
from sllm.model.gpt2 import GPT
from sllm.training.optim import learning_rate, make_optimizer


@given(steps=st.integers(2, 500), warmup=st.integers(0, 499))
def test_warm_up_then_half_a_cosine(steps: int, warmup: int) -> None:
    warmup = min(warmup, steps - 1)
    config = TrainConfig(
        max_steps=steps, global_batch=1, micro_batch=1, learning_rate=1.0, min_learning_rate=0.1, warmup_steps=warmup
    )
    rates = [learning_rate(step, config) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[:warmup] == pytest.approx([step / warmup for step in range(1, warmup + 1)])
    falling = rates[max(warmup - 1, 0) :]
    assert falling == sorted(falling, reverse=True)


@given(steps=st.integers(2, 500), warmup=st.integers(0, 499), decay=st.floats(0.001, 1))
def test_warm_up_then_nothing_then_a_line(steps: int, warmup: int, decay: float) -> None:
    start = decay_start(steps, decay)
    config = TrainConfig(
        max_steps=steps,
        global_batch=1,
        micro_batch=1,
        learning_rate=1.0,
        min_learning_rate=0.1,
        warmup_steps=min(warmup, start),
        schedule="wsd",
        decay=decay,
    )
    rates = [learning_rate(step, config) for step in range(1, steps + 1)]
    longer = config.model_copy(update={"max_steps": 3 * steps})
    assert rates[:start] == [learning_rate(step, longer) for step in range(1, start + 1)]
    assert set(rates[config.warmup_steps : start]) <= {1.0}
    assert rates[-1] == 0.1
    assert 0 <= start < steps
    assert steps - start == pytest.approx(decay * steps, abs=1)
    falls = [before - after for before, after in pairwise([1.0, *rates[start:]])]
    assert falls == pytest.approx([0.9 / (steps - start)] * len(falls))


def test_only_the_matrices_of_linear_layers_decay() -> None:
    model = GPT(ModelConfig(d_model=16, n_layers=2, n_heads=2, d_ff=32, context_length=8), vocab_size=300)
    optimizer = make_optimizer(model, TrainConfig(max_steps=1, global_batch=1, micro_batch=1, weight_decay=0.1))
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, free = ({names[p] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert decayed == {
        f"blocks.{i}.{layer}.weight"
        for i in (0, 1)
        for layer in ("attention.qkv", "attention.out", "expand", "contract")
    }
    assert decayed | free == set(names.values())
    assert "embedding.weight" in free
