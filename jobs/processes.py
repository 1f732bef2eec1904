"""The processes of a local submit. They are found by their command lines, so that they are found when the submit that
started them has been killed, and so that no process is meant that has come by the same number since."""

import contextlib
import os
import signal
from pathlib import Path

from sllm.run_directory import RunDirectory

MODULES = (b"submitit.local._local", b"submitit.core._submit")
"""What submitit starts: one that starts the ranks and waits for them, and the ranks."""


def local_processes(run: RunDirectory) -> list[int]:
    """Numbers of the processes of this machine and user that work on the run, Slurm's left out."""
    stages = run.stage("").resolve()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")[:-1]
            if not any(module in arguments for module in MODULES):
                continue
            of_this_run = Path(os.fsdecode(arguments[-1])).resolve().is_relative_to(stages)
            if of_this_run and b"SUBMITIT_EXECUTOR=local" in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:  # it has just ended, or is somebody else's
            continue
    return sorted(found)


def send_signal(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(process, number)
