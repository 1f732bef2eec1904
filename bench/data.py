"""What the way from text to training tokens costs, step by step:

    python bench/data.py text/*.jsonl.zst    # your own files, {"text": …} a line; names that start with ko are Korean
    python bench/data.py                     # generated text
    python bench/data.py --only wait         # data_wait of a training, also over token files of 10 GB (sparse)
    python bench/data.py --only memory       # duplicates among 20 million documents

Every row runs in a process of its own. MB are of text in UTF-8; a rate "per CPU" counts the CPU seconds of all its
processes, so that it holds on a busy machine too, and includes starting them. Memory is that of the largest process.
The last table extrapolates: nothing was run at that size.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sllm.artifacts import Artifacts
from sllm.config import Experiment, FilesSource, load_experiment
from sllm.data import dedup
from sllm.data.clean import SPLITS, Cleaner
from sllm.data.download import download_stage
from sllm.data.embedded.generator import documents
from sllm.data.minhash import BANDS
from sllm.data.pack import pack_stage, token_file
from sllm.data.shards import ShardWriter, read_shard
from sllm.data.sources import read_file
from sllm.files import write_json
from sllm.manifests import read_manifest
from sllm.records import DIGESTS_SUFFIX, read_jsonl, shard_paths
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.training import train

ROOT = Path(__file__).parents[1]
GOAL_BYTES, GOAL_CPUS = 50e9, 32
SAMPLE_BYTES = 20e6
COPIES = 4
SHARDS = 800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help=".jsonl.zst")
    parser.add_argument("--only", choices=["stages", "wait", "memory"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--documents", type=int, default=20_000_000, help="of --only memory")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)  # one row, in this process
    arguments = parser.parse_args()
    if arguments.run:
        name, directory, value = arguments.run
        print(json.dumps(measured(lambda: ROWS[name](Path(directory), int(value)))))
        return
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        if arguments.only in (None, "stages"):
            files = arguments.files or generate(directory / "text", 32.0)
            write_json(directory / "files.json", [str(file.absolute()) for file in files])
            run("prepare", directory, 0)
            for table in stages(directory, arguments.workers):
                console.print(table)
        if arguments.only in (None, "wait"):
            console.print(waiting(directory))
        if arguments.only == "memory":
            console.print(comparing(directory, arguments.documents, arguments.workers))


def run(name: str, directory: Path, value: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run", name, str(directory), str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measured(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    def cpu() -> float:
        return sum(os.times()[:4])

    wall_start, cpu_start = time.perf_counter(), cpu()
    figures = work()
    figures = {"wall": time.perf_counter() - wall_start, "cpu": cpu() - cpu_start, **figures}  # a row may time itself
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {**figures, "peak": max(peaks) * 1024}


# --- the stages -----------------------------------------------------------------------------------


def generate(directory: Path, megabytes: float) -> list[Path]:
    for language in ("ko", "en"):
        directory.mkdir(exist_ok=True)
        with ShardWriter(directory, language, 1000) as writer:
            for text in documents(language, megabytes / 2, seed=0):
                writer.write(text)
    return sorted(directory.glob("*.zst"))


def run_prepare(directory: Path, _: int) -> dict[str, Any]:
    """The experiment over several copies of the text, because starting processes should not be what is measured, and
    a tokenizer. In a process of its own: others would inherit its peak."""
    files = [Path(name) for name in json.loads((directory / "files.json").read_text(encoding="utf-8"))]
    groups: dict[str, list[str]] = {"ko": [], "en": []}
    for file in files:
        groups["ko" if file.name.startswith("ko") else "en"] += read_file(file, "text")
    sources = []
    for language, group in groups.items():
        for copy in range(COPIES):
            raw = directory / "raw" / f"{language}-{copy}"
            raw.mkdir(parents=True)
            with ShardWriter(raw, "train", 4) as writer:
                for text in group:
                    writer.write(f"{text}\n{copy}" if copy else text)  # no exact duplicate
            # Each file a source, and so a part of its own: enough of one size for several workers.
            sources += [
                {"name": f"{raw.name}-{number}", "kind": "files", "language": language, "paths": [str(path)]}
                for number, path in enumerate(sorted(raw.glob("*.zst")))
            ]
    values = {
        "name": "bench",
        "data_directory": str(directory),
        "data": {
            "sources": sources,
            "shard_megabytes": 4,
            "validation_fraction": 0.05,
            "clean": {"contamination": False},
        },
        "model": {"d_model": 64, "n_layers": 1, "n_heads": 1, "d_ff": 64, "context_length": 256},
        "train": {"max_steps": 1, "global_batch": 1, "micro_batch": 1},
    }
    write_json(directory / "experiment.json", values)
    texts = [text for group in groups.values() for text in group]
    random.Random(0).shuffle(texts)
    sample, size = [], 0
    for text in texts:
        if size < SAMPLE_BYTES:
            sample.append(text)
            size += len(text.encode("utf-8", "replace"))
    train(sample, 32_000 if size >= SAMPLE_BYTES else 4_096).save(directory / "tokenizer.json")
    return {}


def experiment_of(directory: Path, **data: Any) -> Experiment:
    values = json.loads((directory / "experiment.json").read_text(encoding="utf-8"))
    values["data"] |= data
    return Experiment.model_validate(values)


def raw_texts(directory: Path, language: str) -> Iterator[str]:
    """Of one copy."""
    for source in experiment_of(directory).data.sources:
        if isinstance(source, FilesSource) and source.name.startswith(f"{language}-0-"):
            for path in source.paths:
                yield from read_file(Path(path), "text")


def clean_texts(directory: Path) -> Iterator[str]:
    """Of one copy."""
    corpus = directory / "corpus"
    manifest = read_manifest(corpus)
    for name in manifest["sources"]:
        if name.split("-")[1] != "0":
            continue
        for split in SPLITS:
            for path in shard_paths(corpus, manifest, name, split):
                yield from read_shard(path)


def text_bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def run_clean(directory: Path, _: int) -> dict[str, Any]:
    """On one CPU, from texts in memory."""
    config = experiment_of(directory).data
    languages = {source.language for source in config.sources}
    groups = {language: list(raw_texts(directory, language)) for language in sorted(languages)}
    cleaners = {language: Cleaner(config, language) for language in groups}
    for language, texts in groups.items():
        list(cleaners[language].clean(texts[0]))  # loads what is compiled
    return timed(
        sum(map(text_bytes, groups.values())),
        lambda: [list(cleaners[language].clean(text)) for language, texts in groups.items() for text in texts],
    )


def run_download(directory: Path, workers: int) -> dict[str, Any]:
    for made in ("corpus", "sources"):
        shutil.rmtree(directory / made, ignore_errors=True)
    size = COPIES * sum(text_bytes(raw_texts(directory, language)) for language in ("ko", "en"))
    experiment, corpus = experiment_of(directory), directory / "corpus"
    return timed(size, lambda: download_stage(experiment, corpus, StopFlag(), workers=workers))


def run_dedup(directory: Path, workers: int, near: bool = False) -> dict[str, Any]:
    dedup.BYTES_WORTH_A_PROCESS = 1
    corpus = directory / "corpus"
    names = [path.relative_to(corpus).as_posix() for path in sorted(corpus.glob("*/*.zst"))]
    config = experiment_of(directory, near_duplicates=near).data
    size = COPIES * text_bytes(clean_texts(directory))
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        for path in [*corpus.glob("*/*.zst"), *corpus.glob(f"*/*{DIGESTS_SUFFIX}")]:
            linked = Path(temporary) / path.relative_to(corpus)
            linked.parent.mkdir(exist_ok=True)
            linked.hardlink_to(path)
        tables = Path(temporary) / "tables"
        return timed(size, lambda: dedup.drop_duplicates(Path(temporary), names, config, tables, StopFlag(), workers))


def run_near(directory: Path, workers: int) -> dict[str, Any]:
    return run_dedup(directory, workers, near=True)


def run_tiktoken(directory: Path, _: int) -> dict[str, Any]:
    texts = list(clean_texts(directory))
    encoding = Tokenizer.load(directory / "tokenizer.json")._encoding
    encoding.encode_ordinary("warm up")
    return timed(text_bytes(texts), lambda: [encoding.encode_ordinary(text) for text in texts])


def run_pack(directory: Path, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        arguments = (directory / "corpus", directory / "tokenizer.json", Path(temporary) / "packed", StopFlag())
        return timed(
            COPIES * text_bytes(clean_texts(directory)),
            lambda: pack_stage(experiment_of(directory), *arguments, workers=workers),
        )


def timed(size: int, work: Callable[[], object]) -> dict[str, Any]:
    return {**measured(lambda: (work(), {"bytes": size})[1])}  # type: ignore[func-returns-value]


def stages(directory: Path, counts: list[int]) -> list[Table]:
    table = Table(title=f"On {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start")
    for heading in ("step", "workers", "MB/s", "MB/s per CPU", "of tiktoken", "peak GB"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    per_cpu: dict[str, float] = {}
    scaling: dict[str, float] = {}

    def add(step: str, name: str, workers: int, tiktoken: dict[str, Any] | None = None) -> dict[str, Any]:
        row = run(name, directory, workers)
        rate, rate_cpu = row["bytes"] / 1e6 / row["wall"], row["bytes"] / 1e6 / row["cpu"]
        ratio = ""
        if tiktoken:
            theirs = tiktoken["bytes"] / 1e6 / tiktoken["wall"], tiktoken["bytes"] / 1e6 / tiktoken["cpu"]
            ratio = f"{rate / theirs[0] / workers:.2f} ({rate_cpu / theirs[1]:.2f} per CPU)"
        table.add_row(step, str(workers), f"{rate:.1f}", f"{rate_cpu:.1f}", ratio, f"{row['peak'] / 1e9:.2f}")
        if workers == 1:
            per_cpu[step] = rate_cpu
            scaling[step] = rate
        else:
            scaling[f"{step}, {workers}"] = rate / scaling[step]
        return row

    add("clean, in memory", "clean", 1)
    for workers in counts:
        add("download to shards: read, clean, compress, exact duplicates", "download", workers)
    add("exact duplicates", "dedup", 1)
    for workers in counts:
        add("exact and near duplicates", "near", workers)
    # Before and after packing: the machine may have other work.
    before = add("tiktoken, text in memory", "tiktoken", 1)
    for workers in counts:
        add("pack", "pack", workers, before)
        before = add("tiktoken, text in memory", "tiktoken", 1)

    estimate = Table(title=f"{GOAL_BYTES / 1e9:.0f} GB on {GOAL_CPUS} CPUs, extrapolated from the rates per CPU")
    estimate.add_column("step")
    estimate.add_column("minutes", justify="right")
    for step, rate in per_cpu.items():
        if step.startswith(("download", "exact and", "pack")):
            estimate.add_row(step, f"{GOAL_BYTES / 1e6 / rate / GOAL_CPUS / 60:.1f}")
    gains = Table(title="Times as fast as with one worker")
    gains.add_column("step, workers")
    gains.add_column("×", justify="right")
    for step, gain in scaling.items():
        if step.rpartition(", ")[2].isdigit():
            gains.add_row(step, f"{gain:.2f}")
    return [table, gains, estimate]


# --- memory ---------------------------------------------------------------------------------------


def comparing(directory: Path, documents: int, counts: list[int]) -> Table:
    table = Table(title=f"Comparing {documents:,} documents in {SHARDS} shards, by digest and {BANDS} bands")
    for heading in ("workers", "seconds", "CPU seconds", "peak GB"):
        table.add_column(heading, justify="right")
    run("tables", directory, documents)
    for workers in counts:
        row = run("compare", directory, workers)
        table.add_row(str(workers), f"{row['wall']:.1f}", f"{row['cpu']:.1f}", f"{row['peak'] / 1e9:.2f}")
    return table


def run_tables(directory: Path, documents: int) -> dict[str, Any]:
    """Of random keys, as many shards as 50 GB have. One document in a hundred has all keys of one before it."""
    draws = np.random.default_rng(0)
    count = documents // SHARDS
    before = draws.integers(0, 1 << 64, (count // 100, 2 + BANDS), np.uint64)
    for number in range(SHARDS):
        keys = draws.integers(0, 1 << 64, (count, 2 + BANDS), np.uint64)
        keys[: len(before)] = before
        before = keys[count - len(before) :]
        dedup.save_table(directory / f"{number:05d}{dedup.NEAR_SUFFIX}", [keys.T[:2], *keys.T[2:, None]])
    return {}


def run_compare(directory: Path, workers: int) -> dict[str, Any]:
    written = sorted(directory.glob(f"*{dedup.NEAR_SUFFIX}"))
    row = measured(lambda: {"found": dedup.compare(directory, written, StopFlag(), workers)})
    for found in row.pop("found"):
        assert found.sum() == (SHARDS - 1) * (len(found) // SHARDS // 100)
    return row


# --- waiting for data -----------------------------------------------------------------------------


def waiting(directory: Path) -> Table:
    table = Table(title="Waiting for data in a step of the smoke model, from metrics.jsonl")
    for heading in ("token files", "steps", "data_wait, median", "95th percentile", "ms a step"):
        table.add_column(heading, justify="left" if heading == "token files" else "right")
    for label, gigabytes in (("of the smoke experiment", 0), ("two of 5 GB, sparse", 10)):
        row = run("wait", directory, gigabytes)
        table.add_row(
            label, str(row["steps"]), f"{row['median']:.3%}", f"{row['high']:.3%}", f"{1000 * row['seconds']:.1f}"
        )
    return table


def run_wait(directory: Path, gigabytes: int) -> dict[str, Any]:
    """Train the smoke experiment for a hundred steps, on its own data or on token files of so many gigabytes."""
    from sllm.tokenizer.training import tokenizer_stage
    from sllm.training.loop import train

    directory = directory / f"wait-{gigabytes}"
    experiment = load_experiment(
        ROOT / "configs" / "smoke.yaml",
        [
            f"runs_directory={directory}",
            f"data_directory={directory}",
            "train.max_steps=100",
            "validate.every=100",
            "validate.tokens=2048",
            "train.checkpoint.every=100",
            "wandb.mode=disabled",
        ],
    )
    artifacts, stop = Artifacts(experiment), StopFlag()
    download_stage(experiment, artifacts.corpus, stop)
    tokenizer_stage(experiment, artifacts.corpus, artifacts.tokenizer, stop)
    pack_stage(experiment, artifacts.corpus, artifacts.tokenizer / "tokenizer.json", artifacts.packed, stop, workers=1)
    if gigabytes:
        enlarge(artifacts.packed, gigabytes)
    run = RunDirectory(experiment.run_path)
    run.path.mkdir(parents=True)
    train(experiment, run, artifacts, stop)
    records = [record for record in read_jsonl(run.metrics) if record["kind"] == "train"][10:]
    waits = np.array([record["data_wait"] for record in records])
    return {
        "steps": len(waits),
        "median": float(np.median(waits)),
        "high": float(np.percentile(waits, 95)),
        "seconds": float(np.median([record["seconds"] for record in records])),
    }


def enlarge(packed: Path, gigabytes: int) -> None:
    """Make each training file a sparse one: every read is a page that was never read before."""
    manifest = read_manifest(packed)
    width = np.dtype(manifest["dtype"]).itemsize
    for name, source in manifest["sources"].items():
        source["train"]["tokens"] = int(gigabytes * 1e9) // len(manifest["sources"]) // width
        os.truncate(token_file(packed, name, "train"), source["train"]["tokens"] * width)
    for entry in manifest["files"]:
        entry["bytes"] = (packed / entry["name"]).stat().st_size
    write_json(packed / "manifest.json", manifest)


ROWS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    name.removeprefix("run_"): work for name, work in list(globals().items()) if name.startswith("run_")
}

if __name__ == "__main__":
    main()
