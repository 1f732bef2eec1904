"""Markdown by construction: what comes from files is text, and text becomes neither markup nor YAML."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

# Characters without a picture, and those that turn round the text after them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]+"
)

# What may begin something in CommonMark, in a table or in the hub's formulas; the rest would only read worse.
_SIGNS = re.compile(r"[\\`*_\[\]<>|#~!&$@{}]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def plain(text: object) -> str:
    """Any text in one line of a paragraph or in a cell of a table.

    >>> plain("a | <b>\\n[c](http://d)")
    'a \\\\| \\\\<b\\\\> \\\\[c\\\\](http\\\\://d)'
    """
    return _SIGNS.sub(r"\\\g<0>", _UNSEEN.sub(" ", str(text))).strip()


def code(text: object) -> str:
    """Any text in one line, as it is typed. Not for tables, where a | ends the cell."""
    line = _UNSEEN.sub(" ", str(text)).strip()
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def block(language: str, text: str) -> str:
    """Lines as they are typed."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], numbers: int) -> str:
    """Cells are plain text; the last so many columns are numbers."""
    marks = ["---"] * (len(headings) - numbers) + ["---:"] * numbers
    lines = [list(map(plain, headings)), marks, *(list(map(plain, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def front_matter(values: dict[str, Any]) -> str:
    """YAML between two lines of hyphens, as the hub reads it."""
    text = yaml.safe_dump(_seen(values), allow_unicode=True, sort_keys=False, width=120)
    return f"---\n{text}---"


def _seen(value: Any) -> Any:
    """YAML's programs do not agree on characters without a picture."""
    if isinstance(value, str):
        return _UNSEEN.sub(" ", value)
    if isinstance(value, dict):
        return {key: _seen(item) for key, item in value.items()}
    return [_seen(item) for item in value] if isinstance(value, list) else value
