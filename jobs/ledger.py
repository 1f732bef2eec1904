"""The ledger: one line for each attempt of a stage, with why it began, how it ended, and the steps between.

A process that is killed writes nothing, so an attempt leaves its marks in two files of its own: `attempt.json` when it
begins, and `ended-<token>.json` when one of its processes can still say why it ends (the first to say so is right: the
others only see that a peer is gone). Whoever is left, be it the process itself, the launcher, the batch script or the
next attempt, calls `close`, which writes the line.
"""

import logging
import os
import platform
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from jobs.pipeline import TRAININGS
from jobs.slurm.cluster import Retries
from sllm.files import CorruptError, read_object, to_json, write_json
from sllm.records import append_jsonl, read_jsonl
from sllm.report.life import last_sign, training_figures
from sllm.run_directory import RunDirectory

log = logging.getLogger(__name__)

# How an attempt ends.
FINISHED = "finished"
STOPPED = "stopped"  # asked to by a person: Ctrl-C, SIGTERM
PREEMPTED = "preempted"
TIME_LIMIT = "time limit"
NODE_FAILURE = "node failure"
CANCELLED = "cancelled"
SIGNALLED = "signal"  # by a person or a program other than Slurm, to a job
KILLED = "killed"  # without a word
CRASH = "crash"
BAD_INPUT = "bad input"  # a UserError
GAVE_UP = "gave up"  # began only to find that the attempts before it were enough

# Why an attempt begins, unless it is a requeue. The attempts are counted from the newest of these.
SUBMITTED = "submitted"


ATTEMPT = ("attempt", "token", "fingerprint", "why", "launched", "started", "node", "pid", "job")
PROGRESS = ("description", "completed", "total", "unit", "fields", "seconds_left", "time")


def _attempt_file(run: RunDirectory, stage: str) -> Path:
    return run.stage(stage) / "attempt.json"


def _ended_file(run: RunDirectory, stage: str, token: str) -> Path:
    return run.stage(stage) / f"ended-{token}.json"


def read_or_none(path: Path, *keys: str) -> dict[str, Any] | None:
    """The object with these keys in a JSON file, which may be missing or damaged (or, on a shared file system, half
    visible)."""
    try:
        return read_object(path, *keys)
    except (OSError, CorruptError):
        return None


def current(run: RunDirectory, stage: str) -> dict[str, Any] | None:
    """The stage's newest attempt, running or not: with the keys `ATTEMPT`, and on how many `ranks` and `nodes` it runs,
    unless it began before that was written down."""
    return read_or_none(_attempt_file(run, stage), *ATTEMPT)


def open_attempt(run: RunDirectory, stage: str) -> dict[str, Any] | None:
    """The newest attempt as long as its line is not written: it is running, or nobody was left to write it."""
    attempt = current(run, stage)
    if attempt is None or any(line["token"] == attempt["token"] for line in attempts(run, stage)):
        return None
    return attempt


def begin(
    run: RunDirectory,
    stage: str,
    fingerprint: str,
    token: str,
    why: str,
    job: str | None = None,
    launched: float | None = None,
    ranks: int = 1,
    nodes: int = 1,
) -> int:
    """Open an attempt and return its number, from 1. `token` is unique to it; from here on no other may write.

    `launched` is the Unix time at which its job left the queue, before this process began.
    """
    close(run, stage)
    run.progress(stage).unlink(missing_ok=True)
    number = 1 + sum(1 for line in attempts(run, stage))
    write_json(
        _attempt_file(run, stage),
        {
            "attempt": number,
            "token": token,
            "fingerprint": fingerprint,
            "why": why,
            "launched": launched,
            "started": time.time(),
            "node": os.environ.get("SLURMD_NODENAME", platform.node()) if job else platform.node(),
            "pid": os.getpid(),
            "job": job,
            "ranks": ranks,
            "nodes": nodes,
        },
    )
    return number


def end(run: RunDirectory, stage: str, token: str, cause: str, message: str = "", where: str = "") -> bool:
    """Say how the attempt ends. The first to say so wins: returns False if another process already has.

    `where` identifies a crash: the same exception from the same line has the same.
    """
    record = {"cause": cause, "message": message, "where": where, "time": time.time()}
    try:
        with _ended_file(run, stage, token).open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(to_json(record))
        return True
    except FileExistsError:
        return False
    except OSError as error:  # a full disk makes no crash of a stop; whoever closes the attempt may know its cause
        log.error("not written down how %s ends (%s): %s", stage, cause, error)
        return True


def ended(run: RunDirectory, stage: str, token: str) -> dict[str, Any] | None:
    """What `end` recorded for this attempt, or None."""
    return read_or_none(_ended_file(run, stage, token), "cause", "message", "where", "time")


def progress(run: RunDirectory, stage: str) -> dict[str, Any] | None:
    """Where the stage stood when it last said so; see `sllm.progress`."""
    return read_or_none(run.progress(stage), *PROGRESS)


def attempts(run: RunDirectory, stage: str | None = None, fingerprint: str | None = None) -> list[dict[str, Any]]:
    """The ledger's lines, oldest first."""
    return [
        line
        for line in _lines(run.ledger)
        if stage in (None, line["stage"]) and fingerprint in (None, line["fingerprint"])
    ]


def _lines(path: Path) -> tuple[dict[str, Any], ...]:
    """Of the ledger, which is parsed again only when it has changed: each of a thousand shares is looked up in it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())  # of the open file: on NFS a name's may be as they were a while ago
    except FileNotFoundError:
        return ()
    return _parsed(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _parsed(path: Path, *_: int) -> tuple[dict[str, Any], ...]:
    return tuple(read_jsonl(path, "stage", "token", "fingerprint"))


def close(
    run: RunDirectory, stage: str, silent_cause: str = KILLED, retries: Retries | None = None, hint: str = ""
) -> dict[str, Any] | None:
    """Write the line of the newest attempt, which is over. None if there is none, or its line is written already.

    `silent_cause` is the cause when none of its processes could say one. With `retries`, the line says in `gave_up`
    why the stage should not be tried again, if so. `hint` replaces the message of processes that were killed.
    """
    attempt = open_attempt(run, stage)
    if attempt is None:
        return None
    token = attempt["token"]
    silent_since = last_sign(run, stage, attempt["started"])
    ending = ended(run, stage, token) or {"cause": silent_cause, "message": "", "where": "", "time": silent_since}
    line = {
        "stage": stage,
        "attempt": attempt["attempt"],
        "token": token,
        "fingerprint": attempt["fingerprint"],
        "job": attempt["job"],
        "node": attempt["node"],
        "ranks": attempt.get("ranks"),
        "nodes": attempt.get("nodes"),
        "began": attempt["why"],
        "ended": ending["cause"],
        "message": hint if hint and ending["cause"] == KILLED else ending["message"],
        "where": ending["where"],
        "launched": round(attempt.get("launched") or attempt["started"], 3),
        "started": round(attempt["started"], 3),
        "seconds": round(ending["time"] - attempt["started"], 3),
    }
    earlier = attempts(run, stage, attempt["fingerprint"])
    if stage in TRAININGS:
        line |= training_figures(run.training(stage).metrics, attempt, earlier[-1] if earlier else None)
    line["gave_up"] = why_not_again([*earlier, line], retries) if retries else ""
    append_jsonl(run.ledger, line)
    _ended_file(run, stage, token).unlink(missing_ok=True)
    return line


def why_not_again(lines: list[dict[str, Any]], retries: Retries) -> str:
    """Why a stage with these attempts should not be tried again; empty if it should.

    Counted from the newest submit: submitting again is a person's word that it is worth it.
    """
    newest = max((i for i, line in enumerate(lines) if line["began"] == SUBMITTED), default=0)
    lines = lines[newest:]
    last = lines[-1]
    cause = last["ended"]
    if cause == FINISHED:
        return ""
    if cause in (BAD_INPUT, GAVE_UP):
        return str(last["message"])
    cap = retries.cap(cause)
    count = sum(line["ended"] == cause for line in lines)
    if cap is not None and count > cap:
        return f"{cause} {count} times, and the profile allows {cap}"
    if cause == CRASH and any(_same_crash(line, last) for line in lines[:-1]):
        return f"the same {last['where']} twice, at step {last.get('last_step')}"
    fruitless = _fruitless(lines)
    if fruitless >= retries.without_progress:
        return f"{fruitless} attempts in a row without a new step, the last one ended by: {cause}"
    return ""


def _same_crash(line: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = ("ended", "where", "last_step")
    return all(line.get(key) == other.get(key) for key in keys)


def _fruitless(lines: list[dict[str, Any]]) -> int:
    """How many attempts at the end of the list have not gone beyond the steps before them.

    A stage without steps begins anew each time; that others were preferred to it is then nothing to count.
    """
    count, furthest = 0, 0
    for line in lines:
        step = line.get("last_step") or 0
        if step > furthest:
            count, furthest = 0, step
        elif line["stage"] in TRAININGS or line["ended"] not in (PREEMPTED, NODE_FAILURE, SIGNALLED):
            count += 1
    return count
