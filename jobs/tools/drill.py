"""The drill: a tiny chain on the user's own cluster, whose training is signalled, requeued, killed and brought to its
time limit in earnest, and the same training once more, left alone.

What survived is judged by what stands in the run directories: every step once, the losses and final weights those of
the undisturbed training to the last bit, the dependents once and after its end. How long each recovery took is told by
the ledger.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from jobs import launch, ledger
from jobs.pipeline import read_done
from jobs.presets import CONFIGS
from jobs.slurm import commands
from jobs.slurm.cluster import Cluster, Retries, StageResources
from jobs.status import progress_line
from sllm.config import load_experiment
from sllm.errors import Stopped
from sllm.manifests import sha256
from sllm.progress import format_seconds
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag, stop_on_signals

CONFIG = CONFIGS / "drill.yaml"

POLL_SECONDS = 0.2
QUEUE_SECONDS = 5.0
"""How often Slurm is asked whether the job is still there."""

CRED_EXPIRE_SECONDS, AWAY_SECONDS, AROUND_SECONDS = 120, 30, 360
"""Slurm's default delay before a requeued job starts; from there to STEPS_BEFORE new steps; and all the rest: two
minutes of a lowered time limit, the stages before and after, the undisturbed training. Measured on two busy cores."""

STEPS_BEFORE = 50
"""New steps that an attempt takes before it is disturbed: it has advanced, and has something to lose."""


# --- what is done to a training -------------------------------------------------------------------

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
                if commands.queued([job]) == {} and not (value := condition()):
                    raise ChainStoppedError(f"waiting for {what}: the job of {stage} is over; {self._last_word(stage)}")
                if value:
                    return value
            if self.patience is not None and now - started > self.patience:
                raise ChainStoppedError(f"waiting for {what}: not within {self.patience:g} s")
        return value

    def _last_word(self, stage: str) -> str:
        lines = ledger.attempts(self.run, stage) or ledger.attempts(self.run)[-1:]  # or a stage before it failed
        ending = lines[-1] if lines else {"ended": "it never began", "message": "", "gave_up": ""}
        words = [ending["ended"], ending["message"], ending["gave_up"], f"log: {self.run.log(stage)}"]
        return "; ".join(word for word in words if word)


# --- what became of it ----------------------------------------------------------------------------


class Recovery(NamedTuple):
    """One event and what followed, in seconds. None where there was nothing to measure."""

    endured: Endured
    ended: str
    steps_lost: int | None
    to_checkpoint: float | None
    """From the event until its checkpoint was durable."""
    to_end: float | None
    """From the event until the attempt's end."""
    in_queue: float | None
    starting: float | None
    """From the job's launch until the checkpoint is read: shell, interpreter, imports, process group, model."""
    loading: float | None
    first_step: float | None
    total: float | None
    """From the event to the end of the next attempt's first step."""


def recoveries(run: RunDirectory, endured: Sequence[Endured]) -> list[Recovery]:
    """From the ledger and the metrics."""
    lines = {line["attempt"]: line for line in ledger.attempts(run, "pretrain")}
    saves = [record for record in read_jsonl(run.metrics) if record["kind"] == "checkpoint"]
    return [_recovery(each, lines.get(each.attempt), lines.get(each.attempt + 1), saves) for each in endured]


def _recovery(
    endured: Endured, before: dict[str, Any] | None, after: dict[str, Any] | None, saves: list[dict[str, Any]]
) -> Recovery:
    if endured.problem or before is None or after is None or after["first_step"] is None:
        ended = endured.problem or (before["ended"] if before else "?")
        return Recovery(endured, ended, *[None] * 8)
    end = before["started"] + before["seconds"]
    saved = [save["time"] for save in saves if endured.at <= save["time"] <= end + 1]
    limit = before["ended"] == ledger.TIME_LIMIT  # nobody can say when it was noticed
    to_end = None if limit else end - endured.at
    queue, starting, loading = after["seconds_in_queue"], after["seconds_starting"], after["seconds_loading"]
    to_first_step = after["seconds_to_first_step"]
    return Recovery(
        endured,
        before["ended"],
        steps_lost=before["last_step"] + 1 - after["first_step"],
        to_checkpoint=saved[-1] - endured.at if saved and endured.event.saves and not limit else None,
        to_end=to_end,
        in_queue=queue,
        starting=starting,
        loading=loading,
        first_step=to_first_step - starting - loading,
        total=(to_end or 0.0) + queue + to_first_step,
    )


def complaints(recovered: Sequence[Recovery], interval: int) -> Iterator[str]:
    """What should not have happened: an event that Slurm refused, or more steps lost than allowed."""
    for recovery in recovered:
        event = recovery.endured.event
        if recovery.endured.problem:
            yield f"{event.what}: could not be tried: {recovery.endured.problem}"
        elif recovery.steps_lost is None:
            yield f"{event.what}: the training did not go on"
        elif recovery.steps_lost > (0 if event.saves else interval):
            yield f"{event.what}: {recovery.steps_lost} steps were lost"


def differences(run: RunDirectory, other: RunDirectory, steps: int) -> Iterator[str]:
    """How the finished training of `steps` steps differs from the other: steps, losses and weights, bit for bit."""

    def losses(run: RunDirectory) -> list[tuple[int, float]]:
        return [(record["step"], record["loss"]) for record in read_jsonl(run.metrics) if record["kind"] == "train"]

    mine, theirs = losses(run), losses(other)
    if [step for step, _ in mine] != list(range(1, steps + 1)):
        yield f"{run.name}: metrics.jsonl does not have each of the steps 1 to {steps} once"
    if unequal := [step for (step, loss), (_, right) in zip(mine, theirs, strict=False) if loss != right]:
        yield f"{run.name}: the loss of step {unequal[0]} differs from that of {other.name}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        mine_, theirs_ = (each.checkpoints / f"step-{steps:08d}" / name for each in (run, other))
        if not (mine_.exists() and theirs_.exists() and sha256(mine_) == sha256(theirs_)):
            yield f"{run.name}: {name} of step {steps} differs from that of {other.name}"


def late_or_repeated(run: RunDirectory) -> Iterator[str]:
    """Whether validate and benchmark ran once each, after the training's end."""
    lines = ledger.attempts(run)
    end = max(line["started"] + line["seconds"] for line in lines if line["stage"] == "pretrain")
    for stage in ("validate", "benchmark"):
        mine = [line for line in lines if line["stage"] == stage]
        if [line["ended"] for line in mine] != [ledger.FINISHED]:
            yield f"{stage}: {len(mine)} attempts instead of one"
        elif mine[0]["started"] < end:
            yield f"{stage}: started before the end of the training"


def table(recovered: Sequence[Recovery]) -> Table:
    made = Table(box=None, padding=(0, 1, 0, 0), caption="lost: steps; the rest: seconds; -: nothing to measure")
    columns = ["event", "ended as", "lost", "saved", "ended", "queue", "start", "load", "step", "back"]
    for column in columns:
        made.add_column(column, justify="left" if column in columns[:2] else "right", overflow="fold")
    for recovery in recovered:
        lost = "-" if recovery.steps_lost is None else str(recovery.steps_lost)
        seconds = ["-" if value is None else f"{value:.1f}" for value in recovery[3:]]
        made.add_row(recovery.endured.event.what, recovery.ended, lost, *seconds)
    return made


# --- sllm drill -----------------------------------------------------------------------------------


def drill(
    cluster: Cluster, overrides: Sequence[str], console: Console, events: Sequence[Event] = EVENTS
) -> tuple[RunDirectory, list[str]]:
    """Submit the chain of configs/drill.yaml, do `events` to its training, submit the same training once more and
    leave that alone; print what survived, also if it is asked to stop before. Whatever ends the drill cancels its jobs.

    Returns the run and what did not survive, a line each.

    Raises:
        UserError: Slurm is not there or refuses a job, or an override does not fit.
    """
    name = time.strftime("drill-%Y%m%d-%H%M%S")
    experiment = load_experiment(CONFIG, [*overrides, f"name={name}"])
    alone = load_experiment(CONFIG, [*overrides, f"name={name}-undisturbed"])
    run, other = RunDirectory(experiment.run_path), RunDirectory(alone.run_path)
    profile, steps = _profile(cluster), experiment.train.max_steps
    endured: list[Endured] = []
    problems: list[str] = []
    stopped = False
    started = time.monotonic()
    console.print(
        f"{len(events)} events, then the same training left alone: {_expected(len(events))}. Ctrl-C ends it and shows "
        f"what is known by then.",
        highlight=False,
        soft_wrap=True,
    )
    try:
        with stop_on_signals() as stop, console.status("submitting") as shown:
            launch.submit(experiment, profile, "slurm", console=console)
            patient = Patient(run, stop=stop, show=shown.update)
            for event in events:
                endured.append(patient.endure(event))
                at = format_seconds(time.monotonic() - started)
                step = (ledger.attempts(run, "pretrain") or [{}])[-1].get("last_step")
                text = f"{at}  {event.what}: attempt {endured[-1].attempt} is over, at step {step} of {steps}"
                console.print(text, highlight=False)
            launch.submit(alone, profile, "slurm", until="pretrain", console=console)
            patient.finish()
            Patient(other, stop=stop, show=shown.update).finish(["pretrain"])
            problems += [*differences(run, other, steps), *late_or_repeated(run)]
    except (ChainStoppedError, Stopped) as error:
        stopped = isinstance(error, Stopped)
        problems.append(f"asked to stop ({error}) before the end" if stopped else str(error))
        if untried := [event.what for event in events[len(endured) :]]:
            longer = "" if stopped else f"; if the training was too short: train.max_steps={2 * steps}"
            problems.append(f"not tried: {', '.join(untried)}{longer}")
    finally:
        _cancel([run, other])
    recovered = recoveries(run, endured)
    judged = recovered[:-1] if stopped else recovered  # it had no time to go on after the last
    problems += complaints(judged, experiment.train.checkpoint.every)
    console.print(table(recovered))
    for problem in problems:
        console.print(f"[red]bad[/] {problem}", highlight=False, soft_wrap=True)
    if not problems:
        verdict = "every step once, losses and weights bit for bit those of the undisturbed training, dependents once"
        console.print(f"[green]ok[/] {verdict}", highlight=False, soft_wrap=True)
    took = format_seconds(time.monotonic() - started)
    console.print(f"Run: {run.path}, took {took}", highlight=False, soft_wrap=True)
    return run, problems


def _expected(events: int) -> str:
    """How long so many events take: most of it is Slurm's own delay before a requeued job may start."""
    found = re.search(r"cred_expire=(\d+)", commands.ask("scontrol", "show", "config") or "")
    delay = int(found[1]) if found else CRED_EXPIRE_SECONDS
    minutes = (events * (delay + AWAY_SECONDS) + AROUND_SECONDS) / 60
    return f"about {minutes:.0f} minutes, {events * delay / 60:.0f} of them Slurm's delay before a requeued job starts"


def _profile(cluster: Cluster) -> Cluster:
    """The profile with short time limits, and retries enough for all events."""
    names = {field: info.alias or field for field, info in StageResources.model_fields.items()}
    change = {"time_minutes": 30, "signal_seconds": 20, "retries": Retries()}
    stages = {field: cluster.resources(name).model_copy(update=change) for field, name in names.items()}
    return cluster.model_copy(update={"stages": cluster.stages.model_copy(update=stages)})


def _cancel(runs: Iterable[RunDirectory]) -> None:
    jobs = [job for run in runs for job in commands.submitted_jobs(run).values()]
    live = commands.queued(jobs)
    commands.cancel_jobs([job for job in jobs if live is None or job in live])  # None: a busy controller did not say
