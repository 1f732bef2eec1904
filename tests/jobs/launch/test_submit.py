"""What is submitted again: code that was edited, settings that were changed."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from rich.console import Console

from jobs.hints import command
from jobs.launch import submit as launch
from jobs.launch.order import Order
from jobs.launch.single import run_single
from jobs.launch.submit import prepare, submit
from jobs.previous import swap_training
from jobs.slurm import commands
from jobs.slurm.cluster import load_cluster
from sllm.artifacts import stage_keys
from sllm.config import Experiment, load_experiment
from sllm.errors import UserError
from sllm.files import fingerprint, read_json, write_json, write_text
from sllm.run_directory import RunDirectory


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=3))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout."""
    for name, text in {"sllm/a.py": "1", "sllm/b.py": "2", "jobs/data/c.py": "3"}.items():
        write_text(tmp_path / "tree" / name, text)
    return tmp_path / "tree"


Again = Callable[[Experiment], RunDirectory]


@pytest.fixture(params=["submit", "prepare"])
def again(request: pytest.FixtureRequest, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Again:
    """Submits an experiment, or prepares it for the scripts in sbatch/: all of it but the stages themselves."""
    monkeypatch.setattr(launch, "run_locally", lambda *_: None)
    monkeypatch.setattr("jobs.launch.prepare.TREE", tree)

    def send(experiment: Experiment) -> RunDirectory:
        if request.param == "prepare":
            return prepare(Order(experiment, load_cluster("laptop"), "slurm"))
        order = Order(experiment, load_cluster("laptop"), "local")
        assert submit(order, Console(file=io.StringIO())) == 0
        return RunDirectory(experiment.run_path)

    return send


def test_a_tree_that_was_edited_and_is_submitted_again_runs_the_new_code(
    again: Again, tree: Path, config: Path
) -> None:
    experiment = load_experiment(config)

    def copied() -> dict[str, str]:
        code = again(experiment).code
        return {path.relative_to(code).as_posix(): path.read_text(encoding="utf-8") for path in code.rglob("*.py")}

    assert copied() == {"sllm/a.py": "1", "sllm/b.py": "2", "jobs/data/c.py": "3"}
    before = (RunDirectory(experiment.run_path).code / "sllm").stat().st_ino
    copied()
    assert (RunDirectory(experiment.run_path).code / "sllm").stat().st_ino == before, "the same code stays where it is"
    write_text(tree / "sllm" / "a.py", "9")
    assert copied()["sllm/a.py"] == "9"
    (tree / "sllm" / "b.py").unlink()
    write_text(tree / "jobs" / "d.py", "4")
    assert copied() == {"sllm/a.py": "9", "jobs/d.py": "4", "jobs/data/c.py": "3"}


def leave_training(run: RunDirectory, experiment: Experiment) -> None:
    """A checkpoint and a best model."""
    state = {"trajectory": stage_keys(experiment)["pretrain"]}
    write_json(run.checkpoints / "step-00000030" / "state.json", state)
    write_text(run.best / "model", str(experiment.seed))


def test_settings_that_were_changed_and_are_submitted_set_the_former_training_aside(again: Again, config: Path) -> None:
    first, second = load_experiment(config, ["seed=1"]), load_experiment(config, ["seed=2"])
    run = again(first)
    leave_training(run, first)
    again(second)
    aside = run.path / "previous" / fingerprint(stage_keys(first)["pretrain"])
    assert (aside / "best" / "model").read_text(encoding="utf-8") == "1"
    assert not run.best.exists()
    assert not run.checkpoints.exists()
    assert load_experiment(run.config) == second
    assert read_json(run.path / "keys.json") == stage_keys(second)
    again(first)
    assert (run.best / "model").read_text(encoding="utf-8") == "1"
    assert not aside.exists()


def test_jobs_in_the_queue_keep_the_settings_that_they_were_submitted_with(
    again: Again, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = load_experiment(config, ["seed=1"]), load_experiment(config, ["seed=2"])
    run = again(first)
    write_json(run.stage("pretrain") / "job.json", {"job": "7"})
    monkeypatch.setattr(commands, "queued", lambda jobs: {job: {"state": "PENDING"} for job in jobs})
    with pytest.raises(UserError, match=r"jobs with other settings are in the queue; `.*cancel .*` first"):
        again(second)
    assert load_experiment(run.config) == first


@pytest.mark.parametrize("before", ["own", "other", "none"])
def test_commands_that_are_printed_call_this_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Whichever sllm is first on the PATH, from whichever folder."""
    other = tmp_path / "sllm"
    other.write_text("#!/bin/sh\necho other\n", encoding="utf-8")
    other.chmod(0o755)
    first = {"own": [str(Path(sys.executable).parent)], "other": [str(tmp_path)], "none": []}[before]
    monkeypatch.setenv("PATH", os.pathsep.join([*first, os.defpath]))
    monkeypatch.chdir(tmp_path)
    told = subprocess.run(["sh", "-c", command("--version")], capture_output=True, text=True)
    assert told.stdout.startswith("sllm "), told.stderr
    assert command("x").startswith("sllm x") == (before == "own" and Path(sys.executable).with_name("sllm").exists())


@pytest.mark.parametrize(("seed", "way_out"), [(1, "brings it back"), (2, "sets the former training aside")])
def test_a_stage_alone_is_refused_where_a_submit_would_exchange_trainings(
    config: Path, seed: int, way_out: str
) -> None:
    """Else it would train anew what is set aside, and the next submit would delete that."""
    experiments = {seed: load_experiment(config, [f"seed={seed}"]) for seed in (1, 2, 3)}
    run = RunDirectory(experiments[1].run_path)
    leave_training(run, experiments[1])
    if seed == 1:
        swap_training(run, stage_keys(experiments[3]))  # whose training has not come to a checkpoint
    with pytest.raises(UserError, match=f"submit CONFIG`, which {way_out}"):
        run_single("download", experiments[seed])
    assert not run.config.exists()
