"""How long a training takes, told before it runs. Needs no torch."""

from bisect import bisect
from collections.abc import Sequence
from typing import Any, NamedTuple

from jobs.slurm.cluster import Resources
from sllm.config import Experiment
from sllm.gpus import PEAK_FLOPS, known_gpu
from sllm.model.size import flops_per_token


class Measured(NamedTuple):
    """Training steps in bf16 on one GPU; of what was measured twice, the later figure."""

    gpu: str
    model: dict[str, Any]
    compiled: bool
    tokens_per_second: dict[int, float]
    """By micro-batch."""


_GPT2 = {"family": "gpt2", "context_length": 2048, "vocab_size": 32_000}
_DEFAULT = {**_GPT2, "d_model": 1024, "n_layers": 24, "n_heads": 16, "d_ff": 4096}
_SMALL = {**_GPT2, "d_model": 768, "n_layers": 12, "n_heads": 12, "d_ff": 3072}
MEASURED = [  # docs/benchmarks/gpu-2026-11-27-first.json and -second.json
    Measured("H100", _DEFAULT, True, {8: 138_124.3, 16: 144_458.8}),
    Measured("H100", _DEFAULT, False, {16: 122_444.1}),
    Measured("H100", _SMALL, True, {8: 244_149.6, 16: 333_742.1, 32: 360_649.9}),
]

ASSUMED_SHARE = 0.3
"""Of the peak, where nothing like it was measured: what was measured is 0.22 to 0.38, most of it above this."""
UNCOMPILED = 122.4 / 144.5
"""Of the speed of a compiled training, as measured of `default`."""
SMALLEST = 512
"""A narrower model leaves a GPU waiting, by how much nobody measured."""
USUAL_GPU = "H100"


def training_time(experiment: Experiment, steps: int, gpus: Sequence[tuple[int, int]], gpu: str | None = None) -> str:
    """A line about `steps` steps on each of some numbers of GPUs, (that compute, that are taken), without loss between
    them; of which kind, if it is known. Validations and checkpoints come on top."""
    found = _tokens_per_second(experiment, gpu or USUAL_GPU)
    if found is None:
        return f"not estimated: no model narrower than {SMALLEST} was measured on a GPU"
    speed, basis = found
    tokens = steps * experiment.train.global_batch * experiment.model.context_length
    hours = [tokens / speed / computing / 3600 for computing, _ in gpus]
    each = [f"{_hours(h)} on {taken}" for h, (_, taken) in zip(hours, gpus, strict=True)]
    each[0] += " GPU" if gpus[0][1] == 1 else " GPUs"
    return f"about {_number(hours[0] * gpus[0][1])} GPU-hours, {', '.join(each)} ({basis})"


def training_gpus(resources: Resources, where: str) -> list[tuple[int, int]]:
    """The fewest and the most GPUs of an attempt: how many compute, and how many it takes. None without a promise of
    GPUs."""
    if resources.promised_device != "gpu":
        return []
    if where == "here":
        return [(1, 1)]
    taken = resources.gpus or resources.tasks_per_node
    computing = min(taken, resources.tasks_per_node)
    counts = resources.node_counts if where == "slurm" else range(1, 2)
    return [(nodes * computing, nodes * taken) for nodes in sorted({counts[0], counts[-1]})]


def gpu_kind(resources: Resources) -> str | None:
    """Which GPU a profile asks for, if it says so in a way that we know."""
    return known_gpu(f"{resources.gres} {resources.constraint} {' '.join(resources.sbatch)}")


def _tokens_per_second(experiment: Experiment, gpu: str) -> tuple[float, str] | None:
    """Of one GPU, and what that figure is from; None for a model that is too small to tell."""
    model, train, vocab_size = experiment.model, experiment.train, experiment.tokenizer.vocab_size
    shape, micro = {**model.model_dump(), "vocab_size": vocab_size}, train.micro_batch
    for row in MEASURED:
        same = row.model.items() <= shape.items() and (row.gpu, row.compiled) == (gpu, train.compile)
        if not same or train.precision != "bf16" or train.activation_checkpointing or train.optimizer != "adamw":
            continue
        if speed := row.tokens_per_second.get(micro):
            return speed, f"measured on one {gpu}: {_speed(speed)} at micro-batch {micro}"
        if len(row.tokens_per_second) > 1:
            speed, low, high = _between(row.tokens_per_second, micro)
            basis = f"from measurements on one {gpu} at micro-batches {low} and {high}"
            return speed, f"{basis}: {_speed(speed)} at micro-batch {micro}"
    if model.d_model < SMALLEST:
        return None
    share = ASSUMED_SHARE
    peak = PEAK_FLOPS[gpu] / (2 if train.precision == "fp32" else 1)  # TF32
    if not train.compile:
        share *= UNCOMPILED
    if train.activation_checkpointing:
        share *= 3 / 4  # forward twice, which the FLOPs of a token leave out
    speed = share * peak / flops_per_token(model, vocab_size)
    return speed, f"assumed: {share:.0%} of the peak of an {gpu}, {_speed(speed)}"


def _between(measured: dict[int, float], micro: int) -> tuple[float, int, int]:
    """The speed at a micro-batch that was not measured, and the two nearest that were: its time is taken to be on the
    line through theirs."""
    batches = sorted(measured)
    i = min(max(bisect(batches, micro), 1), len(batches) - 1)
    low, high = batches[i - 1], batches[i]
    at_low, at_high = low / measured[low], high / measured[high]
    return micro / (at_low + (at_high - at_low) * (micro - low) / (high - low)), low, high


def _hours(hours: float) -> str:
    return f"{60 * hours:.0f} min" if hours < 1 else f"{_number(hours)} h"


def _speed(tokens_per_second: float) -> str:
    return f"{round(tokens_per_second, -2):,.0f} tokens/s"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
