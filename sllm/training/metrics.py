"""What is measured: `metrics.jsonl`, which is the truth. (`sllm.training.wandb_mirror` shows it at W&B.)

Records carry `kind` and `step`: start (of an attempt, once its checkpoint is loaded), train, validation, checkpoint.
When a run resumes from step s, records after s are cut off: those steps will be taken, and written, again. A figure
that is not finite is null; a step whose gradient overflowed under fp16, so that it changed nothing, has `overflow`.
"""

import errno
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch

from sllm.config import ModelConfig
from sllm.device import peak_flops
from sllm.files import atomic_file, fsync_directory, require_ownership
from sllm.model.size import flops_per_token
from sllm.records import json_line, lines_up_to

log = logging.getLogger(__name__)

REMIND_SECONDS = 300.0


class Metrics:
    """Appends records to metrics.jsonl. Only rank 0 has one.

    A line that the disk has no room for is kept, and training waits (see `Training.asked_to_stop`) until `flush` has
    written it: a step is neither lost nor, after half a line, written twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble = ""  # why what is kept could not be written
        self._kept = b""
        self._end = 0  # of the last whole line, where half of another may follow it
        self._blocked_at = self._reminded_at = 0.0

    def write(self, kind: str, step: int, **figures: Any) -> None:
        self._kept += json_line({"kind": kind, "step": step, **figures, "time": round(time.time(), 3)})
        self.flush()

    def flush(self) -> None:
        """Write what is kept. Raises OSError for anything but a disk that is full or over its quota."""
        require_ownership()
        try:
            with self.path.open("ab", buffering=0) as file:
                if self.trouble:
                    file.truncate(min(self._end, file.seek(0, os.SEEK_END)))
                self._end = file.seek(0, os.SEEK_END)
                left = memoryview(self._kept)
                while left:
                    left = left[file.write(left) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._blocked(error)
            return
        self._kept = b""
        if self.trouble:
            log.warning("%s: written again after %.0f s; training goes on", self.path, time.time() - self._blocked_at)
            self.trouble = ""

    def _blocked(self, error: OSError) -> None:
        now = time.time()
        if not self.trouble:
            self._blocked_at = self._reminded_at = now
        elif now - self._reminded_at < REMIND_SECONDS:
            return
        self._reminded_at = now
        self.trouble = os.strerror(error.errno or 0)
        log.error("%s: %s; training waits and tries again: make room there", self.path, self.trouble)

    def sync(self) -> None:
        """Make what was written survive a crash of the node. Raises OSError."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        fsync_directory(self.path.parent)  # which may not know its name yet


def cut_back(path: Path, step: int) -> list[dict[str, Any]]:
    """Remove from metrics.jsonl what lies after `step` (and a torn last line); return what validations remain."""
    if not path.exists():
        return []
    size, validations = 0, []
    for line, record in lines_up_to(path, step):
        size += len(line)
        if record.get("kind") == "validation":
            validations.append(record)
    if size != path.stat().st_size:
        with atomic_file(path) as file:
            file.writelines(line for line, _ in lines_up_to(path, step))
    return validations


def mfu(tokens_per_second: float, config: ModelConfig, vocab_size: int, device: torch.device) -> float | None:
    """Model FLOPs utilisation: the share of the device's dense bf16 peak; None where the peak is not known."""
    peak = peak_flops(device)
    return tokens_per_second * flops_per_token(config, vocab_size) / peak if peak else None
