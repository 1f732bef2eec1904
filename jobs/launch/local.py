"""The stages in this process, or one after the other as processes of this machine."""

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from rich.console import Console

from jobs import ledger
from jobs.launch.order import Order
from jobs.perform import new_token, run_here
from jobs.pipeline import Stage
from jobs.processes import local_processes, send_signal
from jobs.run import adopt_device, job, set_up_logging
from jobs.slurm.cluster import Resources
from jobs.slurm.commands import without_foreign_variables
from jobs.status.view import View, view
from sllm.errors import Stopped, UserError
from sllm.files import fingerprint
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag, signals_blocked

if TYPE_CHECKING:
    import submitit

POLL_SECONDS = 0.2


YEAR_MINUTES = 365 * 24 * 60


class StageFailedError(Exception):
    """A stage ended in an exception of ours or was killed; the message has been shown."""


def run_in_process(order: Order, console: Console, stop: StopFlag) -> None:
    set_up_logging()
    for step in order.plan():
        if step.done:
            console.print(f"{step.stage}: done", highlight=False)
            continue
        console.print(f"{step.stage}: {'; '.join(step.reasons)}", highlight=False, soft_wrap=True)
        stop.check()
        adopt_device(order.cluster.resources(step.stage.name).promised_device)
        run_here(step.stage, order.experiment, order.run, order.keys, stop, ledger.SUBMITTED)


def run_locally(order: Order, console: Console, stop: StopFlag) -> None:
    run, steps = order.run, order.plan()
    with view(run, steps, console) as shown:
        for step in steps:
            if step.done:
                continue
            stop.check()
            name, token, resources = step.stage.name, new_token(), order.cluster.resources(step.stage.name)
            key = fingerprint(order.keys[name])
            ledger.begin(run, name, key, token, ledger.SUBMITTED, ranks=resources.tasks_per_node)
            shown.start(step.stage)
            _wait(run, _start(run, step.stage, token, resources), stop, shown)
            # A rank that was told to stop before it could say anything has stopped, and was not killed.
            silent_cause = ledger.STOPPED if stop.requested else ledger.KILLED
            ending = ledger.close(run, step.stage.name, silent_cause)
            assert ending is not None, "a stage ended without an attempt"
            shown.end(step.stage, ending)
            if ending["ended"] == ledger.STOPPED or stop.requested:
                raise Stopped(stop.reason if stop.requested else ending["message"])
            if ending["ended"] == ledger.BAD_INPUT:
                raise UserError(ending["message"])
            if ending["ended"] != ledger.FINISHED:
                shown.fail(step.stage, ending)
                raise StageFailedError


def _start(run: RunDirectory, stage: Stage, token: str, resources: Resources) -> "submitit.Job[None]":
    """Start one process a rank through submitit, from the run's copy of the code."""
    import submitit
    from submitit.helpers import environment_variables

    cores = len(os.sched_getaffinity(0))
    threads = resources.cpus or max(1, cores // resources.tasks_per_node)
    executor = submitit.LocalExecutor(folder=run.stage(stage.name) / "submitit")
    executor.update_parameters(
        tasks_per_node=resources.tasks_per_node,
        gpus_per_node=0 if resources.device == "cpu" else resources.gpus,
        timeout_min=YEAR_MINUTES,
    )
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        # submitit counts from 0 if it is not told; its check lets numbers through, and no GPU-… or MIG-….
        executor.parameters["visible_gpus"] = given.split(",")
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(run.code), os.environ.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1",  # else the current folder, perhaps the very tree that is being edited, comes first
        "OMP_NUM_THREADS": threads,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port(),
    }
    # The ranks find what came while they started, and the process of submitit's between us and them, which would kill
    # them a second after a Ctrl-C in the terminal, never sees a signal.
    with signals_blocked(), without_foreign_variables(), environment_variables(**environment):
        return executor.submit(job, str(run.path), stage.name, token)


def _wait(run: RunDirectory, controller: "submitit.Job[None]", stop: StopFlag, shown: View) -> None:
    """Until every rank has ended, also when the process between us and them was killed. A stop is passed on to each
    of them, once; they save and leave."""
    told = set[int]()
    while not controller.done() or local_processes(run):
        if stop.requested:
            if not told:
                shown.note(f"{stop.reason}: stopping at the next safe point …")
            new = set(local_processes(run)) - told
            send_signal(new, signal.Signals[stop.reason])
            told |= new
        shown.refresh()
        time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
