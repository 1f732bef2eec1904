"""What metrics.jsonl says, read once and thinned honestly: each bucket keeps its smallest, mean and largest value."""

import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

COLUMNS = (
    "step",
    "tokens",
    "loss",
    "learning_rate",
    "gradient_norm",
    "seconds",
    "tokens_per_second",
    "data_wait",
    "memory_bytes",
    "mfu",
)
"""What is kept of a step. `data_wait` is a share of `seconds`, `mfu` one of the device's peak."""

Over = Literal["steps", "tokens", "hours"]

NAN = float("nan")


@dataclass
class Curves:
    """The records of metrics.jsonl, by kind."""

    train: dict[str, np.ndarray]
    """By name of COLUMNS: (steps,) float64, NaN where a step does not have it or it was not finite."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    overflows: int = 0
    """Steps that changed nothing, because their gradient overflowed under fp16."""
    damaged: list[int] = field(default_factory=list)
    """Numbers of lines that are no records."""
    unreadable: str = ""
    """Why the file cannot be read, if it is there."""
    repeated: int = 0
    """Steps that stand there once more, later: those count."""

    @property
    def last_step(self) -> int:
        return int(self.train["step"][-1]) if len(self.train["step"]) else 0

    def has(self, name: str) -> bool:
        return bool(np.isfinite(self.train[name]).any())

    def at(self, steps: np.ndarray, over: Over) -> np.ndarray:
        """Where steps stand on an axis: their number, the tokens up to them, or the hours that the steps up to them
        took, without queues, start-ups, validations and saves."""
        if over == "steps" or not len(self.train["step"]):
            return np.asarray(steps, float)
        if over == "tokens":
            axis = self.train["tokens"]
        else:
            axis = np.nancumsum(self.train["seconds"]) / 3600
        return np.asarray(np.interp(steps, self.train["step"], axis))

    def validation(self, figure: str, language: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Steps, and a figure (loss, bits_per_byte …) of the validations after them, overall or of one language."""
        points = []
        for record in self.validations:
            row = record if language is None else record.get("languages", {}).get(language, {})
            value = row.get(figure)
            points.append((record["step"], NAN if value is None else value))
        steps, values = np.array(points, float).reshape(-1, 2).T
        return steps, values

    @property
    def languages(self) -> list[str]:
        return sorted({language for record in self.validations for language in record.get("languages", {})})


def read_curves(metrics: Path) -> Curves:
    """All that can be read of a metrics.jsonl, which may be growing, damaged or not there. A line that is no record is
    counted and passed over; so is, without a word, half a line at the end."""
    rows = array("d")
    found = Curves({})
    kinds = {"validation": found.validations, "checkpoint": found.checkpoints, "start": found.starts}
    try:
        with metrics.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line.decode("utf-8", "surrogatepass"))  # of bytes it would guess the encoding
                    kind, step = record["kind"], float(record["step"])
                    if kind == "train":
                        values = [record.get(name) for name in COLUMNS]
                        rows.extend(array("d", [NAN if value is None else value for value in values]))
                        found.overflows += "overflow" in record
                    elif kind in kinds:
                        kinds[kind].append({**record, "step": int(step)})
                except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                    if line.endswith(b"\n"):
                        found.damaged.append(number)
    except FileNotFoundError:
        pass
    except OSError as error:
        found.unreadable = str(error)
    table = np.frombuffer(rows, float).reshape(-1, len(COLUMNS)) if len(rows) else np.empty((0, len(COLUMNS)))
    table = np.where(np.isfinite(table), table, NAN)
    kept = _not_repeated(table[:, 0])
    found.repeated = int(len(kept) - kept.sum())
    found.train = dict(zip(COLUMNS, table[kept].T, strict=True))
    return found


def _not_repeated(steps: np.ndarray) -> np.ndarray:
    """Which steps no later record takes back: a file that was not cut back at a resume holds some twice."""
    if not len(steps):
        return np.zeros(0, bool)
    later = np.append(np.fmin.accumulate(steps[::-1])[::-1][1:], np.inf)
    return np.asarray(steps < later)


@dataclass(frozen=True)
class Thinned:
    """A curve in at most so many buckets of steps that follow each other."""

    x: np.ndarray
    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray
    steps_a_bucket: int
    """1: nothing was thinned."""


def thin(x: np.ndarray, y: np.ndarray, buckets: int) -> Thinned:
    """Smallest, mean and largest y of each bucket, without values that are not finite, at the mean of its x."""
    width = max(1, -(-len(x) // buckets))
    starts = np.arange(0, len(x), width)
    if not len(starts):
        return Thinned(x, y, y, y, 1)
    there = np.isfinite(y)
    counts = np.add.reduceat(there.astype(float), starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(there, y, 0.0), starts) / counts
    middle = np.add.reduceat(x, starts) / np.diff(np.append(starts, len(x)))
    return Thinned(middle, np.fmin.reduceat(y, starts), mean, np.fmax.reduceat(y, starts), width)
