"""The loop: exact resume through kills, damage and full disks; the same training on any number of ranks.

Every test trains a tiny model with dropout in real processes over gloo.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
import yaml
from waiting import PATIENCE

from sllm.config import CheckpointConfig
from sllm.errors import UserError
from sllm.files import read_json, write_json
from sllm.manifests import read_manifest, write_manifest
from sllm.model.storage import load_model
from sllm.records import read_jsonl
from sllm.run_directory import checkpoint_steps
from sllm.tensors import checksums
from sllm.training.checkpoint import Checkpoints
from sllm.training.metrics import Metrics

STEPS = 40


@pytest.fixture(scope="session")
def experiment(prepared: dict[str, Any]) -> dict[str, Any]:
    """An experiment whose corpus, tokenizer and packed tokens are on disk."""
    return prepared


@pytest.fixture
def configure(experiment: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Write the experiment, with changes to its `train` section, as a new run; returns the path of the YAML file."""

    def write(name: str = "run", /, **train: Any) -> Path:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        values = {
            **experiment,
            "name": name,
            "runs_directory": str(tmp_path),
            "train": {**experiment["train"], **train},
        }
        path = directory / "experiment.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def straight(experiment: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of an uninterrupted training on two ranks."""
    directory = tmp_path_factory.mktemp("straight") / "straight"
    directory.mkdir()
    config = directory / "experiment.yaml"
    values = {**experiment, "name": "straight", "runs_directory": str(directory.parent)}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert ranks.run(config, 2)["outcome"] == "finished"
    return directory


def losses(run: Path, kind: str = "train") -> dict[int, float]:
    records = [record for record in read_jsonl(run / "metrics.jsonl") if record["kind"] == kind]
    steps = [record["step"] for record in records]
    assert steps == sorted(set(steps)), "a step stands twice"
    return {record["step"]: record["loss"] for record in records}


def final(run: Path, step: int = STEPS) -> dict[str, str]:
    """A checksum of each tensor, in whichever files they are."""
    found = checksums(run / "checkpoints" / f"step-{step:08d}")
    assert len(found) > 50
    return found


def log_of(config: Path) -> str:
    return (config.parent / "ranks.log").read_text(encoding="utf-8")


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def assert_equal_to_the_last_bit(run: Path, straight: Path) -> None:
    assert losses(run) == losses(straight)
    assert list(losses(run)) == list(range(1, STEPS + 1))
    assert losses(run, "validation") == losses(straight, "validation")
    assert final(run) == final(straight)


def test_straight_run_learns_and_is_complete(straight: Path) -> None:
    loss = losses(straight)
    assert list(loss) == list(range(1, STEPS + 1))
    assert loss[STEPS] < loss[1] - 0.5
    assert list(losses(straight, "validation")) == [15, 30, 40]
    steps = sorted(path.name for path in (straight / "checkpoints").glob("step-*"))
    # The last two, and every twentieth.
    assert steps == ["step-00000020", "step-00000036", "step-00000040"]
    last = [record for record in read_jsonl(straight / "metrics.jsonl") if record["kind"] == "validation"][-1]
    assert set(last["languages"]) == {"ko", "en"}
    assert [sample["prompt"] for sample in last["samples"]] == ["한국", "The"]
    best = min(losses(straight, "validation").values())
    assert best == last["loss"]
    best, weights = (straight / name / "model.safetensors" for name in ("best", f"checkpoints/step-{STEPS:08d}"))
    assert best.samefile(weights), "the best model is of the last step"
    read_manifest(best.parent, checksums=True)


@pytest.mark.slow
@pytest.mark.kills
@pytest.mark.timeout(3600)
def test_twenty_kills_change_nothing(configure: Callable[..., Path], straight: Path) -> None:
    """Every process is killed 20 times: after some steps, and while a checkpoint is being written."""
    config = configure("killed")
    checkpoints = config.parent / "checkpoints"
    choose = random.Random(20)
    kills = {"random": 0, "saving": 0}
    while sum(kills.values()) < 20:
        attempt = ranks.start(config, 2)
        kind, began = "saving" if sum(kills.values()) % 3 == 2 else "random", time.time()
        if kind == "saving":
            happened = wait_until(lambda: any(checkpoints.glob(".step-*.tmp")), attempt)
        else:
            taken = choose.randint(0, 9)
            happened = wait_until(lambda b=began, n=taken: steps_since(config.parent, b) >= n, attempt)  # type: ignore[misc]
        attempt.signal(signal.SIGKILL)
        codes = attempt.wait()
        if happened and set(codes) == {-signal.SIGKILL}:
            kills[kind] += 1
        elif codes == [0, 0]:
            # Finished before the kill: take the end away and go on killing from the checkpoint of step 20.
            for step in (36, STEPS):
                shutil.rmtree(checkpoints / f"step-{step:08d}")
    ranks.run(config, 2)
    assert kills["saving"] >= 5
    assert log_of(config).count("resumed from the checkpoint") >= 10
    assert_equal_to_the_last_bit(config.parent, straight)


PHASES = (
    "1:sllm.training.snapshot:Snapshot._copy",
    "0:sllm.training.saver:Saver._check",  # the thread has opened its file
    "1:sllm.training.saver:Saver._check",
    "0:sllm.training.saver:Saver._commit",  # all parts are on the disk
    "0:sllm.manifests:_put",  # and the manifest
    "0:sllm.training.checkpoint:Checkpoints.prune",  # it is there
)


def test_a_kill_in_any_phase_of_a_save_changes_nothing(configure: Callable[..., Path], straight: Path) -> None:
    config = configure("phases")
    checkpoints = config.parent / "checkpoints"
    for phase in PHASES:
        assert not checkpoints.exists() or checkpoint_steps(checkpoints) == [], phase
        codes = ranks.start(config, 2, **{ranks.KILL: phase}).wait()
        killed = int(phase[0])
        assert codes[killed] == -signal.SIGKILL, phase
        assert codes[1 - killed] not in (0, -signal.SIGKILL), phase
    assert checkpoint_steps(checkpoints) == [4]
    ranks.run(config, 2)
    assert "resumed from the checkpoint of step 4" in log_of(config)
    assert not list(checkpoints.glob(".*"))
    assert_equal_to_the_last_bit(config.parent, straight)


def test_ranks_that_do_not_see_the_disk_write_nothing(
    configure: Callable[..., Path], straight: Path, mount_disk: Callable[..., Path]
) -> None:
    """As on two nodes of which one has the run on a disk of its own."""
    mount_disk("1m")  # skips where nothing can be mounted
    config = configure("apart", checkpoint={"every": 20})
    (checkpoints := config.parent / "checkpoints").mkdir()
    ranks.run(config, 2, **{ranks.HIDE: str(checkpoints)})
    names = {path.name for path in (checkpoints / f"step-{STEPS:08d}").iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "config.json", "state.json", "manifest.json"}
    assert_equal_to_the_last_bit(config.parent, straight)


def test_saved_by_the_clock_or_as_often_as_it_pays(configure: Callable[..., Path], straight: Path) -> None:
    """Whichever steps that are, all ranks save the same ones, and the training is the same."""
    for every in ("1s", "auto"):
        config = configure(every, checkpoint={"every": every, "keep_last": 99, "keep_every": 12})
        ranks.run(config, 2)
        steps = checkpoint_steps(config.parent / "checkpoints")
        assert {12, 15, 24, 30, 36, STEPS} <= set(steps)
        records = [record for record in read_jsonl(config.parent / "metrics.jsonl") if record["kind"] == "checkpoint"]
        assert [record["step"] for record in records] == steps
        assert all(record["seconds"] > 0 < record["stall"] for record in records)
        assert_equal_to_the_last_bit(config.parent, straight)


def losses_so_far(run: Path) -> list[Any]:
    return [record for record in read_jsonl(run / "metrics.jsonl") if record["kind"] == "train"]


def steps_since(run: Path, time: float) -> int:
    """Steps that were taken since then; -1 before training has begun."""
    kinds = [record["kind"] for record in read_jsonl(run / "metrics.jsonl") if record["time"] > time]
    return kinds.count("train") if "start" in kinds else -1


def wait_until(condition: Callable[[], bool], attempt: ranks.Ranks) -> bool:
    """Poll, quickly enough to catch a file that lives a few milliseconds; False if the attempt ended first."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return True
        if not attempt.processes[0].is_alive():
            return False
    raise AssertionError("waited in vain")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_one_rank_stops_all_at_a_step_boundary(
    configure: Callable[..., Path], straight: Path, number: signal.Signals
) -> None:
    config = configure("signalled")
    attempt = ranks.start(config, 2)
    assert wait_until(lambda: len(losses_so_far(config.parent)) >= 5, attempt)
    attempt.signal(number, [1])
    assert attempt.wait() == [0, 0]
    summary = attempt.summary()
    assert summary["outcome"] == "stopped"
    step = summary["step"]
    assert 5 <= step < STEPS
    assert (config.parent / "checkpoints" / f"step-{step:08d}" / "manifest.json").is_file()
    assert list(losses(config.parent)) == list(range(1, step + 1))
    assert ranks.run(config, 2)["outcome"] == "finished"
    assert f"resumed from the checkpoint of step {step}" in log_of(config)
    assert_equal_to_the_last_bit(config.parent, straight)


def test_a_stop_during_validation_is_honoured_and_the_validation_repeated(
    configure: Callable[..., Path], straight: Path
) -> None:
    config = configure("validating")
    attempt = ranks.start(config, 2)
    assert wait_until(lambda: len(losses(config.parent)) >= 15, attempt)
    attempt.signal(signal.SIGTERM)  # the validation of step 15 has begun, or is about to
    assert attempt.wait() == [0, 0]
    assert attempt.summary()["outcome"] == "stopped"
    ranks.run(config, 2)
    assert_equal_to_the_last_bit(config.parent, straight)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_passed_over(
    configure: Callable[..., Path], straight: Path, tmp_path: Path, damage: str
) -> None:
    config = configure("damaged")
    for name in ("checkpoints", "metrics.jsonl"):
        source = straight / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, config.parent / name)
    newest = config.parent / "checkpoints" / f"step-{STEPS:08d}" / "optimizer-2-of-2.safetensors"
    if damage == "truncated":
        os.truncate(newest, newest.stat().st_size // 2)
    else:
        flip(newest)
    # What a kill leaves half-written is cleared away.
    halves = [
        run / f".{name}.node-123.tmp" for run, name in ((newest.parents[1], "step-00000044"), (config.parent, "best"))
    ]
    for half in halves:
        shutil.copytree(straight / "best", half)
    with (config.parent / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind":"train","st')
    ranks.run(config, 2)
    assert not any(half.exists() for half in halves)
    log = log_of(config)
    assert "checkpoint of step 40 is damaged and passed over" in log
    assert "resumed from the checkpoint of step 36" in log
    assert_equal_to_the_last_bit(config.parent, straight)


def test_what_is_no_checkpoint_is_passed_over(configure: Callable[..., Path], straight: Path) -> None:
    config = configure("strange")
    checkpoints = config.parent / "checkpoints"
    shutil.copytree(straight / "checkpoints", checkpoints)
    shutil.copy(straight / "metrics.jsonl", config.parent)
    shutil.rmtree(checkpoints / f"step-{STEPS:08d}")
    shutil.copytree(checkpoints / "step-00000036", checkpoints / "step-00000500-copy")
    (checkpoints / "step-x").mkdir()
    (checkpoints / "step-700").mkdir()
    (checkpoints / "step-00000600").write_text("a file", encoding="utf-8")
    (checkpoints / "step-00000800").symlink_to(checkpoints / "step-00000036")
    ranks.run(config, 2)
    strange = "step-00000500-copy, step-00000600, step-00000800, step-700, step-x"
    assert f"not checkpoints, and passed over: {strange}" in log_of(config)
    assert "resumed from the checkpoint of step 36" in log_of(config)
    assert_equal_to_the_last_bit(config.parent, straight)
    assert {path.name for path in checkpoints.glob("step-*")} >= set(strange.split(", "))


def test_a_superseded_attempt_writes_nothing_more(configure: Callable[..., Path], straight: Path) -> None:
    """It comes out of a stall, such as that of a disk, after its successor has begun and saved."""
    config = configure("split")
    run, checkpoints = config.parent, config.parent / "checkpoints"
    attempt = ranks.start(config, 2)
    assert wait_until(lambda: any(checkpoints.glob("step-*")), attempt)
    attempt.signal(signal.SIGSTOP)
    for step in (600, 700):
        shutil.copytree(straight / "checkpoints" / f"step-{STEPS:08d}", checkpoints / f"step-{step:08d}")
    (run / ranks.SUCCESSOR).touch()

    def content() -> dict[str, bytes]:
        files = [run / "metrics.jsonl", *(run / "best").rglob("*"), *checkpoints.glob("step-*/*")]
        return {str(path.relative_to(run)): path.read_bytes() for path in files if path.is_file()}

    before = content()
    attempt.signal(signal.SIGCONT)
    code, other = attempt.wait()
    assert code == ranks.SUPERSEDED
    assert other != 0  # has lost rank 0
    assert content() == before


def test_an_attempt_prunes_what_it_superseded_or_found_damaged(straight: Path, tmp_path: Path) -> None:
    def write(step: int, of: int | None = None) -> Path:
        directory = tmp_path / f"step-{step:08d}"
        shutil.copytree(straight / "checkpoints" / f"step-{STEPS:08d}", directory)
        write_json(directory / "state.json", {**read_json(directory / "state.json"), "step": of or step})
        write_manifest(directory)
        return directory

    for step in (300, 400, 600):
        write(step)
    os.truncate(write(700) / "model.safetensors", 100)
    write(800, of=300)  # renamed by hand
    write_json(write(900) / "manifest.json", [])
    write_json(write(850) / "manifest.json", {"files": []})  # promises nothing, though all is there
    (garbled := write(750) / "state.json").write_text("{", encoding="utf-8")
    write_manifest(garbled.parent, step=750)
    # One that cannot be read now, as on a disk that stumbles, may be whole: it is passed over, and stays.
    unreadable = write(650)
    manifest = read_json(unreadable / "manifest.json")
    (unreadable / "model.safetensors").unlink()
    (unreadable / "model.safetensors").symlink_to("/proc/self/mem")  # whose first byte is an EIO
    for entry in manifest["files"]:
        entry["bytes"] = (unreadable / entry["name"]).stat().st_size
    write_json(unreadable / "manifest.json", manifest)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(every=100, keep_last=2))
    found = checkpoints.newest_whole()
    assert found is not None
    assert found.state["step"] == 600
    write(500)
    checkpoints.prune(500)
    assert checkpoint_steps(tmp_path) == [400, 500, 600, 650, 800]


def test_the_checkpoint_at_the_start_of_the_decay_is_kept(configure: Callable[..., Path]) -> None:
    """Also where no checkpoint would be due."""
    config = configure("wsd", schedule="wsd", decay=0.3, checkpoint={"every": 5, "keep_last": 1})
    ranks.run(config, 1)
    assert checkpoint_steps(config.parent / "checkpoints") == [28, STEPS]


def test_a_checkpoint_that_cannot_be_deleted_is_named_and_the_new_one_saved(
    configure: Callable[..., Path], straight: Path, mount_disk: Callable[..., Path]
) -> None:
    config = configure("busy")
    busy = config.parent / "checkpoints" / "step-00000003"
    shutil.copytree(straight / "checkpoints" / "step-00000020", busy)
    mount_disk("1m", at=busy / "mounted")
    (busy / "model.safetensors").unlink()  # else training would go on from here
    ranks.run(config, 2)
    log = log_of(config)
    assert "step-00000003 cannot be deleted" in log
    assert "not saved" not in log
    assert_equal_to_the_last_bit(config.parent, straight)


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of its own, with room for several checkpoints of the tiny model."""
    return mount_disk("8m")


def fill(disk: Path, leave: int = 0) -> Path:
    """Leave no more than this many bytes on the disk. Returns the file to delete."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - leave))
    return filler


@pytest.fixture
def on_small_disk(configure: Callable[..., Path], small_disk: Path) -> Callable[..., Path]:
    """As `configure`, for a run on a disk of its own; the experiment and the log are elsewhere."""

    def write(**train: Any) -> Path:
        config = configure("elsewhere", **train)
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
        config.write_text(yaml.safe_dump({**values, "name": small_disk.name}), encoding="utf-8")
        return config

    return write


@pytest.mark.parametrize("stop", [False, True])
def test_training_waits_for_room_for_its_metrics(
    on_small_disk: Callable[..., Path], straight: Path, small_disk: Path, stop: bool
) -> None:
    config = on_small_disk(checkpoint={"every": STEPS})  # one that failed meanwhile would make room
    attempt = ranks.start(config, 2)
    assert wait_until(lambda: len(losses_so_far(small_disk)) >= 5, attempt)
    attempt.signal(signal.SIGSTOP)
    filler = fill(small_disk)
    attempt.signal(signal.SIGCONT)
    assert wait_until(lambda: "training waits and tries again" in log_of(config), attempt)
    progress = small_disk / "stages" / "pretrain" / "progress.json"
    waiting = {"waiting": "for room (No space left on device)"}
    assert wait_until(lambda: read_json(progress)["fields"].items() >= waiting.items(), attempt)
    if stop:
        attempt.signal(signal.SIGTERM, [1])
        assert attempt.wait() == [0, 0]
        assert attempt.summary()["outcome"] == "stopped"
        filler.unlink()
        ranks.run(config, 2)
    else:
        filler.unlink()
        assert attempt.wait() == [0, 0]
        assert "training goes on" in log_of(config)
        assert "waiting" not in read_json(progress)["fields"]
    assert_equal_to_the_last_bit(small_disk, straight)


def test_half_a_line_is_written_whole_once_there_is_room(small_disk: Path) -> None:
    metrics = Metrics(small_disk / "metrics.jsonl")
    metrics.write("train", 1, loss=1.0)
    filler = fill(small_disk)
    metrics.write("train", 2, text="x" * 20_000)
    metrics.write("train", 3, loss=3.0)
    half = metrics.path.stat().st_size
    assert [record["step"] for record in read_jsonl(metrics.path)] == [1]
    assert metrics.trouble == "No space left on device"
    metrics.flush()
    assert metrics.path.stat().st_size == half > 1000  # a part of the second line fits into the first one's block
    filler.unlink()
    metrics.flush()
    assert not metrics.trouble
    metrics.write("train", 4, loss=4.0)
    assert [record["step"] for record in read_jsonl(metrics.path)] == [1, 2, 3, 4]


RISING: dict[str, float] = {"learning_rate": 3.0, "min_learning_rate": 0.5, "warmup_steps": 38}
"""Losses that rise from one validation to the next."""


@pytest.fixture(scope="session")
def rising(experiment: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished training whose first validation was the best, and its summary."""
    directory = tmp_path_factory.mktemp("rising") / "rising"
    directory.mkdir()
    config = directory / "experiment.yaml"
    train = {**experiment["train"], **RISING}
    values = {**experiment, "name": "rising", "runs_directory": str(directory.parent), "train": train}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return directory, ranks.run(config, 1)


@pytest.fixture
def stopped(configure: Callable[..., Path], rising: tuple[Path, dict[str, Any]]) -> Path:
    """The experiment of a copy of it that stands after the first validation, at step 20."""
    config = configure("best", **RISING)
    shutil.copytree(rising[0], config.parent, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.yaml", "*.log"))
    for step in (36, 40):
        shutil.rmtree(config.parent / "checkpoints" / f"step-{step:08d}")
    return config


def test_the_best_model_stays_while_the_validation_gets_worse(
    stopped: Path, rising: tuple[Path, dict[str, Any]]
) -> None:
    best = stopped.parent / "best" / "model.safetensors"
    before = best.read_bytes()
    again = ranks.run(stopped, 1)
    found = losses(stopped.parent, "validation")
    assert list(found) == [15, 30, 40]
    assert min(found.values()) == found[15]
    assert again == rising[1]
    assert (again["best_step"], again["validation_loss"]) == (15, pytest.approx(found[40], abs=1e-5))
    assert again["best_validation_loss"] == pytest.approx(found[15], abs=1e-5)
    assert best.read_bytes() == before
    assert "gone or damaged" not in log_of(stopped), "it was known from the start"


@pytest.mark.parametrize("damage", ["deleted", "flipped", "of another training"])
def test_a_best_model_that_is_gone_does_not_count(
    stopped: Path, rising: tuple[Path, dict[str, Any]], damage: str
) -> None:
    config, first = stopped, rising[1]
    best = config.parent / "best"
    assert read_json(best / "manifest.json")["loss"] == first["best_validation_loss"]
    if damage == "deleted":
        shutil.rmtree(best)
    elif damage == "flipped":
        flip(best / "model.safetensors")
        with pytest.raises(UserError, match=r"damaged model: .*model\.safetensors does not match its checksum"):
            load_model(best)
    else:
        write_json(best / "manifest.json", {**read_json(best / "manifest.json"), "trajectory": "another"})
    again = ranks.run(config, 1)
    assert f"{best} is gone or damaged" in log_of(config)
    after = {step: loss for step, loss in losses(config.parent, "validation").items() if step > 20}
    assert again["best_step"] == read_json(best / "manifest.json")["step"] == min(after, key=after.__getitem__)
    assert again["best_validation_loss"] > first["best_validation_loss"]


def test_a_best_model_that_could_not_be_written_does_not_count(
    on_small_disk: Callable[..., Path], small_disk: Path, tmp_path: Path
) -> None:
    config = on_small_disk(**RISING)
    (tmp_path / "checkpoints").mkdir()
    (small_disk / "checkpoints").symlink_to(tmp_path / "checkpoints")
    filler = fill(small_disk, leave=100_000)  # enough for the metrics, not for a model
    full = ranks.run(config, 1)
    assert "best model of step 15 not saved" in log_of(config)
    assert full["best_step"] is None
    assert not (small_disk / "best").exists()
    filler.unlink()
    again = ranks.run(config, 1)  # finished, but without a model to show for it
    assert again["best_step"] == STEPS
    assert load_model(small_disk / "best").vocab_size == 512
    assert list(losses(small_disk, "validation")) == [15, 30, 40]


def test_a_full_disk_costs_checkpoints_but_not_the_training(
    configure: Callable[..., Path], straight: Path, small_disk: Path
) -> None:
    config = configure("full")
    (config.parent / "checkpoints").symlink_to(small_disk)
    attempt = ranks.start(config, 2)
    assert wait_until(lambda: (small_disk / "step-00000004").is_dir(), attempt)
    filler = fill(small_disk)
    assert attempt.wait() == [2, 2]  # for want of the last
    log = log_of(config)
    assert "No space left on device" in log
    assert f"the checkpoint of the last step, {STEPS}, could not be saved" in log
    assert "the one before stays the newest" in log
    assert losses(config.parent) == losses(straight)
    assert not list(small_disk.glob(".step-*"))
    before = sorted(path.name for path in small_disk.glob("step-*"))
    assert before
    assert before[-1] < f"step-{STEPS:08d}"
    # With room again, a resume from the old checkpoint ends where the straight run does.
    filler.unlink()
    ranks.run(config, 2)
    assert_equal_to_the_last_bit(config.parent, straight)


def test_other_world_sizes_are_the_same_training(configure: Callable[..., Path], straight: Path) -> None:
    config = configure("world")
    for world, until in ((2, 10), (1, 25), (2, STEPS)):
        attempt = ranks.start(config, world)
        if until < STEPS:
            wanted = until
            assert wait_until(lambda wanted=wanted: len(losses(config.parent)) >= wanted, attempt)  # type: ignore[misc]
            attempt.signal(signal.SIGTERM)
        assert set(attempt.wait()) == {0}
    assert_equal_to_the_last_bit(config.parent, straight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_the_promised_gpu_every_rank_ends_at_once(configure: Callable[..., Path]) -> None:
    config = configure("promised")
    attempt = ranks.start(config, 2, SLLM_DEVICE="gpu")
    assert attempt.wait() == [2, 2]
    assert log_of(config).count("no GPU for ranks 0, 1 (") == 2
    assert not (config.parent / "metrics.jsonl").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_and_resumes_exactly(configure: Callable[..., Path], precision: str) -> None:
    whole = configure("whole", precision=precision, max_steps=12)
    ranks.run(whole, 1)
    assert losses(whole.parent)[12] < losses(whole.parent)[1]
    broken = configure("broken", precision=precision, max_steps=12)
    attempt = ranks.start(broken, 1)
    assert wait_until(lambda: len(losses(broken.parent)) >= 4, attempt)
    attempt.signal(signal.SIGTERM)
    assert attempt.wait() == [0]
    ranks.run(broken, 1)
    assert losses(broken.parent) == losses(whole.parent)
    assert final(broken.parent, 12) == final(whole.parent, 12)
    state, other = (
        read_json(config.parent / "checkpoints" / "step-00000012" / "state.json") for config in (whole, broken)
    )
    assert bool(state["scaler"]) == (precision == "fp16")
    assert state == other


def test_an_overflow_under_fp16_is_valid_json(configure: Callable[..., Path]) -> None:
    config = configure("overflow", precision="fp16", max_steps=6)
    ranks.run(config, 1)
    checkpoints = config.parent / "checkpoints"
    shutil.rmtree(checkpoints / "step-00000006")
    state = read_json(checkpoints / "step-00000004" / "state.json")
    state["scaler"]["scale"] = 2.0**60
    write_json(checkpoints / "step-00000004" / "state.json", state)
    write_manifest(checkpoints / "step-00000004", step=4)
    ranks.run(config, 1)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (config.parent / "metrics.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    steps = {record["step"]: record for record in records if record["kind"] == "train"}
    assert steps[4]["gradient_norm"] > 0
    assert "overflow" not in steps[4]
    for step in (5, 6):
        assert steps[step]["gradient_norm"] is None
        assert steps[step]["overflow"] is True
    six, four = (checkpoints / f"step-0000000{step}" / "model.safetensors" for step in (6, 4))
    assert six.read_bytes() == four.read_bytes()


def test_fp16_that_overflows_at_every_scale_ends_with_the_way_out(configure: Callable[..., Path]) -> None:
    config = configure("hopeless", precision="fp16", max_steps=6)
    ranks.run(config, 1)
    shutil.rmtree(config.parent / "checkpoints" / "step-00000006")
    checkpoint = config.parent / "checkpoints" / "step-00000004"
    state = read_json(checkpoint / "state.json")
    state["scaler"]["scale"] = 2.0**-17
    write_json(checkpoint / "state.json", state)
    write_manifest(checkpoint, step=4)
    assert ranks.start(config, 2).wait() == [2, 2]
    assert "step 5: the gradients overflow fp16" in log_of(config)


def test_a_loss_that_is_not_finite_names_step_rank_and_documents(configure: Callable[..., Path]) -> None:
    config = configure("diverging", learning_rate=10.0, weight_decay=10.0, clip_norm=1e30, warmup_steps=0)
    attempt = ranks.start(config, 2)
    assert attempt.wait() == [2, 2]
    (line, *_) = [line for line in log_of(config).splitlines() if line.startswith("user error")]
    assert "is not finite (rank 0: documents " in line
    assert "rank 1: documents " in line
    assert "sample-" in line
    assert "lower train.learning_rate" in line
    assert len(line) < 1000, "a batch may have thousands of documents"


def test_a_checkpoint_of_another_training_is_refused(configure: Callable[..., Path]) -> None:
    config = configure("same", max_steps=4)
    ranks.run(config, 1)
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    values["model"]["d_model"] = 48
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    attempt = ranks.start(config, 1)
    assert attempt.wait() == [2]
    assert "was trained with other settings (model.d_model 32 → 48)" in log_of(config)


MODERN = {"family": "qwen3", "n_kv_heads": 1, "tie_embeddings": False, "dropout": 0.0}


@pytest.mark.parametrize("model", [{}, {"tie_embeddings": False}, MODERN], ids=["gpt2", "gpt2 untied", "qwen3"])
def test_a_trained_checkpoint_gives_transformers_the_same_logits(
    model: dict[str, Any], configure: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from sllm.export.transformers import export

    config = configure("trained", max_steps=STEPS, checkpoint={"every": STEPS}, optimizer="muon" if model else "adamw")
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    config.write_text(yaml.safe_dump({**values, "model": {**values["model"], **model}}), encoding="utf-8")
    ranks.run(config, 1)
    export(config.parent / "best", tmp_path / "exported")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    ours = load_model(config.parent / "checkpoints" / f"step-{STEPS:08d}")
    tokens = torch.randint(0, ours.vocab_size, (4, ours.config.context_length), generator=torch.manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)
