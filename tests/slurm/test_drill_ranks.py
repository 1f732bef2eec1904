"""Which numbers of ranks a real Slurm has for a drill, and a job that it will never start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.slurm.cluster import Cluster, load_cluster
from jobs.tools.dev_cluster import DevCluster
from jobs.tools.drill import CONFIG
from jobs.tools.patient import ChainStoppedError, Patient
from jobs.tools.ranks import orders_on, ranks_of
from sllm.config import load_experiment, validate
from sllm.files import write_json
from sllm.run_directory import RunDirectory

Sllm = Callable[..., tuple[int, str, str]]


def test_ranks_that_cannot_be_are_told_at_once(sllm: Sllm, cluster: DevCluster, tmp_path: Path) -> None:
    code, out, err = sllm("drill", "--cluster", "dev", "--ranks", "2,3,8,1")
    assert (code, out) == (2, "")
    three, eight = err.splitlines()
    assert three.startswith("sllm: 3 ranks: train.global_batch: 16 sequences cannot be split into micro-batches of 2 ")
    assert eight.startswith("sllm: 8 ranks: 4 x 2 tasks: sbatch refuses: ")
    assert eight.endswith("; gpu has 2 nodes, not 4")
    assert cluster.run("squeue", "-h") == ""
    assert not list(tmp_path.iterdir())


def test_default_ranks_that_cannot_be_are_left_out(sllm: Sllm, cluster: DevCluster) -> None:
    experiment, dev = load_experiment(CONFIG, []), load_cluster("dev")

    def chosen(profile: Cluster, lines: int) -> list[tuple[int, str | None]]:
        said: list[str] = []
        orders = orders_on(experiment, profile, None, said.append)
        assert len(said) == lines, said
        assert all(line.startswith("Without ") for line in said)
        return [(ranks_of(order.cluster), order.cluster.resources("pretrain").gres) for order in orders]

    two, one = "gpu:h100:2", "gpu:h100:1"
    assert chosen(dev, 0) == [(2, two), (1, one), (2, two), (4, two)]
    profile: dict[str, Any] = {"partition": "gpu", "gres": two, "tasks_per_node": 2, "nodes": 2}
    assert chosen(validate(Cluster, {"stages": {"pretrain": profile}}, "profile"), 1) == [(4, two), (1, one), (4, two)]
    cluster.run("scontrol", "update", f"node={cluster.gpu_nodes[0]}", "state=drain", "reason=test")
    try:
        assert chosen(dev, 1) == [(2, two), (1, one), (2, two)]
    finally:
        cluster.run("scontrol", "update", f"node={cluster.gpu_nodes[0]}", "state=resume")


def test_a_job_that_slurm_will_never_start_is_not_waited_for(sllm: Sllm, cluster: DevCluster, tmp_path: Path) -> None:
    job = cluster.run("sbatch", "--parsable", "--hold", "--partition=gpu", "--nodes=2", "--wrap=sleep 60")
    cluster.run("scontrol", "update", "partition=gpu", "maxnodes=1")
    try:
        cluster.run("scontrol", "release", job)
        run = RunDirectory(tmp_path / "run")
        run.stage("pretrain").mkdir(parents=True)
        write_json(run.stage("pretrain") / "job.json", {"job": job})
        with pytest.raises(ChainStoppedError, match="the job of pretrain cannot start: PartitionNodeLimit"):
            Patient(run, patience=120).until(lambda: False, "a step")
    finally:
        cluster.run("scancel", job)
        cluster.run("scontrol", "update", "partition=gpu", "maxnodes=unlimited")
