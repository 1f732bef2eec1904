"""A private Slurm cluster in one directory, for tests and for trying: real daemons, fake GPUs, requeues in seconds.

Two GPU nodes with two `gpu:h100` each (plain files), one CPU node, all on this host. The cluster owns its munge key,
its database, its sockets and its ports; nothing is written outside the directory but control groups in the kernel, so
several clusters run side by side and next to a real one. `down` kills every process and removes the directory.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs import hints
from jobs.tools.dev_conf import search_path, user
from jobs.tools.dev_daemons import Daemons
from jobs.tools.dev_processes import FREEZER, MEMORY, SECONDS_TO_END, kill, may_group, processes, remove_groups
from sllm.errors import UserError
from sllm.files import CorruptError, read_object, write_json

STATE = "dev-cluster.json"  # marks a directory as ours; without it nothing is ever removed

# Debian package of each program needed; the second group only for accounting.
PACKAGES = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client"}
ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",
}


def missing_packages(*, accounting: bool = True) -> list[str]:
    """Debian packages that a cluster needs and this machine lacks."""
    programs = PACKAGES | (ACCOUNTING_PACKAGES if accounting else {})
    return [package for program, package in programs.items() if not shutil.which(program, path=search_path())]


def up(directory: Path, *, accounting: bool = True, user_signal: bool = True, cpus: int = 4) -> "DevCluster":
    """Start a cluster in a new directory and return when every node is idle.

    Args:
        directory: created; must not exist yet.
        accounting: run MariaDB and slurmdbd, so that `sacct` answers.
        user_signal: preemption sends the job's own `--signal` first; without it, SIGTERM.
        cpus: of each node, as Slurm is told.

    Raises:
        UserError: packages are missing, the directory exists or cannot be used, or a daemon did not come up (with the
            end of its log). Nothing is left behind.
    """
    directory = Path(directory).resolve()  # one spelling: processes are found by it
    if missing := missing_packages(accounting=accounting):
        raise UserError(f"a private Slurm needs: apt-get install --no-install-recommends {' '.join(missing)}")
    # Slurm's configuration has no quoting, and a socket path ends at 107 bytes: job steps add 47 to the directory.
    if not re.fullmatch(r"[\w./+-]{1,60}", str(directory), re.ASCII):
        raise UserError(f"{directory}: choose a path of at most 60 letters, digits and ./+-_ (sockets live in it)")
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{directory} exists: take that cluster down, or choose another directory") from None
    except OSError as error:
        raise UserError(f"{directory} cannot be created: {error.strerror}") from None

    write_json(
        directory / STATE,
        {
            "accounting": accounting,
            "user_signal": user_signal,
            "proctrack": "cgroup" if may_group(FREEZER, directory) else "linuxproc",
            "limits_memory": may_group(MEMORY, directory),
            "cpus": cpus,
        },
    )
    cluster = attach(directory)
    try:
        cluster.start()
    except BaseException:
        cluster.down()
        raise
    return cluster


def up_or_running(directory: Path) -> "DevCluster":
    """The cluster that runs in `directory`, or a new one there.

    Raises:
        UserError: as `up` does; or one was started there and does not answer any more, after a restart of the machine
            for example.
    """
    if not (Path(directory) / STATE).exists():
        return up(directory)
    cluster = attach(directory)
    try:
        cluster.run("scontrol", "ping")
    except (OSError, RuntimeError):
        raise UserError(
            f"{directory}: its Slurm does not answer any more; `{hints.command('dev-cluster', 'down', directory)}`, "
            f"then up again"
        ) from None
    return cluster


def attach(directory: Path) -> "DevCluster":
    """The cluster that `up` started in `directory`, perhaps from another process.

    Raises:
        UserError: there is none.
    """
    directory = Path(directory).resolve()
    try:
        state = read_object(directory / STATE)
    except (FileNotFoundError, NotADirectoryError, CorruptError):
        raise UserError(f"{directory} holds no development cluster") from None
    return DevCluster(directory, **state)


def down(directory: Path) -> None:
    """Kill every process of the cluster in `directory`, its jobs included, and remove the directory.

    Without cgroups one kind can escape: a process that a job has detached and stripped of its environment.

    Raises:
        UserError: there is no cluster.
    """
    directory = Path(directory).resolve()
    if not (directory / STATE).exists() and not processes(directory):
        raise UserError(f"{directory} holds no development cluster")
    kill(directory)
    remove_groups(directory)
    if (directory / STATE).exists():
        shutil.rmtree(directory)


@contextmanager
def running(
    directory: Path, *, accounting: bool = True, user_signal: bool = True, cpus: int = 4
) -> Iterator["DevCluster"]:
    """A cluster for the length of a `with` block, taken down at its end or when this process dies, however it dies."""
    # Only another process outlives SIGKILL. It waits at a pipe whose other end is ours alone.
    script = "import sys; from jobs.tools.dev_cluster import _guard; _guard(sys.argv[1])"
    guard = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(directory).resolve())],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        cluster = up(directory, accounting=accounting, user_signal=user_signal, cpus=cpus)
        try:
            yield cluster
        finally:
            cluster.down()
    finally:
        guard.communicate(b"done\n")


def _guard(directory: str) -> None:
    sys.stdin.readline()  # a line, or nothing when whoever should have written it is dead
    if (Path(directory) / STATE).exists():
        down(Path(directory))


class DevCluster(Daemons):
    """A running cluster: its jobs, and what befalls them. Use `up` or `attach`."""

    def job(self, job: int | str) -> dict[str, str]:
        """The fields of `scontrol show job`: JobState, Reason, Restarts, BatchHost, PreemptTime, ..."""
        line = self.run("scontrol", "show", "job", "-o", str(job))
        return dict(field.split("=", 1) for field in re.split(r"\s+(?=[\w:/]+=)", line))

    def wait_for(
        self, job: int | str, state: str, timeout: float = 600.0, *, restarts: int | None = None
    ) -> dict[str, str]:
        """Wait until a job is in `state` (and in its attempt number `restarts`, if given); return its fields.

        Raises:
            TimeoutError: it was not, for `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            fields = self.job(job)
            if fields["JobState"] == state and (restarts is None or fields["Restarts"] == str(restarts)):
                return fields
            if time.monotonic() > deadline:
                now = ", ".join(f"{key}={fields[key]}" for key in ("JobState", "Reason", "Restarts", "ExitCode"))
                raise TimeoutError(f"job {job} was not {state} within {timeout:g} s: {now}")
            time.sleep(0.1)

    def cancel_all(self) -> None:
        """Cancel every job and wait until the last one has left its nodes.

        Raises:
            TimeoutError: a job did not, for SECONDS_TO_END.
        """
        self.run("scancel", "--user", user())
        deadline = time.monotonic() + SECONDS_TO_END
        while left := self.run("squeue", "-h"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs survive scancel: {left}")
            time.sleep(0.1)

    def set_node(self, node: str, state: str) -> None:
        """Set a node "down" (its jobs are requeued) or "resume" it."""
        self.run("scontrol", "update", f"nodename={node}", f"state={state}", "reason=dev-cluster")

    def lose(self, node: str) -> None:
        """Lose a node: its slurmd is killed and it is set down. Its jobs are requeued, and their processes run on."""
        self.kill_slurmd(node)
        self.set_node(node, "down")

    def preempt(self, nodes: int = 2) -> None:
        """Take all GPUs of so many nodes for an instant, by a job in the partition urgent that preempts the others."""
        options = ["--partition=urgent", f"--nodes={nodes}", "--gres=gpu:h100:2", "--output=/dev/null"]
        self.run("sbatch", *options, "--wrap=true")

    def down(self) -> None:
        """See `down`. Taking a cluster down twice is fine."""
        if (self.directory / STATE).exists():
            down(self.directory)
        for daemon in self.started.values():
            daemon.wait()
        self.started.clear()
