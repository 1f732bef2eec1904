"""The drill: a tiny chain on the user's own cluster, whose training is signalled, requeued, killed and brought to its
time limit in earnest, goes on on other numbers of ranks, and the same training once more, left alone.

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
from jobs.launch.busy import cancel
from jobs.launch.order import Order
from jobs.launch.submit import submit
from jobs.presets import CONFIGS
from jobs.slurm import commands
from jobs.slurm.cluster import Cluster, Retries, StageResources
from jobs.tools.patient import EVENTS, Attempt, ChainStoppedError, Endured, Event, Patient
from jobs.tools.ranks import named, orders_on, ranks_of, with_ranks
from jobs.tools.recovery import complaints, differences, digest, late_or_repeated, ranks_in_order, recoveries, table
from sllm.config import load_experiment
from sllm.errors import Stopped, UserError
from sllm.progress import format_seconds
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag, stop_on_signals

CONFIG = CONFIGS / "drill.yaml"

CRED_EXPIRE_SECONDS, AWAY_SECONDS, AROUND_SECONDS = 120, 30, 360
"""Slurm's default delay before a requeued job starts; from there to STEPS_BEFORE new steps, measured on two busy cores;
and all the rest, with steps of 10 ms: two minutes of a lowered time limit, the stages before and after, the undisturbed
training."""

SURVIVED = "every step once, losses and weights bit for bit those of the undisturbed training, dependents once"


def drill(
    cluster: Cluster,
    overrides: Sequence[str],
    console: Console,
    events: Sequence[Event] = EVENTS,
    ranks: Sequence[int] | None = None,
) -> tuple[RunDirectory, list[str]]:
    """Submit the chain of configs/drill.yaml, do `events` to its training on the first number of `ranks`, let it go on
    on the others, submit the same training once more as the profile has it and leave that alone; print what survived,
    also if it is asked to stop before. Whatever ends the drill cancels its jobs.

    Without `ranks`: the profile's own number, 1, its own again, twice as many; without those that cannot be.

    Returns the run and what did not survive, a line each.

    Raises:
        UserError: Slurm is not there or refuses a job, an override does not fit, or one of `ranks` cannot be.
    """
    say = partial(console.print, highlight=False, soft_wrap=True)
    commands.require_slurm()
    name = time.strftime("drill-%Y%m%d-%H%M%S")
    disturbed, alone = (load_experiment(CONFIG, [*overrides, f"name={it}"]) for it in (name, f"{name}-undisturbed"))
    profile, steps = _profile(cluster), disturbed.train.max_steps
    first, *others = orders = orders_on(disturbed, profile, ranks, say)
    undisturbed = Order(alone, with_ranks(profile, ranks_of(profile)), "slurm", until="pretrain")
    run, other = first.run, undisturbed.run
    asked = " → ".join(str(ranks_of(order.cluster)) for order in orders)
    started = time.monotonic()
    begins = f"{len(events)} events, ranks {asked}, then the same training left alone"
    ends = "Ctrl-C ends it and shows what is known by then."
    say(f"{begins}: {_expected(len(events), len(others))}. {ends}")
    endured: list[Endured] = []
    stopped = False
    try:
        with stop_on_signals() as stop, console.status("submitting") as shown:
            events = [*events, *(_change(order, stop) for order in others)]
            _submit(first, console)
            patient = Patient(run, stop=stop, show=shown.update)
            for event in events:
                endured.append(patient.endure(event))
                say(f"{format_seconds(time.monotonic() - started)}  {_over(run, endured[-1])} of {steps}")
            _submit(undisturbed, console)
            patient.finish()
            Patient(other, stop=stop, show=shown.update).finish(["pretrain"])
            problems = [*differences(run, other, steps), *late_or_repeated(run), *_on_other_ranks(run, asked)]
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
        say(f"[green]ok[/] one digest, {digest(run, steps)}: {SURVIVED}")
    say(f"Ranks: {ranks_in_order(run)}; left alone: {ranks_in_order(other)}")
    say(f"Run: {run.path}, took {format_seconds(time.monotonic() - started)}")
    return run, problems


def _change(order: Order, stop: StopFlag) -> Event:
    """End the training as `sllm cancel` does, and submit it again on another number of ranks."""

    def provoke(_: Attempt) -> None:
        try:
            jobs = list(commands.submitted_jobs(order.run).values())
            cancel(order.run)
            while commands.queued(jobs) != {}:  # as long as they end, a submit takes them for its own
                stop.check()
                time.sleep(1)
            _submit(order, Console(quiet=True))
        except UserError as error:
            raise ChainStoppedError(str(error)) from None

    return Event(f"to {named(ranks_of(order.cluster))}", provoke, saves=True)


def _submit(order: Order, console: Console) -> None:
    if submit(order, console) != 0:
        raise Stopped("while submitting")


def _over(run: RunDirectory, endured: Endured) -> str:
    step = (ledger.attempts(run, "pretrain") or [{}])[-1].get("last_step")
    return f"{endured.event.what}: attempt {endured.attempt} is over, at step {step}"


def _on_other_ranks(run: RunDirectory, asked: str) -> Iterator[str]:
    """Options of sbatch in the profile outdo its other keys."""
    if (on := ranks_in_order(run)) != asked:
        yield f"{run.name}: trained on ranks {on}, not {asked}"


def _cut_short(error: ChainStoppedError | Stopped, untried: Sequence[Event], steps: int) -> Iterator[str]:
    stopped = isinstance(error, Stopped)
    yield f"asked to stop ({error}) before the end" if stopped else str(error)
    if untried:
        longer = "" if stopped else f"; if the training was too short: train.max_steps={2 * steps}"
        yield f"not tried: {', '.join(event.what for event in untried)}{longer}"


def _expected(events: int, changes: int) -> str:
    """How long all that takes: most of it is Slurm's own delay before a requeued job may start."""
    found = re.search(r"cred_expire=(\d+)", commands.ask("scontrol", "show", "config") or "")
    delay = int(found[1]) if found else CRED_EXPIRE_SECONDS
    minutes = (events * delay + (events + changes) * AWAY_SECONDS + AROUND_SECONDS) / 60
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
