"""Where documents come from: the reader of each source kind and file format.

A reader is an iterator of raw texts that holds one document at a time; what is wrong with a file is a UserError that
names the file and the line.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sllm.config import AihubSource, EmbeddedSource, FilesSource
from sllm.data.find import local_files
from sllm.data.formats import HEAD, is_parquet, is_zstd, looks_like_cp949, not_binary, not_text, other_format, read_head
from sllm.errors import UserError
from sllm.files import fingerprint
from sllm.records import read_zstd_lines

PARQUET_ROWS = 256
"""Rows decoded at a time: few, because one row may be a whole book."""
PARQUET_BUFFER = 1 << 20

Columns = Callable[[str, Sequence[str]], Sequence[str]]
"""Of a place for a person, and the columns that a parquet file has, those to read. Raises UserError if they will not
do."""

_LINES = "`jq -c '.[]'` writes the items of a list so, `jq -c .` an object"


def read_documents(
    source: EmbeddedSource | FilesSource | AihubSource, seed: int, files: list[str] | None = None, start: int = 0
) -> Iterator[str]:
    """The raw texts of a source, in the order of its files, or of those of its `files`; from text number `start` on.

    Raises:
        UserError: a file is missing, unreadable or damaged, or lacks the text field.
    """
    if isinstance(source, EmbeddedSource):
        from sllm.data.embedded.generator import documents

        # The name is part of the seed, or two embedded sources of one language would write the same texts.
        texts = documents(source.language, source.megabytes, int(fingerprint([seed, source.name]), 16))
    elif files is None:
        return read_documents(source, seed, [str(file) for file in local_files(source)], start)
    elif isinstance(source, FilesSource):
        texts = chain.from_iterable(read_file(Path(file), source.text_field) for file in files)
    else:
        texts = chain.from_iterable(read_conversations(Path(file)) for file in files)
    return islice(texts, start, None)


def read_conversations(path: Path) -> Iterator[str]:
    """The conversations of one .json file of AI Hub, each a text with one utterance a line, `A: …`."""
    for turns in read_dialogues(path):
        names: dict[str, str] = {}
        lines = [f"{names.setdefault(who, chr(ord('A') + len(names) % 26))}: {utterance}" for who, utterance in turns]
        yield "\n".join(lines)


def read_dialogues(path: Path) -> Iterator[list[tuple[str, str]]]:
    """The conversations of one .json file of AI Hub, each a list of who speaks and what is said.

    Three layouts: everyday conversations by topic (info → annotations → lines → norm_text), conversations in
    messengers (data → body → utterance), conversations over several sessions (sessionInfo → dialog → utterance). An
    utterance that is null or blank (a picture, say) is none; a conversation without any is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    if found := other_format(content[:HEAD]):
        raise UserError(f"{path} {found}")
    try:
        value = _parse(_decode(content, path, 1).removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}; unpack the set again") from None
    except RecursionError:
        raise UserError(f"{path}: not a conversation set: JSON nested too deeply; take it out of the folder") from None
    layouts = {"info": _by_topic, "data": _in_messenger, "sessionInfo": _in_sessions}
    present = [name for name in layouts if isinstance(value, dict) and isinstance(value.get(name), list)]
    if not present:
        raise UserError(_not_known(path, "list info, data or sessionInfo"))
    for layout in present:  # one, as a rule; another may be there and empty
        for number, item in enumerate(value[layout], 1):
            try:
                turns = layouts[layout](item)
            except (KeyError, TypeError, AttributeError):
                raise UserError(_not_known(f"{path}: {layout} {number}", "list of turns with a text each")) from None
            yield _said(turns, f"{path}: {layout} {number}")


def _by_topic(item: Any) -> list[tuple[Any, Any]]:
    lines = item["annotations"]["lines"] or []
    return [((line.get("speaker") or {}).get("id"), line["norm_text"]) for line in lines]


def _in_messenger(item: Any) -> list[tuple[Any, Any]]:
    return [(turn.get("participantID"), turn["utterance"]) for turn in item["body"] or []]


def _in_sessions(item: Any) -> list[tuple[Any, Any]]:
    return [(turn.get("speaker"), turn["utterance"]) for turn in item["dialog"] or []]


def _not_known(where: Path | str, missing: str) -> str:
    return (
        f"{where}: not a conversation set of AI Hub as known here (info → annotations → lines, data → body, or "
        f"sessionInfo → dialog): no {missing}; take it out of the folder, or make it a .jsonl file for a source of "
        f"kind files"
    )


def _said(turns: list[tuple[Any, Any]], where: str) -> list[tuple[str, str]]:
    said = []
    for number, (speaker, utterance) in enumerate(turns, 1):
        if utterance is None or (isinstance(utterance, str) and not utterance.strip()):
            continue
        if not isinstance(utterance, str):
            raise UserError(
                f"{where}: turn {number} holds a value of type {type(utterance).__name__}, not text; correct it"
            )
        said.append((str(speaker), utterance))
    return said


def read_file(path: Path, text_field: str) -> Iterator[str]:
    """The raw texts of one file; the format is taken from its name. A text that is null is an empty document."""
    if path.name.lower().endswith((".parquet", ".jsonl.zst", ".jsonl")):
        such = f'{{"{text_field}": …}}'
        for where, row in read_rows(path, partial(_text_column, text_field), such):
            if text_field not in row:
                raise UserError(_no_field(where, text_field, row))
            yield _text(row[text_field], where, text_field)
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    if found := not_text(content[:HEAD]):
        raise UserError(f"{path} {found}")
    yield _decode(content, path, 1)


def read_rows(path: Path, columns: Columns, such: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a .parquet, .jsonl.zst or .jsonl file, each with its place for a person; of parquet some columns.
    What a line should look like is told by `such` an example."""
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _local_parquet_rows(path, columns)
        elif name.endswith(".jsonl.zst"):
            if not is_zstd(read_head(path)):
                raise UserError(f"{path} {not_binary(path, 'zstd')}")
            yield from _json_rows(path, read_zstd_lines(path), such)
        else:
            with path.open("rb") as file:
                yield from _json_rows(path, file, such)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def _json_rows(path: Path, lines: Iterable[bytes], such: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if number == 1:
            if found := other_format(line[:HEAD]):
                raise UserError(f"{path} {found}")
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = _parse(_decode(line, path, number))
        except json.JSONDecodeError as error:
            if number == 1 and line.strip() in (b"[", b"{"):
                raise UserError(f"{path} is one JSON value over many lines, not a document a line; {_LINES}") from None
            raise UserError(f"{where}: not valid JSON: {error.msg} at column {error.colno}; correct the line") from None
        except RecursionError:
            raise UserError(f"{where}: not a document: JSON nested too deeply; correct the line") from None
        if not isinstance(record, dict):
            found = "null" if record is None else f"a {type(record).__name__}"
            raise UserError(f"{where}: {found}, not an object such as {such}")
        yield where, record


def _parse(text: str) -> Any:
    """The JSON value, whatever the length of its numbers: Python refuses integers of more than 4,300 digits."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=float)


def parquet_texts(file: Any, where: str, start: int, text_field: str) -> Iterator[str | None]:
    """The texts of an open parquet file from row `start` on: see `parquet_rows`."""
    rows = parquet_rows(file, where, start, partial(_text_column, text_field))
    for number, row in enumerate(rows, start + 1):
        yield None if row is None else _text(row[text_field], f"{where}: row {number}", text_field)


def parquet_rows(file: Any, where: str, start: int, columns: Columns) -> Iterator[dict[str, Any] | None]:
    """Some columns of an open parquet file from row `start` on, in memory for a few rows; None for a row that is not
    valid UTF-8. Raises Arrow's own errors if the file is damaged."""
    import pyarrow.parquet

    # With a buffer a column is read page by page: a row group may be half a gigabyte of books. By default Arrow reads
    # ahead instead, and the buffer counts for nothing.
    with pyarrow.parquet.ParquetFile(file, buffer_size=PARQUET_BUFFER, pre_buffer=False) as parquet:
        names = list(columns(where, parquet.schema_arrow.names))
        row = group = 0
        while group < parquet.num_row_groups and row + parquet.metadata.row_group(group).num_rows <= start:
            row += parquet.metadata.row_group(group).num_rows
            group += 1
        groups = range(group, parquet.num_row_groups)
        for batch in parquet.iter_batches(PARQUET_ROWS, row_groups=groups, columns=names):
            for values in zip(*(batch.column(name) for name in names), strict=True):
                row += 1
                if row <= start:
                    continue
                try:
                    found = {name: value.as_py() for name, value in zip(names, values, strict=True)}
                except UnicodeDecodeError:
                    found = None
                yield found


def _local_parquet_rows(path: Path, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow

    try:
        for number, row in enumerate(parquet_rows(path, str(path), 0, columns), 1):
            if row is None:
                raise UserError(f"{path}: row {number}: not valid UTF-8; write the file again")
            yield f"{path}: row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        if not is_parquet(read_head(path)):
            raise UserError(f"{path} {not_binary(path, 'parquet')}") from None
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged, or cut off ({reason}); fetch it again") from None


def _text_column(text_field: str, where: str, columns: Sequence[str]) -> Sequence[str]:
    if text_field not in columns:
        raise UserError(_no_field(where, text_field, columns))
    return [text_field]


def _decode(content: bytes, path: Path, first_line: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = first_line + content[: error.start].count(b"\n")
        line = content[content.rfind(b"\n", 0, error.start) + 1 :].partition(b"\n")[0]
        way = "it reads as CP949: iconv -f CP949 -t UTF-8" if looks_like_cp949(line) else "iconv does it"
        raise UserError(
            f"{path}:{number}: not valid UTF-8 (byte 0x{content[error.start]:02x}); convert the file; {way}"
        ) from None


def _no_field(where: str, text_field: str, fields: Iterable[str]) -> str:
    way = "set text_field (of a source, or --text-field) to one that is there"
    return f"{where}: no field {text_field!r}; {way}: {', '.join(fields)}"


def _text(value: Any, where: str, text_field: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"{where}: {text_field!r} holds a value of type {type(value).__name__}, not text; "
            f"set text_field (of a source, or --text-field) to another one"
        )
    return value
