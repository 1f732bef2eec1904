"""Where a training begins, if not at step 0 with random weights: looked at before anything is written, then brought
into the run.

It comes there as a checkpoint of the training, which then goes on from it like from any other, wherever it runs: that
of a model has step 0 and no state of an optimizer.
"""

import shutil
import time
from dataclasses import dataclass
from typing import Any

from jobs import hints
from jobs.branch import Branch, begin_branch, training_branch
from jobs.pipeline import STAGES, Keys, former_training, last_step, plan, set_aside, setting_changes
from sllm.artifacts import Artifacts, shared_steps
from sllm.config import Experiment
from sllm.errors import UserError, storage_as_user_error
from sllm.files import CorruptError, write_json
from sllm.manifests import atomic_directory, read_manifest
from sllm.origin import CONFIG, WEIGHTS, Origin, read_origin, remember, take_tokenizer
from sllm.run_directory import RunDirectory, checkpoint_path, checkpoint_steps

NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
"""A safetensors file."""


@dataclass(frozen=True)
class Start:
    """What a submit brings into the run: a step of another training, or the model of `train.init_from`; neither if the
    training has begun, or begins with random weights."""

    experiment: Experiment
    run: RunDirectory
    keys: Keys
    branch: Branch | None = None
    model: Origin | None = None

    @classmethod
    def of(cls, experiment: Experiment, run: RunDirectory, keys: Keys) -> "Start":
        """Raises UserError if what `train.init_from` names cannot be where this training begins."""
        told, key, branch = experiment.train.init_from, keys["pretrain"], training_branch(run, keys)
        if told is None or (branch and branch.step) or _has_begun(run, keys, Artifacts(experiment, keys)):
            return cls(experiment, run, keys, branch)
        origin = read_origin(told)
        _require_apart(origin, run)
        try:
            read_manifest(origin.directory, checksums=True)
        except CorruptError as error:
            raise UserError(f"train.init_from: {told}: damaged: {error}") from None
        if origin.trajectory is None:
            return cls(experiment, run, keys, model=origin)
        _require_same_steps(origin, origin.trajectory, key)
        source, steps = origin.directory.parents[1], experiment.train.max_steps
        return cls(experiment, run, keys, Branch(source, origin.step, steps, None, init_from=told))

    def __str__(self) -> str:
        """Empty if there is nothing to tell."""
        if self.model:
            return f"Training begins with the weights and the tokenizer of {hints.short(self.model.directory)}"
        return str(self.branch or "")

    @storage_as_user_error()
    def begin(self) -> None:
        """Bring it there; the tokenizer of a model, too, for when its stage looks for it."""
        content = self.keys["pretrain"]["train"].get("init_from")
        remember(self.experiment, content)
        if content is not None:
            take_tokenizer(self.experiment, content, Artifacts(self.experiment, self.keys).tokenizer)
        begin_branch(self.run, self.keys, self.branch)
        if self.branch and self.branch.init_from and last_step(self.run) < self.branch.step:
            raise UserError(f"train.init_from: {self.branch.init_from}: has just been deleted; submit again")
        if self.model:
            self._begin_with(self.model)

    def _begin_with(self, model: Origin) -> None:
        write_json(self.run.branch, {"of": str(model.directory), "step": 0, "before": 0, "time": time.time()})
        about = {"model": self.experiment.to_dict()["model"], "vocab_size": self.experiment.tokenizer.vocab_size}
        marks = {"trajectory": self.keys["pretrain"], "init_from": self.experiment.train.init_from}
        with atomic_directory(checkpoint_path(self.run.checkpoints, 0), step=0) as directory:
            shutil.copyfile(model.directory / WEIGHTS, directory / WEIGHTS)
            (directory / "optimizer.safetensors").write_bytes(NO_TENSORS)
            write_json(directory / CONFIG, about)
            write_json(directory / "state.json", {"step": 0, "scaler": {}, **marks})


def _has_begun(run: RunDirectory, keys: Keys, artifacts: Artifacts) -> bool:
    """Whether the run has a checkpoint of this training, perhaps set aside, or has ended it."""
    key = keys["pretrain"]
    if (aside := set_aside(run, key)).is_dir():
        run = RunDirectory(aside)
    elif former_training(run) != key:
        return False
    return bool(checkpoint_steps(run.checkpoints)) or plan(run, keys, artifacts, [STAGES["pretrain"]])[0].done


def _require_apart(origin: Origin, run: RunDirectory) -> None:
    """Raises UserError if what is to be copied belongs to the training that the submit sets aside."""
    place, own = origin.directory.resolve(), run.path.resolve()
    if place.is_relative_to(own) and not place.is_relative_to(own / "previous"):
        raise UserError(f"train.init_from: {origin.directory} is of the run {run.name} itself; take another name=…")


def _require_same_steps(origin: Origin, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    shared = shared_steps(theirs, ours)
    if origin.step <= shared:
        return
    run, changes = origin.directory.parents[1], "; ".join(setting_changes(theirs, ours)) or "other data"
    until = f"the same up to step {shared:,} only" if shared else "another training"
    raise UserError(
        f"train.init_from: {run}@{origin.step}: {until} ({changes}); its weights alone, with an optimizer begun anew: "
        f"train.init_from={hints.short(origin.directory)}"
    )
