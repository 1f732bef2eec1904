"""Whatever is written is the old or the new, whole: after a kill or a power cut at any call, and after a fault at any.

The writers are those of the product, each over something that is there already.
"""

import errno
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from disk import FaultError, Tree, fault_at, lay_out, moments, tree
from small_corpora import downloaded, sentences

from jobs import ledger
from sllm.config import CheckpointConfig, ModelConfig
from sllm.data.pack import pack_stage
from sllm.distributed import World
from sllm.files import make_directory, read_json, remove_leftovers, write_json
from sllm.manifests import atomic_directory, read_manifest
from sllm.model.families import make_model
from sllm.model.shared import LanguageModel
from sllm.model.storage import load_model, save_model
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE
from sllm.training.checkpoint import Checkpoints, restore
from sllm.training.metrics import Metrics, cut_back
from sllm.training.saver import Saver, Saving


@dataclass(frozen=True)
class Writer:
    write: Callable[[Path, int], object]
    """Write value 1, and then value 2, below a folder."""
    read: Callable[[Path], Any]
    """Which of them a reader finds; None for nothing. Fails where it is damaged."""


def write_folder(root: Path, value: int) -> None:
    with atomic_directory(root / "d", value=value) as temporary:
        (temporary / "below").mkdir()
        (temporary / "below" / "a").write_text(f"{value}", encoding="utf-8")
        (temporary / "b").write_text(f"{value}" * value, encoding="utf-8")


def read_folder(root: Path) -> int | None:
    if not (root / "d").exists():
        return None
    value: int = read_manifest(root / "d", checksums=True)["value"]
    assert (root / "d" / "below" / "a").read_text(encoding="utf-8") == f"{value}"
    return value


def read_done(root: Path) -> Any:
    return read_json(root / "done.json") if (root / "done.json").exists() else None


MODEL = ModelConfig(d_model=4, n_layers=1, n_heads=1, d_ff=4, context_length=4)


def model_of(value: int) -> LanguageModel:
    model = make_model(MODEL, FIRST_MERGE)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    return model


def value_of(model: torch.nn.Module) -> int:
    (value,) = {parameter.unique().item() for parameter in model.parameters()}
    return int(value)


def write_best(root: Path, value: int) -> None:
    if not (root / "tokenizer.json").exists():
        Tokenizer([]).save(root / "tokenizer.json")
    save_model(root / "best", model_of(value), root / "tokenizer.json", step=value)


def read_best(root: Path) -> int | None:
    if not (root / "best").exists():
        return None
    assert Tokenizer.load(root / "best" / "tokenizer.json").vocab_size == FIRST_MERGE
    return value_of(load_model(root / "best"))


def training(root: Path, value: int) -> tuple[Checkpoints, LanguageModel, list[torch.optim.Optimizer]]:
    model = model_of(value)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)]
    return Checkpoints(root / "checkpoints", CheckpointConfig(keep_last=1)), model, optimizers


def save_checkpoint(root: Path, value: int) -> None:
    """As the training does, one step after the other."""
    make_directory(root / "checkpoints")
    checkpoints, model, optimizers = training(root, value)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers[0].step()
    cut_back(root / "metrics.jsonl", value - 1)
    metrics = Metrics(root / "metrics.jsonl")
    metrics.write("train", value)
    saved: list[Saving] = []
    saver = Saver(checkpoints, World(0, 1, 0, torch.device("cpu")), metrics.sync, saved.append)
    saver.start(value, model, optimizers, {"scaler": {}}, 0.0)
    saver.finish()
    if not saved:
        raise FaultError("the log has told why")


def read_checkpoint(root: Path) -> int | None:
    if not (root / "checkpoints").exists():
        return None
    checkpoints, model, optimizers = training(root, 0)
    remove_leftovers(root / "checkpoints")
    found = checkpoints.newest_whole()
    if found is None:
        return None
    state = found.state
    restore(model, optimizers, found.weights, found.optimizer, checkpoints.path(state["step"]))
    assert value_of(model) == state["step"]
    assert len(optimizers[0].state) == len(list(model.parameters()))
    steps = [record["step"] for record in read_jsonl(root / "metrics.jsonl")]
    assert steps[: state["step"]] == list(range(1, state["step"] + 1)), "steps of the checkpoint are not in the metrics"
    return int(state["step"])


def cut(root: Path, value: int) -> None:
    """Value 1 is what an attempt of four steps wrote, 2 what a resume from step 2 leaves of it."""
    path = root / "metrics.jsonl"
    if value == 1:
        path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3, 4)), encoding="utf-8")
    else:
        cut_back(path, 2)


def read_cut(root: Path) -> int | None:
    steps = [record["step"] for record in read_jsonl(root / "metrics.jsonl")]
    return {(): None, (1, 2, 3, 4): 1, (1, 2): 2}[tuple(steps)]


def write_tokenizer(root: Path, value: int) -> None:
    a = FIRST_BYTE + ord("a")
    Tokenizer([(a, a + 1), (a + 1, a + 2)][:value]).save(root / "t.json")


def read_tokenizer(root: Path) -> int | None:
    return Tokenizer.load(root / "t.json").vocab_size - FIRST_MERGE if (root / "t.json").exists() else None


WRITERS = {
    "done.json": Writer(lambda root, value: write_json(root / "done.json", value), read_done),
    "a folder": Writer(write_folder, read_folder),
    "best": Writer(write_best, read_best),
    "a checkpoint": Writer(save_checkpoint, read_checkpoint),
    "metrics cut back": Writer(cut, read_cut),
    "tokenizer.json": Writer(write_tokenizer, read_tokenizer),
}
CASES = [(name, 1) for name in WRITERS] + [(name, None) for name in WRITERS if name != "metrics cut back"]


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power will be cut here: what an `fsync` brings to the disk is a matter of `disk`'s model."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def prepare(root: Path, writer: Writer, value: int | None) -> Path:
    root.mkdir(parents=True)
    if value:
        writer.write(root, value)
    return root


def after_restart(root: Path, writer: Writer) -> Any:
    remove_leftovers(root)
    return writer.read(root)


@pytest.mark.parametrize(("name", "old"), CASES)
def test_a_kill_or_a_power_cut_leaves_the_old_or_the_new(name: str, old: int | None, tmp_path: Path) -> None:
    writer, new = WRITERS[name], 2 if old else 1
    root = prepare(tmp_path / "root", writer, old)
    found = moments(root, lambda: writer.write(root, new))
    whole = tree(root)
    values: dict[str, int] = {}

    def value(state: Tree) -> int:
        """What a reader finds; and the work can be done once more over it."""
        if (known := repr(state)) not in values:
            left = lay_out(state, tmp_path / f"{len(values)}")
            values[known] = after_restart(left, writer)
            writer.write(left, new)
            assert after_restart(left, writer) == new
            assert tree(left).keys() == whole.keys()
        return values[known]

    for moment in found:
        assert {value(state) for state in moment.states} <= {old, new}, moment.call
    read = [value(moment.killed) for moment in found]
    assert read == sorted(read, key=[old, new].index), "what was there is gone"
    assert {value(state) for state in found[-1].states} == {new}, "it is not on the disk at the end"


@pytest.mark.parametrize("name", WRITERS)
def test_a_fault_leaves_the_old_or_the_new_and_is_told(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = WRITERS[name]
    for number in itertools.count():
        root = prepare(tmp_path / f"{number}", writer, 1)
        names = tree(root).keys()
        told = False
        caplog.clear()
        with fault_at(root, number) as calls:
            try:
                writer.write(root, 2)
            except FaultError:
                told = True
        if len(calls) <= number:
            break  # there was no such call
        call = calls[number]
        value = writer.read(root)
        if told:
            assert value == 2 or (value == 1 and tree(root).keys() == names), call
        else:
            assert value == 2, call
            assert not call.startswith("fsync"), f"{call} failed, and nobody was told"
            assert "cannot be deleted" in caplog.text, call
        writer.write(root, 2)
        assert after_restart(root, writer) == 2
    assert number >= 3


def test_an_attempt_that_ends_at_any_call_has_one_line_in_the_ledger(tmp_path: Path) -> None:
    def attempt(root: Path, token: str) -> None:
        run = RunDirectory(root)
        ledger.begin(run, "pack", "f", token, "submitted")
        ledger.end(run, "pack", token, ledger.FINISHED)
        ledger.close(run, "pack")

    root = tmp_path / "root"
    (root / "stages" / "pack").mkdir(parents=True)
    attempt(root, "a")
    found = moments(root, lambda: attempt(root, "b"))
    for number, moment in enumerate(found):
        for kind, state in enumerate(moment.states):
            left = lay_out(state, tmp_path / f"{number}-{kind}")
            known = read_json(left / "stages" / "pack" / "attempt.json")["token"]
            attempt(left, "c")
            lines = read_jsonl(left / "ledger.jsonl")
            assert [line["token"] for line in lines] == [*("ab" if known == "b" else "a"), "c"]
            assert [line["attempt"] for line in lines] == list(range(1, len(lines) + 1))
            if moment is found[-1] and state is moment.killed:
                assert [line["ended"] for line in lines] == ["finished"] * 3


def test_how_an_attempt_ended_is_kept_until_its_line_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)
    ledger.begin(run, "pack", "f", "a", "submitted")
    ledger.end(run, "pack", "a", ledger.FINISHED)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(ledger, "append_jsonl", full)
        ledger.close(run, "pack")
    ledger.close(run, "pack")
    assert [line["ended"] for line in ledger.attempts(run)] == ["finished"]


def test_what_is_packed_is_the_same_whenever_the_first_try_ended(tmp_path: Path) -> None:
    experiment, corpus = downloaded(tmp_path, {"en": sentences(20)}, min_characters=5)
    Tokenizer([]).save(tmp_path / "tokenizer.json")

    def pack(root: Path) -> None:
        pack_stage(experiment, corpus, tmp_path / "tokenizer.json", root / "packed", StopFlag(), workers=1)

    root = tmp_path / "root"
    (root / "packed.partial").mkdir(parents=True)  # else a power cut takes all of it, and that is easy
    found = moments(root, lambda: pack(root))
    whole, tried = tree(root / "packed"), set()
    for moment in found:
        for state in moment.states:
            if (known := repr(state)) not in tried:
                left = lay_out(state, tmp_path / f"{len(tried)}")
                tried.add(known)
                assert not (left / "packed").exists() or read_manifest(left / "packed", checksums=True)
                pack(left)
                assert tree(left / "packed") == whole
    assert len(tried) > 20
