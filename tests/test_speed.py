"""The benchmark measures what it says and writes what it returns."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sllm.artifacts import Artifacts
from sllm.benchmark import benchmark_stage
from sllm.config import Experiment
from sllm.device import peak_flops
from sllm.distributed import World
from sllm.errors import Stopped
from sllm.files import read_json
from sllm.gpus import PEAK_FLOPS
from sllm.inference.generator import next_tokens
from sllm.model.families import make_model
from sllm.model.size import flops_per_token
from sllm.model.storage import save_model
from sllm.run_directory import RunDirectory
from sllm.speed import measure_generation, measure_training
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.training.metrics import mfu
from sllm.training.trainer import TakenStep, Trainer

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU)


@pytest.fixture
def experiment(prepared: dict[str, Any]) -> Experiment:
    return Experiment.model_validate(prepared)


@pytest.fixture
def run(experiment: Experiment, tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    tokenizer = Artifacts(experiment).tokenizer / "tokenizer.json"
    save_model(directory.best, make_model(experiment.model, Tokenizer.load(tokenizer).vocab_size), tokenizer)
    return directory


def test_the_stage_writes_what_it_returns(experiment: Experiment, run: RunDirectory) -> None:
    results = benchmark_stage(experiment, run, Artifacts(experiment), StopFlag())
    assert read_json(run.stage("benchmark") / "results.json") == results
    assert [row["batch"] for row in results["generation"]] == [1, 2]
    table = (run.stage("benchmark") / "results.txt").read_text(encoding="utf-8")
    for row in results["generation"]:
        assert f"{row['decode_tokens_per_second']:,.0f}" in table
    assert f"{results['training']['tokens_per_second']:,.0f}" in table
    assert results["training"]["mfu"] is None, "the peak of a CPU is not known"


def test_a_stopped_stage_writes_nothing(experiment: Experiment, run: RunDirectory) -> None:
    with pytest.raises(Stopped):
        benchmark_stage(experiment, run, Artifacts(experiment), StopFlag(deadline=0.0))
    assert not run.stage("benchmark").exists()


class Clock:
    """A clock that only those who call `add` move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("sllm.speed.time.perf_counter", lambda: self.now)

    def add(self, seconds: float) -> None:
        self.now += seconds


def test_generation_is_measured_token_by_token(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three prompts of ten tokens, five times read in 6, 2, 3, 2 and 9 seconds; ten more tokens each time."""
    clock = Clock(monkeypatch)
    reading = iter([50.0, 6.0, 2.0, 3.0, 2.0, 9.0])  # the first to warm up

    def slowly(*arguments: Any) -> Iterator[Any]:
        for number, tokens in enumerate(next_tokens(*arguments)):
            clock.add(next(reading) if number == 0 else 2.0 if number == 10 else 0.5)
            yield tokens

    monkeypatch.setattr("sllm.speed.next_tokens", slowly)
    pieces: list[int] = []
    model = make_model(experiment.model, 512).eval()
    figures = measure_generation(model, 3, 10, 11, 5, after_each=lambda: pieces.append(1))
    assert len(pieces) == 5
    assert figures["prefill_tokens_per_second"] == pytest.approx(3 * 10 / 3)
    assert figures["first_token_ms"] == 3000
    assert figures["decode_tokens_per_second"] == pytest.approx(3 * 10 / (9 * 0.5 + 2))
    assert figures["token_p50_ms"] == pytest.approx(500)
    assert figures["token_p99_ms"] == pytest.approx(2000)


def test_training_is_measured_when_it_is_warm(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seconds, steps = Clock(monkeypatch), iter([30.0, 40.0, 1.0, 7.0, 2.0]), []
    step = Trainer.train_step

    def slowly(trainer: Trainer) -> TakenStep:
        clock.add(next(seconds))
        taken = step(trainer)
        steps.append(taken.step)
        return taken

    monkeypatch.setattr(Trainer, "train_step", slowly)
    training = measure_training(experiment, Artifacts(experiment), ALONE, 3)
    assert steps == [1, 2, 3, 4, 5]
    assert training["step_ms"] == pytest.approx(2000)
    assert training["tokens_per_second"] == pytest.approx(experiment.train.global_batch * 32 / 2)


def test_the_steps_that_are_measured_are_those_of_a_training(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On random numbers of its own, warmed up as a training is, and ended."""
    done: list[str] = []
    monkeypatch.setattr("sllm.speed.warm_up", lambda trainer: done.append(f"warm at {trainer.step}"))
    close = Trainer.close
    monkeypatch.setattr(Trainer, "close", lambda trainer: (done.append(f"closed at {trainer.step}"), close(trainer))[1])
    measure_training(experiment, Artifacts(experiment), ALONE, 2)
    assert done == ["warm at 0", "closed at 4"]


def test_one_new_token_has_no_decode_step(experiment: Experiment) -> None:
    figures = measure_generation(make_model(experiment.model, 512).eval(), 1, 4, 1, 1)
    assert "decode_tokens_per_second" not in figures


def test_measuring_training_leaves_the_random_numbers_alone(experiment: Experiment) -> None:
    state = torch.get_rng_state()
    measure_training(experiment, Artifacts(experiment), ALONE, 1)
    assert torch.equal(state, torch.get_rng_state())


def test_mfu_is_the_share_of_the_peak(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sllm.training.metrics.peak_flops", lambda device: PEAK_FLOPS["H100"])
    share = mfu(1e6, experiment.model, 512, CPU)
    assert share is not None
    assert math.isclose(share, 1e6 * flops_per_token(experiment.model, 512) / 989e12)


def test_the_peak_is_that_of_the_card_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(name: str) -> float | None:
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"NVIDIA {name}")
        return peak_flops(torch.device("cuda"))

    pcie, nvl, sxm = peak("H100 PCIe"), peak("H100 NVL"), peak("H100 80GB HBM3")
    assert pcie is not None
    assert nvl is not None
    assert sxm is not None
    assert pcie < nvl < sxm
    assert peak("GeForce GTX 1080") is None
