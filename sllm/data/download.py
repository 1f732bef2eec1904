"""The download stage: every source, cleaned, into corpus shards.

<output>/<source>/train-00000-00000.jsonl.zst …  validation-00000-00000.jsonl.zst …   part and number
<output>/manifest.json    for each source: language, documents, bytes, both by split, what was dropped and lost by
                          reason, the hub's commit

A source is cut into parts (files that follow each other), which processes work off side by side. Each commits its
shards whole, with a line in its journal that says how far it has read, below

<output>/../sources/<fingerprint of the source>/    plan.json, part-00000.jsonl, and the shards

so that whatever ends the stage, the next attempt goes on from there. The corpus is made of links to these shards, and
other experiments with the same source take it from there: a corpus with one source more downloads that one.
"""

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sllm.artifacts import VERSIONS
from sllm.config import DataConfig, EmbeddedSource, Experiment, HubSource, Source
from sllm.data.clean import SPLITS, Cleaner, Dropped, Lost
from sllm.data.dedup import EXAMPLES, Example, Removed, drop_duplicates, example
from sllm.data.find import file_stamps
from sllm.data.hub import hub_files, hub_texts, wait_for_hub
from sllm.data.shards import ShardWriter, shard_name
from sllm.data.sources import read_documents
from sllm.errors import UserError
from sllm.files import CorruptError, alone_with, fingerprint, read_json, remove_leftovers, write_json, write_text
from sllm.manifests import atomic_directory, read_manifest, sha256
from sllm.progress import Bar, format_amount, track
from sllm.records import DIGESTS_SUFFIX, read_jsonl, sidecar
from sllm.stop import Check, StopFlag
from sllm.workers import in_processes

PART_BYTES = 256_000_000
"""Files are taken together until they are as large as this: the least that a part is worth a process."""

SMALL_BYTES = 20_000_000
"""Of text: less is done before processes would have started."""

TOLD_CHARACTERS = 60
"""Of an example, in the line at the end."""

SHRINKS = 0.5
"""What zstd leaves of a text, at most: to tell beforehand whether a disk has room."""


def download_stage(
    experiment: Experiment,
    output: Path,
    stop: StopFlag,
    *,
    workers: int | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Write the corpus of `experiment` to `output`, whole or not at all; one that is whole is left as it is.

    Uses `workers` processes, or this one if it is 1. Returns the summary that the manifest holds too: documents and
    bytes (of text, UTF-8), in all and by source. With the names of `only` some sources, these are brought on disk;
    the corpus is written when all are there.

    Raises:
        UserError: a source cannot be had or is damaged, or has no document for one of the splits.
        OSError: the disk is full, say.
        Stopped: a stop was requested.

    Whatever ends it, the shards that are whole stay, and the next call goes on from them.
    """
    if summary := _whole(output):
        return summary
    wanted = [source for source in experiment.data.sources if only is None or source.name in set(only)]
    stores = {source.name: store_of(source, experiment, output) for source in experiment.data.sources}
    skipped = _bring(experiment, wanted, stores, stop, workers)
    missing = [name for name, store in stores.items() if name not in skipped and not _is_complete(store)]
    if missing:
        sources = {
            source.name: _figures(source, stores[source.name]) for source in wanted if source.name not in skipped
        }
        _tell_losses(sources, experiment.data)
        return {"sources": sources, **_totals(sources), "missing": missing}
    sources = {
        source.name: _figures(source, stores[source.name])
        for source in experiment.data.sources
        if source.name not in skipped
    }
    with alone_with(output, stop.check):
        if summary := _whole(output):  # another run made it while this one waited
            return summary
        with atomic_directory(output, kind="corpus", sources=sources, skipped=skipped) as directory:
            shards = [shard for name in sources for shard in _link(stores[name], directory / name)]
            for name, removed in drop_duplicates(directory, shards, experiment.data, stop, workers or _cpus()).items():
                _subtract(sources[name], removed)
            for name in sources:
                _check_not_empty(name, sources[name], sources[name].pop("lowest"), experiment.data)
    _tell_losses(sources, experiment.data)
    return {"sources": sources, **_totals(sources), **({"skipped": skipped} if skipped else {})}


def _whole(output: Path) -> dict[str, Any] | None:
    with suppress(CorruptError):
        manifest = read_manifest(output)
        return {"sources": manifest["sources"], **_totals(manifest["sources"])}
    return None


def store_of(source: Source, experiment: Experiment, output: Path) -> Path:
    """Where the shards of a source are kept, for all corpora beside `output`: named by all they depend on."""
    described = source.model_dump(mode="json", exclude={"weight", "optional", "licence", "text_megabytes"})
    cleaning = experiment.data.model_dump(mode="json", exclude={"sources", "near_duplicates"})
    files: list[Any] = []
    if not isinstance(source, HubSource | EmbeddedSource):
        with suppress(UserError):
            files = file_stamps(source)
    seed = experiment.seed if isinstance(source, EmbeddedSource) else None
    found = fingerprint([VERSIONS["download"], described, cleaning, files, seed])
    return output.parent / "sources" / f"{source.name}-{found}"


# --- the plan -------------------------------------------------------------------------------------


def make_plan(source: Source, data: DataConfig, check: Check) -> dict[str, Any]:
    """The parts of a source, each with its files (local ones with size and modification time) and, if only some is
    wanted, how many bytes of text to read; the bytes that its shards will take, about; and for the hub the commit its
    files belong to."""
    revision, stamps = None, {}
    if isinstance(source, EmbeddedSource):
        return {
            "revision": None,
            "bytes": int(SHRINKS * source.megabytes * 1e6),
            "parts": [{"files": [], "stamps": [], "limit": None}],
        }
    if isinstance(source, HubSource):
        found = hub_files(source, check)
        revision, files, sizes = found.revision, list(found.files), list(found.sizes)
    else:
        stamps = {name: stamp for name, *stamp in file_stamps(source)}
        files, sizes = list(stamps), [size for size, _ in stamps.values()]
    limits = [data.limit_megabytes, source.limit_megabytes if isinstance(source, HubSource) else None]
    limit = min((megabytes * 1_000_000 for megabytes in limits if megabytes), default=None)
    groups = _groups(files, sizes)
    if limit is not None:
        # The beginnings of as many parts as are worth a process each, spread evenly.
        count = min(len(groups), max(1, limit // PART_BYTES))
        groups = [groups[i * len(groups) // count] for i in range(count)]
        limit = -(-limit // count)
    room = sum(
        size if file.lower().endswith((".parquet", ".zst")) else SHRINKS * size
        for file, size in zip(files, sizes, strict=True)
    )
    if limit is not None:
        room = min(room, SHRINKS * limit * len(groups))
    parts = [{"files": group, "stamps": [stamps[file] for file in group if stamps], "limit": limit} for group in groups]
    return {"revision": revision, "bytes": int(room), "parts": parts}


def _groups(files: list[str], sizes: list[int]) -> list[list[str]]:
    groups: list[list[str]] = []
    room = 0
    for file, size in zip(files, sizes, strict=True):
        if room <= 0:
            groups.append([])
            room = PART_BYTES
        groups[-1].append(file)
        room -= size
    return groups


# --- one part -------------------------------------------------------------------------------------


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

    @property
    def journal(self) -> Path:
        return self.store / f"part-{self.number:05d}.jsonl"

    def where(self, position: "Position") -> str:
        """The text before `position`, for a person."""
        return f"{self.files[position.file]} row {position.row}" if self.files else f"text {position.row}"

    def lines(self) -> list[dict[str, Any]]:
        return read_jsonl(self.journal)

    def is_done(self) -> bool:
        lines = self.lines()
        return bool(lines) and bool(lines[-1]["end"])


@dataclass(frozen=True)
class Position:
    """Where reading goes on: `row` of file number `file` of a part."""

    file: int
    row: int


def download_part(part: Part, *, check: Check) -> None:
    """Bring a part to its end, from where its journal says that it stands. Calls `check` before each document."""
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
                f"data.sources: {part.source.name}: {part.files[file] if part.files else 'its text'} has changed since "
                f"the download began; `sllm download CONFIG --source {part.source.name} --force` begins anew"
            )
    while not (lines and lines[-1]["end"]):
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
    cleaner = Cleaner(part.data, part.source.language)
    documents, sizes, masked, lost = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    examples: dict[str, list[Example]] = {}
    dropped = Counter({reason.value: 0 for reason in Dropped})
    first = {split: sum(line["shards"][split] for line in lines) for split in SPLITS}
    room = None if part.limit is None else part.limit - sum(line["read"] for line in lines)
    lowest, read, end = 1.0, 0, True
    text: str | None = None
    position = Position(*lines[-1]["position"]) if lines else Position(0, 0)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                ShardWriter(part.store, f"{split}-{part.number:05d}", part.data.shard_megabytes, first[split])
            )
            for split in SPLITS
        }
        for reached, text in texts:
            position = reached
            check()
            read += _size(text)
            if text is None:
                dropped["not_utf8"] += 1
                continue
            kept, here = 0, Counter[str]()
            for result in cleaner.clean(text):
                if isinstance(result, Lost):
                    here[result.reason.value] += result.size
                    shown = examples.setdefault(result.reason.value, [])
                    if len(shown) < EXAMPLES:
                        shown.append(example(result.text, part.where(position)))
                else:
                    writers[result.split].write(result.text)
                    kept += 1
                    documents[result.split] += 1
                    sizes[result.split] += result.size
                    masked += result.masked
                    lowest = min(lowest, result.position)
            lost += here
            if not kept:
                dropped[max(here, key=here.__getitem__)] += 1
            if room is not None and read >= room:
                break
            if sizes.total() >= part.data.shard_megabytes * 1_000_000:
                end = False
                break
    shards = {split: writers[split].shards - first[split] for split in SPLITS}
    return {
        "position": [position.file, position.row],
        "last": _digest(text),
        "end": end,
        "read": read,
        "documents": {split: documents[split] for split in SPLITS},
        "bytes": {split: sizes[split] for split in SPLITS},
        "dropped": dict(dropped),
        "lost": dict(lost),
        "examples": examples,
        "masked": dict(masked),
        "lowest": lowest,
        "shards": shards,
        "files": [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
            for split in SPLITS
            for number in range(first[split], writers[split].shards)
            for path in _files_of(part, split, number)
        ],
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
            texts = hub_texts(part.source, part.files[number], first, check)
        else:
            texts = read_documents(part.source, part.seed, list(part.files[number : number + 1]), first)
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
    """Delete shards that a kill left without their line in the journal."""
    committed = {file["name"] for line in lines for file in line["files"]}
    for split in SPLITS:
        for path in part.store.glob(f"{split}-{part.number:05d}-*"):
            if path.name not in committed:
                path.unlink()


# --- all parts ------------------------------------------------------------------------------------


def _bring(
    experiment: Experiment, wanted: list[Source], stores: dict[str, Path], stop: StopFlag, workers: int | None
) -> dict[str, str]:
    """Complete the stores of the `wanted` sources; the optional ones that cannot be had, each with the reason."""
    incomplete = [source for source in wanted if not _is_complete(stores[source.name])]
    if not incomplete:
        return {}
    with ExitStack() as stack:
        for store in sorted(stores[source.name] for source in incomplete):  # sorted: two runs never wait for each other
            store.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone_with(store, stop.check))
            remove_leftovers(store)
        if workers is None:
            workers = 1 if _is_small(incomplete) else max(2, _cpus())
        with track("download", unit="documents") as bar:
            unreachable = _reach_hub(incomplete, stop, bar)
            skipped = _plan(incomplete, experiment.data, stores, workers, stop, unreachable)
            incomplete = [source for source in incomplete if source.name not in skipped]
            parts = [part for source in incomplete for part in _parts(source, experiment, stores[source.name])]
            _check_space(stores, incomplete)
            progress = _Progress(parts)
            # Each source gets its share of the workers at any time.
            counts = Counter(part.source.name for part in parts)
            parts.sort(key=lambda part: part.number / counts[part.source.name])
            left = [(part,) for part in parts if not part.is_done()]
            with in_processes(download_part, left, workers, stop, apart=True, tick=lambda: progress.show(bar)) as done:
                list(done)
            progress.show(bar)
        return skipped


def _reach_hub(sources: list[Source], stop: StopFlag, bar: Bar) -> str:
    """Why the hub cannot be reached, if a source needs it; else nothing. One process asks, before all do."""
    try:
        if any(isinstance(source, HubSource) for source in sources):
            wait_for_hub(stop.check, bar.say)
        return ""
    except UserError as error:
        return str(error)
    finally:
        bar.fields = {}


def _is_small(sources: list[Source]) -> bool:
    """Whether starting processes would take longer than the work."""
    size = 0.0
    for source in sources:
        if isinstance(source, HubSource):
            return False
        if isinstance(source, EmbeddedSource):
            size += source.megabytes * 1e6
        else:
            with suppress(UserError):
                size += sum(stamp[1] for stamp in file_stamps(source))
    return size < SMALL_BYTES


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _plan(
    sources: list[Source], data: DataConfig, stores: dict[str, Path], workers: int, stop: StopFlag, unreachable: str
) -> dict[str, str]:
    """Write the plans that are not there yet; why optional sources have none. Every other problem is told at once.
    `unreachable` says why nothing can be had from the hub, if so."""
    lost = [source for source in sources if unreachable and isinstance(source, HubSource)]
    unplanned = [s for s in sources if s not in lost and not (stores[s.name] / "plan.json").exists()]
    with in_processes(_plan_or_problem, [(source, data) for source in unplanned], workers, stop, apart=True) as found:
        plans = list(found)
    skipped, problems = {source.name: unreachable for source in lost if source.optional}, []
    for source, plan in zip(unplanned, plans, strict=True):
        if not isinstance(plan, str):
            write_json(stores[source.name] / "plan.json", plan)
        elif getattr(source, "optional", False):
            skipped[source.name] = plan
        else:
            problems.append(plan)
    for name, reason in skipped.items():
        print(f"going on without {name}: {reason}", file=sys.stderr, flush=True)
    if needed := [source.name for source in lost if not source.optional]:
        problems.append(f"data.sources: {', '.join(needed)}: {unreachable}")
    if problems:
        raise UserError("\n".join(problems))
    return skipped


def _plan_or_problem(source: Source, data: DataConfig, *, check: Check) -> dict[str, Any] | str:
    try:
        return make_plan(source, data, check)
    except UserError as error:
        return str(error)


def _parts(source: Source, experiment: Experiment, store: Path) -> list[Part]:
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
            )
            for number, part in enumerate(read_json(store / "plan.json")["parts"])
        ]
    return []


def _is_complete(store: Path) -> bool:
    try:
        parts = read_json(store / "plan.json")["parts"]
    except FileNotFoundError:
        return False
    return all(lines and lines[-1]["end"] for lines in _journals(store, len(parts)))


def _journals(store: Path, parts: int) -> list[list[dict[str, Any]]]:
    return [read_jsonl(store / f"part-{number:05d}.jsonl") for number in range(parts)]


class _Progress:
    """What the journals say. One that has not changed is not read again."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def documents(self) -> int:
        return self._sums()[0]

    def show(self, bar: Bar) -> None:
        documents, size = self._sums()
        bar.update(documents, text=format_amount(size, "bytes"))

    def _sums(self) -> tuple[int, int]:
        for part in self._parts:
            with suppress(FileNotFoundError):
                changed = part.journal.stat().st_mtime_ns
                if self._seen.get(part.journal, (0,))[0] != changed:
                    lines = part.lines()
                    documents = sum(sum(line["documents"].values()) for line in lines)
                    self._seen[part.journal] = changed, documents, sum(sum(line["bytes"].values()) for line in lines)
        return sum(seen[1] for seen in self._seen.values()), sum(seen[2] for seen in self._seen.values())


def _check_space(stores: dict[str, Path], sources: list[Source]) -> None:
    """Whether what is still to come fits on the disk. A quota shows only when a file is written."""
    wanted = {}
    for source in sources:
        store = stores[source.name]
        there = sum(path.stat().st_size for path in store.glob("*-*.jsonl.zst"))
        wanted[source.name] = max(0, read_json(store / "plan.json")["bytes"] - there)
    root = next(iter(stores.values())).parent
    free = shutil.disk_usage(root).free
    if sum(wanted.values()) > free:
        each = ", ".join(f"{name} {format_amount(size, 'bytes')}" for name, size in wanted.items())
        raise UserError(
            f"{root}: {format_amount(free, 'bytes')} are free, the corpora still need about "
            f"{format_amount(sum(wanted.values()), 'bytes')} ({each}); make room, set data_directory to another "
            f"disk, or data.limit_megabytes to take less of each"
        )


# --- the corpus -----------------------------------------------------------------------------------


def _figures(source: Source, store: Path) -> dict[str, Any]:
    """The entry of a source in the manifest, before its documents are compared with those of others."""
    plan = read_json(store / "plan.json")
    lines = [line for journal in _journals(store, len(plan["parts"])) for line in journal]
    figures: dict[str, Any] = {
        split: {name: sum(line[name][split] for line in lines) for name in ("documents", "bytes", "shards")}
        for split in SPLITS
    }
    dropped, lost, masked = Counter[str](), Counter[str](), Counter[str]()
    examples: dict[str, list[Example]] = {}
    for line in lines:
        dropped.update(line["dropped"])
        lost.update(line["lost"])
        masked.update(line["masked"])
        for reason, found in line["examples"].items():
            examples[reason] = (examples.get(reason, []) + found)[:EXAMPLES]
    return {
        "language": source.language,
        **({"revision": plan["revision"]} if plan["revision"] else {}),
        "documents": sum(figures[split]["documents"] for split in SPLITS),
        "bytes": sum(figures[split]["bytes"] for split in SPLITS),
        **figures,
        "dropped": dict(dropped),
        "lost": dict(lost),
        "examples": examples,
        "masked": dict(masked),
        "lowest": min((line["lowest"] for line in lines), default=1.0),
    }


def _link(store: Path, directory: Path) -> list[str]:
    """Make the files of a complete store appear in `directory`; its shards, in their order."""
    directory.mkdir()
    shards = []
    for lines in _journals(store, len(read_json(store / "plan.json")["parts"])):
        for file in (file for line in lines for file in line["files"]):
            path = store / file["name"]
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                raise UserError(
                    f"{path} is gone or damaged; `sllm download CONFIG --source {directory.name} --force` gets it anew"
                )
            try:
                os.link(path, directory / path.name)
            except OSError:  # a file system without hard links
                shutil.copy2(path, directory / path.name)
            if path.suffix == ".zst":
                shards.append(f"{directory.name}/{path.name}")
    return shards


def _subtract(entry: dict[str, Any], removed: Removed) -> None:
    for split in SPLITS:
        entry[split]["documents"] -= removed.documents[split]
        entry[split]["bytes"] -= removed.bytes[split]
    entry["documents"] -= removed.documents.total()
    entry["bytes"] -= removed.bytes.total()
    for reason in ("duplicate", "near_duplicate"):
        entry["dropped"][reason] = removed.reasons[reason]
        entry["lost"][reason] = removed.lost[reason]
    entry["examples"] |= removed.examples


def _check_not_empty(name: str, entry: dict[str, Any], lowest: float, config: DataConfig) -> None:
    where = f"data.sources: {name}"
    if not entry["documents"]:
        why = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in entry["dropped"].items() if count)
        raise UserError(
            f"{where}: no document is left to train on ({why or 'its files hold none'}); add text, or change "
            f"data.min_characters ({config.min_characters:,}) or the rules in data.clean"
        )
    if not entry["train"]["documents"]:
        raise UserError(
            f"{where}: all {entry['documents']:,} documents fall to validation; add text, or lower "
            f"data.validation_fraction ({config.validation_fraction})"
        )
    if not entry["validation"]["documents"]:
        # A document's side is a function of its text alone, so we can tell exactly which fraction takes one in.
        fraction = (int(lowest * 10_000) + 1) / 10_000
        way = f"set data.validation_fraction to {fraction} or more, or add text" if fraction < 0.5 else "add text"
        raise UserError(
            f"{where}: none of its {entry['documents']:,} documents falls to validation at data.validation_fraction "
            f"{config.validation_fraction}; {way}"
        )


# --- what is lost ---------------------------------------------------------------------------------

WORTH_TELLING = 0.1
"""A source that loses a larger share of its bytes is told at the end."""


def loss(entry: dict[str, Any]) -> float:
    """The share of a source's bytes, in the normal form, that the corpus does not hold; `entry` is its figures."""
    lost: int = sum(entry["lost"].values())
    return lost / max(lost + entry["bytes"], 1)


def loss_by_reason(entry: dict[str, Any]) -> list[str]:
    """`1.2 MB (7.3%) repeated phrases` for each reason, what took most first."""
    lost = Counter[str](entry["lost"])
    total = max(lost.total() + entry["bytes"], 1)
    return [
        f"{format_amount(size, 'bytes')} ({100 * size / total:.1f}%) {_named(reason)}"
        for reason, size in lost.most_common()
        if size
    ]


def _tell_losses(sources: dict[str, Any], data: DataConfig) -> None:
    for name, entry in sources.items():
        if loss(entry) > WORTH_TELLING:
            reason = max(entry["lost"], key=entry["lost"].__getitem__)
            first = entry["examples"][reason][0]
            text = " ".join(first["text"].split())
            text = f"{text[:TOLD_CHARACTERS]}…" if len(text) > TOLD_CHARACTERS else text
            print(
                f"{name}: {100 * loss(entry):.0f}% of its text is left out: {', '.join(loss_by_reason(entry))}. "
                f"{_way_out(reason, entry['language'], data)}. First {_named(reason)}: {first['where']}: {text}",
                file=sys.stderr,
                flush=True,
            )


def _named(reason: str) -> str:
    return reason.replace("_", " ")


def _way_out(reason: str, language: str, data: DataConfig) -> str:
    if reason == "duplicate":
        return "Each of these texts stands once in the corpus"
    if reason == "too_short":
        return f"A smaller data.min_characters ({data.min_characters:,}) keeps what is too short"
    if reason == "language":
        name, least = ("min_hangul", data.clean.min_hangul) if language == "ko" else ("min_latin", data.clean.min_latin)
        return f"A smaller data.clean.{name} ({least}) keeps what is of another language"
    rule = {"near_duplicate": "near_duplicates", "boilerplate": "clean.boilerplate"}.get(reason, "clean.repetition")
    return f"data.{rule}=false keeps {_named(reason)}{'s' if reason == 'near_duplicate' else ''}"


def _totals(sources: dict[str, Any]) -> dict[str, int]:
    return {name: sum(source[name] for source in sources.values()) for name in ("documents", "bytes")}
