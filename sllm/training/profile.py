"""A profile of one step: where its time and, on a GPU, its memory go."""

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from sllm.device import synchronize
from sllm.files import atomic_file

log = logging.getLogger(__name__)


@contextlib.contextmanager
def profiled(directory: Path, device: torch.device) -> Iterator[None]:
    """Write a trace of what is done inside, and the history of a GPU's memory, into `directory`.

    They are `trace.json.gz`, which chrome://tracing and Perfetto read, and `memory.json`, what
    `torch.cuda.memory._snapshot` returns: as JSON, since no pickle shall lie in a run. A full disk costs the profile,
    not the training, and is told in the log.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        torch.cuda.memory._record_memory_history()
    try:
        with torch.profiler.profile(activities=activities) as seen:
            yield
            synchronize(device)
        _write(seen, directory, device)
    finally:
        if device.type == "cuda":
            torch.cuda.memory._record_memory_history(enabled=None)


def _write(seen: torch.profiler.profile, directory: Path, device: torch.device) -> None:
    try:
        with tempfile.TemporaryDirectory() as own, atomic_file(directory / "trace.json.gz") as file:
            seen.export_chrome_trace(str(trace := Path(own) / "trace.json.gz"))
            file.write(trace.read_bytes())
        if device.type == "cuda":
            with atomic_file(directory / "memory.json") as file:
                file.write(json.dumps(torch.cuda.memory._snapshot(), default=str).encode())
    except OSError as error:
        log.error("profile not written: %s", error)
    else:
        log.info("profile written to %s", directory)
