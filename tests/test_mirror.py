"""The W&B mirror: complete and without doubles over several attempts, and harmless whatever W&B does."""

import http.server
import json
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sllm import mirror
from sllm.config import Experiment
from sllm.files import RunDirectory, append_jsonl, read_json
from sllm.metrics import Metrics, cut_back


@pytest.fixture
def offline(tmp_path: Path) -> tuple[Experiment, RunDirectory]:
    return make(tmp_path, "offline")


def make(directory: Path, mode: str) -> tuple[Experiment, RunDirectory]:
    experiment = Experiment.model_validate(
        {
            "name": "mirrored",
            "runs_directory": str(directory),
            "data": {"sources": [{"name": "a", "kind": "embedded", "language": "ko"}]},
            "model": {"d_model": 32, "n_layers": 1, "n_heads": 1, "d_ff": 32, "context_length": 256},
            "train": {"max_steps": 9, "global_batch": 1, "micro_batch": 1},
            "wandb": {"mode": mode, "project": "p"},
        }
    )
    run = RunDirectory(experiment.run_path)
    run.path.mkdir()
    return experiment, run


def offline_records(run: RunDirectory) -> list[dict[str, Any]]:
    """History rows of the run's offline files (LevelDB's log format: 32 KiB blocks of checksum, length, type, data)."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for path in sorted(run.path.glob("wandb/offline-run-*/*.wandb")):
        content, position, pending = path.read_bytes(), 7, b""
        while position + 7 <= len(content):
            if 32768 - position % 32768 < 7:  # a block's trailer
                position += 32768 - position % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", content, position)
            pending += content[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or last fragment
                record = wandb_internal_pb2.Record.FromString(pending)
                pending = b""
                if record.WhichOneof("record_type") == "history":
                    items = record.history.item
                    rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_two_attempts_are_one_run_without_lost_or_doubled_steps(offline: tuple[Experiment, RunDirectory]) -> None:
    experiment, run = offline
    metrics = Metrics(run.metrics)
    with mirror.mirror_to_wandb(experiment, run):
        for step in range(1, 8):
            metrics.write("train", step, loss=1 / step)
        metrics.write("validation", 7, loss=0.5, samples=[{"prompt": "한국", "continuation": "은 "}])
    identifier = read_json(run.path / "wandb.json")["id"]
    # The process was killed after step 7 and resumes from the checkpoint of step 5.
    cut_back(run.metrics, 5)
    with mirror.mirror_to_wandb(experiment, run):
        for step in range(6, 10):
            metrics.write("train", step, loss=1 / step)
        metrics.write("validation", 7, loss=0.5, samples=[])
        metrics.write("validation", 9, loss=0.25, samples=[])
    assert read_json(run.path / "wandb.json") == {"id": identifier, "sent": {"train": 9, "validation": 9}}
    rows = offline_records(run)
    trained = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert trained == [(step, 1 / step) for step in range(1, 10)]
    assert [row["step"] for row in rows if "validation/loss" in row] == [7, 9]
    assert len(list(run.path.glob(f"wandb/offline-run-*-{identifier}"))) == 2


def test_the_next_attempt_sends_what_a_dead_mirror_did_not(offline: tuple[Experiment, RunDirectory]) -> None:
    experiment, run = offline
    for step in range(1, 4):
        append_jsonl(run.metrics, {"kind": "train", "step": step, "loss": 1.0})
    with mirror.mirror_to_wandb(experiment, run):
        pass
    assert [row["step"] for row in offline_records(run)] == [1, 2, 3]


def test_it_finishes_after_its_training_was_killed(offline: tuple[Experiment, RunDirectory], tmp_path: Path) -> None:
    experiment, run = offline
    config = tmp_path / "e.json"
    config.write_text(json.dumps(experiment.to_dict()), encoding="utf-8")
    script = """
import json, pathlib, sys, time
from sllm.config import Experiment
from sllm.files import RunDirectory
from sllm.metrics import Metrics
from sllm.mirror import mirror_to_wandb
experiment = Experiment.model_validate(json.loads(pathlib.Path(sys.argv[1]).read_text()))
run = RunDirectory(experiment.run_path)
with mirror_to_wandb(experiment, run):
    Metrics(run.metrics).write("train", 1, loss=1.0)
    print("ready", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(config)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not offline_records(run):
        time.sleep(0.2)
    assert [row["step"] for row in offline_records(run)] == [1]


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A W&B server on loopback that refuses the key (401), or never answers."""
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if request.param == "silent":
                released.wait(60)
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b'{"errors": [{"message": "bad key"}]}')

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield
    released.set()
    listener.shutdown()


@pytest.mark.parametrize("server", ["refusing"], indirect=True)
def test_a_refused_key_goes_on_offline(server: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    experiment, run = make(tmp_path, "online")
    with mirror.mirror_to_wandb(experiment, run):
        Metrics(run.metrics).write("train", 1, loss=1.0)
    assert "going on offline" in capfd.readouterr().err
    assert [row["train/loss"] for row in offline_records(run)] == [1.0]


@pytest.mark.parametrize("server", ["silent"], indirect=True)
def test_a_silent_server_is_given_up(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror, "CLOSE_SECONDS", 2.0)
    experiment, run = make(tmp_path, "online")
    with mirror.mirror_to_wandb(experiment, run):
        Metrics(run.metrics).write("train", 1, loss=1.0)
    assert "the next attempt sends the rest" in caplog.text
    assert read_json(run.path / "wandb.json")["sent"] == {}


def test_auto_without_a_key_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: tuple[Experiment, RunDirectory]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    experiment, run = offline
    automatic = experiment.model_copy(update={"wandb": experiment.wandb.model_copy(update={"mode": "auto"})})
    with mirror.mirror_to_wandb(automatic, run):
        Metrics(run.metrics).write("train", 1, loss=1.0)
    assert len(offline_records(run)) == 1
