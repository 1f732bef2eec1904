"""The batch script of a stage: what is asked for, and the shell around the stage."""

import os
import shlex
import sys
from typing import Any

from jobs.pipeline import Stage
from jobs.slurm.cluster import Resources
from sllm.errors import UserError
from sllm.run_directory import RunDirectory

SRUN_OPTIONS = ["--kill-on-bad-exit=1", "--export=ALL"]
"""`--export`, because a job that was submitted without its submitter's variables would not pass on its own."""

JOB, ARRAY_TASK = "$SLURM_JOB_ID", "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
"""What `this_job` says, in the batch shell."""

UNUSABLE = {"here": "", "local": ":%", "slurm": ":%\\\n\r"}
"""Characters that the path of a run cannot have: PYTHONPATH has no quoting for a colon, nor submitit and Slurm for
their own `%j`; Slurm drops a backslash, and a directive ends with its line."""


def require_usable_path(run: RunDirectory, where: str) -> None:
    """Raises UserError if processes that are started on `where` could not find the run's files."""
    if unusable := sorted({character for character in str(run.path) if character in UNUSABLE[where]}):
        shown, path = (text.replace("\n", "\\n").replace("\r", "\\r") for text in (" ".join(unusable), str(run.path)))
        raise UserError(f"{path}: --on {where} cannot use a path with {shown} in it; choose another, runs_directory=…")


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
        f'{python} -m jobs.slurm.attempt {run} {stage} "$rc" "$slurm_term"; fi',
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
