"""bench/exact.py compares two ways of computing the same thing."""

import importlib
from pathlib import Path

import pytest
import torch

from sllm.artifacts import Artifacts
from sllm.distributed import World

ROOT = Path(__file__).parents[1]


def test_both_ways_take_the_same_step_but_for_the_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    bench = importlib.import_module("exact")
    experiment = bench.experiment_of("smoke", tmp_path, global_batch=4, micro_batch=1)
    world = World(0, 1, 0, torch.device("cpu"))
    exact, plain = (way(experiment, Artifacts(experiment), world) for way in bench.WAYS.values())
    for trainer in (exact, plain):
        for group in trainer.optimizers[0].param_groups:
            group["betas"], group["eps"] = (0.0, 0.0), 1.0  # plain descent: a small gradient is a small step
    taken = [(trainer, trainer.train_step(), trainer.train_step()) for trainer in (exact, plain)]
    figures = [[trainer.read(step, step.mine()) for step in steps] for trainer, *steps in taken]
    for first, second in zip(*figures, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)
        assert first["gradient_norm"] == pytest.approx(second["gradient_norm"], rel=1e-5)
    pairs = list(zip(exact.model.parameters(), plain.model.parameters(), strict=True))
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert not all(torch.equal(a, b) for a, b in pairs), "else nothing is shown by comparing them"
    assert set(bench.weights_of_a_training(experiment, world, 1)) == set(bench.seconds_of_a_step(experiment, world, 1))
