"""The pack stage: the shards of a corpus, encoded, into one flat token file per source and split.

    <output>/<source>.<split>.bin             token ids, little-endian uint16, or uint32 above 65,536 ids;
                                              every document stands between <bos> and <eos>
    <output>/<source>.<split>.documents.bin   little-endian uint64: where each document's <bos> stands
    <output>/manifest.json                    dtype, tokenizer fingerprint; by source and split tokens, documents,
                                              text bytes, and the documents of each shard

Shards are encoded side by side in processes and joined in their order, so the result is the same for any number.
"""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from sllm.config import Experiment
from sllm.data.clean import SPLITS
from sllm.data.shards import read_shard
from sllm.errors import UserError
from sllm.files import CorruptError, atomic_directory, read_manifest, shard_paths
from sllm.progress import Bar, track
from sllm.stop import SIGNALS, StopFlag
from sllm.tokenizer import Tokenizer

POSITION_DTYPE = "<u8"

_load_tokenizer = cache(Tokenizer.load)  # once in each worker


def token_dtype(vocab_size: int) -> str:
    """The narrower of the two little-endian types that holds every id."""
    return "<u2" if vocab_size <= 65_536 else "<u4"


def token_file(directory: Path, source: str, split: str) -> Path:
    return directory / f"{source}.{split}.bin"


def documents_file(directory: Path, source: str, split: str) -> Path:
    return directory / f"{source}.{split}.documents.bin"


def pack_stage(
    experiment: Experiment,
    corpus: Path,
    tokenizer_path: Path,
    output: Path,
    stop: StopFlag,
    *,
    workers: int | None = None,
) -> dict[str, Any]:
    """Encode `corpus` with the tokenizer into `output`, whole or not at all; one that is whole is left as it is.

    Uses `workers` processes, by default one for each CPU this process may use. Returns the summary that the manifest
    holds too.

    Raises:
        UserError: the corpus or the tokenizer is missing or damaged.
        Stopped: a stop was requested; nothing is left behind.
    """
    try:
        return _summary(read_manifest(output))
    except CorruptError:
        pass
    try:
        manifest = read_manifest(corpus)
    except CorruptError as error:
        raise UserError(f"{error}; run `sllm download` again") from None
    tokenizer = Tokenizer.load(tokenizer_path)
    sources: dict[str, Any] = {name: {"language": source["language"]} for name, source in manifest["sources"].items()}
    details = {
        "kind": "packed",
        "dtype": token_dtype(tokenizer.vocab_size),
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "sources": sources,
    }
    groups = {(source, split): shard_paths(corpus, manifest, source, split) for source in sources for split in SPLITS}
    shards = [path for group in groups.values() for path in group]
    workers = min(workers or len(os.sched_getaffinity(0)), len(shards))
    with (
        atomic_directory(output, **details) as directory,
        track("pack", sum(path.stat().st_size for path in shards), "bytes") as bar,
    ):
        (directory / "parts").mkdir()
        with _encoded(shards, tokenizer_path, directory / "parts", workers, stop) as parts:
            for (source, split), group in groups.items():
                figures = _join(directory, source, split, group, parts, bar)
                sources[source][split] = {"bytes": manifest["sources"][source][split]["bytes"], **figures}
        (directory / "parts").rmdir()
    return _summary(details)


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    sources = {
        name: {
            "language": source["language"],
            **{split: {k: source[split][k] for k in ("tokens", "documents", "bytes")} for split in SPLITS},
        }
        for name, source in manifest["sources"].items()
    }
    totals = {f"{split}_tokens": sum(source[split]["tokens"] for source in sources.values()) for split in SPLITS}
    return {"dtype": manifest["dtype"], "tokenizer": manifest["tokenizer"], **totals, "sources": sources}


# --- one shard ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One encoded shard, waiting in a file of its own to be joined to the others."""

    tokens_path: Path
    documents_path: Path
    tokens: int
    documents: int


def _encode_shard(shard: Path, tokenizer: Tokenizer, parts: Path, number: int, check: Callable[[], None]) -> Part:
    """Encode `shard` into two files below `parts`. Calls `check` before each document."""
    dtype = np.dtype(token_dtype(tokenizer.vocab_size))
    bos = np.array(tokenizer.bos_id, dtype).tobytes()
    eos = np.array(tokenizer.eos_id, dtype).tobytes()
    tokens_path, documents_path = parts / f"{number}.tokens", parts / f"{number}.documents"
    starts = []
    tokens = 0
    with tokens_path.open("wb") as file:
        for text in read_shard(shard):
            check()
            ids = tokenizer.encode_to_numpy(text)
            file.write(bos + ids.astype(dtype).tobytes() + eos)
            starts.append(tokens)
            tokens += len(ids) + 2
    np.array(starts, POSITION_DTYPE).tofile(documents_path)
    return Part(tokens_path, documents_path, tokens, len(starts))


def _join(
    directory: Path, source: str, split: str, shards: list[Path], parts: Iterator[Part], bar: Bar
) -> dict[str, Any]:
    """Append the parts of `shards` to the source's files; their figures for the manifest."""
    tokens = documents = 0
    entries = []
    with (
        token_file(directory, source, split).open("wb") as tokens_out,
        documents_file(directory, source, split).open("wb") as documents_out,
    ):
        for shard in shards:
            part = next(parts)
            with part.tokens_path.open("rb") as file:
                shutil.copyfileobj(file, tokens_out, 1 << 20)
            starts = np.fromfile(part.documents_path, POSITION_DTYPE) + np.uint64(tokens)
            starts.astype(POSITION_DTYPE).tofile(documents_out)
            part.tokens_path.unlink()
            part.documents_path.unlink()
            tokens += part.tokens
            documents += part.documents
            entries.append({"name": f"{source}/{shard.name}", "documents": part.documents})
            bar.advance(shard.stat().st_size, source=source)
    return {"tokens": tokens, "documents": documents, "shards": entries}


# --- many processes -------------------------------------------------------------------------------


@contextmanager
def _encoded(
    shards: list[Path], tokenizer_path: Path, parts: Path, workers: int, stop: StopFlag
) -> Iterator[Iterator[Part]]:
    """The encoded shards, in their order, made by `workers` processes. They end when the block fails or we die."""
    if workers == 1:
        tokenizer = Tokenizer.load(tokenizer_path)
        yield (_encode_shard(shard, tokenizer, parts, i, stop.check) for i, shard in enumerate(shards))
        return
    # Spawned, not forked: a fork would copy the locks of whatever threads run here.
    context = multiprocessing.get_context("spawn")
    with _signals_blocked():
        resource_tracker.ensure_running()  # by itself it ignores SIGTERM, but dies of SIGUSR2
    workers_end, our_end = context.Pipe(duplex=False)
    with workers_end, our_end, ProcessPoolExecutor(workers, context, _start_worker, (workers_end,)) as pool:
        try:
            with _signals_blocked():
                futures = [
                    pool.submit(_encode_in_worker, shard, tokenizer_path, parts, i) for i, shard in enumerate(shards)
                ]
            yield (_result(future, stop) for future in futures)
        except BaseException:
            our_end.close()
            raise


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes started in this block inherit its mask and never see a signal, which a batch system may send to all
    of a job: the parent alone answers them."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _start_worker(parent: Connection) -> None:
    """End when the parent closes its end of the pipe, or is gone."""

    def watch() -> None:
        parent.poll(None)  # nothing is ever sent: this waits for the end of file
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _encode_in_worker(shard: Path, tokenizer_path: Path, parts: Path, number: int) -> Part:
    # Nothing to check: a worker is ended from outside, at any point. Its files are not part of anything yet.
    return _encode_shard(shard, _load_tokenizer(tokenizer_path), parts, number, check=lambda: None)


def _result(future: Future[Part], stop: StopFlag) -> Part:
    while not future.done():
        stop.check()
        wait([future], timeout=0.2)
    return future.result()
