"""Processes that work for one stage, and never outlive it: whatever ends the stage, a kill among it, ends them."""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from sllm.stop import StopFlag, signals_blocked

R = TypeVar("R")


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are ended at once when the block fails, or when this process is gone.

    They never see a signal, which a batch system may send to all of a job: the parent alone answers those. Submit
    within `signals_blocked()`, because a pool starts its processes when it is first given work.
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


def _start_worker(parent: Connection) -> None:
    """End when the parent closes its end of the pipe, or is gone."""

    def watch() -> None:
        parent.poll(None)  # nothing is ever sent: this waits for the end of file
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
