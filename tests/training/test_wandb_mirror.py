"""The W&B mirror: every step once, whatever ends the senders, and harmless whatever W&B does.

The real client talks to a stand-in for the server.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE
from wandb_server import WandbServer

from jobs.tools.sync import sync
from sllm.config import Experiment, write_experiment
from sllm.errors import UserError
from sllm.files import read_json, write_text
from sllm.run_directory import RunDirectory
from sllm.training import wandb_mirror as mirror
from sllm.training.metrics import Metrics, cut_back

MAX_STEPS, VALIDATE_EVERY = 12, 5


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that wandb, in this process and in those it starts, takes for the real one."""
    import wandb

    with WandbServer().serve() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")
        wandb.teardown()  # it remembers the server of the test before
        yield server
        wandb.teardown()


def make(directory: Path, mode: str) -> tuple[Experiment, RunDirectory]:
    """A run below `directory`, as `sllm submit` leaves it."""
    experiment = Experiment.model_validate(
        {
            "name": "mirrored",
            "runs_directory": str(directory / "runs"),
            "data": {"sources": [{"name": "a", "kind": "embedded", "language": "ko"}]},
            "model": {"d_model": 32, "n_layers": 1, "n_heads": 1, "d_ff": 32, "context_length": 256},
            "train": {"max_steps": MAX_STEPS, "global_batch": 1, "micro_batch": 1},
            "validate": {"every": VALIDATE_EVERY},
            "wandb": {"mode": mode, "project": "p"},
        }
    )
    run = RunDirectory(experiment.run_path)
    write_text(run.config, write_experiment(experiment))
    return experiment, run


def train(run: RunDirectory, start: int, end: int) -> None:
    """Write what training from checkpoint `start` to `end` writes: the same for the same step, but for the times."""
    metrics = Metrics(run.metrics)
    metrics.write("start", start, seconds=0.5)
    for step in range(start, end + 1):
        if step > start:
            metrics.write("train", step, loss=1 / step, gradient_norm=None, overflow=True)
        if step > start and (step % VALIDATE_EVERY == 0 or step == MAX_STEPS):
            sample = {"prompt": "한국", "continuation": f" <{step}>"}
            metrics.write("validation", step, loss=0.5 / step, languages={"ko": {"loss": 1.0}}, samples=[sample])
    metrics.write("checkpoint", end, seconds=0.25)


def expect_all_steps_once(server: WandbServer, last: int) -> None:
    rows = server.history()
    assert [row["_step"] for row in rows] == list(range(1, last + 1))
    assert [row["train/loss"] for row in rows] == [1 / step for step in range(1, last + 1)]
    assert all(row["train/overflow"] and "train/gradient_norm" not in row for row in rows)  # null is left out
    validated = {row["_step"]: row["validation/loss"] for row in rows if "validation/loss" in row}
    due = [step for step in range(1, last + 1) if step % VALIDATE_EVERY == 0 or step == MAX_STEPS]
    assert validated == {step: 0.5 / step for step in due}


def start_mirror(experiment: Experiment, run: RunDirectory) -> "subprocess.Popen[bytes]":
    """What `mirror_to_wandb` starts, without the time that the real server needs to settle."""
    code = "from sllm.training import wandb_mirror as mirror; mirror.SETTLE_SECONDS = 0; mirror.main()"
    process = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(json.dumps(experiment.to_dict()).encode() + b"\n")
    process.stdin.flush()
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)


def test_every_step_once_over_online_offline_kills_and_syncs(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "SETTLE_SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    experiment, run = make(tmp_path, "online")

    # An attempt online; training and the mirror are killed when some steps arrived.
    first = start_mirror(experiment, run)
    train(run, 0, 4)
    wait_until(lambda: bool(wandb_server.files) and len(wandb_server.history()) == 4)
    train(run, 4, 7)
    first.kill()
    first.wait()
    identifier = read_json(run.path / "wandb.json")

    # Resumed from the checkpoint of step 3. A sync meanwhile keeps out of its way.
    cut_back(run.metrics, 3)
    second = start_mirror(experiment, run)
    train(run, 3, 8)
    wait_until(lambda: len(wandb_server.history()) == 8)
    assert list(sync([])) == ["mirrored: is being sent by its training, or by another sync"]
    second.communicate()  # closes the pipe
    assert second.returncode == 0

    # An attempt without a network, and then `sllm sync`, twice.
    train(run, 8, MAX_STEPS)
    assert list(sync(["mirrored"])) == ["mirrored: sent 4 steps; W&B has every step up to 12"]
    posts = wandb_server.posts
    assert list(sync([])) == ["mirrored: nothing to send; W&B has every step up to 12"]
    assert wandb_server.posts == posts

    expect_all_steps_once(wandb_server, MAX_STEPS)
    assert list(wandb_server.files) == [identifier["id"]]
    pages = {name: page.decode() for name, page in wandb_server.uploads.items() if "samples" in name}
    assert any(name.startswith("media/html/validation/samples_12_") for name in pages)
    assert any("<b>한국</b> &lt;12&gt;" in page for page in pages.values())
    assert not list(run.path.glob("wandb/**/*.wandb"))  # nothing that `wandb sync` could send a second time
    assert "0" * 40 not in "".join(file.read_text(errors="replace") for file in run.path.rglob("*") if file.is_file())


def test_a_sync_that_was_killed_is_finished_by_the_next(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "SETTLE_SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    _, run = make(tmp_path, "offline")
    assert list(sync([])) == ["mirrored: nothing to send; it has no steps yet"]
    train(run, 0, MAX_STEPS)
    code = """
from sllm.training import wandb_mirror as mirror
import os, time
def send_row(wandb_run, step, figures, send=mirror._send_row):
    if step == 8:
        time.sleep(60)
    return send(wandb_run, step, figures)
mirror._send_row = send_row
from jobs.tools.sync import sync
list(sync([]))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: bool(wandb_server.files) and len(wandb_server.history()) == 7)
    process.kill()
    process.wait()
    assert list(sync([])) == ["mirrored: sent 5 steps; W&B has every step up to 12"]
    expect_all_steps_once(wandb_server, MAX_STEPS)


@settings(max_examples=40)
@given(data=st.data())
def test_rows_are_complete_and_come_once(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Attempts that stop or are killed anywhere, read at any moment by senders that are killed anywhere."""
    experiment, run = make(tmp_path_factory.mktemp("run"), "online")
    arrived: list[tuple[int, dict[str, Any]]] = []
    history = mirror.History(experiment, run.metrics)
    often = st.integers(0, 3).map(lambda n: n == 0)

    def read() -> None:
        last = arrived[-1][0] if arrived else 0
        rows = [(step, row) for step, row in history.new_rows() if step > last]
        arrived.extend(rows[: data.draw(st.integers(0, len(rows)))] if data.draw(often) else rows)
        if rows and (not arrived or arrived[-1] != rows[-1]):
            restart()  # this sender was killed before it could send them all

    def restart() -> None:
        nonlocal history
        history = mirror.History(experiment, run.metrics)

    def write(kind: str, step: int, **figures: Any) -> None:
        line = json.dumps({"kind": kind, "step": step, **figures, "time": 0.0}).encode() + b"\n"
        cut = data.draw(st.integers(0, len(line))) if data.draw(often) else 0
        for part in (line[:cut], line[cut:]):
            with run.metrics.open("ab") as file:
                file.write(part)
            if cut:
                read()

    step = saved = 0
    while True:
        write("start", step, seconds=0.1)
        validated = {r["step"] for r in cut_back(run.metrics, step) if r["kind"] == "validation"}
        restart()
        while True:
            ending = data.draw(st.sampled_from(["", "", "", "", "stop", "kill"]))
            if experiment.validates_after(step) and step not in validated and step > 0 and ending != "stop":
                validated.add(step)
                write("validation", step, loss=1.0)
            if ending == "stop" or step == MAX_STEPS:
                saved = step
                write("checkpoint", step, seconds=0.1)
                break
            if ending == "kill":
                break
            step += 1
            write("train", step, loss=1 / step)
        if step == MAX_STEPS and step in validated:
            break
        step = saved
        cut_back(run.metrics, step)
    restart()
    arrived.extend((step, row) for step, row in history.new_rows() if not arrived or step > arrived[-1][0])
    assert [step for step, _ in arrived] == list(range(1, MAX_STEPS + 1))
    for step, row in arrived:
        assert row["train/loss"] == 1 / step
        assert ("validation/loss" in row) == experiment.validates_after(step)


def test_it_finishes_after_its_training_was_killed(wandb_server: WandbServer, tmp_path: Path) -> None:
    experiment, _ = make(tmp_path, "auto")
    script = """
import json, pathlib, sys, time
from sllm.config import Experiment
from sllm.run_directory import RunDirectory
from sllm.training.metrics import Metrics
from sllm.training.wandb_mirror import mirror_to_wandb
experiment = Experiment.model_validate(json.loads(sys.argv[1]))
run = RunDirectory(experiment.run_path)
with mirror_to_wandb(experiment, run):
    Metrics(run.metrics).write("train", 1, loss=1.0)
    print("ready", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(experiment.to_dict())], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: bool(wandb_server.files) and len(wandb_server.history()) == 1)


def test_a_signal_to_all_of_a_job_does_not_end_it_while_it_starts(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def popen(*arguments: Any, popen: Any = subprocess.Popen, **keywords: Any) -> "subprocess.Popen[bytes]":
        started.append(popen(*arguments, **keywords))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    experiment, run = make(tmp_path, "online")
    with mirror.mirror_to_wandb(experiment, run):
        started[0].send_signal(signal.SIGUSR2)
        started[0].send_signal(signal.SIGTERM)
        train(run, 0, 1)
    assert started[0].returncode == 0
    expect_all_steps_once(wandb_server, 1)


def test_a_refused_key_is_told_and_nothing_else(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wandb_server.behaviour = "refuses"
    experiment, run = make(tmp_path, "online")
    with mirror.mirror_to_wandb(experiment, run):
        train(run, 0, 1)
    assert "`sllm sync mirrored` sends it" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"^mirrored: W&B: .*$"):
        list(sync([]))
    assert wandb_server.files == {}


def test_a_silent_server_is_given_up(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb_server.behaviour = "hangs"
    monkeypatch.setattr(mirror, "CLOSE_SECONDS", 2.0)
    experiment, run = make(tmp_path, "online")
    with mirror.mirror_to_wandb(experiment, run):
        train(run, 0, 1)
    assert "W&B did not finish within 2 s" in caplog.text


def test_without_a_key_or_a_network_there_is_one_line(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing to sync"):
        list(sync([]))
    experiment, run = make(tmp_path, "auto")
    train(run, 0, MAX_STEPS)

    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"^W&B: not logged in to .*: run `wandb login`, or set WANDB_API_KEY$"):
        list(sync([]))
    with mirror.mirror_to_wandb(experiment, run):
        pass
    assert "not logged in" in capfd.readouterr().err

    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    with pytest.raises(UserError, match=r"^W&B: 127\.0\.0\.1:9 cannot be reached from .*$"):
        list(sync([]))
    assert sorted(file.name for file in run.path.iterdir()) == ["config.yaml", "metrics.jsonl"]
    assert wandb_server.files == {}


def test_offline_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, run = make(tmp_path, "offline")
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with mirror.mirror_to_wandb(experiment, run):
        train(run, 0, 1)
    assert sorted(file.name for file in run.path.iterdir()) == ["config.yaml", "metrics.jsonl"]
