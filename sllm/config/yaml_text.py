"""YAML as its writer means it: plain values from text, and text from plain values.

YAML 1.1, which PyYAML speaks, reads `010` as 8, `2:00:00` as 7200, `on` as true and `2026-01-01` as no text, and takes
`3e-4` for text. Here a number looks like one, only `true` and `false` are booleans, and all else is text.
"""

import contextlib
import difflib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from sllm.errors import UserError

MOST_VALUES = 1_000_000
"""In one file, each alias counted with all that it stands for."""

_TAG = "tag:yaml.org,2002:"
_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # as PyYAML counts them


def load_yaml(path: Path) -> Any:
    """Parse YAML into plain values; nothing in the file can be executed. Keys at the top that begin with `x-` are left
    out: they hold what `<<: *name` merges. Raises UserError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = similar_file(path)
        raise UserError(f"{path}: no such file" + (f"; did you mean {near}?" if near else "")) from None
    except IsADirectoryError:
        names = ", ".join(sorted(file.name for file in path.glob("*.yaml")))
        raise UserError(f"{path}: a folder" + (f"; name a file in it: {names}" if names else "")) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not valid UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    values = parse_yaml(text, str(path))
    return {key: values[key] for key in values if not key.startswith("x-")} if isinstance(values, dict) else values


def similar_file(path: Path) -> Path | None:
    """A file that is there, with a path that one could have meant by this one."""
    here = Path(path.anchor)
    with contextlib.suppress(OSError):
        for part in path.parts[1:] if path.anchor else path.parts:
            if not (here / part).exists():
                entries = [entry for entry in here.iterdir() if entry.is_dir() or entry.suffix in ("", ".yaml", ".yml")]
                names = difflib.get_close_matches(part, [entry.name for entry in entries], n=1)
                part = names[0] if names else part
            here /= part
        return here if here.is_file() else None
    return None


def parse_yaml(text: str, where: str, *, lines: bool = True) -> Any:
    """Dicts with text for keys, lists, text, numbers, booleans and None; no two of them are the same object.

    Raises:
        UserError: it cannot be read; the message begins with `where` and, with `lines`, the number of the line.
    """

    def error(line: int, problem: str) -> UserError:
        return UserError(f"{where}{f':{line + 1}' if lines else ''}: not valid YAML: {problem}")

    try:
        return _unshared(_Loader(text).get_single_data(), itertools.count(1))
    except yaml.reader.ReaderError as cause:
        sign = f"U+{ord(text[cause.position]):04X}"
        raise error(text[: cause.position].count("\n"), f"the character {sign} is not allowed; remove it") from None
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        line = mark.line if mark else 0
        raise error(line, _explained(cause, _LINE_END.split(text)[line])) from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply, or an alias (*name) stands inside what it names") from None


def dump_yaml(values: Any) -> str:
    """The text that `parse_yaml`, and any other reader of YAML, reads as these values."""
    return yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False)


def _unshared(value: Any, count: Iterator[int]) -> Any:
    """A copy in which each alias has become a value of its own: a change of one is no change of the other."""
    if next(count) > MOST_VALUES:
        raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES:,} values, counting what aliases (*name) repeat")
    if isinstance(value, dict):
        return {key: _unshared(item, count) for key, item in value.items()}
    if isinstance(value, list):
        return [_unshared(item, count) for item in value]
    return value


def _explained(error: yaml.MarkedYAMLError, line: str) -> str:
    problem = " ".join(str(error.problem or error).split())
    if "another document" in problem:
        return "a second document begins here (---); keep one"
    if "{{" in line:
        return f"{problem}; fill in the template {{{{ … }}}} first, or put the text in quotes"
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces"
    if any(words in problem for words in ("cannot start any token", "mapping values", "alphabetic or", "undefined")):
        return f"{problem}; put text with signs (: * & @ % …) in quotes"
    return problem


class _Loader(yaml.SafeLoader):
    """Keys are text, whatever they look like, and none stands twice; `<<` merges."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._whole: set[int] = set()

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key is a word, not a list or a mapping", key)
            if key.value in seen:
                raise _error(f"the key {key.value!r} stands twice", key)
            seen.add(key.value)
            if key.tag == f"{_TAG}merge":
                for mapping in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(mapping, yaml.MappingNode) or id(mapping) not in self._whole:
                        raise _error("<< merges a mapping, or a list of them: `<<: *name` with `&name` above", mapping)
                    merged = {item[0].value: item for item in mapping.value} | merged
            else:
                own[key.value] = yaml.ScalarNode(f"{_TAG}str", key.value, key.start_mark, key.end_mark), value
        node.value = list((merged | own).values())
        self._whole.add(id(node))
        return node


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _scalar(read: Callable[[str], Any], what: str) -> Callable[[_Loader, Any], Any]:
    def construct(loader: _Loader, node: Any) -> Any:
        text = str(loader.construct_scalar(node))
        try:
            return read(text)
        except (ValueError, KeyError):  # a ValueError of int() also for more digits than it reads
            shown = repr(text) if len(text) <= 40 else f"{text[:20]}… ({len(text):,} characters)"
            raise _error(f"{shown} is not {what}", node) from None

    return construct


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError
    # A UnicodeEncodeError is a ValueError. "\\ud800" is half of a character; "\\udcff" is the byte of a file name.
    text.encode("utf-8", "surrogateescape")
    return text


def _refuse(loader: _Loader, node: yaml.Node) -> None:
    raise _error(f"the tag {node.tag.replace(_TAG, '!!')!r} has no meaning here; remove it", node)


_Loader.yaml_constructors = {
    f"{_TAG}null": _scalar(lambda text: None, "null"),
    f"{_TAG}bool": _scalar(lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    f"{_TAG}int": _scalar(lambda text: int(text, 0), "an integer that can be read"),
    f"{_TAG}float": _scalar(_float, "a number that can be read"),
    f"{_TAG}str": _scalar(_text, "text that a file can hold"),
    f"{_TAG}merge": _scalar(_text, "text"),
    f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{_TAG}map": yaml.SafeLoader.construct_yaml_map,
    None: _refuse,
}

_DIGITS = r"[0-9](?:_?[0-9])*"
_WHOLE = r"(?:0|[1-9](?:_?[0-9])*)"
_PLAIN = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", rf"^[-+]?(?:{_WHOLE}|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)$", list("-+0123456789")),
    (
        "float",
        rf"^[-+]?(?:(?:{_DIGITS})?\.{_DIGITS}|{_WHOLE}\.)(?:[eE][-+]?[0-9]+)?$|^[-+]?{_WHOLE}[eE][-+]?[0-9]+$"
        r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
        list("-+.0123456789"),
    ),
    ("merge", r"^<<$", ["<"]),
)


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what either reader would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        odd_line_ends = any(character in data for character in "\x85\u2028\u2029")  # PyYAML breaks lines at them
        return self.represent_scalar(f"{_TAG}str", data, style='"' if odd_line_ends else None)


_Dumper.add_representer(str, _Dumper.represent_str)


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(f"{_TAG}{_name}", re.compile(_pattern), _first)
