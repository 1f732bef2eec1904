"""`sllm doctor` on a real Slurm: what is fine, what is not, and what the profile should say."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from foreign import SITE

from jobs.pipeline import STAGES, up_to
from jobs.slurm.cluster import Cluster
from jobs.slurm.partitions import misfits, partitions
from jobs.tools.dev_cluster import DevCluster
from jobs.tools.doctor_nodes import BUSY_SECONDS
from sllm.config import validate

Sllm = Callable[..., tuple[int, str, str]]

GPUS = {"partition": "gpu", "gres": "gpu:h100:1"}
PROFILE: dict[str, Any] = {
    "defaults": {"partition": "cpu", "cpus": 1, "memory": "2G", "time_minutes": 20, "signal_seconds": 20},
    "stages": {"pretrain": {**GPUS, "gres": "gpu:h100:2", "tasks_per_node": 2}, "validate": GPUS, "benchmark": GPUS},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=3))


def write(path: Path, profile: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")
    return path


def findings(output: str) -> dict[str, str]:
    """What is said of each thing, after the verdict; the last line of those that have several."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in output.split("\n")[1:] if line]
    return {" ".join(row[:2]): row[2] for row in rows if len(row) > 2}


def test_a_good_profile_and_a_model_that_is_too_large(
    sllm: Sllm, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.rglob("*"))
    pretrain = {**PROFILE["stages"]["pretrain"], "nodes": "1-4"}
    profile = write(tmp_path / "good.yaml", {**PROFILE, "stages": {**PROFILE["stages"], "pretrain": pretrain}})
    with monkeypatch.context() as site:
        for name, value in {**SITE, "SBATCH_ACCOUNT": "dev"}.items():
            site.setenv(name, value)
        code, out, err = sllm("doctor", config, "--cluster", profile)
    assert (code, err) == (0, ""), out
    assert out.count("Slurm would take it") == len(up_to()), "what conversations and finetune ask for, others do"
    assert "bad" not in out
    found = findings(out)
    assert "with the job's own signal" in found["ok preemption"]
    assert found["ok sacct"] == "answers"
    assert found["note pretrain: nodes"] == "1-4, but there are 2: it never runs on more"
    assert found["ok gpu: partition"].startswith("2 of 2 nodes up, each at most 4 cores, 16000 MB, gpu:h100:2; time")
    for partition in ("cpu", "gpu"):
        assert "; 3 checkpoints, the best model and its export take " in found[f"ok {partition}: space"]
        assert found[f"ok {partition}: shared files"] == "a file written here is seen there"
        assert found[f"ok {partition}: files"] == "rename replaces in one step, locks work"
        assert {f"ok {partition}: internet", f"note {partition}: internet"} & found.keys()
    assert "are they real?" in found["note gpu: PyTorch"]
    assert found["ok SBATCH_ACCOUNT"] == "dev: taken"
    assert found["ok SBATCH_PARTITION"].startswith("urgent: the profile has another partition for download, ")
    for name in ("SBATCH_NO_REQUEUE", "SBATCH_TIMELIMIT", "SLURM_EXPORT_ENV"):
        assert found[f"note {name}"].startswith(f"{SITE[name]}: not for our jobs")

    code, out, _ = sllm("doctor", config, "model.n_layers=1000", "model.d_model=4096", "--cluster", profile)
    assert code == 1
    found = findings(out)
    assert found.keys() >= {"bad here: space", "bad cpu: space", "bad gpu: space", "bad checkpoint"}
    assert re.search(r"stages: {pretrain: {signal_seconds: \d{3,}}}", out)
    profile.unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_profile_that_it_asks_for_is_good(sllm: Sllm, config: Path, tmp_path: Path) -> None:
    stages = {
        "download": {"partition": "nowhere"},
        "tokenizer": {"cpus": 9},
        "pack": {"memory": "1T", "nodes": 1},
        "pretrain": {**GPUS, "gres": "gpu:a100:2", "nodes": "3-4"},
        "validate": {"partition": "gpu", "gpus_per_node": 8},
        "benchmark": {"gres": "gpu:1", "time_minutes": 9999},
    }
    profile: dict[str, Any] = {**PROFILE, "stages": stages}
    code, out, _ = sllm("doctor", "--cluster", write(tmp_path / "bad.yaml", profile))
    assert code == 1
    assert not [line for line in findings(out) if line.endswith("probe")]
    says = [yaml.safe_load(line) for line in re.findall(r"(stages: {.*)", out)]
    assert len(says) == 8
    for line in says:
        for stage, values in line["stages"].items():
            stages[stage].update(values)
    mended, there = validate(Cluster, profile, "mended"), partitions()
    assert not [misfit for stage in STAGES for misfit in misfits(mended.resources(stage), there)]


def test_a_node_that_lacks_what_the_login_node_has(sllm: Sllm, config: Path, tmp_path: Path, disk: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise OSError('libcudart.so: cannot open')", encoding="utf-8")
    setup = [f"mount -o remount,ro {disk}", f"export PYTHONPATH={tmp_path}/broken", "module load cuda"]
    profile = write(tmp_path / "profile.yaml", {"defaults": {"memory": "1G", "setup": setup}})
    code, out, _ = sllm("doctor", config, f"runs_directory={disk}", "--cluster", profile)
    assert code == 1
    found = findings(out)
    assert found["bad cpu: PyTorch"] == "OSError: libcudart.so: cannot open"
    assert found["bad cpu: run directory"] == "cannot be written (Read-only file system)"
    assert found["note cpu: probe"].endswith("module: command not found")
    assert "ok here: files" in found
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, out, _ = sllm("doctor", config, f"runs_directory={disk}")
    assert code == 1
    assert findings(out)["bad run directory"] == f"{disk}: cannot be written (Read-only file system)"


def test_busy_nodes_and_no_accounting(
    sllm: Sllm, cluster_without_accounting: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = cluster_without_accounting
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    job = cluster.run(
        "sbatch", "--parsable", "--partition=cpu", "--exclusive", "--output=/dev/null", "--wrap=sleep 300"
    )
    cluster.wait_for(job, "RUNNING")
    code, out, err = sllm("doctor", "--cluster", write(tmp_path / "cpu.yaml", {"defaults": {"partition": "cpu"}}))
    cluster.cancel_all()
    assert (code, err) == (0, ""), out
    found = findings(out)
    assert found["note sacct"].startswith("does not answer")
    assert found["note cpu: probe"] == f"no node was free within {BUSY_SECONDS} s: not looked at, try again later"


def test_slurm_that_does_not_answer(
    sllm: Sllm, tmp_path: Path, deaf_conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", deaf_conf)
    code, out, err = sllm("doctor", "--cluster", write(tmp_path / "good.yaml", PROFILE))
    assert (code, err) == (1, "")
    assert findings(out)["bad Slurm"] == "does not answer (scontrol ping)"
    assert "ok here: files" in findings(out)
