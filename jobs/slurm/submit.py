"""Slurm: the jobs of a chain, what a job must know about itself, and when it goes back into the queue.

Who does what when a job is told to end:

* Python only looks at a flag. The ranks agree, save, and rank 0 says why they stop (`settle`). If the stage should
  go on, it leaves a marker file named after (job id, restart count) and exits with code 85.
* The batch shell requeues the job if the marker is there. It does not if Slurm itself has ended the job (the shell
  got SIGTERM): then Slurm has requeued it already, or a person wanted it dead.
* After a crash or a kill, when no rank could say anything, the shell asks `python -m jobs.slurm.submit` whether to go
  on.
* When even the shell is gone (a node was lost), Slurm requeues, and the next attempt writes the ledger's line.

A job that ends without success and without being requeued fails, and Slurm cancels its dependents.
"""

import contextlib
import errno
import io
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs import hints, ledger
from jobs.pipeline import STAGES, Stage, whole_stage
from jobs.slurm.cluster import Resources, load_cluster
from sllm.errors import UserError
from sllm.files import RunDirectory, read_new_jsonl, write_json
from sllm.utf8 import set_up_streams, start_in_utf8_mode

COMMAND_SECONDS = 20.0
"""How long a Slurm command may take; a busy controller is slow, one that is down never answers."""

TEARDOWN_SECONDS = 10.0
"""From the last checkpoint to the end of the batch script."""

EARLY_SECONDS = 90.0
"""How much earlier than asked for Slurm may warn of the time limit (a minute, by its manual)."""

MEASURED_STEPS = 1000

OUTPUT_TAIL = 2000
"""Bytes of a job's output that may hold slurmstepd's last words."""

SRUN_OPTIONS = ["--kill-on-bad-exit=1", "--export=ALL"]
"""`--export`, because a job that was submitted without its submitter's variables would not pass on its own."""

JOB, ARRAY_TASK = "$SLURM_JOB_ID", "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
"""What `this_job` says, in the batch shell."""

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


# --- what a job knows about itself ----------------------------------------------------------------


def this_job(stage: str) -> str:
    """How Slurm's commands name the job that this process belongs to: `12`, or `12_3`. One task of an array has the
    array's own number in SLURM_JOB_ID, which would mean all its tasks."""
    _, is_share, number = stage.partition(".")
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{number}" if is_share else os.environ["SLURM_JOB_ID"]


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
    # Below the ports that systems hand out, and another one after each requeue: the old one may still be in use.
    env["MASTER_PORT"] = str(10_000 + (int(env["SLURM_JOB_ID"]) * 31 + restarts() * 7919) % 20_000)
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


class Deadline:
    """When to stop by ourselves so that what the training is at, and a checkpoint, still fit before the time limit,
    whatever signals come."""

    def __init__(self, run: RunDirectory, stage: str) -> None:
        self._stage = stage
        self._metrics = run.metrics if stage == "pretrain" else None
        self._inode, self._offset = 0, 0  # only what is new is read: a long training's metrics are hundreds of MB
        kinds = ("train", "validation", "checkpoint")
        self._seconds: dict[str, deque[float]] = {kind: deque(maxlen=MEASURED_STEPS) for kind in kinds}
        self._profile = float(resources(run, stage).signal_seconds)
        self._began, self._has_stepped = time.time(), False

    def measure(self) -> float | None:
        """Unix time. None without a limit, or if Slurm does not say. Asks anew: a limit can be changed meanwhile."""
        job = show_job(this_job(self._stage))
        # The end of a job that was cancelled is now, and not its limit.
        end = _end_time(job) if job and job["JobState"] == "RUNNING" else None
        return None if end is None else end - self.reserve() - TEARDOWN_SECONDS

    def reserve(self) -> float:
        """Seconds: the measured 99th percentiles of a step, or a validation, and of a save. A validation looks at the
        flag until it comes to its samples and the best model, so more than the profile's seconds is not left for it.

        The profile's seconds hold at least until all three are measured, and until this attempt has taken a step:
        the first one of each compiles."""
        if self._metrics is not None and self._metrics.exists():
            inode = self._metrics.stat().st_ino
            if inode != self._inode:  # the resume has cut the file back, by writing it anew
                self._inode, self._offset = inode, 0
            records, self._offset = read_new_jsonl(self._metrics, self._offset, "kind", "time")
            for record in records:
                if record["kind"] in self._seconds:
                    self._seconds[record["kind"]].append(record["seconds"])
                    self._has_stepped |= record["kind"] == "train" and record["time"] >= self._began
        step, validation, save = (_p99(self._seconds[kind]) for kind in ("train", "validation", "checkpoint"))
        measured = max(step, min(validation, self._profile)) + save
        return measured if self._has_stepped and all(self._seconds.values()) else max(measured, self._profile)


def _end_time(job: dict[str, str]) -> float | None:
    """Unix time of a job's limit. Asked for because SLURM_JOB_END_TIME is newer than some Slurms (22.05 has none),
    and because a limit may be extended while the job runs."""
    return time_of(job.get("EndTime", ""))


def time_of(text: str) -> float | None:
    """Unix time of a time that Slurm prints; None for Unknown, None and the like."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def _p99(seconds: Sequence[float]) -> float:
    ordered = sorted(seconds)
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0


def resources(run: RunDirectory, stage: str) -> Resources:
    return load_cluster(str(run.cluster)).resources(whole_stage(stage))


# --- the ends of an attempt -----------------------------------------------------------------------


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
    ledger.begin(run, stage, fingerprint, token, why, job=job, launched=launched)
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
    end = _end_time(job)
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


# --- the shell around a stage ---------------------------------------------------------------------


HIDE_LINES = [
    "# What is set for every srun, or comes from a job that this one was submitted in, is not meant for this one.",
    "unset MASTER_ADDR",
    "for name in ${!SLURM_@}; do",
    "  case $name in",
    "    SLURM_CONF* | SLURM_CLUSTERS | SLURM_JWT | SLURM_JOB* | SLURM_ARRAY_* | SLURM_RESTART_COUNT) ;;",
    "    SLURM_NNODES | SLURM_NTASKS | SLURM_NTASKS_PER_NODE | SLURM_CPUS_PER_TASK) ;;",
    '    *) unset "$name" ;;',
    "  esac",
    "done",
]


UNUSABLE = {"here": "", "local": ":%", "slurm": ":%\\\n\r"}
"""Characters that the path of a run cannot have: PYTHONPATH has no quoting for a colon, nor submitit and Slurm for
their own `%j`; Slurm drops a backslash, and a directive ends with its line."""


def require_usable_path(run: RunDirectory, where: str) -> None:
    """Raises UserError if processes that are started on `where` could not find the run's files."""
    if unusable := sorted({character for character in str(run.path) if character in UNUSABLE[where]}):
        shown, path = (text.replace("\n", "\\n").replace("\r", "\\r") for text in (" ".join(unusable), str(run.path)))
        raise UserError(f"{path}: --on {where} cannot use a path with {shown} in it; choose another, runs_directory=…")


def setup_lines(run: str, resources: Resources) -> list[str]:
    """Shell lines before srun. `run` is the run directory as the shell should read it."""
    return [
        *resources.setup,
        f"export PYTHONPATH={run}/code${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        "export PYTHONUTF8=1",
        "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
        f"export SLLM_SIGNAL_SECONDS={resources.signal_seconds} SLLM_JOB_STARTED=$(date +%s.%N)",
        "slurm_term=; trap 'slurm_term=1' TERM",
    ]


def python_command(python: str) -> str:
    """Signals wait until our handlers are there: before that they would kill the interpreter."""
    return f"env --ignore-signal=USR2 --ignore-signal=TERM {python}"


def teardown_lines(run: str, stage: str, job: str, python: str) -> list[str]:
    """Shell lines after srun: requeue if the marker is there and Slurm has not ended the job itself. `stage` and `job`
    are as the shell should read them."""
    return [
        "rc=$?",
        f"marker={run}/stages/{stage}/requeue-$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}",
        'if [ $rc -ne 0 ] && [ ! -e "$marker" ]; then '
        f'{python} -m jobs.slurm.submit {run} {stage} "$rc" "$slurm_term"; fi',
        "for try in 1 2 3; do",
        '  if [ -n "$slurm_term" ] || [ ! -e "$marker" ]; then break; fi',
        f'  if scontrol requeue "{job}"; then break; fi',
        "  sleep 2",
        "done",
        "exit $rc",
    ]


def batch_parameters(
    run: RunDirectory, stage: Stage, resources: Resources, dependency: str | None = None, *, array: bool = False
) -> dict[str, Any]:
    """submitit's parameters for a stage, or for the job array before it."""
    python = shlex.quote(sys.executable)
    path = shlex.quote(str(run.path))
    name, job = (f"{stage}.$SLURM_ARRAY_TASK_ID", ARRAY_TASK) if array else (stage.name, JOB)
    # submitit would take the name of the signal from a variable.
    additional: dict[str, Any] = {"requeue": True, "signal": f"USR2@{resources.signal_seconds}"}
    if resources.memory:
        additional["mem"] = resources.memory
    if resources.reservation:
        additional["reservation"] = resources.reservation
    if dependency:
        additional["kill-on-invalid-dep"] = "yes"
    for option in resources.sbatch:
        key, equals, value = option.removeprefix("--").partition("=")
        additional[key] = value if equals else True
    parameters = {
        "job_name": f"{run.name}.{stage}",
        "comment": f"sllm {run.path}",
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "gres": resources.gres,
        "gpus_per_node": resources.gpus_per_node,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "cpus_per_task": resources.cpus,
        "time": resources.time_minutes,
        "dependency": dependency,
        "setup": setup_lines(path, resources),
        "teardown": teardown_lines(path, name, job, python),
        # srun 22.05 to 23.02 does not take the cores of a task from the job.
        "srun_args": [*SRUN_OPTIONS, *([f"--cpus-per-task={resources.cpus}"] if resources.cpus else [])],
        "stderr_to_stdout": True,
        "additional_parameters": additional,
    }
    # submitit's own default, "submitit", is refused by clusters that check workload keys.
    return {name: value for name, value in parameters.items() if value is not None} | {
        "wckey": os.environ.get("SBATCH_WCKEY")
    }


def batch_text(
    run: RunDirectory, stage: Stage, resources: Resources, dependency: str | None, *, array: bool = False
) -> str:
    """The batch script that submitit would send for a stage, or for the job array before it."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = run.stage(stage.name) / "submitit"
    command = f"{python_command(shlex.quote(sys.executable))} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    parameters = batch_parameters(run, stage, resources, dependency, array=array)
    tasks = resources.array if array else None
    text: str = _make_sbatch_string(command=command, folder=folder, map_count=tasks, **parameters)
    return text


def plain_script(stage: Stage, resources: Resources) -> str:
    """The script sbatch/<stage>.sbatch: the same job for people who do not want a launcher."""
    directives = {
        "job-name": f"sllm.{stage}",
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "nodes": resources.nodes,
        "ntasks-per-node": resources.tasks_per_node,
        "gres": resources.gres,
        "gpus-per-node": resources.gpus_per_node,
        "cpus-per-task": resources.cpus,
        "mem": resources.memory,
        "time": resources.time_minutes,
        "signal": f"USR2@{resources.signal_seconds}",
        "open-mode": "append",
    }
    options = " ".join(SRUN_OPTIONS) + ' --cpus-per-task="$SLURM_CPUS_PER_TASK"'
    arguments, name, job, share = f'"$run" {stage}', stage.name, JOB, list[str]()
    usage = [f"# The stage {stage} of a run that `sllm prepare CONFIG` has written:  sbatch sbatch/{stage}.sbatch RUN"]
    if stage.work_share:
        usage.append(f"# One task for each of 8 shares of its work:  sbatch --array=0-7 sbatch/{stage}.sbatch RUN 8")
        share = [
            f"stage={stage} job={JOB}",
            f'if [ -n "${{2:-}}" ]; then stage={stage}.$SLURM_ARRAY_TASK_ID job={ARRAY_TASK}; fi',
        ]
        arguments, name, job = arguments + ' ${2:+"$SLURM_ARRAY_TASK_ID" "$2"}', "$stage", "$job"
    return "\n".join(
        [
            "#!/bin/bash",
            *usage,
            "# pipeline.sh does both, for all stages. Options of sbatch and SBATCH_* in the environment outdo these",
            "# directives; it hides such variables, and those of a job that it is called in.",
            *(f"#SBATCH --{name}={value}" for name, value in directives.items() if value is not None),
            "#SBATCH --requeue",
            "",
            "run=$1",
            *share,
            *HIDE_LINES,
            'for name in ${!SBATCH_@}; do echo "sbatch took $name=${!name} from the environment"; done',
            f'if [ -n "${{SBATCH_NO_REQUEUE+set}}" ]; then scontrol update jobid="{job}" requeue=1; fi',
            *setup_lines('"$run"', resources),
            "",
            f"srun {options} {python_command('python')} -m jobs.run {arguments}",
            "",
            "# What follows puts the job back into the queue if it stopped in order to go on.",
            *teardown_lines('"$run"', name, job, "python"),
            "",
        ]
    )


def dependency_on(jobs: list[str]) -> str | None:
    return "afterok:" + ":".join(jobs) if jobs else None


def submit_job(
    run: RunDirectory, stage: Stage, resources: Resources, dependency: str | None, *, array: bool = False
) -> str:
    """Submit a stage, or the job array before it, through submitit; returns the job id. Raises UserError with what
    sbatch says."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from jobs.run import job

    executor = submitit.SlurmExecutor(
        folder=run.stage(stage.name) / "submitit", python=python_command(shlex.quote(sys.executable))
    )
    executor.update_parameters(**batch_parameters(run, stage, resources, dependency, array=array))
    try:
        with without_foreign_variables(), contextlib.redirect_stderr(io.StringIO()):
            if array:
                count = resources.array
                shares = [(number, count) for number in range(count)]
                repeated = [[argument] * count for argument in (str(run.path), stage.name, None)]
                submitted = executor.map_array(job, *repeated, shares)[0]
            else:
                submitted = executor.submit(job, str(run.path), stage.name)
    except (FailedJobError, FailedSubmissionError) as error:
        for leftover in [*executor.folder.glob(".submission_file_*"), *executor.folder.glob(f"{'?' * 32}.pkl")]:
            leftover.unlink()  # written for sbatch, which did not want them
        raise UserError(f"stages.{stage}: sbatch refuses: {sbatch_message(str(error))}") from None
    identifier: str = submitted.job_id.partition("_")[0]
    record = {"job": identifier, "submitted": time.time()}
    try:
        write_json(run.stage(stage.name) / ("array.json" if array else "job.json"), record)
    except OSError:
        cancel_jobs([identifier])  # nobody would know of it
        raise
    return identifier


def sbatch_message(stderr: str) -> str:
    """The one line of sbatch's complaints that says the most."""
    failed = "Batch job submission failed"
    lines = [line.split("error: ")[-1].strip() for line in stderr.split("\n") if "error:" in line]
    telling = [line for line in lines if line != failed] or stderr.strip().split("\n")[:1]
    return telling[-1].removeprefix("sbatch: ").removeprefix(f"{failed}: ")


# --- asking Slurm ---------------------------------------------------------------------------------


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


def ask(*command: str) -> str | None:
    """What a Slurm command prints, or None if it is not there, fails or does not answer."""
    try:
        done = subprocess.run(command, env=own_variables(), capture_output=True, timeout=COMMAND_SECONDS, check=True)
        return done.stdout.decode("utf-8", "replace").strip()
    except (OSError, subprocess.SubprocessError):
        return None


def show_job(job: str) -> dict[str, str] | None:
    """The fields of `scontrol show job`, or None."""
    text = ask("scontrol", "show", "job", "-o", job)
    return dict(re.findall(r"(?:^|\s)([A-Za-z][\w/:]*)=(.*?)(?=\s+[A-Za-z][\w/:]*=|$)", text)) if text else None


def submitted_jobs(run: RunDirectory) -> dict[str, str]:
    """Stage → id of the job it was last submitted as; `download.*` is the array of download."""
    found = {}
    for stage in STAGES:
        found[f"{stage}.*"] = ledger.read_or_none(run.stage(stage) / "array.json", "job")
        found[stage] = ledger.read_or_none(run.stage(stage) / "job.json", "job")
    return {stage: record["job"] for stage, record in found.items() if record}


QUEUE_FIELDS = {"state": "%T", "reason": "%r", "left": "%L", "start": "%S", "node": "%N", "partition": "%P"}


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


def after(arguments: list[str]) -> None:
    """The batch shell asks: srun has ended with this code and left no marker. Say why in the ledger; go on or not."""
    path, stage, code, told_to_end = arguments
    run = RunDirectory(Path(path))
    cause = stop_cause(stage, "SIGTERM") if told_to_end else ledger.KILLED
    if settle(run, stage, silent_cause=cause, hint=_memory_hint(run, stage)):
        print(f"exit code {code}: trying again", flush=True)


if __name__ == "__main__":
    start_in_utf8_mode()
    set_up_streams()
    after(sys.argv[1:])
