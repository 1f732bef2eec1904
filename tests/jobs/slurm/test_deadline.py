"""How much of a job's time is left for what the training is at, and for a checkpoint."""

import time
from pathlib import Path

import pytest

from jobs.slurm.attempt import Deadline
from jobs.slurm.cluster import load_cluster
from sllm.files import write_text
from sllm.records import append_jsonl
from sllm.run_directory import RunDirectory

PROFILE = "stages: {pretrain: {signal_seconds: 120}, pack: {signal_seconds: 30}}"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run, profile = RunDirectory(tmp_path / "run"), tmp_path / "profile.yaml"
    profile.write_text(PROFILE, encoding="utf-8")
    write_text(run.cluster, load_cluster(str(profile)).to_yaml())
    return run


def write(run: RunDirectory, kind: str, *seconds: float, time: float) -> None:
    for value in seconds:
        append_jsonl(run.metrics, {"kind": kind, "step": 1, "time": time, "seconds": value})


def test_the_profile_holds_until_all_is_measured(run: RunDirectory) -> None:
    deadline, now = Deadline(run, "pretrain"), time.time() + 1
    assert deadline.reserve() == 120
    write(run, "train", *[0.5] * 200, 0.7, time=now)
    assert deadline.reserve() == 120  # nobody knows yet what a save takes
    write(run, "checkpoint", 9.0, time=now)
    assert deadline.reserve() == 120
    write(run, "validation", 4.0, time=now)
    assert deadline.reserve() == 4.0 + 9.0
    write(run, "train", 6.0, 6.0, 6.0, time=now)
    assert deadline.reserve() == 6.0 + 9.0
    write(run, "validation", 1000.0, time=now)
    assert deadline.reserve() == 120 + 9.0  # most of it can be interrupted
    write(run, "checkpoint", 300.0, time=now)
    assert deadline.reserve() == 120 + 300.0


def test_what_takes_longer_than_the_profile_says_holds_at_once(run: RunDirectory) -> None:
    write(run, "train", 200.0, time=time.time())
    assert Deadline(run, "pretrain").reserve() == 200


def test_the_first_step_of_an_attempt_may_compile(run: RunDirectory) -> None:
    for kind in ("train", "validation", "checkpoint"):
        write(run, kind, 1.0, time=time.time() - 60)  # by the attempt before
    deadline = Deadline(run, "pretrain")
    assert deadline.reserve() == 120
    write(run, "train", 1.0, time=time.time() + 1)
    assert deadline.reserve() == 2


def test_other_stages_have_what_the_profile_says(run: RunDirectory) -> None:
    write(run, "train", 1.0, time=time.time())
    assert Deadline(run, "pack").reserve() == 30
