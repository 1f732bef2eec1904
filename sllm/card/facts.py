"""What the files of a run say of a model, for its card. Whatever is missing, damaged or of an older version is left
out: a card says what there is."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sllm.artifacts import Artifacts
from sllm.card.licences import kinds
from sllm.config import EmbeddedSource, Experiment, HubSource, ModelConfig, load_experiment, validate
from sllm.errors import UserError
from sllm.files import CorruptError, read_object
from sllm.manifests import MANIFEST
from sllm.model.size import parameter_count
from sllm.origin import CONFIG
from sllm.run_directory import RunDirectory


@dataclass(frozen=True)
class Corpus:
    """A source, as far as it is known what the model has seen of it."""

    name: str
    language: str
    dataset: str | None
    """Its id on the hub."""
    revision: str | None
    licence: str | None
    kinds: list[str]
    """Of its licence: see `sllm.card.licences`."""
    documents: int | None
    bytes: int | None
    tokens: int | None


@dataclass
class Facts:
    """All that a card can tell."""

    name: str
    model: ModelConfig
    vocab_size: int
    parameters: int
    step: int | None = None
    loss: float | None = None
    """Of the validation that chose the model."""
    experiment: Experiment | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    """`overall`, `languages`: figures of this very step."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    corpora: list[Corpus] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    """sllm, commit, dirty."""

    @property
    def tokens_seen(self) -> int | None:
        if self.experiment is None or self.step is None:
            return None
        return self.step * self.experiment.train.global_batch * self.model.context_length


def read_facts(
    directory: Path, about: dict[str, Any] | None = None, measured: dict[str, Any] | None = None, **known: Any
) -> Facts:
    """Those of the model in `directory`, or that is to be there: `about` is its config.json, `measured` its validation,
    `known` its step and loss.

    Raises:
        UserError, CorruptError, OSError: the model's own description cannot be read.
    """
    about = about or read_object(directory / CONFIG, "model", "vocab_size")
    config = validate(ModelConfig, about["model"], str(directory / CONFIG))
    run = RunDirectory.above(directory)
    facts = Facts(
        run.path.name if run else directory.absolute().name,
        config,
        about["vocab_size"],
        parameter_count(config, about["vocab_size"])[0],
    )
    manifest = known or _object(directory / MANIFEST)
    step, loss = manifest.get("step", _object(directory / "state.json").get("step")), manifest.get("loss")
    facts.step = step if isinstance(step, int) else None
    facts.loss = float(loss) if isinstance(loss, int | float) else None
    if run is not None:
        _read_run(facts, run, measured)
    return facts


def _read_run(facts: Facts, run: RunDirectory, measured: dict[str, Any] | None) -> None:
    try:
        facts.experiment = load_experiment(run.config)
        facts.name = facts.experiment.name
    except (UserError, OSError):
        pass
    facts.measured = measured or _measured(run, facts.step)
    tasks = _of_step(_object(run.stage("benchmark") / "results.json"), facts.step).get("tasks")
    if isinstance(tasks, dict):
        found = _objects(tasks.get("measured"))
        facts.tasks = {name: task for name, task in found.items() if _finite(task.get("score"))}
        reasons = tasks.get("not_measured")
        facts.not_measured = {name: str(why) for name, why in reasons.items()} if isinstance(reasons, dict) else {}
    facts.corpora = _corpora(facts.experiment, run)
    try:
        lines = run.environment.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
        facts.environment = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    except OSError:
        pass


def _measured(run: RunDirectory, step: int | None) -> dict[str, Any]:
    """The figures of the validate stage, or else those of the validation in training after this step."""
    found = _of_step(_object(run.stage("validate") / "results.json"), step)
    if not isinstance(found.get("overall"), dict):
        found = _validation(run.metrics, step)
    return {
        "overall": _objects({"all": found.get("overall")}).get("all", {}),
        "languages": _objects(found.get("languages")),
    }


def _of_step(results: dict[str, Any], step: int | None) -> dict[str, Any]:
    """Results that were measured on the model of another step are none. Those of older versions name no step."""
    return results if results.get("step", step) == step else {}


def _validation(metrics: Path, step: int | None) -> dict[str, Any]:
    try:
        with metrics.open("rb") as file:
            for line in file:
                if b'"validation"' in line:  # of hundreds of thousands few are
                    try:
                        record = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(record, dict) and (record.get("kind"), record.get("step")) == ("validation", step):
                        return {"overall": record, "languages": record.get("languages")}
    except OSError:
        pass
    return {}


def _corpora(experiment: Experiment | None, run: RunDirectory) -> list[Corpus]:
    if experiment is None:
        return []
    try:
        artifacts = Artifacts.of_run(run)
        documents = _objects(_object(artifacts.corpus / MANIFEST).get("sources"))
        packed = _objects(_object(artifacts.packed / MANIFEST).get("sources"))
    except (UserError, OSError, KeyError, TypeError):
        documents = packed = {}
    found = []
    for source in experiment.data.sources:
        if documents and source.name not in documents:
            continue  # an optional one that could not be had
        entry = documents.get(source.name, {})
        hub = source if isinstance(source, HubSource) else None
        licence = getattr(source, "licence", None)
        found.append(
            Corpus(
                source.name,
                source.language,
                hub.dataset if hub else None,
                str(entry.get("revision", hub.revision)) if hub else None,
                licence,
                kinds(licence, own=isinstance(source, EmbeddedSource)),
                _number(entry.get("documents")),
                _number(entry.get("bytes")),
                _number(_objects(packed.get(source.name)).get("train", {}).get("tokens")),
            )
        )
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, CorruptError):
        return {}


def _objects(value: Any) -> dict[str, dict[str, Any]]:
    """Those of its values that are objects."""
    return {name: item for name, item in value.items() if isinstance(item, dict)} if isinstance(value, dict) else {}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None
