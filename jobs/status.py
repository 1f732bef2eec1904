"""Where a run stands: its stages, attempts and figures, from the files of the run directory."""

import math
import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs import ledger
from jobs.hints import command
from jobs.pipeline import STAGES, Keys, read_done, whole_stage
from jobs.prepare import ROOM, lock_holder
from jobs.processes import local_processes
from jobs.slurm import commands
from sllm.errors import UserError
from sllm.files import fingerprint
from sllm.progress import format_amount, format_seconds
from sllm.run_directory import RunDirectory

SIGN_OF_LIFE_SECONDS = 60.0
"""A stage whose progress was written within this time counts as alive when nobody can be asked."""

FOLLOW_SECONDS = 0.3
STATE_SECONDS = 2.0
"""How often a stage that is followed is asked for: for Slurm jobs this asks the controller."""

UNKNOWN = "unknown"


RUNS = Path("runs")


def find_run(name: str) -> RunDirectory:
    """The run directory of a name (under runs/) or a path. Raises UserError naming the runs there are."""
    for path in (RUNS / name, Path(name)):
        if (path / "config.yaml").is_file():
            return RunDirectory(path.absolute())
    known = ", ".join(run.name for run in runs_in(RUNS)) or "none"
    raise UserError(f"{name}: no run of this name in {RUNS.absolute()}, nor a run directory; there are: {known}")


def runs_in(directory: Path) -> list[RunDirectory]:
    return [RunDirectory(path.parent.absolute()) for path in sorted(directory.glob("*/config.yaml"))]


# --- the state of a stage -------------------------------------------------------------------------


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
    shares = {stage: _shares(run, stage) for stage in STAGES}
    jobs = commands.submitted_jobs(run)
    for share in (share for names in shares.values() for share in names):
        if record := ledger.read_or_none(run.stage(share) / "job.json", "job"):
            jobs[share] = record["job"]
    queue = commands.queued(list(jobs.values())) if jobs else {}
    gone = [] if queue is None else [job for job in jobs.values() if job not in queue]
    final = commands.final_states(gone)
    states = []
    for stage in STAGES:
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
    whole = whole_stage(name)
    expected = fingerprint(keys[whole]) if whole in keys else None
    lines = ledger.attempts(run, name, expected)
    progress, current, done = (
        ledger.progress(run, name),
        ledger.current(run, name),
        read_done(run, name),
    )
    open_ = current is not None and current["fingerprint"] == expected
    open_ = open_ and ledger.open_attempt(run, name) is not None
    found = StageState(name, "waiting", lines, current if open_ else None, progress, job=job)
    if job is not None and queue and job in queue:
        state = queue[job]["state"].lower()
        return replace(found, state=state, queue=queue[job], current=found.current if state == "running" else None)
    if open_ and current and current["job"] is None and not _alive(run, current, progress):
        # Nobody is left to write its line: the submit that started it is gone. What its ranks said holds.
        ending = ledger.ended(run, name, current["token"])
        found = replace(found, state=ending["cause"] if ending else ledger.KILLED, current=None)
        open_ = False
        if done is None or done["fingerprint"] != expected:
            return found
    if done is not None and done["fingerprint"] == expected and not open_:
        return replace(found, state="done", done=done)
    if open_ and current:
        if current["job"] is None:
            return replace(found, state="running")
        if queue is None:
            alive = _alive(run, current, progress)
            return replace(found, state="running" if alive else UNKNOWN, current=found.current if alive else None)
        return replace(found, state=final.get(current["job"], "lost").lower().replace("_", " "), current=None)
    if job is not None and all(line["job"] != job for line in lines):
        # Submitted, and neither queued nor ever begun: cancelled before, or because a stage before it failed.
        return replace(found, state=UNKNOWN if queue is None else final.get(job, "gone").lower().replace("_", " "))
    if lines and whole != name and lines[-1]["ended"] == ledger.FINISHED:
        return replace(found, state="done")
    if lines and job is not None and queue is not None and _goes_on(lines[-1]):
        # It was put back into the queue and has left it without another attempt: cancelled there, most often.
        return replace(found, state=final.get(job, "gone").lower().replace("_", " "))
    return replace(found, state=lines[-1]["ended"] if lines else "waiting")


def _goes_on(line: dict[str, Any]) -> bool:
    """Whether the attempt's job was put back into the queue at its end."""
    over = (ledger.FINISHED, ledger.CANCELLED, ledger.STOPPED)
    return line["job"] is not None and line["ended"] not in over and not line["gave_up"]


def _alive(run: RunDirectory, current: dict[str, Any], progress: dict[str, Any] | None) -> bool:
    """Whether the attempt is running, as far as it can be seen from this machine."""
    holder = lock_holder(run)
    if holder is not None and (holder["pid"], holder["node"]) == (current["pid"], current["node"]):
        return True
    if current["job"] is None and current["node"] == platform.node():
        return bool(local_processes(run))
    last_sign = max(current["started"], progress["time"] if progress else 0)
    return time.time() - last_sign < SIGN_OF_LIFE_SECONDS


# --- tables ---------------------------------------------------------------------------------------


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
    rows, progress, notes = [], [], []
    for state in states:
        causes = [line["ended"] for line in state.attempts if line["ended"] != ledger.FINISHED]
        number = len(state.attempts) + (1 if state.current else 0)
        shown = state.state
        if state.queue and state.queue["reason"] not in ("None", "Dependency", ""):
            shown = f"{shown} ({state.queue['reason']})"
        queue = state.queue if state.queue and state.state == "running" else {}
        rows.append(
            {
                "stage": state.name,
                "state": shown,
                "attempts": str(number or ""),
                "time": format_seconds(state.elapsed) if number else "",
                "ended": ", ".join(_counted(causes)),
                "job": state.job or "",
                "node": queue.get("node", ""),
                "limit in": queue.get("left", ""),
            }
        )
        progress += where_it_stands(run, state)
        if state.attempts and state.over and state.state != "done":
            notes.append(f"{state.name}: {_why_over(state)}; log: {run.log(state.name)}")
        elif state.state == "failed":  # and has left nothing in the ledger
            notes.append(
                f"{state.name}: job {state.job} failed before it could write anything to {run.path}; "
                f"`{command('doctor', '--cluster', 'PROFILE')}` sees whether its node can"
            )
    if (trouble := disk_trouble(run.path)) and any(state.state != "done" for state in states):
        notes.append(f"{run.path}: this disk is {trouble}; no stage can write there until that is mended")
    if any(state.state == UNKNOWN for state in states):
        notes.append("Slurm does not answer; this is what the files say.")
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    table = _table(*columns)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    lines = map(Text, [*progress, *notes])
    parts: list[RenderableType] = [Text(str(run.path), style="bold"), table, *lines]
    figures = results_table(run) if all(state.state == "done" for state in states) else None
    return Group(*parts, figures) if figures else Group(*parts)


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
            step = newest_checkpoint(run) if state.name == "pretrain" else None
            return [f"{state.name}  starting{f' from step {step:,}' if step else ''}  {times}".rstrip()]
        if state.progress["seconds_left"] is not None:
            times += f", {format_seconds(state.progress['seconds_left'])} left"
        return [f"{progress_line(state.progress, left=False)}  {times}"]
    if state.queue is not None and state.attempts and state.state not in ("done", "completing"):
        return [f"{state.name}  {back_in_queue(run, state)}"]
    if state.state != "done" and state.progress is not None:
        return [progress_line(state.progress, left=False)]
    return []


def back_in_queue(run: RunDirectory, state: StageState) -> str:
    """`saved at step 28, 0 steps lost; in the queue, starts about 06:24`, of a stage whose job is there again."""
    parts = []
    if state.name == "pretrain":
        saved, last = newest_checkpoint(run) or 0, state.attempts[-1]["last_step"] or 0
        lost = max(0, last - saved)
        parts.append(f"saved at step {saved:,}, {lost:,} step{'' if lost == 1 else 's'} lost")
    queued = "in the queue"
    start = commands.time_of(state.queue["start"]) if state.queue else None
    if start is not None:
        today = time.strftime("%Y-%m-%d", time.localtime(start)) == time.strftime("%Y-%m-%d")
        queued += time.strftime(
            ", starts about %H:%M" if today else ", starts about %Y-%m-%d %H:%M", time.localtime(start)
        )
    return "; ".join([*parts, queued])


def newest_checkpoint(run: RunDirectory) -> int | None:
    """The step of the newest checkpoint by name, which the training will verify before it goes on from it."""
    names = (re.fullmatch(r"step-(\d{8,})", path.name) for path in run.checkpoints.glob("step-*"))
    return max((int(name[1]) for name in names if name), default=None)


def disk_trouble(directory: Path) -> str:
    """Whether the file system is full or read-only, as far as can be told without writing; empty if neither."""
    disk = os.statvfs(directory)
    full = disk.f_bavail * disk.f_frsize < ROOM
    return "read-only" if disk.f_flag & os.ST_RDONLY else "full" if full else ""


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("stage", "job"))
    return table


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


# --- what came of it ------------------------------------------------------------------------------


def results_table(run: RunDirectory) -> Table | None:
    """The figures of the validate and benchmark stages; None if the run has not come so far."""
    validated, benchmarked = read_done(run, "validate"), read_done(run, "benchmark")
    if validated is None and benchmarked is None:
        return None
    table = Table(title=run.name, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in results(
        validated["summary"] if validated else {}, benchmarked["summary"] if benchmarked else {}
    ):
        table.add_row(name, value)
    return table


def results(validation: dict[str, Any], benchmark: dict[str, Any]) -> Iterator[tuple[str, str]]:
    languages = {"ko": "Korean", "en": "English"}
    for code, name in languages.items():
        figures = validation.get("languages", {}).get(code)
        if figures:
            yield f"{name} perplexity", _number(figures["perplexity"], ".2f")
            yield f"{name} bits per byte", _number(figures["bits_per_byte"], ".3f")
    if "overall" in validation:
        yield "next-token accuracy", f"{100 * validation['overall']['accuracy']:.1f}%"
    if "training" in benchmark:
        yield "training", f"{benchmark['training']['tokens_per_second']:,.0f} tokens/s on one device"
    for row in benchmark.get("generation", []):
        if "decode_tokens_per_second" in row:
            yield f"generation, batch {row['batch']}", f"{row['decode_tokens_per_second']:,.0f} tokens/s"
    for sample in validation.get("samples", []):
        yield sample["prompt"], sample["continuation"]


def _number(value: float | None, style: str) -> str:
    return "not finite" if value is None else format(value, style)


# --- logs -----------------------------------------------------------------------------------------


def follow(run: RunDirectory, stage: str) -> Iterator[str]:
    """What the stage's log holds and what is added to it, until the stage is over. Requeued attempts append to it;
    between two of them a line of ours tells where the stage is."""
    position, asked_at, over = 0, -math.inf, False
    told = ""
    while True:
        # Look at the state first: what is written before a stage is over is then certainly read.
        between = None
        if time.monotonic() - asked_at >= STATE_SECONDS:
            state = next((state for state in stage_states(run) if state.name == stage), None)
            over = state is None or state.over
            if state is not None and state.state == "pending" and state.attempts:
                between = state
            asked_at = time.monotonic()
        path = run.log(stage)
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                data = file.read()
            # A character may be written in two parts: keep to whole lines while more can come.
            whole = data if over else data[: data.rfind(b"\n") + 1]
            position += len(whole)
            if whole:
                yield whole.decode("utf-8", errors="replace")
        if over:
            return
        if between is not None and between.attempts[-1]["token"] != told:
            told = between.attempts[-1]["token"]
            yield f"──── {stage}: {back_in_queue(run, between)}\n"
        time.sleep(FOLLOW_SECONDS)


def newest_log(run: RunDirectory) -> str:
    """The stage that wrote to its log last. Raises UserError if none has."""
    stages = [stage for stage in STAGES if run.log(stage).exists()]
    if not stages:
        raise UserError(f"{run.path}: no stage has written a log yet; see `{command('status', run)}`")
    return max(stages, key=lambda stage: run.log(stage).stat().st_mtime)
