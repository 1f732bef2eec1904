"""Which tokens training sample i is, and reading them: a pure function of (seed, i).

A source of n windows is walked epoch by epoch, each epoch a permutation of the n windows, so that nothing is seen twice
before everything was seen once. Sources are mixed in blocks of a fixed number of samples: how many samples of a
block belong to a source follows from the weights, which ones from one more permutation. Neither is ever
written down: a keyed Feistel network computes one element of a permutation of any size in constant time and memory.
So resuming needs one number, and ranks take any slices of a global batch they like.

Other weights may hold from some step on: such a phase begins with a new block, and its sources go on where they were.
"""

import hashlib
import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from sllm.config import Language
from sllm.data.clean import Split
from sllm.data.pack import ANSWERS_DTYPE, POSITION_DTYPE, answers_file, documents_file, origins_file, token_file
from sllm.errors import UserError
from sllm.files import CorruptError
from sllm.manifests import read_manifest

# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackedSource:
    """What the manifest says of one source."""

    name: str
    language: Language
    splits: Mapping[str, Mapping[str, Any]]
    overlap: int = 1
    """Tokens that a window shares with the next: the last target of text is the next window's first input too, and
    windows of whole conversations share none."""

    def tokens(self, split: Split) -> int:
        return int(self.splits[split]["tokens"])

    def windows(self, context_length: int) -> int:
        """Training windows, of `context_length` inputs and one token more, the last target; of text one starts every
        `context_length` tokens.

        The tokens after the last whole window (fewer than one window) are not trained on.
        """
        return max(0, (self.tokens("train") - self.overlap) // (context_length + 1 - self.overlap))


class PackedData:
    """The output of the pack stage, or that of `sllm.data.conversations`, whose windows are rows of whole
    conversations: opening it reads the manifest and nothing else."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self.directory = directory
        self.dtype = np.dtype(manifest["dtype"])
        self.vocab_size = int(manifest["vocab_size"])
        self.overlap = int(manifest.get("overlap", 1))
        self.sources = tuple(
            PackedSource(name, source["language"], source, self.overlap) for name, source in manifest["sources"].items()
        )
        self._maps: dict[Any, np.ndarray] = {}
        self._files: dict[tuple[str, str], BinaryIO] = {}

    @classmethod
    def open(cls, directory: Path, tokenizer_fingerprint: str | None) -> "PackedData":
        """Raises UserError if the directory is not whole, or was packed with another tokenizer (None: any will do)."""
        directory = Path(directory)
        try:
            manifest = read_manifest(directory)
        except CorruptError as error:
            raise UserError(f"{error}; run `sllm pack` again") from None
        if manifest.get("kind") != "packed":
            raise UserError(f"{directory}: not packed data; run `sllm pack`, or name the directory it wrote")
        if tokenizer_fingerprint is not None and manifest["tokenizer"] != tokenizer_fingerprint:
            raise UserError(
                f"{directory}: the tokenizer ({tokenizer_fingerprint[:16]}) does not match the packed data (packed "
                f"with {manifest['tokenizer'][:16]}); run `sllm pack` with this tokenizer, or use the other one"
            )
        return cls(directory, manifest)

    def source(self, name: str) -> PackedSource:
        return next(source for source in self.sources if source.name == name)

    def tokens(self, split: Split, source: str) -> np.ndarray:
        """All token ids, memory-mapped: (tokens,) uint16 or uint32."""
        return self._map(token_file, source, split, self.dtype)

    def window(self, split: Split, source: str, index: int, length: int) -> np.ndarray:
        """Window number `index`: (length + 1,) ids; [:-1] are inputs and [1:] their targets.

        Read, not mapped: windows come in a random order, and of a map each takes a page of page tables that stays for
        as long as the process does, 10 GB on every rank by the end of a file of 5 TB.
        """
        if (source, split) not in self._files:
            file = token_file(self.directory, source, split).open("rb", buffering=0)
            # What the system would read ahead is not what comes next.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            self._files[source, split] = file
        size = self.dtype.itemsize
        start = index * (length + 1 - self.overlap)
        content = os.pread(self._files[source, split].fileno(), (length + 1) * size, start * size)
        return np.frombuffer(content, self.dtype)

    def validation_windows(self, source: str, context_length: int, max_tokens: int) -> list[np.ndarray]:
        """The validation split from its start: views of (context_length + 1,) ids, which together predict each
        token once. The last is shorter where the file ends in the middle of a window, also when it is the only one.

        `max_tokens`, the number of predicted tokens, is rounded down to whole windows, but to at least one.
        """
        tokens = self.tokens("validation", source)
        stride = context_length + 1 - self.overlap
        limit = max(1, max_tokens // context_length) * stride
        # <bos> and <eos> are two tokens at least, so there is one to predict
        stop = min(limit, len(tokens) - self.overlap)
        return [tokens[start : min(start + stride, stop) + self.overlap] for start in range(0, stop, stride)]

    def answers(self, split: Split, source: str) -> np.ndarray:
        """Of conversations, how many targets of each window are answers, memory-mapped: (windows,) uint32."""
        return self._map(answers_file, source, split, np.dtype(ANSWERS_DTYPE))

    def documents_of(self, source: str, start: int, stop: int, split: Split = "train") -> range:
        """Numbers of the documents, within the source's split, that have tokens in [start, stop)."""
        starts = self._map(documents_file, source, split, np.dtype(POSITION_DTYPE))
        first = int(np.searchsorted(starts, start, side="right")) - 1
        return range(first, int(np.searchsorted(starts, stop, side="left")))

    def document_name(self, source: str, number: int, split: Split = "train") -> str:
        """Where to read a document: `<source>/train-00003.jsonl.zst:17`, the shard in the corpus, and which it is of
        the documents that `read_shard` gives: its line, where none before it was dropped. Conversations stand in
        another order than there."""
        if self.overlap == 0:
            number = int(self._map(origins_file, source, split, np.dtype(POSITION_DTYPE))[number])
        shards = self.source(source).splits[split]["shards"]
        ends = list(accumulate(shard["documents"] for shard in shards))
        i = bisect_right(ends, number)
        return f"{shards[i]['name']}:{number - ends[i] + shards[i]['documents'] + 1}"

    def _map(self, file: Callable[[Path, str, str], Path], source: str, split: Split, dtype: np.dtype) -> np.ndarray:
        key = (file, source, split)
        if key not in self._maps:
            with file(self.directory, source, split).open("rb") as opened:
                self._maps[key] = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), dtype)
        return self._maps[key]


# --- permutations that are computed, not stored -----------------------------------------------------

ROUNDS = 8


@lru_cache(maxsize=4096)
def round_keys(*identity: int | str) -> np.ndarray:
    """(ROUNDS,) uint64 keys, the same on every machine for equal `identity`."""
    return np.frombuffer(hashlib.blake2b(repr(identity).encode("utf-8"), digest_size=8 * ROUNDS).digest(), "<u8")


def permute(positions: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where keyed permutations of [0, size) send positions; element by element, each with its own size and keys.

    A Feistel network (Luby and Rackoff 1988) permutes the smallest power of two that is not below the size; cycle
    walking (Black and Rogaway 2002) applies it until the result is below the size, which is a permutation again
    and takes fewer than two applications on average.

    Args:
        positions: (N,) uint64, each below its size.
        sizes: (N,) uint64, in 1 … 2⁵³.
        keys: (N, ROUNDS) uint64.
    """
    bits = np.frexp((sizes - np.uint64(1)).astype(np.float64))[1].astype(np.uint64)  # the bit length of size - 1
    low_bits = bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    result = positions.copy()
    todo = np.arange(len(positions))
    while len(todo):
        values = _feistel(result[todo], low_bits[todo], low_mask[todo], high_mask[todo], keys[todo].T)
        result[todo] = values
        todo = todo[values >= sizes[todo]]
    return result


def _feistel(
    values: np.ndarray, low_bits: np.ndarray, low_mask: np.ndarray, high_mask: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    low, high = values & low_mask, values >> low_bits
    for i in range(0, ROUNDS, 2):
        # Each half is changed by a function of the other alone, so each line can be undone, whatever the widths.
        low ^= _scramble(high + keys[i]) & low_mask
        high ^= _scramble(low + keys[i + 1]) & high_mask
    return (high << low_bits) | low


def _scramble(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014), in place: every bit of x changes half of the result's."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


# --- the order of training --------------------------------------------------------------------------


class _Phase(NamedTuple):
    """Samples that are mixed by the same shares."""

    start: int
    """Its first sample."""
    block: int
    """The number of its first block; they are counted on over the phases."""
    before: np.ndarray
    """(K,) how many samples of each source come before it."""
    shares: list[Fraction]
    """Of each source. Exact, so that no rounding adds up over billions of samples."""

    def counts(self, samples: int) -> np.ndarray:
        """(K,) how many samples of each source come before sample `samples` of the phase, which begins a block: in the
        phase their exact share, rounded down, and what that leaves goes to the source with the largest share.

        Never decreases from block to block: the others together can gain at most K - 1 more in one block than their
        share, and the largest share, at least 1/K of a block of K² samples or more, covers that.
        """
        counts = [int(share * samples) for share in self.shares]
        counts[self.shares.index(max(self.shares))] += samples - sum(counts)
        return self.before + np.array(counts)


class Sampler:
    """The endless sequence of training samples. Sample i is one window of one source.

    A source's share of the samples is proportional to weight × its number of windows: with weight 1 everywhere,
    all the data once is one epoch of every source; with weight 2 a source comes round twice in that time.
    """

    def __init__(
        self,
        data: PackedData,
        weights: Mapping[str, float],
        context_length: int,
        seed: int,
        *,
        global_batch: int = 1,
        phases: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        """`phases`: other weights of all sources, by the number of steps (of `global_batch` samples) before them.

        Raises UserError if a source has not one window, or all of them less than `global_batch`.
        """
        phases = {0: weights, **(phases or {})}
        for named in phases.values():
            if named.keys() != {source.name for source in data.sources}:
                raise ValueError(f"weights for {', '.join(named)}; data of {', '.join(s.name for s in data.sources)}")
        _check_enough(data, context_length, global_batch)
        self.data, self.context_length, self.seed = data, context_length, seed
        self._names = [source.name for source in data.sources]
        windows = [source.windows(context_length) for source in data.sources]
        self._windows = np.array(windows)
        # With at least K² samples for K sources the largest share outweighs the rounding of the others.
        self.block = 1024
        while self.block < len(windows) ** 2:
            self.block *= 2
        self._mixed_block = lru_cache(maxsize=4)(self._mix_block)
        self._phases: list[_Phase] = []
        for step, named in sorted(phases.items()):
            weighted = [Fraction(named[name]) * n for name, n in zip(self._names, windows, strict=True)]
            start, block, before = step * global_batch, 0, np.zeros(len(windows), np.int64)
            if self._phases:  # It cuts a block off: what comes before a phase is what would come there without it.
                last, cut = self._phases[-1], self._block_of(start)
                first = self._first_sample(cut)
                shown = np.bincount(self._mix_block(cut)[0, : start - first], minlength=len(windows))
                block, before = cut + 1, last.counts(first - last.start) + shown
            self._phases.append(_Phase(start, block, before, [part / sum(weighted) for part in weighted]))

    def batch(self, start: int, count: int) -> np.ndarray:
        """Token ids (count, context_length + 1) int64 of the samples start … start + count - 1."""
        out = np.empty((count, self.context_length + 1), np.int64)
        for row, (source, window) in zip(out, self.windows(start, count), strict=True):
            row[:] = self.data.window("train", source, window, self.context_length)
        return out

    def locate(self, index: int) -> tuple[str, int]:
        """The source and the window number of sample `index`."""
        return self.windows(index, 1)[0]

    def windows(self, start: int, count: int) -> list[tuple[str, int]]:
        """The source and the window number of each of the samples start … start + count - 1."""
        blocks = range(self._block_of(start), self._block_of(start + max(count, 1) - 1) + 1)
        mixed = np.concatenate([self._mixed_block(block) for block in blocks], axis=1)
        sources, samples = mixed[:, start - self._first_sample(blocks.start) :][:, :count]
        sizes = self._windows[sources]
        epochs, positions = np.divmod(samples, sizes)
        keys = [
            round_keys(self.seed, "epoch", self._names[source], epoch)
            for source, epoch in zip(sources.tolist(), epochs.tolist(), strict=True)
        ]
        windows = permute(positions.astype(np.uint64), sizes.astype(np.uint64), np.array(keys))
        return [(self._names[source], w) for source, w in zip(sources.tolist(), windows.tolist(), strict=True)]

    def _block_of(self, sample: int) -> int:
        phase = self._phases[bisect_right(self._phases, sample, key=lambda phase: phase.start) - 1]
        return phase.block + (sample - phase.start) // self.block

    def _first_sample(self, block: int) -> int:
        phase = self._phase_of(block)
        return phase.start + (block - phase.block) * self.block

    def _phase_of(self, block: int) -> _Phase:
        return self._phases[bisect_right(self._phases, block, key=lambda phase: phase.block) - 1]

    def _mix_block(self, block: int) -> np.ndarray:
        """(2, samples) int64: the source of each sample of a block, and how many samples that source had before it."""
        phase, first = self._phase_of(block), self._first_sample(block)
        before = phase.counts(first - phase.start)
        quotas = phase.counts(first - phase.start + self.block) - before
        slots = permute(
            np.arange(self.block, dtype=np.uint64),
            np.full(self.block, self.block, np.uint64),
            np.broadcast_to(round_keys(self.seed, "block", block), (self.block, ROUNDS)),
        )
        sources = np.repeat(np.arange(len(quotas)), quotas)[slots]
        # A source's samples are numbered in the order in which they come, so its epochs do not overlap.
        samples = np.empty_like(sources)
        samples[np.argsort(sources, kind="stable")] = np.arange(self.block) + np.repeat(
            before - np.cumsum(quotas) + quotas, quotas
        )
        return np.stack([sources, samples])[:, : self._first_sample(block + 1) - first]


def _check_enough(data: PackedData, context_length: int, global_batch: int) -> None:
    for source in data.sources:
        if source.windows(context_length) == 0:
            raise UserError(
                f"data.sources: {source.name} has {source.tokens('train'):,} training tokens, one sequence of "
                f"model.context_length {context_length:,} needs {context_length + 1:,}; add text to the source, drop "
                f"it, or lower model.context_length"
            )
    windows = sum(source.windows(context_length) for source in data.sources)
    if windows < global_batch and data.overlap == 0:
        raise UserError(
            f"finetune.train.global_batch: {global_batch:,}, but the conversations fill {windows:,} sequences of "
            f"model.context_length {context_length:,}; add conversations to finetune.data.sources, or lower one of them"
        )
    if windows < global_batch:
        tokens = sum(source.tokens("train") for source in data.sources)
        raise UserError(
            f"train.global_batch: {global_batch:,} sequences of model.context_length {context_length:,} need "
            f"{global_batch * context_length + len(data.sources):,} training tokens, the corpus has {tokens:,}; add "
            f"text to data.sources, or lower train.global_batch or model.context_length"
        )
