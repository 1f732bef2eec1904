"""What a corpus is compared with: the items of all tasks that are there, as one table (`sllm.data.contamination`).

<data_directory>/tasks/contamination/<fingerprint>/    a table, for all corpora that are compared with these items
<corpus>.partial/compared.json                         what this one is compared with, until it is there

That is settled once, at the beginning of a corpus: whatever the hub has later, all its parts, attempts and tasks of a
job array agree. Its manifest says it: `tasks` with the number of items, `missing` with the reason, and `words`.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from sllm.config import Experiment
from sllm.config.tasks import TASKS
from sllm.data.hub import tell_stderr
from sllm.data.tasks import fetched, tasks_directory, test_texts, why_missing
from sllm.files import CorruptError, alone_with, fingerprint, read_object, write_json
from sllm.manifests import read_manifest
from sllm.stop import Check

TABLES, SETTLED = "contamination", "compared.json"


def compared_with(experiment: Experiment, partial: Path, check: Check) -> tuple[Path | None, dict[str, Any] | None]:
    """The table that a corpus is compared with, made if it is not there, and what its manifest says of it; no table if
    no items are there, nothing if it is not to be compared. `partial` is where the corpus keeps what it needs until it
    is there. The items are those that `sllm.data.tasks` has fetched by now, unless that was settled before."""
    if not experiment.data.clean.contamination:
        return None, None
    tables = tasks_directory(experiment) / TABLES
    with alone_with(partial / SETTLED, check):
        settled = _settled(partial, tables)
        if settled is None:
            settled = _settle(tasks_directory(experiment), tables, check)
            write_json(partial / SETTLED, settled)
    told = {name: settled[name] for name in ("tasks", "missing", "words")}
    if told["missing"]:
        tell_stderr(
            f"the corpus is not compared with {', '.join(told['missing'])}; once their items can be had, "
            f"`sllm download CONFIG --force` makes it anew"
        )
    return (tables / settled["table"] if settled["table"] else None), told


def tables_of_tasks(experiment: Experiment) -> list[Path | None]:
    """All that corpora may have been compared with, None among them."""
    return [None, *sorted((tasks_directory(experiment) / TABLES).glob("[!.]*"))]


def _settled(partial: Path, tables: Path) -> dict[str, Any] | None:
    with suppress(FileNotFoundError, CorruptError):
        settled = read_object(partial / SETTLED, "table", "tasks", "missing", "words")
        if settled["table"]:
            read_manifest(tables / settled["table"])
        return settled
    return None


def _settle(directory: Path, tables: Path, check: Check) -> dict[str, Any]:
    from sllm.data import contamination  # compiled loops

    parts = [part for task in TASKS.values() for part in task.parts]
    there = {part: manifest for part in parts if (manifest := fetched(directory, part))}
    missing = {part: why_missing(directory, part) or "nobody has fetched its items" for part in parts}
    files = {part: {file["name"]: file["sha256"] for file in found["files"]} for part, found in there.items()}
    content = [
        [part, found["language"], found["columns"], files[part][f"{found['splits'][0]}.parquet"]]
        for part, found in there.items()
    ]
    table = fingerprint([contamination.RULE, content]) if there else None
    if table:
        with alone_with(tables / table, check):
            try:
                read_manifest(tables / table)
            except CorruptError:
                contamination.write_task_text(tables / table, test_texts(directory, TASKS), check)
    return {
        "table": table,
        "tasks": {part: found["items"] for part, found in there.items()},
        "missing": {part: reason for part, reason in missing.items() if part not in there},
        "words": contamination.WORDS,
    }
