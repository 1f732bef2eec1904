"""Training steps, beside a Transformers model of the same shape: `python bench/training.py`.

A step is forward, backward, clipping and fused AdamW over one micro-batch of random tokens. Both sides start from the
same weights and take turns. On a CPU the default is a mini shape and takes about two minutes; on a GPU it is `small`
and `default` with compilation off and on.
"""

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import shape, take_turns, twin

from sllm.config import TrainConfig
from sllm.device import device_name
from sllm.model.families import make_model
from sllm.speed import training_step
from sllm.training.metrics import mfu
from sllm.training.optim import make_optimizers


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["small", "default"] if gpu else ["mini"])
    parser.add_argument("--micro-batches", nargs="+", type=int, default=[8, 16, 32] if gpu else [2, 4])
    parser.add_argument("--precision", default="bf16" if gpu else "fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--compile", nargs="+", default=["off", "on"] if gpu else ["off"], choices=["off", "on"])
    parser.add_argument("--dropout", type=float, help="default: that of the shape")
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    device = torch.device("cuda" if gpu else "cpu")
    torch.set_float32_matmul_precision("high")

    table = Table(title=f"Training, {arguments.precision}, on {device_name(device)}: sllm / Transformers")
    headings = ("shape", "compile", "micro-batch", "tok/s", "theirs", "ratio", "MFU", "theirs", "memory GB", "theirs")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name in arguments.shapes:
        for compiled in arguments.compile:
            for micro_batch in arguments.micro_batches:
                row = measure(name, compiled == "on", micro_batch, arguments, device)
                table.add_row(*row)
                print(*row, sep="\t", flush=True)
    Console(width=120).print(table)


def measure(
    name: str, compiled: bool, micro_batch: int, arguments: argparse.Namespace, device: torch.device
) -> list[str]:
    """A table row."""
    config, vocab_size = shape(name)
    if arguments.dropout is not None:
        config = config.model_copy(update={"dropout": arguments.dropout})
    train = TrainConfig(
        max_steps=1, global_batch=micro_batch, micro_batch=micro_batch, precision=arguments.precision, compile=compiled
    )
    torch.manual_seed(0)
    model = make_model(config, vocab_size).to(device)
    theirs = twin(model)
    tokens = torch.randint(vocab_size, (micro_batch, config.context_length + 1), device=device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    forward = torch.compile(model) if compiled else model
    rivals = [training_step(model.train(), make_optimizers(model, train), train, lambda: forward(inputs, targets))]
    if theirs is not None:
        their_forward = torch.compile(theirs) if compiled else theirs
        optimizer = torch.optim.AdamW(theirs.parameters(), lr=train.learning_rate, fused=True)
        rivals.append(
            training_step(theirs.train(), [optimizer], train, lambda: their_forward(inputs, labels=inputs).loss)
        )

    tokens_per_step = micro_batch * config.context_length
    speeds = [tokens_per_step / seconds for seconds in take_turns(rivals, arguments.rounds, device)]
    shares = [mfu(speed, config, vocab_size, device) for speed in speeds]
    memory = [peak_memory(step, device) for step in rivals]

    def pair(values: list[str]) -> list[str]:
        return [*values, "—"][:2]

    ratio = f"{speeds[0] / speeds[1]:.2f}×" if theirs is not None else "—"
    return [
        name,
        "on" if compiled else "off",
        f"{micro_batch}",
        *pair([f"{speed:,.0f}" for speed in speeds]),
        ratio,
        *pair(["—" if share is None else f"{share:.1%}" for share in shares]),
        *pair(memory),
    ]


def peak_memory(step: Callable[[], None], device: torch.device) -> str:
    """GB that a step needs beyond what both models hold; on a CPU the two cannot be told apart."""
    if device.type != "cuda":
        return "—"
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    step()
    return f"{(torch.cuda.max_memory_allocated(device) - held) / 1e9:.2f}"


if __name__ == "__main__":
    main()
