"""The stop flag: a signal or a deadline sets it, the work looks at it at its own safe points.

A handler that did more than set a flag would run in the middle of a step, on one rank, before the others know.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sllm.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class StopFlag:
    """Whether, and why, the process was asked to stop. `deadline` is Unix time, or None."""

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._signal: int | None = None

    def set(self, signal_number: int) -> None:
        self._signal = signal_number

    @property
    def requested(self) -> bool:
        return self._signal is not None or (self.deadline is not None and time.time() >= self.deadline)

    @property
    def reason(self) -> str:
        if self._signal is not None:
            return signal.Signals(self._signal).name
        return "deadline"

    def check(self) -> None:
        """Raise Stopped if a stop was requested. For single-process work that commits whole pieces."""
        if self.requested:
            raise Stopped(self.reason)


@contextmanager
def stop_on_signals(deadline: float | None = None) -> Iterator[StopFlag]:
    """A StopFlag set by one of `SIGNALS` (or Ctrl-C) while the block runs; the old handlers come back after it."""
    flag = StopFlag(deadline)

    def handle(number: int, _: FrameType | None) -> None:
        flag.set(number)

    old = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
