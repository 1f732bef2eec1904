"""One of each document in the whole corpus, whichever source, shard or worker it came through.

Works on what the download stage committed: the digests beside the shards tell which documents are equal, and
`<shard>.dropped` (little-endian uint32, numbers of documents from 0 on) is what readers pass over.

The first of equal documents stays. Documents are ordered: validation before train, then as `shards` is.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from sllm.config import DataConfig
from sllm.data.clean import mask_personal_data
from sllm.data.sources import read_file
from sllm.files import DIGESTS_SUFFIX, DROPPED_SUFFIX, atomic_file, sidecar
from sllm.stop import StopFlag

AT_A_TIME = 1 << 22
"""Documents whose keys are in memory together. The keys are read once for each part of that size: 100 million documents
are 24 parts, of 16 bytes each, so what is read (from the page cache, mostly) is 38 GB and what is held some 400 MB."""

EXAMPLES, EXAMPLE_CHARACTERS = 3, 200
"""Dropped documents of each reason that a report shows, and how much of each."""


@dataclass
class Removed:
    """What was dropped from a source."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Documents, by reason."""
    documents: Counter[str] = field(default_factory=Counter)
    """Documents, by split."""
    bytes: Counter[str] = field(default_factory=Counter)
    """Their text in UTF-8, by split."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """By reason, how the first of them begin."""


def drop_duplicates(
    directory: Path, shards: Sequence[str], config: DataConfig, stop: StopFlag, workers: int = 1
) -> dict[str, Removed]:
    """Write `.dropped` beside the shards that hold documents which others hold too; what that is, by source.

    `shards` are all of the corpus, as `<source>/<split>-00000.jsonl.zst`. Every run writes the same, and what an
    earlier one wrote is overwritten: a run that was cut off is simply run again.

    Raises:
        UserError: a shard is damaged.
        Stopped: a stop was requested.
    """
    paths = [directory / name for name in sorted(shards, key=_is_train)]  # sorting keeps the order of equals
    digests = [_digests(path).reshape(-1, 2) for path in paths]
    ends = list(accumulate(map(len, digests)))
    repeated = _repeated(digests, stop)
    removed: dict[str, Removed] = {name.split("/")[0]: Removed() for name in shards}
    for path, end, keys in zip(paths, ends, digests, strict=True):
        stop.check()
        numbers = np.flatnonzero(repeated[end - len(keys) : end])
        _write(path, numbers)
        _count(path, set(numbers.tolist()), removed[path.parent.name])
    return removed


def _digests(shard: Path) -> np.ndarray:
    return np.memmap(sidecar(shard, DIGESTS_SUFFIX), "<u8", mode="r").view(np.ndarray).reshape(-1, 2)


def _is_train(name: str) -> bool:
    return not name.rpartition("/")[2].startswith("validation-")


def _repeated(keys: Sequence[np.ndarray], stop: StopFlag) -> np.ndarray:
    """(documents,) bool: which have a key that one before them has.

    Args:
        keys: one array a shard, (documents, words) uint64.
    """
    starts = list(accumulate(map(len, keys), initial=0))
    repeated = np.zeros(starts[-1], bool)
    parts = np.uint64(-(-starts[-1] // AT_A_TIME))
    for part in range(int(parts)):
        chosen, numbers = [], []
        for start, shard in zip(starts, keys, strict=False):
            stop.check()
            # Keys are hashes: their upper half, scaled to 0 … parts - 1, deals them out evenly.
            mine = np.flatnonzero(((shard[:, 0] >> np.uint64(32)) * parts) >> np.uint64(32) == part)
            chosen.append(shard[mine])
            numbers.append(start + mine)
        together = np.concatenate(chosen)
        order = np.lexsort(together.T)  # stable: equal keys stay in the order of their documents
        together = together[order]
        equal = (together[1:] == together[:-1]).all(axis=1)
        repeated[np.concatenate(numbers)[order[1:][equal]]] = True
    return repeated


def _write(shard: Path, numbers: np.ndarray) -> None:
    path = sidecar(shard, DROPPED_SUFFIX)
    if len(numbers):
        with atomic_file(path) as file:
            file.write(numbers.astype("<u4").tobytes())
    else:
        path.unlink(missing_ok=True)


def _count(shard: Path, numbers: set[int], removed: Removed) -> None:
    if not numbers:
        return
    split = shard.name.partition("-")[0]
    for number, text in enumerate(read_file(shard, "text")):
        if number in numbers:
            removed.reasons["duplicate"] += 1
            removed.documents[split] += 1
            removed.bytes[split] += len(text.encode("utf-8"))
            examples = removed.examples.setdefault("duplicate", [])
            if len(examples) < EXAMPLES:
                examples.append(example(text))


def example(text: str) -> str:
    """What a report shows of a dropped document."""
    return mask_personal_data(text[:EXAMPLE_CHARACTERS])[0].encode("utf-8", "replace").decode("utf-8")
