"""Greedy decoding, beside Transformers' `generate` with the same weights: `python bench/generation.py`.

Transformers keeps its cache in two ways: `dynamic`, its default, and `static`, with steps that are compiled. All sides
read the same random prompts and take turns. Decoding speed is that of the tokens after the first; prefill is the time
to the first. Of the bandwidth: what a step must read, as a share of what a product of a large matrix and a vector reads
in the same time. On a CPU the default takes about four minutes.
"""

import argparse
import copy
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import shape, take_turns, twin

from sllm.device import device_name
from sllm.inference.decode import Decoder, Dtype, prepare, recorder
from sllm.inference.generator import next_tokens
from sllm.inference.sampling import Sampling
from sllm.model.families import make_model
from sllm.speed import bytes_of_a_step

GREEDY = Sampling(temperature=0, valid_utf8=False)


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["small", "default"] if gpu else ["small"])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32] if gpu else [1])
    parser.add_argument("--prompt", type=int, default=128 if gpu else 16, help="tokens")
    parser.add_argument("--new", type=int, default=128 if gpu else 25, help="tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--caches", nargs="*", default=["dynamic", "static"], choices=["dynamic", "static"])
    arguments = parser.parse_args()
    device = torch.device("cuda" if gpu else "cpu")

    reads = bandwidth(device)
    print(f"a product of a matrix and a vector reads {reads / 1e9:,.1f} GB/s", flush=True)
    table = Table(title=f"Greedy decoding on {device_name(device)}: sllm / Transformers")
    headings = ["shape", "dtype", "batch", "tok/s", "of the bandwidth", "prefill ms", "memory GB"]
    for cache in arguments.caches:
        headings += [f"{cache} tok/s", "ratio", "prefill ms"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for name in arguments.shapes:
        for dtype in arguments.dtypes:
            for row in measure(name, dtype, reads, arguments, device):
                table.add_row(*row)
                print(*row, sep="\t", flush=True)
    Console(width=130).print(table)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a product of a matrix and a vector reads, from memory: no cache holds the matrix."""
    matrix = torch.randn(1 << 13, 1 << 14, device=device)
    vector = torch.randn(1 << 14, device=device)
    [seconds] = take_turns([lambda: torch.mv(matrix, vector)], 9, device)
    return matrix.nbytes / seconds


def measure(
    name: str, dtype: Dtype, reads: float, arguments: argparse.Namespace, device: torch.device
) -> list[list[str]]:
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
        decoder = Decoder(model, batch, arguments.prompt + arguments.new, GREEDY, record=recorder(device))

        def ours(new: int, lists: list[list[int]] = lists, decoder: Decoder = decoder) -> None:
            for _ in next_tokens(model, lists, new, GREEDY, decoder=decoder):
                pass

        def generate(cache: str, new: int, prompts: torch.Tensor = prompts) -> None:
            theirs.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                **static_cache() if cache == "static" else {},
            )

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            ours(arguments.new)
        memory = f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f}" if device.type == "cuda" else "—"
        rivals: list[Callable[[int], None]] = [ours]
        if theirs is not None:
            rivals += [lambda new, cache=cache: generate(cache, new) for cache in arguments.caches]
        works = [lambda rival=rival, new=new: rival(new) for rival in rivals for new in (1, arguments.new)]
        seconds = take_turns(works, arguments.rounds, device)
        first, whole = seconds[::2], seconds[1::2]
        steps = [(b - a) / (arguments.new - 1) for a, b in zip(first, whole, strict=True)]
        share = bytes_of_a_step(model, batch, arguments.prompt + arguments.new // 2) / steps[0] / reads
        row = [name, dtype, f"{batch}", f"{batch / steps[0]:,.1f}", f"{share:.0%}", f"{1000 * first[0]:,.0f}", memory]
        for step, prefill in zip(steps[1:], first[1:], strict=True):
            row += [f"{batch / step:,.1f}", f"{step / steps[0]:.2f}×", f"{1000 * prefill:,.0f}"]
        rows.append(row + ["—"] * 3 * (len(arguments.caches) + 1 - len(steps)))
    return rows


def static_cache() -> dict[str, object]:
    """Its steps are compiled, on a CPU too."""
    from transformers import CompileConfig

    config = CompileConfig(mode="reduce-overhead" if torch.cuda.is_available() else "default")
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


if __name__ == "__main__":
    main()
