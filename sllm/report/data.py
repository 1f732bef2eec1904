"""What a run's files say, for its page: all that can be read, and a note on each thing that cannot.

Nothing here is required to be there: the run may be training, of an older version, damaged in parts, or its data gone.
"""

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sllm.artifacts import Artifacts
from sllm.config import Experiment, load_experiment
from sllm.data.epochs import epochs_by_phase, total
from sllm.errors import UserError
from sllm.files import CorruptError, read_object
from sllm.manifests import MANIFEST
from sllm.model.size import parameter_count
from sllm.records import read_new_jsonl
from sllm.report.curves import Curves, read_curves
from sllm.report.life import FINETUNE, PRETRAIN, SIGN_OF_LIFE, SILENT, Life, last_sign, read_life
from sllm.run_directory import RunDirectory, checkpoint_steps

HIDDEN = ("report",)
"""Stages that a page does not tell of: its own."""


class Note(NamedTuple):
    """Something that the page does not have, and why."""

    section: str
    key: str
    """Of the words that say so."""
    values: dict[str, Any]


@dataclass(frozen=True)
class StageState:
    name: str
    state: str
    """done, running, silent, waiting, how the last attempt ended, or unknown."""
    attempts: int
    seconds: float
    """Of all attempts."""
    finished: float | None
    message: str
    """Of the last attempt, where it failed."""


@dataclass
class RunData:
    """`None` or empty: it is not there, and a note says why unless nothing had to be there."""

    run: RunDirectory
    now: float
    experiment: Experiment | None = None
    config_text: str = ""
    curves: Curves = field(default_factory=lambda: Curves({}))
    life: Life | None = None
    stages: list[StageState] = field(default_factory=list)
    validation: dict[str, Any] | None = None
    """results.json of the validate stage."""
    benchmark: dict[str, Any] | None = None
    tokenizer: dict[str, Any] | None = None
    """Its report."""
    corpus: dict[str, Any] | None = None
    packed: dict[str, Any] | None = None
    """Manifests."""
    environment: str = ""
    preset: dict[str, Any] | None = None
    """`name`, and its `experiment` when this was submitted."""
    checkpoint: int | None = None
    """The last step that is saved."""
    tuning: "RunData | None" = None
    """Of the fine-tuning, if there is one: experiment, curves and life, as of any training."""
    conversations: dict[str, Any] | None = None
    """Summary of the stage of that name: `sources`."""
    notes: list[Note] = field(default_factory=list)

    def note(self, section: str, key: str, **values: Any) -> None:
        self.notes.append(Note(section, key, values))

    @property
    def trained(self) -> bool:
        return bool(self.curves.last_step)

    @property
    def device_hours(self) -> float | None:
        """Of all trainings, and of measuring."""
        lives = [self.life, self.tuning.life if self.tuning else None]
        hours = [life.device_hours for life in lives if life is not None]
        return sum(hours) if hours else None

    @cached_property
    def parameters(self) -> int | None:
        """Of the model, by its configuration; the size of the vocabulary is the learnt tokenizer's if it is there."""
        if self.experiment is None:
            return None
        summary = (self.tokenizer or {}).get("summary", {})
        size = (
            (self.packed or {}).get("vocab_size") or summary.get("vocab_size") or self.experiment.tokenizer.vocab_size
        )
        return parameter_count(self.experiment.model, size)[0]

    @cached_property
    def epochs(self) -> dict[str, tuple[float, float]]:
        """By source: epochs seen so far, and in the whole training; empty unless the packed data is there."""
        if self.experiment is None or self.packed is None:
            return {}
        tokens = {name: source["train"]["tokens"] for name, source in self.packed["sources"].items()}
        so_far = total(epochs_by_phase(self.experiment, tokens, self.curves.last_step))
        whole = total(epochs_by_phase(self.experiment, tokens))
        return {name: (so_far[name], whole[name]) for name in whole}

    @cached_property
    def last_validation(self) -> dict[str, Any] | None:
        """Of the training."""
        return self.curves.validations[-1] if self.curves.validations else None

    @cached_property
    def best_validation(self) -> dict[str, Any] | None:
        known = [record for record in self.curves.validations if record.get("loss") is not None]
        return min(known, key=lambda record: record["loss"], default=None)


def read_run(run: RunDirectory) -> RunData:
    """Raises nothing that the run's files could be to blame for, but OSError where the disk is."""
    data = RunData(run, time.time())
    _read_experiment(data)
    _read_training(data, run, PRETRAIN)
    data.stages = _stages(run, data.now)
    data.checkpoint = max(checkpoint_steps(run.checkpoints), default=None)
    if data.experiment and data.experiment.finetune:
        data.tuning = RunData(run.training(FINETUNE), data.now, data.experiment.tuning())
        _read_training(data.tuning, run, FINETUNE)
        data.conversations = (_object(run.done("conversations"), "summary") or {}).get("summary")
    data.validation = _object(run.stage("validate") / "results.json", "overall")
    data.benchmark = _object(run.stage("benchmark") / "results.json")
    data.preset = _object(run.preset, "name", "experiment")
    data.environment = _text(run.environment)
    _read_artifacts(data)
    return data


def _read_training(data: RunData, run: RunDirectory, stage: str) -> None:
    """The curves of a stage of the run, and its life."""
    data.curves = read_curves(data.run.metrics)
    if data.curves.unreadable:
        data.note("loss", "metrics_unreadable", why=data.curves.unreadable)
    if damaged := data.curves.damaged:
        data.note("loss", "metrics_damaged", count=f"{len(damaged):,}", first=f"{damaged[0]:,}")
    if data.curves.repeated:
        data.note("loss", "metrics_repeated", count=f"{data.curves.repeated:,}")
    try:
        data.life = read_life(run, stage)
    except (UserError, OSError, KeyError, TypeError, ValueError) as error:
        data.note("life", "ledger_damaged", why=_told(error))


def _read_experiment(data: RunData) -> None:
    data.config_text = _text(data.run.config)
    try:
        data.experiment = load_experiment(data.run.config)
    except (UserError, OSError) as error:
        data.note("settings", "config_unreadable", why=_told(error))


def _read_artifacts(data: RunData) -> None:
    """The reports of the directories that runs share."""
    try:
        artifacts = Artifacts.of_run(data.run)
    except (UserError, OSError, KeyError, TypeError) as error:
        for section in ("tokenizer", "corpus"):
            data.note(section, "artifacts_unknown", why=_told(error))
        return
    data.corpus = _shared(data, "corpus", "corpus_missing", artifacts.corpus / MANIFEST, "sources")
    data.packed = _shared(data, "corpus", "packed_missing", artifacts.packed / MANIFEST, "sources")
    keys = "summary", "held_out"
    data.tokenizer = _shared(data, "tokenizer", "tokenizer_missing", artifacts.tokenizer / "report.json", *keys)


def _shared(data: RunData, section: str, key: str, path: Path, *keys: str) -> dict[str, Any] | None:
    found = _object(path, *keys)
    if found is None:
        data.note(section, key, path=str(path.parent))
    return found


def _object(path: Path, *keys: str) -> dict[str, Any] | None:
    try:
        return read_object(path, *keys)
    except (OSError, CorruptError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {error}"


# --- stages ---------------------------------------------------------------------------------------


def _stages(run: RunDirectory, now: float) -> list[StageState]:
    """In the order in which they were submitted."""
    keys = _object(run.path / "keys.json") or {}
    keys_of_lines = ("stage", "token", "ended", "seconds")
    try:
        lines = [line for line, _ in read_new_jsonl(run.ledger, 0, *keys_of_lines)]
    except OSError:
        lines = []
    names = [*keys, *(line["stage"] for line in lines if "." not in str(line["stage"]))]
    names = list(dict.fromkeys(str(name) for name in names))
    return [_known(run, name, lines, now) for name in names if name not in HIDDEN]


def _known(run: RunDirectory, name: str, lines: list[dict[str, Any]], now: float) -> StageState:
    try:
        return _stage(run, name, lines, now)
    except (TypeError, ValueError) as error:  # in one of its files stands what no version of ours writes
        return StageState(name, "unknown", 0, 0.0, None, _told(error))


def _stage(run: RunDirectory, name: str, lines: list[dict[str, Any]], now: float) -> StageState:
    mine = [line for line in lines if line["stage"] == name]
    done = _object(run.done(name), "fingerprint", "finished")
    running = _object(run.stage(name) / "attempt.json", "token", "started")
    if running and any(line["token"] == running["token"] for line in mine):
        running = None
    last = mine[-1] if mine else None
    message, seconds = "", sum(float(line["seconds"]) for line in mine)
    if running:
        started = float(running["started"])
        sign = last_sign(run, name, started)
        state, end = ("running", now) if now - sign < SIGN_OF_LIFE else (SILENT, sign)
        seconds += end - started
    elif done:
        state = "done"
    elif last:
        state, message = str(last["ended"]), str(last.get("gave_up") or last.get("message") or "")
    else:
        state = "waiting"
    finished = float(done["finished"]) if done else None
    return StageState(name, state, len(mine) + bool(running), seconds, finished, message)
