"""Files that are either complete or not there, checksummed directories, jsonl.zst, and the run directory.

The one rule: a name that a reader may look for appears only by `rename`, after its bytes are on disk.
A directory ends with `manifest.json`, written last, which lists every file with its size and SHA-256.
"""

import fcntl
import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from sllm.errors import UserError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SHARD_SUFFIX, DIGESTS_SUFFIX, DROPPED_SUFFIX = ".jsonl.zst", ".digests", ".dropped"


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


def _temporary_name(path: Path) -> Path:
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
    temporary = _temporary_name(path)
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
        file.write(_utf8(text))


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
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptError(f"{path} is not valid JSON: {error}") from error


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON file that holds an object with these keys, perhaps with more. Raises what `read_json` does."""
    value = read_json(path)
    if not isinstance(value, dict) or not value.keys() >= set(keys):
        raise CorruptError(f"{path} does not hold what was written there")
    return value


@contextmanager
def atomic_directory(path: Path, **details: Any) -> Iterator[Path]:
    """Fill a temporary directory; it appears at `path` with a manifest, whole and durable, when the block ends.

    `details` go into the manifest beside the file list. An existing directory at `path` is replaced.
    If the block raises, nothing appears at `path` and the temporary directory is removed.
    """
    path = Path(path)
    make_directory(path.parent)
    temporary = _temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        commit_directory(temporary, path, **details)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def commit_directory(filled: Path, path: Path, **details: Any) -> None:
    """Give a directory its manifest and move it to `path`, durably; one that is there is replaced."""
    write_manifest(filled, **details)  # which flushes `filled` itself
    for file in sorted(filled.rglob("*")):
        if file.is_dir():
            fsync_directory(file)
    require_ownership()
    old = None
    if path.exists():
        # rename(2) cannot replace a directory that has files in it: move the old one out of the way first.
        old = _temporary_name(path).with_suffix(".old")
        if old.exists() and not delete(old):  # of the time before; somebody on NFS reads it, say
            old.replace(old.with_suffix(f".{time.time_ns()}.tmp"))
        path.replace(old)
    try:
        filled.replace(path)
    except BaseException:
        if old:
            old.replace(path)
        raise
    fsync_directory(path.parent)
    if old:  # only now: a power cut might spare the deletion and lose the renames
        delete(old)


def check_replaceable(path: Path, format: str) -> None:
    """See that `atomic_directory` would take nobody's files away at `path`, and that it can write there.

    Raises:
        UserError: something is there other than an empty directory or what was written with this `format`.
    """
    try:
        place = path.resolve()
        if place.is_dir() and any(place.iterdir()):
            others = _files_beside_manifest(place, format)
            if others is None:
                raise UserError(f"{path}: exists and is not a former export; give a new directory")
            if others:
                raise UserError(f"{path}: holds files that no export wrote ({', '.join(others)}); give a new directory")
        elif place.exists() and not place.is_dir():
            raise UserError(f"{path}: exists and is not a former export, but a file; give a new directory")
        if Path.cwd().is_relative_to(place):
            raise UserError(f"{path}: is the directory you are in, which would be replaced; give a new one")
        parent = next(parent for parent in place.parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"{path}: nothing can be written in {parent}; give another directory")
    except (OSError, RuntimeError) as error:  # a name that is too long, a folder closed to us, a circle of links
        raise UserError(f"{path}: {getattr(error, 'strerror', error)}; give another directory") from None


def _files_beside_manifest(directory: Path, format: str) -> list[str] | None:
    """The files that a manifest of this `format` does not list; None if there is no such manifest."""
    try:
        manifest = read_json(directory / MANIFEST)
        if manifest["format"] != format:
            return None
        listed = {MANIFEST, *(entry["name"] for entry in manifest["files"])}
    except (FileNotFoundError, CorruptError, KeyError, TypeError):
        return None
    found = (file.relative_to(directory).as_posix() for file in directory.rglob("*") if not file.is_dir())
    return sorted(name for name in found if name not in listed)


@contextmanager
def alone_with(path: Path, check: Callable[[], None]) -> Iterator[None]:
    """Hold a lock beside `path` that one process has at a time. Calls `check` while another has it.

    Not the file that `jobs.run.only_one` locks: a stage runs inside that, and would wait for itself.
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


def remove_leftovers(directory: Path) -> None:
    """Clear away what writers that were killed in `directory` have left (see `atomic_file`). A directory that had been
    moved out of the way, and whose successor had not come yet, goes back to its place."""
    require_ownership()
    if not directory.is_dir():
        return
    for path in directory.iterdir():
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


# --- checksums ------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that identify a JSON value, independent of key order."""
    text = to_json(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(_utf8(text)).hexdigest()[:16]


def write_manifest(directory: Path, **details: Any) -> None:
    """Flush every file below `directory` to disk, then write the manifest that makes the directory valid.

    Every file gets the permissions of a new one, whatever the library that wrote it or the file it was copied from
    says: safetensors' are for their owner alone, and colleagues could not load the model.
    """
    files = [file for file in sorted(directory.rglob("*")) if file.is_file() and file.name != MANIFEST]
    (directory / MANIFEST).touch()  # what the umask, or the directory's default ACL, makes of a new file
    mode = stat.S_IMODE((directory / MANIFEST).stat().st_mode)
    for file in files:
        with file.open("rb") as handle:
            if stat.S_IMODE(os.fstat(handle.fileno()).st_mode) != mode:
                os.fchmod(handle.fileno(), mode)
            os.fsync(handle.fileno())
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter lock
        checksums = list(pool.map(sha256, files))
    entries = [
        {"name": file.relative_to(directory).as_posix(), "bytes": file.stat().st_size, "sha256": checksum}
        for file, checksum in zip(files, checksums, strict=True)
    ]
    write_json(directory / MANIFEST, {**details, "files": entries})


def read_manifest(directory: Path, *, checksums: bool = False) -> dict[str, Any]:
    """The manifest of `directory`, after checking that every file has its promised size (and SHA-256 if asked).

    Raises:
        CorruptError: no manifest, a file missing, or a size or checksum that differs.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise CorruptError(f"{directory} has no {MANIFEST}: it was never finished")
    manifest = read_object(path, "files")
    entries: list[Any] = manifest["files"] if isinstance(manifest["files"], list) else [None]
    if not all(isinstance(entry, dict) and entry.keys() >= {"name", "bytes", "sha256"} for entry in entries):
        raise CorruptError(f"{path} is no list of files")
    for entry in entries:
        file = directory / entry["name"]
        if not file.is_file():
            raise CorruptError(f"{file} is missing")
        if file.stat().st_size != entry["bytes"]:
            raise CorruptError(f"{file} has {file.stat().st_size:,} bytes, its manifest says {entry['bytes']:,}")
        if checksums and sha256(file) != entry["sha256"]:
            raise CorruptError(f"{file} does not match its checksum")
    return manifest


# --- jsonl ----------------------------------------------------------------------------------------


def read_jsonl(path: Path, *keys: str) -> list[dict[str, Any]]:
    """The whole lines of a growing .jsonl file; a last line that was cut off by a kill is not a line.

    Raises:
        UserError: one of them is damaged: no object, or one without these keys.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        if line:
            record = _parse_record(line, keys)
            if record is None:
                raise UserError(f"{path}: line {number} is damaged; delete this line")
            records.append(record)
    return records


def _parse_record(line: bytes, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """The object with these keys that a line holds, or None if it holds none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.keys() >= set(keys) else None


def read_new_jsonl(path: Path, offset: int, *keys: str) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a growing .jsonl file after byte `offset`, and the offset to go on from. Who watches a file
    grow passes over a damaged line; `read_jsonl` names it."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read()
    end = text.rfind(b"\n") + 1
    records = (_parse_record(line, keys) for line in text[:end].split(b"\n"))
    return [record for record in records if record is not None], offset + end


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line in a single write, so that a reader sees whole lines and a kill costs at most this one. Half a
    line that a kill or a full disk has left is cut off."""
    require_ownership()
    line = json_line(record)
    with path.open("a+b") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)


def json_line(record: Mapping[str, Any]) -> bytes:
    return _utf8(to_json(record, separators=(",", ":")) + "\n")


def _utf8(text: str) -> bytes:
    """UTF-8, in which a lone surrogate (of a file name that is not UTF-8, say) stands as its JSON escape."""
    return text.encode("utf-8", "backslashreplace")


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


# Readers of a corpus are in the tokenizer and in sllm.data alike; what they must agree on stands here.


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


# --- the run directory ----------------------------------------------------------------------------


@dataclass(frozen=True)
class RunDirectory:
    """Names of everything in `runs/<name>/`. Creating one touches nothing on disk."""

    path: Path

    @classmethod
    def above(cls, path: Path) -> "RunDirectory | None":
        """The run that a model lies in: runs/NAME for runs/NAME/best, .../checkpoints/step-… and files in them."""
        return next((cls(parent) for parent in path.absolute().parents if (parent / "config.yaml").is_file()), None)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def cluster(self) -> Path:
        return self.path / "cluster.yaml"

    @property
    def submission(self) -> Path:
        """Where it was last submitted to."""
        return self.path / "submission.json"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def environment(self) -> Path:
        return self.path / "environment.txt"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def stage(self, name: str) -> Path:
        return self.path / "stages" / name

    def done(self, name: str) -> Path:
        return self.stage(name) / "done.json"

    def progress(self, name: str) -> Path:
        return self.stage(name) / "progress.json"

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"


def checkpoint_path(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def checkpoint_steps(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that have been committed, oldest first. Anything else in the directory (a copy, a link,
    a file) is none."""
    found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in checkpoints.glob("step-*"))
    steps = sorted({int(match[1]) for match in found if match})
    paths = {step: checkpoint_path(checkpoints, step) for step in steps}
    return [step for step, path in paths.items() if path.is_dir() and not path.is_symlink()]
