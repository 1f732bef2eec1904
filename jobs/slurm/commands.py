"""Asking Slurm, and in whose name: what its commands say of jobs, and which variables they and the jobs may see."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

from jobs import hints, ledger
from jobs.pipeline import STAGES
from sllm.errors import UserError
from sllm.run_directory import RunDirectory

COMMAND_SECONDS = 20.0
"""How long a Slurm command may take; a busy controller is slow, one that is down never answers."""

QUEUE_FIELDS = {"state": "%T", "reason": "%r", "left": "%L", "start": "%S", "node": "%N", "partition": "%P"}

FOREIGN_PREFIXES = (
    *("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_"),
    *("SUBMITIT_", "TORCHELASTIC_"),
)

FOREIGN_NAMES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
)

ADDRESSES = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Where Slurm is, and who asks."""


# --- whose variables ------------------------------------------------------------------------------


def foreign_variables() -> dict[str, str]:
    """The variables of this process that speak of somebody else's job, or to Slurm's commands: those of a job, array
    or torchrun that a submit was typed in, and what a site or a person sets for every sbatch, srun, squeue.

    None of them may decide what a stage is or gets: that follows from what was submitted.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if (name.startswith(FOREIGN_PREFIXES) or name in FOREIGN_NAMES) and name not in ADDRESSES
    }


@contextlib.contextmanager
def without_foreign_variables() -> Iterator[None]:
    """Hide them from this process, and what it starts, inside the block."""
    hidden = foreign_variables()
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def own_variables() -> dict[str, str]:
    """All others, for a command of Slurm's: SQUEUE_STATES hides jobs from squeue, SLURM_TIME_FORMAT changes times."""
    foreign = foreign_variables()
    return {name: value for name, value in os.environ.items() if name not in foreign}


# --- asking ---------------------------------------------------------------------------------------


def ask(*command: str) -> str | None:
    """What a Slurm command prints, or None if it is not there, fails or does not answer."""
    try:
        done = subprocess.run(command, env=own_variables(), capture_output=True, timeout=COMMAND_SECONDS, check=True)
        return done.stdout.decode("utf-8", "replace").strip()
    except (OSError, subprocess.SubprocessError):
        return None


def require_slurm() -> None:
    """Raises UserError if Slurm's commands are not here, or its controller does not answer."""
    missing = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
    if missing:
        raise UserError(f"--on slurm: {', '.join(missing)} not found; run this on a login node of the cluster")
    if ask("scontrol", "ping") is None:
        raise UserError(
            f"--on slurm: Slurm does not answer now (scontrol ping); try again later, or see "
            f"`{hints.command('doctor')}`"
        )


def show_job(job: str) -> dict[str, str] | None:
    """The fields of `scontrol show job`, or None."""
    text = ask("scontrol", "show", "job", "-o", job)
    return dict(re.findall(r"(?:^|\s)([A-Za-z][\w/:]*)=(.*?)(?=\s+[A-Za-z][\w/:]*=|$)", text)) if text else None


def end_time(job: dict[str, str]) -> float | None:
    """Unix time of a job's limit. Asked for because SLURM_JOB_END_TIME is newer than some Slurms (22.05 has none),
    and because a limit may be extended while the job runs."""
    return time_of(job.get("EndTime", ""))


def time_of(text: str) -> float | None:
    """Unix time of a time that Slurm prints; None for Unknown, None and the like."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def submitted_jobs(run: RunDirectory) -> dict[str, str]:
    """Stage → id of the job it was last submitted as; `download.*` is the array of download."""
    found = {}
    for stage in STAGES:
        found[f"{stage}.*"] = ledger.read_or_none(run.stage(stage) / "array.json", "job")
        found[stage] = ledger.read_or_none(run.stage(stage) / "job.json", "job")
    return {stage: record["job"] for stage, record in found.items() if record}


def queued(jobs: list[str]) -> dict[str, dict[str, str]] | None:
    """Job id → fields, of those that are queued or running. None if Slurm does not answer.

    An array is there as long as one of its tasks is.
    """
    if not jobs:
        return {}
    fields = "|".join(["%F", "%i", *QUEUE_FIELDS.values()])
    # Asked for by user, not by id: squeue fails if one of several ids is unknown.
    text = ask("squeue", "-h", "--me", "-o", fields)
    if text is None:
        return None
    found: dict[str, dict[str, str]] = {}
    for array, job, *values in (line.split("|") for line in text.split("\n") if line):
        found |= {each: dict(zip(QUEUE_FIELDS, values, strict=True)) for each in (array, job) if each in jobs}
    return found


def live_jobs(run: RunDirectory) -> dict[str, tuple[str, str]]:
    """Stage → job id and state, of the run's jobs that are queued or running.

    Raises:
        UserError: Slurm does not answer.
    """
    jobs = submitted_jobs(run)
    found = queued(list(jobs.values()))
    if found is None:
        raise UserError(
            f"{run.path}: was submitted to Slurm, which does not answer now (squeue), so its jobs may be at work; try "
            f"again later, or submit under another name=…"
        )
    return {stage: (job, found[job]["state"]) for stage, job in jobs.items() if job in found}


def final_states(jobs: list[str]) -> dict[str, str]:
    """Job id → last state, as far as the accounting knows: COMPLETED, FAILED, CANCELLED, TIMEOUT, …"""
    text = ask("sacct", "-n", "-X", "-P", "-j", ",".join(jobs), "-o", "JobID,State") if jobs else None
    rows = [line.split("|") for line in (text or "").split("\n") if "|" in line]
    return {row[0]: row[1].split(" ")[0] for row in rows}


def cancel_jobs(jobs: list[str]) -> None:
    """Cancel jobs, dependents first so that none starts. Raises UserError if Slurm does not answer."""
    for job in sorted(jobs, key=int, reverse=True):
        with contextlib.suppress(subprocess.CalledProcessError):  # it has just ended
            try:
                scancel = ["scancel", job]
                subprocess.run(scancel, env=own_variables(), capture_output=True, check=True, timeout=COMMAND_SECONDS)
            except (OSError, subprocess.TimeoutExpired):
                raise UserError(f"scancel {job}: Slurm does not answer; try again later") from None


def refusal(script: str) -> str:
    """Why Slurm would not take this batch script; empty if it would."""
    try:
        done = subprocess.run(
            ["sbatch", "--test-only"],
            input=script,
            env=own_variables(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "sbatch --test-only does not answer"
    return "" if done.returncode == 0 else sbatch_message(done.stderr)


def sbatch_message(stderr: str) -> str:
    """The one line of sbatch's complaints that says the most."""
    failed = "Batch job submission failed"
    lines = [line.split("error: ")[-1].strip() for line in stderr.split("\n") if "error:" in line]
    telling = [line for line in lines if line != failed] or stderr.strip().split("\n")[:1]
    return telling[-1].removeprefix("sbatch: ").removeprefix(f"{failed}: ")
