"""What a development cluster is called and where its files are, and what its daemons read.

Slurm is configured as on a production cluster (slurmdbd, preemption by partition, requeue, process tracking and memory
limits by cgroup where the kernel allows), only with the delays cut to seconds. CPUs are declared, not enforced.
"""

import os
import pwd
import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.slurm.commands import own_variables
from jobs.tools.dev_processes import tag
from sllm.errors import UserError

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")

SLURM_CONF = """\
ClusterName=dev
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits for cred_expire + 1 s; 5 is the least, 120 the default.
AuthInfo=cred_expire=5,socket={run}/munge.socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd-%n.pid
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/%n.log
{accounting}
ProctrackType=proctrack/{proctrack}
JobAcctGatherType=jobacct_gather/linux
TaskPlugin=task/{task}
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
{user_signal}
# The nodes promise more than this machine has.
SlurmdParameters=config_overrides
{nodes}
PartitionName=DEFAULT MaxTime=2-00:00:00 PriorityTier=10 PreemptMode=REQUEUE GraceTime=10
PartitionName=cpu Nodes={cpu} Default=YES
PartitionName=gpu Nodes={gpu}
PartitionName=gpu_grace60 Nodes={gpu} GraceTime=60
PartitionName=gpu_nograce Nodes={gpu} GraceTime=0
PartitionName=urgent Nodes=ALL PriorityTier=100 PreemptMode=OFF
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={run}/munge.socket
AccountingStorageTRES=gres/gpu"""

NODE = "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=16000{gres}"

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={run}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
PidFile={run}/slurmdbd.pid
LogFile={directory}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct_db
"""


@dataclass
class Layout:
    """A cluster's names, files and variables.

    Attributes:
        accounting: with MariaDB and slurmdbd, so that `sacct` answers.
        user_signal: preemption sends the job's own `--signal` first; without it, SIGTERM.
        proctrack: "cgroup", which signals as production does, or "linuxproc" where the kernel or our rights forbid it:
            that one signals a job step's whole process tree instead of the children of slurmstepd.
        limits_memory: whether a job that outgrows its memory is killed.
        cpus: of each node, as Slurm is told: they all are this machine's.
        gpu_nodes, cpu_nodes: node names. They differ between clusters, because Slurm names control groups after them.
        env: variables that point Slurm's commands at this cluster: SLURM_CONF, and PATH with the system directories.
    """

    directory: Path
    accounting: bool
    user_signal: bool
    proctrack: str
    limits_memory: bool
    cpus: int = 4

    def __post_init__(self) -> None:
        self.gpu_nodes = [f"{tag(self.directory)}-gpu1", f"{tag(self.directory)}-gpu2"]
        self.cpu_nodes = [f"{tag(self.directory)}-cpu1"]
        self.env = {"SLURM_CONF": str(self.directory / "slurm.conf"), "PATH": search_path()}

    @property
    def nodes(self) -> list[str]:
        return self.gpu_nodes + self.cpu_nodes

    @property
    def sockets(self) -> str:
        """The directory of sockets and process ids."""
        return f"{self.directory}/run"

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a command (`sbatch`, `squeue`, ...) on this cluster and return what it printed, stripped.

        Raises:
            RuntimeError: the command failed; the message holds its standard error.
        """
        result = subprocess.run(
            [str(part) for part in command],
            env=own_variables() | self.env,
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
        )
        if result.returncode != 0:
            output = (result.stderr or result.stdout).strip()
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {result.returncode}: {output}")
        return result.stdout.strip()

    def slurm_conf(self, ports: Mapping[str, int]) -> str:
        host = socket.gethostname().split(".")[0]
        gres = dict.fromkeys(self.gpu_nodes, " Gres=gpu:h100:2")
        nodes = [
            NODE.format(node=node, host=host, port=ports[node], cpus=self.cpus, gres=gres.get(node, ""))
            for node in self.nodes
        ]
        return SLURM_CONF.format(
            host=host,
            port=ports["slurmctld"],
            user=user(),
            directory=self.directory,
            run=self.sockets,
            accounting=ACCOUNTING.format(port=ports["slurmdbd"], run=self.sockets) if self.accounting else "",
            proctrack=self.proctrack,
            task="cgroup" if self.limits_memory else "none",
            user_signal=_user_signal_line() if self.user_signal else "",
            nodes="\n".join(nodes),
            cpu=",".join(self.cpu_nodes),
            gpu=",".join(self.gpu_nodes),
        )

    def slurmdbd_conf(self, port: int) -> str:
        return SLURMDBD_CONF.format(port=port, user=user(), directory=self.directory, run=self.sockets)

    def cgroup_conf(self) -> str:
        return "CgroupPlugin=cgroup/v1\n" + ("ConstrainRAMSpace=yes\n" if self.limits_memory else "")

    def gres_conf(self) -> str:
        return f"Name=gpu Type=h100 File={self.directory}/gpu/gpu[0-1]\n"


def search_path() -> str:
    """PATH, plus the directories where Debian keeps daemons, which users do not have in theirs."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*path, *(directory for directory in SBIN if directory not in path)])


def user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise UserError(f"user id {os.geteuid()} has no name in /etc/passwd, and Slurm needs one") from None


def _user_signal_line() -> str:
    """The setting that sends a job's own signal at preemption; it moved and changed its name in Slurm 23.02."""
    version = subprocess.run(
        ["slurmctld", "-V"], env={"PATH": search_path()}, capture_output=True, encoding="utf-8", check=True
    ).stdout
    match = re.search(r"(\d+)\.(\d+)", version)
    assert match, f"slurmctld -V printed {version!r}"
    if (int(match[1]), int(match[2])) >= (23, 2):
        return "PreemptParameters=send_user_signal"
    return "SlurmctldParameters=preempt_send_user_signal"
