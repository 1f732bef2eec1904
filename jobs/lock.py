"""One submit at a time works on a run; one that is refused leaves it as it was."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from jobs import hints
from jobs.branch import undo_branch
from jobs.ledger import read_or_none
from jobs.pipeline import submitted_keys
from jobs.previous import swap_training
from sllm.errors import UserError
from sllm.files import atomic_file
from sllm.run_directory import RunDirectory

ROOM = 8 << 20
"""Bytes that must fit on the disk of a run before anything is written to it: more than all that a submit writes."""


@contextlib.contextmanager
def lock(run: RunDirectory, data: Path, command: str) -> Iterator[None]:
    """Hold the run for this process. If the block raises before an attempt of a stage has begun, the run is left as it
    was found, and not at all if it was not there.

    Raises:
        UserError: another process holds the run, or the run directory or the data directory cannot be written.
    """
    missing = [path for place in (run.path, data) for path in (place, *place.parents) if _is_missing(path)]
    try:
        with _held(run, command):
            before, new = _written(run), list(run.path.iterdir()) == [_lock_file(run)]
            missing += [run.path] if new else []
            try:
                _require_writable(data, "data_directory")
                yield
            except BaseException:
                _take_back(run, before, whole=new)
                raise
    except BaseException:
        for path in sorted(set(missing), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()  # if it is empty
        raise


def _is_missing(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:  # in a folder that we may not look into
        return False


@contextlib.contextmanager
def _held(run: RunDirectory, command: str) -> Iterator[None]:
    with _open_lock(run) as file:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "node": platform.node(), "command": command, "since": time.time()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _open_lock(run: RunDirectory) -> TextIO:
    while True:
        _require_writable(run.path, "runs_directory")
        try:
            file = _lock_file(run).open("a+", encoding="utf-8", errors="backslashreplace")
        except FileNotFoundError:
            continue  # a submit that was refused has just taken its run directory back
        try:
            _take(file)
            if os.path.samestat(os.fstat(file.fileno()), _lock_file(run).stat()):
                return file
        except FileNotFoundError:
            pass  # and this file with it
        except BlockingIOError:
            file.close()
            holder = lock_holder(run) or {}
            raise UserError(
                f"{run.path}: `{holder.get('command')}` is at work on this run (process {holder.get('pid')} on "
                f"{holder.get('node')}); wait for it, or end it with `{hints.command('cancel', run)}`"
            ) from None
        except OSError as error:
            file.close()
            raise UserError(f"{run.path}: this file system has no file locks ({error.strerror})") from None
        file.close()


def _written(run: RunDirectory) -> dict[Path, bytes]:
    """What a submit writes, and what a stage that begins writes first; also in trainings that are set aside."""
    files = ["config.yaml", "cluster.yaml", "keys.json", "environment.txt", "submission.json"]
    names = ("job", "array", "attempt", "branch")
    patterns = [f"{place}stages/*/{name}.json" for place in ("", "previous/*/") for name in names]
    stages = [path for pattern in patterns for path in run.path.glob(pattern)]
    return {path: path.read_bytes() for path in [*(run.path / name for name in files), *stages] if path.is_file()}


def _attempts(written: dict[Path, bytes]) -> set[bytes]:
    return {content for path, content in written.items() if path.name == "attempt.json"}


def _take_back(run: RunDirectory, before: dict[Path, bytes], *, whole: bool) -> None:
    """Leave the run as it was, unless an attempt has begun."""
    if _attempts(_written(run)) - _attempts(before):
        return
    if whole:
        for path in sorted(run.path.iterdir(), key=lambda path: path == _lock_file(run)):  # the lock goes last
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    if run.branch.is_file() and run.branch.read_bytes() not in before.values():
        undo_branch(run)
    if (keys := before.get(run.path / "keys.json")) is not None:
        _write_back(run.path / "keys.json", keys)
        if former := submitted_keys(run):
            swap_training(run, former)  # first: it also moves files that are to be as they were
    now = _written(run)
    for path in now.keys() - before.keys():
        path.unlink()
    for path, content in before.items():
        if now.get(path) != content:
            _write_back(path, content)


def _write_back(path: Path, content: bytes) -> None:
    with atomic_file(path) as file:
        file.write(content)


def _take(file: TextIO) -> None:
    """Lock, but not give up for the instant that a `lock_holder` elsewhere takes to look."""
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _require_writable(directory: Path, key: str) -> None:
    problem: OSError | None = None
    for _ in range(20):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory) as file:
                file.write(bytes(ROOM))
            return
        except (FileNotFoundError, FileExistsError) as error:
            problem = error
            time.sleep(0.02)  # perhaps a submit that was refused is just taking it back
        except OSError as error:
            problem = error
            break
    assert problem is not None
    raise UserError(f"{directory}: cannot be written ({problem.strerror}); choose another place with {key}=…")


def lock_holder(run: RunDirectory) -> dict[str, Any] | None:
    """pid, node, command and start of the process that holds the run, or None."""
    try:
        file = _lock_file(run).open("r", encoding="utf-8")
    except OSError:
        return None
    with file:
        for _ in range(10):
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                holder = read_or_none(_lock_file(run), "pid", "node", "command")
            except OSError:
                return None
            if holder is not None:
                return holder
            time.sleep(0.02)  # it is about to write who it is
    return None


def _lock_file(run: RunDirectory) -> Path:
    return run.path / ".lock"
