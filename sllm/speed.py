"""How fast a model is, on the device that is here: generation at several batch sizes, and training steps.

Prompts are random: speed does not depend on what they say, and a random model never ends a text early.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table

from sllm.artifacts import Artifacts
from sllm.config import Experiment
from sllm.device import deterministic, device_name, memory_bytes, synchronize
from sllm.distributed import World
from sllm.inference.decode import Decoder, Record, recorder
from sllm.inference.generator import TextGenerator, next_tokens
from sllm.inference.sampling import Sampling
from sllm.model.shared import LanguageModel
from sllm.progress import track
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag
from sllm.training.metrics import mfu
from sllm.training.trainer import Trainer, warm_up

WARMUP_STEPS = 2  # allocator and kernels


def measure_speed(
    experiment: Experiment, run: RunDirectory, artifacts: Artifacts, world: World, stop: StopFlag
) -> dict[str, Any]:
    """Of the run's best model and of a training like its own: `device`, `generation` by batch size, `training`.

    Raises:
        UserError: there is no model.
        Stopped: `stop` was set.
    """
    config = experiment.benchmark
    generator = TextGenerator(run.best, artifacts.tokenizer, world.device)
    pieces = len(config.batches) * config.repeats + WARMUP_STEPS + config.train_steps
    with track("benchmark", pieces, "measurements") as bar:

        def measured() -> None:
            bar.advance()
            stop.check()

        generation = [
            measure_generation(
                generator.model, batch, config.prompt_tokens, config.new_tokens, config.repeats, after_each=measured
            )
            for batch in config.batches
        ]
        del generator
        training = measure_training(experiment, artifacts, world, config.train_steps, after_each=measured)
    return {"device": device_name(world.device), "generation": generation, "training": training}


def measure_generation(
    model: LanguageModel,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
    after_each: Callable[[], None] = lambda: None,
    record: Record | None = None,
) -> dict[str, float]:
    """Greedy decoding of `batch` random prompts, timed token by token; medians over all repeats.

    Args:
        record: what the steps go through, see `Decoder`; default, that of the device.

    Returns:
        prefill_tokens_per_second (prompts read), decode_tokens_per_second (all rows together), first_token_ms,
        token_p50_ms and token_p99_ms (of one decode step), memory_bytes (peak).
    """
    device = model.positions.device
    prompts = torch.randint(model.vocab_size, (batch, prompt_tokens)).tolist()
    greedy = Sampling(temperature=0)
    decoder = Decoder(model, batch, prompt_tokens + new_tokens, greedy, record=record or recorder(device))
    arguments = (greedy, None, None, decoder)
    for _ in next_tokens(model, prompts, new_tokens if device.type == "cuda" else 2, *arguments):  # what is recorded
        pass
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    first: list[float] = []
    rest: list[float] = []
    for _ in range(repeats):
        times = []
        synchronize(device)
        last = time.perf_counter()
        for _ in next_tokens(model, prompts, new_tokens, *arguments):
            now = time.perf_counter()
            times.append(now - last)
            last = now
        first.append(times[0])
        rest += times[1:]
        after_each()
    figures = {
        "batch": batch,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "prefill_tokens_per_second": batch * prompt_tokens / statistics.median(first),
        "first_token_ms": 1000 * statistics.median(first),
        "memory_bytes": memory_bytes(device),
    }
    if rest:
        percentiles = torch.quantile(torch.tensor(rest), torch.tensor([0.5, 0.99])).tolist()
        figures["decode_tokens_per_second"] = batch * len(rest) / sum(rest)
        figures["token_p50_ms"], figures["token_p99_ms"] = (1000 * seconds for seconds in percentiles)
    return figures


def bytes_of_a_step(model: LanguageModel, batch: int, positions: int) -> int:
    """What a decode step must read: every weight, once for all rows, but not a table that is only looked up, and the
    keys and values of so many positions a row."""
    tables = 0 if model.head is None else model.embedding.weight.nbytes
    config = model.config
    cache = 2 * config.n_layers * config.kv_heads * config.head_width * model.positions.element_size()
    return sum(weight.nbytes for weight in model.parameters()) - tables + batch * positions * cache


def measure_training(
    experiment: Experiment,
    artifacts: Artifacts,
    world: World,
    steps: int,
    after_each: Callable[[], None] = lambda: None,
) -> dict[str, float | None]:
    """Steps of a fresh model, as the training of `experiment` takes them, all of a global batch on one device.

    Returns:
        tokens_per_second and step_ms (median), mfu (None where the device's peak is unknown), memory_bytes (peak).
    """
    model, train, device = experiment.model, experiment.train, world.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with (
        torch.random.fork_rng(),
        deterministic(device),
        contextlib.closing(Trainer(experiment, artifacts, world)) as trainer,
    ):
        warm_up(trainer)
        times = []
        for _ in range(WARMUP_STEPS + steps):
            times.append(timed(trainer.train_step, device))
            after_each()
        vocab_size = trainer.model.vocab_size
    seconds = statistics.median(times[WARMUP_STEPS:])
    tokens_per_second = train.global_batch * model.context_length / seconds
    return {
        "global_batch": train.global_batch,
        "micro_batch": train.micro_batch,
        "context_length": model.context_length,
        "tokens_per_second": tokens_per_second,
        "step_ms": 1000 * seconds,
        "mfu": mfu(tokens_per_second, model, vocab_size, device),
        "memory_bytes": memory_bytes(device),
    }


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds until `work` is done, on the device too."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def tables(results: dict[str, Any]) -> list[Table]:
    generation = Table(title=f"Generation on {results['device']}")
    headings = ("batch", "prefill tok/s", "decode tok/s", "first token ms", "token p50 ms", "token p99 ms", "memory GB")
    for heading in headings:
        generation.add_column(heading, justify="right")
    for row in results["generation"]:
        generation.add_row(
            f"{row['batch']}",
            f"{row['prefill_tokens_per_second']:,.0f}",
            *_cells(row, ("decode_tokens_per_second", ",.0f")),
            f"{row['first_token_ms']:,.1f}",
            *_cells(row, ("token_p50_ms", ",.2f"), ("token_p99_ms", ",.2f")),
            f"{row['memory_bytes'] / 1e9:.2f}",
        )
    row = results["training"]
    training = Table(title=f"Training on {results['device']}")
    for heading in ("batch", "micro-batch", "context", "tok/s", "step ms", "MFU", "memory GB"):
        training.add_column(heading, justify="right")
    training.add_row(
        f"{row['global_batch']}",
        f"{row['micro_batch']}",
        f"{row['context_length']:,}",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['step_ms']:,.1f}",
        *_cells(row, ("mfu", ".1%")),
        f"{row['memory_bytes'] / 1e9:.2f}",
    )
    return [generation, training]


def _cells(row: dict[str, float | None], *columns: tuple[str, str]) -> list[str]:
    return ["—" if (value := row.get(name)) is None else format(value, spec) for name, spec in columns]
