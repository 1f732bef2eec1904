"""Where a run stands: its stages, attempts and figures, from the files of the run directory."""

import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs import ledger, slurm
from jobs.pipeline import STAGES, Keys, read_done, whole_stage
from jobs.prepare import ROOM, lock_holder
from sllm.errors import UserError
from sllm.files import RunDirectory, fingerprint
from sllm.progress import format_amount, format_seconds

SIGN_OF_LIFE_SECONDS = 60.0
"""A stage whose progress was written within this time counts as alive when nobody can be asked."""

FOLLOW_SECONDS = 0.3
STATE_SECONDS = 2.0
"""How often a stage that is followed is asked for: for Slurm jobs this asks the controller."""

UNKNOWN = "unknown"


def find_run(name: str) -> RunDirectory:
    """The run directory of a name (under runs/) or a path. Raises UserError naming the runs there are."""
    for path in (Path("runs") / name, Path(name)):
        if (path / "config.yaml").is_file():
            return RunDirectory(path.absolute())
    known = ", ".join(run.name for run in all_runs()) or "none"
    raise UserError(
        f"{name}: no run of this name in {Path('runs').absolute()}, nor a run directory; there are: {known}"
    )


def all_runs() -> list[RunDirectory]:
    return [RunDirectory(path.parent.absolute()) for path in sorted(Path("runs").glob("*/config.yaml"))]


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
        """Nothing will change without a new submit."""
        return self.state not in ("running", "pending", "waiting", UNKNOWN)


def stage_states(run: RunDirectory) -> list[StageState]:
    """The state of every stage, from the run directory and, for Slurm jobs, from squeue and sacct as far as they
    answer. Before a stage that is not done come its job array, while it is in the queue, and the shares begun."""
    keys = ledger.read_or_none(run.path / "keys.json") or {}
    shares = {stage: _shares(run, stage) for stage in STAGES}
    jobs = slurm.submitted_jobs(run)
    for share in (share for names in shares.values() for share in names):
        if record := ledger.read_or_none(run.stage(share) / "job.json"):
            jobs[share] = record["job"]
    queue = slurm.queued(list(jobs.values())) if jobs else {}
    gone = [] if queue is None else [job for job in jobs.values() if job not in queue]
    final = slurm.final_states(gone)
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
    numbers = sorted(int(path.suffix[1:]) for path in run.stage(stage).parent.glob(f"{stage}.[0-9]*"))
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
        ledger.read_or_none(run.progress(name)),
        ledger.current(run, name),
        read_done(run, name),
    )
    open_ = current is not None and current["fingerprint"] == expected
    open_ = open_ and all(line["token"] != current["token"] for line in lines if current)
    found = StageState(name, "waiting", lines, current if open_ else None, progress, job=job)
    if job is not None and queue and job in queue:
        state = queue[job]["state"].lower()
        return replace(found, state=state, queue=queue[job], current=found.current if state == "running" else None)
    if done is not None and done["fingerprint"] == expected and not open_:
        return replace(found, state="done", done=done)
    if open_ and current:
        if current["job"] is None or queue is None:
            if _alive(run, current, progress):
                return replace(found, state="running")
            return replace(found, state=ledger.KILLED if queue is not None else UNKNOWN, current=None)
        return replace(found, state=final.get(current["job"], "lost").lower().replace("_", " "), current=None)
    if job is not None and all(line["job"] != job for line in lines):
        # Submitted, and neither queued nor ever begun: cancelled before, or because a stage before it failed.
        return replace(found, state=UNKNOWN if queue is None else final.get(job, "gone").lower().replace("_", " "))
    if lines and whole != name and lines[-1]["ended"] == ledger.FINISHED:
        return replace(found, state="done")
    return replace(found, state=lines[-1]["ended"] if lines else "waiting")


def _alive(run: RunDirectory, current: dict[str, Any], progress: dict[str, Any] | None) -> bool:
    holder = lock_holder(run)
    if holder is not None and holder.get("pid") == current["pid"] and current["node"] == platform.node():
        return True
    last_sign = max(current["started"], progress["time"] if progress else 0)
    return time.time() - last_sign < SIGN_OF_LIFE_SECONDS


# --- tables ---------------------------------------------------------------------------------------


def runs_table(runs: list[RunDirectory]) -> Table:
    table = _table("run", "state", "progress")
    for run in runs:
        states = stage_states(run)
        now = next((state for state in states if state.state != "done"), None)
        text = "finished" if now is None else f"{now.name}: {now.state}"
        table.add_row(run.name, text, "" if now is None else _progress_text(now))
    return table


def run_table(run: RunDirectory) -> RenderableType:
    """Every stage with its state, its attempts and where it stands; below, what went wrong last."""
    states = stage_states(run)
    rows, progress, notes = [], [], []
    for state in states:
        seconds = f"{sum(line['seconds'] for line in state.attempts):,.0f}" if state.attempts else ""
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
                "seconds": seconds,
                "ended": ", ".join(_counted(causes)),
                "job": state.job or "",
                "node": queue.get("node", ""),
                "limit in": queue.get("left", ""),
            }
        )
        if text := _progress_text(state):
            progress.append(text)
        if state.attempts and state.over and state.state != "done":
            last = state.attempts[-1]
            why = ": ".join(part for part in (last["ended"], last["message"]) if part)
            gave_up = f"; not tried again: {last['gave_up']}" if last["gave_up"] not in ("", last["message"]) else ""
            notes.append(f"{state.name}: {why}{gave_up}; log: {run.log(state.name)}")
        elif state.state == "failed":  # and has left nothing in the ledger
            notes.append(
                f"{state.name}: job {state.job} failed before it could write anything to {run.path}; "
                f"`sllm doctor --cluster PROFILE` sees whether its node can"
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


def _progress_text(state: StageState) -> str:
    if state.state == "done" or state.progress is None:
        return ""
    return progress_line(state.progress, left=state.state == "running")


def progress_line(progress: dict[str, Any], *, left: bool = True) -> str:
    """`pretrain  120/300 steps  loss 3.21  tokens/s 9,400  0:31 left`"""
    amount = format_amount(progress["completed"], progress["unit"])
    if progress["total"]:
        total = format_amount(progress["total"], progress["unit"])
        amount = f"{amount.removesuffix(' ' + progress['unit'])}/{total}"
    parts = [progress["description"], amount, *(f"{name} {value}" for name, value in progress["fields"].items())]
    if left and progress["seconds_left"] is not None:
        parts.append(f"{format_seconds(progress['seconds_left'])} left")
    return "  ".join(parts)


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
            yield f"{name} perplexity", f"{figures['perplexity']:.2f}"
            yield f"{name} bits per byte", f"{figures['bits_per_byte']:.3f}"
    if "overall" in validation:
        yield "next-token accuracy", f"{100 * validation['overall']['accuracy']:.1f}%"
    if "training" in benchmark:
        yield "training", f"{benchmark['training']['tokens_per_second']:,.0f} tokens/s on one device"
    for row in benchmark.get("generation", []):
        if "decode_tokens_per_second" in row:
            yield f"generation, batch {row['batch']}", f"{row['decode_tokens_per_second']:,.0f} tokens/s"
    for sample in validation.get("samples", []):
        yield sample["prompt"], sample["continuation"]


# --- logs -----------------------------------------------------------------------------------------


def follow(run: RunDirectory, stage: str) -> Iterator[str]:
    """What the stage's log holds and what is added to it, until the stage is over. Requeued attempts append to it."""
    position, asked_at, over = 0, -math.inf, False
    while True:
        # Look at the state first: what is written before a stage is over is then certainly read.
        if time.monotonic() - asked_at >= STATE_SECONDS:
            over = next((state.over for state in stage_states(run) if state.name == stage), True)
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
        time.sleep(FOLLOW_SECONDS)


def newest_log(run: RunDirectory) -> str:
    """The stage that wrote to its log last. Raises UserError if none has."""
    stages = [stage for stage in STAGES if run.log(stage).exists()]
    if not stages:
        raise UserError(f"{run.path}: no stage has written a log yet; see `sllm status {run.name}`")
    return max(stages, key=lambda stage: run.log(stage).stat().st_mtime)
