"""Corpus shards: `<split>-00000.jsonl.zst`, one {"text": …} a line, zstd with a checksum, each committed whole.

Beside each lies `<split>-00000.digests`, 16 bytes a document in the order of the lines (`sllm.data.text.digest_of`),
and, where other shards hold some of its documents too, `<split>-00000.dropped` (`sllm.data.dedup`).
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import zstandard

from sllm.data.sources import read_file
from sllm.data.text import digest_of
from sllm.files import atomic_file
from sllm.records import DIGESTS_SUFFIX, SHARD_SUFFIX, dropped_documents, sidecar

LEVEL = 3


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}{SHARD_SUFFIX}"


def read_shard(path: Path) -> Iterator[str]:
    """The texts of a shard but for those dropped. Raises UserError, naming file and line, if it is damaged."""
    dropped = dropped_documents(path)
    return (text for number, text in enumerate(read_file(path, "text")) if number not in dropped)


class ShardWriter:
    """Writes the documents of one split below `directory`, at most `megabytes` of uncompressed lines in a shard
    (a single document may be larger). A shard appears when it is full, or when the `with` block ends without error;
    its digests are there before it.
    """

    def __init__(self, directory: Path, split: str, megabytes: int, first: int = 0) -> None:
        self.directory, self.split = directory, split
        self.limit = megabytes * 1_000_000
        self.shards = first  # the number of the next
        self._size = 0
        self._open = ExitStack()
        self._stream: zstandard.ZstdCompressionWriter | None = None
        self._digests: BinaryIO

    def write(self, text: str, digest: bytes | None = None) -> None:
        """`digest` is the one of this text, where it is known."""
        line = json.dumps({"text": text}, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"
        if self._stream is not None and self._size + len(line) > self.limit:
            self._commit()
        if self._stream is None:
            path = self.directory / shard_name(self.split, self.shards)
            file = self._open.enter_context(atomic_file(path))
            compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
            self._stream = self._open.enter_context(compressor.stream_writer(file, closefd=False))
            # Entered last, so committed first: a shard that exists has its digests.
            self._digests = self._open.enter_context(atomic_file(sidecar(path, DIGESTS_SUFFIX)))
            self.shards += 1
            self._size = 0
        self._stream.write(line)
        self._digests.write(digest or digest_of(text.encode("utf-8")))
        self._size += len(line)

    def _commit(self) -> None:
        self._open.close()
        self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # With an error, atomic_file removes the shard that was being written.
        self._open.__exit__(kind, error, traceback)
        self._stream = None
