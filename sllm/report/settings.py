"""How two experiments differ, as `a.b` and both values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

PLACES = ("name", "runs_directory", "data_directory", "wandb")
"""Settings that say where a run is kept and shown, not what it is."""


class Change(NamedTuple):
    key: str
    old: Any
    """None where it was not set."""
    new: Any


def changes(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[Change]:
    """What differs between two experiments as plain values (`Experiment.to_dict`), apart from PLACES. Lists are
    compared as a whole, but for those whose items have names (sources): these item by item."""
    found = []
    for name in [*new, *(name for name in old if name not in new)]:
        if not at and name in PLACES:
            continue
        key, before, after = f"{at}.{name}" if at else str(name), _by_name(old.get(name)), _by_name(new.get(name))
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += changes(before, after, key)
        elif before != after:
            found.append(Change(key, before, after))
    return found


def _by_name(value: Any) -> Any:
    """A list of named items as a mapping."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return {item["name"]: item for item in value}
    return value


def as_text(value: Any) -> str:
    """A setting that is set, for a person: of a source what it is, and not where its files are."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            told = {key: item for key, item in value.items() if item is not None and not isinstance(item, list | dict)}
            return ", ".join(f"{key}: {item}" for key, item in told.items())
        case list():
            return ", ".join(map(str, value)) or "[]"
        case _:
            return str(value)
