"""Our tokenizer beside its peers, on the same text and with the same split pattern:

    python bench/tokenizer.py text/*.jsonl.zst        # your own .jsonl.zst files, {"text": …} a line
    python bench/tokenizer.py                         # generated text

Training: every trainer runs in a process of its own, on text that is already in memory, except for the first row, which
reads the files as the tokenizer stage does. Memory is the peak of the whole process. sentencepiece learns another BPE
(no bytes, other ties), so only its time compares. Encoding: files to ids as the pack stage does, against tiktoken on
text in memory. Peers that are not installed are left out (`pip install -e '.[bench]'`).
"""

import argparse
import hashlib
import importlib.util
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unicodedata import normalize

from rich.console import Console
from rich.table import Table

from sllm.data.embedded.generator import documents
from sllm.data.shards import ShardWriter
from sllm.data.sources import read_file
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE, SPLIT_PATTERN
from sllm.tokenizer.report import train_peer
from sllm.tokenizer.training import train

SHARDS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help=".jsonl.zst")
    parser.add_argument("--vocab-size", type=int, help="default: 32,000 for files, 4,096 for generated text")
    parser.add_argument("--megabytes", type=float, default=24.0, help="of generated text")
    parser.add_argument("--only", choices=["training", "encoding"])
    parser.add_argument("--trainers", nargs="+", default=list(TRAINERS), choices=list(TRAINERS))
    parser.add_argument(
        "--rounds",
        type=int,
        default=1,
        help="of each, in turn; of trainings the fastest counts, of encoders the median",
    )
    parser.add_argument("--run", help=argparse.SUPPRESS)  # one trainer, in this process
    arguments = parser.parse_args()
    vocab_size = arguments.vocab_size or (32_000 if arguments.files else 4_096)
    if arguments.run:
        print(json.dumps(run_trainer(arguments.run, arguments.files, vocab_size)))
        return
    with tempfile.TemporaryDirectory() as directory:
        files = arguments.files or generate(Path(directory), arguments.megabytes)
        if arguments.only != "encoding":
            Console(width=110).print(compare_trainers(files, vocab_size, arguments.trainers, arguments.rounds))
        if arguments.only != "training":
            Console(width=110).print(compare_encoders(files, vocab_size, Path(directory), arguments.rounds))


def generate(directory: Path, megabytes: float) -> list[Path]:
    for language in ("ko", "en"):
        (directory / language).mkdir()
        with ShardWriter(directory / language, "train", 64) as writer:
            for text in documents(language, megabytes / 2, seed=0):
                writer.write(text)
    return sorted(directory.glob("*/*.zst"))


def read_texts(files: list[Path]) -> Iterator[str]:
    for path in files:
        yield from read_file(path, "text")


# --- training -------------------------------------------------------------------------------------


def train_rustbpe(texts: Iterator[str], vocab_size: int) -> list[bytes]:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(texts, vocab_size - FIRST_BYTE, pattern=SPLIT_PATTERN)
    return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda entry: entry[1])]


def train_sentencepiece(texts: Iterator[str], vocab_size: int) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.splitlines()),
        model_writer=io.BytesIO(),
        model_type="bpe",
        vocab_size=vocab_size,
        normalization_rule_name="identity",
        character_coverage=0.9995,
        byte_fallback=True,
        max_sentence_length=1 << 20,
        num_threads=os.cpu_count(),
        minloglevel=2,
    )


TRAINERS: dict[str, Callable[[Iterator[str], int], list[bytes] | None]] = {
    "sllm": lambda texts, vocab_size: train(texts, vocab_size).token_bytes[FIRST_BYTE:],
    "rustbpe": train_rustbpe,
    "tokenizers": lambda texts, vocab_size: train_peer(texts, vocab_size, SPLIT_PATTERN).token_bytes[FIRST_BYTE:],
    "sentencepiece": train_sentencepiece,
}


def run_trainer(name: str, files: list[Path], vocab_size: int) -> dict[str, float | str | list[str]]:
    """Seconds (wall, CPU), memory in GB (peak, before training), and hashes of the tokens in their order."""
    from_files = name == "sllm, from files"
    texts = read_texts(files) if from_files else [normalize("NFC", text) for text in read_texts(files)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    tokens = TRAINERS["sllm" if from_files else name](iter(texts), vocab_size)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hashes = [hashlib.sha256(token).hexdigest()[:12] for token in tokens or ()]
    return {"seconds": seconds, "cpu": cpu, "peak": peak / 1e6, "before": before / 1e6, "tokens": hashes}


def compare_trainers(files: list[Path], vocab_size: int, trainers: list[str], rounds: int) -> Table:
    train(["compile, and keep the result for later runs"], FIRST_BYTE + 258)
    size = sum(len(text.encode("utf-8")) for text in read_texts(files))
    names = [name for name in trainers if importlib.util.find_spec(name)]
    if "sllm" not in names:
        names.insert(0, "sllm")
    names.insert(0, "sllm, from files")
    results: dict[str, Any] = {}
    for number in range(rounds):
        for name in names:
            print(f"round {number + 1} of {rounds}: {name} …", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--run", name, "--vocab-size", str(vocab_size), *map(str, files)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            result = json.loads(output.splitlines()[-1])
            if name not in results or result["seconds"] < results[name]["seconds"]:
                results[name] = result
    table = Table(title=f"Training: {vocab_size:,} ids from {size / 1e6:.1f} MB, on {os.cpu_count()} CPUs")
    for heading in (
        "trainer",
        "wall s",
        "sllm / it",
        "CPU s",
        "peak GB",
        "of it text",
        "same tokens",
        "in the same order",
    ):
        table.add_column(heading, justify="left" if heading == "trainer" else "right")
    ours = results["sllm"]
    for name, result in results.items():
        theirs = result["tokens"]
        same = [
            f"{len(set(theirs) & set(ours['tokens'])) / len(theirs):.2%}" if theirs else "–",
            ("yes" if theirs == ours["tokens"] else "no") if theirs else "–",
        ]
        table.add_row(
            name,
            f"{result['seconds']:.1f}",
            f"{ours['seconds'] / result['seconds']:.2f}",
            f"{result['cpu']:.1f}",
            f"{result['peak']:.2f}",
            f"{result['before']:.2f}",
            *same,
        )
    return table


# --- encoding -------------------------------------------------------------------------------------


def compare_encoders(files: list[Path], vocab_size: int, directory: Path, rounds: int) -> Table:
    path = directory / "tokenizer.json"
    train(read_texts(files), vocab_size).save(path)
    texts = list(read_texts(files))
    random.Random(0).shuffle(texts)
    shards = directory / "shards"
    shards.mkdir()
    for number in range(SHARDS):
        with ShardWriter(shards, f"part-{number}", 1000) as writer:
            for text in texts[number::SHARDS]:
                writer.write(text)
    size = sum(len(text.encode("utf-8")) for text in texts)
    tasks = [(path, shard) for shard in sorted(shards.glob("*.zst"))]
    tokenizer = Tokenizer.load(path)
    encoding = tokenizer._encoding
    encoding.encode_ordinary("warm up")
    counts = sorted({1, 2, os.cpu_count() or 1})
    with ExitStack() as stack:
        contenders: dict[str, tuple[int, Callable[[], object]]] = {
            "tiktoken, text in memory, 1 thread": (1, lambda: [encoding.encode_ordinary(text) for text in texts])
        }
        for n in counts:
            pool = stack.enter_context(ProcessPoolExecutor(n))
            list(pool.map(warm, [path] * 4 * n))
            contenders[f"sllm, files to ids, workers: {n}"] = n, lambda pool=pool: list(pool.map(encode_shard, tasks))  # type: ignore[misc]
        for n in counts:
            contenders[f"sllm, encode_batch, threads: {n}"] = n, lambda n=n: tokenizer.encode_batch(texts, workers=n)  # type: ignore[misc]
        if importlib.util.find_spec("tokenizers"):
            import tokenizers

            theirs = tokenizers.Tokenizer.from_file(str(path))
            contenders["tokenizers, text in memory, all CPUs"] = (
                0,
                lambda: theirs.encode_batch_fast(texts, add_special_tokens=False),
            )
        turns = [[elapsed(work) for _, work in contenders.values()] for _ in range(rounds)]
    table = Table(
        title=f"Encoding {size / 1e6:.1f} MB, on {os.cpu_count()} CPUs, {rounds} rounds in turn: median (worst)"
    )
    for heading in ("encoder", "MB/s", "of tiktoken, per worker"):
        table.add_column(heading, justify="left" if heading == "encoder" else "right")
    for i, (name, (n, _)) in enumerate(contenders.items()):
        rates = [size / 1e6 / seconds[i] for seconds in turns]
        ratios = [seconds[0] / seconds[i] / n for seconds in turns] if n else []
        of_tiktoken = f"{median(ratios):.2f} ({min(ratios):.2f})" if n else ""
        table.add_row(name, f"{median(rates):.1f} ({min(rates):.1f})", of_tiktoken)
    return table


def elapsed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


_loaded: dict[Path, Tokenizer] = {}


def warm(path: Path) -> None:
    _loaded[path] = Tokenizer.load(path)
    _loaded[path].encode("warm up")
    time.sleep(0.2)  # so that every worker gets one


def encode_shard(task: tuple[Path, Path]) -> int:
    path, shard = task
    return sum(len(_loaded[path].encode_to_numpy(text).astype("<u2")) for text in read_file(shard, "text"))


if __name__ == "__main__":
    main()
