"""Where a run stands, as `sllm status` shows it: its stages, attempts and figures."""

import os
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs import ledger
from jobs.hints import command
from jobs.lock import ROOM
from jobs.pipeline import TRAININGS, last_step, read_done
from jobs.runs import runs_in
from jobs.slurm.commands import time_of
from jobs.status.results import results_table
from jobs.status.states import UNKNOWN, StageState, stage_states
from sllm.progress import format_amount, format_seconds
from sllm.report.life import read_life
from sllm.run_directory import RunDirectory

MOST_SIZES = 5
"""So many changes of the number of ranks are shown."""


def runs_table(directory: Path) -> RenderableType:
    """The runs in a directory: where each stands or, once finished, its validation loss, when that was and how long
    its stages took."""
    runs = runs_in(directory)
    if not runs:
        return Text(
            f"No runs in {directory.absolute()}. Start one with `{command('submit', 'CONFIG')}`; of runs elsewhere: "
            f"`{command('status', 'DIRECTORY')}`."
        )
    table = _table("run", "state", "loss", "finished", "time", "where it stands")
    for run in runs:
        states = stage_states(run)
        to_do = [state for state in states if state.state != "done"]
        now = next((state for state in to_do if state.state == "running"), to_do[0] if to_do else None)
        state = "finished" if now is None else f"{now.name}: {now.state}"
        ends = [state.done["finished"] for state in states if state.done]
        finished = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(ends))) if now is None else ""
        seconds = sum(state.elapsed for state in states)
        stands = "" if now is None else "; ".join(where_it_stands(run, now))
        table.add_row(run.name, state, _loss(run), finished, format_seconds(seconds) if seconds else "", stands)
    return table


def _loss(run: RunDirectory) -> str:
    """The best validation loss of a finished training."""
    done = read_done(run, "pretrain")
    loss = done["summary"].get("best_validation_loss") if done else None
    return "" if loss is None else f"{loss:.3f}"


def run_table(run: RunDirectory) -> RenderableType:
    """Every stage with its state, its attempts and where it stands; below, what went wrong last."""
    states = stage_states(run)
    rows = [_row(state) for state in states]
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    table = _table(*columns)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    progress = [line for state in states for line in where_it_stands(run, state)]
    lines = map(Text, [*progress, *cost(run), *_notes(run, states)])
    parts: list[RenderableType] = [Text(str(run.path), style="bold"), table, *lines]
    figures = results_table(run) if all(state.state == "done" for state in states) else None
    return Group(*parts, figures) if figures else Group(*parts)


def _row(state: StageState) -> dict[str, str]:
    causes = [line["ended"] for line in state.attempts if line["ended"] != ledger.FINISHED]
    number = len(state.attempts) + (1 if state.current else 0)
    reason = state.queue["reason"] if state.queue else ""
    queue = state.queue if state.queue and state.state == "running" else {}
    return {
        "stage": state.name,
        "state": state.state if reason in ("None", "Dependency", "") else f"{state.state} ({reason})",
        "attempts": str(number or ""),
        "ranks": _sizes([*state.attempts, *([state.current] if state.current else [])]),
        "time": format_seconds(state.elapsed) if number else "",
        "ended": ", ".join(_counted(causes)),
        "job": state.job or "",
        "node": queue.get("node", ""),
        "limit in": queue.get("left", ""),
    }


def _notes(run: RunDirectory, states: list[StageState]) -> Iterator[str]:
    """Where the training began, if not at 0, and what went wrong."""
    if branch := ledger.read_or_none(run.branch, "of", "step"):
        until = f"up to step {branch['step']:,} it is that of" if branch["step"] else "it began with the weights of"
        yield f"pretrain: {until} {branch['of']}"
    for state in states:
        if state.attempts and state.over and state.state != "done":
            yield f"{state.name}: {_why_over(state)}; log: {run.log(state.name)}"
        elif state.state == "failed":  # and has left nothing in the ledger
            yield (
                f"{state.name}: job {state.job} failed before it could write anything to {run.path}; "
                f"`{command('doctor', '--cluster', 'PROFILE')}` sees whether its node can"
            )
    if (trouble := disk_trouble(run.path)) and any(state.state != "done" for state in states):
        yield f"{run.path}: this disk is {trouble}; no stage can write there until that is mended"
    if any(state.state == UNKNOWN for state in states):
        yield "Slurm does not answer; this is what the files say."


def _why_over(state: StageState) -> str:
    """How the last attempt of a stage ended that will not go on."""
    last = state.attempts[-1]
    asked = {"SIGINT": "Ctrl-C", "SIGHUP": "SIGHUP: its terminal was closed"}  # the rest goes by its own name
    why = ": ".join(part for part in (last["ended"], asked.get(last["message"], last["message"])) if part)
    if last["gave_up"] not in ("", last["message"]):
        return f"{why}; not tried again: {last['gave_up']}"
    return why if state.state == last["ended"] else f"{state.state} in the queue, where it was after: {why}"


def where_it_stands(run: RunDirectory, state: StageState) -> list[str]:
    """A line on a stage that is not done, if there is something to tell."""
    if state.state == "running" and not state.name.endswith(".*"):  # an array is many
        began = state.current["started"] if state.current else None  # None: Slurm has started it, Python is on its way
        times = f"{format_seconds(time.time() - began)} elapsed" if began else ""
        if began is None or state.progress is None or state.progress["time"] < began:
            step = last_step(run, state.name) if state.name in TRAININGS else 0
            return [f"{state.name}  starting{f' from step {step:,}' if step else ''}  {times}".rstrip()]
        if state.progress["seconds_left"] is not None:
            times += f", {format_seconds(state.progress['seconds_left'])} left"
        return [f"{progress_line(state.progress, left=False)}  {times}"]
    if state.queue is not None and state.attempts and state.state not in ("done", "completing"):
        return [f"{state.name}  {back_in_queue(run, state)}"]
    if state.state != "done" and state.progress is not None:
        return [progress_line(state.progress, left=False)]
    return []


def cost(run: RunDirectory) -> list[str]:
    """What the run has taken so far, and how much of it went into steps, a line for each training; nothing before the
    first."""
    lives = {stage: read_life(run, stage) for stage in TRAININGS}
    begun = {stage: life for stage, life in lives.items() if life.attempts}
    if not begun:
        return []
    unit = "GPU" if any(life.on_gpu for life in begun.values()) else "process"
    hours = [f"{sum(life.device_hours for life in lives.values()):,.2f} {unit}-hours so far"]
    lines: list[str] = []
    for stage, life in begun.items():
        parts = [] if lines else hours
        if life.goodput is not None:
            parts.append(f"goodput {life.goodput:.1%}, of the wall time {life.goodput_of_wall_time:.1%}")
        if life.lost:
            parts.append(f"{life.lost:,} step{'' if life.lost == 1 else 's'} taken twice")
        lines.append(f"{stage}: {'; '.join(parts)}" if lines else "; ".join(parts))
    return lines


def back_in_queue(run: RunDirectory, state: StageState) -> str:
    """`saved at step 28, 0 steps lost; in the queue, starts about 06:24`, of a stage whose job is there again."""
    parts = []
    if state.name in TRAININGS:
        saved, last = last_step(run, state.name), state.attempts[-1]["last_step"] or 0
        lost = max(0, last - saved)
        parts.append(f"saved at step {saved:,}, {lost:,} step{'' if lost == 1 else 's'} lost")
    queued = "in the queue"
    start = time_of(state.queue["start"]) if state.queue else None
    if start is not None:
        today = time.strftime("%Y-%m-%d", time.localtime(start)) == time.strftime("%Y-%m-%d")
        queued += time.strftime(
            ", starts about %H:%M" if today else ", starts about %Y-%m-%d %H:%M", time.localtime(start)
        )
    return "; ".join([*parts, queued])


def disk_trouble(directory: Path) -> str:
    """Whether the file system is full or read-only, as far as can be told without writing; empty if neither."""
    disk = os.statvfs(directory)
    full = disk.f_bavail * disk.f_frsize < ROOM
    return "read-only" if disk.f_flag & os.ST_RDONLY else "full" if full else ""


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("run", "stage", "job"))
    return table


def _sizes(attempts: list[dict[str, Any]]) -> str:
    """On how many ranks the newest attempts ran: `2, 4 on 2 nodes, 2`; empty if none ran on more than one."""
    told = [(line["ranks"], line["nodes"]) for line in attempts if line.get("ranks")]  # older lines say nothing
    if all(ranks == 1 for ranks, _ in told):
        return ""
    changes = [f"{ranks}" + (f" on {nodes} nodes" if nodes > 1 else "") for (ranks, nodes), _ in groupby(told)]
    return ", ".join(["…", *changes[-MOST_SIZES:]] if len(changes) > MOST_SIZES else changes)


def _counted(causes: list[str]) -> list[str]:
    return [f"{causes.count(cause)}x {cause}" for cause in dict.fromkeys(causes)]


def progress_line(progress: dict[str, Any], *, left: bool = True) -> str:
    """`pretrain  120/300 steps  loss 3.21  tokens/s 9,400  0:31 left`"""
    parts = progress_figures(progress)
    if left and progress["seconds_left"] is not None:
        parts.append(f"{format_seconds(progress['seconds_left'])} left")
    return "  ".join(parts)


def progress_figures(progress: dict[str, Any]) -> list[str]:
    """What is done, how much of it, and the figures beside it."""
    amount = format_amount(progress["completed"], progress["unit"])
    if progress["total"]:
        total = format_amount(progress["total"], progress["unit"])
        amount = f"{amount.removesuffix(' ' + progress['unit'])}/{total}"
    return [progress["description"], amount, *(f"{name} {value}" for name, value in progress["fields"].items())]
