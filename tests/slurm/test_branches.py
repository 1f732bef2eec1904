"""Two budgets from one run: a branch as Slurm jobs, preempted, is the long run that nobody disturbed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from waiting import wait

from jobs import ledger
from jobs.slurm.commands import submitted_jobs
from jobs.tools.dev_cluster import DevCluster
from jobs.tools.recovery import differences
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory

SHORT, DECAY, LONG = 400, 320, 800
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

pytestmark = pytest.mark.slow


def losses(run: RunDirectory) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_jsonl(run.metrics) if record["kind"] == "train"}


def test_two_budgets_branch_from_one_run(
    sllm: Callable[..., tuple[int, str, str]], cluster: DevCluster, tmp_path: Path
) -> None:
    texts = tiny.write_texts(tmp_path / "texts")

    def configure(name: str, **train: Any) -> Path:
        train = {"schedule": "wsd", "decay": 0.2, "checkpoint": {"every": 100}, "learning_rate": 0.01, **train}
        return tiny.write_experiment(tmp_path, texts, name, **train)

    gpus = {"partition": "gpu", "gres": "gpu:h100:2", "tasks_per_node": 2, "device": "cpu"}  # they are not real
    profile = tmp_path / "cluster.yaml"
    defaults = {"partition": "cpu", "cpus": 1, "memory": "1G", "time_minutes": 20, "signal_seconds": 20}
    profile.write_text(yaml.safe_dump({"defaults": defaults, "stages": {"pretrain": gpus}}), encoding="utf-8")

    def submit(config: Path, *words: str) -> str:
        code, out, err = sllm("submit", config, "--until", "pretrain", *words)
        assert code == 0, out + err
        return out

    def train_on_slurm(config: Path, preempted_at: int) -> RunDirectory:
        run = RunDirectory(tmp_path / "runs" / config.stem)
        submit(config, "--on", "slurm", "--cluster", str(profile))
        job = submitted_jobs(run)["pretrain"]
        wait(lambda: max(losses(run), default=0) > preempted_at, f"step {preempted_at} of {run.name}")
        cluster.preempt()
        wait(lambda: cluster.job(job)["JobState"] in ENDED, f"the end of {run.name}")
        assert [line["ended"] for line in ledger.attempts(run, "pretrain")] == ["preempted", "finished"]
        return run

    submit(configure("undisturbed", max_steps=LONG), "--on", "here")
    undisturbed = RunDirectory(tmp_path / "runs" / "undisturbed")
    trunk = train_on_slurm(configure("trunk", max_steps=SHORT), preempted_at=20)
    branch = train_on_slurm(configure("branch", max_steps=LONG, init_from=f"trunk@{DECAY}"), preempted_at=DECAY + 20)

    first, second = ledger.attempts(branch, "pretrain")
    assert (first["first_step"], first["init_from"]) == (DECAY + 1, f"{trunk.path}@{DECAY}")
    assert "init_from" not in second
    short, long, reference = losses(trunk), losses(branch), losses(undisturbed)
    assert list(long) == list(range(1, LONG + 1))
    assert long == reference
    assert list(short) == list(range(1, SHORT + 1))
    assert all(short[step] == long[step] for step in range(1, DECAY + 1))
    assert short[DECAY + 2] != long[DECAY + 2]
    assert not list(differences(branch, undisturbed, LONG))
