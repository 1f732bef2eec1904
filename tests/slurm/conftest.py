"""Private Slurm clusters, one of each profile for the whole test run, started when a test first asks for one."""

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from chains import STEPS, Chain
from needs import cannot_run

from jobs import ledger
from jobs.cli import main
from jobs.tools import dev_cluster
from jobs.tools.dev_cluster import DevCluster
from sllm.run_directory import RunDirectory


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests wait for other processes: on a busy machine for much longer than others take."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of a test that failed, what the cluster and the runs were at: there is no other way to know it afterwards."""
    report = yield
    if report.when == "call" and report.failed:
        values = getattr(item, "funcargs", {}).values()
        for each in values:
            if isinstance(each, DevCluster):
                report.sections.append((f"Slurm in {each.directory}", state_of(each)))
        folders = {each for each in values if isinstance(each, Path)}
        for found in sorted({found for folder in folders for found in folder.glob("runs/*/ledger.jsonl")}):
            if found.stat().st_mtime >= report.start:  # a file's tests may share a folder
                report.sections.append((f"the run {found.parent.name}", story_of(RunDirectory(found.parent))))
    return report


def state_of(cluster: DevCluster) -> str:
    shown = (("squeue", "-a", "-o", "%i %j %T %r %E %N %V %S"), ("sinfo", "-N", "-o", "%N %T %E"))
    try:
        return "\n".join(cluster.run(*command) for command in shown)
    except (OSError, RuntimeError) as error:
        return f"it does not say: {error}"


def story_of(run: RunDirectory) -> str:
    """Each attempt, and the last lines of each log."""
    lines = [f"{a['stage']} {a['attempt']} {a['began']} -> {a['ended']} {a['message']}" for a in ledger.attempts(run)]
    for log in sorted([*run.path.rglob("*.log"), *run.path.rglob("*.out")]):
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-4:]
        lines += [f"{log.relative_to(run.path)}:", *[f"    {line[:160]}" for line in end]]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skip the test where Slurm's packages are missing; in CI, which must have them, fail it."""
    if missing := dev_cluster.missing_packages():
        cannot_run(f"no Slurm to test on: apt-get install --no-install-recommends {' '.join(missing)}")


@contextmanager
def session_cluster(name: str, *, accounting: bool = True, user_signal: bool = True) -> Iterator[DevCluster]:
    # Not below pytest's own temporary directory: the path to a socket must be short.
    directory = Path(tempfile.gettempdir()) / f"sllm-slurm-{os.getpid()}-{name}"
    with dev_cluster.running(directory, accounting=accounting, user_signal=user_signal) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster(slurm: None) -> Iterator[DevCluster]:
    """slurmdbd, and preemption that sends the job's own signal."""
    with session_cluster("full") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster_without_accounting(slurm: None) -> Iterator[DevCluster]:
    """No slurmdbd, so no `sacct`."""
    with session_cluster("nodbd", accounting=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster_plain_term(slurm: None) -> Iterator[DevCluster]:
    """Preemption by SIGTERM only."""
    with session_cluster("term", user_signal=False) as cluster:
        yield cluster


@pytest.fixture
def deaf_conf(tmp_path: Path) -> str:
    """A slurm.conf whose controller does not answer."""
    path = tmp_path / "deaf.conf"
    path.write_text("ClusterName=deaf\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of its own, with room for a submit."""
    return mount_disk("64m")


Sllm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sllm(
    cluster: DevCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Sllm]:
    """The command line in this process, on the cluster, in a folder of its own: exit code, output, errors."""
    for name, value in {**cluster.env, "COLUMNS": "250"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sllm", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    yield run
    cluster.cancel_all()


# --- chains ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chains")


@pytest.fixture(scope="module")
def texts(place: Path) -> dict[str, Path]:
    return tiny.write_texts(place / "texts")


@pytest.fixture
def chain(
    place: Path, texts: dict[str, Path], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Chain]]:
    """Makes a run whose stages before the training are done, for a cluster and a profile of pretrain."""
    made: list[Chain] = []

    def make(
        cluster: DevCluster, *, prepared: bool = True, train: dict[str, Any] | None = None, **pretrain: Any
    ) -> Chain:
        name = request.node.name.removeprefix("test_").translate(str.maketrans("[", "-", "]"))
        train = {"max_steps": STEPS, "checkpoint": {"every": 50}, **(train or {})}
        config = tiny.write_experiment(place, texts, name, **train)
        defaults = {"partition": "cpu", "cpus": 1, "memory": "1G", "time_minutes": 20, "signal_seconds": 20}
        gpus = {"partition": "gpu", "gres": "gpu:h100:1", "device": "cpu"}  # they are not real
        stages = {
            "pretrain": {**gpus, "gres": "gpu:h100:2", "tasks_per_node": 2, **pretrain},
            "validate": gpus,
            "benchmark": gpus,
        }
        profile = place / f"{name}-cluster.yaml"
        profile.write_text(yaml.safe_dump({"defaults": defaults, "stages": stages}), encoding="utf-8")
        made.append(Chain(config, cluster, profile))
        for variable, value in cluster.env.items():
            monkeypatch.setenv(variable, value)  # for `jobs.slurm.commands` in this process
        if prepared:
            done = made[-1].sllm("submit", config, "--on", "here", "--until", "pack")
            assert done.returncode == 0, done.stderr
        return made[-1]

    yield make
    for each in made:
        each.cluster.cancel_all()
