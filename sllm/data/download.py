"""The download stage: every source, cleaned, into corpus shards.

<output>/<source>/train-00000-00000.jsonl.zst …  validation-00000-00000.jsonl.zst …   part and number
<output>/manifest.json    for each source: language, documents, bytes, both by split, what was dropped and lost by
                          reason, the hub's commit; `contamination`, what it was compared with

A source is cut into parts (files that follow each other), which processes work off side by side. Each commits its
shards whole, with a line in its journal that says how far it has read, below

<output>/../sources/<fingerprint of the source>/    plan.json, part-00000.jsonl, and the shards

so that whatever ends the stage, the next attempt goes on from there. The corpus is made of links to these shards, and
other experiments with the same source take it from there: a corpus with one source more downloads that one.

<output>.partial          what is compared to find duplicates (`sllm.data.dedup`), until the corpus is there
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sllm.artifacts import VERSIONS
from sllm.config import ConversationsConfig, EmbeddedSource, Experiment, HubSource, Source
from sllm.data.compared import compared_with
from sllm.data.corpus import check_not_empty, figures, link, subtract, totals
from sllm.data.dedup import drop_duplicates, write_tables
from sllm.data.find import file_stamps
from sllm.data.hub import wait_for_hub
from sllm.data.losses import tell_losses
from sllm.data.parts import Part, download_part, is_complete, read_parts
from sllm.data.plan import write_plans
from sllm.data.tasks import fetch_tasks, tasks_directory, wanted_tasks
from sllm.errors import UserError
from sllm.files import CorruptError, alone_with, fingerprint, read_json, remove_leftovers
from sllm.manifests import atomic_directory, read_manifest
from sllm.progress import Bar, format_amount, track
from sllm.stop import StopFlag
from sllm.workers import in_processes

SMALL_BYTES = 20_000_000
"""Of text: less is done before processes would have started."""


def download_stage(
    experiment: Experiment,
    output: Path,
    stop: StopFlag,
    *,
    workers: int | None = None,
    only: Iterable[str] | None = None,
    share: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Write the corpus of `experiment` to `output`, whole or not at all; one that is whole is left as it is.

    Uses `workers` processes, or this one if it is 1. Returns the summary that the manifest holds too: documents and
    bytes (of text, UTF-8), in all and by source. With the names of `only` some sources, these are brought on disk;
    the corpus is written when all are there. With `share` (i, n), for a task of a job array, only every n-th part from
    the i-th on is brought, and what is compared of it to find near duplicates; the call without it that follows them
    brings what is missing and writes the corpus.

    Raises:
        UserError: a source cannot be had or is damaged, or has no document for one of the splits.
        OSError: the disk is full, say.
        Stopped: a stop was requested.

    Whatever ends it, the shards that are whole stay, and the next call goes on from them. The items of tasks (see
    `sllm.data.tasks`) come before everything else; without them it goes on.
    """
    settings = experiment.data.clean.model_dump(), experiment.benchmark.model_dump()
    fetch_tasks(wanted_tasks(*settings), tasks_directory(experiment), stop.check)
    if summary := _whole(output):
        return summary
    wanted = [source for source in experiment.data.sources if only is None or source.name in set(only)]
    tasks, told = compared_with(experiment, tables_of(output), stop.check)
    stores = {source.name: store_of(source, experiment, output, tasks) for source in experiment.data.sources}
    skipped, parts = _bring(experiment, wanted, stores, tasks, stop, workers, share or (0, 1))
    missing = [name for name, store in stores.items() if name not in skipped and not is_complete(store)]
    sources = {
        source.name: figures(source, stores[source.name])
        for source in (wanted if missing else experiment.data.sources)
        if source.name not in skipped
    }
    tables, processes = tables_of(output), workers or cpus()
    if missing or share:
        if experiment.data.near_duplicates:
            write_tables([path for part in parts for path in part.shards()], tables, experiment.data, stop, processes)
        if share:  # of each source some parts
            return {"missing": missing}
        tell_losses(sources, experiment.data)
        return {"sources": sources, **totals(sources), "missing": missing}
    with alone_with(output, stop.check):
        if summary := _whole(output):  # another run made it while this one waited
            return summary
        remove_leftovers(output.parent, f".{output.name}.*")
        details: dict[str, Any] = {"sources": sources, "skipped": skipped, **({"contamination": told} if told else {})}
        with atomic_directory(output, kind="corpus", **details) as directory:
            shards = [shard for name in sources for shard in link(stores[name], directory / name)]
            dropped = drop_duplicates(directory, shards, experiment.data, tables, stop, processes)
            for name, removed in dropped.items():
                subtract(sources[name], removed)
            for name in sources:
                check_not_empty(name, sources[name], sources[name].pop("lowest"), experiment.data)
        shutil.rmtree(tables, ignore_errors=True)  # a task of another run may still write to it
    tell_losses(sources, experiment.data)
    return {"sources": sources, **totals(sources), **({"skipped": skipped} if skipped else {})}


def _whole(output: Path) -> dict[str, Any] | None:
    with suppress(CorruptError):
        manifest = read_manifest(output)
        return {"sources": manifest["sources"], **totals(manifest["sources"])}
    return None


def store_of(source: Source, experiment: Experiment, output: Path, tasks: Path | None = None) -> Path:
    """Where the shards of a source are kept, for all corpora beside `output`: named by all they depend on. `tasks` is
    the table that they were compared with."""
    described = source.model_dump(mode="json", exclude={"weight", "optional", "licence", "text_megabytes"})
    cleaning = experiment.data.model_dump(mode="json", exclude={"sources", "near_duplicates", "phases"})
    files: list[Any] = []
    if not isinstance(source, HubSource | EmbeddedSource):
        with suppress(UserError):
            files = file_stamps(source)
    seed = experiment.seed if isinstance(source, EmbeddedSource) else None
    content = [VERSIONS["download"], described, cleaning, files, seed, tasks and tasks.name]
    if isinstance(experiment.data, ConversationsConfig):  # the same files can be read as text too
        content.append(["conversations", VERSIONS["conversations"]])
    found = fingerprint(content)
    return output.parent / "sources" / f"{source.name}-{found}"


def tables_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def _bring(
    experiment: Experiment,
    wanted: list[Source],
    stores: dict[str, Path],
    tasks: Path | None,
    stop: StopFlag,
    workers: int | None,
    share: tuple[int, int],
) -> tuple[dict[str, str], list[Part]]:
    """Bring a share of the parts of the `wanted` sources; the optional ones that cannot be had, each with the reason,
    and the parts that are there now."""
    incomplete = [source for source in wanted if not is_complete(stores[source.name])]
    if not incomplete:
        return {}, _parts(experiment, wanted, stores, tasks, share)
    talks = isinstance(experiment.data, ConversationsConfig)
    name, unit = ("conversations", "conversations") if talks else ("download", "documents")
    with track(name, unit=unit) as bar:
        if workers is None:
            workers = 1 if _is_small(incomplete) else max(2, cpus())
        with ExitStack() as stack:
            # Sorted: no two runs wait for each other.
            for store in sorted(stores[source.name] for source in incomplete):
                store.mkdir(parents=True, exist_ok=True)
                stack.enter_context(alone_with(store, stop.check))
                remove_leftovers(store, ".plan.json.*")
            unreachable = _reach_hub(incomplete, stop, bar)
            skipped = write_plans(incomplete, experiment.data, stores, workers, stop, unreachable)
        incomplete = [source for source in incomplete if source.name not in skipped]
        parts = _parts(experiment, [source for source in wanted if source.name not in skipped], stores, tasks, share)
        _check_space(stores, incomplete)
        progress = _Progress([part for part in parts if part.source in incomplete])
        temporary = [path for source in incomplete for path in stores[source.name].glob(".*.tmp")]
        left = [(part, list(filter(part.wrote, temporary))) for part in parts if not part.is_done()]
        with in_processes(download_part, left, workers, stop, apart=True, tick=lambda: progress.show(bar)) as done:
            list(done)
        progress.show(bar, now=True)
    return skipped, parts


def _parts(
    experiment: Experiment,
    sources: list[Source],
    stores: dict[str, Path],
    tasks: Path | None,
    share: tuple[int, int],
) -> list[Part]:
    """A share of all parts, whichever are there, so that the shares of other tasks are others. In their order each
    source gets its share of the workers at any time."""
    parts = [part for source in sources for part in read_parts(source, experiment, stores[source.name], tasks)]
    counts = Counter(part.source.name for part in parts)
    parts.sort(key=lambda part: part.number / counts[part.source.name])
    return parts[share[0] :: share[1]]


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


def cpus() -> int:
    return len(os.sched_getaffinity(0))


class _Progress:
    """What the journals say. One that has not changed is not read again."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self._next = 0.0

    def documents(self) -> int:
        return self._sums()[0]

    def show(self, bar: Bar, *, now: bool = False) -> None:
        """At most a twentieth of the time, unless it is to be done `now`: thousands of journals on a shared file system
        take seconds."""
        started = time.monotonic()
        if now or started >= self._next:
            documents, size = self._sums()
            bar.update(documents, text=format_amount(size, "bytes"))
            ended = time.monotonic()
            self._next = ended + 20 * (ended - started)

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
