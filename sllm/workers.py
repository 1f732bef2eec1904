"""Processes that work for one stage, and never outlive it: whatever ends the stage, a kill among it, ends them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

from sllm.stop import SIGNALS


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


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started in this block inherit its mask."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _start_worker(parent: Connection) -> None:
    """End when the parent closes its end of the pipe, or is gone."""

    def watch() -> None:
        parent.poll(None)  # nothing is ever sent: this waits for the end of file
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
