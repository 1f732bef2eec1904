"""A chain of which a part is gone while another part is still in the queue."""

from collections.abc import Callable
from pathlib import Path

import tiny

from jobs.slurm.commands import submitted_jobs
from jobs.tools.dev_cluster import DevCluster
from sllm.run_directory import RunDirectory


def test_resume_submits_what_is_neither_done_nor_in_the_queue(
    sllm: Callable[..., tuple[int, str, str]], cluster: DevCluster, tmp_path: Path
) -> None:
    config = tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=3))
    profile = tmp_path / "held.yaml"
    profile.write_text("defaults: {sbatch: [--hold]}", encoding="utf-8")
    submit = ["submit", config, "--on", "slurm", "--cluster", profile]
    assert sllm(*submit)[0] == 0
    run = RunDirectory(tmp_path / "runs" / "tiny")
    first = submitted_jobs(run)
    cluster.run("scancel", first["benchmark"])

    assert sllm(*submit)[1].startswith("Nothing submitted, tiny is in the queue: download ")
    assert submitted_jobs(run) == first
    code, out, err = sllm(*submit, "--resume")
    assert (code, err) == (0, "")
    second = submitted_jobs(run)
    assert {stage for stage in first if second[stage] != first[stage]} == {"benchmark", "report"}
    assert f"validate: job {first['validate']}, in the queue before" in out
    assert cluster.job(second["benchmark"])["Dependency"].startswith(f"afterok:{first['pretrain']}(")
    assert cluster.job(second["report"])["Dependency"].startswith(f"afterany:{first['validate']}(")
    assert cluster.job(first["report"])["JobState"] == "CANCELLED"
    assert sllm(*submit, "--resume")[1].startswith("Nothing submitted, tiny is in the queue: ")
