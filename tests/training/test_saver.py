"""Checkpoints that are written while the training goes on: what was copied, who writes what, and in which order."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from sllm.config import CheckpointConfig, ModelConfig, TrainConfig
from sllm.distributed import World
from sllm.errors import Superseded
from sllm.files import fenced_by, make_directory, to_json
from sllm.manifests import read_manifest
from sllm.model.families import make_model
from sllm.model.shared import LanguageModel
from sllm.run_directory import checkpoint_steps
from sllm.stop import no_check
from sllm.training.checkpoint import Checkpoints
from sllm.training.optim import make_optimizers
from sllm.training.saver import Saver, Saving
from sllm.training.schedule import LOST, PRIOR, Schedule, seconds_between_failures
from sllm.training.snapshot import Snapshot, optimizer_tensors

ALONE = World(0, 1, 0, torch.device("cpu"))

Setup = tuple[LanguageModel, list[torch.optim.Optimizer]]


@pytest.fixture
def setup() -> Setup:
    """A model and its optimizers after one step."""
    config = ModelConfig(d_model=16, n_layers=2, n_heads=2, d_ff=32, context_length=8, dropout=0.0)
    model = make_model(config, 272)
    optimizers = make_optimizers(model, TrainConfig(max_steps=2, global_batch=1, micro_batch=1, optimizer="muon"))
    step(model, optimizers)
    return model, optimizers


def step(model: LanguageModel, optimizers: list[torch.optim.Optimizer]) -> None:
    tokens = torch.randint(model.vocab_size, (1, 9))
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.parametrize("writers", [1, 2, 3, 7])
def test_the_ranks_share_out_the_bytes(setup: Setup, tmp_path: Path, writers: int) -> None:
    model, optimizers = setup
    sizes = []
    for number in range(writers):
        snapshot = Snapshot(number, writers)
        snapshot.take(model, optimizers)
        sizes.append(sum(entry["bytes"] for entry in snapshot.write(tmp_path, no_check)))
    weights, optimizer = model.state_dict(), optimizer_tensors(model, optimizers)
    files = sorted(tmp_path.glob("optimizer*.safetensors"))
    assert len(files) == writers
    found = [(name, tensor) for file in files for name, tensor in load_file(file).items()]
    assert len(found) == len(optimizer)
    assert all(tensor.equal(optimizer[name]) for name, tensor in found)
    assert (tmp_path / "model.safetensors").read_bytes() == save(weights), "the bytes of safetensors' own writer"
    # As even as whole tensors can be; the weights are one file.
    largest = max(tensor.nbytes for tensor in optimizer.values())
    share = sum(tensor.nbytes for tensor in (*weights.values(), *optimizer.values())) / writers
    headers = 100 * len(optimizer)
    assert max(sizes[1:], default=0) <= share + largest + headers
    assert sizes[0] <= max(share + largest, sum(tensor.nbytes for tensor in weights.values())) + 2 * headers


def test_what_is_written_is_what_was_copied(setup: Setup, tmp_path: Path) -> None:
    model, optimizers = setup
    snapshot = Snapshot(0, 1)
    before = save(model.state_dict()), save(optimizer_tensors(model, optimizers))
    snapshot.allocate(model, optimizers)
    snapshot.take(model, optimizers)
    allocated = snapshot._buffer
    snapshot.allocate(model, optimizers)
    snapshot.take(model, optimizers)
    assert snapshot._buffer is allocated, "once"
    step(model, optimizers)
    snapshot.write(tmp_path, no_check)
    assert before[0] != save(model.state_dict())
    assert before == tuple((tmp_path / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer"))


def saver_in(directory: Path, **config: Any) -> tuple[Saver, list[Saving]]:
    saved: list[Saving] = []
    make_directory(directory)
    checkpoints = Checkpoints(directory, CheckpointConfig(**config))
    return Saver(checkpoints, ALONE, saved=saved.append), saved


def test_a_step_goes_on_while_the_one_before_is_written(
    setup: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    saver, saved = saver_in(tmp_path, keep_last=1)
    saver.start(1, *setup, {"a": 1}, 0.0)
    assert checkpoint_steps(tmp_path) == [], "committed at a boundary, by all ranks"
    step(*setup)
    saver.start(2, *setup, {"a": 2}, 0.0)
    assert "step 2: waits for the checkpoint of step 1" in caplog.text
    assert [saving.step for saving in saved] == [1]
    saver.finish()
    assert [saving.step for saving in saved] == [1, 2]
    assert checkpoint_steps(tmp_path) == [2]
    found = saver.checkpoints.newest_whole()
    assert found is not None
    assert found.state == {"step": 2, "a": 2}
    assert save(found.weights) == save(setup[0].state_dict())
    assert save(found.optimizer) == save(optimizer_tensors(*setup))


def test_a_stop_gives_up_what_is_being_written(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saver, saved = saver_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(saver, "_check", lambda check=saver._check: (saver._cancelled.wait(), check()))
        saver.start(1, *setup, {}, 0.0)
        saver.cancel()
    assert "checkpoint of step 1 not saved: that of a later step takes its place" in caplog.text
    assert not list(tmp_path.iterdir())
    saver.start(2, *setup, {}, 0.0)
    saver.finish()
    saver.cancel()  # of nothing
    assert [saving.step for saving in saved] == checkpoint_steps(tmp_path) == [2]


@pytest.mark.parametrize("ours_until", [1, 2])
def test_who_does_not_own_the_run_commits_nothing(setup: Setup, tmp_path: Path, ours_until: int) -> None:
    """It is another's before the thread begins to write, or when it commits."""
    saver, saved = saver_in(tmp_path)
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) >= ours_until:
            raise Superseded("another attempt owns the run")

    with fenced_by(check):
        saver.start(1, *setup, {}, 0.0)
        with pytest.raises(Superseded):
            saver.finish()
    assert not saved
    assert checkpoint_steps(tmp_path) == []
    saver.close()
    assert not list(tmp_path.iterdir())


def test_what_a_resume_needs_is_on_the_disk_first(setup: Setup, tmp_path: Path) -> None:
    saver, saved = saver_in(tmp_path)

    def sync() -> None:
        assert checkpoint_steps(tmp_path) == []
        raise OSError("no room for the metrics")

    saver._sync = sync  # type: ignore[method-assign]
    saver.start(1, *setup, {}, 0.0)
    saver.finish()
    assert not saved
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_one_file_and_of_many_is_read(setup: Setup, tmp_path: Path) -> None:
    """As a job on several ranks has written it, without one of its files, and as before there were several."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    for at, writers in ((1, 1), (2, 3)):
        entries = []
        (filled := tmp_path / ".filled").mkdir()
        for number in range(writers):
            snapshot = Snapshot(number, writers)
            snapshot.take(*setup)
            entries += snapshot.write(filled, no_check)
        checkpoints.commit(at, filled, setup[0], {}, entries)
        names = {entry["name"] for entry in read_manifest(checkpoints.path(at), checksums=True)["files"]}
        assert ("optimizer.safetensors" in names) == (writers == 1)
    for expected in (2, 1):
        found = checkpoints.newest_whole()
        assert found is not None
        assert found.state["step"] == expected
        assert save(found.optimizer) == save(optimizer_tensors(*setup))
        (checkpoints.path(2) / "optimizer-3-of-3.safetensors").unlink(missing_ok=True)


# --- when -----------------------------------------------------------------------------------------


def test_how_often_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = Schedule(CheckpointConfig(every="auto"), 3600.0)
    assert auto.interval == LOST, "before anything is known"
    auto.saved(0.5, 4.0)
    assert auto.interval == pytest.approx(math.sqrt(2 * 0.5 * 3600))
    auto.saved(8.0, 30.0)  # one that was slow changes the interval less than two
    auto.saved(8.0, 30.0)
    assert auto.interval == LOST - 30, "a kill before it is durable takes no more either"
    auto.saved(8.0, 50.0)
    assert auto.interval == 100.0, "half of the time at most is spent on writing"
    assert Schedule(CheckpointConfig(every=7), 3600.0).interval == math.inf
    minutes = Schedule(CheckpointConfig(every="3m"), 3600.0)
    assert minutes.interval == 180.0
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    minutes.began()
    now[0] += 179.0
    assert not minutes.due()
    now[0] += 1.0
    assert minutes.due()
    minutes.began()
    assert not minutes.due()


def test_failures_are_steps_that_were_lost(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    assert seconds_between_failures(ledger, "f", 0) == PRIOR
    spans = [(1, 100), (101, 200), (150, 300), (None, None), (301, 380)]  # the second lost 51 steps
    lines = [{"fingerprint": "f", "first_step": a, "last_step": b, "seconds": 1000.0} for a, b in spans]
    lines.append({"fingerprint": "other", "first_step": 1, "last_step": 999, "seconds": 9e9})
    ledger.write_text("".join(to_json(line) + "\n" for line in lines), encoding="utf-8")
    assert seconds_between_failures(ledger, "f", 380) == (PRIOR + 4000) / 2
    assert seconds_between_failures(ledger, "f", 350) == (PRIOR + 4000) / 3, "and so did the last"
