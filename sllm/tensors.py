"""Files of tensors as safetensors lays them out: a length, a header in JSON, the bytes. Needs no torch."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sllm.files import fsync_directory, to_json, utf8_bytes

PIECE = 8 << 20
"""Bytes that are hashed and written at a time."""

FLUSHED = 64 << 20
"""Bytes that are written between two flushes: the last one, which nothing can cut short, is then no long one."""


class Kind(NamedTuple):
    """What a header says of a tensor: `F32`, its shape, and how many bytes that is."""

    dtype: str
    shape: Sequence[int]
    size: int


def header(kinds: Mapping[str, Kind]) -> bytes:
    """What precedes the bytes of these tensors, which follow in the order of `kinds`."""
    entries, start = {}, 0
    for name, kind in kinds.items():
        entries[name] = {"dtype": kind.dtype, "shape": list(kind.shape), "data_offsets": [start, start + kind.size]}
        start += kind.size
    text = utf8_bytes(to_json(entries, separators=(",", ":")))
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_file(path: Path, parts: Iterable[bytes | memoryview], check: Callable[[], None]) -> dict[str, Any]:
    """Write a new file durably. Returns what a manifest says of it; its bytes are hashed on their way, and not read
    again. `check` is called between two pieces, and may raise."""
    checksum, size = hashlib.sha256(), 0
    with path.open("xb", buffering=0) as file:
        for part in parts:
            for start in range(0, len(part), PIECE):
                check()
                left = memoryview(part)[start : start + PIECE]
                checksum.update(left)
                before, size = size, size + len(left)
                while left:
                    left = left[file.write(left) :]
                if before // FLUSHED < size // FLUSHED:
                    os.fsync(file.fileno())
        os.fsync(file.fileno())
    fsync_directory(path.parent)
    return {"name": path.name, "bytes": size, "sha256": checksum.hexdigest()}


def checksums(directory: Path) -> dict[str, str]:
    """For each tensor in the files of a directory one checksum of its kind and its bytes, in whichever file it is."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        content = memoryview(path.read_bytes())
        start = 8 + int.from_bytes(content[:8], "little")
        for name, entry in json.loads(bytes(content[8:start])).items():
            begin, end = entry["data_offsets"]
            checksum = hashlib.sha256(f"{entry['dtype']} {entry['shape']} ".encode())
            checksum.update(content[start + begin : start + end])
            found[name] = checksum.hexdigest()
    return found
