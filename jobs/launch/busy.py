"""What is at work on a run (jobs in the queue, a submit, processes whose submit is gone), and how it is ended."""

import platform
import signal
import time
from typing import Any

from jobs import ledger
from jobs.hints import command
from jobs.lock import lock_holder
from jobs.pipeline import STAGES, Keys, submitted_keys, whole_stage
from jobs.processes import local_processes, send_signal
from jobs.slurm import commands
from sllm.errors import UserError
from sllm.run_directory import RunDirectory

END_SECONDS = 90.0
"""So long a job that is cancelled may take to leave the queue: Slurm's default KillWait is half a minute."""


def cancel(run: RunDirectory) -> str:
    """End what works on the run: Slurm jobs, or the process of a local submit. Returns what was done.

    Raises:
        UserError: nothing is running, it runs on another machine, or Slurm does not answer.
    """
    live = commands.live_jobs(run)
    if live:
        commands.cancel_jobs([job for job, _ in live.values()])
        return "cancelled " + ", ".join(f"{stage} ({job})" for stage, (job, _) in live.items())
    holder, processes = lock_holder(run), local_processes(run)
    if holder is not None and holder["node"] != platform.node():
        raise UserError(f"{run.path}: `{holder['command']}` runs on {holder['node']}; cancel it there")
    if holder is not None:
        send_signal({holder["pid"]}, signal.SIGTERM)
        return f"asked process {holder['pid']} (`{holder['command']}`) to stop"
    if processes:
        send_signal(set(processes), signal.SIGTERM)
        return f"asked processes {_numbers(processes)}, whose submit is gone, to stop"
    elsewhere = [attempt["node"] for _, attempt in _left_open(run) if attempt["node"] != platform.node()]
    hint = f"; its last attempt began on {elsewhere[0]}, and whether it runs is known there" if elsewhere else ""
    raise UserError(f"{run.path}: nothing is queued or running{hint}")


def live_jobs(run: RunDirectory, keys: Keys) -> dict[str, tuple[str, str]]:
    """Stage → job id and state, of the run's Slurm jobs that are queued or running.

    Raises:
        UserError: they are of other settings than these, or Slurm does not say.
    """
    live = commands.live_jobs(run)
    if live and submitted_keys(run) != keys:
        raise UserError(f"{run.path}: jobs with other settings are in the queue; `{command('cancel', run)}` first")
    return live


def give_way(run: RunDirectory) -> None:
    """Cancel the last act of a chain of which nothing else is left in the queue, such as one that failed, and wait
    until it is gone: the chain that is to be submitted has its own.

    Raises:
        UserError: it does not end, or Slurm does not answer.
    """
    until = time.monotonic() + END_SECONDS
    cancelled = False
    while (live := commands.live_jobs(run)) and all(STAGES[whole_stage(name)].after for name in live):
        if not cancelled:
            commands.cancel_jobs([job for job, _ in live.values()])
        cancelled = True
        if time.monotonic() > until:
            raise UserError(f"{run.path}: still ending: {listed(live)}; try again in a minute")
        time.sleep(0.5)


def listed(live: dict[str, tuple[str, str]]) -> str:
    return ", ".join(f"{stage} {job} {state}" for stage, (job, state) in live.items())


def require_idle(run: RunDirectory, keys: Keys) -> None:
    """Raises UserError if something works on the run: jobs that are queued or running (or Slurm does not say), or
    processes."""
    give_way(run)
    if live := live_jobs(run, keys):
        raise UserError(f"{run.path}: in the queue: {listed(live)}; `{command('cancel', run)}` first")
    require_no_processes(run)


def require_no_processes(run: RunDirectory) -> None:
    """Raises UserError if processes of a submit that was killed work on the run; else writes down that they ended."""
    if processes := local_processes(run):
        raise UserError(
            f"{run.path}: processes {_numbers(processes)} still work on it, though their submit is gone; wait for "
            f"them, or end them with `{command('cancel', run)}`"
        )
    for name, attempt in _left_open(run):
        if attempt["node"] == platform.node():
            ledger.close(run, name)


def _left_open(run: RunDirectory) -> list[tuple[str, dict[str, Any]]]:
    """Stages with an attempt, not of Slurm, whose end nobody has written down."""
    attempts = ((name, ledger.open_attempt(run, name)) for name in STAGES)
    return [(name, attempt) for name, attempt in attempts if attempt and attempt["job"] is None]


def _numbers(processes: list[int]) -> str:
    return ", ".join(map(str, processes))
