"""Directories that are either complete or not there: a manifest, written last, lists every file with its size and
SHA-256. Readers check it, and find what was cut off, lost or changed since."""

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sllm.errors import UserError
from sllm.files import (
    CorruptError,
    delete,
    fsync_directory,
    make_directory,
    read_json,
    read_object,
    require_ownership,
    temporary_name,
    write_json,
)

MANIFEST = "manifest.json"

CARD = "README.md"
"""What a person reads beside a model. It is written anew when more is known, and may be edited: no manifest lists it,
and with any of it, or none, the directory is whole."""

Entries = Sequence[dict[str, Any]]
"""What a manifest says of its files: `name`, `bytes`, `sha256`."""


@contextmanager
def atomic_directory(path: Path, known: Entries = (), **details: Any) -> Iterator[Path]:
    """Fill a temporary directory; it appears at `path` with a manifest, whole and durable, when the block ends.

    `details` go into the manifest beside the file list; for `known` see `write_manifest`. An existing directory at
    `path` is replaced.
    If the block raises, nothing appears at `path` and the temporary directory is removed.
    """
    path = Path(path)
    make_directory(path.parent)
    temporary = temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        commit_directory(temporary, path, known, **details)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def commit_directory(filled: Path, path: Path, known: Entries = (), **details: Any) -> None:
    """Give a directory its manifest and move it to `path`, durably; one that is there is replaced. For `known` see
    `write_manifest`."""
    write_manifest(filled, known, **details)  # which flushes `filled` itself
    for file in sorted(filled.rglob("*")):
        if file.is_dir():
            fsync_directory(file)
    _put(filled, path)


def _put(filled: Path, path: Path) -> None:
    require_ownership()
    old = None
    if path.exists():
        # rename(2) cannot replace a directory that has files in it: move the old one out of the way first.
        old = temporary_name(path).with_suffix(".old")
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


def link_directory(source: Path, path: Path, anew: Mapping[str, Any] = MappingProxyType({}), **details: Any) -> bool:
    """Make `path` another name for the files of a directory that has no others in it. Those in `anew`, which are JSON,
    get other content, and `details` take the place of those in its manifest. What that says of the other files stays:
    damage is found. Where the file system has no hard links, the files are copied. Returns whether they are links.

    Raises:
        CorruptError: as `read_manifest`.
    """
    manifest = {**read_manifest(source), **details}
    make_directory(path.parent)
    temporary, linked = temporary_name(path), True
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for entry in manifest["files"]:
            file = temporary / entry["name"]
            if entry["name"] in anew:
                write_json(file, anew[entry["name"]])
                entry |= {"bytes": file.stat().st_size, "sha256": sha256(file)}
            else:
                linked &= _link_or_copy(source / entry["name"], file)
        write_json(temporary / MANIFEST, manifest)
        _put(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return linked


def link_file(source: Path, name: str, directory: Path) -> dict[str, Any] | None:
    """Give a file of `source` a second name in another directory. Returns what the manifest says of it; None if it, or
    a file system with hard links, is not there."""
    try:
        entry = next(entry for entry in read_manifest(source)["files"] if entry["name"] == name)
        (directory / name).hardlink_to(source / name)
        return dict(entry)
    except (CorruptError, OSError, StopIteration):
        return None


def _link_or_copy(source: Path, file: Path) -> bool:
    """Whether it is a link."""
    try:
        file.hardlink_to(source)
        return True
    except OSError:
        shutil.copyfile(source, file)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        return False


def sha256(path: Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(directory: Path, known: Entries = (), **details: Any) -> None:
    """Flush every file below `directory` to disk, then write the manifest that makes the directory valid. Of files that
    are `known`, by the entries of whoever has written and flushed them, nothing is read.

    Every file gets the permissions of a new one, whatever the library that wrote it or the file it was copied from
    says: safetensors' are for their owner alone, and colleagues could not load the model.
    """
    others = {MANIFEST, CARD, *(entry["name"] for entry in known)}
    files = [file for file in sorted(directory.rglob("*")) if file.is_file() and file.name not in others]
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
    write_json(directory / MANIFEST, {**details, "files": [*known, *entries]})


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
        file = os.path.join(directory, entry["name"])  # noqa: PTH118 - a Path takes as long as the look at the file
        try:
            status = os.stat(file)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            raise CorruptError(f"{file} is missing")
        if status.st_size != entry["bytes"]:
            raise CorruptError(f"{file} has {status.st_size:,} bytes, its manifest says {entry['bytes']:,}")
        if checksums and sha256(Path(file)) != entry["sha256"]:
            raise CorruptError(f"{file} does not match its checksum")
    return manifest


def read_whole(directory: Path, *names: str) -> list[bytes]:
    """What stands in these files of `directory`, read once: what is checked is what is returned.

    Raises:
        CorruptError: as `read_manifest`, and for a file that the manifest does not list.
    """
    checksums = {entry["name"]: entry["sha256"] for entry in read_manifest(directory)["files"]}

    def read(name: str) -> bytes:
        content = (directory / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != checksums.get(name):
            raise CorruptError(f"{directory / name} does not match its checksum")
        return content

    with ThreadPoolExecutor() as pool:
        return list(pool.map(read, names))


def check_replaceable(path: Path, *formats: str) -> None:
    """See that `atomic_directory` would take nobody's files away at `path`, and that it can write there.

    Raises:
        UserError: something is there other than an empty directory or what was written with one of these `formats`.
    """
    try:
        place = path.resolve()
        if place.is_dir() and any(place.iterdir()):
            others = _files_beside_manifest(place, formats)
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


def _files_beside_manifest(directory: Path, formats: tuple[str, ...]) -> list[str] | None:
    """The files that a manifest of one of these `formats` does not list; None if there is no such manifest."""
    try:
        manifest = read_json(directory / MANIFEST)
        if manifest["format"] not in formats:
            return None
        listed = {MANIFEST, *(entry["name"] for entry in manifest["files"])}
        if CARD not in listed and (card := manifest.get("card")) and card == sha256(directory / CARD):
            listed.add(CARD)  # as it was written: one that was edited is somebody's work
    except (FileNotFoundError, CorruptError, KeyError, TypeError):
        return None
    found = (file.relative_to(directory).as_posix() for file in directory.rglob("*") if not file.is_dir())
    return sorted(name for name in found if name not in listed)
