"""A model's directory: weights, their description and the tokenizer, written as a whole and loaded with every check.

Tensors are safetensors, the rest JSON; nothing read here can execute anything.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sllm.config import ModelConfig, validate
from sllm.errors import UserError
from sllm.files import CorruptError, read_json, write_json, write_text
from sllm.manifests import CARD, atomic_directory, link_file, read_manifest
from sllm.model.families import frame
from sllm.model.shared import LanguageModel
from sllm.origin import CONFIG, TOKENIZER, WEIGHTS, tokenizer_of
from sllm.tokenizer import Tokenizer


def save_model(
    directory: Path,
    model: LanguageModel,
    tokenizer: Path,
    checkpoint: Path | None = None,
    card: str | None = None,
    *,
    tuned: bool = False,
    **details: Any,
) -> None:
    """Write a model that can be loaded on its own, and its card, replacing `directory` as a whole. `tuned`: it has
    learnt conversations. `details` go into its manifest. If a directory with the same weights is there at `checkpoint`,
    they get a second name, where the disk has such."""
    known: list[dict[str, Any]] = []
    with atomic_directory(directory, known, **details) as temporary:
        if checkpoint and (entry := link_file(checkpoint, WEIGHTS, temporary)):
            known.append(entry)
        else:
            save_tensors(model.state_dict(), temporary / WEIGHTS)
        write_description(temporary, model, tuned=tuned)
        shutil.copyfile(tokenizer, temporary / TOKENIZER)
        if card is not None:
            write_text(temporary / CARD, card)


def description(model: LanguageModel, *, tuned: bool = False) -> dict[str, Any]:
    """What its config.json says, `tuned` only of a model that is (see `sllm.origin.is_tuned`)."""
    about = {"model": model.config.model_dump(mode="json"), "vocab_size": model.vocab_size}
    return {**about, "tuned": True} if tuned else about


def write_description(directory: Path, model: LanguageModel, *, tuned: bool = False) -> None:
    write_json(directory / CONFIG, description(model, tuned=tuned))


def load_model(path: Path, device: torch.device | str = "cpu") -> LanguageModel:
    """The model in a directory (`runs/<name>/best`, a checkpoint) or beside a model.safetensors, in eval mode.

    Raises:
        UserError: nothing there, damaged, or not a model of ours.
    """
    path = Path(path)
    directory = path.parent if path.is_file() else path
    if not (directory / CONFIG).is_file():
        raise UserError(f"{path}: no model here ({CONFIG} is missing); give a directory such as runs/NAME/best")
    try:
        read_manifest(directory, checksums=True)
        about = read_json(directory / CONFIG)
        if not isinstance(about, dict) or not {"model", "vocab_size"} <= about.keys():
            raise UserError(f"{directory / CONFIG}: not the description of an sllm model")
        config = validate(ModelConfig, about["model"], str(directory / CONFIG))
        model = frame(config, about["vocab_size"])
        weights = load_file(directory / WEIGHTS, device=str(device))
    except (CorruptError, SafetensorError) as error:
        raise UserError(f"{directory}: damaged model: {error}") from error
    check_shapes(model, weights, directory)
    model.load_state_dict(weights, assign=True)
    return model.to(device).eval()


def check_shapes(model: LanguageModel, weights: dict[str, Tensor], where: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    different = [
        f"{name} is {found.get(name, 'missing')}, not {expected.get(name, 'part of it')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if different:
        raise UserError(f"{where}: made by another architecture ({different[0]}, {len(different)} tensors differ)")


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(str(error)) from error


def load_pair(
    model_path: Path | str, tokenizer_path: Path | str | None, device: torch.device | str
) -> tuple[LanguageModel, Tokenizer]:
    """A model and its tokenizer (default: the one beside the model, or for a checkpoint that of its run).

    Raises:
        UserError: one is missing or damaged, or they have different vocabularies.
    """
    model_path = Path(model_path)
    model = load_model(model_path, device)
    directory = model_path.parent if model_path.is_file() else model_path
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise UserError(f"{directory}: its weights are not numbers any more; take one from before its loss became nan")
    tokenizer_path = Path(tokenizer_path or tokenizer_of(directory))
    if tokenizer_path.is_dir():
        tokenizer_path = tokenizer_path / TOKENIZER
    tokenizer = Tokenizer.load(tokenizer_path)
    if tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"{tokenizer_path}: {tokenizer.vocab_size:,} tokens, the model in {directory} has {model.vocab_size:,}; "
            f"give the tokenizer it was trained with"
        )
    return model, tokenizer
