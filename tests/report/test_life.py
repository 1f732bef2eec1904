"""Where the seconds of a training went, computed by hand from ledgers written by hand."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm.files import fingerprint, write_json
from sllm.records import append_jsonl
from sllm.report.life import SPANS, read_life
from sllm.run_directory import RunDirectory, checkpoint_path

LINE = {"fingerprint": "f", "node": "n1", "nodes": 1, "message": "", "where": "", "gave_up": ""}


def line(number: int, launched: float, seconds: float, ended: str, **figures: Any) -> dict[str, Any]:
    """Of the ledger: an attempt that was launched then, started a second later, and lasted so long from there."""
    spans = {"seconds_starting": 3.0, "seconds_loading": 2.0, "seconds_validating": 4.0, "seconds_in_save": 1.0}
    about = {"stage": "pretrain", "attempt": number, "token": f"t{number}", "job": "7", "ranks": 2}
    began = "submitted" if number == 1 else "requeued"
    times = {"launched": launched, "started": launched + 1, "seconds": seconds}
    return {**LINE, **about, "began": began, "ended": ended, **times, **spans, **figures}


def write(tmp_path: Path, *lines: dict[str, Any], saved: int | None = None) -> RunDirectory:
    run = RunDirectory(tmp_path)
    for each in lines:
        append_jsonl(run.ledger, each)
    if saved is not None:
        checkpoint_path(run.checkpoints, saved).mkdir(parents=True)
    return run


def test_a_training_that_was_killed_once(tmp_path: Path) -> None:
    """Killed after step 30, it went on from step 20, on four ranks."""
    run = write(
        tmp_path,
        line(1, 1000, 99, "killed", first_step=1, last_step=30, seconds_training=60.0),
        line(2, 1150, 59, "finished", first_step=21, last_step=50, seconds_training=45.0, ranks=4),
        {**LINE, "stage": "validate", "token": "v", "started": 1300, "seconds": 30.0},
    )
    life = read_life(run)
    first, second = life.attempts
    assert (first.lost, second.lost, life.lost) == (10, 0, 10)
    assert first.seconds == {
        "starting": 3.0,
        "loading": 2.0,
        "training": 40.0,
        "lost": 20.0,
        "validating": 4.0,
        "saving": 1.0,
        "other": 30.0,
    }
    assert (first.allocated, second.allocated, second.in_queue) == (100.0, 60.0, 50.0)
    assert life.useful == 40.0 * 2 + 45.0 * 4
    assert life.allocated == 100.0 * 2 + 60.0 * 4
    assert life.goodput == 260 / 440
    assert life.goodput_of_wall_time == 85 / 210
    assert life.device_hours == (440 + 30) / 3600
    (interruption,) = life.interruptions()
    assert interruption.cause == "killed"
    assert interruption.seconds == 20 + 30 + 50 + 3 + 2
    assert interruption.device_seconds == (20 + 30) * 2 + (3 + 2) * 4


@pytest.mark.parametrize(("ended", "saved", "lost"), [("killed", 20, 10), ("preempted", 30, 0), ("finished", 20, 0)])
def test_the_last_attempt_has_lost_what_no_checkpoint_holds(tmp_path: Path, ended: str, saved: int, lost: int) -> None:
    life = read_life(
        write(tmp_path, line(1, 0, 9, ended, first_step=1, last_step=30, seconds_training=3.0), saved=saved)
    )
    assert life.lost == lost


def test_two_that_had_to_be_taken_again_by_one_without_steps_between(tmp_path: Path) -> None:
    none = {"first_step": None, "last_step": None, "seconds_training": 0.0}
    starts = {"seconds_starting": None, "seconds_loading": None, "seconds_validating": 0.0, "seconds_in_save": 0.0}
    run = write(
        tmp_path,
        line(1, 0, 49, "preempted", first_step=1, last_step=10, seconds_training=10.0),
        line(2, 50, 49, "killed", first_step=11, last_step=20, seconds_training=10.0),
        line(3, 100, 19, "crash", **none, **starts),
        line(4, 150, 49, "finished", first_step=6, last_step=20, seconds_training=15.0),
    )
    life = read_life(run)
    assert [attempt.lost for attempt in life.attempts] == [5, 10, 0, 0]
    assert life.attempts[2].seconds == dict.fromkeys(SPANS, 0.0) | {"starting": 20.0}
    assert life.useful == 2 * (5 + 15)


def test_one_that_is_running(tmp_path: Path) -> None:
    now = time.time()
    run = write(tmp_path, line(1, now - 200, 99, "preempted", first_step=1, last_step=10, seconds_training=50.0))
    about = {"attempt": 2, "token": "t2", "fingerprint": "f", "why": "requeued", "node": "n2", "job": "7", "ranks": 2}
    write_json(run.stage("pretrain") / "attempt.json", {**about, "launched": now - 50, "started": now - 49})
    append_jsonl(run.metrics, {"kind": "start", "step": 10, "time": now - 40, "seconds": 2.0, "device": "NVIDIA H100"})
    for step in (11, 12):
        append_jsonl(run.metrics, {"kind": "train", "step": step, "time": now - 42 + step, "seconds": 5.0})
    life = read_life(run)
    assert life.on_gpu
    assert (life.attempts[1].ended, life.attempts[1].steps) == (None, 2)
    assert life.useful == pytest.approx(2 * 60)
    assert life.allocated == pytest.approx(2 * 150, abs=10)
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write("damaged\n")
    assert read_life(run).useful == pytest.approx(2 * 60)


def test_one_that_is_gone_without_a_word_has_its_devices_no_longer(tmp_path: Path) -> None:
    """Its machine lost power a year ago, 90 s after the start, and nobody has gone on since."""
    begun = time.time() - 365 * 86400
    about = {"attempt": 1, "token": "t1", "why": "submitted", "node": "n2", "job": None, "ranks": 2}
    about["fingerprint"] = fingerprint({})
    run = write(tmp_path, saved=2)
    write_json(run.path / "keys.json", {"pretrain": {}})
    write_json(run.stage("pretrain") / "attempt.json", {**about, "launched": None, "started": begun})
    write_json(run.progress("pretrain"), {"description": "pretrain", "completed": 3, "time": begun + 90})
    for step in (1, 2, 3):
        append_jsonl(run.metrics, {"kind": "train", "step": step, "time": begun + 20 * step, "seconds": 20.0})
    life = read_life(run)
    (attempt,) = life.attempts
    assert (attempt.ended, attempt.lost) == ("silent", 1)
    assert life.allocated == pytest.approx(2 * 90)
    assert life.goodput == pytest.approx(40 / 90)


def test_a_run_without_a_training_and_one_of_an_earlier_version(tmp_path: Path) -> None:
    empty = read_life(RunDirectory(tmp_path / "none"))
    assert (empty.attempts, empty.goodput, empty.goodput_of_wall_time, empty.device_hours) == ([], None, None, 0)
    old = line(1, 0, 9, "finished", first_step=1, last_step=30)
    del old["launched"], old["seconds_validating"]
    life = read_life(write(tmp_path, old))
    assert (life.goodput, life.goodput_of_wall_time) == (None, None)
    assert life.device_hours == 2 * 9 / 3600


def test_a_former_training_does_not_count(tmp_path: Path) -> None:
    run = write(
        tmp_path,
        line(1, 0, 9, "finished", first_step=1, last_step=30, seconds_training=5.0, fingerprint="other"),
        line(2, 20, 9, "finished", first_step=1, last_step=30, seconds_training=8.0),
    )
    assert read_life(run).goodput == 0.8


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9), st.floats(0, 50), st.integers(1, 8)), max_size=6))
def test_what_is_useful_is_allocated(tmp_path_factory: pytest.TempPathFactory, ends: list[Any]) -> None:
    """Whatever the attempts: no second is counted twice, and every step of the training is kept once."""
    lines, begin = [], 1
    for number, (steps, lost, seconds, ranks) in enumerate(ends, 1):
        taken = {"first_step": begin if steps else None, "last_step": begin + steps - 1 if steps else None}
        lines.append(
            line(number, 1000 * number, 99 + seconds, "killed", **taken, seconds_training=seconds, ranks=ranks)
        )
        begin += max(0, steps - lost)
    life = read_life(write(tmp_path_factory.mktemp("run"), *lines, saved=begin - 1))
    assert sum(attempt.steps - attempt.lost for attempt in life.attempts) == begin - 1
    for attempt in life.attempts:
        assert attempt.seconds is not None
        assert sum(attempt.seconds.values()) == pytest.approx(attempt.allocated)
    assert life.goodput is None or 0 <= life.goodput <= 1
