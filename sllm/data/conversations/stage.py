"""The stage `conversations`: those of `finetune.data`, brought as text is, encoded, and put together in windows.

    <output>/<source>.<split>.bin             token ids as of text, in rows of context_length + 1: whole conversations,
                                              each from <bos> to its last <|end|>, and <pad> behind them
    <output>/<source>.<split>.documents.bin   little-endian uint64: where each conversation's <bos> stands
    <output>/<source>.<split>.origins.bin     little-endian uint64: which it is of those of the split in the corpus
    <output>/<source>.<split>.answers.bin     little-endian uint32: how many targets of each row are answers
    <output>/manifest.json                    as of text, with `overlap` 0 and `context_length`; `bytes` are of answers,
                                              `windows` are rows; what was dropped, too long for a row among it

Shards are encoded side by side, into `<output>.partial/parts`, where they stay if the stage ends early. Rows are filled
in the order of the corpus by one process, which takes seconds: the result is the same for any number.
"""

import shutil
import sys
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np

from sllm.config import Experiment, names_of_finetune
from sllm.data.clean import SPLITS, Dropped, Split
from sllm.data.conversations.line import from_line
from sllm.data.conversations.rows import rows
from sllm.data.download import cpus, download_stage
from sllm.data.masks import answers
from sllm.data.pack import (
    ANSWERS_DTYPE,
    POSITION_DTYPE,
    Part,
    answers_file,
    begin,
    documents_file,
    encode_shard,
    origins_file,
    token_dtype,
    token_file,
)
from sllm.errors import UserError
from sllm.files import CorruptError, alone_with, fingerprint, remove_leftovers
from sllm.manifests import atomic_directory, read_manifest
from sllm.progress import track
from sllm.records import shard_paths
from sllm.stop import Check, StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import conversation_ids, require_template
from sllm.workers import in_processes

AT_ONCE = 1 << 22
"""Tokens of the rows that are written together."""


def conversations_stage(
    experiment: Experiment,
    corpus: Path,
    tokenizer_path: Path,
    output: Path,
    stop: StopFlag,
    *,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the conversations of `experiment.finetune` to `corpus`, and in windows to `output`, each whole or not at
    all; what is whole is left as it is.

    Uses `workers` processes, by default one for each CPU this process may use. Returns the summary that the manifest
    holds too: by source and split windows, tokens and filler among them, conversations, bytes of the answers.

    Raises:
        UserError: a source cannot be had, is damaged or holds no conversations; none is left for one of the splits; or
            the tokenizer is missing, or has no tokens for conversations.
        Stopped: a stop was requested; what is brought and encoded stays, and the next call goes on from there.
    """
    if summary := _whole(output):
        return summary
    tokenizer = Tokenizer.load(tokenizer_path)
    require_template(tokenizer)
    bring_conversations(experiment, corpus, stop, workers=workers)
    manifest = read_manifest(corpus)
    groups = {
        (source, split): shard_paths(corpus, manifest, source, split)
        for source in manifest["sources"]
        for split in SPLITS
    }
    work = output.with_name(f"{output.name}.partial")
    with alone_with(output, stop.check):
        if summary := _whole(output):  # another run made it while this one waited
            return summary
        remove_leftovers(output.parent, f".{output.name}.*")
        begin(work, fingerprint([manifest["files"], tokenizer.fingerprint]))
        encode = partial(encode_shard, _ids, tokenizer_path, tokenizer.fingerprint, work / "parts")
        parts = _encoded(encode, [shard for group in groups.values() for shard in group], workers or cpus(), stop)
        context = experiment.model.context_length
        sources: dict[str, Any] = {}
        details: dict[str, Any] = {
            "kind": "packed",
            "overlap": 0,
            "context_length": context,
            "dtype": token_dtype(tokenizer.vocab_size),
            "vocab_size": tokenizer.vocab_size,
            "tokenizer": tokenizer.fingerprint,
            "sources": sources,
        }
        with atomic_directory(output, **details) as directory:
            for (source, split), shards in groups.items():
                entry = manifest["sources"][source]
                told = sources.setdefault(source, {"language": entry["language"], "dropped": entry["dropped"]})
                window = _Rows(directory, source, split, tokenizer, context)
                told[split], too_long = window.write([(shard, parts[shard]) for shard in shards], stop.check)
                told["dropped"][Dropped.TOO_LONG] = told["dropped"].get(Dropped.TOO_LONG, 0) + too_long
        shutil.rmtree(work)
    return _summary(details)


def _whole(output: Path) -> dict[str, Any] | None:
    try:
        return _summary(read_manifest(output))
    except CorruptError:
        return None


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    sources = {
        name: {
            **entry,
            **{split: {key: value for key, value in entry[split].items() if key != "shards"} for split in SPLITS},
        }
        for name, entry in manifest["sources"].items()
    }
    totals = {
        f"{split}_{unit}": sum(source[split][unit] for source in sources.values())
        for split in SPLITS
        for unit in ("documents", "windows", "tokens", "filler")
    }
    return {"dtype": manifest["dtype"], "tokenizer": manifest["tokenizer"], **totals, "sources": sources}


@names_of_finetune()
def bring_conversations(
    experiment: Experiment,
    corpus: Path,
    stop: StopFlag,
    *,
    workers: int | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Write the conversations of `experiment.finetune` to `corpus`, cleaned and not yet encoded: all that takes a
    network. Arguments, result and errors are `sllm.data.download.download_stage`'s."""
    return download_stage(experiment.tuning(), corpus, stop, workers=workers, only=only)


# --- encoding -------------------------------------------------------------------------------------


def _ids(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return np.array(conversation_ids(tokenizer, from_line(text)))


def _encoded(encode: partial[Part], shards: Sequence[Path], workers: int, stop: StopFlag) -> dict[Path, Part]:
    sizes = [shard.stat().st_size for shard in shards]
    with (
        track("conversations", sum(sizes), "bytes") as bar,
        in_processes(encode, [(shard,) for shard in shards], workers, stop) as parts,
    ):
        found = {}
        for shard, size, part in zip(shards, sizes, parts, strict=True):
            found[shard] = part
            bar.advance(size, source=shard.parent.name)
    return found


# --- windows --------------------------------------------------------------------------------------


class _Rows:
    """Writes the windows of one source and split."""

    def __init__(self, directory: Path, source: str, split: Split, tokenizer: Tokenizer, context: int) -> None:
        self._directory, self._source, self._split = directory, source, split
        self._dtype = np.dtype(token_dtype(tokenizer.vocab_size))
        self._bytes_of = np.array([len(token) for token in tokenizer.token_bytes])
        self._context, self._width = context, context + 1

    def write(self, parts: Sequence[tuple[Path, Part]], check: Check) -> tuple[dict[str, Any], int]:
        """The figures for the manifest, and how many conversations are too long."""
        encoded = _Encoded([part for _, part in parts], self._dtype)
        fits = encoded.lengths <= self._width
        self._tell_too_long(encoded.lengths[~fits], len(fits))
        windows = rows([(n, length) for n, length in enumerate(encoded.lengths.tolist()) if fits[n]], self._width)
        kept, used = int(fits.sum()), int(encoded.lengths[fits].sum())
        size = written = 0
        place = self._directory, self._source, self._split
        with (
            token_file(*place).open("wb") as tokens,
            documents_file(*place).open("wb") as documents,
            origins_file(*place).open("wb") as origins,
            answers_file(*place).open("wb") as answered,
        ):
            while block := list(islice(windows, max(1, AT_ONCE // self._width))):
                check()
                filled, starts = self._filled(block, encoded)
                said = answers(filled)
                size += int(self._bytes_of[filled[:, 1:][said]].sum())
                tokens.write(filled.tobytes())
                documents.write((np.array(starts) + written * self._width).astype(POSITION_DTYPE).tobytes())
                origins.write(np.array([number for row in block for number in row], POSITION_DTYPE).tobytes())
                answered.write(said.sum(axis=-1).astype(ANSWERS_DTYPE).tobytes())
                written += len(block)
        return {
            "tokens": written * self._width,
            "documents": kept,
            "bytes": size,
            "windows": written,
            "filler": written * self._width - used,
            "shards": [
                {"name": f"{shard.parent.name}/{shard.name}", "documents": count}
                for (shard, _), count in zip(parts, encoded.counts, strict=True)
            ],
        }, len(fits) - kept

    def _filled(self, block: list[list[int]], encoded: "_Encoded") -> tuple[np.ndarray, list[int]]:
        """The windows, and where in them all conversations begin."""
        filled = np.full((len(block), self._width), Tokenizer.pad_id, self._dtype)
        starts = []
        for row, numbers in zip(filled, block, strict=True):
            place = 0
            for number in numbers:
                ids = encoded.tokens(number)
                row[place : place + len(ids)] = ids
                starts.append(place)
                place += len(ids)
        rows_of = np.repeat(np.arange(len(block)), [len(numbers) for numbers in block])
        return filled, (np.array(starts) + rows_of * self._width).tolist()

    def _tell_too_long(self, lengths: np.ndarray, of: int) -> None:
        """Raises UserError if all are too long."""
        if not len(lengths):
            return
        limit = f"{self._width:,} tokens (model.context_length {self._context:,} and one)"
        if len(lengths) == of:
            validation = ", raise finetune.data.validation_fraction" if self._split == "validation" else ""
            raise UserError(
                f"finetune.data.sources: {self._source}: each of its {of:,} conversations for "
                f"{'validation' if validation else 'training'} has more than {limit}; the shortest has "
                f"{lengths.min():,}: raise model.context_length{validation}, or take the source out"
            )
        print(
            f"{self._source}: {len(lengths):,} of {of:,} conversations for {self._split} are left out: they have more "
            f"than {limit}, the longest {lengths.max():,}",
            file=sys.stderr,
            flush=True,
        )


class _Encoded:
    """The conversations of encoded shards, by their number over all of them."""

    def __init__(self, parts: Sequence[Part], dtype: np.dtype) -> None:
        self._tokens = [
            np.memmap(part.tokens, dtype, "r") if part.tokens.stat().st_size else np.empty(0, dtype) for part in parts
        ]
        self._starts = [
            np.append(np.fromfile(part.documents, POSITION_DTYPE), np.uint64(len(tokens))).astype(np.int64)
            for part, tokens in zip(parts, self._tokens, strict=True)
        ]
        self.counts = [len(starts) - 1 for starts in self._starts]
        self._ends = list(accumulate(self.counts))
        self.lengths = np.concatenate([np.empty(0, np.int64), *map(np.diff, self._starts)])
        """(conversations,) in tokens."""

    def tokens(self, number: int) -> np.ndarray:
        part = bisect_right(self._ends, number)
        starts, place = self._starts[part], number - self._ends[part] + self.counts[part]
        return self._tokens[part][starts[place] : starts[place + 1]]
