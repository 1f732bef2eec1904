"""The items of tasks (see `sllm.config.tasks`), as they are on the hub, kept for all runs:

<data_directory>/tasks/<lm-eval's name>/<split>.parquet …  the split that is scored, and that of few-shot's examples
<data_directory>/tasks/<lm-eval's name>/manifest.json      where they are from, at which commit, under which licence
<data_directory>/tasks/<lm-eval's name>.missing.json       why they could not be had when that was tried last
<data_directory>/tasks/<a group's name>.group.json         of which tasks a group outside the catalogue consists

Only the download stage fetches them. Whatever format the home has, here it is parquet.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sllm.config import Experiment, HubSource, Language
from sllm.config.tasks import CONVERTED, TASKS, Task
from sllm.data import lm_eval_tasks
from sllm.data.hub import explained, reason_of, tell_stderr, why_no_hub
from sllm.errors import Stopped, Superseded, UserError
from sllm.files import CorruptError, alone_with, read_object, remove_leftovers, write_json
from sllm.manifests import atomic_directory, read_manifest
from sllm.stop import Check, no_check

AGAIN = "`sllm download CONFIG` tries again"


def tasks_directory(experiment: Experiment) -> Path:
    return Path(experiment.data_directory) / "tasks"


def wanted_tasks(clean: dict[str, Any], benchmark: dict[str, Any]) -> list[str]:
    """The tasks whose items the download stage fetches, by these sections of an experiment or of the keys of its
    stages: those that the corpus is compared with, and those to be measured."""
    compared = list(TASKS) if clean.get("contamination") else []
    return list(dict.fromkeys([*compared, *benchmark.get("tasks", ())]))


def fetch_tasks(names: Iterable[str], directory: Path, check: Check = no_check) -> dict[str, str]:
    """Bring the items of these tasks into `directory`, each whole or not at all; what is there stays as it is.

    Never fails for want of a network: the hub is tried once. Returns why which of lm-eval's tasks could not be had, and
    tells it.
    """
    lost: dict[str, str] = {}
    wanted: dict[str, Task | None] = {}
    for name in names:
        if name in TASKS:
            wanted.update(dict.fromkeys(TASKS[name].parts, TASKS[name]))
            continue
        try:
            wanted.update(dict.fromkeys(_members(name, directory), None))
        except UserError as error:
            lost[name] = str(error)
            write_json(directory / f"{name}.missing.json", {"reason": lost[name]})
    unreachable = None
    for part, task in wanted.items():
        if fetched(directory, part) is not None:
            continue
        if unreachable is None:
            unreachable = why_no_hub(check)
        directory.mkdir(parents=True, exist_ok=True)
        with alone_with(directory / part, check):
            if fetched(directory, part) is not None:  # another run was faster
                continue
            check()
            note = directory / f"{part}.missing.json"
            if reason := unreachable or _fetch(task, part, directory / part):
                lost[part] = reason
                write_json(note, {"reason": reason})
            else:
                note.unlink(missing_ok=True)
    for reason in dict.fromkeys(lost.values()):
        parts = ", ".join(part for part, why in lost.items() if why == reason)
        tell_stderr(f"going on without the items of {parts}: {reason}; {AGAIN}")
    return lost


def _members(name: str, directory: Path) -> list[str]:
    """lm-eval's tasks of which a task outside the catalogue consists; kept, since lm-eval takes a second to say it, and
    may not be there."""
    if not lm_eval_tasks.installed():
        raise UserError("lm-eval, which knows where they are, is not installed: pip install 'sllm[eval]'")
    if name not in lm_eval_tasks.files():
        raise UserError(lm_eval_tasks.unknown_task(name, lm_eval_tasks.files()))
    parts = lm_eval_tasks.members(name)
    if parts != [name] and parts != parts_of(name, directory):
        write_json(directory / f"{name}.group.json", {"parts": parts})
    return parts


def parts_of(name: str, directory: Path) -> list[str]:
    """lm-eval's tasks whose items make up a task; itself if nobody has asked for it yet."""
    if name in TASKS:
        return list(TASKS[name].parts)
    try:
        return list(read_object(directory / f"{name}.group.json", "parts")["parts"])
    except (OSError, CorruptError):
        return [name]


def not_tried(names: Iterable[str], directory: Path) -> list[str]:
    """Of these tasks those with items that are not there, while nothing says that they could not be had."""
    return [
        name
        for name in names
        if any(not fetched(directory, part) and not why_missing(directory, part) for part in parts_of(name, directory))
    ]


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
        note = read_object(directory / f"{part}.missing.json", "reason")
        return None if fetched(directory, part) else str(note["reason"])
    except (OSError, CorruptError):
        return None


def test_texts(directory: Path, names: Iterable[str]) -> Iterator[tuple[str, Language, str]]:
    """Of every item that is scored, of those of these tasks that are there: lm-eval's name of its task, the language,
    and its text: what is asked, then the answers, each on lines of its own."""
    import pyarrow.parquet

    for part in (part for name in names for part in parts_of(name, directory)):
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


# --- what a benchmark says of tasks that it did not measure ---------------------------------------

NO_ITEMS = "its items are not there"
NO_LIBRARY = "lm-eval is not installed"


def measurable_now(summary: dict[str, Any], directory: Path) -> list[str]:
    """The tasks that a benchmark with this summary could not measure, for want of what is there now."""

    def is_there(name: str, reason: str) -> bool:
        if reason.startswith(NO_LIBRARY) and not lm_eval_tasks.installed():
            return False
        return reason.startswith((NO_ITEMS, NO_LIBRARY)) and all(
            fetched(directory, part) for part in parts_of(name, directory)
        )

    return [name for name, reason in summary.get("tasks", {}).get("not_measured", {}).items() if is_there(name, reason)]


# --- from the hub ---------------------------------------------------------------------------------


def _fetch(task: Task | None, part: str, place: Path) -> str | None:
    """Write the items of one of lm-eval's tasks, of one of ours if `task` is given. Returns why that cannot be."""
    import pyarrow.parquet

    try:
        remove_leftovers(place.parent, f".{place.name}.*")
        dataset, found, files = _ours(task, part) if task else _theirs(part)
        tables = {
            split: _table([(name, _content(dataset, found.sha, name)) for name in files[split]]) for split in files
        }
        scored = next(iter(tables.values()))
        columns = task.columns if task else tuple(scored.column_names)
        if absent := [column for column in columns if column not in scored.column_names]:
            return f"{dataset}: {part} has no column {', '.join(absent)}"
        details = {
            "kind": "task",
            "dataset": dataset,
            "revision": found.sha,
            "licence": _licence(found) or (task.licence if task else None),
            "language": task.language if task else _language(scored),
            "columns": columns,
            "splits": list(tables),
            "items": scored.num_rows,
        }
        with atomic_directory(place, **details) as filled:
            for split, table in tables.items():
                pyarrow.parquet.write_table(table, filled / f"{split}.parquet")
        return None
    except (Stopped, Superseded):
        raise
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever a hub, a network or a damaged file may come up with
        return reason_of(error)


def _ours(task: Task, part: str) -> tuple[str, Any, dict[str, list[str]]]:
    """Dataset, what the hub says of it, and the files of each split of a task of the catalogue."""
    found, names = _listing(task.dataset, task.revision)
    files = {split: [name for name in names if fnmatchcase(name, p)] for split, p in task.parts[part].items()}
    if missing := [task.parts[part][split] for split in files if not files[split]]:
        raise UserError(f"{task.dataset} has no {' and no '.join(missing)} at revision {task.revision}")
    return task.dataset, found, files


def _theirs(part: str) -> tuple[str, Any, dict[str, list[str]]]:
    """The same of a task outside it, where lm-eval says that they are: as `datasets` finds them, or, where that would
    have to run a script, what the hub has made of them."""
    import datasets

    dataset, config, splits = lm_eval_tasks.home(part)
    found, names = _listing(dataset, "main")
    try:
        builder = datasets.load_dataset_builder(dataset, config, revision=found.sha)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        found, names = _listing(dataset, CONVERTED)
        prefixes = {split: f"{config or 'default'}/{split}/" for split in splits}
        files = {split: [name for name in names if name.startswith(prefixes[split])] for split in splits}
    else:
        start = f"@{found.sha}/"
        patterns = {str(split): list(paths) for split, paths in (builder.config.data_files or {}).items()}
        files = {split: [path.partition(start)[2] for path in patterns.get(split, [])] for split in splits}
    if missing := [split for split in splits if not all(files[split]) or not files[split]]:
        raise UserError(f"{dataset} has no files of split {' and '.join(missing)}")
    return dataset, found, files


def _listing(dataset: str, revision: str) -> tuple[Any, list[str]]:
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(dataset, revision=revision, timeout=10)
    except Exception as error:
        source = HubSource(kind="hub", name="items", language="en", dataset=dataset, revision=revision)
        if why := explained(error, source):
            raise UserError(why) from None
        raise
    return found, sorted(file.rfilename for file in found.siblings or ())


def _content(dataset: str, commit: str, name: str) -> bytes:
    from huggingface_hub import HfFileSystem

    content: bytes = HfFileSystem().cat_file(f"datasets/{dataset}@{commit}/{name}")
    return content


def _language(table: Any) -> str:
    """Korean if every fifth letter of the first items is Hangul."""
    letters = [letter for text in _strings(table.slice(0, 100).to_pylist()) for letter in text if letter.isalpha()]
    return "ko" if 5 * sum("가" <= letter <= "힣" for letter in letters) > len(letters) else "en"


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
