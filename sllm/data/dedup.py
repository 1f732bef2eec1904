"""One of each document in the whole corpus, whichever source, shard or worker it came through.

Works on what the download stage committed: the digests beside the shards tell which documents are equal, and
`<shard>.dropped` (little-endian uint32, numbers of documents from 0 on) is what readers pass over.

Documents are ordered: those of validation before those of train, then as `shards` is. Of equal documents the first
stays. With `near_duplicates` a document is also dropped if one before it is nearly equal (`sllm.data.minhash`): so what
stays in train is like nothing in validation. Which document is like which is not followed from one to the next, as
clusters would: of A ~ B ~ C with A unlike C, B and C go, each because of one that came before it.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from sllm.config import DataConfig
from sllm.data.personal_data import mask_personal_data
from sllm.data.sources import read_file
from sllm.files import atomic_file
from sllm.records import DIGESTS_SUFFIX, DROPPED_SUFFIX, sidecar
from sllm.stop import Check, StopFlag
from sllm.workers import in_processes

AT_A_TIME = 1 << 22
"""Documents whose keys are in memory together. All keys are read once for each part of that size, and what belongs to
the part is sorted: 100 million documents are 24 parts, and their digests 1.6 GB on disk."""

EXAMPLES, EXAMPLE_CHARACTERS = 3, 200
"""Dropped documents of each reason that a report shows, and how much of each."""

BYTES_WORTH_A_PROCESS = 32_000_000
"""Of shards, compressed. Starting a process takes half a second or more."""

Example = dict[str, str]


@dataclass
class Removed:
    """What was dropped from a source, or from a shard of it."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Documents, by reason: duplicate, near_duplicate."""
    documents: Counter[str] = field(default_factory=Counter)
    """Documents, by split."""
    bytes: Counter[str] = field(default_factory=Counter)
    """Their text in UTF-8, by split."""
    lost: Counter[str] = field(default_factory=Counter)
    """The same, by reason."""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    """By reason, the first of them."""

    def add(self, other: "Removed") -> None:
        self.reasons += other.reasons
        self.documents += other.documents
        self.bytes += other.bytes
        self.lost += other.lost
        for reason, examples in other.examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + examples)[:EXAMPLES]


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
    names = sorted(shards, key=_is_train)  # sorting keeps the order of equals
    paths = [directory / name for name in names]
    workers = min(workers, 1 + sum(path.stat().st_size for path in paths) // BYTES_WORTH_A_PROCESS)
    digests = [_mapped(sidecar(path, DIGESTS_SUFFIX), -1, 2) for path in paths]
    starts = list(accumulate(map(len, digests), initial=0))
    equal = _repeated(digests, stop)
    near = np.zeros_like(equal)
    if config.near_duplicates:
        with _band_keys(directory, paths, workers, stop) as bands:
            for keys in bands:
                near |= _repeated(keys, stop)
    arguments = [
        (path, np.flatnonzero(equal[start:end]), np.flatnonzero(near[start:end] & ~equal[start:end]))
        for path, start, end in zip(paths, starts, starts[1:], strict=False)
    ]
    removed: dict[str, Removed] = {name.split("/")[0]: Removed() for name in shards}
    with in_processes(_drop, arguments, workers, stop) as results:
        for path, result in zip(paths, results, strict=True):
            removed[path.parent.name].add(result)
    return removed


def example(text: str, where: str) -> Example:
    """What a report shows of a text that was dropped: how it begins, and where it stands."""
    # Cut when it is masked: half a number would not be known as one.
    begins = mask_personal_data(text[: 2 * EXAMPLE_CHARACTERS])[0][:EXAMPLE_CHARACTERS]
    return {"text": begins, "where": where}


def _is_train(name: str) -> bool:
    return not name.rpartition("/")[2].startswith("validation-")


def _mapped(path: Path, *shape: int) -> np.ndarray:
    return np.memmap(path, "<u8", mode="r").view(np.ndarray).reshape(shape)


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
        same = (together[1:] == together[:-1]).all(axis=1)
        repeated[np.concatenate(numbers)[order[1:][same]]] = True
    return repeated


# --- nearly equal ---------------------------------------------------------------------------------


@contextmanager
def _band_keys(
    directory: Path, shards: Sequence[Path], workers: int, stop: StopFlag
) -> Iterator[Iterator[list[np.ndarray]]]:
    """For each band the keys of all documents: one array a shard, (documents, 1). On disk meanwhile: 112 bytes a
    document."""
    from sllm.data.minhash import BANDS

    temporary = directory / ".bands.tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir()
    try:
        files = [temporary / str(number) for number in range(len(shards))]
        with in_processes(_write_band_keys, list(zip(shards, files, strict=True)), workers, stop) as results:
            for _ in results:
                pass
        keys = [_mapped(file, BANDS, -1, 1) for file in files]
        yield ([shard[band] for shard in keys] for band in range(BANDS))
    finally:
        shutil.rmtree(temporary)


def _write_band_keys(shard: Path, output: Path, *, check: Check) -> None:
    from sllm.data.minhash import band_keys

    rows = []
    for text in read_file(shard, "text"):
        check()
        rows.append(band_keys(text))
    keys = np.array(rows)
    np.ascontiguousarray(keys.T).astype("<u8", copy=False).tofile(output)


# --- one shard ------------------------------------------------------------------------------------


def _drop(shard: Path, equal: np.ndarray, near: np.ndarray, *, check: Check) -> Removed:
    """Write the shard's `.dropped`, or remove an old one; what is dropped."""
    path = sidecar(shard, DROPPED_SUFFIX)
    removed = Removed()
    if len(equal) + len(near) == 0:
        path.unlink(missing_ok=True)
        return removed
    split = shard.name.partition("-")[0]
    reasons = dict.fromkeys(equal.tolist(), "duplicate") | dict.fromkeys(near.tolist(), "near_duplicate")
    for number, text in enumerate(read_file(shard, "text")):
        check()
        reason = reasons.get(number)
        if reason is None:
            continue
        removed.reasons[reason] += 1
        removed.documents[split] += 1
        size = len(text.encode("utf-8"))
        removed.bytes[split] += size
        removed.lost[reason] += size
        examples = removed.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(example(text, f"{shard.parent.name}/{shard.name}:{number + 1}"))
    with atomic_file(path) as file:
        file.write(np.sort(np.concatenate([equal, near])).astype("<u4").tobytes())
    return removed
