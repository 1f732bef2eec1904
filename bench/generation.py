"""Greedy decoding, beside Transformers' `generate` with the same weights: `python bench/generation.py`.

Both sides read the same random prompts and take turns. Decoding speed is that of the tokens after the first; prefill is
the time to the first. On a CPU the default takes about two minutes.
"""

import argparse
import copy

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import shape, take_turns, twin

from sllm.device import device_name
from sllm.inference.decode import Dtype, prepare
from sllm.inference.generator import next_tokens
from sllm.inference.sampling import Sampling
from sllm.model.families import make_model


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["small", "default"] if gpu else ["small"])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32] if gpu else [1])
    parser.add_argument("--prompt", type=int, default=128 if gpu else 16, help="tokens")
    parser.add_argument("--new", type=int, default=128 if gpu else 25, help="tokens")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device("cuda" if gpu else "cpu")

    table = Table(title=f"Greedy decoding on {device_name(device)}: sllm / Transformers")
    for heading in ("shape", "dtype", "batch", "decode tok/s", "theirs", "ratio", "prefill ms", "theirs", "memory GB"):
        table.add_column(heading, justify="right")
    for name in arguments.shapes:
        for dtype in arguments.dtypes:
            for row in measure(name, dtype, arguments, device):
                table.add_row(*row)
                print(*row, sep="\t", flush=True)
    Console(width=110).print(table)


def measure(name: str, dtype: Dtype, arguments: argparse.Namespace, device: torch.device) -> list[list[str]]:
    """A table row for each batch size."""
    config, vocab_size = shape(name)
    torch.manual_seed(0)
    model = make_model(config, vocab_size).to(device).eval()
    theirs = twin(model)
    if theirs is not None:
        theirs = theirs.eval().to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    model = prepare(copy.deepcopy(model), dtype)
    rows = []
    for batch in arguments.batches:
        prompts = torch.randint(vocab_size, (batch, arguments.prompt), device=device)
        lists = prompts.tolist()

        def ours(new: int, lists: list[list[int]] = lists) -> None:
            for _ in next_tokens(model, lists, new, Sampling(temperature=0, valid_utf8=False)):
                pass

        def generate(new: int, prompts: torch.Tensor = prompts) -> None:
            theirs.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, do_sample=False, pad_token_id=0
            )

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            ours(arguments.new)
        memory = f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f}" if device.type == "cuda" else "—"
        rivals = [lambda: ours(1), lambda: ours(arguments.new)]
        if theirs is not None:
            rivals += [lambda: generate(1), lambda: generate(arguments.new)]
        seconds = take_turns(rivals, arguments.rounds, device)
        speeds = [
            batch * (arguments.new - 1) / (whole - first)
            for first, whole in zip(seconds[::2], seconds[1::2], strict=True)
        ]
        row = [name, dtype, f"{batch}", f"{speeds[0]:,.1f}"]
        row += [f"{speeds[1]:,.1f}", f"{speeds[0] / speeds[1]:.2f}×"] if theirs is not None else ["—", "—"]
        row += [f"{1000 * seconds[0]:,.0f}", f"{1000 * seconds[2]:,.0f}" if theirs is not None else "—", memory]
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
