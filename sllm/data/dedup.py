"""One of each document in the whole corpus, whichever source, shard or worker it came through.

Works on what the download stage committed: the digests beside the shards tell which documents are equal, and
`<shard>.dropped` (little-endian uint32, numbers of documents from 0 on) is what readers pass over.

Documents are ordered: those of validation before those of train, then as `shards` is. Of equal documents the first
stays. With `near_duplicates` a document is also dropped if one before it is nearly equal (`sllm.data.minhash`): so what
stays in train is like nothing in validation. Which document is like which is not followed from one to the next, as
clusters would: of A ~ B ~ C with A unlike C, B and C go, each because of one that came before it.

Every shard gets a table of its keys first, sorted: made side by side, on other machines too. Then ranges of keys are
compared side by side, each over all tables. What is found is a set of documents, whoever found which of them.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np

from sllm.config import ConversationsConfig, DataConfig
from sllm.data.conversations.line import texts_of
from sllm.data.personal_data import mask_personal_data
from sllm.data.sources import read_file
from sllm.files import atomic_file, write_text
from sllm.records import DIGESTS_SUFFIX, DROPPED_SUFFIX, sidecar
from sllm.stop import Check, StopFlag
from sllm.workers import in_processes

AT_A_TIME = 1 << 20
"""Documents that a process compares at a time, by one of their keys: 100 million are 96 ranges of each band."""

EXAMPLES, EXAMPLE_CHARACTERS = 3, 200
"""Dropped documents of each reason that a report shows, and how much of each."""

BYTES_WORTH_A_PROCESS, RANGES_WORTH_A_PROCESS = 32_000_000, 8
"""Of shards, compressed, and of as many keys as AT_A_TIME. Starting a process takes half a second or more."""

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


def write_tables(
    shards: Sequence[Path], tables: Path, config: DataConfig, stop: StopFlag, workers: int = 1
) -> list[Path]:
    """What is compared of each shard, a file in `tables` that is named by its content; those that are there are not
    made again. On disk: 20 bytes a document, or 188 with `near_duplicates`."""
    arguments = [(shard, tables, config) for shard in shards]
    with in_processes(_write_table, arguments, _worth(shards, workers), stop) as results:
        return list(results)


def drop_duplicates(
    directory: Path, shards: Sequence[str], config: DataConfig, tables: Path, stop: StopFlag, workers: int = 1
) -> dict[str, Removed]:
    """Write `.dropped` beside the shards that hold documents which others hold too; what that is, by source.

    `shards` are all of the corpus, as `<source>/<split>-00000.jsonl.zst`; `tables` is for `write_tables`. Every run
    writes the same, and what an earlier one wrote is overwritten: a run that was cut off is simply run again.

    Raises:
        UserError: a shard is damaged.
        Stopped: a stop was requested.
    """
    names = sorted(shards, key=_is_train)  # sorting keeps the order of equals
    paths = [directory / name for name in names]
    written = write_tables(paths, tables, config, stop, workers)
    starts = list(accumulate(map(_documents, written), initial=0))
    equal, near = compare(tables, written, stop, workers)
    arguments = [
        (path, config, np.flatnonzero(equal[start:end]), np.flatnonzero(near[start:end] & ~equal[start:end]))
        for path, start, end in zip(paths, starts, starts[1:], strict=False)
    ]
    removed: dict[str, Removed] = {name.split("/")[0]: Removed() for name in shards}
    with in_processes(_drop, arguments, _worth(paths, workers), stop) as results:
        for path, result in zip(paths, results, strict=True):
            removed[path.parent.name].add(result)
    return removed


def _worth(shards: Sequence[Path], workers: int) -> int:
    return min(workers, 1 + sum(path.stat().st_size for path in shards) // BYTES_WORTH_A_PROCESS)


def example(text: str, where: str) -> Example:
    """What a report shows of a text that was dropped: how it begins, and where it stands."""
    # Cut when it is masked: half a number would not be known as one.
    begins = mask_personal_data(text[: 2 * EXAMPLE_CHARACTERS])[0][:EXAMPLE_CHARACTERS]
    return {"text": begins, "where": where}


def _is_train(name: str) -> bool:
    return not name.rpartition("/")[2].startswith("validation-")


# --- tables of keys -------------------------------------------------------------------------------
#
# little-endian uint64 (rows, documents): a digest's two words, then the key of each band
# little-endian uint32 (tables, documents): the numbers of the documents; the first table is of digests
#
# Each table is sorted by its key, and equal keys by number.

NEAR_SUFFIX = ".near"


def _write_table(shard: Path, tables: Path, config: DataConfig, *, check: Check) -> Path:
    near = config.near_duplicates
    digests = sidecar(shard, DIGESTS_SUFFIX).read_bytes()
    name = hashlib.blake2b(digests, digest_size=16).hexdigest()  # which says all about the texts, and their order
    path = tables / f"{name}{NEAR_SUFFIX if near else ''}"
    if path.exists():
        return path
    keys = [np.frombuffer(digests, "<u8").reshape(-1, 2).T]
    if near:
        keys += list(_band_keys(shard, config, check)[:, None])
    save_table(path, keys)
    return path


def save_table(path: Path, keys: Sequence[np.ndarray]) -> None:
    """Args:
    keys: (words, documents) uint64 of each table.
    """
    orders = [np.lexsort(table[::-1]) for table in keys]  # stable, by the first word
    with atomic_file(path) as file:
        for table, order in zip(keys, orders, strict=True):
            file.write(table[:, order].astype("<u8").tobytes())
        for order in orders:
            file.write(order.astype("<u4").tobytes())


def _shown(text: str, config: DataConfig) -> str:
    """A document as people would compare it."""
    return texts_of(text) if isinstance(config, ConversationsConfig) else text


def _band_keys(shard: Path, config: DataConfig, check: Check) -> np.ndarray:
    """(BANDS, documents)"""
    from sllm.data.minhash import band_keys

    rows = []
    for text in read_file(shard, "text"):
        check()
        rows.append(band_keys(_shown(text, config)))
    return np.array(rows).T


def _tables(path: Path) -> int:
    from sllm.data.minhash import BANDS

    return 1 + BANDS if path.suffix == NEAR_SUFFIX else 1


def _documents(path: Path) -> int:
    tables = _tables(path)
    return path.stat().st_size // (8 * (tables + 1) + 4 * tables)


def _read_table(path: Path, tables: int, table: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one of so many: (words, documents) uint64 and (documents,) uint32, both mapped."""
    with path.open("rb") as file:
        mapped = np.frombuffer(mmap(file.fileno(), 0, access=ACCESS_READ), np.uint8)
    all_keys = 8 * (tables + 1)  # of a document
    documents = len(mapped) // (all_keys + 4 * tables)
    keys = mapped[: all_keys * documents].view("<u8").reshape(-1, documents)
    numbers = mapped[all_keys * documents :].view("<u4").reshape(-1, documents)
    return keys[slice(0, 2) if table == 0 else slice(table + 1, table + 2)], numbers[table]


# --- comparing ------------------------------------------------------------------------------------


def compare(tables: Path, written: Sequence[Path], stop: StopFlag, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Two of (documents,) bool: which have the digest of one before them, and which share a band with one."""
    documents = sum(map(_documents, written))
    found = np.zeros((2, documents), bool)
    parts = -(-documents // AT_A_TIME)
    listed = tables / "order.txt"  # not in the arguments: they are as many as ranges
    write_text(listed, "\n".join(path.name for path in written))
    count = _tables(written[0]) if written else 0
    arguments = [(listed, count, table, part, parts) for table in range(count) for part in range(parts)]
    workers = min(workers, 1 + count * documents // (RANGES_WORTH_A_PROCESS * AT_A_TIME))
    with in_processes(_compare, arguments, workers, stop) as results:
        for (_, _, table, *_), numbers in zip(arguments, results, strict=True):
            found[min(table, 1), numbers] = True
    return found[0], found[1]


def _compare(listed: Path, tables: int, table: int, part: int, parts: int, *, check: Check) -> np.ndarray:
    """The numbers, over all shards, of documents with a key that one before them has. Keys are hashes, so ranges of
    equal width hold about as many documents each."""
    low, high = ((part << 64) // parts, ((part + 1) << 64) // parts - 1)
    directory, chosen, numbers, start = listed.parent, [], [], 0
    for name in listed.read_text(encoding="utf-8").split("\n"):
        check()
        keys, documents = _read_table(directory / name, tables, table)
        first = np.searchsorted(keys[0], np.uint64(low))
        end = np.searchsorted(keys[0], np.uint64(high), "right")
        chosen.append(keys[:, first:end].copy())  # not mapped: a process may map some ten thousand files
        numbers.append(documents[first:end].astype(np.int64) + start)
        start += len(documents)
    together = np.concatenate(chosen, axis=1)
    order = np.lexsort(together[::-1])  # stable: equal keys stay in the order of their documents
    together = together[:, order]
    same = (together[:, 1:] == together[:, :-1]).all(axis=0)
    return np.concatenate(numbers)[order[1:][same]]


# --- one shard ------------------------------------------------------------------------------------


def _drop(shard: Path, config: DataConfig, equal: np.ndarray, near: np.ndarray, *, check: Check) -> Removed:
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
            examples.append(example(_shown(text, config), f"{shard.parent.name}/{shard.name}:{number + 1}"))
    with atomic_file(path) as file:
        file.write(np.sort(np.concatenate([equal, near])).astype("<u4").tobytes())
    return removed
