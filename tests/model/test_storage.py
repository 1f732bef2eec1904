"""A model's directory: where it may lie, what belongs to it, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from small_models import random_model
from tiny import write_experiment, write_texts

from sllm.artifacts import VERSIONS, Artifacts, stage_keys
from sllm.config import load_experiment
from sllm.config import write_experiment as config_text
from sllm.errors import UserError
from sllm.files import read_json, write_json, write_text
from sllm.inference.generator import TextGenerator
from sllm.manifests import write_manifest
from sllm.model.families import make_model
from sllm.model.storage import load_pair, save_model
from sllm.origin import is_tuned
from sllm.run_directory import RunDirectory, checkpoint_path
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FORMER_SPECIAL_TOKENS


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model as training leaves it, with its tokenizer."""
    Tokenizer([]).save(tmp_path / "t" / "tokenizer.json")
    save_model(tmp_path / "best", random_model(), tmp_path / "t" / "tokenizer.json")
    return tmp_path / "best"


def test_paths_to_the_model(directory: Path, tmp_path: Path) -> None:
    wanted = TextGenerator(directory, device="cpu").generate("a", temperature=0)
    for path in (directory / "model.safetensors", str(directory)):
        assert TextGenerator(path, device="cpu").generate("a", temperature=0) == wanted
    for tokenizer in (tmp_path / "t", tmp_path / "t" / "tokenizer.json"):
        assert TextGenerator(directory, tokenizer, device="cpu").generate("a", temperature=0) == wanted


def test_a_tokenizer_of_another_model_is_refused(directory: Path, tmp_path: Path) -> None:
    Tokenizer([(100, 101)]).save(tmp_path / "other.json")
    with pytest.raises(UserError, match="273 tokens"):
        load_pair(directory, tmp_path / "other.json", "cpu")
    with pytest.raises(UserError, match="no such file"):
        TextGenerator(directory, tmp_path / "missing.json", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            TextGenerator(directory, device="cuda")
    with pytest.raises(UserError, match="no model here"):
        TextGenerator(tmp_path, device="cpu")


def test_a_checkpoint_takes_the_tokenizer_of_its_run(directory: Path, tmp_path: Path) -> None:
    wanted = TextGenerator(directory, device="cpu").generate("a", temperature=0)
    (tmp_path / "config.yaml").write_text("name: run\n", encoding="utf-8")
    checkpoint = shutil.copytree(directory, tmp_path / "checkpoints" / "step-00000001")
    (checkpoint / "tokenizer.json").unlink()
    write_manifest(checkpoint)
    assert TextGenerator(checkpoint, device="cpu").generate("a", temperature=0) == wanted


def test_a_checkpoint_of_an_earlier_version_takes_the_tokenizer_that_was_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first best model, which brings its own."""
    experiment = load_experiment(write_experiment(tmp_path, write_texts(tmp_path / "texts")))
    run, former = RunDirectory(experiment.run_path), Tokenizer([], special_tokens=FORMER_SPECIAL_TOKENS)
    with monkeypatch.context() as earlier:
        earlier.setitem(VERSIONS, "tokenizer", VERSIONS["tokenizer"] - 1)
        keys = stage_keys(experiment)
    write_text(run.config, config_text(experiment))
    write_json(run.path / "keys.json", keys)
    former.save(Artifacts(experiment, keys).tokenizer / "tokenizer.json")
    checkpoint = checkpoint_path(run.checkpoints, 10)
    save_model(
        checkpoint,
        make_model(experiment.model, former.vocab_size),
        Artifacts(experiment, keys).tokenizer / "tokenizer.json",
    )
    (checkpoint / "tokenizer.json").unlink()
    write_manifest(checkpoint)
    _, tokenizer = load_pair(checkpoint, None, "cpu")
    assert tokenizer.fingerprint == former.fingerprint
    assert Artifacts(experiment).tokenizer != Artifacts.of_run(run).tokenizer


def test_a_tuned_model_says_so_and_a_base_model_says_nothing(directory: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "tuned", random_model(), directory / "tokenizer.json", tuned=True, step=3)
    base, tuned = read_json(directory / "config.json"), read_json(tmp_path / "tuned" / "config.json")
    assert "tuned" not in base
    assert tuned == {**base, "tuned": True}
    assert read_json(tmp_path / "tuned" / "manifest.json")["step"] == 3
    for path in (tmp_path / "tuned", tmp_path / "tuned" / "model.safetensors"):
        assert is_tuned(path)
        assert TextGenerator(path, device="cpu").tuned
    for path in (
        directory,
        directory / "model.safetensors",
        tmp_path / "none",
        tmp_path / "none" / "model.safetensors",
    ):
        assert not is_tuned(path)
    assert not TextGenerator(directory, device="cpu").tuned
    write_json(tmp_path / "tuned" / "config.json", {**tuned, "tuned": "no"})
    assert not is_tuned(tmp_path / "tuned")


def test_weights_that_are_not_numbers_are_named(directory: Path, tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        model.final_norm.bias[0] = torch.nan
    save_model(tmp_path / "diverged", model, directory / "tokenizer.json")
    with pytest.raises(UserError, match="diverged: its weights are not numbers"):
        TextGenerator(tmp_path / "diverged", device="cpu")


def test_weights_that_do_not_fit_their_description_are_named(directory: Path, tmp_path: Path) -> None:
    other = shutil.copytree(directory, tmp_path / "other")
    about = read_json(other / "config.json")
    deeper = {**about["model"], "n_layers": about["model"]["n_layers"] + 1}
    write_json(other / "config.json", {**about, "model": deeper})
    write_manifest(other)
    with pytest.raises(UserError, match=r"made by another architecture \(.* is missing, .*, 12 tensors differ\)"):
        TextGenerator(other, device="cpu")
