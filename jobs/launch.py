"""Run the stages of an experiment that are not done: in this process, or as local processes with a live view."""

import os
import platform
import shlex
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from jobs import ledger
from jobs.hints import command, short
from jobs.pipeline import (
    STAGES,
    Keys,
    Stage,
    Step,
    former_training,
    last_step,
    plan,
    set_aside,
    setting_changes,
    submitted_keys,
    up_to,
)
from jobs.prepare import (
    Move,
    ask,
    confirm_moves,
    is_interactive,
    lock,
    lock_holder,
    snapshot_code,
    swap_training,
    training_moves,
    write_submission,
)
from jobs.presets import PROFILES
from jobs.processes import local_processes, send_signal
from jobs.run import adopt_device, job, new_token, require_parents, run_here, set_up_logging
from jobs.slurm.batch import batch_text, dependency_on, require_usable_path
from jobs.slurm.cluster import Cluster, Resources, load_cluster
from jobs.slurm.commands import cancel_jobs, live_jobs, require_slurm, without_foreign_variables
from jobs.slurm.partitions import misfits, partitions
from jobs.slurm.submit import submit_job
from jobs.status import results_table
from jobs.view import View, view
from sllm.artifacts import Artifacts, differences, stage_keys
from sllm.config import Experiment, check_world_size
from sllm.errors import Stopped, UserError
from sllm.files import fingerprint
from sllm.model.size import flops_per_token
from sllm.progress import format_seconds
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag, signals_blocked, stop_on_signals
from sllm.terminal import outlive_readers

if TYPE_CHECKING:
    import submitit

Where = Literal["here", "local", "slurm"]

POLL_SECONDS = 0.2
YEAR_MINUTES = 365 * 24 * 60

CPU_FLOPS = 1e11
"""What one core computes in a second, at the very most: two AVX2 multiply-adds of eight floats each at 3 GHz."""


class StageFailedError(Exception):
    """A stage ended in an exception of ours or was killed; the message has been shown."""


def destination(experiment: Experiment, on: Where | None, profile: str | None) -> tuple[Where, Cluster, str]:
    """Where to run and with which profile, and why there, if that was not said.

    Where it was not said: on Slurm if the profile is one for Slurm, else where the run ran before, else as processes of
    this machine. Without a profile it is the one that the run had there.

    Raises:
        UserError: the profile is wrong, or missing for Slurm.
    """
    run = RunDirectory(experiment.run_path)
    before = (ledger.read_or_none(run.submission) or {}).get("on")
    given = load_cluster(profile) if profile is not None else None
    if on is not None:
        where, why = on, ""
    elif given is not None and given.for_slurm:
        where, why = "slurm", f"{profile} is a profile for Slurm"
    elif before is not None and (given is None or given.to_yaml() == _recorded_profile(run)):
        where, why = before, "" if before == "local" else "it ran there before"
    else:
        where, why = "local", ""
    if given is None and where == before and run.cluster.is_file():
        given = load_cluster(str(run.cluster))
    if given is None and where == "slurm":
        raise UserError(f"--on slurm: needs --cluster PROFILE; copy and edit {PROFILES}/h100.yaml")
    return where, given or load_cluster("laptop"), why


def _recorded_profile(run: RunDirectory) -> str:
    return run.cluster.read_text(encoding="utf-8") if run.cluster.is_file() else ""


def submit(
    experiment: Experiment,
    cluster: Cluster,
    where: Where,
    *,
    console: Console,
    until: str | None = None,
    dry_run: bool = False,
    resume: bool = False,
    yes: bool = False,
) -> int:
    """Run what is not done. Returns the exit code: 0, 1 if a stage failed, 130 if it was asked to stop.

    With `resume` it only goes on with what was submitted before, and on Slurm, where some of its jobs may still be in
    the queue, submits those that are neither there nor done. Asks before much work moves or begins, unless `yes`.

    Raises:
        UserError: anything wrong with the experiment, the profile, the run directory or the input; with `resume`,
            nothing was submitted before, or other settings; the answer was no. What was there before is then unchanged.
    """
    run, stages, keys = RunDirectory(experiment.run_path), up_to(until), stage_keys(experiment)
    artifacts = Artifacts(experiment, keys)
    require_usable_path(run, where)
    check_world_size(experiment.train, 1 if where == "here" else cluster.resources("pretrain").ranks)
    if resume:
        _require_same_settings(run, keys)
    steps = plan(run, keys, artifacts, stages)
    if dry_run:
        show_plan(console, run, steps, cluster.with_site_defaults() if where == "slurm" else cluster, where)
        for line in [*map(str, training_moves(run, keys)), *_slow(experiment, run, steps, cluster, where)]:
            console.print(line, highlight=False, soft_wrap=True)
        return 0
    if where == "slurm":
        require_slurm()
    elif where == "local":
        _require_machine(steps, cluster)
    if all(step.done for step in steps):
        done = ", ".join(step.stage.name for step in steps)
        console.print(f"Nothing to do: {done} are done in {run.path}", highlight=False, soft_wrap=True)
        _show_next(console, _commands_after(run))
        return 0
    try:
        with stop_on_signals() as stop, lock(run, Path(experiment.data_directory), command=_command_line()):
            live = _live_jobs(run, keys)
            steps = plan(run, keys, artifacts, stages)
            missing = any(not step.done and step.stage.name not in live for step in steps)
            if live and not (resume and where == "slurm" and missing):
                text = f"Nothing submitted, {run.name} is in the queue: {_listed(live)}"
                console.print(text, highlight=False, soft_wrap=True)
                _show_next(console, _queue_commands(run))
                return 0
            require_no_processes(run)
            confirm_slow(_slow(experiment, run, steps, cluster, where), yes=yes)
            if not live:
                confirm_moves(run, keys, yes=yes)
            stop.check()
            moves = list[Move]()
            if not live:  # else its jobs keep the settings and the code that they were submitted with
                moves = swap_training(run, keys)
                write_submission(run, experiment, keys, cluster, where)
                steps = plan(run, keys, artifacts, stages)
                if where != "here":
                    snapshot_code(run)
            for move in moves:
                console.print(str(move), highlight=False, markup=False, soft_wrap=True)
            if where == "slurm":
                jobs = {stage: job for stage, (job, _) in live.items()}
                _submit_chain(run, steps, jobs, cluster.with_site_defaults(), console, stop)
                return 0
            outlive_readers()
            if where == "here":
                with without_foreign_variables():  # this process alone, whatever torchrun it was started in
                    _run_here(experiment, run, keys, steps, cluster, console, stop)
            else:
                _run_local(run, keys, steps, cluster, console, stop)
    except Stopped as stopped:
        console.print(f"Stopped ({stopped}). The same command goes on from here.", highlight=False)
        return 130
    except StageFailedError:
        return 1
    table = results_table(run)
    if table is not None:
        console.print(table)
    console.print(f"Run: {run.path}", highlight=False, soft_wrap=True)
    _show_next(console, _commands_after(run))
    return 0


def _show_next(console: Console, commands: list[str]) -> None:
    for line in ["Next:", *(f"  {text}" for text in commands)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _commands_after(run: RunDirectory) -> list[str]:
    """What to do with a run that has ended well."""
    if not run.best.is_dir():
        return [command("status", run), command("logs", run)]
    export = command("export", "--model", run, "--output", short(run.path / "transformers"))
    return [command("chat", "--model", run), export, command("logs", run, "pretrain")]


def _queue_commands(run: RunDirectory) -> list[str]:
    return [command("status", run), command("logs", run, "-f"), command("cancel", run)]


def _require_same_settings(run: RunDirectory, keys: Keys) -> None:
    """Raises UserError if nothing was submitted to the run directory, or something else than this."""
    former = submitted_keys(run)
    if former is None:
        raise UserError(f"{run.path}: nothing was submitted here; submit without --resume")
    if changed := dict.fromkeys(line for stage in keys for line in setting_changes(former[stage], keys[stage])):
        raise UserError(
            f"{run.path}: --resume only goes on, and the settings have changed ({'; '.join(changed)}); "
            f"submit without --resume, or take another name=…"
        )


# --- before anything is written -------------------------------------------------------------------


def _require_machine(steps: list[Step], cluster: Cluster) -> None:
    """Raises UserError, a line for each problem, if the profile asks for what this machine does not have."""
    problems = []
    for stage in (step.stage for step in steps if not step.done):
        resources = cluster.resources(stage.name)
        if resources.nodes > 1:
            problems.append(
                f"stages.{stage}: nodes is {resources.nodes}, but --on local has one machine; use tasks_per_node"
            )
        if resources.promised_device == "gpu":
            import torch

            if resources.gpus > (there := torch.cuda.device_count()):
                problems.append(
                    f"stages.{stage}: asks for {resources.gpus} GPUs, but PyTorch sees {there} on this machine; ask "
                    f"for no more, or submit it --on slurm"
                )
    if problems:
        raise UserError("\n".join(problems))


def _slow(experiment: Experiment, run: RunDirectory, steps: list[Step], cluster: Cluster, where: Where) -> list[str]:
    """A line if training would take days because it would run without a GPU."""
    resources = cluster.resources("pretrain")
    if where == "slurm" or all(step.done for step in steps if step.stage.name == "pretrain"):
        return []
    if where == "local" and resources.promised_device == "gpu":
        return []
    model, train = experiment.model, experiment.train
    left = train.max_steps - (0 if former_training(run) != stage_keys(experiment)["pretrain"] else last_step(run))
    flops = flops_per_token(model, experiment.tokenizer.vocab_size) * left * train.global_batch * model.context_length
    cores = len(os.sched_getaffinity(0))
    days = flops / (cores * CPU_FLOPS) / 86_400
    if days < 1:
        return []
    import torch

    if torch.cuda.is_available() and where == "here":
        return []
    remedy = (
        "give it GPUs: stages.pretrain.gpus_per_node in a profile, --cluster"
        if torch.cuda.is_available()
        else "this machine has no GPU"
    )
    return [f"pretrain would take at least {days:,.0f} days on {cores} CPU core{'s' if cores > 1 else ''} ({remedy})"]


def confirm_slow(lines: list[str], *, yes: bool) -> None:
    """Raises UserError if training would take days on the CPU, and nobody says that this is meant."""
    if lines and not yes and not (is_interactive() and ask(f"{lines[0]}. Start it?")):
        raise UserError(f"{lines[0]}: not started; --yes starts it")


def show_plan(console: Console, run: RunDirectory, steps: list[Step], cluster: Cluster, where: Where) -> None:
    console.print(f"{run.path} on {where}", style="bold", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("stage", "state", "resources", "why"):
        table.add_column(column, overflow="fold")
    for step in steps:
        ranks = describe_resources(cluster.resources(step.stage.name), where)
        table.add_row(
            step.stage.name, "done" if step.done else "run", "" if step.done else ranks, "\n".join(step.reasons)
        )
    console.print(table)
    if where == "slurm":
        pending = {step.stage.name for step in steps if not step.done}
        for step in steps:
            if step.stage.name in pending:
                dependency = dependency_on([f"<{name}>" for name in step.stage.needs if name in pending])
                resources = cluster.resources(step.stage.name)
                if resources.array > 1:
                    print(f"\n# ---- {step.stage}.* ----")
                    print(batch_text(run, step.stage, resources, dependency, array=True))
                    dependency = dependency_on([f"<{step.stage}.*>"])
                print(f"\n# ---- {step.stage} ----")
                print(batch_text(run, step.stage, resources, dependency))


def describe_resources(resources: Resources, where: Where) -> str:
    if where == "here":
        return "this process"
    parts = [f"{resources.ranks} process" + ("es" if resources.ranks > 1 else "")]
    if where == "slurm":
        parts.append(f"{resources.nodes} node" + ("s" if resources.nodes > 1 else ""))
        parts += [f"before it an array of {resources.array}"] if resources.array > 1 else []
    if resources.cpus:
        parts.append(
            f"{resources.cpus} core{'s' if resources.cpus > 1 else ''}{' each' if resources.ranks > 1 else ''}"
        )
    if resources.gpus_per_node or resources.gres:
        parts.append(resources.gres or f"{resources.gpus_per_node} GPU a node")
    if where == "slurm":
        parts += [f"{name} {value}" for name, value in _slurm_words(resources).items() if value]
    return ", ".join(parts)


def _slurm_words(resources: Resources) -> dict[str, str | None]:
    limit = format_seconds(60 * resources.time_minutes)
    return {"memory": resources.memory, "partition": resources.partition, "limit": limit}


# --- here -----------------------------------------------------------------------------------------


def _run_here(
    experiment: Experiment,
    run: RunDirectory,
    keys: Keys,
    steps: list[Step],
    cluster: Cluster,
    console: Console,
    stop: StopFlag,
) -> None:
    set_up_logging()
    for step in steps:
        if step.done:
            console.print(f"{step.stage}: done", highlight=False)
            continue
        console.print(f"{step.stage}: {'; '.join(step.reasons)}", highlight=False, soft_wrap=True)
        stop.check()
        adopt_device(cluster.resources(step.stage.name).promised_device)
        run_here(step.stage, experiment, run, keys, stop, ledger.SUBMITTED)


def run_single(name: str, experiment: Experiment) -> str:
    """One stage, whose parents are done, in this process; under torchrun as one of its ranks. Returns what to print.

    Raises:
        UserError: a parent is missing, or a submit would exchange the run's training for another.
        Stopped: asked to stop; what was reached is on disk.
    """
    run, stage, keys = RunDirectory(experiment.run_path), STAGES[name], stage_keys(experiment)
    artifacts = Artifacts(experiment, keys)
    with stop_on_signals() as stop:
        outlive_readers()
        rank = int(os.environ.get("RANK", "0"))
        set_up_logging(rank)
        require_parents(stage, run, keys, artifacts)
        (step,) = plan(run, keys, artifacts, [stage])
        if step.done:
            return f"{name}: done already in {run.path}"
        if rank > 0:
            run_here(stage, experiment, run, keys, stop, name)
            return f"{name}: done in {run.path}"
        former = former_training(run)
        if former is not None and former != keys["pretrain"]:
            changed = "; ".join(differences(former, keys["pretrain"]))
            raise UserError(
                f"{run.path}: its checkpoints were trained with other settings ({changed}); take another name=…, or "
                f"`{command('submit', 'CONFIG')}`, which sets the former training aside"
            )
        if (aside := set_aside(run, keys["pretrain"])).is_dir():
            raise UserError(
                f"{run.path}: a training with these settings is in {short(aside)}; take another name=…, or "
                f"`{command('submit', 'CONFIG')}`, which brings it back"
            )
        with lock(run, Path(experiment.data_directory), command=_command_line()):
            require_idle(run, keys)
            write_submission(run, experiment, keys)
            run_here(stage, experiment, run, keys, stop, name)
    return f"{name}: done in {run.path}"


def cancel(run: RunDirectory) -> str:
    """End what works on the run: Slurm jobs, or the process of a local submit. Returns what was done.

    Raises:
        UserError: nothing is running, it runs on another machine, or Slurm does not answer.
    """
    live = live_jobs(run)
    if live:
        cancel_jobs([job for job, _ in live.values()])
        return "cancelled " + ", ".join(f"{stage} ({job})" for stage, (job, _) in live.items())
    holder, processes = lock_holder(run), local_processes(run)
    if holder is not None and holder["node"] != platform.node():
        raise UserError(f"{run.path}: `{holder['command']}` runs on {holder['node']}; cancel it there")
    if holder is not None:
        send_signal({holder["pid"]}, signal.SIGTERM)
        return f"asked process {holder['pid']} (`{holder['command']}`) to stop"
    if processes:
        send_signal(set(processes), signal.SIGTERM)
        return f"asked processes {_numbers(processes)}, whose submit is gone, to stop"
    elsewhere = [attempt["node"] for _, attempt in _left_open(run) if attempt["node"] != platform.node()]
    hint = f"; its last attempt began on {elsewhere[0]}, and whether it runs is known there" if elsewhere else ""
    raise UserError(f"{run.path}: nothing is queued or running{hint}")


def _left_open(run: RunDirectory) -> list[tuple[str, dict[str, Any]]]:
    """Stages with an attempt, not of Slurm, whose end nobody has written down."""
    attempts = ((name, ledger.open_attempt(run, name)) for name in STAGES)
    return [(name, attempt) for name, attempt in attempts if attempt and attempt["job"] is None]


def _numbers(processes: list[int]) -> str:
    return ", ".join(map(str, processes))


# --- Slurm ----------------------------------------------------------------------------------------


def _live_jobs(run: RunDirectory, keys: Keys) -> dict[str, tuple[str, str]]:
    """Stage → job id and state, of the run's Slurm jobs that are queued or running.

    Raises:
        UserError: they are of other settings than these, or Slurm does not say.
    """
    live = live_jobs(run)
    if live and submitted_keys(run) != keys:
        raise UserError(f"{run.path}: jobs with other settings are in the queue; `{command('cancel', run)}` first")
    return live


def _listed(live: dict[str, tuple[str, str]]) -> str:
    return ", ".join(f"{stage} {job} {state}" for stage, (job, state) in live.items())


def require_idle(run: RunDirectory, keys: Keys) -> None:
    """Raises UserError if something works on the run: jobs that are queued or running (or Slurm does not say), or
    processes."""
    if live := _live_jobs(run, keys):
        raise UserError(f"{run.path}: in the queue: {_listed(live)}; `{command('cancel', run)}` first")
    require_no_processes(run)


def require_no_processes(run: RunDirectory) -> None:
    """Raises UserError if processes of a submit that was killed work on the run; else writes down that they ended."""
    if processes := local_processes(run):
        raise UserError(
            f"{run.path}: processes {_numbers(processes)} still work on it, though their submit is gone; wait for "
            f"them, or end them with `{command('cancel', run)}`"
        )
    for name, attempt in _left_open(run):
        if attempt["node"] == platform.node():
            ledger.close(run, name)


def prepare(experiment: Experiment, cluster: Cluster, *, yes: bool = False) -> RunDirectory:
    """Write the run directory that the scripts in sbatch/ work on, and submit nothing.

    Raises:
        UserError: anything wrong with the experiment or the directory, the run is in the queue, or the answer was no.
    """
    run, keys = RunDirectory(experiment.run_path), stage_keys(experiment)
    require_usable_path(run, "slurm")
    check_world_size(experiment.train, cluster.resources("pretrain").ranks)
    with lock(run, Path(experiment.data_directory), command=_command_line()):
        require_idle(run, keys)
        confirm_moves(run, keys, yes=yes)
        for move in swap_training(run, keys):
            print(move, file=sys.stderr)  # standard output is for the path
        write_submission(run, experiment, keys, cluster, "slurm")
        snapshot_code(run)
    return run


def _submit_chain(
    run: RunDirectory, steps: list[Step], live: dict[str, str], cluster: Cluster, console: Console, stop: StopFlag
) -> None:
    """One job for each stage that is neither done nor `live` (stage → job id), each after those it needs. All of them
    or none."""
    jobs, new = dict(live), list[str]()
    try:
        for step in steps:
            name = step.stage.name
            if step.done or name in live:
                continue
            stop.check()
            resources = cluster.resources(name)
            dependency = dependency_on([jobs[parent] for parent in step.stage.needs if parent in jobs])
            if resources.array > 1:
                jobs[f"{name}.*"] = _submit_job(run, step.stage, resources, dependency, array=True)
                new.append(f"{name}.*")
                dependency = dependency_on([jobs[f"{name}.*"]])
            jobs[name] = _submit_job(run, step.stage, resources, dependency)
            new.append(name)
    except BaseException:
        cancel_jobs([jobs[name] for name in new])
        raise
    for name, job_id in jobs.items():
        console.print(f"{name}: job {job_id}{'' if name in new else ', in the queue before'}", highlight=False)
    console.print(f"Submitted {run.name}", highlight=False, soft_wrap=True)
    _show_next(console, _queue_commands(run))


def _submit_job(
    run: RunDirectory, stage: Stage, resources: Resources, dependency: str | None, *, array: bool = False
) -> str:
    """submit_job, whose error also names the lines of the profile that ask for what is not there."""
    try:
        with signals_blocked():  # else a Ctrl-C ends sbatch, perhaps after it has submitted a job that nobody knows
            return submit_job(run, stage, resources, dependency, array=array)
    except UserError as error:
        wrong = [f"{misfit.problem} (set {misfit.remedy})" for misfit in misfits(resources, partitions())]
        raise UserError("; ".join([str(error), *wrong])) from None


def _command_line() -> str:
    return shlex.join(["sllm", *sys.argv[1:]])


# --- local processes ------------------------------------------------------------------------------


def _run_local(
    run: RunDirectory, keys: Keys, steps: list[Step], cluster: Cluster, console: Console, stop: StopFlag
) -> None:
    with view(run, steps, console) as shown:
        for step in steps:
            if step.done:
                continue
            stop.check()
            token = new_token()
            ledger.begin(run, step.stage.name, fingerprint(keys[step.stage.name]), token, ledger.SUBMITTED)
            shown.start(step.stage)
            _wait(run, _start(run, step.stage, token, cluster.resources(step.stage.name)), stop, shown)
            # A rank that was told to stop before it could say anything has stopped, and was not killed.
            silent_cause = ledger.STOPPED if stop.requested else ledger.KILLED
            ending = ledger.close(run, step.stage.name, silent_cause)
            assert ending is not None, "a stage ended without an attempt"
            shown.end(step.stage, ending)
            if ending["ended"] == ledger.STOPPED or stop.requested:
                raise Stopped(stop.reason if stop.requested else ending["message"])
            if ending["ended"] == ledger.BAD_INPUT:
                raise UserError(ending["message"])
            if ending["ended"] != ledger.FINISHED:
                shown.fail(step.stage, ending)
                raise StageFailedError


def _start(run: RunDirectory, stage: Stage, token: str, resources: Resources) -> "submitit.Job[None]":
    """Start one process a rank through submitit, from the run's copy of the code."""
    import submitit
    from submitit.helpers import environment_variables

    cores = len(os.sched_getaffinity(0))
    threads = resources.cpus or max(1, cores // resources.ranks)
    executor = submitit.LocalExecutor(folder=run.stage(stage.name) / "submitit")
    executor.update_parameters(
        tasks_per_node=resources.ranks,
        gpus_per_node=0 if resources.device == "cpu" else resources.gpus,
        timeout_min=YEAR_MINUTES,
    )
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        # submitit counts from 0 if it is not told; its check lets numbers through, and no GPU-… or MIG-….
        executor.parameters["visible_gpus"] = given.split(",")
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(run.code), os.environ.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1",  # else the current folder, perhaps the very tree that is being edited, comes first
        "OMP_NUM_THREADS": threads,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port(),
    }
    # The ranks find what came while they started, and the process of submitit's between us and them, which would kill
    # them a second after a Ctrl-C in the terminal, never sees a signal.
    with signals_blocked(), without_foreign_variables(), environment_variables(**environment):
        return executor.submit(job, str(run.path), stage.name, token)


def _wait(run: RunDirectory, controller: "submitit.Job[None]", stop: StopFlag, shown: View) -> None:
    """Until every rank has ended, also when the process between us and them was killed. A stop is passed on to each
    of them, once; they save and leave."""
    told = set[int]()
    while not controller.done() or local_processes(run):
        if stop.requested:
            if not told:
                shown.note(f"{stop.reason}: stopping at the next safe point …")
            new = set(local_processes(run)) - told
            send_signal(new, signal.Signals[stop.reason])
            told |= new
        shown.refresh()
        time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
