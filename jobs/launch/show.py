"""What a submit shows: its plan, and which commands come next."""

from rich.console import Console
from rich.table import Table

from jobs.describe import data_room, run_room
from jobs.estimate import gpu_kind, training_gpus, training_time
from jobs.hints import command, short
from jobs.launch.busy import listed
from jobs.launch.machine import slow, steps_left
from jobs.launch.order import Order, Where
from jobs.pipeline import STAGES
from jobs.previous import training_moves
from jobs.slurm.batch import batch_text, dependency_on
from jobs.slurm.chain import chain
from jobs.slurm.cluster import Resources
from jobs.status.results import results_table
from sllm.progress import format_seconds
from sllm.run_directory import RunDirectory

NO_GPUS = "not estimated: the profile promises no GPU, and no figure of a CPU holds for another"


def show_plan(order: Order, console: Console) -> None:
    """What a submit would run and why, with the batch scripts that it would send, and what it would move or ask."""
    steps, where = order.plan(), order.where
    cluster = order.cluster.with_site_defaults() if where == "slurm" else order.cluster
    console.print(f"{order.run.path} on {where}", style="bold", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("stage", "state", "resources", "why"):
        table.add_column(column, overflow="fold")
    for step in steps:
        ranks = describe_resources(cluster.resources(step.stage.name), where)
        table.add_row(
            step.stage.name, "done" if step.done else "run", "" if step.done else ranks, "\n".join(step.reasons)
        )
    console.print(table)
    for job in chain(steps, cluster) if where == "slurm" else ():
        dependency = dependency_on([f"<{name}>" for name in job.after], ended=bool(job.stage.after))
        print(f"\n# ---- {job.name} ----")
        print(batch_text(order.run, job.stage, job.resources, dependency, array=job.array))
    moves = map(str, training_moves(order.run, order.keys))
    show_lines([*estimates(order), *moves, str(order.start), *slow(order)], console)


def estimates(order: Order) -> list[str]:
    """What is still to be run takes about so much time and room."""
    ahead = {step.stage.name for step in order.plan() if not step.done}
    lines = [f"disk for data: {data_room(order.experiment)}"] if ahead & {"download", "pack"} else []
    if steps := steps_left(order):
        resources = order.cluster.resources("pretrain")
        gpus = training_gpus(resources, order.where)
        time = training_time(order.experiment, steps, gpus, gpu_kind(resources)) if gpus else NO_GPUS
        lines += [f"disk for run: {run_room(order.experiment)[0]}", f"training of {steps:,} steps: {time}"]
    if "finetune" in ahead:
        tuning, resources = order.experiment.tuning(), order.cluster.resources("finetune")
        steps, gpus = tuning.train.max_steps, training_gpus(resources, order.where)
        time = training_time(tuning, steps, gpus, gpu_kind(resources)) if gpus else NO_GPUS
        lines += [f"disk for fine-tuning: {run_room(tuning)[0]}", f"fine-tuning of {steps:,} steps: {time}"]
    return lines


def describe_resources(resources: Resources, where: Where) -> str:
    if where == "here":
        return "this process"
    tasks, nodes = resources.tasks_per_node, resources.node_counts
    ranks = resources.rank_counts if where == "slurm" else range(tasks, tasks + 1)
    parts = [_amount(ranks, "process", "es")]
    if where == "slurm":
        parts.append(_amount(nodes, "node"))
        parts += [f"before it an array of {resources.array}"] if resources.array > 1 else []
    if resources.cpus:
        parts.append(f"{resources.cpus} core{'s' if resources.cpus > 1 else ''}{' each' if ranks[-1] > 1 else ''}")
    if resources.gpus_per_node or resources.gres:
        parts.append(resources.gres or f"{resources.gpus_per_node} GPU a node")
    if where == "slurm":
        parts += [f"{name} {value}" for name, value in _slurm_words(resources).items() if value]
    return ", ".join(parts)


def _amount(counts: range, word: str, plural: str = "s") -> str:
    """`1 node`, `1-4 nodes`."""
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    return f"{number} {word}{plural if counts[-1] > 1 else ''}"


def _slurm_words(resources: Resources) -> dict[str, str | None]:
    limit = format_seconds(60 * resources.time_minutes)
    return {"memory": resources.memory, "partition": resources.partition, "limit": limit}


def show_lines(lines: list[str], console: Console) -> None:
    for line in filter(None, lines):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


# --- what came of it, and what can be done next ---------------------------------------------------


def show_nothing_to_do(order: Order, console: Console) -> None:
    done = ", ".join(map(str, order.stages))
    verb = "is" if len(order.stages) == 1 else "are"
    console.print(f"Nothing to do: {done} {verb} done in {order.run.path}", highlight=False, soft_wrap=True)
    _show_next(console, _commands_after(order.run))


def show_queue(run: RunDirectory, live: dict[str, tuple[str, str]], console: Console) -> None:
    console.print(f"Nothing submitted, {run.name} is in the queue: {listed(live)}", highlight=False, soft_wrap=True)
    _show_next(console, _queue_commands(run))


def show_jobs(run: RunDirectory, before: dict[str, str], new: dict[str, str], console: Console) -> None:
    """Stage → job id: of those in the queue already, and of those just submitted."""
    for name, job in (before | new).items():
        console.print(f"{name}: job {job}{'' if name in new else ', in the queue before'}", highlight=False)
    console.print(f"Submitted {run.name}", highlight=False, soft_wrap=True)
    _show_next(console, _queue_commands(run))


def show_results(run: RunDirectory, console: Console) -> None:
    table = results_table(run)
    if table is not None:
        console.print(table)
    console.print(f"Run: {run.path}", highlight=False, soft_wrap=True)
    show_page(run, console)
    _show_next(console, _commands_after(run))


def show_page(run: RunDirectory, console: Console) -> None:
    if (page := run.report / "index.html").is_file():
        console.print(f"Report: {short(page)}", highlight=False, markup=False, soft_wrap=True)


def _show_next(console: Console, commands: list[str]) -> None:
    for line in ["Next:", *(f"  {text}" for text in commands)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _commands_after(run: RunDirectory) -> list[str]:
    """What to do with a run that has ended well."""
    status = command("status", run)
    # A stage that ran in the process of the submit has printed what others write to a log.
    if not run.best.is_dir():
        return [status, *([command("logs", run)] if any(run.log(stage).exists() for stage in STAGES) else [])]
    export = command("export", "--model", run, "--output", short(run.path / "transformers"))
    logs = command("logs", run, "pretrain") if run.log("pretrain").exists() else status
    return [command("chat", "--model", run), export, logs]


def _queue_commands(run: RunDirectory) -> list[str]:
    return [command("status", run), command("logs", run, "-f"), command("cancel", run)]
