"""Training steps as `sllm train` takes them, beside two peers of the same shape: `python bench/training.py`.

A step is forward, backward, clipping and AdamW over one micro-batch. Ours is the `Trainer`'s, with exact sums, and on a
GPU deterministic. The peers are none of that: a step as nanoGPT's (the same blocks, all logits at once, compiled as one
graph, fused AdamW) and one of a Transformers model. All start from the same weights and take turns. Then the memory of
the loss, in pieces and at once. On a CPU the default is a mini shape and takes about two minutes; on a GPU it is
`small` and `default` with compilation off and on.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from side_by_side import random_experiment, shape, take_turns, twin
from torch import Tensor, nn

from sllm.artifacts import Artifacts
from sllm.config import TrainConfig
from sllm.device import autocast, deterministic, device_name
from sllm.distributed import World
from sllm.model.families import make_model
from sllm.model.loss import PiecewiseLoss, differentiated
from sllm.training.loop import warm_up
from sllm.training.metrics import mfu
from sllm.training.optim import make_optimizers
from sllm.training.trainer import Trainer

LOSSES = {
    "in pieces": lambda h, w, t: PiecewiseLoss.apply(h, w, t, torch.float32, differentiated),
    "at once": lambda h, w, t: F.cross_entropy(h @ w.T, t),
}


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["small", "default"] if gpu else ["mini"])
    parser.add_argument("--micro-batches", nargs="+", type=int, default=[8, 16, 32] if gpu else [2, 4])
    parser.add_argument("--precision", default="bf16" if gpu else "fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--compile", nargs="+", default=["off", "on"] if gpu else ["off"], choices=["off", "on"])
    parser.add_argument("--dropout", type=float, help="default: that of the shape")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--loss", choices=LOSSES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loss:
        print(peak_of_loss(arguments.loss))
        return
    device = torch.device("cuda" if gpu else "cpu")

    table = Table(title=f"Training, {arguments.precision}, on {device_name(device)}, tokens/s")
    headings = ("shape", "compile", "micro-batch", "sllm", "MFU", "as nanoGPT", "ratio", "Transformers", "ratio")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name in arguments.shapes:
        for compiled in arguments.compile:
            for micro_batch in arguments.micro_batches:
                row = measure(name, compiled == "on", micro_batch, arguments, device)
                table.add_row(*row)
                print(*row, sep="\t", flush=True)
    Console(width=120).print(table)
    for way in LOSSES if sys.platform == "linux" else []:
        found = subprocess.run([sys.executable, __file__, "--loss", way], capture_output=True, text=True, check=True)
        print(f"the loss of 2 × 2,048 tokens and 32,000 ids in fp32 {way}: {int(found.stdout) / 1e3:,.0f} MB at most")


def measure(
    name: str, compiled: bool, micro_batch: int, arguments: argparse.Namespace, device: torch.device
) -> list[str]:
    """A table row."""
    config, vocab_size = shape(name)
    if arguments.dropout is not None:
        config = config.model_copy(update={"dropout": arguments.dropout})
    sizes = {"global_batch": micro_batch, "micro_batch": micro_batch}
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        experiment = random_experiment(
            name, Path(place), config, vocab_size, 1_000_000, precision=arguments.precision, compile=compiled, **sizes
        )
        trainer = Trainer(experiment, Artifacts(experiment), World(0, 1, 0, device))
        stack.callback(trainer.close)
        with deterministic(device):
            warm_up(trainer)
        tokens = torch.randint(vocab_size, (micro_batch, config.context_length + 1), device=device)
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        model = make_model(config, vocab_size).to(device)
        theirs = twin(model)

        def ours() -> None:
            with deterministic(device):
                trainer.train_step()

        forward = torch.compile(model) if compiled else model
        rivals = [
            ours,
            training_step(
                model.train(),
                make_optimizers(model, experiment.train),
                experiment.train,
                lambda: F.cross_entropy(forward(inputs).float().flatten(0, 1), targets.flatten()),
            ),
        ]
        if theirs is not None:
            their_forward = torch.compile(theirs) if compiled else theirs
            optimizer = torch.optim.AdamW(theirs.parameters(), lr=experiment.train.learning_rate, fused=True)
            rivals.append(
                training_step(
                    theirs.train(), [optimizer], experiment.train, lambda: their_forward(inputs, labels=inputs).loss
                )
            )
        per_step = micro_batch * config.context_length
        speeds = [per_step / seconds for seconds in take_turns(rivals, arguments.rounds, device)]
    share = mfu(speeds[0], config, vocab_size, device)
    peers = [cell for speed in speeds[1:] for cell in (f"{speed:,.0f}", f"{speeds[0] / speed:.2f}×")]
    return [
        name,
        "on" if compiled else "off",
        f"{micro_batch}",
        f"{speeds[0]:,.0f}",
        "—" if share is None else f"{share:.1%}",
        *[*peers, "—", "—"][:4],
    ]


def training_step(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], train: TrainConfig, loss: Callable[[], Tensor]
) -> Callable[[], None]:
    """One optimizer step of any model: `loss` forward, backward, clip, update."""
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")

    def step() -> None:
        with autocast(device, train.precision):
            value = loss()
        scaler.scale(value).backward()
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        model.zero_grad()

    return step


def peak_of_loss(way: str) -> int:
    """Kilobytes that loss and gradients of `small`'s output layer take of this process beyond what they are made of."""

    def peak() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    hidden, weight = (torch.randn(rows, 768, requires_grad=True) for rows in (2 * 2048, 32_000))
    targets = torch.randint(32_000, (len(hidden),))
    before = peak()
    LOSSES[way](hidden, weight, targets).backward()  # type: ignore[no-untyped-call]
    return peak() - before


if __name__ == "__main__":
    main()
