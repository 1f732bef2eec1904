"""When a training is saved: every so many steps, every so many seconds, or as often as it pays."""

import math
import statistics
import time
from collections import deque
from pathlib import Path

from sllm.config import CheckpointConfig
from sllm.records import read_jsonl

LOST = 120.0
"""Seconds of training that a kill takes at most, under `auto`."""

PRIOR = 86_400.0
"""Seconds between two failures, of a run that has not seen more of them."""


def seconds_between_failures(ledger: Path, fingerprint: str, step: int) -> float:
    """The mean over the attempts of the training with this fingerprint, one failure a day being thought of as seen. A
    failure is the end of an attempt whose last steps had to be taken again; the next one begins after `step`."""
    lines = [line for line in read_jsonl(ledger, "fingerprint") if line["fingerprint"] == fingerprint]
    lines = [line for line in lines if line.get("last_step")]
    begins = [*(line["first_step"] for line in lines[1:]), step + 1]
    failures = sum(line["last_step"] >= first for line, first in zip(lines, begins, strict=False))
    return (PRIOR + sum(line["seconds"] for line in lines)) / (1 + failures)


class Schedule:
    """The clock of rank 0; what it says, all ranks are told."""

    def __init__(self, config: CheckpointConfig, between_failures: float) -> None:
        self.config, self._between_failures = config, between_failures
        self._stalls, self._durable = deque[float](maxlen=9), 0.0
        self._began = time.monotonic()

    @property
    def interval(self) -> float:
        """Seconds from one checkpoint to the next; infinite where steps are counted.

        `auto`: sqrt(2 · stall · time between failures), where what a kill loses and what the saves cost together are
        the least (Young 1974; Daly 2006); a kill may take no more than LOST, nor saving more than half of the time.
        """
        if self.config.every != "auto":
            return self.config.seconds or math.inf
        pays = math.sqrt(2 * statistics.median(self._stalls) * self._between_failures) if self._stalls else LOST
        return max(min(pays, LOST - self._durable), 2 * self._durable)

    def due(self) -> bool:
        return time.monotonic() - self._began >= self.interval

    def began(self) -> None:
        """A checkpoint has been copied."""
        self._began = time.monotonic()

    def saved(self, stall: float, durable: float) -> None:
        self._stalls.append(stall)
        self._durable = durable
