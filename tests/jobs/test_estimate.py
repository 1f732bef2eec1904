"""The time and the room that a run takes, beside what was measured of one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.describe import describe_experiment
from jobs.estimate import ASSUMED_SHARE, MEASURED, _between, gpu_kind, training_gpus, training_time
from jobs.presets import CONFIGS
from jobs.slurm.cluster import Resources
from sllm.config import Experiment, load_experiment
from sllm.gpus import PEAK_FLOPS
from sllm.model.size import checkpoint_bytes, flops_per_token

BENCHMARKS = Path(__file__).parents[2] / "docs" / "benchmarks"


def benchmark() -> dict[str, dict[str, Any]]:
    """By the name of a check: its figures, of the later run that has it."""
    runs = [json.loads((BENCHMARKS / f"gpu-2026-11-27-{run}.json").read_text("utf-8")) for run in ("first", "second")]
    return {check["name"]: check["figures"] for run in runs for check in run["checks"]}


def preset(name: str, *overrides: str) -> Experiment:
    return load_experiment(CONFIGS / f"{name}.yaml", overrides)


def hours(experiment: Experiment, gpus: tuple[int, int] = (1, 1), **which: Any) -> float:
    """GPU-hours, as a user reads them."""
    line = training_time(experiment, experiment.train.max_steps, [gpus], **which)
    return float(re.match(r"about ([\d,.]+) GPU-hours, ", line)[1].replace(",", ""))  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "micro_batch", "compiled", "check"),
    [
        ("default", 8, True, "speed default 8"),
        ("default", 16, True, "speed default 16"),
        ("default", 16, False, "speed default eager"),
        ("small", 8, True, "speed small 8"),
        ("small", 16, True, "speed small 16"),
    ],
)
def test_the_estimate_is_the_measured_step_times_the_steps(
    name: str, micro_batch: int, compiled: bool, check: str
) -> None:
    """What the bench timed is a step of four micro-batches."""
    measured = benchmark()[check]
    experiment = preset(
        name, f"train.micro_batch={micro_batch}", f"train.compile={compiled}".lower(), "train.max_steps=300000"
    )
    steps = experiment.train.max_steps * experiment.train.global_batch / (4 * micro_batch)
    assert hours(experiment) == pytest.approx(steps * measured["seconds"] / 3600, rel=0.01)
    speed = f"{round(measured['tokens_per_second'], -2):,.0f} tokens/s at micro-batch {micro_batch}"
    assert f"(measured on one H100: {speed})" in training_time(experiment, 1, [(1, 1)])


def test_every_figure_of_the_table_was_measured() -> None:
    speeds = {figures["tokens_per_second"] for figures in benchmark().values() if "mfu" in figures}
    assert {speed for row in MEASURED for speed in row.tokens_per_second.values()} == speeds


def test_between_two_measurements() -> None:
    """A third one, left out, is foretold."""
    (small,) = [row.tokens_per_second for row in MEASURED if len(row.tokens_per_second) == 3]
    foretold, low, high = _between({8: small[8], 32: small[32]}, 16)
    assert (low, high) == (8, 32)
    assert foretold == pytest.approx(small[16], rel=0.1)
    assert small[8] < _between(small, 12)[0] < small[16]
    assert _between(small, 20)[1:] == (16, 32)
    assert _between(small, 64)[1:] == (16, 32)
    assert 0 < _between(small, 1)[0] < small[8]
    line = training_time(preset("small", "train.micro_batch=12"), 1, [(1, 1)])
    assert "(from measurements on one H100 at micro-batches 8 and 16: " in line


def test_what_was_not_measured_is_assumed() -> None:
    default = preset("default", "tokenizer.vocab_size=64000", "train.max_steps=300000")
    flops = flops_per_token(default.model, 64_000) * 300_000 * 256 * 2048
    speed = f"{round(ASSUMED_SHARE * 989e12 / flops_per_token(default.model, 64_000), -2):,.0f} tokens/s"
    line = training_time(default, 1, [(1, 1)])
    assert line.endswith(f"(assumed: 30% of the peak of an H100, {speed})")
    assert hours(default) == pytest.approx(flops / (ASSUMED_SHARE * 989e12) / 3600, rel=0.01)
    assert hours(default, gpu="A100") == pytest.approx(hours(default) * 989 / 312, rel=0.01)
    assert "assumed" in training_time(preset("default"), 1, [(1, 1)], "A100"), "it was measured on another GPU"
    factors = {"precision=fp32": 2, "activation_checkpointing=true": 4 / 3, "precision=fp16": 1, "compile=false": 1.18}
    for changed, factor in factors.items():
        slower = preset("default", "tokenizer.vocab_size=64000", "train.max_steps=300000", f"train.{changed}")
        assert hours(slower) == pytest.approx(factor * hours(default), rel=0.01)
    muon = preset("default", "train.optimizer=muon")
    assert "(assumed: " in training_time(muon, 1, [(1, 1)]), "another optimizer"
    qwen3 = preset("default", "model.family=qwen3", "model.dropout=0")
    assert "(assumed: " in training_time(qwen3, 1, [(1, 1)]), "blocks of another family"
    tiny = training_time(preset("smoke"), 1, [(1, 1)])
    assert tiny == "not estimated: no model narrower than 512 was measured on a GPU"


def test_as_many_gpus_as_the_profile_takes() -> None:
    default = preset("default")
    (pair,) = training_gpus(Resources(gres="gpu:h100:2", tasks_per_node=2), "slurm")
    assert pair == (2, 2)
    assert "about 30 GPU-hours, 15 h on 2 GPUs (" in training_time(default, 30_000, [pair])
    elastic = Resources(gpus_per_node=2, tasks_per_node=2, nodes="1-4")
    few, many = training_gpus(elastic, "slurm")
    assert (few, many) == ((2, 2), (8, 8))
    assert "about 30 GPU-hours, 15 h on 2 GPUs, 3.8 h on 8 (" in training_time(default, 30_000, [few, many])
    assert training_gpus(elastic, "local") == [(2, 2)]
    assert training_gpus(elastic, "here") == [(1, 1)]
    (idle,) = training_gpus(Resources(gpus_per_node=4, tasks_per_node=2), "slurm")
    assert idle == (2, 4), "two are taken, and paid for, that compute nothing"
    assert "about 60 GPU-hours, 15 h on 4 GPUs (" in training_time(default, 30_000, [idle])
    (shared,) = training_gpus(Resources(gpus_per_node=1, tasks_per_node=2), "slurm")
    assert shared == (1, 1)
    assert training_gpus(Resources(device="gpu", tasks_per_node=4), "slurm") == [(4, 4)]
    assert training_gpus(Resources(device="cpu", gpus_per_node=2), "slurm") == []
    assert training_gpus(Resources(tasks_per_node=2), "local") == []
    assert "about 0.5 GPU-hours, 15 min on 2 GPUs (" in training_time(default, 500, [(2, 2)])


def test_the_kind_of_gpu_is_the_one_the_profile_names() -> None:
    kinds = [
        gpu_kind(Resources(gres="gpu:a100:4")),
        gpu_kind(Resources(gpus_per_node=2, constraint="ib&H200")),
        gpu_kind(Resources(sbatch=["--gpus=nvidia_l40s:2"])),
        gpu_kind(Resources(gres="gpu:2")),
    ]
    assert kinds == ["A100", "H200", "L40S", None]
    assert set(kinds) - {None} <= PEAK_FLOPS.keys()


def test_checkpoints_are_as_large_as_those_that_were_measured() -> None:
    for name in ("default", "small"):
        experiment = preset(name, "model.tie_embeddings=true", "train.rates={}")  # as it was then
        measured = benchmark()[f"checkpoint {name}"]["gigabytes"]
        size = checkpoint_bytes(experiment.model, experiment.train, experiment.tokenizer.vocab_size)
        assert size / 1e9 == pytest.approx(measured, rel=0.01)
    # The three newest, those of steps 5,000, 10,000 … 30,000, and the one that is being written.
    assert "\n# disk for run      10 checkpoints, the best model and its export take 44.2 GB\n" in describe_experiment(
        preset("default", "model.tie_embeddings=true", "train.rates={}")
    )
