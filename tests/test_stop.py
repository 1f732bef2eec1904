"""Signals set a flag and nothing else; the deadline is a flag too."""

import os
import signal
import time

import pytest

from sllm.errors import Stopped
from sllm.stop import SIGNALS, StopFlag, signals_blocked, stop_on_signals


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
