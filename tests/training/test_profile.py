"""The profile of one step."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sllm.artifacts import Artifacts
from sllm.config import Experiment, validate
from sllm.errors import UserError
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag
from sllm.training.loop import train as run_training


def test_the_step_that_is_asked_for_is_profiled_and_no_pickle_is_left(prepared: dict[str, Any], tmp_path: Path) -> None:
    train = {**prepared["train"], "max_steps": 3, "warmup_steps": 0, "profile": 2}
    experiment = validate(Experiment, {**prepared, "train": train, "runs_directory": str(tmp_path)}, "test")
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    assert run_training(experiment, run, Artifacts(experiment), StopFlag())["outcome"] == "finished"
    assert [str(path.relative_to(run.profile)) for path in sorted(run.profile.rglob("*"))] == [
        "step-00000002",
        "step-00000002/trace.json.gz",
    ]
    trace = json.loads(gzip.decompress((run.profile / "step-00000002" / "trace.json.gz").read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    whole = [name for name in names if name.startswith("Optimizer.step")]
    assert len(whole) == 1, "one step, from its beginning to its end"
    assert any("PiecewiseLoss" in name for name in names)


def test_a_profile_is_no_other_training(prepared: dict[str, Any]) -> None:
    keys = []
    for profile in (None, 2):
        values = {**prepared, "train": {**prepared["train"], "profile": profile}}
        keys.append(Artifacts(validate(Experiment, values, "test")).keys["pretrain"])
    assert keys[0] == keys[1]


def test_a_step_that_never_comes_is_an_error(prepared: dict[str, Any]) -> None:
    values = {**prepared, "train": {**prepared["train"], "profile": 100_000}}
    with pytest.raises(
        UserError, match=r"train.profile: 100000 is above max_steps \(\d+\); use a step of the training"
    ):
        validate(Experiment, values, "test")
