"""One attempt of a job: what it knows about itself, its deadline, and whether it goes back into the queue at its end.

Who does what when a job is told to end:

* Python only looks at a flag. The ranks agree, save, and rank 0 says why they stop (`settle`). If the stage should
  go on, it leaves a marker file named after (job id, restart count) and exits with code 85.
* The batch shell requeues the job if the marker is there. It does not if Slurm itself has ended the job (the shell
  got SIGTERM): then Slurm has requeued it already, or a person wanted it dead.
* After a crash or a kill, when no rank could say anything, the shell asks `python -m jobs.slurm.attempt` whether to go
  on.
* When even the shell is gone (a node was lost), Slurm requeues, and the next attempt writes the ledger's line.

A job that ends without success and without being requeued fails, and Slurm cancels its dependents.
"""

import errno
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import hints, ledger
from jobs.pipeline import TRAININGS, whole_stage
from jobs.slurm.cluster import Resources, load_cluster
from jobs.slurm.commands import ask, end_time, show_job, submitted_jobs
from sllm.files import write_json
from sllm.records import read_new_jsonl
from sllm.run_directory import RunDirectory
from sllm.utf8 import set_up_streams, start_in_utf8_mode

TEARDOWN_SECONDS = 10.0
"""From the last checkpoint to the end of the batch script."""

EARLY_SECONDS = 90.0
"""How much earlier than asked for Slurm may warn of the time limit (a minute, by its manual)."""

MEASURED_STEPS = 1000

PORTS = range(10_000, 30_000)
"""Of the ranks' rendezvous: below those that systems hand out."""

OUTPUT_TAIL = 2000
"""Bytes of a job's output that may hold slurmstepd's last words."""


# --- what a job knows about itself ----------------------------------------------------------------


def this_job(stage: str) -> str:
    """How Slurm's commands name the job that this process belongs to: `12`, or `12_3`. One task of an array has the
    array's own number in SLURM_JOB_ID, which would mean all its tasks."""
    _, is_share, number = stage.partition(".")
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{number}" if is_share else os.environ["SLURM_JOB_ID"]


def array_task() -> int:
    """Which task of a job array this process belongs to, from 0."""
    return int(os.environ["SLURM_ARRAY_TASK_ID"])


def restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def attempt_token() -> str:
    """Unique to this attempt and known to all its ranks without asking: job id and restart count."""
    return f"{os.environ['SLURM_JOB_ID']}-{restarts()}"


def adopt_rank() -> int:
    """Set torchrun's variables from Slurm's. The rendezvous is on the first node, on a port of this attempt alone.
    Returns the rank."""
    env = os.environ
    env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_LOCALID"], env["SLURM_NTASKS"]
    if "MASTER_ADDR" not in env:
        env["MASTER_ADDR"] = _first_node() if int(env.get("SLURM_NNODES", "1")) > 1 else "127.0.0.1"
    # Another one after each requeue: the old one may still be in use.
    env["MASTER_PORT"] = str(PORTS[(int(env["SLURM_JOB_ID"]) * 31 + restarts() * 7919) % len(PORTS)])
    return int(env["RANK"])


def _first_node() -> str:
    """Where rank 0 is: the node that the batch script, and so srun, runs on."""
    nodes = ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"])
    first = nodes.split()[0] if nodes else ""
    try:
        socket.getaddrinfo(first, None)
        return first
    except OSError:
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")


def resources(run: RunDirectory, stage: str) -> Resources:
    return load_cluster(str(run.cluster)).resources(whole_stage(stage))


# --- its deadline ---------------------------------------------------------------------------------


class Deadline:
    """When to stop by ourselves so that what the training is at, and a checkpoint, still fit before the time limit,
    whatever signals come."""

    def __init__(self, run: RunDirectory, stage: str) -> None:
        self._stage = stage
        self._metrics = run.training(stage).metrics if stage in TRAININGS else None
        self._inode, self._offset = 0, 0  # only what is new is read: a long training's metrics are hundreds of MB
        kinds = ("train", "validation", "checkpoint")
        self._seconds: dict[str, deque[float]] = {kind: deque(maxlen=MEASURED_STEPS) for kind in kinds}
        self._profile = float(resources(run, stage).signal_seconds)
        self._began, self._has_stepped = time.time(), False

    def measure(self) -> float | None:
        """Unix time. None without a limit, or if Slurm does not say. Asks anew: a limit can be changed meanwhile."""
        job = show_job(this_job(self._stage))
        # The end of a job that was cancelled is now, and not its limit.
        end = end_time(job) if job and job["JobState"] == "RUNNING" else None
        return None if end is None else end - self.reserve() - TEARDOWN_SECONDS

    def reserve(self) -> float:
        """Seconds: the measured 99th percentiles of a step, or a validation, and of a save. A validation looks at the
        flag until it comes to its samples and the best model, so more than the profile's seconds is not left for it.

        The profile's seconds hold at least until all three are measured, and until this attempt has taken a step:
        before its first it compiles."""
        if self._metrics is not None and self._metrics.exists():
            inode = self._metrics.stat().st_ino
            if inode != self._inode:  # the resume has cut the file back, by writing it anew
                self._inode, self._offset = inode, 0
            for record, end in read_new_jsonl(self._metrics, self._offset, "kind", "time"):
                self._offset = end
                if record["kind"] in self._seconds:
                    self._seconds[record["kind"]].append(record["seconds"])
                    self._has_stepped |= record["kind"] == "train" and record["time"] >= self._began
        step, validation, save = (_p99(self._seconds[kind]) for kind in ("train", "validation", "checkpoint"))
        measured = max(step, min(validation, self._profile)) + save
        return measured if self._has_stepped and all(self._seconds.values()) else max(measured, self._profile)


def _p99(seconds: Sequence[float]) -> float:
    ordered = sorted(seconds)
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0


# --- its ends -------------------------------------------------------------------------------------


def begin(run: RunDirectory, stage: str, fingerprint: str) -> str | None:
    """Open the ledger for this attempt. Returns why it must not run, or None if it may."""
    token, job = attempt_token(), this_job(stage)
    previous = ledger.current(run, stage)
    if previous and previous["job"] == job and int(previous["token"].rsplit("-", 1)[1]) > restarts():
        return f"attempt {previous['attempt']} of the same job is newer"
    if previous and previous["job"]:
        cause = _lost_cause(previous, is_same_job=previous["job"] == job)
        ledger.close(run, stage, silent_cause=cause, retries=resources(run, stage).retries)
    same_job = [line for line in ledger.attempts(run, stage, fingerprint) if line["job"] == job]
    why = f"requeued: {same_job[-1]['ended']}" if same_job else ledger.SUBMITTED
    if restarts() and not same_job:
        why = "requeued"
    launched = float(os.environ.get("SLLM_JOB_STARTED", "0")) or None
    ranks, nodes = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "SLURM_NNODES"))
    ledger.begin(run, stage, fingerprint, token, why, job, launched, ranks, nodes)
    if submitted_jobs(run).get(stage) != job:  # by hand, with sbatch
        write_json(run.stage(stage) / "job.json", {"job": job})
    for old in run.stage(stage).glob("requeue-*"):
        old.unlink()
    if same_job and same_job[-1]["gave_up"]:
        reason: str = same_job[-1]["gave_up"]
        ledger.end(run, stage, token, ledger.GAVE_UP, reason)
        ledger.close(run, stage)
        return reason
    return None


def _lost_cause(before: dict[str, Any], *, is_same_job: bool) -> str:
    """What ended an attempt of which nobody has written anything."""
    job, restart = before["job"], int(before["token"].rsplit("-", 1)[1])
    states = (ask("sacct", "-n", "-X", "-P", "--duplicates", "-j", job, "-o", "State") or "").split("\n")
    state = states[restart].split(" ")[0] if restart < len(states) else ""
    causes = {"PREEMPTED": ledger.PREEMPTED, "CANCELLED": ledger.CANCELLED, "TIMEOUT": ledger.TIME_LIMIT}
    if state in causes:
        return causes[state]
    # Its batch script would have spoken for it, had its node still been there.
    return ledger.NODE_FAILURE if is_same_job else ledger.KILLED


def stop_cause(stage: str, reason: str) -> str:
    """Why Slurm, or a person, told this job to stop; `reason` is the flag's."""
    if reason == "deadline":
        return ledger.TIME_LIMIT
    job = show_job(this_job(stage))
    if job is None:
        return ledger.PREEMPTED
    if int(job["Restarts"]) > restarts() or job.get("PreemptTime", "None") != "None":
        return ledger.PREEMPTED
    if job["JobState"] == "COMPLETING":
        return ledger.TIME_LIMIT if job["Reason"] == "TimeLimit" else ledger.CANCELLED
    end = end_time(job)
    warned = float(os.environ.get("SLLM_SIGNAL_SECONDS", "0")) + EARLY_SECONDS
    limit = reason in ("SIGUSR1", "SIGUSR2") and end is not None and end - time.time() <= warned
    return ledger.TIME_LIMIT if limit else ledger.SIGNALLED


def settle(run: RunDirectory, stage: str, silent_cause: str = ledger.KILLED, hint: str = "") -> bool:
    """Close this attempt in the ledger, and leave the marker that makes the batch shell requeue the job, if the stage
    should go on. Returns whether it does."""
    token = attempt_token()
    current = ledger.current(run, stage)
    if current is None or current["token"] != token:
        return False  # fenced off, or it never began
    try:
        line = ledger.close(run, stage, silent_cause, resources(run, stage).retries, hint)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # An empty file finds room even on a full disk; the next attempt writes the line.
        marker(run, stage).touch()
        return True
    if line is None or line["gave_up"] or line["ended"] in (ledger.FINISHED, ledger.CANCELLED):
        if line and line["gave_up"]:
            print(f"not requeued: {line['gave_up']}", flush=True)
        return False
    marker(run, stage).touch()
    print(
        f"back into the queue ({line['ended']}); `{hints.command('status', run.path)}` tells when it starts", flush=True
    )
    return True


def marker(run: RunDirectory, stage: str) -> Path:
    return run.stage(stage) / f"requeue-{attempt_token()}"


# --- after a crash --------------------------------------------------------------------------------


def after(arguments: list[str]) -> None:
    """The batch shell asks: srun has ended with this code and left no marker. Say why in the ledger; go on or not."""
    path, stage, code, told_to_end = arguments
    run = RunDirectory(Path(path))
    cause = stop_cause(stage, "SIGTERM") if told_to_end else ledger.KILLED
    if settle(run, stage, silent_cause=cause, hint=_memory_hint(run, stage)):
        print(f"exit code {code}: trying again", flush=True)


def _memory_hint(run: RunDirectory, stage: str) -> str:
    """What to do if this attempt has just been killed for want of memory, which only the job's own output tells."""
    job = show_job(this_job(stage))
    try:
        output = Path(job["StdOut"] if job else "").read_bytes()[-OUTPUT_TAIL:]
    except OSError:
        return ""
    if b"oom-kill" not in output and b"Out Of Memory" not in output:
        return ""
    now = resources(run, stage).memory or "the cluster's default"
    return f"out of memory: raise stages.{stage}.memory (now {now})"


if __name__ == "__main__":
    start_in_utf8_mode()
    set_up_streams()
    after(sys.argv[1:])
