"""What lm-eval knows of a task outside our catalogue: where its items are, or of which tasks a group consists.

Its own index reads every YAML file that it has, for 13 s; to find a few names, looking for the lines that begin them
takes one.
"""

import difflib
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sllm.config.tasks import TASKS
from sllm.errors import UserError

_NAMED = re.compile(rb"^[\"']?(?:task|group)[\"']?:[ \t]*[\"']?([\w.+-]+)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)


def installed() -> bool:
    return importlib.util.find_spec("lm_eval") is not None


@cache
def files() -> dict[str, Path]:
    """The file of each task and group of lm-eval, by its name; none where it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return {}
    found: dict[str, Path] = {}
    for path in sorted(Path(spec.origin).with_name("tasks").rglob("*.y*ml")):
        for name in _NAMED.findall(path.read_bytes()):
            found.setdefault(name.decode(), path)
    return found


def check_tasks(names: Iterable[str]) -> None:
    """Raises UserError for names that neither the catalogue nor lm-eval knows, a line each, with close ones."""
    if unknown := [name for name in names if name not in TASKS and name not in files()]:
        raise UserError("\n".join(f"benchmark.tasks: {unknown_task(name, [*TASKS, *files()])}" for name in unknown))


def unknown_task(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(set(known)), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(TASKS)}"
    return f"no task {name!r}; {hint}" + ("" if installed() else "; others need lm-eval: pip install 'sllm[eval]'")


def settings(name: str, *, functions: bool = False) -> dict[str, Any]:
    """What lm-eval's file of a task says, with the files that it includes; its functions are loaded if they are to be
    called, which imports them."""
    from lm_eval.tasks._yaml_loader import load_yaml

    found: dict[str, Any] = load_yaml(files()[name], resolve_func=functions, recursive=True)
    return found


def members(name: str) -> list[str]:
    """The tasks of a group, those of groups in it too; of a task itself.

    Raises:
        UserError: it changes its tasks, or has tasks that are not files.
    """
    entry = settings(name)
    if "group" not in entry:
        return [name]
    parts = entry.get("task", [])
    if not all(isinstance(part, str) for part in parts):
        raise UserError(f"{name}: a group with settings of its own for its tasks; name the tasks themselves")
    names = [task for part in parts for task in ([part] if part in files() else _tagged(part))]
    return [task for member in names for task in members(member)]


def _tagged(tag: str) -> list[str]:
    """The tasks that have a tag."""
    candidates = [name for name, path in files().items() if tag.encode() in path.read_bytes()]
    entries = {name: settings(name) for name in candidates}
    return [name for name, entry in entries.items() if tag in _listed(entry.get("tag")) and "group" not in entry]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def home(name: str) -> tuple[str, str | None, list[str]]:
    """Dataset, configuration, and splits of a task: the one that is scored, then, if that is another, few-shot's.

    Raises:
        UserError: its items are made by code, or are not on the hub.
    """
    entry = settings(name)
    dataset = entry.get("dataset_path")
    if "class" in entry or entry.get("custom_dataset") or not dataset:
        raise UserError(f"{name}: its items are made by code of its own")
    if "/" not in dataset or entry.get("dataset_kwargs", {}).get("data_files"):
        raise UserError(f"{name}: its items are no dataset of the hub ({dataset})")
    scored = entry.get("test_split") or entry.get("validation_split")
    fewshot = (entry.get("fewshot_config") or {}).get("split") or entry.get("fewshot_split")
    fewshot = fewshot or entry.get("training_split") or entry.get("validation_split") or scored
    if not scored:
        raise UserError(f"{name}: it has no split that is scored")
    return dataset, entry.get("dataset_name"), list(dict.fromkeys([scored, fewshot]))
