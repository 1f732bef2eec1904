"""How long a training is away when it is preempted, signalled, killed or loses its node: `python bench/preemption.py`.

Starts a private Slurm, trains the model of configs/drill.yaml on two ranks, and lets 20 events happen to it. Prints
the median and the worst of: event → checkpoint durable, queue, start-up, loading and the first step of the next
attempt, the sum of all, and the steps lost for each cause. The private cluster requeues after 6 s (a cluster's default
is 121 s); everything else is ours. Takes about five minutes on two cores. Needs Slurm's packages.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jobs import ledger
from jobs.launch.busy import cancel
from jobs.launch.order import Order
from jobs.launch.submit import submit
from jobs.slurm.cluster import load_cluster
from jobs.tools import dev_cluster
from jobs.tools.dev_cluster import DevCluster
from jobs.tools.drill import CONFIG
from jobs.tools.patient import EVENTS, Event, Patient
from jobs.tools.recovery import Recovery, complaints, recoveries, table
from sllm.config import load_experiment
from sllm.run_directory import RunDirectory

SIGNAL, TERMINATION, REQUEUE, ONE_KILLED, ALL_KILLED, _ = EVENTS
SPANS = {
    "event → checkpoint durable": "to_checkpoint",
    "queue": "in_queue",
    "start-up": "starting",
    "load": "loading",
    "first step": "first_step",
    "event → first new step": "total",
}


def events(cluster: DevCluster) -> list[Event]:
    """Twenty, each kind spread over the training."""
    preemption = Event("preemption", lambda _: cluster.preempt(), saves=True)
    loss = Event("node lost", lambda attempt: cluster.lose(attempt["node"]), saves=False)
    kills = [ONE_KILLED, ALL_KILLED, ONE_KILLED]
    rounds = [[preemption, SIGNAL, preemption, TERMINATION, preemption, kill] for kill in kills]
    return [*rounds[0], loss, *rounds[1], REQUEUE, *rounds[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, help="only so many of the events")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sllm-bench-") as place:
        os.chdir(place)
        with dev_cluster.running(Path(place) / "slurm") as cluster:
            os.environ.update(cluster.env)
            recovered, seconds = measure(cluster, arguments.first)
    console = Console(width=140)
    console.print(table(recovered))
    console.print(summary(recovered))
    console.print(losses(recovered))
    print(f"{len(recovered)} events in {seconds:.0f} s, load {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")


def measure(cluster: DevCluster, first: int | None) -> tuple[list[Recovery], float]:
    """Submit the chain up to its training and let the events happen to it; it is cancelled after the last."""
    changes = ["train.max_steps=1000000", "train.checkpoint.every=200", "runs_directory=runs", "data_directory=data"]
    experiment = load_experiment(CONFIG, changes)
    run, started = RunDirectory(experiment.run_path), time.monotonic()
    submit(Order(experiment, load_cluster("dev"), "slurm", until="pretrain"), Console(quiet=True))
    patient, endured = Patient(run), []
    for event in events(cluster)[:first]:
        endured.append(patient.endure(event))
        last = ledger.attempts(run, "pretrain")[-1]
        print(f"{len(endured)}. {event.what}: {last['ended']}", flush=True)
        if last["ended"] == ledger.NODE_FAILURE:
            cluster.start_slurmd(last["node"])
    patient.until(patient.training, "the last recovery")
    cancel(run)
    patient.until(lambda: len(ledger.attempts(run, "pretrain")) > len(endured), "the end")
    recovered = recoveries(run, endured)
    for complaint in complaints(recovered, experiment.train.checkpoint.every):
        print(f"bad: {complaint}")
    return recovered, time.monotonic() - started


def summary(recovered: list[Recovery]) -> Table:
    made = Table(title=f"Seconds, of {len(recovered)} events", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "median", "worst", "measured"):
        made.add_column(column, justify="right" if column else "left")
    for name, span in SPANS.items():
        seconds = [value for recovery in recovered if (value := getattr(recovery, span)) is not None]
        if seconds:
            made.add_row(name, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}", str(len(seconds)))
    return made


def losses(recovered: list[Recovery]) -> Table:
    made = Table(title="Steps lost", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("event", "median", "worst", "times"):
        made.add_column(column, justify="left" if column == "event" else "right")
    for what in dict.fromkeys(recovery.endured.event.what for recovery in recovered):
        lost = [r.steps_lost for r in recovered if r.endured.event.what == what and r.steps_lost is not None]
        if lost:
            made.add_row(what, f"{statistics.median(lost):g}", str(max(lost)), str(len(lost)))
    return made


if __name__ == "__main__":
    main()
