"""The state of every stage of a run: what its files say and, for Slurm jobs, squeue and sacct."""

import platform
import time
from dataclasses import dataclass, replace
from typing import Any

from jobs import ledger
from jobs.lock import lock_holder
from jobs.pipeline import STAGES, Keys, read_done, whole_stage
from jobs.processes import local_processes
from jobs.slurm import commands
from sllm.files import fingerprint
from sllm.report.life import last_sign
from sllm.run_directory import RunDirectory

SIGN_OF_LIFE_SECONDS = 60.0
"""A stage whose progress was written within this time counts as alive when nobody can be asked."""

UNKNOWN = "unknown"


@dataclass(frozen=True)
class StageState:
    """`state` is done, running, pending, waiting, or how the last attempt ended."""

    name: str
    state: str
    attempts: list[dict[str, Any]]
    """Lines of the ledger under the present settings."""
    current: dict[str, Any] | None = None
    """The attempt that is running."""
    progress: dict[str, Any] | None = None
    done: dict[str, Any] | None = None
    job: str | None = None
    queue: dict[str, str] | None = None
    """What squeue says of the job, if it is queued or running."""

    @property
    def over(self) -> bool:
        """Nothing will change without a new submit. A job that squeue lists may go on, in whatever state it is:
        between two attempts it is completing, requeued or configuring."""
        alive = self.queue is not None or self.state in ("running", "waiting", UNKNOWN)
        return self.state == "done" or not alive

    @property
    def elapsed(self) -> float:
        """Seconds of all attempts, the present one among them."""
        past = sum(line["seconds"] for line in self.attempts)
        return past + (time.time() - self.current["started"] if self.current else 0)


def stage_states(run: RunDirectory) -> list[StageState]:
    """The state of every stage, from the run directory and, for Slurm jobs, from squeue and sacct as far as they
    answer. Before a stage that is not done come its job array, while it is in the queue, and the shares begun."""
    keys = ledger.read_or_none(run.path / "keys.json") or {}
    # An earlier version that submitted it may have had no report.
    stages = [name for name, stage in STAGES.items() if (name in keys if "benchmark" in keys else not stage.optional)]
    shares = {stage: _shares(run, stage) for stage in stages}
    jobs = commands.submitted_jobs(run)
    for share in (share for names in shares.values() for share in names):
        if record := ledger.read_or_none(run.stage(share) / "job.json", "job"):
            jobs[share] = record["job"]
    queue = commands.queued(list(jobs.values())) if jobs else {}
    gone = [] if queue is None else [job for job in jobs.values() if job not in queue]
    final = commands.final_states(gone)
    states = []
    for stage in stages:
        state, *of_shares = (
            _stage_state(run, name, keys, jobs.get(name), queue, final) for name in (stage, *shares[stage])
        )
        if state.state != "done":
            states += [share for share in of_shares if share.attempts or share.current or share.queue]
        states.append(state)
    return states


def _shares(run: RunDirectory, stage: str) -> list[str]:
    """Names of the stage's job array and of the shares that its tasks have begun."""
    suffixes = [path.suffix[1:] for path in run.stage(stage).parent.glob(f"{stage}.[0-9]*")]
    numbers = sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())
    return [f"{stage}.*", *(f"{stage}.{number}" for number in numbers)]


def _stage_state(
    run: RunDirectory,
    name: str,
    keys: Keys,
    job: str | None,
    queue: dict[str, dict[str, str]] | None,
    final: dict[str, str],
) -> StageState:
    found = _from_files(run, name, keys, job)
    if job is not None and queue and job in queue:
        state = queue[job]["state"].lower()
        return replace(found, state=state, queue=queue[job], current=found.current if state == "running" else None)
    if found.current and found.current["job"] is None and not _alive(run, found):
        # Nobody is left to write its line: the submit that started it is gone. What its ranks said holds.
        ending = ledger.ended(run, name, found.current["token"])
        found = replace(found, state=ending["cause"] if ending else ledger.KILLED, current=None)
        if not found.done:
            return found
    if found.current:
        return _begun(run, found, is_answered=queue is not None, final=final)
    return replace(
        found, state="done" if found.done else _last_state(found, is_answered=queue is not None, final=final)
    )


def _from_files(run: RunDirectory, name: str, keys: Keys, job: str | None) -> StageState:
    """What the files of the present settings say; `current` is an attempt whose end is not written down."""
    whole = whole_stage(name)
    expected = fingerprint(keys[whole]) if whole in keys else None
    current, done = ledger.open_attempt(run, name), read_done(run, name)
    return StageState(
        name,
        "waiting",
        ledger.attempts(run, name, expected),
        current if current and current["fingerprint"] == expected else None,
        ledger.progress(run, name),
        done if done and done["fingerprint"] == expected else None,
        job,
    )


def _begun(run: RunDirectory, found: StageState, *, is_answered: bool, final: dict[str, str]) -> StageState:
    """Of an attempt that has begun and not ended, in a job that is not in the queue, if Slurm has answered."""
    assert found.current is not None
    job = found.current["job"]
    if job is None:
        return replace(found, state="running")
    if is_answered:
        return replace(found, state=_in_words(final.get(job, "lost")), current=None)
    if _alive(run, found):
        return replace(found, state="running")
    return replace(found, state=UNKNOWN, current=None)


def _last_state(found: StageState, *, is_answered: bool, final: dict[str, str]) -> str:
    """Of a stage that is neither done nor in the queue, and whose last attempt, if there was one, is over."""
    job, lines = found.job, found.attempts
    if job is not None and all(line["job"] != job for line in lines):
        # Submitted, and neither queued nor ever begun: cancelled before, or because a stage before it failed.
        return _in_words(final.get(job, "gone")) if is_answered else UNKNOWN
    if not lines:
        return "waiting"
    if found.name != whole_stage(found.name) and lines[-1]["ended"] == ledger.FINISHED:
        return "done"
    if job is not None and is_answered and _goes_on(lines[-1]):
        # It was put back into the queue and has left it without another attempt: cancelled there, most often.
        return _in_words(final.get(job, "gone"))
    return str(lines[-1]["ended"])


def _in_words(state: str) -> str:
    return state.lower().replace("_", " ")


def _goes_on(line: dict[str, Any]) -> bool:
    """Whether the attempt's job was put back into the queue at its end."""
    over = (ledger.FINISHED, ledger.CANCELLED, ledger.STOPPED)
    return line["job"] is not None and line["ended"] not in over and not line["gave_up"]


def _alive(run: RunDirectory, found: StageState) -> bool:
    """Whether the attempt is running, as far as it can be seen from this machine."""
    holder, current = lock_holder(run), found.current
    assert current is not None
    if holder is not None and (holder["pid"], holder["node"]) == (current["pid"], current["node"]):
        return True
    if current["job"] is None and current["node"] == platform.node():
        return bool(local_processes(run))
    return time.time() - last_sign(run, found.name, current["started"]) < SIGN_OF_LIFE_SECONDS
