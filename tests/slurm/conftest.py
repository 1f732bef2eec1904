"""Private Slurm clusters, one of each profile for the whole test run, started when a test first asks for one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs import dev_cluster
from jobs.dev_cluster import DevCluster


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skip the test where Slurm's packages are missing; in CI, which must have them, fail it."""
    if missing := dev_cluster.missing_packages():
        reason = f"no Slurm to test on: apt-get install --no-install-recommends {' '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


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
