"""The loop: exact resume through kills, damage and full disks; the same training on any number of ranks.

Every test trains a tiny model with dropout in real processes over gloo.
"""

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
import yaml

from sllm.files import read_json, read_jsonl

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


def final(run: Path, step: int = STEPS) -> dict[str, bytes]:
    directory = run / "checkpoints" / f"step-{step:08d}"
    return {name: (directory / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


def log_of(config: Path) -> str:
    return (config.parent / "ranks.log").read_text(encoding="utf-8")


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
    assert (straight / "best" / "model.safetensors").read_bytes() == final(straight)["model.safetensors"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_change_nothing(configure: Callable[..., Path], straight: Path) -> None:
    """Every process is killed 20 times: at random moments, and while a checkpoint is being written."""
    config = configure("killed")
    checkpoints = config.parent / "checkpoints"
    choose = random.Random(20)
    kills = {"random": 0, "saving": 0}
    while sum(kills.values()) < 20:
        attempt = ranks.start(config, 2)
        kind = "saving" if sum(kills.values()) % 3 == 2 else "random"
        if kind == "saving":
            happened = wait_until(lambda: any(checkpoints.glob(".step-*.tmp")), attempt, 60)
        else:
            wait_until(lambda: bool(losses_so_far(config.parent)), attempt, 60)
            time.sleep(choose.uniform(0.0, 0.6))
            happened = attempt.processes[0].is_alive()
        attempt.signal(signal.SIGKILL)
        codes = attempt.wait()
        if happened and set(codes) == {-signal.SIGKILL}:
            kills[kind] += 1
        elif codes == [0, 0]:
            # Finished before the kill: take the end away and go on killing from an older checkpoint.
            shutil.rmtree(checkpoints / f"step-{STEPS:08d}")
    ranks.run(config, 2)
    assert kills["saving"] >= 5
    assert log_of(config).count("resumed from the checkpoint") >= 10
    assert_equal_to_the_last_bit(config.parent, straight)


def losses_so_far(run: Path) -> list[Any]:
    return [record for record in read_jsonl(run / "metrics.jsonl") if record["kind"] == "train"]


def wait_until(condition: Callable[[], bool], attempt: ranks.Ranks, timeout: float) -> bool:
    """Poll, quickly enough to catch a file that lives a few milliseconds; False if the attempt ended first."""
    deadline = time.monotonic() + timeout
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
    assert wait_until(lambda: len(losses_so_far(config.parent)) >= 5, attempt, 60)
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
    assert wait_until(lambda: len(losses(config.parent)) >= 15, attempt, 60)
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
    newest = config.parent / "checkpoints" / f"step-{STEPS:08d}" / "optimizer.safetensors"
    if damage == "truncated":
        os.truncate(newest, newest.stat().st_size // 2)
    else:
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 0x10
        newest.write_bytes(content)
    ranks.run(config, 2)
    log = log_of(config)
    assert "checkpoint of step 40 is damaged and passed over" in log
    assert "resumed from the checkpoint of step 36" in log
    assert_equal_to_the_last_bit(config.parent, straight)


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of its own, with room for several checkpoints of the tiny model."""
    return mount_disk("8m")


def test_a_full_disk_costs_checkpoints_but_not_the_training(
    configure: Callable[..., Path], straight: Path, small_disk: Path
) -> None:
    config = configure("full")
    (config.parent / "checkpoints").symlink_to(small_disk)
    attempt = ranks.start(config, 2)
    assert wait_until(lambda: (small_disk / "step-00000004").is_dir(), attempt, 60)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(shutil.disk_usage(small_disk).free))
    assert attempt.wait() == [0, 0]
    log = log_of(config)
    assert "No space left on device" in log
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


def test_other_world_sizes_see_the_same_samples(configure: Callable[..., Path], straight: Path) -> None:
    config = configure("world")
    for world, until in ((2, 10), (1, 25), (2, STEPS)):
        attempt = ranks.start(config, world)
        if until < STEPS:
            wanted = until
            assert wait_until(lambda wanted=wanted: len(losses(config.parent)) >= wanted, attempt, 60)  # type: ignore[misc]
            attempt.signal(signal.SIGTERM)
        assert set(attempt.wait()) == {0}
    mixed, reference = losses(config.parent), losses(straight)
    assert list(mixed) == list(reference)
    # Dropout included, only the order of the additions differs.
    assert mixed == pytest.approx(reference, rel=2e-5)
    assert mixed != reference


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_and_resumes_exactly(configure: Callable[..., Path], precision: str) -> None:
    whole = configure("whole", precision=precision, max_steps=12)
    ranks.run(whole, 1)
    assert losses(whole.parent)[12] < losses(whole.parent)[1]
    broken = configure("broken", precision=precision, max_steps=12)
    attempt = ranks.start(broken, 1)
    assert wait_until(lambda: len(losses(broken.parent)) >= 4, attempt, 60)
    attempt.signal(signal.SIGTERM)
    assert attempt.wait() == [0]
    ranks.run(broken, 1)
    assert losses(broken.parent) == losses(whole.parent)
    assert final(broken.parent, 12) == final(whole.parent, 12)
    state = read_json(whole.parent / "checkpoints" / "step-00000012" / "state.json")
    assert bool(state["scaler"]) == (precision == "fp16")


def test_activation_checkpointing_changes_no_loss(configure: Callable[..., Path]) -> None:
    plain = configure("plain", max_steps=5)
    frugal = configure("frugal", max_steps=5, activation_checkpointing=True)
    ranks.run(plain, 1)
    ranks.run(frugal, 1)
    assert losses(frugal.parent) == losses(plain.parent)


def test_gradient_accumulation_is_the_same_batch(configure: Callable[..., Path]) -> None:
    """Dropout is seeded by micro-batch, so this needs dropout off."""
    whole = configure("one", max_steps=5, micro_batch=8)
    parts = configure("four", max_steps=5, micro_batch=2)
    for config in (whole, parts):
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
        values["model"]["dropout"] = 0.0
        config.write_text(yaml.safe_dump(values), encoding="utf-8")
        ranks.run(config, 1)
    assert losses(parts.parent) == pytest.approx(losses(whole.parent), rel=1e-5)


def test_a_loss_that_is_not_finite_names_step_rank_and_documents(configure: Callable[..., Path]) -> None:
    config = configure("diverging", learning_rate=1e30, min_learning_rate=1.0, clip_norm=1e30, warmup_steps=0)
    attempt = ranks.start(config, 2)
    assert attempt.wait() == [2, 2]
    (line, *_) = [line for line in log_of(config).splitlines() if line.startswith("user error")]
    assert "is not finite (rank 0: documents " in line
    assert "rank 1: documents " in line
    assert "sample-" in line
    assert "lower train.learning_rate" in line


def test_a_checkpoint_of_another_training_is_refused(configure: Callable[..., Path]) -> None:
    config = configure("same", max_steps=4)
    ranks.run(config, 1)
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    values["model"]["d_model"] = 48
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    attempt = ranks.start(config, 1)
    assert attempt.wait() == [2]
    assert "was trained with other settings (model.d_model 32 → 48)" in log_of(config)


def test_a_trained_checkpoint_gives_transformers_the_same_logits(straight: Path, tmp_path: Path) -> None:
    import torch
    from transformers import GPT2LMHeadModel

    from sllm.checkpoint import load_model
    from sllm.export import export

    export(straight / "best", tmp_path / "exported")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "exported").eval()
    ours = load_model(straight / "checkpoints" / f"step-{STEPS:08d}")
    tokens = torch.randint(0, ours.vocab_size, (4, ours.config.context_length), generator=torch.manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)
