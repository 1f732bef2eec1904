"""Processes that work for one stage, and never outlive it: whatever ends the stage, a kill among it, ends them."""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from sllm.stop import Check, StopFlag, no_check, signals_blocked

R = TypeVar("R")

AHEAD = 1000
"""Arguments that are handed out at a time, at most: all of these are looked through whenever one is done, and results
that come early wait for the one before them, on a disk perhaps."""


@contextmanager
def in_processes(
    function: Callable[..., R],
    arguments: Sequence[tuple[Any, ...]],
    workers: int,
    stop: StopFlag,
    *,
    apart: bool = False,
    tick: Check = no_check,
) -> Iterator[Iterator[R]]:
    """The results of `function` for each of `arguments`, in their order. `workers` below 2 means this process, and so
    does a single argument, but with `apart`: a process can be ended at once, however long it waits for a network.

    A worker may be ended at any point, when one of them or the block fails or this process dies: what `function` writes
    must not be part of anything until it is whole. Its keyword `check` is to be called now and then, and raises Stopped
    in this process; in a worker it does nothing. `tick` is called now and then while results are waited for.

    Raises:
        Stopped: a stop was requested while a result was waited for.
    """
    if workers < 2 or len(arguments) < (1 if apart else 2):
        yield _here(function, arguments, stop, tick)
        return
    with _pool(min(workers, len(arguments))) as pool:
        futures = (pool.submit(function, *each, check=no_check) for each in arguments)
        with signals_blocked():  # a pool starts its processes when it is first given work
            queue = deque(islice(futures, AHEAD))
        yield _in_order(queue, futures, stop, tick)


def _here(function: Callable[..., R], arguments: Sequence[tuple[Any, ...]], stop: StopFlag, tick: Check) -> Iterator[R]:
    for each in arguments:
        yield function(*each, check=stop.check)
        tick()


def _in_order(queue: deque[Future[R]], more: Iterator[Future[R]], stop: StopFlag, tick: Check) -> Iterator[R]:
    waiting = set(queue)
    while queue:
        future = queue.popleft()  # a result that was taken is not kept
        while future in waiting:
            stop.check()
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for each in done:
                each.result()  # raises what failed, whoever's turn it is
            tick()
        for another in islice(more, 1):
            queue.append(another)
            waiting.add(another)
        yield future.result()


def in_a_process(function: Callable[..., R], *arguments: Any, seconds: float, stop: StopFlag) -> R:
    """What `function` returns in a process of its own, which is killed when it takes longer than `seconds` or a stop is
    requested: for foreign code, of which nobody knows what it makes of some user's text.

    Raises:
        RuntimeError: it failed, died or took too long.
        Stopped: a stop was requested.
    """
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(its, seconds, function, arguments))
    with signals_blocked():
        resource_tracker.ensure_running()
        process.start()
    its.close()
    deadline = time.monotonic() + seconds
    try:
        while not ours.poll(0.2):
            stop.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"took longer than {seconds:.0f} s")
        try:
            result, failure = ours.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"ended with exit code {process.exitcode}") from None
        if failure:
            raise RuntimeError(failure)
        return result
    finally:
        process.kill()
        process.join()
        ours.close()


def _answer(parent: Connection, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # Native code may hold the interpreter lock, so that no thread could watch for the parent's death.
    signal.alarm(math.ceil(seconds) + 1)
    try:
        answer = function(*arguments), ""
    except BaseException as error:  # a panic of Rust code is no Exception
        answer = None, f"{type(error).__name__}: {error}".split("\n")[0]
    parent.send(answer)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are ended at once when the block fails, or when this process is gone.

    They never see a signal, which a batch system may send to all of a job: the parent alone answers those.
    """
    # Spawned, not forked: a fork would copy the locks of whatever threads run here.
    context = multiprocessing.get_context("spawn")
    with signals_blocked():
        resource_tracker.ensure_running()  # by itself it ignores SIGTERM, but dies of SIGUSR2
    workers_end, our_end = context.Pipe(duplex=False)
    with workers_end, our_end, ProcessPoolExecutor(workers, context, _start_worker, (workers_end,)) as pool:
        try:
            yield pool
        except BaseException:
            our_end.close()
            raise


def _start_worker(parent: Connection) -> None:
    """End when the parent closes its end of the pipe, or is gone."""

    def watch() -> None:
        parent.poll(None)  # nothing is ever sent: this waits for the end of file
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
