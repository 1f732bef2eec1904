"""Run the stages of an experiment that are not done: plan → write → send."""

import sys
from pathlib import Path

from rich.console import Console

from jobs.hints import command_line
from jobs.launch.busy import give_way, live_jobs, require_idle, require_no_processes
from jobs.launch.local import StageFailedError, run_in_process, run_locally
from jobs.launch.machine import confirm_slow, require_machine, slow
from jobs.launch.order import Order
from jobs.launch.prepare import snapshot_code, write_submission
from jobs.launch.show import show_jobs, show_lines, show_nothing_to_do, show_page, show_queue, show_results
from jobs.lock import lock
from jobs.previous import confirm_moves, swap_training
from jobs.slurm.chain import submit_chain
from jobs.slurm.commands import require_slurm, without_foreign_variables
from sllm.errors import Stopped
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag, stop_on_signals
from sllm.terminal import outlive_readers

LiveJobs = dict[str, tuple[str, str]]


def submit(order: Order, console: Console) -> int:
    """Run what is not done. Returns the exit code: 0, 1 if a stage failed, 130 if it was asked to stop.

    Raises:
        UserError: anything wrong with the place or the input, or the answer was no. What was there is then unchanged.
    """
    _require_place(order)
    if all(step.done for step in order.plan()):
        show_nothing_to_do(order, console)
        return 0
    try:
        with stop_on_signals() as stop, lock(order.run, Path(order.experiment.data_directory), command_line()):
            if any(not step.done and not step.stage.after for step in order.plan()):
                give_way(order.run)
            live = live_jobs(order.run, order.keys)
            if live and not _is_incomplete(order, live):
                show_queue(order.run, live, console)
                return 0
            _confirm(order, live)
            stop.check()
            if not live:  # else its jobs keep the settings and the code that they were submitted with
                show_lines(_write(order), console)
            _send(order, live, console, stop)
    except Stopped as stopped:
        console.print(f"Stopped ({stopped}). The same command goes on from here.", highlight=False)
        return 130
    except StageFailedError:
        return 1
    if order.where != "slurm":
        show_results(order.run, console)
    return 0


def prepare(order: Order) -> RunDirectory:
    """Write the run directory that the scripts in sbatch/ work on, and submit nothing.

    Raises:
        UserError: anything wrong with the directory, the run is in the queue, or the answer was no.
    """
    with lock(order.run, Path(order.experiment.data_directory), command_line()):
        require_idle(order.run, order.keys)
        confirm_moves(order.run, order.keys, str(order.start), yes=order.yes)
        for line in filter(None, _write(order)):
            print(line, file=sys.stderr)  # standard output is for the path
    return order.run


# --- plan -----------------------------------------------------------------------------------------


def _require_place(order: Order) -> None:
    """Raises UserError if it cannot run where it should."""
    if order.where == "slurm":
        require_slurm()
    elif order.where == "local":
        require_machine(order)


def _is_incomplete(order: Order, live: LiveJobs) -> bool:
    """Whether a `resume` has jobs to add to those that are in the queue."""
    missing = any(not step.done and step.stage.name not in live for step in order.plan())
    return order.resume and order.where == "slurm" and missing


def _confirm(order: Order, live: LiveJobs) -> None:
    """Raises UserError if processes work on the run, or a person does not want what would take or move days of work."""
    require_no_processes(order.run)
    confirm_slow(slow(order), yes=order.yes)
    if not live:
        confirm_moves(order.run, order.keys, str(order.start), yes=order.yes)


# --- write ----------------------------------------------------------------------------------------


def _write(order: Order) -> list[str]:
    """Write down what is submitted. Returns a line for each training that moved for it, and where its own begins."""
    moves = swap_training(order.run, order.keys)
    order.start.begin()
    write_submission(order.run, order.experiment, order.keys, order.cluster, order.where)
    if order.where != "here":
        snapshot_code(order.run)
    return [*map(str, moves), str(order.start)]


# --- send -----------------------------------------------------------------------------------------


def _send(order: Order, live: LiveJobs, console: Console, stop: StopFlag) -> None:
    outlive_readers()  # else the lock would take the run back from jobs that are in the queue
    if order.where == "slurm":
        before = {stage: job for stage, (job, _) in live.items()}
        new = submit_chain(order.run, order.plan(), before, order.cluster.with_site_defaults(), stop)
        show_jobs(order.run, before, new, console)
        return
    try:
        if order.where == "here":
            with without_foreign_variables():  # this process alone, whatever torchrun it was started in
                run_in_process(order, console, stop)
        else:
            run_locally(order, console, stop)
    except Stopped:
        raise
    except Exception:
        if any(stage.after for stage in order.stages):
            _report_failure(order.run, console)
        raise


def _report_failure(run: RunDirectory, console: Console) -> None:
    """The last act of a chain that a failed stage has ended."""
    from sllm.card.text import refresh_card
    from sllm.report.page import write_report

    try:
        write_report(run)
        refresh_card(run)
        show_page(run, console)
    except Exception as error:  # the stage's own is what counts
        console.print(f"No report: {error}", highlight=False, markup=False, soft_wrap=True)
