"""Work that is shared out to processes: its order, its failures, and what is told meanwhile."""

import time
from collections.abc import Iterator

import pytest

from sllm import workers
from sllm.errors import UserError
from sllm.stop import Check, StopFlag
from sllm.workers import in_processes


def wait_for(seconds: float, *, check: Check) -> float:
    check()
    time.sleep(abs(seconds))
    if seconds < 0:
        raise UserError(f"{seconds}")
    return seconds


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_their_order_and_are_told_meanwhile(count: int) -> None:
    ticks: list[None] = []
    with in_processes(
        wait_for, [(0.5,), (0.0,), (0.1,)], count, StopFlag(), tick=lambda: ticks.append(None)
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


class Counted(list[tuple[float]]):
    """Arguments, and how many of them were asked for."""

    taken = 0

    def __iter__(self) -> Iterator[tuple[float]]:
        for argument in super().__iter__():
            self.taken += 1
            yield argument


def test_work_is_handed_out_little_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "AHEAD", 3)
    arguments = Counted((0.001 * number,) for number in range(9))
    with in_processes(wait_for, arguments, 2, StopFlag()) as results:
        for number in range(9):
            assert next(results) == 0.001 * number
            assert arguments.taken == min(9, 3 + number + 1)
        assert next(results, None) is None
