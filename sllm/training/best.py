"""The best model of a run by validation loss, in a directory of its own, ready for `sllm generate`."""

import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sllm.card.facts import read_facts
from sllm.card.text import card
from sllm.files import CorruptError
from sllm.manifests import read_manifest
from sllm.model.shared import LanguageModel
from sllm.model.storage import description, save_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Best:
    """What the manifest of the best model says of it."""

    step: int
    loss: float
    trajectory: str
    """Fingerprint of the settings that it was trained under."""


class BestModel:
    """The directory of the best model. Only rank 0 looks and writes; `known` is what is on disk, on every rank."""

    def __init__(self, directory: Path, tokenizer: Path, trajectory: str, *, tuned: bool = False) -> None:
        self.directory, self.tokenizer, self.trajectory, self.tuned = directory, tokenizer, trajectory, tuned
        self.known: Best | None = None

    def keep(
        self,
        step: int,
        loss: float | None,
        model: LanguageModel,
        checkpoint: Path,
        measured: dict[str, Any] | None = None,
    ) -> Best | None:
        """Write the model if it is better than the best one on disk, as a link to the weights of its checkpoint where
        there is one. Its card tells what was `measured`. Returns which one is there then."""
        # One that this attempt has not seen whole, at its start or by writing it, may have the sizes and not the bytes.
        former = self.on_disk(checksums=self.known is None)
        if self.known and former is None:
            log.warning("%s is gone or damaged: the model of step %d takes its place", self.directory, step)
        if loss is None or (former is not None and loss >= former.loss):
            return former
        about = Best(step, loss, self.trajectory)
        try:
            text = self._card(about, model, measured)
            save_model(self.directory, model, self.tokenizer, checkpoint, text, tuned=self.tuned, **asdict(about))
        except OSError as error:
            log.error("best model of step %d not saved: %s; the former one, if any, stays", step, error)
        return self.on_disk()

    def _card(self, about: Best, model: LanguageModel, measured: dict[str, Any] | None) -> str | None:
        try:
            facts = read_facts(
                self.directory, description(model, tuned=self.tuned), measured, step=about.step, loss=about.loss
            )
            return card(facts)
        except Exception:  # of whatever stands in the run's files: no card is worth a training
            log.exception("no card for the best model of step %d", about.step)
            return None

    def on_disk(self, *, checksums: bool = False) -> Best | None:
        """The best model so far, as its manifest tells: what could not be written, or was deleted, does not count."""
        try:
            manifest = read_manifest(self.directory, checksums=checksums)
            best = Best(**{field.name: manifest[field.name] for field in fields(Best)})
        except (CorruptError, KeyError) as error:
            if self.directory.exists():
                log.warning("the best model is passed over: %s", error)
            return None
        return best if best.trajectory == self.trajectory else None
