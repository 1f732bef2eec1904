"""One part of a source, from its files to shards, and its journal: what is on disk, and where reading goes on."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sllm.config import ConversationsConfig, DataConfig, Experiment, HubSource, Source
from sllm.data.clean import SPLITS, Cleaner, Document
from sllm.data.conversations.clean import ConversationCleaner
from sllm.data.conversations.read import parquet_conversations, read_conversations
from sllm.data.dedup import EXAMPLES, Example, example
from sllm.data.hub import hub_texts
from sllm.data.shards import ShardWriter, shard_name
from sllm.data.sources import read_documents
from sllm.errors import UserError
from sllm.files import alone_with, read_json, write_text
from sllm.manifests import sha256
from sllm.records import DIGESTS_SUFFIX, SHARD_SUFFIX, read_jsonl, sidecar
from sllm.stop import Check


@dataclass(frozen=True)
class Part:
    """A part of a source, and all that a process needs to know to work on it."""

    source: Source
    number: int
    files: tuple[str, ...]
    stamps: tuple[list[int], ...]
    """Size and modification time (ns) of each file when it was planned; none for those of the hub."""
    limit: int | None
    store: Path
    data: DataConfig
    seed: int
    tasks: Path | None = None
    """What it is compared with, a directory of `sllm.data.contamination`."""

    @property
    def journal(self) -> Path:
        return self.store / f"part-{self.number:05d}.jsonl"

    def where(self, position: "Position") -> str:
        """The text before `position`, for a person."""
        return f"{self.files[position.file]} row {position.row}" if self.files else f"text {position.row}"

    @property
    def talks(self) -> bool:
        """Whether what it brings are conversations."""
        return isinstance(self.data, ConversationsConfig)

    def wrote(self, temporary: Path) -> bool:
        """Whether it is of this part that the file was being written."""
        names = tuple(f".{name}-{self.number:05d}" for name in ("part", *SPLITS))
        return temporary.parent == self.store and temporary.name.startswith(names)

    def lines(self) -> list[dict[str, Any]]:
        return read_jsonl(self.journal)

    def is_done(self) -> bool:
        return _is_whole(self.lines())

    def shards(self) -> list[Path]:
        """Those that are there."""
        names = [file["name"] for line in self.lines() for file in line["files"]]
        return [self.store / name for name in names if name.endswith(SHARD_SUFFIX)]


@dataclass(frozen=True)
class Position:
    """Where reading goes on: `row` of file number `file` of a part."""

    file: int
    row: int


def download_part(part: Part, temporary: Sequence[Path] = (), *, check: Check) -> None:
    """Bring a part to its end, from where its journal says that it stands. Calls `check` before each document.
    Another process may bring it at the same time, of another run or task: one waits for the other. What is left then
    of the `temporary` files that were there before is of one that was killed."""
    with alone_with(part.journal, check):
        for path in temporary:
            path.unlink(missing_ok=True)
        lines = part.lines()
        _remove_uncommitted(part, lines)
        if not lines:
            texts = _texts(part, Position(0, 0), check)
        elif not lines[-1]["end"]:
            # Read the last document again: is it the one that stood there?
            file, row = lines[-1]["position"]
            texts = _texts(part, Position(file, row - 1), check)
            if _digest(next(texts, (None, None))[1]) != lines[-1]["last"]:
                raise UserError(
                    f"data.sources: {part.source.name}: {part.files[file] if part.files else 'its text'} has changed "
                    f"since the download began; `sllm download CONFIG --source {part.source.name} --force` begins anew"
                )
        while not _is_whole(lines):
            lines.append(_download_shards(part, texts, lines, check))
            _check_unchanged(part)
            write_text(part.journal, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _download_shards(
    part: Part,
    texts: Iterator[tuple[Position, str | None]],
    lines: list[dict[str, Any]],
    check: Check,
) -> dict[str, Any]:
    """Read until a shard is full, and commit it, together with the validation documents met on the way: what comes
    before the position that is returned is on disk, and nothing after it."""
    tasks = None
    if part.tasks:
        from sllm.data.contamination import TaskText  # compiled loops

        tasks = TaskText(part.tasks)
    cleaner = (ConversationCleaner if part.talks else Cleaner)(part.data, part.source.language, tasks)
    tally = _Tally(cleaner)
    first = {split: sum(line["shards"][split] for line in lines) for split in SPLITS}
    room = None if part.limit is None else part.limit - sum(line["read"] for line in lines)
    end, text = True, None
    position = Position(*lines[-1]["position"]) if lines else Position(0, 0)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                ShardWriter(part.store, f"{split}-{part.number:05d}", part.data.shard_megabytes, first[split])
            )
            for split in SPLITS
        }
        for position, text in texts:
            check()
            for document in tally.kept(text, part.where(position)):
                writers[document.split].write(document.text, document.digest)
            if room is not None and tally.read >= room:
                break
            if tally.bytes.total() >= part.data.shard_megabytes * 1_000_000:
                end = False
                break
    return {
        "position": [position.file, position.row],
        "last": _digest(text),
        "end": end,
        **tally.figures(),
        "shards": {split: writers[split].shards - first[split] for split in SPLITS},
        "files": [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
            for split in SPLITS
            for number in range(first[split], writers[split].shards)
            for path in _files_of(part, split, number)
        ],
    }


class _Tally:
    """What has become of the texts since the last line of the journal."""

    def __init__(self, cleaner: Cleaner | ConversationCleaner) -> None:
        self.read = 0
        self.documents, self.bytes, self.masked, self.lost = (
            Counter[str](),
            Counter[str](),
            Counter[str](),
            Counter[str](),
        )
        self._cleaner = cleaner
        self.dropped = Counter({reason.value: 0 for reason in cleaner.reasons})
        self.examples: dict[str, list[Example]] = {}
        self.lowest = 1.0

    def kept(self, text: str | None, where: str) -> Iterator[Document]:
        """The documents that are left of a text; None is one that is not UTF-8. Counts them, and what is lost."""
        self.read += _size(text)
        if text is None:
            self.dropped["not_utf8"] += 1
            return
        kept, lost = False, Counter[str]()
        for result in self._cleaner.clean(text):
            if isinstance(result, Document):
                kept = True
                self.documents[result.split] += 1
                self.bytes[result.split] += result.size
                self.masked += result.masked
                self.lowest = min(self.lowest, result.position)
                yield result
            else:
                lost[result.reason.value] += result.size
                shown = self.examples.setdefault(result.reason.value, [])
                if len(shown) < EXAMPLES:
                    like = {"task": result.task} if result.task else {}
                    shown.append({**example(result.text[result.begin :], where), **like})
        self.lost += lost
        if not kept:
            self.dropped[max(lost, key=lost.__getitem__)] += 1

    def figures(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "documents": {split: self.documents[split] for split in SPLITS},
            "bytes": {split: self.bytes[split] for split in SPLITS},
            "dropped": dict(self.dropped),
            "lost": dict(self.lost),
            "examples": self.examples,
            "masked": dict(self.masked),
            "lowest": self.lowest,
        }


def _check_unchanged(part: Part) -> None:
    """Nothing is kept of a file that was written to meanwhile. One that is gone by now was read as it was."""
    for file, stamp in zip(part.files, part.stamps, strict=bool(part.stamps)):
        with suppress(FileNotFoundError):
            status = Path(file).stat()
            if [status.st_size, status.st_mtime_ns] != stamp:
                raise UserError(
                    f"data.sources: {part.source.name}: {file} has changed while it was read; "
                    f"run the same command again when it is whole"
                )


def _texts(part: Part, start: Position, check: Check) -> Iterator[tuple[Position, str | None]]:
    """The raw texts of a part from `start` on, each with the position after it; None for one that is not UTF-8."""
    for number in range(start.file, max(1, len(part.files))):  # embedded text has no file
        first = start.row if number == start.file else 0
        texts: Iterator[str | None]
        if isinstance(part.source, HubSource):
            texts = hub_texts(
                part.source, part.files[number], first, check, parquet_conversations if part.talks else None
            )
        else:
            read = read_conversations if part.talks else read_documents
            texts = read(part.source, part.seed, list(part.files[number : number + 1]), first)
        for row, text in enumerate(texts, first + 1):
            yield Position(number, row), text


def _size(text: str | None) -> int:
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _digest(text: str | None) -> str:
    return hashlib.blake2b((text or "").encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _files_of(part: Part, split: str, number: int) -> list[Path]:
    shard = part.store / shard_name(f"{split}-{part.number:05d}", number)
    return [shard, sidecar(shard, DIGESTS_SUFFIX)]


def _remove_uncommitted(part: Part, lines: list[dict[str, Any]]) -> None:
    """Delete shards that a kill left without their line in the journal. They are looked for by name, since a store of
    many parts has too many files to go through for each."""
    for split in SPLITS:
        number = sum(line["shards"][split] for line in lines)
        found = []
        while left := [path for path in _files_of(part, split, number) if path.exists()]:
            found += left
            number += 1
        for path in reversed(found):  # without a gap that would hide the rest, whenever this ends
            path.unlink()


def read_parts(source: Source, experiment: Experiment, store: Path, tasks: Path | None) -> list[Part]:
    """What the plan in `store` says; none if there is no plan."""
    with suppress(FileNotFoundError):
        return [
            Part(
                source,
                number,
                tuple(part["files"]),
                tuple(part["stamps"]),
                part["limit"],
                store,
                experiment.data,
                experiment.seed,
                tasks,
            )
            for number, part in enumerate(read_json(store / "plan.json")["parts"])
        ]
    return []


def is_complete(store: Path) -> bool:
    try:
        parts = read_json(store / "plan.json")["parts"]
    except FileNotFoundError:
        return False
    return all(map(_is_whole, journals(store, len(parts))))


def _is_whole(lines: list[dict[str, Any]]) -> bool:
    return bool(lines) and bool(lines[-1]["end"])


def journals(store: Path, parts: int) -> list[list[dict[str, Any]]]:
    return [read_jsonl(store / f"part-{number:05d}.jsonl") for number in range(parts)]
