"""The items of tasks (see `sllm.config.tasks`), as they are on the hub, kept for all runs:

<data_directory>/tasks/<lm-eval's name>/<split>.parquet …  the split that is scored, and that of few-shot's examples
<data_directory>/tasks/<lm-eval's name>/manifest.json      where they are from, at which commit, under which licence
<data_directory>/tasks/<lm-eval's name>.missing.json       why they could not be had when that was tried last

Only the download stage fetches them. Whatever format the home has, here it is parquet.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sllm.config import Experiment
from sllm.config.tasks import TASKS, Task
from sllm.data.hub import reason_of, tell_stderr, why_no_hub
from sllm.errors import Stopped, UserError
from sllm.files import CorruptError, alone_with, read_json, remove_leftovers, write_json
from sllm.manifests import atomic_directory, read_manifest
from sllm.stop import Check, no_check

AGAIN = "`sllm download CONFIG` tries again"


def tasks_directory(experiment: Experiment) -> Path:
    return Path(experiment.data_directory) / "tasks"


def wanted_tasks(experiment: Experiment) -> list[str]:
    """The tasks whose items the download stage fetches: those that the corpus is compared with, and those to be
    measured."""
    return list(TASKS) if getattr(experiment.data.clean, "contamination", False) else []


def fetch_tasks(names: Iterable[str], directory: Path, check: Check = no_check) -> dict[str, str]:
    """Bring the items of these tasks into `directory`, each whole or not at all; what is there stays as it is.

    Never fails for want of a network: the hub is tried once. Returns why which of lm-eval's tasks could not be had, and
    tells it.
    """
    wanted = {part: (task, files) for name in names if (task := TASKS[name]) for part, files in task.parts.items()}
    lost: dict[str, str] = {}
    unreachable = None
    for part, (task, files) in wanted.items():
        if fetched(directory, part) is not None:
            continue
        if unreachable is None:
            unreachable = why_no_hub(check)
        directory.mkdir(parents=True, exist_ok=True)
        with alone_with(directory / part, check):
            if fetched(directory, part) is not None:  # another run was faster
                continue
            check()
            reason = unreachable or _fetch(task, files, directory / part)
            note = directory / f"{part}.missing.json"
            if reason:
                lost[part] = reason
                write_json(note, {"reason": reason})
            else:
                note.unlink(missing_ok=True)
    for reason in dict.fromkeys(lost.values()):
        parts = ", ".join(part for part, why in lost.items() if why == reason)
        tell_stderr(f"going on without the items of {parts}: {reason}; {AGAIN}")
    return lost


def fetched(directory: Path, part: str) -> dict[str, Any] | None:
    """The manifest of a task's items: `dataset`, `revision`, `licence`, `language`, `columns`, `splits` (scored first),
    `items`. None if they are not there, or damaged."""
    try:
        return read_manifest(directory / part)
    except CorruptError:
        return None


def why_missing(directory: Path, part: str) -> str | None:
    """Why a task's items could not be had; None if they are there or nobody has tried."""
    try:
        return None if fetched(directory, part) else str(read_json(directory / f"{part}.missing.json")["reason"])
    except (OSError, CorruptError, KeyError, TypeError):
        return None


def test_texts(directory: Path, names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Of every item that is scored, of those of these tasks that are there: lm-eval's name of its task, the language,
    and its text: what is asked, then the answers, each on lines of its own."""
    import pyarrow.parquet

    for part in (part for name in names for part in TASKS[name].parts):
        if (manifest := fetched(directory, part)) is None:
            continue
        columns = manifest["columns"]
        with pyarrow.parquet.ParquetFile(directory / part / f"{manifest['splits'][0]}.parquet") as file:
            for batch in file.iter_batches(1000, columns=columns):
                for row in batch.to_pylist():
                    yield part, manifest["language"], "\n".join(_strings([row[column] for column in columns]))


def _strings(value: Any) -> Iterator[str]:
    """The texts in a value of a column, which may hold lists and records."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


# --- from the hub ---------------------------------------------------------------------------------


def _fetch(task: Task, patterns: dict[str, str], place: Path) -> str | None:
    """Write one part of a task. Returns why that cannot be."""
    import pyarrow.parquet
    from huggingface_hub import HfApi, HfFileSystem

    try:
        remove_leftovers(place.parent, f".{place.name}.*")
        found = HfApi().dataset_info(task.dataset, revision=task.revision, timeout=10)
        names = sorted(file.rfilename for file in found.siblings or ())
        tables, missing = {}, []
        for split, pattern in patterns.items():
            files = [name for name in names if fnmatchcase(name, pattern)]
            if not files:
                missing.append(f"{pattern} of split {split}")
                continue
            paths = [f"datasets/{task.dataset}@{found.sha}/{name}" for name in files]
            tables[split] = _table([(path, HfFileSystem().cat_file(path)) for path in paths])
        if missing:
            return f"{task.dataset} has no {' and no '.join(missing)} at revision {task.revision}"
        first = next(iter(patterns))
        if absent := [column for column in task.columns if column not in tables[first].column_names]:
            return f"{task.dataset}: {first} has no column {', '.join(absent)}"
        details = {
            "kind": "task",
            "dataset": task.dataset,
            "revision": found.sha,
            "licence": _licence(found) or task.licence,
            "language": task.language,
            "columns": task.columns,
            "splits": list(patterns),
            "items": tables[first].num_rows,
        }
        with atomic_directory(place, **details) as filled:
            for split, table in tables.items():
                pyarrow.parquet.write_table(table, filled / f"{split}.parquet")
        return None
    except Stopped:
        raise
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever a hub, a network or a damaged file may come up with
        return f"{task.dataset}: {reason_of(error)}"


def _licence(info: Any) -> str | None:
    """As the dataset's own page says it."""
    licence = getattr(info.card_data, "license", None)
    return ", ".join(licence) if isinstance(licence, list) else licence


def _table(files: list[tuple[str, bytes]]) -> Any:
    """The rows of files, parquet, JSON (a record a line, or a list) or CSV, as an Arrow table."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    tables = []
    for name, content in files:
        if name.endswith(".parquet"):
            tables.append(pyarrow.parquet.read_table(io.BytesIO(content)))
        elif re.search(r"\.jsonl?$", name):
            text = content.decode("utf-8-sig")
            lines = [line for line in text.split("\n") if line.strip()]
            rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in lines]
            tables.append(pyarrow.Table.from_pylist(rows))
        elif name.endswith(".csv"):
            options = pyarrow.csv.ParseOptions(newlines_in_values=True)
            tables.append(pyarrow.csv.read_csv(io.BytesIO(content), parse_options=options))
        else:
            raise UserError(f"{name} is neither parquet, JSON lines nor CSV")
    return pyarrow.concat_tables(tables)
