"""Jobs are what was submitted, whatever they are submitted from, and whatever a site sets for every job."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from foreign import OUTER_JOB, SITE
from waiting import PATIENCE, wait

from jobs.slurm.commands import submitted_jobs
from jobs.tools.dev_cluster import DevCluster
from sllm.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
PROFILE = """
defaults: {partition: cpu, cpus: 1, memory: 1G, time_minutes: 20, signal_seconds: 20}
stages: {download: {array: 2}}
"""
PRETRAIN = ("download.*", "download", "tokenizer", "pack", "pretrain")

Sllm = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts"), max_steps=2)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.yaml"
    path.write_text(PROFILE, encoding="utf-8")
    return path


def assert_as_in_the_profile(job: dict[str, str]) -> None:
    fields = ("Requeue", "TimeLimit", "Partition", "MinMemoryNode", "Account")
    assert [job[name] for name in fields] == ["1", "00:20:00", "cpu", "1G", "dev"]
    assert job["JobName"] != "site"
    assert job["StdOut"] != "/dev/null"


def test_a_submit_from_inside_a_job_at_a_site_with_settings(
    sllm: Sllm, cluster: DevCluster, config: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "내 실험 '1' $x"
    with monkeypatch.context() as there:
        for name, value in {**OUTER_JOB, **SITE, "SBATCH_ACCOUNT": "dev"}.items():
            there.setenv(name, value)
        there.setenv("PYTHONPATH", str(tiny.write_site(tmp_path / "site")))
        submit = ["submit", config, f"runs_directory={runs}", "--on", "slurm", "--cluster", profile]
        code, _, err = sllm(*submit, "--until", "pretrain")
        assert (code, err) == (0, "")
        run = RunDirectory(runs / "tiny")
        assert sllm(*submit)[1].startswith("Nothing submitted, tiny is in the queue: download")
    jobs = submitted_jobs(run)
    for stage in PRETRAIN:
        job = cluster.wait_for(jobs[stage] + ("_1" if stage.endswith("*") else ""), "COMPLETED", PATIENCE)
        assert_as_in_the_profile(job)
    assert {"download.0", "download.1"} <= {path.name for path in (run.path / "stages").iterdir()}
    assert "jobs.slurm.attempt" not in (seen := (tmp_path / "site" / "seen").read_text(encoding="utf-8"))
    assert "submitit.core._submit" in seen


def test_a_reader_that_leaves_takes_no_run_from_its_jobs(
    cluster: DevCluster, config: Path, profile: Path, tmp_path: Path
) -> None:
    """`sllm submit … | head -1`."""
    words = ["submit", str(config), "--on", "slurm", "--cluster", str(profile), "--until", "pack"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "jobs.cli", *words],
        cwd=tmp_path,
        env={**os.environ, **cluster.env, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 0, process.stderr and process.stderr.read()
    (run,) = (tmp_path / "runs").iterdir()
    wait(lambda: (run / "stages" / "pack" / "done.json").is_file(), "the jobs of the submit")


def test_the_scripts(
    sllm: Sllm, cluster: DevCluster, config: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's copy of sbatch/: a stage that Slurm refuses, then all as it should be, then one stage by hand."""
    scripts, runs = tmp_path / "my scripts", tmp_path / "my runs"
    scripts.mkdir()
    for path in (ROOT / "sbatch").iterdir():
        text = path.read_text(encoding="utf-8")
        for theirs, mine in (("partition=gpu", "partition=cpu"), ("gpus-per-node=", "comment="), ("=240", "=20")):
            text = text.replace(theirs, mine)
        (scripts / path.name).write_text(text, encoding="utf-8")
        shutil.copymode(path, scripts / path.name)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        **cluster.env,
        **OUTER_JOB,
        **SITE,
        "PATH": f"{Path(sys.executable).parent}:{cluster.env['PATH']}",
        "CLUSTER": str(profile),
        "SBATCH_ARGS": "--cpus-per-task=1 --mem=1G",
        "DOWNLOAD_ARRAY": "2",
    }

    def pipeline(*overrides: str) -> "subprocess.CompletedProcess[str]":
        command = [scripts / "pipeline.sh", config, f"runs_directory={runs}", *overrides]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    pretrain = scripts / "pretrain.sbatch"
    good = pretrain.read_text(encoding="utf-8")
    pretrain.write_text(good.replace("partition=cpu", "partition=nowhere"), encoding="utf-8")
    refused = pipeline("name=refused")
    assert refused.returncode == 1
    assert "invalid partition specified: nowhere" in refused.stderr
    assert "Submitted" not in refused.stdout
    jobs = submitted_jobs(RunDirectory(runs / "refused"))
    assert set(jobs) == {"download.*", "download", "tokenizer", "pack"}
    for job in jobs.values():
        cluster.wait_for(job, "CANCELLED", PATIENCE)

    pretrain.write_text(good, encoding="utf-8")
    command = [scripts / "pipeline.sh", config, f"runs_directory={runs}", "name=interrupted"]
    (slow := tmp_path / "slow").mkdir()  # its sbatch sends pretrain when the signal is there; no job begins
    wait_for_signal = 'if [[ "$*" == *pretrain.sbatch* ]]; then until [ -e "${0%/*}/sent" ]; do sleep 0.1; done; fi'
    (slow / "sbatch").write_text(f'#!/bin/bash\n{wait_for_signal}\nPATH=${{PATH#*:}} exec sbatch "$@"\n')
    (slow / "sbatch").chmod(0o755)
    interrupted = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={
            **environment,
            "PATH": f"{slow}:{environment['PATH']}",
            "SBATCH_ARGS": f"{environment['SBATCH_ARGS']} --hold",
        },
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert interrupted.stderr is not None
    assert "download: array" in interrupted.stderr.readline()
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal sends it: sbatch is at work, most likely
    (slow / "sent").touch()
    assert "not all jobs could be submitted; cancelled: " in interrupted.stderr.read()
    assert interrupted.wait() == 130
    jobs = submitted_jobs(RunDirectory(runs / "interrupted"))
    assert "download.*" in jobs
    assert "benchmark" not in jobs
    for job in jobs.values():
        cluster.wait_for(job, "CANCELLED", PATIENCE)

    environment["SBATCH_ACCOUNT"] = "dev"
    done = pipeline()
    assert done.returncode == 0, done.stderr
    run = RunDirectory(runs / "tiny")
    jobs = submitted_jobs(run)
    for stage in PRETRAIN[:-1]:
        assert_as_in_the_profile(cluster.job(jobs[stage] + ("_1" if stage.endswith("*") else "")))
    for stage in ("validate", "benchmark"):
        cluster.wait_for(jobs[stage], "COMPLETED", PATIENCE)
    assert {"download.0", "download.1"} <= {path.name for path in (run.path / "stages").iterdir()}

    options = ["--parsable", "--partition=cpu", "--cpus-per-task=1", "--mem=1G", f"--output={tmp_path}/by-hand"]
    environment["PYTHONPATH"] = str(tiny.write_site(tmp_path / "site"))
    by_hand = ["sbatch", *options, scripts / "benchmark.sbatch", run.path]
    for name in ("SLURM_RESTART_COUNT", "SBATCH_PARTITION", "SBATCH_OUTPUT", "SBATCH_MEM_PER_CPU", "SBATCH_EXPORT"):
        del environment[name]
    sent = subprocess.run(by_hand, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    job = cluster.wait_for(sent.stdout.strip(), "COMPLETED", PATIENCE)
    assert job["Requeue"] == "1"
    said = (tmp_path / "by-hand").read_text(encoding="utf-8")
    assert "sbatch took SBATCH_TIMELIMIT=3 from the environment" in said
    assert "jobs.run" in (tmp_path / "site" / "seen").read_text(encoding="utf-8")
