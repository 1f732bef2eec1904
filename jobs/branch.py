"""A training that is made longer or shorter begins where it parts from another one of the run: at the furthest
checkpoint up to which both are the same."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import hints
from jobs.ledger import attempts, read_or_none
from jobs.pipeline import Keys, former_training, last_step, set_aside, shared_checkpoint
from sllm.artifacts import differ_in_their_end, shared_steps, steps_before_the_end
from sllm.config import DECAY, decay_start
from sllm.errors import storage_as_user_error
from sllm.files import CorruptError, atomic_file, delete, fingerprint, read_object, write_json
from sllm.manifests import link_directory, read_manifest
from sllm.progress import format_seconds
from sllm.records import lines_up_to
from sllm.run_directory import RunDirectory, checkpoint_path, checkpoint_steps


@dataclass(frozen=True)
class Branch:
    """Where a training of `steps` steps begins: at `step` of the one in `source`, which `train.init_from` may name, or,
    `because` of something, at 0."""

    source: Path
    step: int
    steps: int
    step_seconds: float | None
    because: str = ""
    later: str = ""
    """How it could begin later."""
    init_from: str | None = None

    def __str__(self) -> str:
        left = self.steps - self.step
        time = "" if self.step_seconds is None else f" (about {format_seconds(left * self.step_seconds)})"
        if left == 0:
            return f"Training is over at step {self.step:,}, that of the checkpoint in {hints.short(self.source)}"
        if self.because:
            return f"All {self.steps:,} steps are trained anew{time}: {self.because}"
        return (
            f"Training goes on from step {self.step:,} of {hints.short(self.source)}, up to which both are the same; "
            f"steps {self.step + 1:,} to {self.steps:,} are trained anew{time}{self.later and '; '}{self.later}"
        )


def training_branch(run: RunDirectory, keys: Keys) -> Branch | None:
    """What `begin_branch` would do, once `swap_training` has moved what it would move; also why a training that differs
    from the run's in its length alone begins at 0. None where there is nothing to say."""
    key, former = keys["pretrain"], former_training(run)
    steps = key["train"]["max_steps"]
    if shared := shared_checkpoint(run, key):
        other, step = shared
        later = _later(run, former, key, step) if former is not None else ""
        return Branch(set_aside(run, other), step, steps, _step_seconds(run, other), later=later)
    if former is None or set_aside(run, key).is_dir() or not differ_in_their_end(former, key):
        return None
    return Branch(set_aside(run, former), 0, steps, _step_seconds(run, former), _because(run, former, key))


def _because(run: RunDirectory, former: dict[str, Any], key: dict[str, Any]) -> str:
    if shared := shared_steps(former, key):
        way_out = _later(run, former, key, 0) or "train.checkpoint.keep_every keeps some"
        return f"there is no checkpoint up to step {shared:,}, where both part; {way_out}"
    if key["train"].get("decay"):
        return "the rate depends on its end from the first step on; a smaller train.decay would leave steps before it"
    ends = [decay_start(of["train"]["max_steps"], of["train"].get("decay") or DECAY) for of in (former, key)]
    stay = min(*ends, last_step(run))
    would = f"; under train.schedule=wsd the first {stay:,} would have stayed" if stay > 0 else ""
    return f"the rate of a cosine depends on its end from the first step on{would}"


def _later(run: RunDirectory, former: dict[str, Any], key: dict[str, Any], step: int) -> str:
    """With which decay the training could begin at the checkpoint before that of the run's own, if this is later."""
    start, steps = steps_before_the_end(former), key["train"]["max_steps"]
    if not step < start < steps or start not in checkpoint_steps(run.checkpoints):
        return ""
    decay = f"{1 - start / steps:.6g}"
    other = {**key, "train": {**key["train"], "decay": float(decay)}}
    return f"with train.decay={decay} from step {start:,} on" if shared_steps(former, other) == start else ""


def _step_seconds(run: RunDirectory, key: dict[str, Any]) -> float | None:
    lines = [line for line in attempts(run, "pretrain", fingerprint(key)) if line.get("first_step")]
    steps = sum(line["last_step"] - line["first_step"] + 1 for line in lines)
    return sum(line["seconds"] for line in lines) / steps if steps else None


@storage_as_user_error()
def begin_branch(run: RunDirectory, keys: Keys, branch: Branch | None) -> None:
    """Give the run what the training with these keys shares with that in `branch.source`: checkpoints, the metrics up
    to them, and the best model, if it was found by then."""
    if branch is None or branch.step == 0:
        return
    source, before = RunDirectory(branch.source), last_step(run)
    of = source.path.relative_to(run.path) if source.path.is_relative_to(run.path) else source.path
    write_json(run.branch, {"of": str(of), "step": branch.step, "before": before, "time": time.time()})
    if source.metrics.is_file():
        with atomic_file(run.metrics) as file:
            file.writelines(line for line, _ in lines_up_to(source.metrics, branch.step))
    with contextlib.suppress(CorruptError, KeyError):
        if read_manifest(source.best)["step"] <= branch.step and not run.best.exists():
            link_directory(source.best, run.best, trajectory=fingerprint(keys["pretrain"]))
    # They tell whose training it is, and how far it has come: they are last, and the furthest is the first of them.
    for step in reversed(checkpoint_steps(source.checkpoints)):
        if before < step <= branch.step:
            with contextlib.suppress(CorruptError, FileNotFoundError):
                path = checkpoint_path(source.checkpoints, step)
                state = {**read_object(path / "state.json"), "trajectory": keys["pretrain"]}
                state |= {"init_from": branch.init_from} if branch.init_from else {}
                if not link_directory(path, checkpoint_path(run.checkpoints, step), {"state.json": state}):
                    break  # copies: one is enough


def undo_branch(run: RunDirectory) -> None:
    """Take away what `begin_branch` has brought."""
    record = read_or_none(run.branch, "before")
    if record is None:
        return
    for step in checkpoint_steps(run.checkpoints):
        if step > record["before"]:
            delete(checkpoint_path(run.checkpoints, step))
    if record["before"] == 0:
        for path in (run.metrics, run.best, run.checkpoints):
            delete(path)
    run.branch.unlink()
