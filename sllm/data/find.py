"""Which files a source names. What a pattern matches is a file that can be read, or is told in an error.

As in a shell `*` matches no hidden name, and `**` is any number of folders. Links are followed. A folder is visited
once and a file is taken once (by device and inode), however many names lead to it: a link to a folder above ends there.
"""

import errno
import fnmatch
import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from sllm.config import AihubSource, FilesSource, Source
from sllm.errors import UserError

SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".parquet")

MOST_PROBLEMS = 10
"""So many are told of one source; a disk that was purged may be the cause of thousands."""

BESIDE_DATA = ("__MACOSX", "_SUCCESS", "_metadata", "_common_metadata", "_spark_metadata", "_temporary")
"""What macOS and Spark leave beside data."""

TABLE_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
"""What a table holds whose log says which of its files count."""


def local_files(source: FilesSource | AihubSource) -> list[Path]:
    """The files of a source, sorted, each once.

    Raises:
        UserError: something that the source names cannot be read, or is not there; one problem a line.
    """
    return list(_found(source))


def text_files(names: Sequence[str]) -> list[Path]:
    """The files that patterns name, sorted, each once; of a folder all those of a kind that a source reads, in it and
    below.

    Raises:
        UserError: something that is named cannot be read, or is not there; one problem a line.
    """
    search = _Search(SUFFIXES)
    for name in names:
        if not Path(name).is_dir():
            search.take_matches(name)
            continue
        known = len(search.found) + len(search.problems)
        search.take_set(name)
        if len(search.found) + len(search.problems) == known:
            search.problems.append(f"no file in {name}; valid are {', '.join(SUFFIXES)}")
    search.tell_problems()
    return list(search.unique())


def file_stamps(source: FilesSource | AihubSource) -> list[list[Any]]:
    """Name, size and modification time (ns) of each file, which counts as the same while they are: to read 50 GB on a
    login node to learn that nothing changed would be no kindness.

    Raises:
        UserError: as `local_files`.
    """
    return [[str(path), status.st_size, status.st_mtime_ns] for path, status in _found(source).items()]


def is_left_out(source: Source) -> bool:
    """Whether a source is optional and its files are not there."""
    if not isinstance(source, AihubSource) or not source.optional:
        return False
    search = _Search((".json",))
    search.take_set(source.folder)
    return not search.found and not search.problems


def _found(source: FilesSource | AihubSource) -> dict[Path, os.stat_result]:
    if isinstance(source, FilesSource):
        search = _Search(SUFFIXES)
        for pattern in source.paths:
            search.take_matches(pattern)
    else:
        search = _Search((".json",))
        search.take_set(source.folder)
        if not search.found and not search.problems:
            search.problems.append(
                f"no .json file in {source.folder}{_why_not(source.folder)}; with an account of https://aihub.or.kr "
                f"get 주제별 텍스트 일상 대화 데이터 (dataSetSn=543) or another set of conversations and unpack it "
                f"there, or set optional: true to go on without it"
            )
    search.tell_problems(f"data.sources: {source.name}: ")
    return search.unique()


def _why_not(folder: str) -> str:
    """More about a folder in which nothing was found."""
    path = Path(folder)
    if path.is_symlink() and not path.exists():
        return f", a link to {path.readlink()}, which is not there"
    return ", which is a file" if path.is_file() else ""


# --- names ----------------------------------------------------------------------------------------


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in BESIDE_DATA


def _is_part(name: str) -> bool:
    """Whether it is data in a folder of parts. Spark's own rule: only a partition's name begins with an underscore."""
    return _is_visible(name) and (not name.startswith("_") or "=" in name)


def _fits(name: str, part: str) -> bool:
    """Whether a name is what one part of a pattern asks for."""
    if name == part:  # the name of a folder may have brackets in it
        return True
    if not _is_visible(name) and not part.startswith((".", "_")):
        return False
    # macOS writes 가 as two characters.
    return fnmatch.fnmatchcase(normalize("NFC", name), normalize("NFC", part))


# --- the search -----------------------------------------------------------------------------------


class _Search:
    """What is found for one source, and what is wrong on the way: all of it is told at once."""

    def __init__(self, suffixes: tuple[str, ...]) -> None:
        self.suffixes = suffixes
        self.found: dict[Path, os.stat_result] = {}
        self.problems: list[str] = []

    def take_matches(self, pattern: str) -> None:
        """The files that a pattern names."""
        known = len(self.problems)
        # A name that exists is that file, even if it has brackets in it.
        matches = [Path(pattern)] if os.path.lexists(pattern) else list(self._matches(Path(pattern)))
        for path in matches:
            self._take(path)
        if not matches and len(self.problems) == known:
            self.problems.append(f"no file matches {pattern}; correct its paths")

    def take_set(self, folder: str) -> None:
        """The files in a folder, and in those below, that have the suffix."""
        if self._is_there(Path(folder)) and Path(folder).is_dir():
            for _, files in self._folders(Path(folder), _is_visible):
                for file in files:
                    if file.name.lower().endswith(self.suffixes):
                        self._take(file)

    def tell_problems(self, where: str = "") -> None:
        """Raises UserError if there are any."""
        if problems := list(dict.fromkeys(self.problems)):
            if len(problems) > MOST_PROBLEMS:
                problems[MOST_PROBLEMS:] = [f"{len(problems) - MOST_PROBLEMS:,} more problems"]
            raise UserError("\n".join(f"{where}{problem}" for problem in problems))

    def unique(self) -> dict[Path, os.stat_result]:
        """The files, sorted by name; one that has several under the first."""
        files = {_identity(self.found[path]): path for path in sorted(self.found, reverse=True)}
        return {path: self.found[path] for path in sorted(files.values())}

    def _take(self, path: Path) -> None:
        status = self._status(path)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            self._take_parts(path)
        elif not stat.S_ISREG(status.st_mode):
            self.problems.append(f"{path} is {_special(status.st_mode)}, not a file; leave it out of the paths")
        elif not path.name.lower().endswith(self.suffixes):
            self.problems.append(f"{path} cannot be read; valid are {', '.join(self.suffixes)}")
        elif not os.access(path, os.R_OK, effective_ids=True):
            self.problems.append(f"{path}: Permission denied; make it readable, or leave it out of the paths")
        else:
            self.found[path] = status

    def _take_parts(self, folder: Path) -> None:
        """The files of a folder of parquet parts, as Spark and Hive write it; partitions are folders in it."""
        for log, kind in TABLE_LOGS.items():
            if os.path.lexists(folder / log):
                self.problems.append(f"{folder} is a {kind} table, not all of whose files count; write it as parquet")
                return
        known = len(self.problems)
        files = [file for _, inside in self._folders(folder, _is_part) for file in inside]
        others = [file for file in files if not file.name.lower().endswith(".parquet")]
        if files and not others:
            for file in files:
                self._take(file)
        elif len(others) < len(files):
            self.problems.append(
                f"{folder} is a folder of parquet parts, but {others[0]} is none; write {folder}/**/*.parquet"
            )
        elif len(self.problems) == known:
            suffix = next((s for s in SUFFIXES if any(file.name.endswith(s) for file in files)), ".jsonl.zst")
            self.problems.append(f"{folder} is a folder: write {folder}/**/*{suffix}, say")

    # --- what is there

    def _matches(self, pattern: Path) -> Iterator[Path]:
        parts = pattern.parts
        if parts[-2:] == ("**", "*"):
            parts = parts[:-1]  # the same files, without the folders that hold them
        return self._below(Path(pattern.anchor), parts[1:] if pattern.anchor else parts)

    def _below(self, folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        """What the rest of a pattern matches in `folder`."""
        part, rest = parts[0], parts[1:]
        if part == "**":
            for inside, files in self._folders(folder, _is_visible):
                yield from self._below(inside, rest) if rest else files
            return
        names = [name for name in self._names(folder) if _fits(name, part)] if glob.has_magic(part) else [part]
        for path in [folder / name for name in names]:
            if not self._is_there(path):
                continue
            if not rest:
                yield path
            elif (status := self._status(path)) and stat.S_ISDIR(status.st_mode):
                yield from self._below(path, rest)

    def _folders(self, top: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[Path, list[Path]]]:
        """`top` and the folders below it, each once, with what else is in it, as far as the names are wanted."""
        seen = set()
        left = [top]
        while left:
            folder = left.pop()
            status = self._status(folder)
            if status is None or _identity(status) in seen:
                continue
            seen.add(_identity(status))
            folders: list[Path] = []
            files: list[Path] = []
            for path in [folder / name for name in self._names(folder) if is_wanted(name)]:
                if found := self._status(path):
                    (folders if stat.S_ISDIR(found.st_mode) else files).append(path)
            yield folder, files
            left += reversed(folders)

    def _names(self, folder: Path) -> list[str]:
        try:
            return sorted(path.name for path in folder.iterdir())
        except OSError as error:
            self._tell(folder, error)
            return []

    def _status(self, path: Path) -> os.stat_result | None:
        """What `path` leads to; None, and a problem, if that is nowhere."""
        try:
            return path.stat()
        except OSError as error:
            # A link to a place that is closed to us leads somewhere.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and path.is_symlink():
                self.problems.append(
                    f"{path} is a link to {path.readlink()}, which is not there; restore it, or remove the link"
                )
            else:
                self._tell(path, error)
            return None

    def _is_there(self, path: Path) -> bool:
        try:
            path.lstat()
            return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            self._tell(path, error)
            return False

    def _tell(self, path: Path, error: OSError) -> None:
        self.problems.append(f"{path}: {error.strerror}; put it right, or leave it out of the paths")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _special(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
