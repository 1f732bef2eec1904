"""Checkpoints: commit, verify, load the newest good one, prune. (`sllm.training.saver` writes them.)

A checkpoint is weights, optimizer state and a step number: everything else (data order, dropout, learning rate) is a
function of the step. What a model's directory looks like is `sllm.model.storage`'s business.
"""

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load
from torch import Tensor
from torch.optim import Optimizer

from sllm.config import CheckpointConfig
from sllm.files import CorruptError, delete, parse_json, require_ownership, write_json
from sllm.manifests import commit_directory, read_manifest, read_whole
from sllm.model.shared import LanguageModel
from sllm.model.storage import check_shapes, write_description
from sllm.origin import WEIGHTS
from sllm.run_directory import checkpoint_path, checkpoint_steps

log = logging.getLogger(__name__)

OPTIMIZER = re.compile(r"optimizer(-\d+-of-\d+)?\.safetensors")
"""Files of the optimizer's state: one, or one of each rank that has written a share of it."""
STATE = "state.json"


class Checkpoint(NamedTuple):
    """As it was read from disk."""

    state: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one run, `step-00001000` and so on. Rank 0 alone reads and writes them."""

    def __init__(self, directory: Path, config: CheckpointConfig, keep: int = 0, *, tuned: bool = False) -> None:
        """The checkpoint of step `keep` is kept for ever. `tuned`: their models learn conversations."""
        self.directory = directory
        self.config = config
        self.kept_step = keep
        self.tuned = tuned
        self._damaged: set[int] = set()

    def path(self, step: int) -> Path:
        return checkpoint_path(self.directory, step)

    def commit(
        self, step: int, filled: Path, model: LanguageModel, state: dict[str, Any], written: list[dict[str, Any]]
    ) -> None:
        """Make a checkpoint of a directory in which the ranks have `written` tensors, as their manifest entries tell:
        these files, which may be those of other nodes, are not looked at. Raises OSError (disk full)."""
        write_description(filled, model, tuned=self.tuned)
        write_json(filled / STATE, {"step": step, **state})
        commit_directory(filled, self.path(step), written, step=step)
        self._damaged.discard(step)

    def prune(self, newest: int) -> None:
        """Delete what the checkpoint of step `newest` supersedes, and what was found damaged. Nothing else above
        `newest` is touched: it would be another attempt's. What cannot be deleted is logged."""
        steps = checkpoint_steps(self.directory)
        good = [step for step in steps if step <= newest and step not in self._damaged]
        keep = {*good[-self.config.keep_last :], self.kept_step}
        if self.config.keep_every:
            keep |= {step for step in good if step % self.config.keep_every == 0}
        if 0 not in good[-self.config.keep_last :]:
            keep.discard(0)  # the model that the training began with
        for step in steps:
            if step in self._damaged or step in set(good) - keep:
                require_ownership()
                delete(self.path(step))

    def newest_whole(self) -> Checkpoint | None:
        """The newest checkpoint whose every byte is as written, read once, or None; damaged ones are logged."""
        steps = checkpoint_steps(self.directory)
        names = {self.path(step).name for step in steps}
        visible = {path.name for path in self.directory.iterdir() if not path.name.startswith(".")}
        if strange := sorted(visible - names):
            log.warning("%s: not checkpoints, and passed over: %s", self.directory, ", ".join(strange))
        for step in reversed(steps):
            try:
                listed = [entry["name"] for entry in read_manifest(self.path(step))["files"]]
                parts = [name for name in listed if OPTIMIZER.fullmatch(name)]
                about, weights, *optimizer = read_whole(self.path(step), STATE, WEIGHTS, *parts)
                state = parse_json(about, self.path(step) / STATE)
                if state["step"] == step:
                    tensors = {name: tensor for part in optimizer for name, tensor in load(part).items()}
                    return Checkpoint(state, load(weights), tensors)
                log.warning("%s is of step %d, and passed over", self.path(step), state["step"])
            except (CorruptError, OSError) as error:
                if isinstance(error, CorruptError):
                    self._damaged.add(step)
                log.warning("checkpoint of step %d is damaged and passed over: %s", step, error)
        return None


def restore(
    model: LanguageModel,
    optimizers: list[Optimizer],
    weights: dict[str, Tensor],
    state: dict[str, Tensor],
    where: Path,
) -> None:
    """Put a checkpoint's weights and optimizer state in their places, on whatever device they are.

    Raises:
        UserError: the checkpoint, which is that at `where`, is of another architecture.
    """
    check_shapes(model, weights, where)
    model.load_state_dict(weights)
    states: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        key, _, parameter = name.partition(".")
        states.setdefault(parameter, {})[key] = tensor
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        full = optimizer.state_dict()
        order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        full["state"] = {i: states[names[parameter]] for i, parameter in enumerate(order) if names[parameter] in states}
        optimizer.load_state_dict(full)
