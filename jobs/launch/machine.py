"""What this machine lacks for a run, said before anything is written."""

import os

from jobs.ask import ask, is_interactive
from jobs.launch.order import Order
from jobs.pipeline import former_training, last_step, set_aside
from sllm.errors import UserError
from sllm.model.size import flops_per_token
from sllm.run_directory import RunDirectory

CPU_FLOPS = 1e11
"""What one core computes in a second, at the very most: two AVX2 multiply-adds of eight floats each at 3 GHz."""


def require_machine(order: Order) -> None:
    """Raises UserError, a line for each problem, if the profile asks for what this machine does not have."""
    problems = []
    for stage in (step.stage for step in order.plan() if not step.done):
        resources = order.cluster.resources(stage.name)
        if 1 not in resources.node_counts:
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


def steps_left(order: Order) -> int:
    """Training steps that the order is still to take."""
    if all(step.done for step in order.plan() if step.stage.name == "pretrain"):
        return 0
    run, key, steps = order.run, order.keys["pretrain"], order.experiment.train.max_steps
    if branch := order.start.branch:
        return steps - branch.step
    return steps - last_step(run if former_training(run) == key else RunDirectory(set_aside(run, key)))


def slow(order: Order) -> list[str]:
    """A line if training would take days because it would run without a GPU."""
    resources, steps = order.cluster.resources("pretrain"), steps_left(order)
    if order.where == "slurm" or not steps:
        return []
    if order.where == "local" and resources.promised_device == "gpu":
        return []
    model, train = order.experiment.model, order.experiment.train
    tokens = steps * train.global_batch * model.context_length
    flops = flops_per_token(model, order.experiment.tokenizer.vocab_size) * tokens
    cores = len(os.sched_getaffinity(0))
    days = flops / (cores * CPU_FLOPS) / 86_400
    if days < 1:
        return []
    import torch

    if torch.cuda.is_available() and order.where == "here":
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
