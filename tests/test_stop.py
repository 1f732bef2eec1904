"""Signals set a flag and nothing else; the deadline is a flag too."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from sllm.errors import Stopped
from sllm.stop import StopFlag, signals_blocked, stop_on_signals

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP]
"""What may end a job: Slurm at a preemption or a cancel; and ahead of its time limit, as sites have it;
Ctrl-C; a terminal that goes away."""


@pytest.fixture(autouse=True)
def _as_a_shell_starts_us() -> Iterator[None]:
    """However these tests were started, under `nohup` for example."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_ends_a_job_is_heard_and_nothing_else_is_touched() -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with stop_on_signals():
        heard = [number for number, handler in before.items() if signal.getsignal(number) is not handler]
    assert sorted(heard) == sorted(SIGNALS)
    with signals_blocked():
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set(SIGNALS)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_sets_the_flag_and_the_old_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.reason == number.name
        with pytest.raises(Stopped, match=number.name):
            stop.check()
    assert signal.getsignal(number) is before


def test_deadline() -> None:
    assert not StopFlag(deadline=time.time() + 60).requested
    passed = StopFlag(deadline=time.time() - 1)
    assert passed.requested
    assert passed.reason == "deadline"


def test_handlers_come_back_after_an_exception() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="inside"), stop_on_signals():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_only_what_the_terminal_sends_stays_ignored(number: signal.Signals) -> None:
    """`nohup` ignores SIGHUP for us and a script's shell SIGINT, and they mean it. Others are ignored until we can take
    them."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), number)
            assert stop.requested == (number not in (signal.SIGINT, signal.SIGHUP))
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_the_first_signal_is_the_reason() -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "SIGHUP"


def test_a_blocked_signal_waits() -> None:
    with stop_on_signals() as stop:
        with signals_blocked():
            signal.raise_signal(signal.SIGHUP)  # to this thread: others may have been started before
            assert not stop.requested
        assert stop.requested


def test_after_the_last_work_no_signal_ends_the_process() -> None:
    """What it says at its end is not to be cut short by who has asked it to end."""
    with stop_on_signals(last=True) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert {number: signal.getsignal(number) for number in SIGNALS} == dict.fromkeys(SIGNALS, signal.SIG_IGN)
