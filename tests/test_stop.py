"""Signals set a flag and nothing else; the deadline is a flag too."""

import os
import signal
import time

import pytest

from sllm.errors import Stopped
from sllm.stop import SIGNALS, StopFlag, stop_on_signals


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
