"""The stop flag: a signal or a deadline sets it, the work looks at it at its own safe points.

A handler that did more than set a flag would run in the middle of a step, on one rank, before the others know.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sllm.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""Ctrl-C, and a terminal that goes away. Whoever starts us may have them ignored: `nohup` the latter, a shell script
the former for what it starts in the background."""

Check = Callable[[], None]
"""Raises Stopped when it is time to stop. To be called now and then by work that may be ended between two calls."""


def no_check() -> None:
    """In a process that is ended from outside."""


class StopFlag:
    """Whether, and why, the process was asked to stop. `deadline` is Unix time, or None."""

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._signal: int | None = None

    def set(self, signal_number: int) -> None:
        if self._signal is None:  # what follows the first is only impatience
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
def stop_on_signals(deadline: float | None = None, *, last: bool = False) -> Iterator[StopFlag]:
    """A StopFlag set by one of `SIGNALS` while the block runs; the old handlers come back after it, or with `last`,
    where nothing follows but the end of the process, the signals are ignored.

    A signal of the terminal that is ignored stays ignored.
    """
    flag = StopFlag(deadline)

    def handle(number: int, _: FrameType | None) -> None:
        flag.set(number)

    ignored = [number for number in TERMINAL_SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    old = {number: signal.signal(number, handle) for number in SIGNALS if number not in ignored}
    try:
        yield flag
    finally:
        for number, handler in old.items():
            signal.signal(number, signal.SIG_IGN if last else handler)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started in this block inherit its mask: the signals wait until the process asks for them."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
