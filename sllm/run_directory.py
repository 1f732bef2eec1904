"""The run directory: where a run keeps what. Names only; nothing here touches what is in the files."""

import re
from dataclasses import dataclass
from pathlib import Path


class _Named:
    """`run.config` is the path of the run's `config.yaml`, and so on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "RunDirectory", _: type) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class RunDirectory:
    """Names of everything in `runs/<name>/`. Creating one touches nothing on disk."""

    path: Path

    config = _Named("config.yaml")
    cluster = _Named("cluster.yaml")
    submission = _Named("submission.json")
    """Where it was last submitted to."""
    preset = _Named("preset.json")
    """Which experiment that comes with sllm it was most like when it was submitted, and what that said."""
    code = _Named("code")
    environment = _Named("environment.txt")
    ledger = _Named("ledger.jsonl")
    metrics = _Named("metrics.jsonl")
    checkpoints = _Named("checkpoints")
    profile = _Named("profile")
    best = _Named("best")
    report = _Named("report")
    branch = _Named("stages/pretrain/branch.json")
    """Up to which step its training is another one, or, at step 0, the model that it began with."""
    origins = _Named("origins.json")
    """What `train.init_from` stood for, by what it said."""

    @classmethod
    def above(cls, path: Path) -> "RunDirectory | None":
        """The run that a model lies in: runs/NAME for runs/NAME/best, .../checkpoints/step-… and files in them."""
        return next((cls(parent) for parent in path.absolute().parents if (parent / "config.yaml").is_file()), None)

    @property
    def name(self) -> str:
        return self.path.name

    def training(self, stage: str) -> "RunDirectory":
        """Where the training of a stage keeps its metrics, checkpoints, best model and profile: of pretrain the run
        itself, of finetune a folder in it. What stages have, such as their ledger, is the run's."""
        return self if stage == "pretrain" else RunDirectory(self.path / stage)

    def stage(self, name: str) -> Path:
        return self.path / "stages" / name

    def done(self, name: str) -> Path:
        return self.stage(name) / "done.json"

    def progress(self, name: str) -> Path:
        return self.stage(name) / "progress.json"

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"


def checkpoint_path(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def checkpoint_steps(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that have been committed, oldest first. Anything else in the directory (a copy, a link,
    a file) is none."""
    found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in checkpoints.glob("step-*"))
    steps = sorted({int(match[1]) for match in found if match})
    paths = {step: checkpoint_path(checkpoints, step) for step in steps}
    return [step for step, path in paths.items() if path.is_dir() and not path.is_symlink()]
