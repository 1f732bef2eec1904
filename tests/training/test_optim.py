"""The learning rate as a function of the step, and which parameters have which optimizer, rate and decay."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sllm.config import ModelConfig, TrainConfig, decay_start
from sllm.model.families import make_model
from sllm.training.optim import Muon, learning_rate, make_optimizers, set_learning_rate

SHAPE = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "context_length": 8}
MODELS = [
    ModelConfig.model_validate({**SHAPE, "family": family, "tie_embeddings": tied})
    for family in ("gpt2", "qwen3")
    for tied in (True, False)
]


def train(**settings: Any) -> TrainConfig:
    return TrainConfig.model_validate({"max_steps": 1, "global_batch": 1, "micro_batch": 1, **settings})


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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("config", MODELS, ids=lambda config: f"{config.family} {config.tie_embeddings}")
def test_every_parameter_is_in_one_group_and_only_matrices_decay(config: ModelConfig, optimizer: str) -> None:
    model = make_model(config, 300)
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizers = make_optimizers(model, train(optimizer=optimizer, weight_decay=0.3))
    groups = [group for each in optimizers for group in each.param_groups]
    assert sorted(names[p] for group in groups for p in group["params"]) == sorted(names.values())
    for group in groups:
        of = {names[p] for p in group["params"]}
        decayed = {n for n in of if n.startswith("blocks") and not n.endswith("bias") and "norm" not in n}
        assert group["weight_decay"] == (0.3 if decayed else 0.0)
        assert decayed in (set(), of)
    matrices = [group for group in groups if group["weight_decay"]]
    layers = {"gpt2": 4, "qwen3": 7}[config.family]
    assert [len(group["params"]) for group in matrices] == [layers * config.n_layers]
    assert isinstance(optimizers[-1], torch.optim.Muon) == (optimizer == "muon")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_group_falls_from_a_rate_of_its_own_by_the_same_share(optimizer: str) -> None:
    rates = {"embedding": 0.2, "head": 0.064, "vectors": 0.01}
    config = train(optimizer=optimizer, learning_rate=0.02, min_learning_rate=0.002, rates=rates)
    model = make_model(MODELS[-1], 300)
    optimizers = make_optimizers(model, config)
    set_learning_rate(optimizers, 0.005, config)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[p]: group["lr"] for each in optimizers for group in each.param_groups for p in group["params"]}
    expected = {
        "embedding.weight": 0.05,
        "head.weight": 0.001,
        "final_norm.weight": 0.0025,
        "blocks.0.gate.weight": 0.005,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_muon_moves_a_matrix_by_an_orthogonal_one() -> None:
    torch.manual_seed(0)
    model = make_model(MODELS[-1], 300)
    tokens = torch.randint(300, (2, 9))
    # Of the first weights the projections into the residual stream are zero, so that nothing reaches q.
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    before = model.blocks[0].attention.q.weight.detach().clone()
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    for optimizer in make_optimizers(model, train(optimizer="muon", learning_rate=0.5, weight_decay=0.0)):
        optimizer.step()
    values = torch.linalg.svdvals((before - model.blocks[0].attention.q.weight) / 0.5)
    assert ((values > 0.3) & (values < 1.3)).float().mean() > 0.8, values


def test_muon_in_fp32_is_that_of_torch_but_for_the_rounding() -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(shape) for shape in ((16, 16), (40, 16), (16, 40))]
    both = []
    for muon in (Muon, torch.optim.Muon):
        parameters = [torch.nn.Parameter(matrix.clone()) for matrix in matrices]
        optimizer = muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
        draw = torch.Generator().manual_seed(1)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=draw)
            optimizer.step()
        both.append((parameters, optimizer.state_dict()))
    (ours, state), (theirs, their_state) = both
    for matrix, a, b in zip(matrices, ours, theirs, strict=True):
        assert (a - b).norm() < 0.02 * (a - matrix).norm()
    assert state["param_groups"] == their_state["param_groups"]
    torch.testing.assert_close(state["state"], their_state["state"])
