"""Checkpoints are written while the training goes on: each rank copies its share (`sllm.training.snapshot`), which is
all that a step waits for, and a thread writes it. Rank 0 commits when all shares are on the disk.

Threads never speak to other ranks. At the boundaries of steps the ranks agree on whether all threads have done their
part, and all that follows is done by all of them at the same boundary (`advance`).
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from sllm.distributed import World
from sllm.files import require_ownership, temporary_name
from sllm.model.shared import LanguageModel
from sllm.training.checkpoint import Checkpoints
from sllm.training.snapshot import Snapshot

log = logging.getLogger(__name__)


class _CancelledError(OSError):
    """A newer checkpoint takes the place of the one that is being written."""


@dataclass
class Saving:
    """A checkpoint that is not there yet."""

    step: int
    model: LanguageModel
    state: dict[str, Any]
    began: float
    """When it was copied."""
    stall: float = 0.0
    """Seconds that the training stood still for it."""
    seconds: float = 0.0
    """From the copy until it was durable, on rank 0."""
    committing: bool = False


class Saver:
    """Writes one checkpoint at a time. All ranks have one, and call the same methods at the same boundaries of steps.

    `sync` makes durable what else a resume from a checkpoint needs, on rank 0; `saved` hears of each that is committed.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        world: World,
        sync: Callable[[], None] = lambda: None,
        saved: Callable[[Saving], None] = lambda saving: None,
    ) -> None:
        self.checkpoints, self.world, self._sync, self._saved = checkpoints, world, sync, saved
        self.saving: Saving | None = None
        self._thread: threading.Thread | None = None
        self._result: list[dict[str, Any]] | BaseException = []
        self._cancelled = threading.Event()
        self._template, writers = self._meet()
        number = writers.index(world.rank) if world.rank in writers else None
        self.snapshot = None if number is None else Snapshot(number, len(writers))

    def _meet(self) -> tuple[str, list[int]]:
        """Where checkpoints are written before they are committed, as rank 0 names it, and which ranks see it: where
        the run is on a disk of rank 0's node alone, those of other nodes write nothing."""

        def make() -> str:
            place = temporary_name(self.checkpoints.directory.absolute() / "STEP")
            require_ownership()
            place.mkdir(exist_ok=True)
            return str(place)

        place = self.world.from_main(make)
        seen = self.world.gather(Path(place).is_dir())
        if self.world.main:
            Path(place).rmdir()
        return place, [rank for rank, sees in enumerate(seen) if sees or rank == 0]

    def _place(self, step: int) -> Path:
        return Path(self._template.replace(".STEP.", f".{self.checkpoints.path(step).name}."))

    # --- at the boundary of a step ----------------------------------------------------------------

    def start(
        self, step: int, model: LanguageModel, optimizers: list[Optimizer], state: dict[str, Any], began: float
    ) -> None:
        """Copy, and begin to write; one that is being written comes first. The training stands still since `began`, of
        `time.perf_counter`."""
        if self.saving:
            log.info("step %d: waits for the checkpoint of step %d", step, self.saving.step)
            self.finish()
        self.saving = Saving(step, model, state, time.perf_counter())
        self._cancelled.clear()
        self._result = []
        if self.snapshot:
            self.snapshot.take(model, optimizers)
            self._begin(self._write)
        self.saving.stall = time.perf_counter() - began

    @property
    def ready(self) -> bool:
        """Whether nothing is left for this rank's thread to do."""
        return self._thread is None or not self._thread.is_alive()

    def advance(self) -> None:
        """All ranks are `ready`: commit what they have written, or tell what became of it."""
        saving = self.saving
        if saving is None:
            return
        if isinstance(self._result, BaseException) and not isinstance(self._result, OSError):
            raise self._result
        if not saving.committing:
            results = self.world.gather(self._result if isinstance(self._result, list) else self._result_told())
            trouble = next((result for result in results if isinstance(result, str)), None)
            if trouble is None:
                saving.committing, self._result = True, []
                if self.world.main:
                    written = [entry for result in results for entry in result]
                    self._begin(lambda: self._commit(written))
                return
        else:
            trouble = None if isinstance(self._result, list) else self._result_told()
        self.saving = None
        if self.world.main:
            if trouble is None:
                self._saved(saving)
            else:
                shutil.rmtree(self._place(saving.step), ignore_errors=True)
                log.error("checkpoint of step %d not saved: %s; the one before stays the newest", saving.step, trouble)

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is committed, or has failed."""
        while self.saving:
            if self._thread:
                self._thread.join()
            self.advance()

    def cancel(self) -> None:
        """Give up a checkpoint that is still being written."""
        self._cancelled.set()
        self.finish()

    def close(self) -> None:
        """This rank alone, after whatever ended the training: leave nothing behind that writes."""
        self._cancelled.set()
        if self._thread:
            self._thread.join()
        if self.saving and self.world.main:
            shutil.rmtree(self._place(self.saving.step), ignore_errors=True)

    # --- in the thread ----------------------------------------------------------------------------

    def _begin(self, work: Callable[[], list[dict[str, Any]]]) -> None:
        def run() -> None:
            try:
                self._result = work()
            except BaseException as error:  # which the main thread raises, or tells, at the next boundary
                self._result = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def _write(self) -> list[dict[str, Any]]:
        assert self.saving
        assert self.snapshot
        require_ownership()
        place = self._place(self.saving.step)
        place.mkdir(exist_ok=True)
        return self.snapshot.write(place, self._check)

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise _CancelledError("that of a later step takes its place")

    def _commit(self, written: list[dict[str, Any]]) -> list[dict[str, Any]]:
        saving = self.saving
        assert saving
        self._sync()  # a resume from this step must find the steps before it
        self.checkpoints.commit(saving.step, self._place(saving.step), saving.model, saving.state, written)
        saving.seconds = time.perf_counter() - saving.began
        self.checkpoints.prune(saving.step)
        return []

    def _result_told(self) -> str:
        return str(self._result)
