"""The benchmark measures what it says and writes what it returns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sllm.artifacts import Artifacts
from sllm.benchmark import benchmark_stage, measure_generation, measure_training, mfu
from sllm.checkpoint import save_model
from sllm.config import Experiment, flops_per_token
from sllm.errors import Stopped
from sllm.files import RunDirectory, read_json
from sllm.metrics import PEAK_FLOPS, peak_flops
from sllm.model import GPT
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def experiment(prepared: dict[str, Any]) -> Experiment:
    return Experiment.model_validate(prepared)


@pytest.fixture
def run(experiment: Experiment, tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    tokenizer = Artifacts(experiment).tokenizer / "tokenizer.json"
    save_model(directory.best, GPT(experiment.model, Tokenizer.load(tokenizer).vocab_size), tokenizer)
    return directory


def test_the_stage_writes_what_it_returns(experiment: Experiment, run: RunDirectory) -> None:
    results = benchmark_stage(experiment, run, Artifacts(experiment), StopFlag())
    assert read_json(run.stage("benchmark") / "results.json") == results
    assert [row["batch"] for row in results["generation"]] == [1, 2]
    table = (run.stage("benchmark") / "results.txt").read_text(encoding="utf-8")
    for row in results["generation"]:
        assert f"{row['decode_tokens_per_second']:,.0f}" in table
        assert row["token_p50_ms"] <= row["token_p99_ms"]
        # 7 of the 8 tokens are decode steps, and 4 of those take the median time or more.
        assert row["decode_tokens_per_second"] <= row["batch"] * 1000 / row["token_p50_ms"] * 7 / 4 * 1.001
    assert f"{results['training']['tokens_per_second']:,.0f}" in table
    assert results["training"]["mfu"] is None, "the peak of a CPU is not known"


def test_a_stopped_stage_writes_nothing(experiment: Experiment, run: RunDirectory) -> None:
    with pytest.raises(Stopped):
        benchmark_stage(experiment, run, Artifacts(experiment), StopFlag(deadline=0.0))
    assert not run.stage("benchmark").exists()


def test_figures_agree_with_each_other(experiment: Experiment) -> None:
    pieces = []
    model = GPT(experiment.model, 512).eval()
    figures = measure_generation(model, 3, 10, 5, 2, after_each=lambda: pieces.append(1))
    assert len(pieces) == 2
    assert figures["prefill_tokens_per_second"] * figures["first_token_ms"] == pytest.approx(3 * 10 * 1000)
    training = measure_training(experiment.model, experiment.train, 512, 3, CPU)
    tokens = experiment.train.micro_batch * experiment.model.context_length
    assert training["tokens_per_second"] * training["step_ms"] == pytest.approx(tokens * 1000)  # type: ignore[operator]


def test_one_new_token_has_no_decode_step(experiment: Experiment) -> None:
    figures = measure_generation(GPT(experiment.model, 512).eval(), 1, 4, 1, 1)
    assert "decode_tokens_per_second" not in figures


def test_measuring_training_leaves_the_random_numbers_alone(experiment: Experiment) -> None:
    state = torch.get_rng_state()
    measure_training(experiment.model, experiment.train, 512, 1, CPU)
    assert torch.equal(state, torch.get_rng_state())


def test_mfu_is_the_share_of_the_peak(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sllm.benchmark.peak_flops", lambda device: PEAK_FLOPS["H100"])
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
