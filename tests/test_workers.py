"""Work that is shared out to processes: its order, its failures, and what is told meanwhile."""

import time

import pytest

from sllm.errors import UserError
from sllm.stop import Check, StopFlag
from sllm.workers import in_processes


def wait_for(seconds: float, *, check: Check) -> float:
    check()
    time.sleep(abs(seconds))
    if seconds < 0:
        raise UserError(f"{seconds}")
    return seconds


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_their_order_and_are_told_meanwhile(workers: int) -> None:
    ticks: list[None] = []
    with in_processes(
        wait_for, [(0.5,), (0.0,), (0.1,)], workers, StopFlag(), tick=lambda: ticks.append(None)
    ) as results:
        assert list(results) == [0.5, 0.0, 0.1]
    assert ticks


def test_a_failure_ends_the_work_that_comes_before_it_too() -> None:
    begun = time.monotonic()
    with (
        pytest.raises(UserError, match=r"-0\.1"),
        in_processes(wait_for, [(250.0,), (-0.1,)], 2, StopFlag()) as results,
    ):
        next(results)
    assert time.monotonic() - begun < 200
