"""What a run directory is given before the first stage starts."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import command, start_on_terminal, variables

import jobs.launch.prepare
from jobs import ledger
from jobs.launch.prepare import snapshot_code, write_submission
from jobs.lock import lock
from jobs.previous import swap_training
from jobs.slurm.cluster import Cluster
from sllm.artifacts import stage_keys
from sllm.config import load_experiment
from sllm.errors import UserError
from sllm.files import fingerprint, write_json, write_text
from sllm.manifests import read_manifest
from sllm.records import append_jsonl
from sllm.run_directory import RunDirectory

SOURCE = "from numba import njit\n\n\n@njit(cache=True)\ndef double(x):\n    return 2 * x\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "tiny")


def all_of(directory: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


def test_a_refused_submit_leaves_nothing(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused"), lock(run, tmp_path / "data" / "deep", "sllm submit"):
        write_json(run.path / "keys.json", {})
        write_json(run.stage("download") / "job.json", {"job": "1"})
        raise UserError("refused")
    assert all_of(tmp_path) == {}
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), lock(run, tmp_path / "file", "sllm submit"):
        pass
    assert all_of(tmp_path) == {tmp_path / "file": b""}


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_refused_submit_leaves_what_was_there(tmp_path: Path, texts: dict[str, Path], comes_back: bool) -> None:
    first, second = (load_experiment(tiny.write_experiment(tmp_path, texts), [f"seed={seed}"]) for seed in (1, 2))
    run = RunDirectory(first.run_path)
    for experiment in (second, first) if comes_back else (first,):
        swap_training(run, stage_keys(experiment))
        write_submission(run, experiment, stage_keys(experiment))
        write_json(run.checkpoints / "step-00000030" / "state.json", {"trajectory": stage_keys(experiment)["pretrain"]})
        write_json(run.stage("pretrain") / "attempt.json", {"token": experiment.seed})
        write_json(run.stage("pretrain") / "job.json", {"job": str(experiment.seed)})
        write_text(run.best / "model", str(experiment.seed))
    with lock(run, tmp_path / "data", "sllm submit"):
        pass
    before = all_of(tmp_path)
    with pytest.raises(KeyboardInterrupt), lock(run, tmp_path / "data", "sllm submit"):
        assert swap_training(run, stage_keys(second))
        write_submission(run, second, stage_keys(second), Cluster(), "slurm")
        assert run.best.exists() == comes_back
        (run.stage("pretrain") / "submitit").mkdir(parents=True)
        write_json(run.stage("pretrain") / "job.json", {"job": "3"})
        raise KeyboardInterrupt
    after = all_of(tmp_path)
    more = {path.relative_to(run.path).parts[-1] for path in after.keys() - before.keys()}
    assert more <= {"previous", "submitit"}  # empty folders
    assert {path: after.get(path) for path in before} == before


@pytest.mark.parametrize("answer", ["y", "n", "\x03", None], ids=["yes", "no", "Ctrl-C", "nobody to ask"])
def test_an_hour_of_training_does_not_move_without_a_question(
    tmp_path: Path, texts: dict[str, Path], answer: str | None
) -> None:
    config = tiny.write_experiment(tmp_path, texts)
    first = load_experiment(config)
    run, key = RunDirectory(first.run_path), stage_keys(first)["pretrain"]
    write_submission(run, first, stage_keys(first))
    write_json(run.checkpoints / "step-00000030" / "state.json", {"trajectory": key})
    line = {"stage": "pretrain", "fingerprint": fingerprint(key), "token": "t", "seconds": 4000.0, "began": "submitted"}
    append_jsonl(run.ledger, line)
    words = command("prepare", config, "seed=7")
    if answer is None:
        done = subprocess.run(
            words, cwd=tmp_path, env=variables(), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        code, shown = done.returncode, done.stderr
        assert done.stdout == f"{run.path}\n"
    else:
        code, shown = on_terminal(words, tmp_path, answer)
    assert "The former training (30 steps, 1:06:40) moves to runs/tiny/previous/" in shown.replace("\r\n", " ")
    moves = answer in ("y", None)
    assert code == {"y": 0, "n": 2, "\x03": 130, None: 0}[answer]
    assert run.checkpoints.exists() != moves
    assert (run.path / "previous" / fingerprint(key) / "checkpoints").exists() == moves
    assert load_experiment(run.config).seed == (7 if moves else 1234)


def on_terminal(words: list[str], place: Path, answer: str) -> tuple[int, str]:
    """Run a command on a terminal of its own, and answer what it asks. Returns its exit code and what it showed."""
    process, terminal = start_on_terminal(words, cwd=place)
    shown = b""
    while b"[y/n]" not in shown:
        shown += os.read(terminal, 65536)
    os.write(terminal, f"{answer}\n".encode())
    with contextlib.suppress(OSError):  # EIO: its other end is closed
        while data := os.read(terminal, 65536):
            shown += data
    os.close(terminal)
    return process.wait(), shown.decode()


def test_a_stage_that_has_begun_leaves_its_run(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wrong"), lock(run, tmp_path / "data", "sllm submit"):
        ledger.begin(run, "download", "f", "token", ledger.SUBMITTED)
        ledger.end(run, "download", "token", ledger.BAD_INPUT, "wrong")
        ledger.close(run, "download")
        raise UserError("wrong")
    assert [line["ended"] for line in ledger.attempts(run)] == ["bad input"]


def test_one_submit_at_a_time_and_each_sees_who_is_at_work(run: RunDirectory, tmp_path: Path) -> None:
    """Processes that all want a run that is not there, of which each is refused and takes it back."""
    code = f"""
import sys, pathlib
from jobs.lock import lock
from sllm.errors import UserError
from sllm.run_directory import RunDirectory
place = pathlib.Path({str(tmp_path)!r})
alone = place / "alone"
for _ in range(12):
    try:
        with lock(RunDirectory(place / "runs" / "tiny"), place / "data", "sllm submit"):
            alone.touch(exist_ok=False)
            alone.unlink()
            raise UserError("refused")
    except UserError as error:
        assert str(error) == "refused" or "is at work on this run (process " in str(error), error
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert not run.path.exists()


def compiled_anew(root: Path) -> bool:
    """Call the compiled function below `root`, as a process that starts there would; whether it had to be compiled."""
    spec: Any = importlib.util.spec_from_file_location("double", root / "sllm" / "tokenizer" / "double.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.double(21) == 42
    return not module.double.stats.cache_hits


def test_what_numba_compiled_for_one_run_serves_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "checkout"
    source = tree / "sllm" / "tokenizer" / "double.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE)
    monkeypatch.setattr(jobs.launch.prepare, "TREE", tree)
    runs = [RunDirectory(tmp_path / "runs" / name) for name in "abcd"]

    snapshot_code(runs[0])
    assert compiled_anew(runs[0].code)
    snapshot_code(runs[1])
    assert not compiled_anew(runs[1].code)
    for run in runs[:2]:
        read_manifest(run.code, checksums=True)

    source.write_text(SOURCE.replace("2 * x", "x + x"))
    snapshot_code(runs[2])
    assert compiled_anew(runs[2].code)
    source.write_text(SOURCE.replace("2 * x", "x + x + 0"))
    assert compiled_anew(tree)
    snapshot_code(runs[3])
    assert not compiled_anew(runs[3].code)


def test_a_run_keeps_what_its_code_reads(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    snapshot_code(run)
    for package in jobs.launch.prepare.PACKAGES:
        texts = {
            path.relative_to(jobs.launch.prepare.TREE) for path in (jobs.launch.prepare.TREE / package).rglob("*.txt")
        }
        assert texts == {path.relative_to(run.code) for path in (run.code / package).rglob("*.txt")}
        assert texts or package != "sllm"
