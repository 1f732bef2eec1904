"""Checkpoints: save whole, verify, load the newest good one, prune; and models on their own (`save_model`).

A checkpoint is weights, optimizer state and a step number: everything else (data order, dropout, learning rate) is a
function of the step. Tensors are safetensors, the rest JSON; nothing read here can execute anything.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sllm.config import CheckpointConfig, ModelConfig, validate
from sllm.errors import UserError
from sllm.files import (
    CorruptError,
    atomic_directory,
    checkpoint_path,
    checkpoint_steps,
    delete,
    read_json,
    read_manifest,
    require_ownership,
    write_json,
)
from sllm.model.gpt2 import GPT

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
STATE = "state.json"


# --- models ---------------------------------------------------------------------------------------


def save_model(directory: Path, model: GPT, tokenizer: Path, **details: Any) -> None:
    """Write a model that can be loaded on its own, replacing `directory` as a whole. `details` go into its manifest."""
    with atomic_directory(directory, **details) as temporary:
        _write_weights(temporary, model)
        shutil.copyfile(tokenizer, temporary / TOKENIZER)


def _write_weights(directory: Path, model: GPT) -> None:
    _save_tensors(model.state_dict(), directory / WEIGHTS)
    write_json(directory / CONFIG, {"model": model.config.model_dump(mode="json"), "vocab_size": model.vocab_size})


def load_model(path: Path, device: torch.device | str = "cpu") -> GPT:
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
        model = GPT(config, about["vocab_size"])
        weights = load_file(directory / WEIGHTS, device=str(device))
    except (CorruptError, SafetensorError) as error:
        raise UserError(f"{directory}: damaged model: {error}") from error
    _check_shapes(model, weights, directory)
    model.load_state_dict(weights, assign=True)
    return model.to(device).eval()


def _check_shapes(model: GPT, weights: dict[str, Tensor], where: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    different = [
        f"{name} is {found.get(name, 'missing')}, not {expected.get(name, 'part of it')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if different:
        raise UserError(f"{where}: made by another architecture ({different[0]}, {len(different)} tensors differ)")


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(str(error)) from error


# --- checkpoints ----------------------------------------------------------------------------------


class Checkpoints:
    """The checkpoints of one run, `step-00001000` and so on. Only rank 0 saves and prunes; every rank loads."""

    def __init__(self, directory: Path, config: CheckpointConfig) -> None:
        self.directory = directory
        self.config = config
        self._damaged: set[int] = set()

    def path(self, step: int) -> Path:
        return checkpoint_path(self.directory, step)

    def save(self, step: int, model: GPT, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Commit a checkpoint. Raises OSError (disk full), nothing half-written."""
        with atomic_directory(self.path(step), step=step) as temporary:
            _write_weights(temporary, model)
            _save_tensors(_optimizer_tensors(model, optimizer), temporary / OPTIMIZER)
            write_json(temporary / STATE, {"step": step, **state})
        self._damaged.discard(step)

    def prune(self, newest: int) -> None:
        """Delete what the checkpoint of step `newest` supersedes, and what was found damaged. Nothing else above
        `newest` is touched: it would be another attempt's. What cannot be deleted is logged."""
        steps = checkpoint_steps(self.directory)
        good = [step for step in steps if step <= newest and step not in self._damaged]
        keep = set(good[-self.config.keep_last :])
        if self.config.keep_every:
            keep |= {step for step in good if step % self.config.keep_every == 0}
        for step in steps:
            if step in self._damaged or step in set(good) - keep:
                require_ownership()
                delete(self.path(step))

    def newest_whole(self) -> dict[str, Any] | None:
        """The state of the newest checkpoint whose every byte is as written, or None; damaged ones are logged."""
        steps = checkpoint_steps(self.directory)
        names = {self.path(step).name for step in steps}
        visible = {path.name for path in self.directory.iterdir() if not path.name.startswith(".")}
        if strange := sorted(visible - names):
            log.warning("%s: not checkpoints, and passed over: %s", self.directory, ", ".join(strange))
        for step in reversed(steps):
            try:
                read_manifest(self.path(step), checksums=True)
                state: dict[str, Any] = read_json(self.path(step) / STATE)
                if state["step"] == step:
                    return state
                log.warning("%s is of step %d, and passed over", self.path(step), state["step"])
            except (CorruptError, OSError) as error:
                if isinstance(error, CorruptError):
                    self._damaged.add(step)
                log.warning("checkpoint of step %d is damaged and passed over: %s", step, error)
        return None

    def load(self, step: int, model: GPT, optimizer: torch.optim.Optimizer) -> None:
        """Load weights and optimizer state into `model` and `optimizer`, on whatever device they are.

        Raises:
            UserError: the checkpoint is of another architecture.
        """
        weights = load_file(self.path(step) / WEIGHTS)
        _check_shapes(model, weights, self.path(step))
        model.load_state_dict(weights)
        _load_optimizer_tensors(model, optimizer, load_file(self.path(step) / OPTIMIZER))


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`{"exp_avg.blocks.0.expand.weight": …}`: state by parameter name, independent of parameter order."""
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{key}.{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    states: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        key, _, parameter = name.partition(".")
        states.setdefault(parameter, {})[key] = tensor
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    full = optimizer.state_dict()
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    full["state"] = {i: states[names[parameter]] for i, parameter in enumerate(order) if names[parameter] in states}
    optimizer.load_state_dict(full)
