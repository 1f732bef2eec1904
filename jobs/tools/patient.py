"""What a drill does to a training, and the training that it is done to."""

import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from jobs import ledger
from jobs.pipeline import read_done
from jobs.slurm import commands
from jobs.status.tables import progress_line
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag

POLL_SECONDS = 0.2
QUEUE_SECONDS = 5.0
"""How often Slurm is asked whether the job is still there."""

NEVER, NEVER_ALONE = r"PerJob|Partition(Node|Time)Limit|BadConstraints|Invalid", "PerUser"
"""Slurm's reasons for a job that waits and will not start: whatever ends; if nothing else of ours runs."""

STEPS_BEFORE = 50
"""New steps that an attempt takes before it is disturbed: it has advanced, and has something to lose."""

Attempt = dict[str, Any]  # as the ledger's `current` tells it: job, node, pid, token, …


@dataclass(frozen=True)
class Event:
    """Something that ends an attempt."""

    what: str
    provoke: Callable[[Attempt], object]
    saves: bool
    """Whether the training learns of it in time for a checkpoint; else up to one checkpoint interval is lost."""
    repair: Callable[[Attempt], object] | None = None
    """What to do once the attempt is over."""


def kill_rank_0(attempt: Attempt) -> None:
    """SIGKILL to one process of the job, from its own node."""
    step = ["--overlap", f"--jobid={attempt['job']}", f"--nodelist={attempt['node']}", "--nodes=1", "--ntasks=1"]
    _slurm("srun", *step, "--gres=none", "--mem=0", "--immediate=60", "kill", "-KILL", str(attempt["pid"]))


def lower_limit(attempt: Attempt, seconds: int = 120) -> None:
    """Leave the job so many seconds. As short, in whole minutes, is its limit when it is requeued: only operators raise
    limits."""
    _slurm("scontrol", "update", f"jobid={attempt['job']}", f"EndTime=now+{seconds}")


EVENTS = (
    Event("signal USR2", lambda attempt: _slurm("scancel", "--signal=USR2", attempt["job"]), saves=True),
    Event("signal TERM", lambda attempt: _slurm("scancel", "--signal=TERM", attempt["job"]), saves=True),
    Event("requeue", lambda a: _slurm("scontrol", "requeue", a["job"]), saves=True),
    Event("rank killed", kill_rank_0, saves=False),
    # The step, not the job: the signal to a whole job also cancels it.
    Event("ranks killed", lambda a: _slurm("scancel", "--signal=KILL", f"{a['job']}.0"), saves=False),
    Event("time limit", lower_limit, saves=True),
)


def _slurm(*command: str) -> None:
    try:
        patience = 2 * commands.COMMAND_SECONDS
        subprocess.run(command, env=commands.own_variables(), check=True, capture_output=True, timeout=patience)
    except subprocess.CalledProcessError as error:
        raise EventFailedError(
            f"{command[0]}: {commands.sbatch_message(error.stderr.decode('utf-8', 'replace'))}"
        ) from None
    except (OSError, subprocess.TimeoutExpired):
        raise EventFailedError(f"{command[0]} does not answer") from None


def _never_starts(reason: str) -> bool:
    if NEVER_ALONE in reason:
        return commands.ask("squeue", "-h", "--me", "--states=running,completing", "-o", "%i") == ""
    return re.search(NEVER, reason) is not None


class EventFailedError(Exception):
    """Slurm did not let us do this to the job."""


class ChainStoppedError(Exception):
    """The job has left the queue, and what was waited for has not come."""


class Endured(NamedTuple):
    event: Event
    attempt: int
    at: float
    problem: str = ""


class Patient:
    """A training in a Slurm job that things are done to."""

    def __init__(
        self,
        run: RunDirectory,
        patience: float | None = None,
        stop: StopFlag | None = None,
        show: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`patience` bounds each wait, in seconds; a `stop` ends it. `show` is given what is waited for, and where the
        training is."""
        self.run, self.patience, self.stop, self.show = run, patience, stop or StopFlag(), show

    def endure(self, event: Event) -> Endured:
        """Let it train for a while, do it, and wait until the attempt has its line in the ledger (for the loss of a
        node: until the next one has begun).

        Raises:
            ChainStoppedError: it does not train any more.
            Stopped: asked to stop.
        """
        attempt = self.until(self.training, f"a step before: {event.what}")
        at = time.time()
        try:
            event.provoke(attempt)
        except EventFailedError as error:
            return Endured(event, attempt["attempt"], at, str(error))

        def over() -> bool:
            return any(line["token"] == attempt["token"] for line in ledger.attempts(self.run, "pretrain"))

        self.until(over, f"the end of the attempt after: {event.what}")
        if event.repair:
            event.repair(attempt)
        return Endured(event, attempt["attempt"], at)

    def training(self) -> Attempt | None:
        """The attempt that is under way and has taken STEPS_BEFORE new steps."""
        attempt, lines = ledger.current(self.run, "pretrain"), ledger.attempts(self.run, "pretrain")
        progress = ledger.progress(self.run, "pretrain")
        if attempt is None or progress is None or any(line["token"] == attempt["token"] for line in lines):
            return None
        furthest = max((line["last_step"] or 0 for line in lines), default=0)
        new = progress["time"] > attempt["started"] and progress["completed"] >= furthest + STEPS_BEFORE
        return attempt if new else None

    def finish(self, stages: Iterable[str] = ("pretrain", "validate", "benchmark")) -> None:
        """Wait until the stages are done. Raises ChainStoppedError if one ends otherwise."""
        for stage in stages:
            self.until(partial(read_done, self.run, stage), f"the end of {stage}", stage)

    def until(self, condition: Callable[[], Any], what: str, stage: str = "pretrain") -> Any:
        """Poll until `condition()` is true; its value. Raises ChainStoppedError, Stopped."""
        started = asked = time.monotonic()
        while not (value := condition()):
            self.stop.check()
            progress = ledger.progress(self.run, stage)
            self.show(f"waiting for {what}" + (f" ({progress_line(progress)})" if progress else ""))
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            if now - asked > QUEUE_SECONDS:
                asked = now
                job = commands.submitted_jobs(self.run).get(stage, "")
                there = commands.queued([job])
                if there == {} and not (value := condition()):
                    raise ChainStoppedError(f"waiting for {what}: the job of {stage} is over; {self._last_word(stage)}")
                if value:
                    return value
                if there and _never_starts(reason := there[job]["reason"]):
                    raise ChainStoppedError(f"waiting for {what}: the job of {stage} cannot start: {reason}")
            if self.patience is not None and now - started > self.patience:
                raise ChainStoppedError(f"waiting for {what}: not within {self.patience:g} s")
        return value

    def _last_word(self, stage: str) -> str:
        lines = ledger.attempts(self.run, stage) or ledger.attempts(self.run)[-1:]  # or a stage before it failed
        ending = lines[-1] if lines else {"ended": "it never began", "message": "", "gave_up": ""}
        words = [ending["ended"], ending["message"], ending["gave_up"], f"log: {self.run.log(stage)}"]
        return "; ".join(word for word in words if word)
