"""The batch script of a stage: one text, for submitit and for sbatch/.

Around the stage stands a shell that outlives it: see `jobs.slurm.attempt` for who does what at an end.
"""

import os
import re
import shlex
import sys

from jobs.pipeline import Stage
from jobs.slurm.cluster import Resources
from sllm.errors import UserError
from sllm.run_directory import RunDirectory

TEXT = """\
#!/bin/bash
<head>

# What is set for every srun, or comes from a job that this one was submitted in, is not meant for this one.
unset MASTER_ADDR
for name in ${!SLURM_@}; do
  case $name in
    SLURM_CONF* | SLURM_CLUSTERS | SLURM_JWT | SLURM_JOB* | SLURM_ARRAY_* | SLURM_RESTART_COUNT) ;;
    SLURM_NNODES | SLURM_NTASKS | SLURM_NTASKS_PER_NODE | SLURM_CPUS_PER_TASK) ;;
    *) unset "$name" ;;
  esac
done
for name in ${!SBATCH_@}; do echo "sbatch took $name=${!name} from the environment"; done
<setup>
run=<run> stage=<stage> tasks=<tasks> job=$SLURM_JOB_ID
# One task of a job array has the array's own number in SLURM_JOB_ID, which would mean all its tasks.
if [ -n "$tasks" ]; then stage=$stage.$SLURM_ARRAY_TASK_ID job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
if [ -n "${SBATCH_NO_REQUEUE+set}" ]; then scontrol update jobid="$job" requeue=1; fi
export PYTHONPATH="$run/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUTF8=1
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SLLM_SIGNAL_SECONDS=<signal_seconds> SLLM_JOB_STARTED=$(date +%s.%N)
slurm_term=; trap 'slurm_term=1' TERM

# A job that was submitted without its submitter's variables passes none on unless told so; srun 22.05 to 23.02 does not
# take the cores of a task from the job. Signals wait until our handlers are there: until then they would kill Python.
srun --kill-on-bad-exit=1 --export=ALL ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} <options>\\
  env --ignore-signal=USR2 --ignore-signal=TERM <command>

# What follows puts the job back into the queue if it stopped in order to go on, unless Slurm itself has ended it.
rc=$?
marker=$run/stages/$stage/requeue-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
if [ $rc -ne 0 ] && [ ! -e "$marker" ]; then
  <python> -m jobs.slurm.attempt "$run" "$stage" "$rc" "$slurm_term"
fi
for try in 1 2 3; do
  if [ -n "$slurm_term" ] || [ ! -e "$marker" ]; then break; fi
  if scontrol requeue "$job"; then break; fi
  sleep 2
done
exit $rc
"""

MOST_AT_ONCE = 256
"""So many tasks of an array run at a time."""

UNUSABLE = {"here": "", "local": ":%", "slurm": ":%\\\n\r"}
"""Characters that the path of a run cannot have: PYTHONPATH has no quoting for a colon, nor submitit and Slurm for
their own `%j`; Slurm drops a backslash, and a directive ends with its line."""


def require_usable_path(run: RunDirectory, where: str) -> None:
    """Raises UserError if processes that are started on `where` could not find the run's files."""
    if unusable := sorted({character for character in str(run.path) if character in UNUSABLE[where]}):
        shown, path = (text.replace("\n", "\\n").replace("\r", "\\r") for text in (" ".join(unusable), str(run.path)))
        raise UserError(f"{path}: --on {where} cannot use a path with {shown} in it; choose another, runs_directory=…")


def dependency_on(jobs: list[str], *, ended: bool = False) -> str | None:
    """On the success of these jobs or, with `ended`, on their end."""
    return ":".join(["afterany" if ended else "afterok", *jobs]) if jobs else None


def batch_text(
    run: RunDirectory, stage: Stage, resources: Resources, dependency: str | None, *, array: bool = False
) -> str:
    """The script that is sent for a stage, or for the job array before it. submitit's command finds there what to do,
    and calls `jobs.run.job`."""
    python = shlex.quote(sys.executable)
    folder, job = run.stage(stage.name) / "submitit", "%A_%a" if array else "%j"
    more = {
        "job-name": f"{run.name}.{stage}",
        "comment": f"sllm {run.path}",
        "output": f"{folder}/{job}_0_log.out",
        "array": f"0-{resources.array - 1}%{MOST_AT_ONCE}" if array else None,
        "dependency": dependency,
        "kill-on-invalid-dep": "yes" if dependency else None,
        "wckey": os.environ.get("SBATCH_WCKEY"),
    }
    return _fill(
        resources,
        head=_directives(resources, more),
        run=shlex.quote(str(run.path)),
        stage=stage.name,
        tasks=str(resources.array) if array else "",
        options=f"--unbuffered --output={shlex.quote(f'{folder}/{job}_%t_log.out')} ",
        command=f"SUBMITIT_EXECUTOR=slurm {python} -u -m submitit.core._submit {shlex.quote(str(folder))}",
        python=python,
    )


def plain_script(stage: Stage, resources: Resources) -> str:
    """The script sbatch/<stage>.sbatch: the same job for people who do not want a launcher."""
    usage = [f"# The stage {stage} of a run that `sllm prepare CONFIG` has written:  sbatch sbatch/{stage}.sbatch RUN"]
    if stage.work_share:
        usage.append(f"# One task for each of 8 shares of its work:  sbatch --array=0-7 sbatch/{stage}.sbatch RUN 8")
    usage += [
        "# pipeline.sh does both, for all stages. Options of sbatch and SBATCH_* in the environment outdo these",
        "# directives; it hides such variables, and those of a job that it is called in.",
    ]
    return _fill(
        resources,
        head=[*usage, *_directives(resources, {"job-name": f"sllm.{stage}"})],
        run="$1",
        stage=stage.name,
        tasks="${2:-}" if stage.work_share else "",
        options="",
        command=f'python -m jobs.run "$run" {stage}' + (" $tasks" if stage.work_share else ""),
        python="python",
    )


def _directives(resources: Resources, more: dict[str, str | None]) -> list[str]:
    """Lines for sbatch: what the profile asks for, and `more`. Options that the profile gives word for word outdo
    both.

    Of a range of nodes Slurm gives no more than the job has tasks, which are those of the fewest nodes, and never again
    fewer than have room for the tasks of the attempt before. So it is not told of tasks, but of the cores of a node.
    """
    tasks, cpus, is_range = resources.tasks_per_node, resources.cpus, len(resources.node_counts) > 1
    values: dict[str, str | int | bool | None] = {
        **more,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "reservation": resources.reservation,
        "exclude": resources.exclude,
        "nodes": resources.nodes,
        "ntasks-per-node": None if is_range else tasks,
        "mincpus": tasks * (cpus or 1) if is_range else None,
        "gres": resources.gres,
        "gpus-per-node": resources.gpus_per_node,
        "cpus-per-task": None if is_range else cpus,
        "mem": resources.memory,
        "time": resources.time_minutes,
        "signal": f"USR2@{resources.signal_seconds}",
        "open-mode": "append",
        "requeue": True,
    }
    for option in resources.sbatch:
        name, equals, value = option.removeprefix("--").partition("=")
        values[name] = value if equals else True
    given = {name: value for name, value in values.items() if value is not None}
    return [f"#SBATCH --{name}" + ("" if it is True else f"={shlex.quote(str(it))}") for name, it in given.items()]


def _tasks_of_range(resources: Resources) -> list[str]:
    """What Slurm sets where it was told of tasks."""
    if len(resources.node_counts) == 1:
        return []
    tasks, cpus = resources.tasks_per_node, resources.cpus
    variables = f"SLURM_NTASKS=$(({tasks} * SLURM_NNODES)) SLURM_NTASKS_PER_NODE={tasks}"
    return [f"export {variables}" + (f" SLURM_CPUS_PER_TASK={cpus}" if cpus else "")]


def _fill(resources: Resources, *, head: list[str], **parts: str) -> str:
    """TEXT with the parts that vary, each as the shell should read it."""
    parts |= {"head": "\n".join(head), "signal_seconds": str(resources.signal_seconds)}
    parts["setup"] = "\n".join([*_tasks_of_range(resources), *resources.setup])
    return re.sub("<([a-z_]+)>", lambda slot: parts[slot[1]], TEXT)
