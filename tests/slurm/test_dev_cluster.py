"""The private cluster behaves like the real thing where it matters, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait

from jobs.slurm.attempt import PORTS
from jobs.tools import dev_cluster, dev_conf
from jobs.tools.dev_cluster import DevCluster
from sllm.errors import UserError


@pytest.fixture
def directory(slurm: None) -> Iterator[Path]:
    """A short path at which no cluster is yet."""
    with tempfile.TemporaryDirectory(prefix="sllm-") as parent:
        yield Path(parent) / "slurm"


@pytest.fixture(autouse=True)
def idle(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the shared clusters without jobs."""
    yield
    for name in request.fixturenames:
        if name.startswith("cluster"):
            request.getfixturevalue(name).cancel_all()


def submit(cluster: DevCluster, directory: Path, script: str, *options: str) -> int:
    (directory / "job.sh").write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    return int(cluster.run("sbatch", "--parsable", *options, "job.sh", cwd=directory))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def alive(process: int) -> bool:
    """Is there such a process, and is it more than a zombie?"""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def mentions(directory: Path) -> list[int]:
    """Processes with `directory` in their command line or environment, this one and its parents aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if os.fsencode(directory) in text:
            found.append(int(entry.name))
    return found


# --- jobs ---------------------------------------------------------------------------------------------


def test_srun_works_on_both_gpu_nodes_and_counts_their_gpus(cluster: DevCluster, tmp_path: Path) -> None:
    everything = ["--partition=gpu", "--nodes=2", "--ntasks-per-node=1", "--gres=gpu:h100:2"]
    hosts = cluster.run("srun", *everything, "bash", "-c", "echo $SLURMD_NODENAME $SLURM_NTASKS")
    assert sorted(hosts.splitlines()) == [f"{node} 2" for node in cluster.gpu_nodes]

    with pytest.raises(RuntimeError, match="node configuration is not available"):
        cluster.run("srun", "--partition=gpu", "--gres=gpu:h100:3", "true")

    first = submit(cluster, tmp_path, "sleep 300", *everything)
    second = submit(cluster, tmp_path, "sleep 300", "--partition=gpu", "--gres=gpu:1")
    cluster.wait_for(first, "RUNNING")
    wait(lambda: cluster.job(second)["Reason"] in ("Resources", "Priority"))
    assert cluster.job(second)["JobState"] == "PENDING"


def test_preempted_job_is_requeued_and_runs_again(cluster: DevCluster, tmp_path: Path) -> None:
    on_node = ["--gres=gpu:h100:2", f"--nodelist={cluster.gpu_nodes[0]}"]
    script = "echo ${SLURM_RESTART_COUNT:-none} >> starts; sleep 300"
    job = submit(cluster, tmp_path, script, "--partition=gpu_nograce", *on_node)
    cluster.wait_for(job, "RUNNING")
    urgent = submit(cluster, tmp_path, "true", "--partition=urgent", *on_node)
    cluster.wait_for(urgent, "COMPLETED")
    cluster.wait_for(job, "RUNNING", restarts=1)
    wait(lambda: len(lines(tmp_path / "starts")) == 2)
    assert lines(tmp_path / "starts") == ["none", "1"]


@pytest.mark.parametrize(("profile", "expected"), [("cluster", "USR2"), ("cluster_plain_term", "TERM")])
def test_grace_time_begins_with_the_signal_of_the_profile(
    profile: str, expected: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cluster: DevCluster = request.getfixturevalue(profile)
    on_node = ["--gres=gpu:h100:2", f"--nodelist={cluster.gpu_nodes[0]}"]
    (tmp_path / "step.py").write_text(
        "import pathlib, signal\n"
        "caught = {signal.SIGUSR2, signal.SIGTERM}\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, caught)\n"
        "pathlib.Path('ready').touch()\n"
        "pathlib.Path('signal').write_text(signal.Signals(signal.sigwait(caught)).name)\n",
        encoding="utf-8",
    )
    step = f"srun {sys.executable} step.py"
    job = submit(cluster, tmp_path, step, "--partition=gpu", "--signal=USR2@60", "--time=60", *on_node)
    wait((tmp_path / "ready").exists)
    submit(cluster, tmp_path, "true", "--partition=urgent", *on_node)
    # The step ends within the grace time, so the job ends by itself: preempted, but neither killed nor requeued.
    assert cluster.wait_for(job, "COMPLETED")["Restarts"] == "0"
    assert lines(tmp_path / "signal") == [f"SIG{expected}"]


def test_sacct_answers_with_accounting_only(
    cluster: DevCluster, cluster_without_accounting: DevCluster, tmp_path: Path
) -> None:
    job = submit(cluster, tmp_path, "exit 3", "--account=dev")
    columns = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State,ExitCode,Account"]
    wait(lambda: cluster.run(*columns, f"--jobs={job}") == "FAILED|3:0|dev")

    job = submit(cluster_without_accounting, tmp_path, "exit 3")
    assert cluster_without_accounting.wait_for(job, "FAILED")["ExitCode"] == "3:0"
    with pytest.raises(RuntimeError, match="accounting storage is disabled"):
        cluster_without_accounting.run(*columns)


def test_job_of_a_failed_node_is_requeued_while_its_processes_run_on(
    cluster_without_accounting: DevCluster, tmp_path: Path
) -> None:
    cluster = cluster_without_accounting
    node = cluster.gpu_nodes[1]
    job = submit(cluster, tmp_path, "echo $$ >> pids; exec sleep 300", "--partition=gpu", f"--nodelist={node}")
    wait(lambda: len(lines(tmp_path / "pids")) == 1)
    first = int(lines(tmp_path / "pids")[0])

    cluster.kill_slurmd(node)
    cluster.set_node(node, "down")
    cluster.wait_for(job, "PENDING", restarts=1)
    assert alive(first)

    dev_cluster.attach(cluster.directory).start_slurmd(node)
    cluster.wait_for(job, "RUNNING", restarts=1)
    assert cluster.node_states()[node] == "mix"


def test_node_set_down_can_be_resumed(cluster_without_accounting: DevCluster) -> None:
    cluster = cluster_without_accounting
    node = cluster.cpu_nodes[0]
    cluster.set_node(node, "down")
    assert cluster.node_states()[node] == "down"
    cluster.set_node(node, "resume")
    wait(lambda: cluster.node_states()[node] == "idle")


def test_wait_for_says_what_it_saw(cluster_without_accounting: DevCluster, tmp_path: Path) -> None:
    job = submit(cluster_without_accounting, tmp_path, "true", "--hold")
    with pytest.raises(TimeoutError, match=rf"job {job} was not RUNNING .*JobState=PENDING, Reason=JobHeldUser"):
        cluster_without_accounting.wait_for(job, "RUNNING", timeout=0.2)


# --- clusters -----------------------------------------------------------------------------------------


def test_two_clusters_side_by_side_do_not_touch_each_other(directory: Path, tmp_path: Path) -> None:
    there = directory.with_name("there")
    with (
        dev_cluster.running(directory, accounting=False) as one,
        dev_cluster.running(there, accounting=False) as other,
    ):
        assert not set(one.nodes) & set(other.nodes)
        processes = {}
        for cluster in (one, other):
            (work := tmp_path / cluster.directory.name).mkdir()
            assert submit(cluster, work, "echo $$ > pid; exec sleep 300", "--partition=gpu") == 1  # the same job id
            wait(lambda work=work: bool(lines(work / "pid")))  # type: ignore[misc]
            processes[cluster.directory.name] = int(lines(work / "pid")[0])

        one.cancel_all()
        assert not alive(processes["slurm"])
        one.down()
        assert other.wait_for(1, "RUNNING")
        assert alive(processes["there"])
    assert not alive(processes["there"])


def test_down_leaves_no_process_and_no_file(directory: Path, tmp_path: Path) -> None:
    cluster = dev_cluster.up_or_running(directory)
    assert dev_cluster.up_or_running(directory).env == cluster.env  # a second time it is only found again
    # A step, and a process that left its session and its parent behind; its environment too, if cgroups still know it.
    detach = "setsid env -i" if cluster.proctrack == "cgroup" else "setsid"
    script = f"({detach} sleep 300 & echo $! > pids); srun bash -c 'echo $$ >> pids; exec sleep 300'"
    submit(cluster, tmp_path, script, "--partition=gpu")
    wait(lambda: len(lines(tmp_path / "pids")) == 2)
    assert all(alive(int(process)) for process in lines(tmp_path / "pids"))
    daemons = {Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip() for process in mentions(directory)}
    assert daemons >= {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd"}

    dev_cluster.down(directory / ".." / directory.name)  # however it is spelled
    assert not mentions(directory)
    assert not any(alive(int(process)) for process in lines(tmp_path / "pids"))
    assert not list(directory.parent.iterdir())
    assert not list(Path("/sys/fs/cgroup").glob(f"*/slurm_{cluster.nodes[0][:5]}*"))
    with pytest.raises(UserError, match="holds no development cluster"):
        dev_cluster.down(directory)
    cluster.down()  # for who holds the object, a second time is fine


def test_cluster_ends_with_its_process(directory: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from jobs.tools import dev_cluster\n"
        "with dev_cluster.running(pathlib.Path(sys.argv[1]), accounting=False):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(300)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE)
    assert owner.stdout
    assert owner.stdout.readline() == b"up\n"
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    wait(lambda: not directory.exists() and not mentions(directory))


def test_a_daemon_that_does_not_start_is_named_and_nothing_is_left(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DevCluster, "_slurmd", lambda self, node: ["slurmd", "-D", "-N", f"no-{node}"])
    with pytest.raises(UserError, match=r"(?s)gpu1 ended with 1; its log ends with:\n.*no-n\w+-gpu1"):
        dev_cluster.up(directory, accounting=False)
    assert not directory.exists()
    assert not mentions(directory)


def test_foreign_directories_are_neither_used_nor_removed(directory: Path) -> None:
    directory.mkdir()
    (directory / "thesis.tex").touch()
    with pytest.raises(UserError, match="exists: take that cluster down"):
        dev_cluster.up(directory, accounting=False)
    with pytest.raises(UserError, match="holds no development cluster"):
        dev_cluster.down(directory)
    with pytest.raises(UserError, match="holds no development cluster"):
        dev_cluster.attach(directory)
    with pytest.raises(UserError, match="exists: take that cluster down"):
        dev_cluster.up_or_running(directory)
    assert (directory / "thesis.tex").exists()
    with pytest.raises(UserError, match="at most 60 letters"):
        dev_cluster.up(directory / "with space", accounting=False)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(dev_conf, "SBIN", ())
    assert dev_cluster.missing_packages(accounting=False) == ["munge", "slurmctld", "slurmd", "slurm-client"]
    with pytest.raises(UserError, match=r"apt-get install .*slurmdbd mariadb-server-core"):
        dev_cluster.up(tmp_path / "slurm")


def test_no_daemon_listens_where_a_job_may_want_to(cluster: DevCluster) -> None:
    """A training whose rendezvous finds its port taken is a crash."""
    conf = (cluster.directory / "slurm.conf").read_text(encoding="utf-8")
    ports = {int(port) for port in re.findall(r"Port=(\d+)", conf)}
    assert len(ports) >= 4
    assert not ports.intersection(PORTS)
