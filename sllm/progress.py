"""Progress of long work: a bar on a terminal, a plain line now and then in a batch log, and a small JSON file that
`sllm status` and the live view of `sllm submit` read from anywhere."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.filesize import decimal as readable_bytes
from rich.live import Live
from rich.text import Text

from sllm.files import to_json

LINE_SECONDS = 5.0
"""Between two lines of a batch log, as long as somebody may be watching; later they are a minute apart."""
WATCHED_SECONDS = 300.0
LATER_LINE_SECONDS = 60.0

FILE_SECONDS = 0.5

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
"""Of every line in a log."""

_progress_file: Path | None = None
_silent = False


def report_to(path: Path | None, *, silent: bool = False) -> None:
    """Set, for this process, the file that mirrors progress; `silent` (ranks above 0) shows nothing at all."""
    global _progress_file, _silent
    _progress_file, _silent = path, silent


class Bar:
    """One piece of long work. `fields` are short named figures, such as loss=3.21, shown beside the bar; None takes one
    away."""

    def __init__(self, description: str, total: float | None, unit: str, start: float) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.completed = start
        self.fields: dict[str, Any] = {}
        self._resumed_at, self._started = start, time.monotonic()
        self._last_line = self._last_file = self._started
        self._live: Live | None = None
        console = Console(stderr=True)
        if not _silent and console.is_interactive and sys.stderr.isatty():
            # What is printed meanwhile goes above the bar; what goes elsewhere than to the terminal, there.
            self._live = Live(self, console=console, refresh_per_second=5, redirect_stdout=sys.stdout.isatty())
            self._live.start()
        self._write_file()

    def advance(self, amount: float = 1, **fields: Any) -> None:
        self.update(self.completed + amount, **fields)

    def update(self, completed: float, **fields: Any) -> None:
        self.completed = completed
        self.fields = {name: value for name, value in (self.fields | fields).items() if value is not None}
        now = time.monotonic()
        if self._live is None and now - self._last_line >= line_interval(now - self._started):
            self._last_line = now
            _say(self.line())
        if now - self._last_file >= FILE_SECONDS:
            self._write_file()

    def say(self, text: str) -> None:
        """Tell `text` at once, on a line of its own; readers of the file see it until `fields` are set anew."""
        self.fields = {"": text}
        self._write_file()
        if not _silent:
            self._last_line = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    @property
    def seconds_left(self) -> float | None:
        done = self.completed - self._resumed_at
        if not self.total or done <= 0:
            return None
        return (time.monotonic() - self._started) / done * (self.total - self.completed)

    def line(self) -> str:
        """The state in one plain line, for logs."""
        parts = [f"{time.strftime(TIME_FORMAT)} {self.description}", *self._figures()]
        if self.total:
            parts.insert(1, f"{100 * self.completed / self.total:.0f}%")
        if self.seconds_left is not None:
            parts.append(f"{format_seconds(self.seconds_left)} left")
        return "  ".join(part for part in parts if part)

    def _figures(self) -> list[str]:
        amount = format_amount(self.completed, self.unit)
        if self.total:
            amount = f"{amount.removesuffix(f' {self.unit}')}/{format_amount(self.total, self.unit)}"
        return [amount, *(f"{name} {value}" for name, value in list(self.fields.items()))]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        times = format_times(time.monotonic() - self._started, self.seconds_left)
        yield progress_row(Text(f"{self.description}  "), self.completed, self.total, times, options)
        yield from map(Text, fitted(self._figures(), options.max_width))

    def _write_file(self) -> None:
        self._last_file = time.monotonic()
        if _silent or _progress_file is None or not _progress_file.parent.is_dir():
            return
        # A reader may see the old or the new file, never half of one; durability does not matter here.
        temporary = _progress_file.with_suffix(".tmp")
        record = {
            "description": self.description,
            "completed": self.completed,
            "total": self.total,
            "unit": self.unit,
            "fields": {name: str(value) for name, value in self.fields.items()},
            "seconds_left": self.seconds_left,
            "time": time.time(),
        }
        try:
            temporary.write_text(to_json(record), encoding="utf-8")
            temporary.replace(_progress_file)
        except OSError:
            # A full disk must not end a training because of a progress bar. The file that is there has room of its own,
            # and may still say that the work waits. In one write, over all that was there: no reader sees two records.
            with contextlib.suppress(OSError), _progress_file.open("r+b", buffering=0) as file:
                file.write(to_json(record).encode().ljust(os.fstat(file.fileno()).st_size))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            _say(self.line())
        self._write_file()


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the log may be on a disk that is full
        if not _silent:
            print(line, file=sys.stderr, flush=True)


def line_interval(elapsed: float) -> float:
    """Seconds between two lines of a batch log, after so many of the work: a week of training is 10,000 lines."""
    return LINE_SECONDS if elapsed < WATCHED_SECONDS else LATER_LINE_SECONDS


@contextmanager
def track(description: str, total: float | None = None, unit: str = "", start: float = 0) -> Iterator[Bar]:
    """Show the progress of the block. `unit` is "bytes" for sizes, or a plural noun; `start` is work done before."""
    bar = Bar(description, total, unit, start)
    try:
        yield bar
    finally:
        bar.close()


def format_amount(amount: float, unit: str) -> str:
    if unit == "bytes":
        return readable_bytes(int(amount))
    return f"{int(amount):,} {unit}".rstrip()


def format_seconds(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_times(elapsed: float, left: float | None) -> str:
    """`0:31 elapsed, 2:10 left`"""
    return f"{format_seconds(elapsed)} elapsed" + (f", {format_seconds(left)} left" if left is not None else "")


# --- on a terminal --------------------------------------------------------------------------------

BAR_CELLS = 40
"""The widest bar; it is narrower where there is no room."""


def progress_row(label: Text, completed: float, total: float | None, times: str, options: ConsoleOptions) -> Text:
    """Label, bar, share and times in one row. Done and left differ without colours too."""
    row = label.copy()
    if total:
        share = min(1.0, completed / total)
        text = f"{int(100 * share):3d}%  {times}"
        cells = min(BAR_CELLS, options.max_width - label.cell_len - max(len(text), 30) - 2)
        if cells > 0:
            done, rest = ("#", "-") if options.ascii_only else ("━", "─")
            filled = int(cells * share)
            row.append(done * filled, style="cyan").append(rest * (cells - filled), style="dim").append("  ")
        row.append(text)
    else:
        row.append(times)
    row.truncate(options.max_width, overflow="ellipsis")
    return row


def fitted(phrases: list[str], width: int) -> list[str]:
    """Lines of phrases, each of them whole."""
    lines: list[str] = []
    for phrase in phrases:
        if lines and cell_len(lines[-1]) + 2 + cell_len(phrase) <= width:
            lines[-1] += f"  {phrase}"
        else:
            lines.append(phrase)
    return lines
