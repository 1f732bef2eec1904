"""How an error of a configuration reads: everything wrong at once, a line each: place, key, value and what would be
valid."""

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sllm.config.section import NAME_PATTERN, CombinationError, all_keys, below, fields, is_section
from sllm.config.sources import DATASET_PATTERN, SOURCES
from sllm.errors import UserError

M = TypeVar("M", bound=BaseModel)

Key = tuple[str, ...]
Origins = dict[Key, str]
"""Where the values below a key stand. The longest key that fits is the right one."""

COMMAND_LINE = " (command line)"


def validate(model: type[M], values: Any, origins: str | Origins) -> M:
    """`values` as `model`. `origins`: the file they stand in, or a file for each part.

    Raises:
        UserError: every problem, one a line, each with key, value and what is valid.
    """
    origins = {(): origins} if isinstance(origins, str) else origins
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = list(_problems(model, error.errors(include_url=False)))
        problems += _hidden_problems(model, values, error.errors(include_url=False))
        raise UserError("\n".join(dict.fromkeys(printable(_line(problem, origins)) for problem in problems))) from None


class _Problem(NamedTuple):
    key: Key
    text: str


def printable(text: str) -> str:
    """On one line, and no command to the terminal."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def shortened(text: str) -> str:
    text = printable(text)
    return text if len(text) <= 60 else text[:57] + "…"


def place_of(key: Key, origins: Mapping[Key, str]) -> str:
    """Where a key stands, and its name unless the place is an override of just this key."""
    longest = max((prefix for prefix in origins if key[: len(prefix)] == prefix), key=len)
    origin, dotted = origins[longest], ".".join(key)
    return origin if not key or origin.startswith(f"{dotted}=") else f"{origin}: {dotted}"


def _line(problem: _Problem, origins: Mapping[Key, str]) -> str:
    """Names the overrides, too, that set what else the problem speaks of."""
    key, text = problem
    named = () if text.startswith("unknown key") else re.findall(r"\w+", text)  # which lists what is valid instead
    others = [
        origin.removesuffix(COMMAND_LINE)
        for other, origin in origins.items()
        if origin.endswith(COMMAND_LINE)
        and other != key
        and other[-1] in named
        and (other[:-1] == key[:-1] or ".".join(other) in text or other[:-1] == key)
    ]
    return f"{place_of(key, origins)}: {text}" + (f" (command line: {', '.join(others)})" if others else "")


def _problems(model: type[BaseModel], errors: list[ErrorDetails]) -> Iterator[_Problem]:
    for error in errors:
        inside = any(other["loc"][: len(error["loc"])] == error["loc"] for other in errors if other is not error)
        if error["type"] == "too_short" and inside:
            continue  # its items are wrong, and pydantic has none left
        (key, _), given, kind = _locate(model, error["loc"]), error["input"], error["type"]
        if kind == "extra_forbidden":
            valid = _fields_at(model, error["loc"][:-1])
            anchors = "; a key that begins with x- may hold it" if len(key) == 1 and isinstance(given, dict) else ""
            yield _Problem(key, f"unknown key; {_suggestion(model, key, valid)}valid: {', '.join(valid)}{anchors}")
        elif kind == "missing":
            yield _Problem(key, "missing; it must be set")
        elif _is_combination(error):
            for line in str(error["ctx"]["error"]).split("\n"):
                name, _, text = line.partition(": ")
                yield _Problem((*key, *name.split(".")), text)
        elif kind == "value_error":
            yield _Problem(key, f"{_shown(given)}; {error['ctx']['error']}")
        elif kind in ("union_tag_not_found", "union_tag_invalid"):
            got = _shown(given["kind"]) if isinstance(given, dict) and "kind" in given else "missing"
            yield _Problem((*key, "kind"), f"{got}; valid: {', '.join(SOURCES)}")
        else:
            yield _Problem(key, f"{_shown(given)}; {_requirement(error)}")


def _hidden_problems(model: type[BaseModel], values: Any, errors: list[ErrorDetails]) -> Iterator[_Problem]:
    """Combinations that cannot work, in sections where pydantic did not look because some value there was wrong.

    Found by leaving the wrong values out; a combination that one of them is part of is not judged.
    """
    values = copy.deepcopy(values)
    wrong = set()
    for error in errors:
        key, _ = _locate(model, error["loc"])
        if key and error["type"] != "missing" and not _is_combination(error):
            parent = values
            for part in key[:-1]:
                parent = parent[int(part)] if isinstance(parent, list) else (parent or {}).get(part)
            if isinstance(parent, dict):
                parent.pop(key[-1], None)
                wrong.add(key[-1])
    try:
        model.model_validate(values)
    except ValidationError as second:
        combinations = [error for error in second.errors(include_url=False) if error["type"] == "value_error"]
        for problem in _problems(model, combinations):
            if not wrong & {*problem.key, *re.findall(r"\w+", problem.text)}:
                yield problem


def _is_combination(error: ErrorDetails) -> bool:
    return error["type"] == "value_error" and isinstance(error["ctx"]["error"], CombinationError)


def _shown(given: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[given] if given is None or isinstance(given, bool) else shortened(repr(given))


PATTERNS = {
    NAME_PATTERN: "use letters, digits, '.', '_' and '-', with a letter or digit first",
    DATASET_PATTERN: "a dataset of the hub is written owner/name",
}
REQUIREMENTS = {
    "string_type": "input should be text",
    "tuple_type": "input should be a list",
    "too_short": "at least one item",
    "dict_type": "input should be a section of keys",
    "model_type": "input should be a section of keys",
    "model_attributes_type": "input should be a section of keys",
    "bool_type": "input should be true or false",
}


def _requirement(error: ErrorDetails) -> str:
    kind, given = error["type"], error["input"]
    if kind == "string_pattern_mismatch" and error["ctx"]["pattern"] in PATTERNS:
        return PATTERNS[error["ctx"]["pattern"]]
    requirement = REQUIREMENTS.get(kind, error["msg"][0].lower() + error["msg"][1:])
    hint = ""
    if kind == "string_type" and isinstance(given, int | float):
        hint = "; put it in quotes"
    elif kind == "tuple_type" and isinstance(given, str):
        hint = f"; write [{shortened(given)}]"
    elif kind == "int_type" and isinstance(given, float) and given.is_integer():
        hint = f"; write {given:.0f}"
    elif kind in ("int_type", "float_type") and isinstance(given, str):
        digits = re.sub(r"^([-+]?)0+(?=[0-9])|[,_ ]", r"\1", given)
        if re.fullmatch(r"[-+]?[0-9]+", digits):
            hint = f"; write {digits}"
        elif re.fullmatch(r"[0-9]+(:[0-9]+)+", given):
            hint = "; write one number, without colons"
    return requirement + hint


def _suggestion(model: type[BaseModel], key: Key, valid: list[str]) -> str:
    """`did you mean …? `, of the keys that are valid there, and of those elsewhere that have just this name."""
    *parents, name = key
    others = [known for known in dict.fromkeys(all_keys(model)) if known.split(".")[:-1] != parents]
    # What it has of its own is called as elsewhere.
    elsewhere = [known for known in others if not known.startswith("finetune.") or "finetune" in parents]
    leaves = {known: known.split(".")[-1] for known in elsewhere}
    near = difflib.get_close_matches(name, valid, n=1) or [known for known in valid if name in known.split("_")][:1]
    near += [known for known in elsewhere if leaves[known] == name][:2]
    near = near or [known for known in elsewhere if name in leaves[known].split("_")][:2]
    near = near or [k for k in elsewhere if leaves[k] in difflib.get_close_matches(name, leaves.values(), 1, 0.85)][:2]
    return f"did you mean {' or '.join(near)}? " if near else ""


def _locate(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[Key, list[Any]]:
    """A location of pydantic's as the key that the user knows, and the types of what may stand there."""
    key: list[str] = []
    here: list[Any] = [model]
    for part in location:
        if len([kind for kind in here if is_section(kind)]) > 1:  # the location names the kind; no key does
            here = [SOURCES[str(part)]]
        elif part != "[key]":
            key.append(str(part))
            here = [inner for kind in here for inner in below(kind, part)]
    return tuple(key), here


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid at `location` inside `model`."""
    return [key for kind in _locate(model, location)[1] if is_section(kind) for key in fields(kind)]
