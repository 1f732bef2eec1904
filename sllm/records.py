"""Records, a line of JSON each: .jsonl files that grow while others read them, and the .jsonl.zst shards of a corpus,
whose readers are in the tokenizer and in `sllm.data` alike."""

import contextlib
import fcntl
import io
import json
import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from sllm.errors import UserError
from sllm.files import require_ownership, to_json, utf8_bytes

LOCK_TRIES = 400
"""Twenty seconds."""

SHARD_SUFFIX, DIGESTS_SUFFIX, DROPPED_SUFFIX = ".jsonl.zst", ".digests", ".dropped"


def read_jsonl(path: Path, *keys: str) -> list[dict[str, Any]]:
    """The whole lines of a growing .jsonl file; a last line that was cut off by a kill is not a line.

    Raises:
        UserError: one of them is damaged: no object, or one without these keys.
    """
    return list(iterate_jsonl(path, *keys))


def iterate_jsonl(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """`read_jsonl`, one record in memory at a time: those of a million steps take 2 GB."""
    for number, line in enumerate(_whole_lines(path), 1):
        if line != b"\n":
            record = _parse_record(line, keys)
            if record is None:
                raise UserError(f"{path}: line {number} is damaged; delete this line")
            yield record


def _whole_lines(path: Path, offset: int = 0) -> Iterator[bytes]:
    """Each with its end, from byte `offset` on; none if there is no file."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _parse_record(line: bytes, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """The object with these keys that a line holds, or None if it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # a million brackets
        return None
    return record if isinstance(record, dict) and record.keys() >= set(keys) else None


def lines_up_to(path: Path, step: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines of metrics.jsonl of steps up to this one, each with the record that it holds."""
    lines = ((line, json.loads(line)) for line in _whole_lines(path))
    return ((line, record) for line, record in lines if record["step"] <= step)


def read_new_jsonl(path: Path, offset: int, *keys: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The whole lines of a growing .jsonl file after byte `offset`, each with the offset to go on from. Who watches a
    file grow passes over a damaged line; `read_jsonl` names it."""
    for line in _whole_lines(path, offset):
        offset += len(line)
        if (record := _parse_record(line, keys)) is not None:
            yield record, offset


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line in a single write, so that a reader sees whole lines and a kill costs at most this one. Half a
    line that a kill or a full disk has left is cut off. One process appends at a time: to another's eyes a line that is
    being written is half a line, and on NFS two of different nodes would be written over each other."""
    require_ownership()
    line = json_line(record)
    with path.open("a+b") as file:
        _wait_for_lock(file)
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)


def _wait_for_lock(file: BinaryIO) -> None:
    """Have the lock of `file` until it is closed. Not for ever: a server whose locks hang must not keep a job from
    saying how it ends."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return


def json_line(record: Mapping[str, Any]) -> bytes:
    return utf8_bytes(to_json(record, separators=(",", ":")) + "\n")


# --- compressed lines -----------------------------------------------------------------------------


def read_zstd_lines(path: Path) -> Iterator[bytes]:
    """The lines of a zstd-compressed file, without their line ends, in constant memory.

    Raises:
        UserError: the file is truncated or is not zstd.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                raise UserError(f"{path} is empty: a .zst file has at least a frame header; fetch it again")
            file.seek(0)
            reader = _WholeFrames(file)
            for line in io.BufferedReader(reader, buffer_size=1 << 20):
                if line.endswith(b"\n") or reader.whole:  # else it was cut in the middle
                    yield line.rstrip(b"\r\n")
            if not reader.whole:
                raise UserError(f"{path} is truncated: its zstd stream ends in the middle; fetch it again")
    except zstandard.ZstdError as error:
        raise UserError(f"{path} cannot be decompressed ({error}): fetch it again") from error


class _WholeFrames(io.RawIOBase):
    """Decompressed bytes of concatenated zstd frames; `whole` tells whether the last frame ended.

    zstandard's own reader ends silently when a file is cut in the middle of a frame.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor().decompressobj()
        self._pending = b""
        self.whole = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            chunk = self._file.read(1 << 14)  # small: a chunk of zeros becomes thousands of times as much
            if not chunk:
                return 0
            self.whole = False
            self._pending = self._feed(chunk)
        n = min(len(buffer), len(self._pending))
        buffer[:n] = self._pending[:n]
        self._pending = self._pending[n:]
        return n

    def _feed(self, chunk: bytes) -> bytes:
        out = []
        while chunk:
            if self._decompressor.eof:
                self._decompressor = zstandard.ZstdDecompressor().decompressobj()
            out.append(self._decompressor.decompress(chunk))
            chunk = self._decompressor.unused_data if self._decompressor.eof else b""
        self.whole = self._decompressor.eof
        return b"".join(out)


# --- shards ---------------------------------------------------------------------------------------


def shard_paths(corpus: Path, manifest: Mapping[str, Any], source: str, split: str) -> list[Path]:
    """The shards of one source and split of a corpus, in their order."""
    names = [file["name"] for file in manifest["files"]]
    return [corpus / name for name in names if name.startswith(f"{source}/{split}-") and name.endswith(SHARD_SUFFIX)]


def sidecar(shard: Path, suffix: str) -> Path:
    """`train-00000.digests` beside `train-00000.jsonl.zst`."""
    return shard.with_name(shard.name.removesuffix(SHARD_SUFFIX) + suffix)


def dropped_documents(shard: Path) -> set[int]:
    """Which documents of a shard, counted from 0, readers must pass over: `sllm.data.dedup` found them elsewhere."""
    try:
        content = sidecar(shard, DROPPED_SUFFIX).read_bytes()
    except FileNotFoundError:
        return set()
    return {number for (number,) in struct.iter_unpack("<I", content)}


def shard_lines(shard: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a shard, each with its number from 1 on, without those of dropped documents.

    Raises:
        UserError: the file is truncated or is not zstd.
    """
    dropped = dropped_documents(shard)
    for number, line in enumerate(read_zstd_lines(shard)):
        if number not in dropped:
            yield number + 1, line
