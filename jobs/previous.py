"""A run has one training at a time: one of other settings is set aside in previous/, and comes back from there."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import hints
from jobs.ask import ask, is_interactive
from jobs.ledger import attempts
from jobs.pipeline import TRAININGS, Keys, former_training, last_step, read_done, set_aside, setting_changes
from sllm.errors import UserError
from sllm.files import delete, fingerprint
from sllm.progress import format_seconds
from sllm.run_directory import RunDirectory

ASK_SECONDS = 3600.0
"""A training that took longer does not move without a question."""


OTHER_DATA = {"pretrain": "other data", "finetune": "other conversations, or another model to begin with"}


@dataclass(frozen=True)
class Move:
    """A training that goes to previous/ because the run has other settings now, or comes back from there."""

    stage: str
    source: Path
    target: Path
    steps: int
    seconds: float
    changes: tuple[str, ...] = ()
    """What the settings have that those of this training had not; none for one that comes back."""

    def __str__(self) -> str:
        what = f"{self.steps:,} steps, {format_seconds(self.seconds)}"
        training = "training" if self.stage == "pretrain" else "fine-tuning"
        if not self.changes:
            return f"The {training} with these settings ({what}) comes back from {hints.short(self.source)}"
        told = (
            f"The former {training} ({what}) moves to {hints.short(self.target)}, because of {'; '.join(self.changes)}"
        )
        if any(change.startswith("version ") for change in self.changes):
            return f"{told}: of the code, so that it stays there"
        return f"{told}; submitting its settings again brings it back"


def training_moves(run: RunDirectory, keys: Keys) -> list[Move]:
    """What `swap_training` would do."""
    moves = []
    for stage in TRAININGS:
        if (key := keys.get(stage)) is None:
            continue
        former, aside = former_training(run, stage), set_aside(run, key)
        if former is not None and former != key:
            changes = tuple(setting_changes(former, key)) or (OTHER_DATA[stage],)
            moves.append(Move(stage, run.path, set_aside(run, former), *_amount(run, run, stage, former), changes))
        if aside.is_dir():
            moves.append(Move(stage, aside, run.path, *_amount(run, RunDirectory(aside), stage, key)))
    return moves


def _amount(run: RunDirectory, place: RunDirectory, stage: str, key: dict[str, Any]) -> tuple[int, float]:
    """Steps and seconds of a training."""
    done = read_done(place, stage)
    seconds = sum(line["seconds"] for line in attempts(run, stage, fingerprint(key)))
    return last_step(place, stage) or (done["summary"]["step"] if done else 0), seconds


def confirm_moves(run: RunDirectory, keys: Keys, start: str, *, yes: bool) -> None:
    """On a terminal, ask before more than an hour of training moves; `start` tells where the new one begins, if there
    is something to tell. Raises UserError if it must not."""
    for move in training_moves(run, keys):
        question = f"{move}. {start and f'{start}. '}Go on?"
        if move.changes and move.seconds > ASK_SECONDS and not yes and is_interactive() and not ask(question):
            raise UserError(f"{run.path}: nothing was changed; another name=… trains beside it")


def swap_training(run: RunDirectory, keys: Keys) -> list[Move]:
    """If the run's training is of other settings, move it to previous/<fingerprint>/, and bring back the one that was
    set aside under the present settings, if there is one. Repeating it after a crash finishes the move."""
    moves = training_moves(run, keys)
    for move in moves:
        _move_training(move)
    return moves


def _move_training(move: Move) -> None:
    source, target = move.source, move.target
    target.mkdir(parents=True, exist_ok=True)
    names = [f"stages/{stage}" for stage in ("report", "benchmark", "validate", move.stage)]
    if move.stage == "pretrain":
        names = ["best", "profile", "report", "wandb", "wandb.json", "metrics.jsonl", *names, "checkpoints"]
    else:
        names.append(move.stage)
    if not move.changes:
        # What an attempt without a checkpoint has left in the run is no training, and gives way.
        for name in names:
            if (source / name).exists() and (target / name).exists():
                delete(target / name)
    # In the run, what tells whose training it is goes last and comes first: until then, the move is not over.
    for name in names if move.changes else reversed(names):
        if (source / name).exists():
            (target / name).parent.mkdir(exist_ok=True)
            (source / name).rename(target / name)
    for left in (source / "stages", source):
        with contextlib.suppress(OSError):
            left.rmdir()  # if it is empty
