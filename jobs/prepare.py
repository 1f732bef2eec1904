"""Make a run directory ready: one submit at a time, the former training set aside, and what is submitted written
down: experiment, cluster profile, keys, code, environment."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any, TextIO

from jobs.cluster import Cluster
from jobs.ledger import read_or_none
from jobs.pipeline import Keys, former_training, set_aside
from sllm.config import Experiment, write_experiment
from sllm.errors import UserError
from sllm.files import (
    CorruptError,
    RunDirectory,
    atomic_directory,
    read_json,
    read_manifest,
    sha256,
    write_json,
    write_text,
)

TREE = Path(__file__).parent.parent
PACKAGES = ("sllm", "jobs")

ROOM = 8 << 20
"""Bytes that must fit on the disk of a run before anything is written to it: more than all that a submit writes."""


# --- one at a time --------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(run: RunDirectory, data: Path, command: str) -> Iterator[None]:
    """Hold the run for this process. Raises UserError if another one does, or if the run directory or the data
    directory cannot be written."""
    _require_writable(run.path, "runs_directory")
    _require_writable(data, "data_directory")
    file = _lock_file(run).open("a+", encoding="utf-8", errors="backslashreplace")
    with file:
        try:
            _take(file)
        except BlockingIOError:
            holder = read_or_none(_lock_file(run)) or {}
            raise UserError(
                f"{run.path}: `{holder.get('command')}` is at work on this run (process {holder.get('pid')} on "
                f"{holder.get('node')}); wait for it, or end it with `sllm cancel {run.name}`"
            ) from None
        except OSError as error:
            raise UserError(f"{run.path}: this file system has no file locks ({error.strerror})") from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "node": platform.node(), "command": command, "since": time.time()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _take(file: TextIO) -> None:
    """Lock, but not give up for the instant that a `lock_holder` elsewhere takes to look."""
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _require_writable(directory: Path, key: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(ROOM))
    except OSError as error:
        raise UserError(
            f"{directory}: cannot be written ({error.strerror}); choose another place with {key}=…"
        ) from None


def lock_holder(run: RunDirectory) -> dict[str, Any] | None:
    """pid, node, command and start of the process that holds the run, or None."""
    try:
        file = _lock_file(run).open("r", encoding="utf-8")
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            return read_or_none(_lock_file(run))
        except OSError:
            return None


def _lock_file(run: RunDirectory) -> Path:
    return run.path / ".lock"


# --- setting aside --------------------------------------------------------------------------------


def swap_training(run: RunDirectory, keys: Keys) -> None:
    """If the run's checkpoints are of other settings, move them to previous/<fingerprint>/, and bring back those that
    were set aside under the present settings, if there are any. Repeating it after a crash finishes the move."""
    former, key = former_training(run), keys["pretrain"]
    if former is not None and former != key:
        _move_training(run.path, set_aside(run, former))
    if former != key and set_aside(run, key).is_dir():
        _move_training(set_aside(run, key), run.path)
        set_aside(run, key).rmdir()


def _move_training(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    names = ["best", "report", "wandb", "wandb.json", "metrics.jsonl"]
    names += [f"stages/{stage}" for stage in ("benchmark", "validate", "pretrain")]
    # Checkpoints last: while they are there, the move is not over.
    for name in [*names, "checkpoints"]:
        if (source / name).exists():
            (target / name).parent.mkdir(exist_ok=True)
            (source / name).rename(target / name)
    with contextlib.suppress(OSError):
        (source / "stages").rmdir()


# --- what was submitted ---------------------------------------------------------------------------


def write_submission(run: RunDirectory, experiment: Experiment, keys: Keys, cluster: Cluster | None) -> None:
    """Write down the experiment, its keys and, for a launcher, the cluster profile."""
    write_text(run.config, write_experiment(experiment))
    write_json(run.path / "keys.json", keys)
    if cluster is not None:
        write_text(run.cluster, cluster.to_yaml())
    write_text(run.environment, describe_environment())


def snapshot_code(run: RunDirectory) -> None:
    """Copy the packages as they are now to run.code, unless that is what it holds."""
    files = [file for package in PACKAGES for file in sorted((TREE / package).rglob("*.py"))]
    names = {file.relative_to(TREE).as_posix(): file for file in files}
    try:
        old = {entry["name"]: entry["sha256"] for entry in read_manifest(run.code)["files"]}
    except CorruptError:
        old = {}
    if old == {name: sha256(file) for name, file in names.items()}:
        return
    with atomic_directory(run.code) as temporary:
        for name, file in names.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, temporary / name)
    _copy_compiled(run)


def _copy_compiled(run: RunDirectory) -> None:
    """Give the copy what numba has compiled of the same sources for the checkout or another run, to save the seconds
    that compiling takes. numba itself checks that source, version and CPU agree. The manifest leaves these files out,
    because numba adds to them."""
    for other in (TREE, *run.path.parent.glob("*/code")):
        for cache in {file.parent for package in PACKAGES for file in (other / package).rglob("__pycache__/*.nbi")}:
            folder = run.code / cache.parent.relative_to(other)
            temporary = folder / ".compiled.tmp"
            if (folder / "__pycache__").exists() or _sources(folder) != _sources(cache.parent):
                continue
            with contextlib.suppress(OSError):  # of a file that numba replaces meanwhile
                temporary.mkdir()
                for file in cache.glob("*.nb[ci]"):
                    shutil.copyfile(file, temporary / file.name)
                temporary.rename(folder / "__pycache__")
            shutil.rmtree(temporary, ignore_errors=True)


def _sources(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.py")}


def describe_environment() -> str:
    """Versions of everything, and the commit. Never environment variables: they hold keys and passwords."""
    of = commit()
    changes = _git("status", "--porcelain", "--", *PACKAGES)
    lines = [
        f"commit: {of or 'not a git checkout'}",
        f"dirty: {'unknown' if changes is None else 'yes' if changes else 'no'}",
        f"python: {sys.version.split()[0]} ({sys.executable})",
        f"platform: {platform.platform()}",
        "",
        *sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower),
    ]
    return "\n".join(lines) + "\n"


def commit() -> str | None:
    """Of the checkout, or of the repository that pip installed from."""
    if own := _git("rev-parse", "HEAD"):
        return own
    with contextlib.suppress(PackageNotFoundError, CorruptError, KeyError):
        for file in distribution("sllm").files or ():
            if file.name == "direct_url.json":
                of: str = read_json(Path(file.locate()))["vcs_info"]["commit_id"]
                return of
    return None


def _git(*arguments: str) -> str | None:
    """What git says of this checkout; None if it is none, such as a site-packages inside somebody else's."""
    if not (TREE / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(TREE), *arguments], capture_output=True, check=True)
        return done.stdout.decode("utf-8", "replace").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
