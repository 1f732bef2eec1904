"""The daemons of a development cluster: munged, MariaDB, slurmdbd, slurmctld and a slurmd for each node."""

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from jobs.slurm.attempt import PORTS
from jobs.tools.dev_conf import Layout, user
from jobs.tools.dev_processes import MARKER, kill
from sllm.errors import UserError

SECONDS_TO_START = 300.0


@dataclass
class Daemons(Layout):
    """Those of one cluster. UserError, with the end of its log, for one that does not come up."""

    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False, repr=False)
    """By this process."""

    def start(self) -> None:
        """Write what the daemons read, start them, and return when every node is idle."""
        for name in ("log", "run", "state", "spool", "gpu", "tmp"):
            (self.directory / name).mkdir()
        for name in ("gpu0", "gpu1"):
            (self.directory / "gpu" / name).touch()
        names = ["slurmctld", "slurmdbd", *self.nodes]
        ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self._write("slurm.conf", self.slurm_conf(ports))
        self._write("cgroup.conf", self.cgroup_conf())
        self._write("gres.conf", self.gres_conf())

        self._start_munge()
        if self.accounting:
            self._start_accounting(ports["slurmdbd"])
        self._launch("slurmctld", ["slurmctld", "-D"])
        self._await("slurmctld", lambda: _answers(("127.0.0.1", ports["slurmctld"])))
        for node in self.nodes:
            self._launch(node, self._slurmd(node))
        for node in self.nodes:
            self._await(node, partial(self._usable, node))

    def _start_munge(self) -> None:
        self._write_secret("munge.key", os.urandom(128))
        # --force: munged wants its socket open to all users of the machine; ours alone is enough here.
        munged = ["munged", "--foreground", "--force", f"--key-file={self.directory}/munge.key"]
        munged += [f"--socket={self.sockets}/munge.socket", f"--pid-file={self.sockets}/munged.pid"]
        munged += [f"--seed-file={self.sockets}/munge.seed"]
        self._launch("munged", munged)
        self._await("munged", lambda: _answers(f"{self.sockets}/munge.socket"))

    def _start_accounting(self, port: int) -> None:
        database = ["--no-defaults", f"--datadir={self.directory}/db", f"--tmpdir={self.directory}/tmp"]
        database += ["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=32M"]
        database += ["--aria-log-file-size=8M", "--skip-performance-schema"]
        database += ["--debug-no-sync"]  # it dies with its directory; syncing costs seconds on a busy disk
        database += [f"--socket={self.sockets}/mariadb.socket"]
        # Not --user: with it, mariadb-install-db changes the owner of a system MariaDB's PAM helper.
        options = ["--skip-test-db", f"--auth-root-socket-user={user()}"]
        install = self._launch("mariadb-install-db", ["mariadb-install-db", *database, *options])
        if install.wait() != 0:
            raise self._failure("mariadb-install-db", f"ended with {install.returncode}")
        self._launch("mariadbd", ["mariadbd", *database, f"--user={user()}", "--skip-networking"])
        self._await("mariadbd", lambda: _answers(f"{self.sockets}/mariadb.socket"))

        self._write_secret("slurmdbd.conf", self.slurmdbd_conf(port).encode("utf-8"))
        self._launch("slurmdbd", ["slurmdbd", "-D"])
        self._await("slurmdbd", lambda: _answers(("127.0.0.1", port)))
        self.run("sacctmgr", "-i", "add", "cluster", "dev")
        self.run("sacctmgr", "-i", "add", "account", "dev", "cluster=dev")
        self.run("sacctmgr", "-i", "add", "user", user(), "account=dev", "cluster=dev")

    # --- one node ---------------------------------------------------------------------------------

    def node_states(self) -> dict[str, str]:
        """State of each node in `sinfo`'s compact form ("idle", "mix", "alloc", "down*", ...)."""
        return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-o", "%N %t").splitlines())

    def kill_slurmd(self, node: str) -> None:
        """Kill a node's slurmd with SIGKILL. Its jobs run on, as on a node that lost the network."""
        kill(self.directory, self._slurmd(node))
        if daemon := self.started.pop(node, None):
            daemon.wait()

    def start_slurmd(self, node: str) -> None:
        """Start a node's slurmd again and wait until the node takes jobs."""
        self._launch(node, self._slurmd(node))
        self._await(node, partial(self._usable, node))

    def _slurmd(self, node: str) -> list[str]:
        return ["slurmd", "-D", "-N", node]

    def _usable(self, node: str) -> bool:
        return self.node_states()[node] in ("idle", "mix", "alloc", "comp")

    # --- one daemon -------------------------------------------------------------------------------

    def _launch(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        # A bare environment: what daemons inherit from a developer's shell must not decide how jobs behave.
        environment = self.env | {
            MARKER: str(self.directory),
            "MYSQL_UNIX_PORT": f"{self.sockets}/mariadb.socket",  # slurmdbd has no setting for the socket
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
        self.started[name] = process
        return process

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready()`; raise UserError when daemon `name` has ended or takes too long."""
        deadline = time.monotonic() + SECONDS_TO_START
        while not ready():
            if (code := self.started[name].poll()) is not None:
                raise self._failure(name, f"ended with {code}")
            if time.monotonic() > deadline:
                raise self._failure(name, f"is not ready after {SECONDS_TO_START:g} s")
            time.sleep(0.05)

    def _failure(self, name: str, what: str) -> UserError:
        log = (self.directory / "log" / f"{name}.err").read_text(encoding="utf-8", errors="replace")
        return UserError("\n  ".join([f"{name} {what}; its log ends with:", *log.splitlines()[-12:]]))

    def _write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, encoding="utf-8")

    def _write_secret(self, name: str, content: bytes) -> None:
        with open(self.directory / name, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(content)


def _free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on, below the range from which the kernel takes ports for outgoing connections, and
    none that a job of the cluster may want."""
    sockets: list[socket.socket] = []
    try:
        for port in random.sample(range(PORTS.stop, 32_000), 1000):
            candidate = socket.socket()
            try:
                candidate.bind(("", port))
            except OSError:
                candidate.close()
                continue
            sockets.append(candidate)
            if len(sockets) == count:
                return [taken.getsockname()[1] for taken in sockets]
        raise UserError(f"no free TCP ports between {PORTS.stop} and 32000")
    finally:
        for taken in sockets:
            taken.close()


def _answers(address: str | tuple[str, int]) -> bool:
    """Does someone accept connections at this Unix socket or (host, port)?"""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
        return client.connect_ex(address) == 0
