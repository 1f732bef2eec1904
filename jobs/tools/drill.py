"""The drill: a tiny chain on the user's own cluster, whose training is signalled, requeued, killed and brought to its
time limit in earnest, and the same training once more, left alone.

What survived is judged by what stands in the run directories: every step once, the losses and final weights those of
the undisturbed training to the last bit, the dependents once and after its end. How long each recovery took is told by
the ledger.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from rich.console import Console

from jobs import ledger
from jobs.launch.order import Order
from jobs.launch.submit import submit
from jobs.presets import CONFIGS
from jobs.slurm import commands
from jobs.slurm.cluster import Cluster, Retries, StageResources
from jobs.tools.patient import EVENTS, ChainStoppedError, Endured, Event, Patient
from jobs.tools.recovery import complaints, differences, late_or_repeated, recoveries, table
from sllm.config import load_experiment
from sllm.errors import Stopped
from sllm.progress import format_seconds
from sllm.run_directory import RunDirectory
from sllm.stop import stop_on_signals

CONFIG = CONFIGS / "drill.yaml"

CRED_EXPIRE_SECONDS, AWAY_SECONDS, AROUND_SECONDS = 120, 30, 360
"""Slurm's default delay before a requeued job starts; from there to STEPS_BEFORE new steps; and all the rest: two
minutes of a lowered time limit, the stages before and after, the undisturbed training. Measured on two busy cores."""

SURVIVED = "every step once, losses and weights bit for bit those of the undisturbed training, dependents once"


def drill(
    cluster: Cluster, overrides: Sequence[str], console: Console, events: Sequence[Event] = EVENTS
) -> tuple[RunDirectory, list[str]]:
    """Submit the chain of configs/drill.yaml, do `events` to its training, submit the same training once more and
    leave that alone; print what survived, also if it is asked to stop before. Whatever ends the drill cancels its jobs.

    Returns the run and what did not survive, a line each.

    Raises:
        UserError: Slurm is not there or refuses a job, or an override does not fit.
    """
    say = partial(console.print, highlight=False, soft_wrap=True)
    name = time.strftime("drill-%Y%m%d-%H%M%S")
    disturbed = load_experiment(CONFIG, [*overrides, f"name={name}"])
    alone = load_experiment(CONFIG, [*overrides, f"name={name}-undisturbed"])
    run, other = RunDirectory(disturbed.run_path), RunDirectory(alone.run_path)
    profile, steps = _profile(cluster), disturbed.train.max_steps
    started = time.monotonic()
    say(
        f"{len(events)} events, then the same training left alone: {_expected(len(events))}. Ctrl-C ends it and shows "
        f"what is known by then."
    )
    endured: list[Endured] = []
    stopped = False
    try:
        with stop_on_signals() as stop, console.status("submitting") as shown:
            submit(Order(disturbed, profile, "slurm"), console)
            patient = Patient(run, stop=stop, show=shown.update)
            for event in events:
                endured.append(patient.endure(event))
                say(f"{format_seconds(time.monotonic() - started)}  {_over(run, endured[-1])} of {steps}")
            submit(Order(alone, profile, "slurm", until="pretrain"), console)
            patient.finish()
            Patient(other, stop=stop, show=shown.update).finish(["pretrain"])
            problems = [*differences(run, other, steps), *late_or_repeated(run)]
    except (ChainStoppedError, Stopped) as error:
        stopped = isinstance(error, Stopped)
        problems = list(_cut_short(error, events[len(endured) :], steps))
    finally:
        _cancel([run, other])
    recovered = recoveries(run, endured)
    # Who was stopped had no time to go on after the last event.
    problems += complaints(recovered[:-1] if stopped else recovered, disturbed.train.checkpoint.every)
    console.print(table(recovered))
    for problem in problems:
        say(f"[red]bad[/] {problem}")
    if not problems:
        say(f"[green]ok[/] {SURVIVED}")
    say(f"Run: {run.path}, took {format_seconds(time.monotonic() - started)}")
    return run, problems


def _over(run: RunDirectory, endured: Endured) -> str:
    step = (ledger.attempts(run, "pretrain") or [{}])[-1].get("last_step")
    return f"{endured.event.what}: attempt {endured.attempt} is over, at step {step}"


def _cut_short(error: ChainStoppedError | Stopped, untried: Sequence[Event], steps: int) -> Iterator[str]:
    stopped = isinstance(error, Stopped)
    yield f"asked to stop ({error}) before the end" if stopped else str(error)
    if untried:
        longer = "" if stopped else f"; if the training was too short: train.max_steps={2 * steps}"
        yield f"not tried: {', '.join(event.what for event in untried)}{longer}"


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
