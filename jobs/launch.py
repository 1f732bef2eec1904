"""Run the stages of an experiment that are not done: in this process, or as local processes with a live view."""

import os
import platform
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs import ledger, slurm
from jobs.cluster import Cluster, Resources
from jobs.partitions import misfits, partitions
from jobs.pipeline import STAGES, Keys, Stage, Step, former_training, plan, setting_changes, up_to
from jobs.prepare import lock, lock_holder, snapshot_code, swap_training, write_submission
from jobs.run import adopt_device, job, new_token, require_parents, run_here, set_up_logging
from jobs.status import progress_line, results_table
from sllm.artifacts import Artifacts, differences, stage_keys
from sllm.config import Experiment, check_world_size
from sllm.errors import Stopped, UserError
from sllm.files import RunDirectory, fingerprint
from sllm.progress import format_seconds
from sllm.stop import StopFlag, stop_on_signals

if TYPE_CHECKING:
    import submitit

Where = Literal["here", "local", "slurm"]

POLL_SECONDS = 0.2
LINE_SECONDS = 5.0
TAIL_LINES = 25
YEAR_MINUTES = 365 * 24 * 60


class StageFailedError(Exception):
    """A stage ended in an exception of ours or was killed; the message has been shown."""


def submit(
    experiment: Experiment,
    cluster: Cluster,
    where: Where,
    *,
    console: Console,
    until: str | None = None,
    dry_run: bool = False,
    resume: bool = False,
) -> int:
    """Run what is not done. Returns the exit code: 0, 1 if a stage failed, 130 if it was asked to stop.

    With `resume` it only goes on with what was submitted before, and on Slurm, where some of its jobs may still be in
    the queue, submits those that are neither there nor done.

    Raises:
        UserError: anything wrong with the experiment, the profile, the run directory or the input; with `resume`,
            nothing was submitted before, or other settings.
    """
    run, stages, keys = RunDirectory(experiment.run_path), up_to(until), stage_keys(experiment)
    artifacts = Artifacts(experiment, keys)
    slurm.require_usable_path(run, where)
    check_world_size(experiment.train, 1 if where == "here" else cluster.resources("pretrain").ranks)
    if resume:
        _require_same_settings(run, keys)
    steps = plan(run, keys, artifacts, stages)
    if dry_run:
        show_plan(console, run, steps, cluster.with_site_defaults() if where == "slurm" else cluster, where)
        return 0
    if where == "slurm":
        slurm.require_slurm()
    if all(step.done for step in steps):
        done = ", ".join(step.stage.name for step in steps)
        console.print(f"Nothing to do: {done} are done in {run.path}", highlight=False, soft_wrap=True)
        return 0
    with lock(run, Path(experiment.data_directory), command=_command_line()):
        live = _live_jobs(run, keys)
        steps = plan(run, keys, artifacts, stages)
        missing = any(not step.done and step.stage.name not in live for step in steps)
        if live and not (resume and where == "slurm" and missing):
            text = f"Nothing submitted, {run.name} is in the queue: {_listed(live)}"
            console.print(text, highlight=False, soft_wrap=True)
            return 0
        if not live:  # else its jobs keep the settings and the code that they were submitted with
            swap_training(run, keys)
            write_submission(run, experiment, keys, cluster)
            steps = plan(run, keys, artifacts, stages)
            if where != "here":
                snapshot_code(run)
        if where == "slurm":
            jobs = {stage: job for stage, (job, _) in live.items()}
            _submit_chain(run, steps, jobs, cluster.with_site_defaults(), console)
            return 0
        try:
            if where == "here":
                with slurm.without_foreign_variables():  # this process alone, whatever torchrun it was started in
                    _run_here(experiment, run, keys, steps, cluster, console)
            else:
                _run_local(run, keys, steps, cluster, console)
        except Stopped as stopped:
            console.print(f"Stopped ({stopped}). The same command goes on from here.", highlight=False)
            return 130
        except StageFailedError:
            return 1
    table = results_table(run)
    if table is not None:
        console.print(table)
    console.print(f"Run: {run.path}", highlight=False, soft_wrap=True)
    return 0


def _require_same_settings(run: RunDirectory, keys: Keys) -> None:
    """Raises UserError if nothing was submitted to the run directory, or something else than this."""
    former: Keys | None = ledger.read_or_none(run.path / "keys.json")
    if former is None:
        raise UserError(f"{run.path}: nothing was submitted here; submit without --resume")
    if changed := dict.fromkeys(line for stage in keys for line in setting_changes(former[stage], keys[stage])):
        raise UserError(
            f"{run.path}: --resume only goes on, and the settings have changed ({'; '.join(changed)}); "
            f"submit without --resume, or take another name=…"
        )


def show_plan(console: Console, run: RunDirectory, steps: list[Step], cluster: Cluster, where: Where) -> None:
    table = Table(title=f"{run.path} on {where}", title_justify="left", box=None, padding=(0, 2, 0, 0))
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
                dependency = slurm.dependency_on([f"<{name}>" for name in step.stage.needs if name in pending])
                resources = cluster.resources(step.stage.name)
                if resources.array > 1:
                    print(f"\n# ---- {step.stage}.* ----")
                    print(slurm.batch_text(run, step.stage, resources, dependency, array=True))
                    dependency = slurm.dependency_on([f"<{step.stage}.*>"])
                print(f"\n# ---- {step.stage} ----")
                print(slurm.batch_text(run, step.stage, resources, dependency))


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
    experiment: Experiment, run: RunDirectory, keys: Keys, steps: list[Step], cluster: Cluster, console: Console
) -> None:
    set_up_logging()
    with stop_on_signals() as stop:
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
        UserError: a parent is missing, or the run's checkpoints are of other settings.
        Stopped: asked to stop; what was reached is on disk.
    """
    run, stage, keys = RunDirectory(experiment.run_path), STAGES[name], stage_keys(experiment)
    artifacts = Artifacts(experiment, keys)
    with stop_on_signals() as stop:
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
                f"`sllm submit`, which sets the former training aside"
            )
        with lock(run, Path(experiment.data_directory), command=_command_line()):
            require_idle(run, keys)
            write_submission(run, experiment, keys, None)
            run_here(stage, experiment, run, keys, stop, name)
    return f"{name}: done in {run.path}"


def cancel(run: RunDirectory) -> str:
    """End what works on the run: Slurm jobs, or the process of a local submit. Returns what was done.

    Raises:
        UserError: nothing is running, it runs on another machine, or Slurm does not answer.
    """
    live = slurm.live_jobs(run)
    if live:
        slurm.cancel_jobs([job for job, _ in live.values()])
        return "cancelled " + ", ".join(f"{stage} ({job})" for stage, (job, _) in live.items())
    holder = lock_holder(run)
    if holder is None:
        raise UserError(f"{run.path}: nothing is queued or running")
    if holder["node"] != platform.node():
        raise UserError(f"{run.path}: `{holder['command']}` runs on {holder['node']}; cancel it there")
    os.kill(holder["pid"], signal.SIGTERM)
    return f"asked process {holder['pid']} (`{holder['command']}`) to stop"


# --- Slurm ----------------------------------------------------------------------------------------


def _live_jobs(run: RunDirectory, keys: Keys) -> dict[str, tuple[str, str]]:
    """Stage → job id and state, of the run's Slurm jobs that are queued or running.

    Raises:
        UserError: they are of other settings than these, or Slurm does not say.
    """
    live = slurm.live_jobs(run)
    if live and ledger.read_or_none(run.path / "keys.json") != keys:
        raise UserError(f"{run.path}: jobs with other settings are in the queue; `sllm cancel {run.name}` first")
    return live


def _listed(live: dict[str, tuple[str, str]]) -> str:
    return ", ".join(f"{stage} {job} {state}" for stage, (job, state) in live.items())


def require_idle(run: RunDirectory, keys: Keys) -> None:
    """Raises UserError if jobs of the run are queued or running, or Slurm does not say."""
    if live := _live_jobs(run, keys):
        raise UserError(f"{run.path}: in the queue: {_listed(live)}; `sllm cancel {run.name}` first")


def prepare(experiment: Experiment, cluster: Cluster) -> RunDirectory:
    """Write the run directory that the scripts in sbatch/ work on, and submit nothing.

    Raises:
        UserError: anything wrong with the experiment or the directory, or the run is in the queue.
    """
    run, keys = RunDirectory(experiment.run_path), stage_keys(experiment)
    slurm.require_usable_path(run, "slurm")
    check_world_size(experiment.train, cluster.resources("pretrain").ranks)
    with lock(run, Path(experiment.data_directory), command=_command_line()):
        require_idle(run, keys)
        swap_training(run, keys)
        write_submission(run, experiment, keys, cluster)
        snapshot_code(run)
    return run


def _submit_chain(
    run: RunDirectory, steps: list[Step], live: dict[str, str], cluster: Cluster, console: Console
) -> None:
    """One job for each stage that is neither done nor `live` (stage → job id), each after those it needs. All of them
    or none."""
    jobs, new = dict(live), list[str]()
    try:
        for step in steps:
            name = step.stage.name
            if step.done or name in live:
                continue
            resources = cluster.resources(name)
            dependency = slurm.dependency_on([jobs[parent] for parent in step.stage.needs if parent in jobs])
            if resources.array > 1:
                jobs[f"{name}.*"] = _submit_job(run, step.stage, resources, dependency, array=True)
                new.append(f"{name}.*")
                dependency = slurm.dependency_on([jobs[f"{name}.*"]])
            jobs[name] = _submit_job(run, step.stage, resources, dependency)
            new.append(name)
    except BaseException:
        slurm.cancel_jobs([jobs[name] for name in new])
        raise
    for name, job_id in jobs.items():
        console.print(f"{name}: job {job_id}{'' if name in new else ', in the queue before'}", highlight=False)
    console.print(f"Submitted {run.name}. See: sllm status {run.path}", highlight=False, soft_wrap=True)


def _submit_job(
    run: RunDirectory, stage: Stage, resources: Resources, dependency: str | None, *, array: bool = False
) -> str:
    """slurm.submit_job, whose error also names the lines of the profile that ask for what is not there."""
    try:
        return slurm.submit_job(run, stage, resources, dependency, array=array)
    except UserError as error:
        wrong = [f"{misfit.problem} (set {misfit.remedy})" for misfit in misfits(resources, partitions())]
        raise UserError("; ".join([str(error), *wrong])) from None


def _command_line() -> str:
    return shlex.join(["sllm", *sys.argv[1:]])


# --- local processes ------------------------------------------------------------------------------


def _run_local(run: RunDirectory, keys: Keys, steps: list[Step], cluster: Cluster, console: Console) -> None:
    with stop_on_signals() as stop, view(run, steps, console) as shown:
        for step in steps:
            if step.done:
                continue
            stop.check()
            token = new_token()
            ledger.begin(run, step.stage.name, fingerprint(keys[step.stage.name]), token, ledger.SUBMITTED)
            shown.start(step.stage)
            _wait(_start(run, step.stage, token, cluster.resources(step.stage.name)), stop, shown)
            ending = ledger.close(run, step.stage.name)
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

    if resources.nodes > 1:
        raise UserError(
            f"stages.{stage}: nodes is {resources.nodes}, but --on local has one machine; use tasks_per_node"
        )
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
    # Ctrl-C in a terminal reaches every process in the foreground. The controller would kill its ranks within a
    # second of it; ignoring it is inherited, and the ranks take their own handlers.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with slurm.without_foreign_variables(), environment_variables(**environment):
            return executor.submit(job, str(run.path), stage.name, token)
    finally:
        signal.signal(signal.SIGINT, handler)


def _wait(controller: "submitit.Job[None]", stop: StopFlag, shown: "View") -> None:
    """Until every rank has ended. A stop is passed on as SIGTERM, once; the ranks save and leave."""
    told = False
    while not controller.done():
        if stop.requested and not told:
            told = True
            os.kill(int(controller.job_id), signal.SIGTERM)
            shown.note(f"{stop.reason}: stopping at the next safe point …")
        shown.refresh()
        time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- what is shown meanwhile ----------------------------------------------------------------------


@contextmanager
def view(run: RunDirectory, steps: list[Step], console: Console) -> Iterator["View"]:
    """A live table on a terminal, plain lines elsewhere."""
    shown = View(run, steps, console)
    if not console.is_terminal:
        yield shown
        return
    with Live(shown, console=console, refresh_per_second=5):
        yield shown


class View:
    """The stages with their state, and the progress of the one that runs, read from its progress.json."""

    def __init__(self, run: RunDirectory, steps: list[Step], console: Console) -> None:
        self.run, self.console = run, console
        self.states = {step.stage.name: "done" if step.done else "waiting" for step in steps}
        self.details = {step.stage.name: "" for step in steps}
        self.running: str | None = None
        self._started = self._last_line = time.monotonic()
        self._note = ""
        for step in steps:
            if step.done:
                self._line(f"{step.stage}: done before")

    def start(self, stage: Stage) -> None:
        self.running, self.states[stage.name] = stage.name, "running"
        self._started = self._last_line = time.monotonic()
        self._line(f"{stage}: started, log in {self.run.log(stage.name)}")

    def end(self, stage: Stage, ending: dict[str, Any]) -> None:
        self.running = None
        seconds = time.monotonic() - self._started
        self.states[stage.name] = "done" if ending["ended"] == ledger.FINISHED else ending["ended"]
        self.details[stage.name] = f"{seconds:.1f} s"
        self._line(f"{stage}: {ending['ended']} after {seconds:.1f} s")

    def fail(self, stage: Stage, ending: dict[str, Any]) -> None:
        """Name the log of a stage that failed, and show its end."""
        path = self.run.log(stage.name)
        tail = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:] if path.exists() else []
        tail += submitit_errors(self.run, stage.name) if ending["ended"] == ledger.KILLED else []
        cause = ending["message"] or "killed, or ended without a word"
        self.console.print(Text("\n".join(tail), style="dim"), soft_wrap=True)
        self.console.print(Text(f"{stage} failed: {cause}\nlog: {path}", style="bold"), soft_wrap=True)

    def note(self, text: str) -> None:
        self._note = text
        self._line(text)

    def refresh(self) -> None:
        if not self.console.is_terminal and time.monotonic() - self._last_line >= LINE_SECONDS:
            progress = self._progress()
            if progress is not None:
                self._line(progress_line(progress))

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(text, highlight=False, soft_wrap=True)

    def _progress(self) -> dict[str, Any] | None:
        return ledger.read_or_none(self.run.progress(self.running)) if self.running else None

    def __rich__(self) -> RenderableType:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        marks = {"done": "[green]✓[/]", "running": "[cyan]●[/]", "waiting": "[dim]·[/]"}
        for name, state in self.states.items():
            cells: list[RenderableType] = [Text(self.details[name], style="dim"), ""]
            if state == "running":
                cells = self._running_cells()
            elif state == "waiting":
                cells = [Text("waiting", style="dim"), ""]
            elif state != "done":
                cells = [Text(state, style="red"), ""]
            table.add_row(marks.get(state, "[red]✗[/]"), name, *cells)
        return Group(table, Text(self._note, style="yellow")) if self._note else table

    def _running_cells(self) -> list[RenderableType]:
        progress = self._progress()
        elapsed = format_seconds(time.monotonic() - self._started)
        if progress is None:
            return [Text(f"starting  {elapsed}", style="cyan"), ""]
        bar: RenderableType = ""
        if progress["total"]:
            bar = ProgressBar(total=progress["total"], completed=progress["completed"], width=24)
        return [bar, Text(f"{progress_line(progress)}  {elapsed}")]


def submitit_errors(run: RunDirectory, stage: str) -> list[str]:
    """The last lines of what a rank printed before it could open its log (an import that fails, for example)."""
    files = sorted((run.stage(stage) / "submitit").glob("*_log.err"), key=lambda path: path.stat().st_mtime)
    if not files:
        return []
    return Path(files[-1]).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
