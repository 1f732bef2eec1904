"""The pack stage: the shards of a corpus, encoded, into one flat token file per source and split.

    <output>/<source>.<split>.bin             token ids, little-endian uint16, or uint32 above 65,536 ids;
                                              every document stands between <bos> and <eos>
    <output>/<source>.<split>.documents.bin   little-endian uint64: where each document's <bos> stands
    <output>/manifest.json                    dtype, tokenizer fingerprint; by source and split tokens, documents,
                                              text bytes, and the documents of each shard

Shards are encoded side by side in processes and joined in their order, so the result is the same for any number.

Until then `<output>.partial` holds what is done, and whatever ends the stage, the next call goes on from there:

    parts/          encoded shards that are not joined yet, each two files of which the second is written last
    files/          the files above as far as they go; in the end, <output>
    joined.jsonl    one line for each shard in them; what they hold beyond its figures was being written, and is cut off
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from sllm.config import Experiment
from sllm.data.clean import SPLITS
from sllm.data.shards import read_shard
from sllm.errors import UserError
from sllm.files import CorruptError, alone_with, atomic_file, fingerprint, fsync_directory, remove_leftovers, write_text
from sllm.manifests import commit_directory, read_manifest
from sllm.progress import track
from sllm.records import append_jsonl, read_jsonl, shard_paths
from sllm.stop import Check, StopFlag
from sllm.tokenizer import Tokenizer
from sllm.workers import in_processes

POSITION_DTYPE = "<u8"
ANSWERS_DTYPE = "<u4"

Groups = dict[tuple[str, str], list[Path]]
"""The shards of each source and split."""


Encode = Callable[[Tokenizer, str], np.ndarray]
"""The tokens of a document of the corpus, all that stand for it."""


@cache  # once in each worker
def _load_tokenizer(path: Path, fingerprint: str) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    assert tokenizer.fingerprint == fingerprint, "the tokenizer was written anew meanwhile"
    return tokenizer


def token_dtype(vocab_size: int) -> str:
    """The narrower of the two little-endian types that holds every id."""
    return "<u2" if vocab_size <= 65_536 else "<u4"


def token_file(directory: Path, source: str, split: str) -> Path:
    return directory / f"{source}.{split}.bin"


def documents_file(directory: Path, source: str, split: str) -> Path:
    return directory / f"{source}.{split}.documents.bin"


def answers_file(directory: Path, source: str, split: str) -> Path:
    """Of conversations: how many targets of each window are answers, little-endian uint32."""
    return directory / f"{source}.{split}.answers.bin"


def origins_file(directory: Path, source: str, split: str) -> Path:
    """Of conversations: which each is of those of the source and split in the corpus, little-endian uint64."""
    return directory / f"{source}.{split}.origins.bin"


def pack_stage(
    experiment: Experiment,
    corpus: Path,
    tokenizer_path: Path,
    output: Path,
    stop: StopFlag,
    *,
    workers: int | None = None,
    share: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Encode `corpus` with the tokenizer into `output`, whole or not at all; one that is whole is left as it is.

    Uses `workers` processes, by default one for each CPU this process may use. Returns the summary that the manifest
    holds too. With `share` (i, n), for a task of a job array, only every n-th shard from the i-th on is encoded; the
    call without it that follows them encodes what is missing and joins all.

    Raises:
        UserError: the corpus or the tokenizer is missing or damaged.
        Stopped: a stop was requested; shards that are encoded stay, and the next call goes on from there.
    """
    if summary := _whole(output):
        return summary
    try:
        manifest = read_manifest(corpus)
    except CorruptError as error:
        raise UserError(f"{error}; run `sllm download` again") from None
    tokenizer = Tokenizer.load(tokenizer_path)
    sources: dict[str, Any] = {name: {"language": source["language"]} for name, source in manifest["sources"].items()}
    groups: Groups = {
        (source, split): shard_paths(corpus, manifest, source, split) for source in sources for split in SPLITS
    }
    workers = workers or len(os.sched_getaffinity(0))
    dtype = token_dtype(tokenizer.vocab_size)
    work = output.with_name(f"{output.name}.partial")
    encode = partial(encode_shard, _between_bos_and_eos, tokenizer_path, tokenizer.fingerprint, work / "parts")
    with alone_with(output, stop.check):
        if summary := _whole(output):  # another run made it while this one waited
            return summary
        begin(work, fingerprint([manifest["files"], tokenizer.fingerprint]))
        if share is None:
            for (source, split), figures in _join(work, encode, dtype, groups, workers, stop):
                sources[source][split] = {"bytes": manifest["sources"][source][split]["bytes"], **figures}
            details: dict[str, Any] = {
                "kind": "packed",
                "dtype": dtype,
                "vocab_size": tokenizer.vocab_size,
                "tokenizer": tokenizer.fingerprint,
                "sources": sources,
            }
            commit_directory(work / "files", output, **details)
            shutil.rmtree(work)
            return _summary(details)
    mine = [(shard,) for group in groups.values() for shard in group][share[0] :: share[1]]
    with in_processes(encode, mine, workers, stop) as parts:
        for _ in parts:
            pass
    return {"shards": len(mine)}


def _whole(output: Path) -> dict[str, Any] | None:
    try:
        return _summary(read_manifest(output))
    except CorruptError:
        return None


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
    """One encoded shard, in two files of its own."""

    tokens: Path
    documents: Path


def _between_bos_and_eos(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return np.concatenate([[tokenizer.bos_id], tokenizer.encode_to_numpy(text), [tokenizer.eos_id]])


def encode_shard(
    encode: Encode, tokenizer_path: Path, tokenizer_fingerprint: str, directory: Path, shard: Path, *, check: Check
) -> Part:
    """Encode the documents of `shard` into files below `directory`, unless it is done. Calls `check` before each."""
    stem = f"{shard.parent.name}.{shard.name}"
    part = Part(directory / f"{stem}.tokens", directory / f"{stem}.documents")
    if part.documents.exists():
        return part
    tokenizer = _load_tokenizer(tokenizer_path, tokenizer_fingerprint)
    dtype = np.dtype(token_dtype(tokenizer.vocab_size))
    starts = []
    tokens = 0
    with atomic_file(part.tokens) as file:
        for number, text in enumerate(read_shard(shard), 1):
            check()
            try:
                ids = encode(tokenizer, text)
            except BaseException as error:  # a panic of Rust code is no Exception
                if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                    raise
                says = f"{type(error).__name__}: {error}".split("\n")[0]
                raise UserError(
                    f"{shard}: document {number}, of {len(text):,} characters, cannot be encoded ({says}); leave it "
                    f"out of the source {shard.parent.name}"
                ) from None
            file.write(ids.astype(dtype).tobytes())
            starts.append(tokens)
            tokens += len(ids)
    with atomic_file(part.documents) as file:
        file.write(np.array(starts, POSITION_DTYPE).tobytes())
    return part


# --- all of them ----------------------------------------------------------------------------------


def begin(work: Path, key: str) -> None:
    """Take up what an earlier call left, if it was over the same input; else begin anew."""
    path = work / "key"
    if path.exists() and path.read_text(encoding="utf-8") != key:
        shutil.rmtree(work)
    for name in ("parts", "files"):
        (work / name).mkdir(parents=True, exist_ok=True)
    write_text(path, key)


def _join(
    work: Path, encode: Callable[..., Part], dtype: str, groups: Groups, workers: int, stop: StopFlag
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """Encode the shards that are not in the files yet, and append them; each group's figures for the manifest."""
    for name in ("parts", "files"):
        remove_leftovers(work / name)
    journal = work / "joined.jsonl"
    joined = {line["name"]: line for line in read_jsonl(journal)}
    write_text(journal, "".join(json.dumps(line) + "\n" for line in joined.values()))  # without half a line
    sizes = {shard: shard.stat().st_size for group in groups.values() for shard in group}
    missing = [(shard,) for shard in sizes if _name(shard) not in joined]
    total, left = sum(sizes.values()), sum(sizes[shard] for (shard,) in missing)
    with (
        track("pack", total, "bytes", total - left) as bar,
        in_processes(encode, missing, workers, stop) as parts,
    ):
        for (source, split), group in groups.items():
            lines = [joined[_name(shard)] for shard in group if _name(shard) in joined]
            tokens, documents = (sum(line[unit] for line in lines) for unit in ("tokens", "documents"))
            with (
                token_file(work / "files", source, split).open("ab") as tokens_out,
                documents_file(work / "files", source, split).open("ab") as documents_out,
            ):
                fsync_directory(work / "files")  # the journal must not know a file that is gone after a power cut
                tokens_out.truncate(tokens * np.dtype(dtype).itemsize)
                documents_out.truncate(documents * np.dtype(POSITION_DTYPE).itemsize)
                for shard in group[len(lines) :]:
                    part = next(parts)
                    starts = np.fromfile(part.documents, POSITION_DTYPE)
                    with part.tokens.open("rb") as file:
                        shutil.copyfileobj(file, tokens_out, 1 << 20)
                    documents_out.write((starts + np.uint64(tokens)).astype(POSITION_DTYPE).tobytes())
                    for out in (tokens_out, documents_out):
                        out.flush()
                        os.fsync(out.fileno())
                    size = part.tokens.stat().st_size // np.dtype(dtype).itemsize
                    lines.append({"name": _name(shard), "tokens": size, "documents": len(starts)})
                    append_jsonl(journal, lines[-1])
                    part.documents.unlink()
                    part.tokens.unlink()
                    tokens += size
                    documents += len(starts)
                    bar.advance(sizes[shard], source=source)
                # On a file system without locks two processes may have appended.
                if os.fstat(tokens_out.fileno()).st_size != tokens * np.dtype(dtype).itemsize:
                    raise UserError(f"{work}: another process writes to it too; end one of them and pack again")
            shards = [{"name": line["name"], "documents": line["documents"]} for line in lines]
            yield (source, split), {"tokens": tokens, "documents": documents, "shards": shards}


def _name(shard: Path) -> str:
    """As the corpus calls it."""
    return f"{shard.parent.name}/{shard.name}"
