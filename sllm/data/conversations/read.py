"""The conversations of a source, as the download stage takes them: one text each, the JSON of its messages
(`sllm.data.conversations.line`). A row that is none is the JSON of the row, which the cleaning counts.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from sllm.config import AihubSource, EmbeddedSource, FilesSource
from sllm.data.conversations.layouts import columns_of, messages_of, unknown
from sllm.data.conversations.line import to_line
from sllm.data.sources import parquet_rows, read_dialogues, read_rows
from sllm.errors import UserError
from sllm.files import fingerprint
from sllm.tokenizer.template import ASSISTANT, USER, Message

EXAMPLE = '{"messages": […]}'


def read_conversations(
    source: EmbeddedSource | FilesSource | AihubSource, seed: int, files: Sequence[str], start: int
) -> Iterator[str]:
    """The conversations of a source, in the order of its `files`, from number `start` on.

    Raises:
        UserError: a file is missing, unreadable or damaged, or no layout of conversations is known that it has.
    """
    texts: Iterator[str]
    if isinstance(source, EmbeddedSource):
        from sllm.data.embedded.questions import conversations

        made = conversations(source.language, source.megabytes, int(fingerprint([seed, source.name]), 16))
        texts = map(to_line, made)
    elif isinstance(source, FilesSource):
        texts = chain.from_iterable(_of_file(Path(file)) for file in files)
    else:
        texts = (to_line(_by_turns(said)) for file in files for said in read_dialogues(Path(file)))
    return islice(texts, start, None)


def parquet_conversations(file: Any, where: str, start: int) -> Iterator[str | None]:
    """Those of an open parquet file from row `start` on: see `sllm.data.sources.parquet_rows`."""
    for row in parquet_rows(file, where, start, _columns):
        yield None if row is None else _line(row)


def _of_file(path: Path) -> Iterator[str]:
    if path.name.lower().endswith(".txt"):
        raise UserError(f"{path}: text, not conversations; valid are .jsonl, .jsonl.zst, .parquet")
    for number, (where, row) in enumerate(read_rows(path, _columns, EXAMPLE)):
        if number == 0:
            _columns(where, list(row))
        yield _line(row)


def _columns(where: str, names: Sequence[str]) -> Sequence[str]:
    found = columns_of(names)
    if not found:
        raise unknown(where, names)
    return found


def _line(row: dict[str, Any]) -> str:
    messages = messages_of(row)
    return json.dumps(row, ensure_ascii=False, default=str) if messages is None else to_line(messages)


def _by_turns(said: list[tuple[str, str]]) -> list[Message]:
    """Whoever speaks first asks, the other answers. Among one or three there is no such role: their names stay."""
    speakers = list(dict.fromkeys(speaker for speaker, _ in said))
    roles = dict(zip(speakers, (USER, ASSISTANT), strict=True)) if len(speakers) == 2 else {}
    turns = [(speaker, "\n".join(text for _, text in turn)) for speaker, turn in groupby(said, key=itemgetter(0))]
    return [{"role": roles.get(speaker, speaker), "content": text} for speaker, text in turns]
