"""What the cluster cannot give, and disks that take nothing more: one line, exit code 2, no job left behind."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from waiting import wait

from jobs.pipeline import up_to
from jobs.slurm.commands import submitted_jobs
from jobs.tools.dev_cluster import DevCluster
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory

Sllm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=3))


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., Path]:
    def write(pretrain: dict[str, Any] | None = None, **defaults: Any) -> Path:
        path = tmp_path / "profile.yaml"
        path.write_text(yaml.safe_dump({"defaults": defaults, "stages": {"pretrain": pretrain or {}}}), "utf-8")
        return path

    return write


def fill(disk: Path) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={disk}/fill", "bs=4096"], capture_output=True, check=False)


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def assert_one_line(result: tuple[int, str, str], *words: str) -> None:
    code, _, err = result
    assert code == 2
    assert err.startswith("sllm: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


# --- what is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says", "remedy"),
    [
        ({"partition": "nowhere"}, "Invalid partition", "(set partition: cpu  # or gpu, "),
        ({"memory": "900G"}, "node configuration is not available", "(set memory: 16000M)"),
        ({"time_minutes": 100_000}, "Requested time limit is invalid", "(set time_minutes: 2880)"),
        ({"gres": "gpu:a100:2"}, "no node of gpu has gpu:a100:2, but gpu:h100:2", "(set gres: gpu:h100:2)"),
        ({"gres": "fpga:1"}, "Invalid generic resource (gres)", "(set gres: null)"),
        ({"gpus_per_node": 3}, "no node of gpu has gpu:3, but gpu:h100:2", "(set gpus_per_node: 2)"),
        ({"partition": "cpu", "gpus_per_node": 1}, "no node of cpu has gpu:1", "(set partition: gpu  # or "),
        ({"cpus": 5}, "no node of gpu has 1 x 5 cores", "(set cpus: 4)"),
        ({"nodes": 2, "gres": "gpu:h100:1", "partition": "cpu"}, "cpu has 1 nodes, not 2", "(set nodes: 1)"),
        ({"sbatch": ["--no-such-option"]}, "unrecognized option '--no-such-option'", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_profile_that_slurm_refuses(
    sllm: Sllm, config: Path, profile: Callable[..., Path], wrong: dict[str, Any], says: str, remedy: str
) -> None:
    pretrain = {"partition": "gpu", "sbatch": [], **wrong}  # of a held job Slurm does not look at what it asks for
    chain = ["submit", config, "--on", "slurm", "--cluster", profile(pretrain, sbatch=["--hold"])]
    assert_one_line(sllm(*chain), "stages.pretrain: sbatch refuses: ", says, remedy)
    assert not (config.parent / "runs").exists()
    assert not (config.parent / "data").exists()


def test_a_refused_chain_leaves_no_job_and_the_mended_one_is_taken(
    sllm: Sllm, cluster: DevCluster, config: Path, profile: Callable[..., Path]
) -> None:
    chain = ["submit", config, "--on", "slurm", "--cluster"]
    assert sllm(*chain, profile({"partition": "nowhere"}, sbatch=["--hold"]))[0] == 2
    wait(lambda: not cluster.run("squeue", "-h"), "the end of the jobs before the refused one")
    run = RunDirectory(config.parent / "runs" / "tiny")
    assert not run.path.exists()
    assert sllm(*chain, profile(sbatch=["--hold"]))[0] == 0
    assert submitted_jobs(run).keys() == set(map(str, up_to()))


def test_slurm_that_does_not_answer(
    sllm: Sllm, config: Path, profile: Callable[..., Path], deaf_conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", deaf_conf)
    result = sllm("submit", config, "--on", "slurm", "--cluster", profile())
    assert_one_line(result, "--on slurm: Slurm does not answer now (scontrol ping)")
    assert not (config.parent / "runs").exists()


# --- disks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaks", "says"), [(fill, "No space left on device"), (make_read_only, "Read-only file system")]
)
@pytest.mark.parametrize("key", ["runs_directory", "data_directory"])
def test_a_disk_that_takes_nothing_at_the_submit(
    sllm: Sllm,
    config: Path,
    profile: Callable[..., Path],
    disk: Path,
    breaks: Callable[[Path], None],
    says: str,
    key: str,
) -> None:
    breaks(disk)
    result = sllm("submit", config, f"{key}={disk}", "--on", "slurm", "--cluster", profile())
    assert_one_line(result, f"cannot be written ({says}); choose another place with {key}=")
    assert not [path for path in (*files(disk), *files(config.parent / "runs")) if path.name != "fill"]


def break_and_run(cluster: DevCluster, run: RunDirectory, breaks: Callable[[Path], None], disk: Path) -> None:
    """Let the held chain go once the disk takes nothing more, and wait for its end."""
    breaks(disk)
    for job in submitted_jobs(run).values():
        cluster.run("scontrol", "release", job)
    wait(lambda: not cluster.run("squeue", "-h"), "the end of the chain")
    states = {stage: cluster.job(job)["JobState"] for stage, job in submitted_jobs(run).items()}
    # The report is written after any end, if there is room for it.
    assert states.pop("report") == ("FAILED" if run.path.is_relative_to(disk) else "COMPLETED")
    assert states.pop("download") == "FAILED"
    assert states == dict.fromkeys(["tokenizer", "pack", "pretrain", "validate", "benchmark"], "CANCELLED")


@pytest.mark.parametrize(("breaks", "says"), [(fill, "full"), (make_read_only, "read-only")])
def test_a_run_directory_that_takes_nothing_when_the_job_starts(
    sllm: Sllm, cluster: DevCluster, config: Path, profile: Callable[..., Path], disk: Path, breaks: Any, says: str
) -> None:
    """The job can leave no word anywhere, so `sllm status` says what it finds."""
    held = profile(sbatch=["--hold"])
    assert sllm("submit", config, f"runs_directory={disk}", "--on", "slurm", "--cluster", held)[0] == 0
    run = RunDirectory(disk / "tiny")
    break_and_run(cluster, run, breaks, disk)
    _, out, _ = sllm("status", run.path)
    assert "download: job " in out
    assert " failed before it could write anything" in out
    assert f"{run.path}: this disk is {says}" in out
    assert not list(run.path.rglob("*.tmp"))


def test_a_data_directory_that_is_full_when_the_job_starts(
    sllm: Sllm, cluster: DevCluster, config: Path, profile: Callable[..., Path], disk: Path
) -> None:
    held = profile(sbatch=["--hold"])
    assert sllm("submit", config, f"data_directory={disk}", "--on", "slurm", "--cluster", held)[0] == 0
    run = RunDirectory(config.parent / "runs" / "tiny")
    break_and_run(cluster, run, fill, disk)
    line, _ = read_jsonl(run.ledger)
    assert (line["stage"], line["ended"]) == ("download", "bad input")
    assert f"{disk}/corpora" in line["message"]
    assert "No space left on device; make room there" in line["message"]
    assert line["message"] in run.log("download").read_text(encoding="utf-8")
    assert "Traceback" not in run.log("download").read_text(encoding="utf-8")
    assert sllm("status", run.path)[1].count("No space left on device") == 1
    assert not [path for path in files(disk) if path.name not in ("fill", ".lock") and path.stat().st_size]
