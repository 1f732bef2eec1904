"""One line for each attempt, whoever is left to write it, and when enough is enough."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs import ledger
from jobs.slurm.cluster import Retries
from sllm.files import write_json
from sllm.records import append_jsonl
from sllm.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def test_an_attempt_that_says_how_it_ends(run: RunDirectory) -> None:
    assert ledger.begin(run, "pack", "f", "a", "submitted") == 1
    assert ledger.end(run, "pack", "a", ledger.CRASH, "ValueError: no", "ValueError at pack.py:3")
    ledger.close(run, "pack")
    (line,) = ledger.attempts(run)
    assert (line["stage"], line["attempt"], line["began"]) == ("pack", 1, "submitted")
    assert (line["ended"], line["message"], line["where"]) == ("crash", "ValueError: no", "ValueError at pack.py:3")
    assert line["seconds"] >= 0


def test_closing_twice_writes_one_line(run: RunDirectory) -> None:
    assert ledger.close(run, "pack") is None
    ledger.begin(run, "pack", "f", "a", "submitted")
    assert ledger.close(run, "pack") is not None
    assert ledger.close(run, "pack") is None
    assert len(ledger.attempts(run)) == 1


def test_the_next_attempt_closes_one_that_was_killed(run: RunDirectory) -> None:
    """A process that is killed writes nothing: the line still gets there, with the steps it took."""
    script = f"""
import os, signal, time
from pathlib import Path
from jobs import ledger
from sllm.records import append_jsonl
from sllm.run_directory import RunDirectory
run = RunDirectory(Path({str(run.path)!r}))
ledger.begin(run, "pretrain", "f", "a", "submitted")
for step in (5, 6):
    append_jsonl(run.metrics, {{"kind": "train", "step": step, "time": time.time()}})
append_jsonl(run.metrics, {{"kind": "checkpoint", "step": 6, "seconds": 9.0, "stall": 0.5, "time": time.time()}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    append_jsonl(run.metrics, {"kind": "train", "step": 4, "time": time.time() - 60})  # of an attempt before
    done = subprocess.run([sys.executable, "-c", script])
    assert done.returncode == -9
    assert ledger.begin(run, "pretrain", "f", "b", "submitted") == 2
    (line,) = ledger.attempts(run, "pretrain")
    assert (line["token"], line["ended"], line["first_step"], line["last_step"]) == ("a", "killed", 5, 6)
    assert line["seconds_in_save"] == 0.5


def test_of_many_processes_the_first_says_why(run: RunDirectory) -> None:
    ledger.begin(run, "pretrain", "f", "a", "submitted")
    script = f"""
import sys
from pathlib import Path
from jobs import ledger
from sllm.run_directory import RunDirectory
print(ledger.end(RunDirectory(Path({str(run.path)!r})), "pretrain", "a", "crash", sys.argv[1]))
"""
    ranks = [
        subprocess.Popen([sys.executable, "-c", script, str(i)], stdout=subprocess.PIPE, text=True) for i in range(4)
    ]
    first = [i for i, rank in enumerate(ranks) if rank.communicate()[0].strip() == "True"]
    assert len(first) == 1
    ledger.close(run, "pretrain")
    assert ledger.attempts(run)[0]["message"] == str(first[0])


def test_attempts_are_counted_stage_by_stage_and_setting_by_setting(run: RunDirectory) -> None:
    told = []
    for number, (stage, settings) in enumerate([("pack", "f"), ("pack", "g"), ("download", "f"), ("pack", "f")]):
        attempt = ledger.begin(run, stage, settings, str(number), "requeued")
        line = ledger.close(run, stage, ledger.KILLED, Retries(killed=1))
        assert line is not None
        assert line["attempt"] == attempt
        told.append((stage, attempt, line["gave_up"]))
    gave_up = "killed 2 times, and the profile allows 1"
    assert told == [("pack", 1, ""), ("pack", 2, ""), ("download", 1, ""), ("pack", 3, gave_up)]


def test_the_ledger_is_read_again_when_it_has_changed_and_not_before(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = ledger.read_jsonl
    monkeypatch.setattr(ledger, "read_jsonl", lambda path, *keys: reads.append(path) or read(path, *keys))
    assert ledger.attempts(run) == []
    for number in range(1, 4):
        append_jsonl(run.ledger, {"stage": f"pack.{number}", "token": "t", "fingerprint": "f"})
        for share in range(1, number + 1):
            assert len(ledger.attempts(run, f"pack.{share}")) == 1
        assert len(ledger.attempts(run)) == number == len(reads)


def test_an_attempt_of_which_nobody_spoke_has_lasted_until_its_last_sign(run: RunDirectory) -> None:
    fields = {"description": "pack", "completed": 1, "total": 2, "unit": "MB", "fields": {}, "seconds_left": None}
    seconds = []
    for token, later in (("a", None), ("b", 5.0), ("c", None)):
        ledger.begin(run, "pack", "f", token, "submitted")
        started = (ledger.current(run, "pack") or {})["started"]
        if later is not None:
            write_json(run.progress("pack"), {**fields, "time": started + later})
        time.sleep(0.01)
        line = ledger.close(run, "pack")
        assert line is not None
        seconds.append(line["seconds"])
    assert seconds == [0, 5, 0]  # the last one has not said anything yet


def test_an_attempt_says_on_how_many_ranks_it_ran(run: RunDirectory) -> None:
    ledger.begin(run, "pretrain", "f", "a", "submitted", ranks=4, nodes=2)
    attempt = ledger.current(run, "pretrain")
    assert attempt is not None
    assert (attempt["ranks"], attempt["nodes"]) == (4, 2)
    ledger.close(run, "pretrain")
    older = {key: value for key, value in attempt.items() if key not in ("ranks", "nodes")}
    write_json(run.stage("pretrain") / "attempt.json", {**older, "token": "b"})  # begun before an update
    ledger.begin(run, "pretrain", "f", "c", "submitted")
    ledger.close(run, "pretrain")
    assert [(line["ranks"], line["nodes"]) for line in ledger.attempts(run)] == [(4, 2), (None, None), (1, 1)]


@pytest.mark.parametrize(("cause", "message"), [(ledger.KILLED, "raise memory"), (ledger.CRASH, "KeyError: 'a'")])
def test_a_hint_is_for_those_that_were_killed(run: RunDirectory, cause: str, message: str) -> None:
    ledger.begin(run, "pack", "f", "a", "submitted")
    ledger.end(run, "pack", "a", cause, "KeyError: 'a'")
    line = ledger.close(run, "pack", hint="raise memory")
    assert line is not None
    assert line["message"] == message
    assert [path.name for path in run.stage("pack").iterdir()] == ["attempt.json"]


# --- enough ---------------------------------------------------------------------------------------


def line(ended: str, last_step: int | None = None, *, began: str = "requeued", where: str = "") -> dict[str, Any]:
    return {
        "stage": "pretrain",
        "ended": ended,
        "last_step": last_step,
        "began": began,
        "where": where,
        "message": "m",
    }


def test_preemptions_are_free_while_steps_advance() -> None:
    lines = [line(ledger.PREEMPTED, step) for step in range(1, 101)]
    assert ledger.why_not_again(lines, Retries()) == ""


def test_attempts_without_a_new_step_are_counted_whatever_ended_them() -> None:
    lines = [line(ledger.PREEMPTED, 7), line(ledger.KILLED, 7), line(ledger.TIME_LIMIT, None)]
    assert ledger.why_not_again(lines, Retries(without_progress=3)) == ""
    lines.append(line(ledger.PREEMPTED, 5))
    assert ledger.why_not_again(lines, Retries(without_progress=3)).startswith("3 attempts in a row without a new step")
    lines.append(line(ledger.PREEMPTED, 8))
    assert ledger.why_not_again(lines, Retries(without_progress=3)) == ""


def test_each_cause_has_its_cap() -> None:
    lines = [line(ledger.KILLED, step) for step in (1, 2)]
    assert ledger.why_not_again(lines, Retries(killed=2)) == ""
    lines.append(line(ledger.KILLED, 3))
    assert ledger.why_not_again(lines, Retries(killed=2)) == "killed 3 times, and the profile allows 2"
    assert ledger.why_not_again([*lines, line(ledger.PREEMPTED, 4)], Retries(killed=2)) == ""


def test_the_same_crash_at_the_same_step_is_not_tried_a_third_time() -> None:
    first = line(ledger.CRASH, 7, where="ValueError at model.py:3")
    assert ledger.why_not_again([first], Retries(crash=9)) == ""
    elsewhere = line(ledger.CRASH, 8, where="ValueError at model.py:3")
    assert ledger.why_not_again([first, elsewhere], Retries(crash=9)) == ""
    assert ledger.why_not_again([first, elsewhere, first], Retries(crash=9)) == (
        "the same ValueError at model.py:3 twice, at step 7"
    )


@pytest.mark.parametrize("cause", [ledger.BAD_INPUT, ledger.GAVE_UP])
def test_what_the_next_attempt_would_meet_again_is_never_tried_again(cause: str) -> None:
    assert ledger.why_not_again([line(cause)], Retries()) == "m"


def test_a_stage_without_steps_is_not_to_blame_for_what_others_did_to_it() -> None:
    for cause in (ledger.PREEMPTED, ledger.NODE_FAILURE, ledger.SIGNALLED):
        assert ledger.why_not_again([{**line(cause), "stage": "pack"}] * 9, Retries()) == ""
    late = [{**line(ledger.TIME_LIMIT), "stage": "pack"}] * 3
    assert ledger.why_not_again(late, Retries(without_progress=3)).startswith("3 attempts in a row without a new step")


def test_a_new_submit_counts_from_the_start() -> None:
    submitted = line(ledger.KILLED, 3, began=ledger.SUBMITTED)
    lines = [submitted, *(line(ledger.KILLED, 3) for _ in range(8)), submitted]
    assert ledger.why_not_again(lines, Retries(killed=2, without_progress=5)) == ""
