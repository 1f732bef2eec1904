"""What is fine and what is not: this machine, the file system, and what Slurm says about a cluster profile."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.filesize import decimal as readable_bytes
from rich.table import Table

from jobs import slurm
from jobs.cluster import Cluster, Resources, load_cluster
from jobs.pipeline import STAGES
from sllm.files import RunDirectory

GIGABYTE = 10**9
SLOW_FSYNC_SECONDS = 1.0
LITTLE_SPACE = 20 * GIGABYTE


class Finding(NamedTuple):
    verdict: Literal["ok", "note", "bad"]
    what: str
    says: str


def examine(profile: str | None, console: Console) -> int:
    """Print the findings as a table. Returns the exit code: 1 if something is bad."""
    findings = [*machine(), *file_system(Path.cwd())]
    if profile is not None:
        findings += cluster_findings(load_cluster(profile))
    colours = {"ok": "green", "note": "yellow", "bad": "red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(f"[{colours[finding.verdict]}]{finding.verdict}[/]", finding.what, finding.says)
    console.print(table)
    return 1 if any(finding.verdict == "bad" for finding in findings) else 0


# --- this machine ---------------------------------------------------------------------------------


def machine() -> Iterator[Finding]:
    import torch

    yield Finding("ok", "Python", sys.version.split()[0])
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("ok", "PyTorch", f"{torch.__version__}, {', '.join(gpus) or 'no GPU here'}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("ok", "cores, memory", f"{len(os.sched_getaffinity(0))}, {readable_bytes(memory)}")
    if slurm_missing := [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]:
        yield Finding("note", "Slurm", f"{', '.join(slurm_missing)} not found: --on slurm needs a login node")


def file_system(directory: Path) -> Iterator[Finding]:
    """What the suite relies on in the file system that holds the runs."""
    free = shutil.disk_usage(directory).free
    verdict: Literal["ok", "note"] = "ok" if free > LITTLE_SPACE else "note"
    yield Finding(verdict, "free space", f"{readable_bytes(free)} at {directory}")
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".sllm-doctor-") as temporary:
            yield from _file_system_tests(Path(temporary))
    except OSError as error:
        yield Finding("bad", "file system", f"{directory}: {error.strerror}")


def _file_system_tests(directory: Path) -> Iterator[Finding]:
    data = os.urandom(1 << 20)
    started = time.perf_counter()
    with (directory / "a").open("wb") as file:
        for _ in range(32):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    speed = f"32 MB written and flushed in {seconds:.2f} s ({readable_bytes(int(32 * len(data) / seconds))}/s)"
    yield Finding("ok" if seconds < SLOW_FSYNC_SECONDS else "note", "fsync", speed)
    (directory / "b").write_bytes(b"old")
    (directory / "a").replace(directory / "b")
    yield Finding("ok", "rename", "replaces a file in one step")
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Finding("ok", "file locks", "work")
        except OSError as error:
            yield Finding("bad", "file locks", f"{error.strerror}: two submits at once would not be noticed")


# --- the cluster ----------------------------------------------------------------------------------


def cluster_findings(cluster: Cluster) -> Iterator[Finding]:
    """Slurm's configuration as far as it bears on a chain, and whether it would take each stage's job."""
    slurm.require_slurm()
    text = slurm.ask("scontrol", "show", "config")
    if text is None:
        yield Finding("bad", "Slurm", "does not answer (scontrol show config)")
        return
    config = {
        name.strip(): value.strip() for name, _, value in (line.partition("=") for line in text.split("\n")) if value
    }
    yield Finding("ok", "Slurm", config.get("SLURM_VERSION", "?"))
    yield from _preemption(config)
    accounting = slurm.ask("sacct", "-n", "-X", "-S", "now") is not None
    says = "answers" if accounting else "does not answer: `sllm status` forgets finished jobs after MinJobAge"
    yield Finding("ok" if accounting else "note", "sacct", says)
    partitions = _partitions()
    for name, stage in STAGES.items():
        resources = cluster.resources(name)
        yield from _partition(name, resources, partitions)
        refusal = _refusal(slurm.batch_text(RunDirectory(Path.cwd() / "doctor"), stage, resources, None))
        yield Finding("bad" if refusal else "ok", f"{name}: job", refusal or "Slurm would take it")


def _preemption(config: dict[str, str]) -> Iterator[Finding]:
    mode = config.get("PreemptMode", "OFF")
    if "REQUEUE" in mode:
        signals = config.get("PreemptParameters", "") + config.get("SlurmctldParameters", "")
        how = "with the job's own signal" if "send_user_signal" in signals else "with SIGTERM"
        yield Finding(
            "ok", "preemption", f"{mode}, {how}, then SIGKILL {config.get('KillWait', '?')} after the grace time"
        )
    elif mode != "OFF":
        yield Finding("note", "preemption", f"{mode}: jobs that are preempted do not come back by themselves")
    if config.get("JobRequeue") == "0":
        yield Finding("note", "requeue", "off by default here (JobRequeue=0); our jobs ask for it with --requeue")
    if found := re.search(r"cred_expire=(\d+)", config.get("AuthInfo", "")):
        yield Finding("ok", "requeue", f"a requeued job starts {int(found[1]) + 1} s later at the earliest")
    else:
        yield Finding("ok", "requeue", "a requeued job starts 121 s later at the earliest")


def _partitions() -> dict[str, dict[str, str]]:
    text = slurm.ask("scontrol", "show", "partition", "-o") or ""
    rows = [dict(field.split("=", 1) for field in line.split() if "=" in field) for line in text.split("\n") if line]
    return {row["PartitionName"]: row for row in rows}


def _partition(stage: str, resources: Resources, partitions: dict[str, dict[str, str]]) -> Iterator[Finding]:
    name = resources.partition or next((n for n, row in partitions.items() if row.get("Default") == "YES"), None)
    if name is None or name not in partitions:
        yield Finding("bad", f"{stage}: partition", f"{name} does not exist; there are: {', '.join(partitions)}")
        return
    row = partitions[name]
    if row.get("State") != "UP":
        yield Finding("bad", f"{stage}: partition", f"{name} is {row.get('State')}")
    limit = _minutes(row.get("MaxTime", "UNLIMITED"))
    if limit is not None and resources.time_minutes > limit:
        says = f"{resources.time_minutes} is above the limit of {name}: set at most {limit:.0f}"
        yield Finding("bad", f"{stage}: time_minutes", says)
    grace = int(row.get("GraceTime", "0"))
    if "REQUEUE" in row.get("PreemptMode", "") and stage == "pretrain":
        says = f"{grace} s in {name}" + ("" if grace else ": a checkpoint has KillWait only")
        yield Finding("ok" if grace else "note", f"{stage}: grace time", says)


def _minutes(limit: str) -> float | None:
    """Slurm's [days-]hours:minutes:seconds in minutes; None for no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", limit)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 1440 * days + 60 * hours + minutes + seconds / 60


def _refusal(text: str) -> str:
    """Why Slurm would not take this batch script; empty if it would."""
    try:
        done = subprocess.run(
            ["sbatch", "--test-only"], input=text, capture_output=True, text=True, timeout=slurm.COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired:
        return "sbatch --test-only does not answer"
    return "" if done.returncode == 0 else slurm.sbatch_message(done.stderr)
