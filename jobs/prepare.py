"""Make a run directory ready: one submit at a time, the former training set aside, and what is submitted written
down: experiment, cluster profile, keys, code, environment."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.prompt import Confirm
from rich.text import Text

from jobs import hints
from jobs.ledger import attempts, read_or_none
from jobs.pipeline import Keys, former_training, last_step, read_done, set_aside, setting_changes, submitted_keys
from jobs.slurm.cluster import Cluster
from sllm.config import Experiment, write_experiment
from sllm.errors import UserError
from sllm.files import CorruptError, atomic_file, delete, fingerprint, read_object, write_json, write_text
from sllm.manifests import atomic_directory, read_manifest, sha256
from sllm.progress import format_seconds
from sllm.run_directory import RunDirectory

TREE = Path(__file__).parent.parent
PACKAGES = ("sllm", "jobs")

ROOM = 8 << 20
"""Bytes that must fit on the disk of a run before anything is written to it: more than all that a submit writes."""

ASK_SECONDS = 3600.0
"""A training that took longer does not move without a question."""


# --- one at a time --------------------------------------------------------------------------------


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
    names = ["config.yaml", "cluster.yaml", "keys.json", "environment.txt", "submission.json"]
    patterns = [f"{place}stages/*/{name}.json" for place in ("", "previous/*/") for name in ("job", "array", "attempt")]
    stages = [path for pattern in patterns for path in run.path.glob(pattern)]
    return {path: path.read_bytes() for path in [*(run.path / name for name in names), *stages] if path.is_file()}


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


# --- asking ---------------------------------------------------------------------------------------


def is_interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> bool:
    """On standard error, so that it is seen when standard output goes elsewhere. Ctrl-C is an answer too, whoever else
    waits for it: KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return Confirm.ask(Text(question), console=Console(stderr=True), default=False)
    except EOFError:
        return False
    finally:
        signal.signal(signal.SIGINT, handler)


# --- setting aside --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """A training that goes to previous/ because the run has other settings now, or comes back from there."""

    source: Path
    target: Path
    steps: int
    seconds: float
    changes: tuple[str, ...] = ()
    """What the settings have that those of this training had not; none for one that comes back."""

    def __str__(self) -> str:
        what = f"{self.steps:,} steps, {format_seconds(self.seconds)}"
        if not self.changes:
            return f"The training with these settings ({what}) comes back from {hints.short(self.source)}"
        return (
            f"The former training ({what}) moves to {hints.short(self.target)}, because of {'; '.join(self.changes)}; "
            f"submitting its settings again brings it back"
        )


def training_moves(run: RunDirectory, keys: Keys) -> list[Move]:
    """What `swap_training` would do."""
    former, key = former_training(run), keys["pretrain"]
    moves = []
    if former is not None and former != key:
        changes = tuple(setting_changes(former, key)) or ("other data",)
        moves.append(Move(run.path, set_aside(run, former), *_amount(run, run, former), changes))
    if set_aside(run, key).is_dir():
        moves.append(Move(set_aside(run, key), run.path, *_amount(run, RunDirectory(set_aside(run, key)), key)))
    return moves


def _amount(run: RunDirectory, place: RunDirectory, key: dict[str, Any]) -> tuple[int, float]:
    """Steps and seconds of a training."""
    done = read_done(place, "pretrain")
    seconds = sum(line["seconds"] for line in attempts(run, "pretrain", fingerprint(key)))
    return last_step(place) or (done["summary"]["step"] if done else 0), seconds


def confirm_moves(run: RunDirectory, keys: Keys, *, yes: bool) -> None:
    """On a terminal, ask before more than an hour of training moves. Raises UserError if it must not."""
    for move in training_moves(run, keys):
        if move.changes and move.seconds > ASK_SECONDS and not yes and is_interactive() and not ask(f"{move}. Go on?"):
            raise UserError(f"{run.path}: nothing was changed; another name=… trains beside it")


def swap_training(run: RunDirectory, keys: Keys) -> list[Move]:
    """If the run's training is of other settings, move it to previous/<fingerprint>/, and bring back the one that was
    set aside under the present settings, if there is one. Repeating it after a crash finishes the move."""
    moves = training_moves(run, keys)
    for move in moves:
        _move_training(move)
    return moves


def _move_training(move: Move) -> None:
    source, target = move.source, move.target
    target.mkdir(parents=True, exist_ok=True)
    names = ["best", "report", "wandb", "wandb.json", "metrics.jsonl"]
    names += [f"stages/{stage}" for stage in ("benchmark", "validate", "pretrain")]
    names.append("checkpoints")
    if not move.changes:
        # What an attempt without a checkpoint has left in the run is no training, and gives way.
        for name in names:
            if (source / name).exists() and (target / name).exists():
                delete(target / name)
    # In the run, what tells whose training it is goes last and comes first: until then, the move is not over.
    for name in names if move.changes else reversed(names):
        if (source / name).exists():
            (target / name).parent.mkdir(exist_ok=True)
            (source / name).rename(target / name)
    for left in (source / "stages", source):
        with contextlib.suppress(OSError):
            left.rmdir()  # if it is empty


# --- what was submitted ---------------------------------------------------------------------------


def write_submission(
    run: RunDirectory, experiment: Experiment, keys: Keys, cluster: Cluster | None = None, where: str | None = None
) -> None:
    """Write down the experiment, its keys and, for a launcher, the cluster profile and where it runs."""
    write_text(run.config, write_experiment(experiment))
    write_json(run.path / "keys.json", keys)
    if cluster is not None:
        write_text(run.cluster, cluster.to_yaml())
        write_json(run.submission, {"on": where, "time": time.time()})
    write_text(run.environment, describe_environment())


def snapshot_code(run: RunDirectory) -> None:
    """Copy the packages as they are now to run.code, unless that is what it holds."""
    files = [
        file for package in PACKAGES for kind in ("*.py", "*.txt") for file in sorted((TREE / package).rglob(kind))
    ]
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
                of: str = read_object(Path(file.locate()), "vcs_info")["vcs_info"]["commit_id"]
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
