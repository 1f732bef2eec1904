"""Download and pack as job arrays: from a hub with faults to a validated model, on CPU nodes that are taken away."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub import Fault, Hub, add_dataset, cut, fails, hub, reset, truncated, waits
from tiny import ENGLISH, KOREAN
from waiting import wait

from jobs import ledger
from jobs.pipeline import read_done
from jobs.tools.dev_cluster import DevCluster
from sllm.files import read_json
from sllm.manifests import read_manifest
from sllm.run_directory import RunDirectory

__all__ = ["hub"]

pytestmark = pytest.mark.slow

Sllm = Callable[..., tuple[int, str, str]]


def texts(language: str, seed: int, count: int) -> list[str]:
    draw = random.Random(f"{language} {seed}")
    words = (KOREAN if language == "ko" else ENGLISH).split()
    return [" ".join(draw.choices(words, k=draw.randint(20, 60))) for _ in range(count)]


@pytest.fixture
def config(hub: Hub, tmp_path: Path) -> Path:
    """Three sources of the hub, in several configurations, splits and files."""
    files = {language: [texts(language, seed, 150) for seed in range(3)] for language in ("ko", "en")}
    add_dataset(hub.root, "us/web", {language: {"train": files[language]} for language in files})
    books = {"train": [texts("en", 9, 200)], "test": [texts("en", 10, 9)]}
    add_dataset(hub.root, "us/books", {"default": books}, "TEXT")
    web = {"kind": "hub", "dataset": "us/web"}
    values: dict[str, Any] = {
        "name": "arrays",
        "data": {
            "sources": [
                {**web, "name": "ko-web", "language": "ko", "config": "ko"},
                {"kind": "hub", "dataset": "us/books", "name": "en-books", "language": "en", "text_field": "TEXT"},
                {**web, "name": "en-web", "language": "en", "config": "en"},
            ],
            "validation_fraction": 0.1,
            "near_duplicates": True,
            "clean": {"repetition": False, "contamination": False},
        },
        "tokenizer": {"vocab_size": 300},
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32, "context_length": 16},
        "train": {"max_steps": 20, "global_batch": 4, "micro_batch": 2, "precision": "fp32"},
        "validate": {"every": 10, "tokens": 256, "final_tokens": 512, "prompts": ["Anna"], "sample_tokens": 4},
        "benchmark": {"prompt_tokens": 4, "new_tokens": 4, "tasks": []},
        "wandb": {"mode": "disabled"},
    }
    path = tmp_path / "arrays.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


def names(run: RunDirectory) -> set[str]:
    return {line["stage"] for line in ledger.attempts(run) if line["stage"].startswith(("download", "pack"))}


def manifests(data: Path) -> dict[str, Any]:
    """Of everything below the data directory, after its checksums."""
    found = [path.parent for path in data.rglob("manifest.json")]
    return {str(directory.relative_to(data)): read_manifest(directory, checksums=True) for directory in found}


def test_from_a_hub_with_faults_to_a_validated_model(
    sllm: Sllm, cluster: DevCluster, config: Path, hub: Hub, tmp_path: Path
) -> None:
    profile = tmp_path / "cluster.yaml"
    defaults = {"partition": "cpu", "cpus": 1, "memory": "2G", "time_minutes": 20, "signal_seconds": 20}
    stages = {"download": {"array": 3}, "pack": {"array": 2}, "pretrain": {"tasks_per_node": 2}}
    profile.write_text(yaml.safe_dump({"defaults": defaults, "stages": stages}), encoding="utf-8")
    release = threading.Event()  # whatever this machine takes to look at them, the shares are at work until then
    broken: list[Fault] = [fails(503), fails(429, Retry_After="1"), cut, reset, truncated]
    hub.faults = [*[waits(release)] * 3, *broken]

    code, out, err = sllm("submit", config, "--on", "slurm", "--cluster", profile, "--until", "validate")
    assert code == 0, err
    assert "download.*: job " in out
    run = RunDirectory(config.parent / "runs" / "arrays")
    wait(lambda: all(ledger.current(run, f"download.{i}") for i in range(3)), "the three shares of download")
    status = [line.split()[:2] for line in sllm("status", run.path)[1].split("\n")]
    assert ["download.2", "running"] in status  # of three files; the others may have ended
    assert ["download", "pending"] in status
    cluster.run("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=true")
    wait(lambda: (ledger.current(run, "download.2") or {}).get("attempt") == 2, "its second attempt")
    # One alone: the number of this task is that of the array.
    array = str(read_json(run.stage("download") / "array.json")["job"])
    cluster.run("scancel", "--signal=USR2", f"{array}_2")
    wait(lambda: [line["ended"] for line in ledger.attempts(run, "download.2")][1:2] == ["signal"], "its end by it")
    release.set()

    def validated() -> bool:
        is_alive = bool(cluster.run("squeue", "-h"))
        done = read_done(run, "validate") is not None
        assert done or is_alive, "the chain has ended before"
        return done

    wait(validated, "the end of validate")
    ends = {name: [line["ended"] for line in ledger.attempts(run, name)] for name in sorted(names(run))}
    for share in ("download.0", "download.1"):
        assert ends.pop(share) in (["preempted", "finished"], ["finished"])  # too late for it
    assert ends == {
        "download": ["finished"],
        "download.2": ["preempted", "signal", "finished"],
        "pack": ["finished"],
        "pack.0": ["finished"],
        "pack.1": ["finished"],
    }
    assert not set(broken) & set(hub.faults)  # each was given
    status = [line.split()[:2] for line in sllm("status", run.path)[1].split("\n")]
    assert [row for row in status if row and row[0].startswith("download")] == [["download", "done"]]

    # The same corpus and the same tokens as from one process without faults.
    other = ["name=straight", f"data_directory={tmp_path}/straight"]
    code, _, err = sllm("submit", config, "--on", "here", "--until", "pack", *other)
    assert code == 0, err
    made, right = (manifests(tmp_path / name) for name in ("data", "straight"))
    assert len(made) >= 3
    assert made == right
