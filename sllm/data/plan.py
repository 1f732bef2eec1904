"""What a source is cut into: parts, of files that follow each other, each worth a process."""

import sys
from pathlib import Path
from typing import Any

from sllm.config import ConversationsConfig, DataConfig, EmbeddedSource, HubSource, Source
from sllm.data.conversations.read import parquet_conversations
from sllm.data.find import file_stamps
from sllm.data.hub import hub_files
from sllm.errors import UserError
from sllm.files import write_json
from sllm.stop import Check, StopFlag
from sllm.workers import in_processes

PART_BYTES = 256_000_000
"""Files are taken together until they are as large as this: the least that a part is worth a process."""

SHRINKS = 0.5
"""What zstd leaves of a text, at most: to tell beforehand whether a disk has room."""


def write_plans(
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
        found = hub_files(source, check, parquet_conversations if isinstance(data, ConversationsConfig) else None)
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
