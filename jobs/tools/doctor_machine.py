"""What one machine can do for a run, judged: the one we are on, or a compute node. `probe.look` saw it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from rich.filesize import decimal as readable_bytes

from jobs import hints
from jobs.describe import data_bytes, data_room, run_room
from jobs.slurm.cluster import Resources
from sllm.config import Experiment
from sllm.run_directory import RunDirectory

HUB = "https://huggingface.co"
LITTLE_SPACE = 20 * 10**9
SLOW = 32 * 10**6
"""Bytes a second to disk under which checkpoints of any size are a nuisance."""

Verdict = Literal["ok", "note", "bad"]


class Finding(NamedTuple):
    verdict: Verdict
    what: str
    says: str
    remedy: str = ""
    """YAML that the profile should say."""


@contextmanager
def place(experiment: Experiment | None) -> Iterator[tuple[Path | None, str]]:
    """A directory for tests where the runs will be, with a file for compute nodes to look for; or why there is none."""
    runs = Path(experiment.runs_directory if experiment else "runs").absolute()
    while not runs.is_dir():
        runs = runs.parent
    with ExitStack() as stack:
        found: tuple[Path | None, str]
        try:
            temporary = TemporaryDirectory(dir=runs, prefix=".sllm-doctor-", ignore_cleanup_errors=True)
            directory = Path(stack.enter_context(temporary))
            (directory / directory.name).write_text(directory.name, encoding="utf-8")
            found = directory, ""
        except OSError as error:
            found = None, f"{runs}: cannot be written ({error.strerror})"
        yield found


def look_arguments(directory: Path | None, experiment: Experiment | None) -> list[str]:
    """Of `probe.look`."""
    token, data = directory.name if directory else "", experiment.data_directory if experiment else ""
    return [str(directory), token, _hub(), data]


def _hub() -> str:
    """Host, and port if it is not 443, of the hub that datasets come from."""
    return os.environ.get("HF_ENDPOINT", HUB).split("://")[-1].split("/")[0]


def machine(
    where: str, seen: dict[str, Any], experiment: Experiment | None, resources: Resources | None
) -> Iterator[Finding]:
    """What `probe.look` saw: here, or with `resources` on a compute node."""
    size = f"{seen['cores']} cores, {readable_bytes(seen['memory'])} of memory"
    yield Finding("ok", f"{where}: machine", f"{seen['node']}, {size}, Python {seen['python']}")
    if seen["missing"]:
        yield Finding(
            "bad", f"{where}: packages", f"not installed: {', '.join(seen['missing'])}", _setup_line(resources)
        )
    if seen["torch_error"]:
        yield Finding("bad", f"{where}: PyTorch", seen["torch_error"], _setup_line(resources))
    else:
        yield _gpus(where, seen, resources)
    reached = "yes" if seen["reaches"] else f"no: {_hub()} cannot be reached from there"
    if resources is not None and not seen["reaches"]:
        reached += f"; run `{hints.command('download', 'CONFIG')}` where it can be, W&B records offline"
    yield Finding("ok" if seen["reaches"] else "note", f"{where}: internet", reached)
    if resources is not None and "shared" in seen:
        says = "a file written here is seen there" if seen["shared"] else "a file written here is not seen there"
        yield Finding("ok" if seen["shared"] else "bad", f"{where}: shared files", says)
    if seen.get("shared"):
        yield from _disk(where, seen, experiment)


def _setup_line(resources: Resources | None) -> str:
    return (
        'defaults: {setup: ["source /path/to/your/environment/bin/activate"]}'
        if resources and not resources.setup
        else ""
    )


def _gpus(where: str, seen: dict[str, Any], resources: Resources | None) -> Finding:
    what, torch = f"{where}: PyTorch", f"{seen['torch']}"
    if seen["gpus"]:
        return Finding("ok", what, f"{torch}, {', '.join(seen['gpus'])}")
    if resources is None or resources.promised_device != "gpu":
        return Finding("ok", what, f"{torch}, no GPU")
    if seen["given"] is None:
        says = f"{torch}, no GPU, nor does Slurm name one to the job: are they real? If not, set device: cpu"
        return Finding("note", what, says)
    return Finding("bad", what, f"{torch} cannot use the GPU that Slurm gives: driver, or PyTorch without CUDA?")


def _disk(where: str, seen: dict[str, Any], experiment: Experiment | None) -> Iterator[Finding]:
    if experiment is None:
        free = f"{readable_bytes(seen['free'])} free"
        yield Finding("ok" if seen["free"] > LITTLE_SPACE else "note", f"{where}: space", free)
    else:
        yield from _space(where, seen, experiment)
    if seen["write_error"]:
        yield Finding("bad", f"{where}: run directory", f"cannot be written ({seen['write_error']})")
        return
    speed = seen["bytes_per_second"]
    says = f"{readable_bytes(int(speed))}/s to disk (fsync)"
    yield Finding("ok" if speed > SLOW else "note", f"{where}: speed", says)
    if not seen["replaces"]:
        says = "a file that is replaced is missing for an instant: keep runs on another file system"
        yield Finding("bad", f"{where}: rename", says)
    if seen["locks_error"]:
        says = f"{seen['locks_error']}: two submits at once would not be noticed"
        yield Finding("bad", f"{where}: file locks", says)
    if seen["replaces"] and not seen["locks_error"]:
        yield Finding("ok", f"{where}: files", "rename replaces in one step, locks work")


def _space(where: str, seen: dict[str, Any], experiment: Experiment) -> Iterator[Finding]:
    """Whether there is room for all that is still to be written, on one disk or on two."""
    run_says, run_bytes = run_room(experiment)
    run = RunDirectory(experiment.run_path)
    files = [file.stat() for folder in (run.checkpoints, run.best) for file in folder.rglob("*.safetensors")]
    there = sum({about.st_ino: about.st_size for about in files}.values())  # the best model may be a link
    run_bytes = max(0, run_bytes - there)
    corpus, tokens, _ = data_bytes(experiment)
    data, data_says = corpus + tokens, data_room(experiment)
    disks = [("space", seen["free"], run_bytes, run_says), ("data: space", seen["data_free"], data, data_says)]
    if seen["data_free"] is None:
        disks = [("space", seen["free"], run_bytes + data, f"{run_says}, {data_says}")]
    for what, free, needed, says in disks:
        verdict: Verdict = "ok" if free > needed else "bad"
        yield Finding(verdict, f"{where}: {what}", f"{readable_bytes(free)} free; {says}")
