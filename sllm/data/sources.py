"""Where documents come from: the reader of each source kind and file format.

A reader is an iterator of raw texts that holds one document at a time; what is wrong with a file is a UserError that
names the file and the line.
"""

import codecs
import glob
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sllm.config import AihubSource, EmbeddedSource, FilesSource
from sllm.errors import UserError
from sllm.files import fingerprint, read_zstd_lines

SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".parquet")

PARQUET_ROWS = 256
"""Rows decoded at a time: few, because one row may be a whole book."""
PARQUET_BUFFER = 1 << 20


def matching_files(source: FilesSource) -> list[Path]:
    """The files that the source's patterns name, sorted, each once.

    Raises:
        UserError: a pattern matches no file, or a file whose format is not supported.
    """
    files: set[Path] = set()
    for pattern in source.paths:
        # A name that exists is that file, even if it has brackets in it. Path.glob takes no absolute patterns.
        names = [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)  # noqa: PTH207
        found = [path for path in map(Path, names) if path.is_file()]
        if not found:
            hint = (
                f"it is a folder: write {pattern}/*.jsonl.zst, say" if Path(pattern).is_dir() else "correct its paths"
            )
            raise UserError(f"data.sources: {source.name}: no file matches {pattern}; {hint}")
        for path in found:
            if not path.name.endswith(SUFFIXES):
                raise UserError(f"data.sources: {source.name}: {path} cannot be read; valid are {', '.join(SUFFIXES)}")
        files.update(found)
    return sorted(files)


def aihub_files(source: AihubSource) -> list[Path]:
    """The .json files of the unpacked sets, sorted.

    Raises:
        UserError: there are none; the message says where to get them.
    """
    files = sorted(Path(source.folder).rglob("*.json"))
    if not files:
        raise UserError(
            f"data.sources: {source.name}: no .json file in {source.folder}; with an account of https://aihub.or.kr "
            f"get 주제별 텍스트 일상 대화 데이터 (dataSetSn=543) or another set of conversations and unpack it there, "
            f"or set optional: true to go on without it"
        )
    return files


def local_files(source: FilesSource | AihubSource) -> list[Path]:
    return matching_files(source) if isinstance(source, FilesSource) else aihub_files(source)


def read_documents(
    source: EmbeddedSource | FilesSource | AihubSource, seed: int, files: list[str] | None = None, start: int = 0
) -> Iterator[str]:
    """The raw texts of a source, in the order of its files, or of those of its `files`; from text number `start` on.

    Raises:
        UserError: a file is missing, unreadable or damaged, or lacks the text field.
    """
    if isinstance(source, EmbeddedSource):
        from sllm.data.embedded import documents

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
    """The conversations of one .json file of AI Hub, each a text with one utterance a line, `A: …`.

    Three layouts: everyday conversations by topic (info → annotations → lines → norm_text), conversations in
    messengers (data → body → utterance), conversations over several sessions (sessionInfo → dialog → utterance).
    """
    try:
        content = json.loads(_decode(path.read_bytes(), path, 1).removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}; unpack the set again") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    try:
        if "info" in content:
            for item in content["info"]:
                lines = item["annotations"]["lines"]
                yield _conversation([(line.get("speaker", {}).get("id"), line["norm_text"]) for line in lines])
        elif "data" in content:
            for item in content["data"]:
                yield _conversation([(turn.get("participantID"), turn["utterance"]) for turn in item["body"]])
        else:
            for session in content["sessionInfo"]:
                yield _conversation([(turn.get("speaker"), turn["utterance"]) for turn in session["dialog"]])
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: not a conversation set of AI Hub as known here (info → annotations → lines, data → body, or "
            f"sessionInfo → dialog); take it out of the folder, or make it a .jsonl file for a source of kind files"
        ) from None


def _conversation(turns: list[tuple[Any, str]]) -> str:
    names: dict[Any, str] = {}
    for speaker, _ in turns:
        names.setdefault(speaker, chr(ord("A") + len(names) % 26))
    return "\n".join(f"{names[speaker]}: {utterance}" for speaker, utterance in turns)


def read_file(path: Path, text_field: str) -> Iterator[str]:
    """The raw texts of one file; the format is taken from its name. A text that is null is an empty document."""
    try:
        if path.name.endswith(".parquet"):
            yield from _parquet_texts(path, text_field)
        elif path.name.endswith(".jsonl.zst"):
            yield from _json_texts(path, read_zstd_lines(path), text_field)
        elif path.name.endswith(".jsonl"):
            with path.open("rb") as file:
                yield from _json_texts(path, file, text_field)
        else:
            yield _decode(path.read_bytes(), path, 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def _json_texts(path: Path, lines: Iterable[bytes], text_field: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(_decode(line, path, number))
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not valid JSON: {error.msg} at column {error.colno}; correct the line") from None
        except RecursionError:
            raise UserError(f"{where}: not a document: JSON nested too deeply; correct the line") from None
        if not isinstance(record, dict):
            raise UserError(f'{where}: a {type(record).__name__}, not an object such as {{"{text_field}": …}}')
        if text_field not in record:
            raise UserError(_no_field(where, text_field, record))
        yield _text(record[text_field], where, text_field)


def parquet_texts(file: Any, where: str, text_field: str, start: int) -> Iterator[str | None]:
    """The texts of an open parquet file from row `start` on, in memory for a few rows; None for one that is not
    valid UTF-8. Raises Arrow's own errors if the file is damaged."""
    import pyarrow.parquet

    # With a buffer a column is read page by page: a row group may be half a gigabyte of books.
    with pyarrow.parquet.ParquetFile(file, buffer_size=PARQUET_BUFFER) as parquet:
        columns = parquet.schema_arrow.names
        if text_field not in columns:
            raise UserError(_no_field(where, text_field, columns))
        row = group = 0
        while group < parquet.num_row_groups and row + parquet.metadata.row_group(group).num_rows <= start:
            row += parquet.metadata.row_group(group).num_rows
            group += 1
        groups = range(group, parquet.num_row_groups)
        for batch in parquet.iter_batches(PARQUET_ROWS, row_groups=groups, columns=[text_field]):
            for value in batch.column(0):
                row += 1
                if row <= start:
                    continue
                try:
                    yield _text(value.as_py(), f"{where}: row {row}", text_field)
                except UnicodeDecodeError:
                    yield None


def _parquet_texts(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow

    try:
        for row, text in enumerate(parquet_texts(path, str(path), text_field, 0), 1):
            if text is None:
                raise UserError(f"{path}: row {row}: not valid UTF-8; write the file again")
            yield text
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged, or not parquet ({reason}); fetch it again") from None


def _decode(content: bytes, path: Path, first_line: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content[: error.start].count(b"\n")
        raise UserError(
            f"{path}:{line}: not valid UTF-8 (byte 0x{content[error.start]:02x}); convert the file, "
            f"for example from CP949: iconv -f CP949 -t UTF-8"
        ) from None


def _no_field(where: str, text_field: str, fields: Iterable[str]) -> str:
    return f"{where}: no field {text_field!r}; set the source's text_field to one that is there: {', '.join(fields)}"


def _text(value: Any, where: str, text_field: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"{where}: {text_field!r} holds a value of type {type(value).__name__}, not text; "
            f"set the source's text_field to another one"
        )
    return value
