"""Files that are either complete or not there.

The one rule: a name that a reader may look for appears only by `rename`, after its bytes are on disk; `sllm.manifests`
keeps it for directories. What is written by an attempt that no longer owns its run does not appear at all.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

log = logging.getLogger(__name__)


class CorruptError(Exception):
    """A directory or file does not hold what its manifest promises."""


# --- whose files they are -------------------------------------------------------------------------

_fence: Callable[[], None] | None = None


@contextmanager
def fenced_by(check: Callable[[], None]) -> Iterator[None]:
    """While the block runs, `check` is called before anything that this process writes appears under its name. It
    raises `Superseded` once the run belongs to another attempt: a process may come back from a slow disk, or from a
    node that was given up, long after its successor has begun."""
    global _fence
    before, _fence = _fence, check
    try:
        yield
    finally:
        _fence = before


def require_ownership() -> None:
    """Raises Superseded if this process may not write (or delete) any more; see `fenced_by`."""
    if _fence is not None:
        _fence()


# --- complete or absent ---------------------------------------------------------------------------


def fsync_directory(path: Path) -> None:
    """Make a rename inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, durably."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        fsync_directory(path.parent)


def temporary_name(path: Path) -> Path:
    # Host and process keep two writers (an old attempt on a lost node, say) from sharing a temporary file.
    host = os.uname().nodename.replace(".", "_")
    return path.with_name(f".{path.name}.{host}-{os.getpid()}.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name; it appears at `path`, whole and durable, when the block ends.

    If the block raises, nothing appears and the temporary file is removed.
    """
    path = Path(path)
    make_directory(path.parent)
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        require_ownership()
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # write(2) and fsync(2) know only a descriptor
        raise
    fsync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(utf8_bytes(text))


# --- text and JSON --------------------------------------------------------------------------------


def to_json(value: Any, **style: Any) -> str:
    """Valid JSON, which has no infinity and no NaN: raises ValueError for them. Who measures something that may be
    either writes null (see `finite`), and beside it what happened."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, **style)


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_json(path: Path, value: Any) -> None:
    write_text(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises FileNotFoundError, or CorruptError if it is not JSON."""
    return parse_json(Path(path).read_bytes(), path)


def parse_json(content: bytes, path: Path) -> Any:
    """`content` is that of the file at `path`. Raises CorruptError if it is not JSON."""
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path} is not valid JSON: {error}") from error


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON file that holds an object with these keys, perhaps with more. Raises what `read_json` does."""
    value = read_json(path)
    if not isinstance(value, dict) or not value.keys() >= set(keys):
        raise CorruptError(f"{path} does not hold what was written there")
    return value


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that identify a JSON value, independent of key order."""
    text = to_json(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(utf8_bytes(text)).hexdigest()[:16]


def utf8_bytes(text: str) -> bytes:
    """UTF-8, in which a lone surrogate (of a file name that is not UTF-8, say) stands as its JSON escape."""
    return text.encode("utf-8", "backslashreplace")


# --- one at a time, and what is left --------------------------------------------------------------


@contextmanager
def alone_with(path: Path, check: Callable[[], None]) -> Iterator[None]:
    """Hold a lock beside `path` that one process has at a time. Calls `check` while another has it.

    Not the file that `jobs.perform.only_one` locks: a stage runs inside that, and would wait for itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.alone").open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check()
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield


def remove_leftovers(directory: Path, names: str = "*") -> None:
    """Clear away what writers that were killed in `directory` have left (see `atomic_file`): of what matches `names`,
    where others are at work in it. A directory that had been moved out of the way, and whose successor had not come
    yet, goes back to its place."""
    require_ownership()
    if not directory.is_dir():
        return
    for path in list(directory.glob(names)):
        replaced = re.fullmatch(r"\.(.+)\.[^.]+-\d+\.old", path.name)
        if replaced and not (place := directory / replaced[1]).exists():
            path.rename(place)
        elif path.name.startswith(".") and path.name.endswith((".tmp", ".old")):
            delete(path)


def delete(path: Path) -> bool:
    """Delete a file, or a directory with all that is in it. Whether it is gone; what cannot be deleted is logged."""
    try:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        return True
    except OSError as error:
        log.warning("%s cannot be deleted (%s); delete it by hand, it is of no use", path, error)
        return False
