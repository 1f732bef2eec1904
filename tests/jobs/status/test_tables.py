"""What `sllm status` and `sllm logs` make of the files of a run, and of Slurm's words."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import sllm

from jobs import hints, ledger
from jobs.lock import lock
from jobs.pipeline import last_step
from jobs.slurm import commands
from jobs.slurm.cluster import Retries
from jobs.status.states import StageState, stage_states
from jobs.status.tables import run_table, runs_table, where_it_stands
from sllm.files import read_json, write_json
from sllm.run_directory import RunDirectory


def shown(renderable: Any, width: int = 120) -> str:
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of which the ledger knows nothing yet."""
    run = RunDirectory(tmp_path / "runs" / "mine")
    run.path.mkdir(parents=True)
    run.config.touch()
    write_json(run.path / "keys.json", {"pretrain": {}})
    return run


KEY = "44136fa355b3678a"  # the fingerprint of {}


@pytest.mark.parametrize("state", ["pending", "running", "completing", "configuring", "suspended", "requeued"])
def test_a_job_that_squeue_lists_is_not_over(state: str) -> None:
    queue = {"state": state.upper(), "reason": "None", "left": "", "start": "N/A", "node": "", "partition": ""}
    assert not StageState("pretrain", state, [], queue=queue).over
    assert StageState("pretrain", "done", [], queue=queue).over
    assert StageState("pretrain", "cancelled", []).over


@pytest.mark.parametrize(
    ("cause", "message", "told"),
    [
        (ledger.STOPPED, "SIGINT", "pretrain: stopped: Ctrl-C; log: "),
        (ledger.STOPPED, "SIGTERM", "pretrain: stopped: SIGTERM; log: "),
        (ledger.PREEMPTED, "SIGUSR2", "pretrain: preempted: SIGUSR2; log: "),
        (ledger.CANCELLED, "SIGTERM", "pretrain: cancelled: SIGTERM; log: "),
    ],
)
def test_ends_are_told_apart(run: RunDirectory, cause: str, message: str, told: str) -> None:
    ledger.begin(run, "pretrain", KEY, "token", ledger.SUBMITTED)
    ledger.end(run, "pretrain", "token", cause, message)
    ledger.close(run, "pretrain")
    assert told in shown(run_table(run))


def test_what_was_done_and_tried_with_other_settings_is_passed_over(run: RunDirectory) -> None:
    write_json(run.done("pretrain"), {"key": {"seed": 1}, "fingerprint": "other", "summary": {}})
    ledger.begin(run, "pretrain", "other", "token", ledger.SUBMITTED)
    ledger.end(run, "pretrain", "token", ledger.CRASH, "of before")
    ledger.close(run, "pretrain")
    (state,) = [state for state in stage_states(run) if state.name == "pretrain"]
    assert (state.state, state.attempts) == ("waiting", [])
    assert "of before" not in shown(run_table(run))


@pytest.mark.parametrize(("retries", "state"), [(Retries(killed=0), ledger.KILLED), (Retries(), "gone")])
def test_a_job_that_gave_up_is_no_job_that_is_gone(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, retries: Retries, state: str
) -> None:
    """Neither is in the queue; the other one was put back there, and somebody took it out."""
    monkeypatch.setattr(commands, "queued", lambda jobs: {})
    monkeypatch.setattr(commands, "final_states", lambda jobs: {})
    write_json(run.stage("pretrain") / "job.json", {"job": "7"})
    ledger.begin(run, "pretrain", KEY, "7-0", ledger.SUBMITTED, job="7")
    ledger.close(run, "pretrain", retries=retries)
    assert [found.state for found in stage_states(run) if found.name == "pretrain"] == [state]


def test_an_attempt_that_starts_says_from_where_and_for_how_long(run: RunDirectory) -> None:
    for name in ("step-00000028", "step-00000500-copy", "step-x"):
        (run.checkpoints / name).mkdir(parents=True)
    assert last_step(run) == 28
    with lock(run, run.path.parent / "data", "sllm submit mine"):  # what works on it is alive
        ledger.begin(run, "pretrain", KEY, "token", ledger.SUBMITTED)
        assert "pretrain  starting from step 28  0:0" in shown(run_table(run))

        progress = {"description": "pretrain", "completed": 30, "total": 300, "unit": "steps", "fields": {}}
        write_json(run.progress("pretrain"), {**progress, "seconds_left": 62, "time": time.time()})
        text = shown(run_table(run))
        assert "pretrain  30/300 steps  0:0" in text
        assert "elapsed, 1:02 left" in text
        (state,) = [state for state in stage_states(run) if state.name == "pretrain"]
        assert state.elapsed > 0
        assert "pretrain: running" in shown(runs_table(run.path.parent))


def test_a_requeued_job_that_slurm_has_started_is_not_in_the_queue(run: RunDirectory) -> None:
    """Python takes seconds until it says so in the ledger."""
    (run.checkpoints / "step-00000028").mkdir(parents=True)
    queue = {"state": "RUNNING", "reason": "None", "left": "", "start": "N/A", "node": "a", "partition": ""}
    before = [{"token": "7-0", "ended": ledger.PREEMPTED, "last_step": 28, "seconds": 3.0}]
    assert where_it_stands(run, StageState("pretrain", "pending", before, queue=queue)) == [
        "pretrain  saved at step 28, 0 steps lost; in the queue"
    ]
    assert where_it_stands(run, StageState("pretrain", "running", before, queue=queue)) == [
        "pretrain  starting from step 28"
    ]
    assert where_it_stands(run, StageState("pack", "running", [], queue=queue)) == ["pack  starting"]
    assert where_it_stands(run, StageState("pack.*", "running", [], queue=queue)) == []


def test_the_time_of_a_stage_is_that_of_all_its_attempts(run: RunDirectory) -> None:
    for token, seconds in (("a", 70), ("b", 3600), ("c", 5)):
        ledger.begin(run, "pretrain", KEY, token, ledger.SUBMITTED)
        attempt = run.stage("pretrain") / "attempt.json"
        write_json(attempt, {**read_json(attempt), "started": time.time() - seconds})
        ledger.end(run, "pretrain", token, ledger.PREEMPTED)
        ledger.close(run, "pretrain")
    (state,) = [state for state in stage_states(run) if state.name == "pretrain"]
    assert state.elapsed == pytest.approx(70 + 3600 + 5, abs=5)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([(1, 1)], ""),
        ([(None, None)], ""),
        ([(2, 1), (2, 1), (4, 2), (1, 1)], "2, 4 on 2 nodes, 1"),
        ([(None, None), (2, 2)], "2 on 2 nodes"),
        ([(ranks, 1) for ranks in (1, 2, 3, 4, 5, 6)], "…, 2, 3, 4, 5, 6"),
    ],
)
def test_on_how_many_ranks_the_attempts_ran(
    run: RunDirectory, sizes: list[tuple[int | None, int | None]], told: str
) -> None:
    """The last one is running."""
    with lock(run, run.path.parent / "data", "sllm submit mine"):
        for token, (ranks, nodes) in enumerate(sizes):
            ledger.begin(run, "pretrain", KEY, str(token), ledger.SUBMITTED)
            attempt = run.stage("pretrain") / "attempt.json"
            size = {} if ranks is None else {"ranks": ranks, "nodes": nodes}  # before it was written down
            write_json(attempt, {k: v for k, v in read_json(attempt).items() if k not in ("ranks", "nodes")} | size)
        header, *rows = shown(run_table(run)).splitlines()[1:]
    row = next(row for row in rows if row.startswith("pretrain"))
    assert ("ranks" in header) == bool(told)
    if told:
        assert row[header.index("ranks") : header.index("time")].strip() == told


def test_a_folder_that_is_no_share_is_passed_over(run: RunDirectory) -> None:
    (run.stage("pack").parent / "pack.3 (copy)").mkdir(parents=True)
    assert "pack.3" not in shown(run_table(run))


def test_no_runs_and_where_to_look_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status = sllm("status", cwd=tmp_path)
    assert status.returncode == 0
    start = hints.command("submit", "CONFIG")
    assert " ".join(status.stdout.split()).startswith(f"No runs in {tmp_path}/runs. Start one with `{start}`")


def test_a_finished_run_shows_loss_date_and_duration(finished: Any, place: Path) -> None:
    done = json.loads((place / "runs" / "tiny" / "stages" / "report" / "done.json").read_text(encoding="utf-8"))
    trained = json.loads((place / "runs" / "tiny" / "stages" / "pretrain" / "done.json").read_text(encoding="utf-8"))
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(done["finished"]))
    loss = f"{trained['summary']['best_validation_loss']:.3f}"
    for arguments, folder in ((["status"], place), (["status", place / "runs"], place.parent)):
        rows = [line.split() for line in sllm(*arguments, cwd=folder).stdout.splitlines()]
        (row,) = [row for row in rows if row and row[0] == "tiny"]
        assert row[:5] == ["tiny", "finished", loss, *when.split()]
        assert ":" in row[5]


def test_the_name_of_a_run_stays_in_one_piece(tmp_path: Path) -> None:
    """To be copied into the next command."""
    name = "korean-english-small-of-the-second-week"
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.yaml").touch()
    assert name in shown(runs_table(tmp_path), width=80)
