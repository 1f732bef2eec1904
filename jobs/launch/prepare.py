"""Write down in the run directory what is submitted: experiment, cluster profile, keys, code, environment."""

import contextlib
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from jobs.pipeline import Keys
from jobs.presets import nearest_preset
from jobs.slurm.cluster import Cluster
from sllm import __version__
from sllm.config import Experiment, write_experiment
from sllm.files import CorruptError, read_object, write_json, write_text
from sllm.manifests import atomic_directory, read_manifest, sha256
from sllm.run_directory import RunDirectory

TREE = Path(__file__).parents[2]
PACKAGES = ("sllm", "jobs")


def write_submission(
    run: RunDirectory, experiment: Experiment, keys: Keys, cluster: Cluster | None = None, where: str | None = None
) -> None:
    """Write down the experiment, the one it began as, its keys and, for a launcher, the profile and where it runs."""
    write_text(run.config, write_experiment(experiment))
    write_json(run.path / "keys.json", keys)
    name, preset = nearest_preset(experiment)
    write_json(run.preset, {"name": name, "experiment": preset.to_dict()})
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
        f"sllm: {__version__}",
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
