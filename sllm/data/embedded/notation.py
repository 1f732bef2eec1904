"""How the words, phrases and frames of a language are written down: plain text, blocks with a blank line between them,
each with a header; lines that begin with # are for the reader.

Frames and phrases leave grammar open as marks, which the language settles for the words that were drawn and for the
style (한다, 해요, 합니다) or tense that the narrator keeps outside quotations.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

Row = dict[str, str]
"""Words that go together, by the names of their holes."""

Settle = Callable[[str, str], str]
"""Resolves the grammar marks of a text in a style."""


class Hole(str):
    """The name of a phrase or of a cast entry."""


Parts = list["str | Hole | list[Parts]"]
"""Literal text, holes, and lists of alternatives, in their order."""


class Line(NamedTuple):
    separator: str
    optional: bool
    parts: Parts


Frame = dict[str, list[Line]]
"""The lines of a frame under each style, or tense, that suits it."""


def read_tables(file: str) -> dict[str, list[Row]]:
    """Tables, each under all of its keys: in the header `key | key:`, then rows, ` / ` or a line end between them."""
    tables: dict[str, list[Row]] = {}
    for header, lines in _blocks(file):
        keys = header.removesuffix(":").split(" | ")
        rows = [re.split(r" ?\| ?", row) for row in re.split(r"\n| / ", lines)]
        table = [dict(zip(keys, row, strict=True)) for row in rows]
        tables |= dict.fromkeys(keys, table)
    return tables


def read_phrases(file: str, settle: Settle, style: str) -> dict[str, list[Parts]]:
    """The phrases under each name `name:`, one a line."""
    return {
        header.removesuffix(":"): [_parse(line) for line in settle(lines, style).split("\n")]
        for header, lines in _blocks(file)
    }


def read_frames(file: str, settle: Settle) -> list[Frame]:
    """Frames under headers `genre: style style`.

    Marks on fixed words are settled here, once for each style; the others wait for the words they go with.
    """
    return [
        {style: [_line(line) for line in settle(lines, style).split("\n")] for style in header.split(": ")[1].split()}
        for header, lines in _blocks(file)
    ]


class Question(NamedTuple):
    ways: list[Parts]
    """To ask it."""
    answer: Parts


class Topic(NamedTuple):
    """What is asked together, about one cast."""

    times: int
    """How often it is to be asked beside others."""
    questions: list[Question]


def read_topics(file: str, settle: Settle, style: str) -> dict[str, Topic]:
    """Topics under headers `name: times`. A line `= …` is the answer to those above it, which are ways to ask it."""
    topics = {}
    for header, lines in _blocks(file):
        name, times = header.split(": ")
        topic, asked = Topic(int(times), []), list[Parts]()
        for line in settle(lines, style).split("\n"):
            mark, _, sentence = line.partition(" ")
            if mark == "=":
                topic.questions.append(Question(asked, _parse(sentence)))
                asked = []
            else:
                asked.append(_parse(line))
        assert not asked, f"{file}: {name} ends with a question"
        topics[name] = topic
    return topics


def _blocks(file: str) -> Iterator[tuple[str, str]]:
    """The header and the lines below it of each block of a file beside this one."""
    text = re.sub(r"^#.*\n", "", (Path(__file__).parent / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    for block in text.strip().split("\n\n"):
        header, _, lines = block.partition("\n")
        yield header, lines


def _line(text: str) -> Line:
    sentence = text.lstrip(">?")
    marks = text.removesuffix(sentence)
    return Line("\n" if ">" in marks else " ", "?" in marks, _parse(sentence))


def _parse(text: str) -> Parts:
    stack: list[list[Parts]] = [[[]]]
    for token in re.findall(r"[(|)]|\{\w+\}|[^(|){}]+", text):
        if token == "(":
            stack.append([[]])
        elif token == "|":
            stack[-1].append([])
        elif token == ")":
            choice = stack.pop()
            stack[-1][-1].append(choice)
        else:
            stack[-1][-1].append(Hole(token[1:-1]) if token[0] == "{" else token)
    ((parts,),) = stack
    return parts
