"""Which recipe learns most from the same text? Variants of model and training, at equal tokens and in equal seconds.

    python bench/recipe.py FOLDER [--steps 240] [--width 128] [--variants NAME …] [--seeds 1 2] [--output FILE]

FOLDER holds ko-* and en-* files (.jsonl.zst, .jsonl, .txt or .parquet), read half and half. Every variant is trained
for `--steps` steps of 2,048 tokens on the same windows in the same order, and, where its steps take over 3 % longer or
shorter than the first variant's, also for as many as fit into the first one's time. Bits per byte are of held-out
documents. The main variants are trained with every seed, the others with the first. All is kept below --work: a second
call trains only what is missing. Seconds are the processor's, so that other work on the machine counts little; set
OMP_NUM_THREADS=1 if there is any.
"""

import argparse
import time
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table
from side_by_side import CONFIGS, final_validation, run_stage

from sllm.artifacts import Artifacts
from sllm.config import Experiment, load_experiment
from sllm.files import read_json, write_json

CONTEXT, BATCH, HEAD = 256, 8, 32

SEED = {"model.d_ff": 4.0, "train.learning_rate": 6e-3, "train.min_learning_rate": 6e-4, "train.weight_decay": 0.1}
GPT2 = {
    "model.d_ff": 4.0,
    "model.tie_embeddings": False,
    "train.learning_rate": 2e-3,
    "train.min_learning_rate": 0.0,
    "train.rates.embedding": 0.46,
    "train.rates.head": 3.1,
    "train.rates.vectors": 0.01,
    "train.beta1": 0.8,
    "train.eps": 1e-5,
    "train.weight_decay": 0.0,
}
QWEN3 = GPT2 | {
    "model.family": "qwen3",
    "model.d_ff": 2.6875,
    "train.optimizer": "muon",
    "train.learning_rate": 0.01,
    "train.schedule": "wsd",
    "train.decay": 0.6,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "seed": SEED,
    "seed, dropout 0.1": SEED | {"model.dropout": 0.1},
    "gpt2": GPT2,
    "gpt2, one rate": {k: v for k, v in GPT2.items() if not k.startswith("train.rates")},
    "gpt2, muon": GPT2 | {"train.optimizer": "muon", "train.learning_rate": 0.01},
    "qwen3": QWEN3,
    "qwen3, adamw": QWEN3 | {"train.optimizer": "adamw", "train.learning_rate": 2e-3},
    "qwen3, cosine": {k: v for k, v in QWEN3.items() if k != "train.decay"} | {"train.schedule": "cosine"},
    "qwen3, half the rates": QWEN3 | {"train.rates.embedding": 0.23, "train.rates.head": 1.55},
    "qwen3, tied": QWEN3 | {"model.tie_embeddings": True, "train.rates.embedding": 0.0061},
}
"""What they set, over `configs/smoke.yaml` (d_ff as a share of the width). The first is GPT-2's recipe, `gpt2` the same
blocks trained as the presets do it, `qwen3` the other presets' recipe; the others differ from those in one thing."""
MAIN = ("seed", "gpt2", "qwen3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2], help="the others are of the main variants only")
    parser.add_argument("--held-out", type=int, default=40_000, help="tokens of each language that are scored")
    parser.add_argument("--work", type=Path, default=Path("data/recipe"))
    parser.add_argument("--output", type=Path, help="the table's figures, as JSON")
    arguments = parser.parse_args()
    runs = [
        (name, seed)
        for seed in arguments.seeds
        for name in arguments.variants
        if name in MAIN or seed == arguments.seeds[0]
    ]
    results: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    seconds: float | None = None
    for name, seed in runs:
        result = train(name, arguments.steps, seed, arguments)
        seconds = seconds or result["seconds_per_step"]
        results.setdefault((name, False), []).append(result)
        steps = round(arguments.steps * seconds / result["seconds_per_step"])
        if abs(steps / arguments.steps - 1) > 0.03:
            results.setdefault((name, True), []).append(train(name, steps, seed, arguments))
    Console(width=120).print(table(results, arguments))
    if arguments.output:
        rows = [
            {"variant": name, "equal": "seconds" if same else "steps", "runs": found}
            for (name, same), found in results.items()
        ]
        write_json(arguments.output, {"width": arguments.width, "layers": arguments.layers, "rows": rows})


def experiment_of(name: str, steps: int, seed: int, arguments: argparse.Namespace) -> Experiment:
    folder = arguments.folder.resolve()
    sources = ", ".join(f"{{name: {k}, kind: files, language: {k}, paths: ['{folder}/{k}-*']}}" for k in ("ko", "en"))
    settings: dict[str, Any] = {
        "data.sources": f"[{sources}]",
        "data.validation_fraction": 0.01,
        "data_directory": arguments.work / "data",
        "seed": seed,
        "tokenizer.vocab_size": arguments.vocab_size,
        "model.d_model": arguments.width,
        "model.n_layers": arguments.layers,
        "model.n_heads": max(1, arguments.width // HEAD),
        "model.context_length": CONTEXT,
        "train.max_steps": steps,
        "train.global_batch": BATCH,
        "train.micro_batch": BATCH,
        "train.warmup_steps": max(1, steps // 20),
        "train.checkpoint.every": steps,
        "validate.every": steps,
        "validate.tokens": arguments.held_out,
        "validate.final_tokens": arguments.held_out,
        "wandb.mode": "disabled",
        **VARIANTS[name],
    }
    settings["model.d_ff"] = round(arguments.width * settings["model.d_ff"])
    return load_experiment(CONFIGS / "smoke.yaml", [f"{key}={value}" for key, value in settings.items()])


def train(name: str, steps: int, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The last validation of a variant, and what its steps took."""
    experiment = experiment_of(name, steps, seed, arguments)
    shape = f"{arguments.width}x{arguments.layers}-{name.replace(', ', '-').replace(' ', '-')}"
    run = arguments.work.resolve() / f"{shape}-{steps}-steps-seed-{seed}"
    done = run / "result.json"
    if not done.exists():
        artifacts = Artifacts(experiment)
        for stage in ("download", "tokenizer", "pack"):
            run_stage(experiment, stage, artifacts)
        print(f"seed {seed}: {name}, {steps} steps", flush=True)
        start = time.process_time()
        result = final_validation(experiment, artifacts, run)
        write_json(done, {**result, "steps": steps, "seconds_per_step": (time.process_time() - start) / steps})
    found: dict[str, Any] = read_json(done)
    return found


def bits(found: list[dict[str, Any]], language: str) -> float:
    return mean(result["languages"][language]["bits_per_byte"] for result in found)


def table(results: dict[tuple[str, bool], list[dict[str, Any]]], arguments: argparse.Namespace) -> Table:
    """Means over the seeds, and their ratios to the first variant's at as many steps."""
    table = Table(title=f"{arguments.layers} layers × {arguments.width}, {arguments.vocab_size:,} ids, held-out text")
    for heading in (
        "variant",
        "equal",
        "steps",
        "seeds",
        "bits/byte: ko",
        "en",
        "to the first: ko",
        "en",
        "CPU s/step",
    ):
        table.add_column(heading, justify="left" if heading in ("variant", "equal") else "right")
    first = next(iter(results.values()))
    for (name, same), found in results.items():
        table.add_row(
            name,
            "seconds" if same else "steps",
            f"{mean(result['steps'] for result in found):.0f}",
            f"{len(found)}",
            *(f"{bits(found, language):.4f}" for language in ("ko", "en")),
            *(f"{bits(found, language) / bits(first, language):.4f}" for language in ("ko", "en")),
            f"{mean(result['seconds_per_step'] for result in found):.3f}",
        )
    return table


if __name__ == "__main__":
    main()
