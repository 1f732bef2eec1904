"""Where documents come from: the reader of each source kind and file format.

A reader is an iterator of raw texts that holds one document at a time; what is wrong with a file is a UserError that
names the file and the line.
"""

import codecs
import glob
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sllm.config import EmbeddedSource, FilesSource
from sllm.errors import UserError
from sllm.files import fingerprint, read_zstd_lines

SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".parquet")

PARQUET_ROWS = 256
"""Rows decoded at a time: few, because one row may be a whole book."""


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


def read_documents(source: EmbeddedSource | FilesSource, seed: int) -> Iterator[str]:
    """The raw texts of a source, in the order of its files; the same for equal (source, seed).

    Raises:
        UserError: a file is missing, unreadable or damaged, or lacks the text field.
    """
    if isinstance(source, EmbeddedSource):
        from sllm.data.embedded import documents

        # The name is part of the seed, or two embedded sources of one language would write the same texts.
        yield from documents(source.language, source.megabytes, int(fingerprint([seed, source.name]), 16))
        return
    for path in matching_files(source):
        yield from read_file(path, source.text_field)


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


def _parquet_texts(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if text_field not in columns:
                raise UserError(_no_field(str(path), text_field, columns))
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=[text_field]):
                for value in batch.column(0):
                    row += 1
                    yield _text(value.as_py(), f"{path}: row {row}", text_field)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: row {row}: not valid UTF-8 ({error.reason}); write the file again") from None
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
