"""A private Slurm cluster in one directory, for tests and for trying: real daemons, fake GPUs, requeues in seconds.

Two GPU nodes with two `gpu:h100` each (plain files), one CPU node, all on this host. The cluster owns its munge key,
its database, its sockets and its ports; nothing is written outside the directory but control groups in the kernel, so
several clusters run side by side and next to a real one. `down` kills every process and removes the directory.

Slurm is configured as on a production cluster (slurmdbd, preemption by partition, requeue, process tracking and memory
limits by cgroup where the kernel allows), only with the delays cut to seconds. CPUs are declared, not enforced.
"""

import hashlib
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from jobs import hints
from jobs.slurm import commands
from sllm.errors import UserError
from sllm.files import CorruptError, read_object, write_json

STATE = "dev-cluster.json"  # marks a directory as ours; without it nothing is ever removed
MARKER = "SLLM_DEV_CLUSTER"  # in the environment of every daemon, holding the directory
FREEZER, MEMORY = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup/memory")
SECONDS_TO_START = 300.0
SECONDS_TO_END = 300.0
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")

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
    return [package for program, package in programs.items() if not shutil.which(program, path=_path())]


def up(directory: Path, *, accounting: bool = True, user_signal: bool = True) -> "DevCluster":
    """Start a cluster in a new directory and return when every node is idle.

    Args:
        directory: created; must not exist yet.
        accounting: run MariaDB and slurmdbd, so that `sacct` answers.
        user_signal: preemption sends the job's own `--signal` first; without it, SIGTERM.

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
            "proctrack": "cgroup" if _may_group(FREEZER, directory) else "linuxproc",
            "limits_memory": _may_group(MEMORY, directory),
        },
    )
    cluster = attach(directory)
    try:
        cluster._start()
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
    if not (directory / STATE).exists() and not _processes(directory):
        raise UserError(f"{directory} holds no development cluster")
    # Nothing in here is worth an orderly end, and a daemon or a job may fork while we look: kill until none is left.
    deadline = time.monotonic() + SECONDS_TO_END
    killed: set[int] = set()
    while processes := _processes(directory) | {process for process in killed if not _has_ended(process)}:
        if time.monotonic() > deadline:
            raise UserError(f"processes {sorted(processes)} of {directory} survive SIGKILL")
        for process in processes:
            _kill(process)
        killed |= processes
        time.sleep(0.05)
    for group in _control_groups(directory):
        group.rmdir()
    if (directory / STATE).exists():
        shutil.rmtree(directory)


@contextmanager
def running(directory: Path, *, accounting: bool = True, user_signal: bool = True) -> Iterator["DevCluster"]:
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
        cluster = up(directory, accounting=accounting, user_signal=user_signal)
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


class DevCluster:
    """A running cluster. Use `up` or `attach`.

    Attributes:
        env: variables that point Slurm's commands at this cluster: SLURM_CONF, and PATH with the system directories.
        gpu_nodes, cpu_nodes: node names. They differ between clusters, because Slurm names control groups after them.
        proctrack: "cgroup", which signals as production does, or "linuxproc" where the kernel or our rights forbid it:
            that one signals a job step's whole process tree instead of the children of slurmstepd.
        limits_memory: whether a job that outgrows its memory is killed.
    """

    def __init__(
        self, directory: Path, *, accounting: bool, user_signal: bool, proctrack: str, limits_memory: bool
    ) -> None:
        self.directory = directory
        self.accounting = accounting
        self.user_signal = user_signal
        self.proctrack = proctrack
        self.limits_memory = limits_memory
        self.gpu_nodes = [f"{_tag(directory)}-gpu1", f"{_tag(directory)}-gpu2"]
        self.cpu_nodes = [f"{_tag(directory)}-cpu1"]
        self.env = {"SLURM_CONF": str(directory / "slurm.conf"), "PATH": _path()}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}  # those started by this process

    @property
    def nodes(self) -> list[str]:
        return self.gpu_nodes + self.cpu_nodes

    # --- using it ---------------------------------------------------------------------------------

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a command (`sbatch`, `squeue`, ...) on this cluster and return what it printed, stripped.

        Raises:
            RuntimeError: the command failed; the message holds its standard error.
        """
        result = subprocess.run(
            [str(part) for part in command],
            env=commands.own_variables() | self.env,
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
        )
        if result.returncode != 0:
            output = (result.stderr or result.stdout).strip()
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {result.returncode}: {output}")
        return result.stdout.strip()

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
        self.run("scancel", "--user", _user())
        deadline = time.monotonic() + SECONDS_TO_END
        while left := self.run("squeue", "-h"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs survive scancel: {left}")
            time.sleep(0.1)

    def node_states(self) -> dict[str, str]:
        """State of each node in `sinfo`'s compact form ("idle", "mix", "alloc", "down*", ...)."""
        return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-o", "%N %t").splitlines())

    def set_node(self, node: str, state: str) -> None:
        """Set a node "down" (its jobs are requeued) or "resume" it."""
        self.run("scontrol", "update", f"nodename={node}", f"state={state}", "reason=dev-cluster")

    def kill_slurmd(self, node: str) -> None:
        """Kill a node's slurmd with SIGKILL. Its jobs run on, as on a node that lost the network."""
        while processes := [p for p in _processes(self.directory) if _arguments(p) == self._slurmd(node)]:
            for process in processes:
                _kill(process)
            time.sleep(0.05)
        if daemon := self._daemons.pop(node, None):
            daemon.wait()

    def lose(self, node: str) -> None:
        """Lose a node: its slurmd is killed and it is set down. Its jobs are requeued, and their processes run on."""
        self.kill_slurmd(node)
        self.set_node(node, "down")

    def preempt(self, nodes: int = 2) -> None:
        """Take all GPUs of so many nodes for an instant, by a job in the partition urgent that preempts the others."""
        options = ["--partition=urgent", f"--nodes={nodes}", "--gres=gpu:h100:2", "--output=/dev/null"]
        self.run("sbatch", *options, "--wrap=true")

    def start_slurmd(self, node: str) -> None:
        """Start a node's slurmd again and wait until the node takes jobs."""
        self._launch(node, self._slurmd(node))
        self._await(node, partial(self._usable, node))

    def down(self) -> None:
        """See `down`. Taking a cluster down twice is fine."""
        if (self.directory / STATE).exists():
            down(self.directory)
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()

    # --- starting it ------------------------------------------------------------------------------

    def _start(self) -> None:
        for name in ("log", "run", "state", "spool", "gpu", "tmp"):
            (self.directory / name).mkdir()
        for name in ("gpu0", "gpu1"):
            (self.directory / "gpu" / name).touch()
        self._write_secret("munge.key", os.urandom(128))
        daemons = ["slurmctld", "slurmdbd", *self.nodes]
        ports = dict(zip(daemons, _free_ports(len(daemons)), strict=True))
        self._write("slurm.conf", self._slurm_conf(ports))
        limit = "ConstrainRAMSpace=yes\n" if self.limits_memory else ""
        self._write("cgroup.conf", f"CgroupPlugin=cgroup/v1\n{limit}")
        self._write("gres.conf", f"Name=gpu Type=h100 File={self.directory}/gpu/gpu[0-1]\n")

        # --force: munged wants its socket open to all users of the machine; ours alone is enough here.
        munged = ["munged", "--foreground", "--force", f"--key-file={self.directory}/munge.key"]
        munged += [f"--socket={self._run_file('munge.socket')}", f"--pid-file={self._run_file('munged.pid')}"]
        munged += [f"--seed-file={self._run_file('munge.seed')}"]
        self._launch("munged", munged)
        self._await("munged", lambda: _answers(self._run_file("munge.socket")))
        if self.accounting:
            self._start_accounting(ports["slurmdbd"])
        self._launch("slurmctld", ["slurmctld", "-D"])
        self._await("slurmctld", lambda: _answers(("127.0.0.1", ports["slurmctld"])))
        for node in self.nodes:
            self._launch(node, self._slurmd(node))
        for node in self.nodes:
            self._await(node, partial(self._usable, node))

    def _start_accounting(self, port: int) -> None:
        database = ["--no-defaults", f"--datadir={self.directory}/db", f"--tmpdir={self.directory}/tmp"]
        database += ["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=32M"]
        database += ["--aria-log-file-size=8M", "--skip-performance-schema"]
        database += ["--debug-no-sync"]  # it dies with its directory; syncing costs seconds on a busy disk
        database += [f"--socket={self._run_file('mariadb.socket')}"]
        # Not --user: with it, mariadb-install-db changes the owner of a system MariaDB's PAM helper.
        options = ["--skip-test-db", f"--auth-root-socket-user={_user()}"]
        install = self._launch("mariadb-install-db", ["mariadb-install-db", *database, *options])
        if install.wait() != 0:
            raise self._failure("mariadb-install-db", f"ended with {install.returncode}")
        self._launch("mariadbd", ["mariadbd", *database, f"--user={_user()}", "--skip-networking"])
        self._await("mariadbd", lambda: _answers(self._run_file("mariadb.socket")))

        self._write_secret("slurmdbd.conf", self._slurmdbd_conf(port).encode("utf-8"))
        self._launch("slurmdbd", ["slurmdbd", "-D"])
        self._await("slurmdbd", lambda: _answers(("127.0.0.1", port)))
        self.run("sacctmgr", "-i", "add", "cluster", "dev")
        self.run("sacctmgr", "-i", "add", "account", "dev", "cluster=dev")
        self.run("sacctmgr", "-i", "add", "user", _user(), "account=dev", "cluster=dev")

    def _slurm_conf(self, ports: Mapping[str, int]) -> str:
        host = socket.gethostname().split(".")[0]
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[node]} CPUs=4 RealMemory=16000"
            + (" Gres=gpu:h100:2" if node in self.gpu_nodes else "")
            for node in self.nodes
        ]
        gpu, cpu = ",".join(self.gpu_nodes), ",".join(self.cpu_nodes)
        accounting = f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports["slurmdbd"]}
AccountingStoragePass={self._run_file("munge.socket")}
AccountingStorageTRES=gres/gpu
"""
        return f"""\
ClusterName=dev
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports["slurmctld"]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={_user()}
SlurmdUser={_user()}
AuthType=auth/munge
# A requeued job waits for cred_expire + 1 s; 5 is the least, 120 the default.
AuthInfo=cred_expire=5,socket={self._run_file("munge.socket")}
StateSaveLocation={self.directory}/state
SlurmdSpoolDir={self.directory}/spool/%n
SlurmctldPidFile={self._run_file("slurmctld.pid")}
SlurmdPidFile={self._run_file("slurmd-%n.pid")}
SlurmctldLogFile={self.directory}/log/slurmctld.log
SlurmdLogFile={self.directory}/log/%n.log
{accounting if self.accounting else ""}\
ProctrackType=proctrack/{self.proctrack}
JobAcctGatherType=jobacct_gather/linux
TaskPlugin=task/{"cgroup" if self.limits_memory else "none"}
SwitchType=switch/none
MpiDefault=none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=30
MinJobAge=300
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=100000,requeue_setup_env_fail
{_user_signal_line() if self.user_signal else ""}
# The nodes promise more than this machine has.
SlurmdParameters=config_overrides
{chr(10).join(nodes)}
PartitionName=DEFAULT MaxTime=2-00:00:00 PriorityTier=10 PreemptMode=REQUEUE GraceTime=10
PartitionName=cpu Nodes={cpu} Default=YES
PartitionName=gpu Nodes={gpu}
PartitionName=gpu_grace60 Nodes={gpu} GraceTime=60
PartitionName=gpu_nograce Nodes={gpu} GraceTime=0
PartitionName=urgent Nodes=ALL PriorityTier=100 PreemptMode=OFF
"""

    def _slurmdbd_conf(self, port: int) -> str:
        return f"""\
AuthType=auth/munge
AuthInfo=socket={self._run_file("munge.socket")}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={_user()}
PidFile={self._run_file("slurmdbd.pid")}
LogFile={self.directory}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={_user()}
StorageLoc=slurm_acct_db
"""

    def _slurmd(self, node: str) -> list[str]:
        return ["slurmd", "-D", "-N", node]

    def _launch(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        # A bare environment: what daemons inherit from a developer's shell must not decide how jobs behave.
        environment = self.env | {
            MARKER: str(self.directory),
            "MYSQL_UNIX_PORT": self._run_file("mariadb.socket"),  # slurmdbd has no setting for the socket
            "LANG": "C.UTF-8",
        }
        with (self.directory / "log" / f"{name}.err").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
            )
        self._daemons[name] = process
        return process

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready()`; raise UserError when daemon `name` has ended or takes too long."""
        deadline = time.monotonic() + SECONDS_TO_START
        while not ready():
            if (code := self._daemons[name].poll()) is not None:
                raise self._failure(name, f"ended with {code}")
            if time.monotonic() > deadline:
                raise self._failure(name, f"is not ready after {SECONDS_TO_START:g} s")
            time.sleep(0.05)

    def _usable(self, node: str) -> bool:
        return self.node_states()[node] in ("idle", "mix", "alloc", "comp")

    def _failure(self, name: str, what: str) -> UserError:
        log = (self.directory / "log" / f"{name}.err").read_text(encoding="utf-8", errors="replace")
        return UserError("\n  ".join([f"{name} {what}; its log ends with:", *log.splitlines()[-12:]]))

    def _run_file(self, name: str) -> str:
        return f"{self.directory}/run/{name}"

    def _write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, encoding="utf-8")

    def _write_secret(self, name: str, content: bytes) -> None:
        with open(self.directory / name, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(content)


# --- what a cluster needs from this machine -----------------------------------------------------------


def _path() -> str:
    """PATH, plus the directories where Debian keeps daemons, which users do not have in theirs."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*path, *(directory for directory in SBIN if directory not in path)])


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise UserError(f"user id {os.geteuid()} has no name in /etc/passwd, and Slurm needs one") from None


def _user_signal_line() -> str:
    """The setting that sends a job's own signal at preemption; it moved and changed its name in Slurm 23.02."""
    version = subprocess.run(
        ["slurmctld", "-V"], env={"PATH": _path()}, capture_output=True, encoding="utf-8", check=True
    ).stdout
    match = re.search(r"(\d+)\.(\d+)", version)
    assert match, f"slurmctld -V printed {version!r}"
    if (int(match[1]), int(match[2])) >= (23, 2):
        return "PreemptParameters=send_user_signal"
    return "SlurmctldParameters=preempt_send_user_signal"


def _may_group(hierarchy: Path, directory: Path) -> bool:
    """Slurm needs the root of a cgroup v1 hierarchy, and the right to make groups in it."""
    probe = hierarchy / f"slurm_{_tag(directory)}-probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return (hierarchy / "release_agent").exists()


def _free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on, below the range from which the kernel takes ports for outgoing connections."""
    sockets: list[socket.socket] = []
    try:
        for port in random.sample(range(20_000, 32_000), 1000):
            candidate = socket.socket()
            try:
                candidate.bind(("", port))
            except OSError:
                candidate.close()
                continue
            sockets.append(candidate)
            if len(sockets) == count:
                return [taken.getsockname()[1] for taken in sockets]
        raise UserError("no free TCP ports between 20000 and 32000")
    finally:
        for taken in sockets:
            taken.close()


def _answers(address: str | tuple[str, int]) -> bool:
    """Does someone accept connections at this Unix socket or (host, port)?"""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
        return client.connect_ex(address) == 0


def _tag(directory: Path) -> str:
    """Four hexadecimal digits that keep the node names, and so the control groups, of two clusters apart."""
    return "n" + hashlib.sha256(os.fsencode(directory)).hexdigest()[:4]


# --- which processes are ours -------------------------------------------------------------------------


def _processes(directory: Path) -> set[int]:
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
    name = f"slurm_{_tag(directory)}-*"
    tops = [*FREEZER.glob(name), *MEMORY.glob(name)]
    return [Path(group) for top in tops for group, _, _ in os.walk(top, topdown=False)]


def _grouped_processes(directory: Path) -> set[int]:
    processes: set[int] = set()
    for group in _control_groups(directory):
        try:
            processes.update(map(int, (group / "cgroup.procs").read_text(encoding="utf-8").split()))
        except OSError:
            continue  # Slurm removed it while we looked
    return processes


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


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
