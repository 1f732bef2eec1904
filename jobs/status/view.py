"""What a local submit shows while it works: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from jobs import ledger
from jobs.pipeline import TRAININGS, Stage, Step
from jobs.status.tables import progress_figures
from sllm.progress import fitted, format_seconds, format_times, progress_row
from sllm.records import read_new_jsonl
from sllm.run_directory import RunDirectory

LINE_SECONDS = 5.0
TAIL_LINES = 25

MARKS = {"done": ("✓", "*", "green"), "running": ("●", ">", "cyan"), "waiting": ("·", ".", "dim")}
STOPPED, FAILED = ("■", "=", "yellow"), ("✗", "x", "red")
"""How a state is marked: in UTF-8, in ASCII, and its colour."""


@contextmanager
def view(run: RunDirectory, steps: list[Step], console: Console) -> Iterator["View"]:
    """The stages and where they stand, while the block runs."""
    live = console.is_interactive and console.file.isatty()
    shown = View(run, steps, console, live=live)
    if not live:
        yield shown
        return
    with Live(shown, console=console, refresh_per_second=5):
        yield shown


class View:
    """The stages with their state, a row each, and below what the one that runs has to say: its progress.json, and of
    the training its newest validation and checkpoint."""

    def __init__(self, run: RunDirectory, steps: list[Step], console: Console, *, live: bool) -> None:
        self.run, self.console, self.live = run, console, live
        self.states = {step.stage.name: "done" if step.done else "waiting" for step in steps}
        self.details = {step.stage.name: "done before" if step.done else "waiting" for step in steps}
        self.running: str | None = None
        self._started = self._last_line = time.monotonic()
        self._note = ""
        self._trainings = {stage: _Training(run.training(stage)) for stage in TRAININGS}
        for step in steps:
            if step.done:
                self._line(f"{step.stage}: done before")

    def start(self, stage: Stage) -> None:
        self.running, self.states[stage.name] = stage.name, "running"
        self._started = self._last_line = time.monotonic()
        self._line(f"{stage}: started, log in {self.run.log(stage.name)}")

    def end(self, stage: Stage, ending: dict[str, Any]) -> None:
        self.running, self._note = None, ""
        after = format_seconds(time.monotonic() - self._started)
        cause = ending["ended"]
        self.states[stage.name] = "done" if cause == ledger.FINISHED else cause
        figures = self._newest(stage.name)
        done = cause == ledger.FINISHED
        self.details[stage.name] = "  ".join(
            [after, *figures[:1]] if done else [f"{cause} after {after}", *figures[-1:]]
        )
        self._line("  ".join([f"{stage}: {cause} after {after}", *figures]))

    def fail(self, stage: Stage, ending: dict[str, Any]) -> None:
        """Name the log of a stage that failed, and show its end."""
        path = self.run.log(stage.name)
        tail = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:] if path.exists() else []
        tail += submitit_errors(self.run, stage.name) if ending["ended"] == ledger.KILLED else []
        cause = ending["message"] or "killed, or ended without a word"
        self.console.print(Text("\n".join(tail), style="dim"), soft_wrap=True)
        self.console.print(Text(f"{stage} failed: {cause}\nlog: {path}", style="bold"), soft_wrap=True)

    def note(self, text: str) -> None:
        self._note = text
        self._line(text)

    def refresh(self) -> None:
        if not self.live and time.monotonic() - self._last_line >= LINE_SECONDS:
            progress = self._progress()
            if self.running and progress:
                times = format_times(time.monotonic() - self._started, progress["seconds_left"])
                self._line(f"{self.running}: {'  '.join([*self._figures(progress), times])}")

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if not self.live:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _progress(self) -> dict[str, Any] | None:
        return ledger.progress(self.run, self.running) if self.running else None

    def _figures(self, progress: dict[str, Any]) -> list[str]:
        description, *figures = progress_figures(progress)
        what = [] if description == self.running else [description]
        return [*what, *figures, *self._newest(self.running)]

    def _newest(self, stage: str | None) -> list[str]:
        return self._trainings[stage].newest() if stage in self._trainings else []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(map(len, self.states))
        progress = self._progress()
        for name, state in self.states.items():
            mark, plain, style = MARKS.get(state, STOPPED if state == ledger.STOPPED else FAILED)
            label = Text.assemble((plain if options.ascii_only else mark, style), f" {name:<{width}}  ")
            if state != "running":
                label.append(self.details[name], style="" if mark == FAILED[0] else "dim")
            elif progress is None:
                label.append(f"starting, {format_times(time.monotonic() - self._started, None)}")
            else:
                times = format_times(time.monotonic() - self._started, progress["seconds_left"])
                label = progress_row(label, progress["completed"], progress["total"], times, options)
            label.truncate(options.max_width, overflow="ellipsis")
            yield label
        if progress is not None:
            yield from map(Text, fitted(self._figures(progress), options.max_width))
        if self._note:
            yield Text(self._note, style="yellow")


class _Training:
    """The newest validation and checkpoint in metrics.jsonl."""

    def __init__(self, run: RunDirectory) -> None:
        self._path, self._inode, self._offset = run.metrics, 0, 0
        self._records: dict[str, dict[str, Any]] = {}

    def newest(self) -> list[str]:
        if self._path.exists():
            if (inode := self._path.stat().st_ino) != self._inode:  # the resume has cut the file back
                self._inode, self._offset, self._records = inode, 0, {}
            for record, end in read_new_jsonl(self._path, self._offset, "kind"):
                self._offset = end
                self._records[record["kind"]] = record
        validation, checkpoint = self._records.get("validation"), self._records.get("checkpoint")
        return [
            *([f"validation loss {validation['loss']:.3f} at step {validation['step']:,}"] if validation else []),
            *([f"checkpoint at step {checkpoint['step']:,}"] if checkpoint else []),
        ]


def submitit_errors(run: RunDirectory, stage: str) -> list[str]:
    """The last lines of what a rank printed before it could open its log (an import that fails, for example)."""
    files = sorted((run.stage(stage) / "submitit").glob("*_log.err"), key=lambda path: path.stat().st_mtime)
    if not files:
        return []
    return Path(files[-1]).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
