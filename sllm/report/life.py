"""The life of a training: its attempts, where the seconds of each went, and how much of it all was of use.

Goodput is the share of the seconds for which devices were allocated that went into steps which are in the model. Not of
use are starting, loading, steps that had to be taken again, validating, standing still for a checkpoint, and ending.
All is computed from ledger.jsonl (and, of an attempt that is running, from metrics.jsonl):

    useful     = Σ over attempts of  seconds_training · steps kept / steps taken · ranks
    allocated  = Σ over attempts of  (started + seconds − launched) · ranks
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sllm.errors import UserError
from sllm.files import CorruptError, fingerprint, read_object
from sllm.records import iterate_jsonl, read_jsonl
from sllm.run_directory import RunDirectory, checkpoint_steps

PRETRAIN, FINETUNE, MEASURING = "pretrain", "finetune", ("validate", "benchmark")
"""Stages that take devices: those with steps, and those that take one device."""

SPANS = ("starting", "loading", "training", "lost", "validating", "saving", "other")
"""Where the seconds of an attempt go, together all for which it had its devices: from the launch of its job to the
loading of its checkpoint; to its loop; steps that are in the model, and steps that had to be taken again; validations;
standing still for checkpoints; and what is left, above all its end."""

SIGN_OF_LIFE, SILENT = 120.0, "silent"
"""Seconds: whoever has written nothing for so long is taken for gone, and had no devices after that."""


@dataclass(frozen=True)
class Attempt:
    """One attempt of the training. Times are Unix times, None where nobody wrote them down."""

    number: int
    job: str | None
    node: str
    ranks: int
    nodes: int
    began: str
    """Why."""
    ended: str | None
    """How; None as long as it runs, SILENT if it seems to be gone and nobody has written down how it ended."""
    message: str
    queued: float | None
    """When its job, put back by the attempt before, began to wait."""
    launched: float
    started: float
    end: float
    """Now, if it is running; its last sign of life, if it is silent."""
    first_step: int | None
    last_step: int | None
    lost: int
    """Of its steps, the last ones, that were or must be taken again."""
    seconds: dict[str, float] | None
    """By SPANS; None if an earlier version wrote its line."""
    to_first_step: float | None
    """Seconds from the launch to the end of its first step."""

    @property
    def allocated(self) -> float:
        """Seconds for which it had its devices."""
        return self.end - self.launched

    @property
    def in_queue(self) -> float:
        return max(0.0, self.launched - self.queued) if self.queued is not None else 0.0

    @property
    def steps(self) -> int:
        if self.first_step is None or self.last_step is None:
            return 0
        return self.last_step - self.first_step + 1


@dataclass(frozen=True)
class Life:
    """A training from its first attempt to now, and what its devices cost."""

    attempts: list[Attempt]
    device: str | None
    """What it ran on, as the newest attempt says; None before one has loaded, or if an earlier version wrote it."""
    measuring: float
    """Device seconds of the stages that measure the models; they are told with the life of pretrain."""

    @property
    def on_gpu(self) -> bool:
        return self.device is not None and not self.device.startswith("CPU")

    @property
    def allocated(self) -> float:
        """Device seconds of the training."""
        return sum(attempt.allocated * attempt.ranks for attempt in self.attempts)

    @property
    def useful(self) -> float | None:
        """Device seconds in steps that are in the model; None if an attempt's are not known."""
        found = [(attempt.seconds, attempt.ranks) for attempt in self.attempts]
        known = [seconds["training"] * ranks for seconds, ranks in found if seconds is not None]
        return sum(known) if len(known) == len(found) else None

    @property
    def goodput(self) -> float | None:
        """Useful device seconds over allocated ones, from 0 to 1; None without any."""
        return self.useful / self.allocated if self.useful is not None and self.allocated > 0 else None

    @property
    def goodput_of_wall_time(self) -> float | None:
        """Seconds in steps that are in the model over all from the first launch on, in the queue too."""
        if self.useful is None or not self.attempts or self.wall_seconds <= 0:
            return None
        return sum(a.seconds["training"] for a in self.attempts if a.seconds) / self.wall_seconds

    @property
    def wall_seconds(self) -> float:
        return self.attempts[-1].end - self.attempts[0].launched if self.attempts else 0.0

    @property
    def device_hours(self) -> float:
        """Of the training, and of measuring where that is told: GPU-hours, where it ran on GPUs."""
        return (self.allocated + self.measuring) / 3600

    @property
    def lost(self) -> int:
        """Steps that were, or must be, taken again."""
        return sum(attempt.lost for attempt in self.attempts)

    def interruptions(self) -> list["Interruption"]:
        """Every end of an attempt that another one followed."""
        return [Interruption(*pair) for pair in zip(self.attempts, self.attempts[1:], strict=False)]


@dataclass(frozen=True)
class Interruption:
    before: Attempt
    after: Attempt

    @property
    def cause(self) -> str:
        return self.before.ended or "unknown"

    @property
    def seconds(self) -> float:
        """What it cost of wall time: steps taken again, the end, the queue, and all until the first new step began."""
        return self._lost + self.before_next + self.until_step

    @property
    def device_seconds(self) -> float:
        """What it cost of allocated devices: all of that but the queue."""
        return self._lost * self.before.ranks + self.until_step * self.after.ranks

    @property
    def _lost(self) -> float:
        seconds = self.before.seconds or {}
        return seconds.get("lost", 0.0) + seconds.get("other", 0.0)

    @property
    def before_next(self) -> float:
        """Seconds from the end of the one to the launch of the other: in the queue, or until somebody came."""
        return max(0.0, self.after.launched - self.before.end)

    @property
    def until_step(self) -> float:
        seconds = self.after.seconds or {}
        return seconds.get("starting", 0.0) + seconds.get("loading", 0.0)


def read_life(run: RunDirectory, stage: str = PRETRAIN) -> Life:
    """What the run's files say of its present training of that stage. Nobody has to have written anything yet.

    Raises:
        UserError: ledger.jsonl is damaged.
    """
    now = time.time()
    lines = read_jsonl(run.ledger, "stage", "token", "fingerprint", "started", "seconds")
    trained = [line for line in lines if line["stage"] == stage]
    present, training = _present(run, stage, trained), run.training(stage)
    attempts = [line for line in trained if line["fingerprint"] == present]
    if (begun := _running(run, stage, trained)) and begun["fingerprint"] == present:
        figures = training_figures(training.metrics, begun, attempts[-1] if attempts else None, tolerant=True)
        sign = last_sign(run, stage, begun["started"])
        ended, end = (None, now) if now - sign < SIGN_OF_LIFE else (SILENT, sign)
        so_far = {"began": begun["why"], "ended": ended, "message": "", "seconds": end - begun["started"]}
        attempts.append({**begun, **figures, **so_far})
    saved = max(checkpoint_steps(training.checkpoints), default=None)
    devices = [line["device"] for line in attempts if line.get("device")]
    measuring = [line["seconds"] for line in lines if line["stage"] in MEASURING and stage == PRETRAIN]
    return Life(_attempts(attempts, saved), devices[-1] if devices else None, sum(measuring))


def last_sign(run: RunDirectory, stage: str, started: float) -> float:
    """When an attempt that began then told how far it is, as a Unix time: what its line of the ledger will say too, if
    it is gone. Not of the files' own times, which a copy of a run has anew."""
    try:
        return max(started, float(read_object(run.progress(stage), "time")["time"]))
    except (OSError, CorruptError, TypeError, ValueError):
        return started


def _present(run: RunDirectory, stage: str, trained: Sequence[dict[str, Any]]) -> str | None:
    """The fingerprint of the settings that were submitted last."""
    try:
        return fingerprint(read_object(run.path / "keys.json", stage)[stage])
    except (OSError, CorruptError):
        return trained[-1]["fingerprint"] if trained else None


def _running(run: RunDirectory, stage: str, trained: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest attempt, if its line is not written."""
    keys = ("attempt", "token", "fingerprint", "why", "launched", "started", "node", "job")
    try:
        newest = read_object(run.stage(stage) / "attempt.json", *keys)
    except (OSError, CorruptError):
        return None
    return None if any(line["token"] == newest["token"] for line in trained) else newest


def _attempts(lines: Sequence[dict[str, Any]], saved: int | None) -> list[Attempt]:
    """`saved` is the last step from which the training can go on, None if nothing is left to tell."""
    found: list[Attempt] = []
    kept: int | None = None  # the last step that those after it did not take again
    for number in reversed(range(len(lines))):
        line = lines[number]
        first, last = line.get("first_step"), line.get("last_step")
        if kept is None and line["ended"] not in (None, "finished"):
            kept = saved
        lost = last - max(kept, first - 1) if kept is not None and first is not None else 0
        found.append(_attempt(line, max(0, lost), lines[number - 1] if number else None))
        if first is not None:
            kept = first - 1 if kept is None else min(first - 1, kept)
    return found[::-1]


def _attempt(line: dict[str, Any], lost: int, before: dict[str, Any] | None) -> Attempt:
    started = float(line["started"])
    launched = float(line.get("launched") or started)
    end = started + line["seconds"]
    same_job = before is not None and line["job"] is not None and before["job"] == line["job"]
    first, last = line.get("first_step"), line.get("last_step")
    return Attempt(
        number=line["attempt"],
        job=line["job"],
        node=line["node"],
        ranks=line.get("ranks") or 1,
        nodes=line.get("nodes") or 1,
        began=line["began"],
        ended=line["ended"],
        message=line["message"],
        queued=before["started"] + before["seconds"] if same_job and before else None,
        launched=launched,
        started=started,
        end=end,
        first_step=first,
        last_step=last,
        lost=lost,
        seconds=_spans(line, lost, end - launched),
        to_first_step=line.get("seconds_to_first_step"),
    )


def _spans(line: dict[str, Any], lost: int, allocated: float) -> dict[str, float] | None:
    if "seconds_training" not in line:
        return None
    steps = line["last_step"] - line["first_step"] + 1 if line["first_step"] is not None else 0
    kept = line["seconds_training"] * (steps - lost) / steps if steps else 0.0
    loaded = line["seconds_starting"] is not None
    spans = {
        "starting": line["seconds_starting"] if loaded else allocated,
        "loading": line["seconds_loading"] or 0.0,
        "training": kept,
        "lost": line["seconds_training"] - kept,
        "validating": line["seconds_validating"],
        "saving": line["seconds_in_save"],
    }
    return {**spans, "other": max(0.0, allocated - sum(spans.values()))}


def training_figures(
    metrics: Path, attempt: dict[str, Any], before: dict[str, Any] | None, *, tolerant: bool = False
) -> dict[str, Any]:
    """First and last step that an attempt wrote to metrics.jsonl, and where its seconds went, for its line of the
    ledger. `before` is the line of the attempt before it; with `tolerant` a damaged file says nothing.

    From the end of the attempt before (in the queue), to the job's launch, to the loading of the checkpoint (starting:
    interpreter, imports, process group, model), to the loop (loading), to the end of its first step.
    """
    begun, first, last = None, None, None
    sums = {"training": 0.0, "validating": 0.0, "in_save": 0.0}
    try:
        for record in iterate_jsonl(metrics, "kind", "time"):
            if record["time"] < attempt["started"]:
                continue
            match record["kind"]:
                case "train":
                    first, last = first or record, record
                    sums["training"] += record.get("seconds", 0.0)
                case "validation":
                    sums["validating"] += record.get("seconds", 0.0)
                case "checkpoint":
                    sums["in_save"] += record.get("stall", record["seconds"])
                case "start":
                    begun = begun or record
    except (UserError, TypeError, ValueError, KeyError):
        if not tolerant:
            raise
    launched = attempt.get("launched") or attempt["started"]
    queued = launched - before["started"] - before["seconds"] if before and before["job"] == attempt["job"] else None
    spans = {
        "seconds_in_queue": queued if attempt["job"] else None,
        "seconds_starting": begun["time"] - begun["seconds"] - launched if begun else None,
        "seconds_loading": begun["seconds"] if begun else None,
        "seconds_to_first_step": first["time"] - launched if first else None,
        **{f"seconds_{name}": value for name, value in sums.items()},
    }
    told: dict[str, Any] = {name: begun[name] for name in ("init_from", "device") if begun and name in begun}
    return {
        **told,
        "first_step": first["step"] if first else None,
        "last_step": last["step"] if last else None,
        **{name: None if seconds is None else round(seconds, 3) for name, seconds in spans.items()},
    }
