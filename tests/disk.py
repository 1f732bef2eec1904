"""A folder on a watched disk: what a kill, a power cut or a fault at any single call leaves there.

Nothing is killed: what a process leaves that ends before a call is what lies there just then. What a power cut leaves
follows from a model of the disk, the worst that POSIX allows: a name that was made or replaced is there once its folder
was flushed, and not before; bytes are there once their file was flushed, and may be there before; what was deleted may
be gone at once.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = ("fsync", "mkdir", "rename", "replace", "link", "unlink", "rmdir")
"""The functions of `os` that change names or flush; `pathlib` and `shutil` use them too."""

Tree = dict[str, bytes | None]
"""Files by name with their bytes, and folders with None."""


def tree(root: Path) -> Tree:
    return {
        path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def lay_out(found: Tree, root: Path) -> Path:
    """Write a tree to the new folder `root`."""
    root.mkdir(parents=True)
    for name, content in found.items():  # a folder stands before what is in it
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)
    return root


@dataclass(frozen=True)
class Moment:
    """Just before `call`; the last one is after all."""

    call: str
    killed: Tree
    """What is there after a kill."""
    cuts: list[Tree]
    """What may be there after a power cut: of no file more than was flushed, of all files all, of all but one."""

    @property
    def states(self) -> list[Tree]:
        return [self.killed, *self.cuts]


def moments(root: Path, work: Callable[[], object]) -> list[Moment]:
    """Do `work`, and tell what each moment of it would leave in `root`, all of which is on the disk before."""
    disk = _Disk(root)
    found: list[Moment] = []

    def before(call: str, function: str, arguments: Any, options: Any) -> Any:
        found.append(Moment(call, tree(root), disk.trees()))
        return lambda: disk.did(function, *arguments, **options)

    with _watched(root, before):
        work()
    found.append(Moment("the end", tree(root), disk.trees()))
    disk.close()
    assert len(found) > 3, "nothing was seen of what this does to the disk"
    return found


class FaultError(OSError):
    """An EIO of ours."""


@contextmanager
def fault_at(root: Path, number: int) -> Iterator[list[str]]:
    """Call `number`, counted from 0, that changes something below `root` fails with EIO and does nothing. Yields what
    was called until then."""
    calls: list[str] = []

    def before(call: str, *_: Any) -> None:
        calls.append(call)
        if len(calls) == number + 1:
            raise FaultError(errno.EIO, os.strerror(errno.EIO))

    with _watched(root, before):
        yield calls


@contextmanager
def _watched(root: Path, before: Callable[..., Any]) -> Iterator[None]:
    """Calls `before` ahead of each call that concerns `root`, and what it returns after it."""

    def watch(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            path = _path(arguments[0], options.get("dir_fd"))
            if not path.is_relative_to(root) or (name == "mkdir" and path.exists()):
                return real(*arguments, **options)
            after = before(f"{name} {path.relative_to(root)}", name, arguments, options)
            result = None if name == "fsync" else real(*arguments, **options)  # nothing is gained by a real one
            if after:
                after()
            return result

        return call

    with mock.patch.multiple(os, **{name: watch(name) for name in CALLS}):
        yield


def _path(what: Any, folder: int | None) -> Path:
    if isinstance(what, int):
        return _opened(what).readlink()
    return (Path.cwd() if folder is None else _opened(folder).readlink()) / os.fsdecode(what)


def _opened(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}")


class _Disk:
    """What of `root` is on the disk, by inode."""

    def __init__(self, root: Path) -> None:
        self._root = root.stat().st_ino
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: dict[int, int] = {}  # open, so that no other file gets the inode of one that was deleted
        for path in (root, *root.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            self._flush(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)

    def did(self, function: str, what: Any, *_: Any, dir_fd: int | None = None, **__: Any) -> None:
        if function == "fsync":
            self._flush(what)
        elif function in ("unlink", "rmdir"):
            path = Path(os.fsdecode(what))
            folder = os.fstat(dir_fd) if dir_fd is not None else path.parent.stat()
            self._names.get(folder.st_ino, {}).pop(path.name, None)

    def _flush(self, descriptor: int) -> None:
        inode = self._know(descriptor)
        if inode in self._bytes:
            self._bytes[inode] = _opened(descriptor).read_bytes()
            return
        self._names[inode] = {}
        for name in os.listdir(descriptor):
            inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
            self._names[inode][name] = self._know(inner)
            os.close(inner)

    def _know(self, descriptor: int) -> int:
        about = os.fstat(descriptor)
        if about.st_ino not in self._held:
            self._held[about.st_ino] = os.open(_opened(descriptor), os.O_RDONLY)
            if stat.S_ISDIR(about.st_mode):
                self._names[about.st_ino] = {}
            else:
                self._bytes[about.st_ino] = b""
        return about.st_ino

    def trees(self) -> list[Tree]:
        written = {inode: _opened(self._held[inode]).read_bytes() for inode in self._bytes}
        behind = [inode for inode, content in written.items() if content != self._bytes[inode]]
        known = [self._bytes, written, *(written | {inode: self._bytes[inode]} for inode in behind)]
        found = [dict(sorted(self._below(self._root, "", content))) for content in known]
        return [each for i, each in enumerate(found) if each not in found[:i]]

    def _below(self, folder: int, prefix: str, content: dict[int, bytes]) -> Iterator[tuple[str, bytes | None]]:
        for name, inode in self._names[folder].items():
            if inode in self._names:
                yield prefix + name, None
                yield from self._below(inode, f"{prefix}{name}/", content)
            else:
                yield prefix + name, content[inode]
