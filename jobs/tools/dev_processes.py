"""The processes and control groups of a development cluster: which they are, and their end.

Nothing in them is worth an orderly end, and nothing may be left behind.
"""

import hashlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from sllm.errors import UserError

MARKER = "SLLM_DEV_CLUSTER"  # in the environment of every daemon, holding the directory
FREEZER, MEMORY = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup/memory")
SECONDS_TO_END = 300.0


def kill(directory: Path, command: Sequence[str] | None = None) -> None:
    """Kill every process of the cluster in `directory`, or those that run `command`, until none is left: a daemon or a
    job may fork while we look.

    Raises:
        UserError: processes survive.
    """
    deadline = time.monotonic() + SECONDS_TO_END
    killed: set[int] = set()

    def left() -> set[int]:
        found = processes(directory) | {process for process in killed if not _has_ended(process)}
        return found if command is None else {process for process in found if _arguments(process) == command}

    while found := left():
        if time.monotonic() > deadline:
            raise UserError(f"processes {sorted(found)} of {directory} survive SIGKILL")
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        killed |= found
        time.sleep(0.05)


def remove_groups(directory: Path) -> None:
    for group in _control_groups(directory):
        group.rmdir()


def processes(directory: Path) -> set[int]:
    """Every living process of the cluster in `directory`: daemons, job steps and all that the jobs have started.

    No single trait covers them. Daemons carry MARKER; slurmstepd overwrites its environment, but listens on a socket in
    the directory; tasks are its descendants, and those that broke away are still in the control group or carry the
    environment that Slurm gave them.
    """
    marker = f"{MARKER}={directory}".encode()
    configuration = f"SLURM_CONF={directory}/slurm.conf".encode()
    inodes = _listening_inodes(directory)
    parents: dict[int, int] = {}
    ours = _grouped_processes(directory)
    for process in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        try:
            parents[process] = int(_stat(process)[1])
            variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            in_job = configuration in variables and any(name.startswith(b"SLURMD_NODENAME=") for name in variables)
            if marker in variables or in_job or (inodes and not inodes.isdisjoint(_socket_inodes(process))):
                ours.add(process)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended while we looked, or belongs to someone else
    me = os.getpid()
    while children := {p for p, parent in parents.items() if parent in ours and p not in ours}:
        ours |= children
    while me in parents:  # spare who asks, and the shells above (perhaps one inside a job of this cluster)
        ours.discard(me)
        me = parents[me]
    return {process for process in ours if not _has_ended(process)}


def _listening_inodes(directory: Path) -> set[str]:
    """Inodes of the Unix sockets bound to a path in `directory`."""
    lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    fields = (line.split(None, 7) for line in lines[1:])
    return {field[6] for field in fields if len(field) == 8 and field[7].startswith(f"{directory}/")}


def _socket_inodes(process: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            yield target[len("socket:[") : -1]


def _control_groups(directory: Path) -> list[Path]:
    """Control groups that Slurm made for the nodes of this cluster, children before parents."""
    name = f"slurm_{tag(directory)}-*"
    tops = [*FREEZER.glob(name), *MEMORY.glob(name)]
    return [Path(group) for top in tops for group, _, _ in os.walk(top, topdown=False)]


def _grouped_processes(directory: Path) -> set[int]:
    found: set[int] = set()
    for group in _control_groups(directory):
        try:
            found.update(map(int, (group / "cgroup.procs").read_text(encoding="utf-8").split()))
        except OSError:
            continue  # Slurm removed it while we looked
    return found


def _arguments(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _stat(process: int) -> list[bytes]:
    """Fields of /proc/PID/stat (see proc(5)) from the third on: state, parent, ..."""
    return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()


def _has_ended(process: int) -> bool:
    """Is it gone, or a zombie whose threads are gone too? (They may outlive the first, and still hold files.)"""
    try:
        stat = _stat(process)
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat[0] in (b"Z", b"X") and int(stat[17]) <= 1


def tag(directory: Path) -> str:
    """Four hexadecimal digits that keep the node names, and so the control groups, of two clusters apart."""
    return "n" + hashlib.sha256(os.fsencode(directory)).hexdigest()[:4]


def may_group(hierarchy: Path, directory: Path) -> bool:
    """Slurm needs the root of a cgroup v1 hierarchy, and the right to make groups in it."""
    probe = hierarchy / f"slurm_{tag(directory)}-probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return (hierarchy / "release_agent").exists()
