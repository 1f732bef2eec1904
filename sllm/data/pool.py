"""The same work on many shards, side by side in processes, with results in order."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from sllm.stop import StopFlag, signals_blocked
from sllm.workers import worker_pool

R = TypeVar("R")


@contextmanager
def in_processes(
    function: Callable[..., R], arguments: Sequence[tuple[Any, ...]], workers: int, stop: StopFlag
) -> Iterator[Iterator[R]]:
    """The results of `function` for each of `arguments`, in their order. `workers` below 2 means this process.

    A worker may be ended at any point, when the block fails or this process dies: what `function` writes must not be
    part of anything until it is whole. Its keyword `check` is to be called now and then, and raises Stopped in this
    process; in a worker it does nothing.

    Raises:
        Stopped: a stop was requested while a result was waited for.
    """
    workers = min(workers, len(arguments))
    if workers < 2:
        yield (function(*each, check=stop.check) for each in arguments)
        return
    with worker_pool(workers) as pool:
        with signals_blocked():
            futures = [pool.submit(function, *each, check=never) for each in arguments]
        yield (_result(future, stop) for future in futures)


def never() -> None:
    """A check that never stops."""


def _result(future: Future[R], stop: StopFlag) -> R:
    while not future.done():
        stop.check()
        wait([future], timeout=0.2)
    return future.result()
