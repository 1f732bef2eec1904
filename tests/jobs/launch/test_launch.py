"""Runs as processes of this machine: finished, repeated, interrupted, killed, crashed. Everything here is real."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import ROOT, command, sllm, start, start_on_terminal, variables
from foreign import OUTER_JOB, SITE

from jobs import ledger
from jobs.launch.busy import require_no_processes
from jobs.pipeline import read_done, up_to
from jobs.processes import local_processes
from sllm import __version__
from sllm.files import read_json
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory

STEPS = 300


def wait_for_step(run: RunDirectory, step: int, process: "subprocess.Popen[str]") -> None:
    while not any(record["step"] >= step for record in read_jsonl(run.metrics)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def steps(run: RunDirectory) -> list[int]:
    return [record["step"] for record in read_jsonl(run.metrics) if record["kind"] == "train"]


def ends(run: RunDirectory, stage: str = "pretrain") -> list[Any]:
    return [line["ended"] for line in ledger.attempts(run, stage)]


@pytest.fixture
def config(finished: Any, place: Path, texts: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    """A run of its own, over data that is there."""
    return tiny.write_experiment(place, texts, request.node.name.replace("[", "-").rstrip("]"), max_steps=STEPS)


@pytest.fixture
def run(config: Path, place: Path) -> RunDirectory:
    return RunDirectory(place / "runs" / config.stem)


def files(run: RunDirectory) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if "__pycache__" not in path.parts}


# --- a run that finishes --------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", "here"])
def test_a_submit_inside_somebody_elses_job(config: Path, run: RunDirectory, place: Path, where: str) -> None:
    """A sweep as a job array, an allocation, a torchrun, a site with settings of its own: none of it is for us."""
    site = tiny.write_site(place / f"site-{where}")
    around = {**OUTER_JOB, **SITE, "PYTHONPATH": f"{ROOT}:{site}"}
    submit = ("submit", config, "train.max_steps=2", "--on", where, "--until", "pretrain")
    result = sllm(*submit, cwd=place, **around)
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line["ended"] for line in ledger.attempts(run)] == ["finished"] * 4
    assert steps(run) == [1, 2]
    assert ("submitit.core._submit" in (site / "seen").read_text(encoding="utf-8")) == (where == "local")


def test_a_path_that_cannot_work_is_refused_before_anything_is_written(config: Path, place: Path) -> None:
    for where, path in (("local", "a:b"), ("slurm", "x/100%"), ("slurm", "a\\b")):
        refused = sllm("submit", config, f"runs_directory={path}", "--on", where, "--cluster", "dev", cwd=place)
        assert refused.returncode == 2
        assert f"--on {where} cannot use a path with" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert not (place / path).exists()
    assert sllm("prepare", config, "runs_directory=a:b", "--cluster", "dev", cwd=place).returncode == 2


def test_a_submit_runs_every_stage_from_the_copied_code(
    finished: "subprocess.CompletedProcess[str]", place: Path
) -> None:
    run = RunDirectory(place / "runs" / "tiny")
    assert [line["stage"] for line in ledger.attempts(run)] == list(map(str, up_to()))
    assert {line["ended"] for line in ledger.attempts(run)} == {"finished"}
    for stage in map(str, up_to()):
        assert read_done(run, stage) is not None
        first = run.log(stage).read_text(encoding="utf-8").split("\n")[0]
        assert first.startswith(f"──── {stage} · attempt 1 (submitted)")
        assert first.endswith(str(run.code))
    assert read_json(run.checkpoints / "step-00000030" / "state.json")["world_size"] == 2
    ranks = {line["stage"]: (line["ranks"], line["nodes"]) for line in ledger.attempts(run)}
    assert ranks == {stage: (2 if stage == "pretrain" else 1, 1) for stage in map(str, up_to())}
    for words in ("Korean perplexity", "English bits per byte", "next-token accuracy", "generation", str(run.path)):
        assert words in finished.stdout


@pytest.mark.slow
def test_the_commands_that_a_submit_ends_with_work_as_printed(
    finished: "subprocess.CompletedProcess[str]", place: Path
) -> None:
    lines = finished.stdout.partition("Next:\n")[2].splitlines()
    assert [shlex.split(line)[1] for line in lines] == ["chat", "export", "logs"]
    for line in lines:
        done = subprocess.run(shlex.split(line), cwd=place, env=variables(), input="", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert sllm("submit", place / "tiny.yaml", cwd=place).stdout.endswith("\n".join(["Next:", *lines, ""]))


def test_the_environment_is_written_down_without_variables(finished: Any, place: Path) -> None:
    text = (place / "runs" / "tiny" / "environment.txt").read_text(encoding="utf-8")
    assert text.startswith(f"sllm: {__version__}\ncommit: ")
    assert "\ntorch==" in text
    assert os.environ["PATH"] not in text


def test_a_second_submit_does_nothing_and_says_so(finished: Any, place: Path) -> None:
    run = RunDirectory(place / "runs" / "tiny")
    before = files(run)
    again = sllm("submit", place / "tiny.yaml", cwd=place)
    assert again.returncode == 0
    assert again.stdout.startswith(
        "Nothing to do: download, tokenizer, pack, pretrain, validate, benchmark, report are done"
    )
    assert files(run) == before


def test_status_and_logs_of_a_finished_run(finished: Any, place: Path) -> None:
    status = sllm("status", "tiny", cwd=place)
    assert status.stdout.count(" done ") == len(up_to())
    assert re.search(r"\n\d\.\d\d process-hours so far; goodput \d+\.\d%, of the wall time \d+\.\d%\n", status.stdout)
    assert "Korean perplexity" in status.stdout
    assert "finished" in sllm("status", cwd=place).stdout
    log = sllm("logs", "tiny", "pretrain", "-f", cwd=place)
    assert log.stdout == RunDirectory(place / "runs" / "tiny").log("pretrain").read_text(encoding="utf-8")


def test_a_submit_in_this_process_names_no_log_that_it_did_not_write(
    config: Path, run: RunDirectory, place: Path
) -> None:
    done = sllm("submit", config, "--on", "here", "--until", "pack", cwd=place)
    lines = done.stdout.partition("Next:\n")[2].splitlines()
    assert [shlex.split(line)[1] for line in lines] == ["status"]
    assert run.name in sllm(*shlex.split(lines[0])[1:], cwd=place).stdout


def test_a_run_with_the_same_data_takes_it(config: Path, run: RunDirectory, place: Path) -> None:
    dry = sllm("submit", config, "--dry-run", cwd=place)
    assert dry.stdout.count("takes what a run with the same settings made") == 3
    stamps = {path: path.stat().st_mtime_ns for path in (place / "data").rglob("*.bin")}
    assert sllm("submit", config, "--on", "here", "--until", "pack", cwd=place).returncode == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in (place / "data").rglob("*.bin")}
    assert read_done(run, "pack") is not None
    assert read_done(run, "pretrain") is None


def test_resume_runs_what_is_missing_and_nothing_else(config: Path, run: RunDirectory, place: Path) -> None:
    never = sllm("submit", config, "--resume", cwd=place)
    assert (never.returncode, never.stderr) == (
        2,
        f"sllm: {run.path}: nothing was submitted here; submit without --resume\n",
    )
    assert not run.path.exists()
    assert sllm("submit", config, "--on", "here", "--until", "tokenizer", cwd=place).returncode == 0

    before = files(run)
    other = sllm("submit", config, "seed=9", "train.max_steps=7", "--resume", cwd=place)
    assert other.returncode == 2
    assert "the settings have changed (seed 1234 → 9; train.max_steps 300 → 7)" in other.stderr
    assert other.stderr.count("\n") == 1
    assert files(run) == before

    assert sllm("submit", config, "--resume", "--on", "here", "--until", "pack", cwd=place).returncode == 0
    assert [line["stage"] for line in ledger.attempts(run)] == ["download", "tokenizer", "pack"]


# --- runs that do not -----------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_saves_and_the_next_submit_goes_on(config: Path, run: RunDirectory, place: Path) -> None:
    process = start("submit", config, "--until", "pretrain", cwd=place)
    wait_for_step(run, 15, process)

    second = sllm("submit", config, cwd=place)
    assert second.returncode == 2
    assert second.stderr.startswith(f"sllm: {run.path}: `sllm submit ")
    assert f"(process {process.pid} on " in second.stderr

    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to everyone
    output = process.communicate()[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output + run.log("pretrain").read_text(encoding="utf-8")
    stopped_at = steps(run)[-1]
    assert (run.checkpoints / f"step-{stopped_at:08d}").is_dir()

    dry = sllm("submit", config, "--until", "pretrain", "--dry-run", cwd=place)
    assert f"goes on from step {stopped_at}" in dry.stdout
    assert sllm("submit", config, "--until", "pretrain", cwd=place).returncode == 0
    assert steps(run) == list(range(1, STEPS + 1))
    assert ends(run) == ["stopped", "finished"]
    assert ledger.attempts(run, "pretrain")[1]["first_step"] == stopped_at + 1


@pytest.mark.slow
def test_cancel_is_as_gentle_as_ctrl_c(config: Path, run: RunDirectory, place: Path) -> None:
    process = start("submit", config, "--until", "pretrain", cwd=place)
    wait_for_step(run, 15, process)
    status = sllm("status", run.name, cwd=place).stdout.split("\n")
    assert any(line.split()[:3] == ["pretrain", "running", "1"] for line in status), status
    cancelled = sllm("cancel", run.name, cwd=place)
    assert cancelled.returncode == 0
    assert f"asked process {process.pid}" in cancelled.stdout
    process.communicate()
    assert ends(run) == ["stopped"]
    assert (run.checkpoints / f"step-{steps(run)[-1]:08d}").is_dir()
    again = sllm("cancel", run.name, cwd=place)
    assert (again.returncode, again.stderr) == (2, f"sllm: {run.path}: nothing is queued or running\n")


@pytest.mark.slow
def test_a_terminal_that_closes_stops_as_sigterm_does(config: Path, run: RunDirectory, place: Path) -> None:
    """A real one: its end hangs up, to the whole session, and what is then written to it is refused."""
    process, terminal = start_on_terminal(command("submit", config, "--until", "pretrain"), cwd=place)
    while not steps(run):
        os.read(terminal, 65536)
    os.close(terminal)
    process.wait()
    assert process.returncode == 130
    assert (run.checkpoints / f"step-{steps(run)[-1]:08d}").is_dir()
    (line,) = ledger.attempts(run, "pretrain")
    assert (line["ended"], line["message"]) == ("stopped", "SIGHUP")
    assert local_processes(run) == []
    status = sllm("status", run.name, cwd=place).stdout.split("\n")
    assert any(line.split()[:2] == ["pretrain", "stopped"] for line in status), status


@pytest.mark.slow
def test_a_reader_that_leaves_stops_nothing(config: Path, run: RunDirectory, place: Path) -> None:
    """`sllm submit … | head`, and `nohup`, which a hang-up then does not reach."""
    process = subprocess.Popen(
        ["nohup", *command("submit", config, "train.max_steps=120", "--until", "pretrain")],
        cwd=place,
        env=variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    while not steps(run):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait() == 0
    assert ends(run) == ["finished"]


@pytest.mark.slow
def test_ranks_whose_submit_was_killed_are_seen_and_can_be_cancelled(
    config: Path, run: RunDirectory, place: Path
) -> None:
    arguments = ["submit", config, "train.max_steps=1000000", "--until", "pretrain"]
    process = start(*arguments, cwd=place)
    wait_for_step(run, 15, process)
    process.kill()
    process.wait()

    status = sllm("status", run.name, cwd=place).stdout.split("\n")
    assert any(line.split()[:2] == ["pretrain", "running"] for line in status), status
    for words in (arguments, ["train", config, "train.max_steps=1000000"]):
        again = sllm(*words, cwd=place)
        assert again.returncode == 2
        assert "still work on it, though their submit is gone" in again.stderr
        assert again.stderr.count("\n") == 1

    numbers = ", ".join(map(str, local_processes(run)))
    cancelled = sllm("cancel", run.name, cwd=place)
    assert cancelled.stdout == f"asked processes {numbers}, whose submit is gone, to stop\n", cancelled.stderr
    while local_processes(run):
        time.sleep(0.05)
    status = sllm("status", run.name, cwd=place).stdout.split("\n")
    assert any(line.split()[:2] == ["pretrain", "stopped"] for line in status), status
    assert f"goes on from step {steps(run)[-1]}" in sllm(*arguments, "--dry-run", cwd=place).stdout
    require_no_processes(run)  # as the next submit does
    assert ends(run) == ["stopped"]


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_stage(config: Path, run: RunDirectory, place: Path) -> None:
    process = start("submit", config, cwd=place)
    wait_for_step(run, 15, process)
    os.kill(local_processes(run)[-1], signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == 1, output
    assert f"log: {run.log('pretrain')}" in output
    assert ends(run) == ["killed"]
    assert not run.stage("validate").exists()
    assert local_processes(run) == []


@pytest.mark.slow
def test_ranks_go_on_when_the_process_that_started_them_is_killed(config: Path, run: RunDirectory, place: Path) -> None:
    process = start("submit", config, "--until", "pretrain", cwd=place)
    wait_for_step(run, 5, process)
    starter, *ranks = local_processes(run)
    assert len(ranks) == 2
    os.kill(starter, signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert ends(run) == ["finished"]
    assert steps(run)[-1] == STEPS


@pytest.mark.slow
def test_a_crash_shows_the_end_of_the_log(
    finished: Any, texts: dict[str, Path], place: Path, run: RunDirectory, config: Path, tmp_path: Path
) -> None:
    """From a copy of the tree with a bug in it: the run's own copy has the bug, later edits do not matter."""
    tree = tmp_path / "tree"
    for package in ("sllm", "jobs", "configs"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    optim = tree / "sllm" / "training" / "optim.py"
    sound = optim.read_text(encoding="utf-8")
    bug = "\n    if step == 12:\n        raise ZeroDivisionError('a bug')\n"
    head, signature, body = sound.partition("def learning_rate(")
    line, colon, rest = body.partition("-> float:\n")
    optim.write_text(head + signature + line + colon + bug.lstrip("\n") + rest, encoding="utf-8")

    process = start("submit", config, cwd=place, PYTHONPATH=str(tree))
    while not run.log("download").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    optim.write_text(sound, encoding="utf-8")
    output = process.communicate()[0]
    assert process.returncode == 1, output
    assert "ZeroDivisionError: a bug" in output
    assert f"pretrain failed: ZeroDivisionError: a bug\nlog: {run.log('pretrain')}" in output
    assert ends(run) == ["crash"]
    assert "validate: " not in output
    assert output.endswith(f"Report: runs/{run.name}/report/index.html\n")
    assert (run.report / "index.html").is_file()


def test_bad_input_found_by_a_stage_is_one_line(texts: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    config = tiny.write_experiment(tmp_path, {**texts, "en": broken})
    result = sllm("submit", config, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"sllm: {broken}:2")
    assert result.stderr.count("\n") == 1
    assert not list((tmp_path / "data").rglob("manifest.json"))
    assert ends(RunDirectory(tmp_path / "runs" / "tiny"), "download") == ["bad input"]


def test_a_process_of_a_stage_is_held_to_the_device_that_the_profile_promises(
    config: Path, run: RunDirectory, place: Path, tmp_path: Path
) -> None:
    """Else it would train on the CPU, and nobody would hear of it."""
    profile = tmp_path / "profile.yaml"
    profile.write_text("stages: {pretrain: {device: gpu}}", encoding="utf-8")
    arguments = ["submit", config, "--on", "local", "--cluster", profile, "--until", "pretrain"]
    assert sllm(*arguments, cwd=place, CUDA_VISIBLE_DEVICES="").returncode == 2
    (line,) = ledger.attempts(run, "pretrain")
    assert line["ended"] == ledger.BAD_INPUT
    assert "no GPU" in line["message"]
    assert not run.metrics.exists()


@pytest.mark.slow
def test_sigterm_during_train_is_exit_code_0(config: Path, run: RunDirectory, place: Path) -> None:
    assert sllm("submit", config, "--until", "pack", "--on", "here", cwd=place).returncode == 0
    process = start("train", config, cwd=place)
    wait_for_step(run, 15, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "outcome stopped (SIGTERM)" in output
    assert (run.checkpoints / f"step-{steps(run)[-1]:08d}").is_dir()

    other = sllm("train", config, "train.learning_rate=0.5", cwd=place)
    assert other.returncode == 2
    assert "its checkpoints were trained with other settings (train.learning_rate 0.0006 → 0.5)" in other.stderr
    assert other.stderr.count("\n") == 1


@pytest.mark.slow
def test_train_under_torchrun_is_ordinary_ddp(config: Path, run: RunDirectory, place: Path) -> None:
    assert sllm("submit", config, "--until", "pack", "--on", "here", cwd=place).returncode == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "jobs.cli"]
    train = [*torchrun, "train", str(config), "train.max_steps=20"]
    done = subprocess.run(train, cwd=place, env=variables(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert steps(run) == list(range(1, 21))
    assert ends(run) == ["finished"]
    assert ledger.attempts(run, "pretrain")[0]["ranks"] == 2
    assert read_json(run.checkpoints / "step-00000020" / "state.json")["world_size"] == 2

    again = subprocess.run(train, cwd=place, env=variables(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done already") == 1
    assert ends(run) == ["finished"]
