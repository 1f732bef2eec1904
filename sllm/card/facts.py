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
    tuned: bool = False
    """Whether it has learnt conversations; then `experiment` is that of its fine-tuning."""
    conversations: list[Corpus] = field(default_factory=list)
    """That it has learnt; `corpora` are those of the model before."""
    answers: dict[str, Any] = field(default_factory=dict)
    """As `measured`, of what an assistant says in conversations."""
    base: "Facts | None" = None
    """Of the model before, as far as it was measured beside this one: `measured`, `answers`, `tasks`."""

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
    facts.tuned = about.get("tuned") is True
    manifest = known or _object(directory / MANIFEST)
    step, loss = manifest.get("step", _object(directory / "state.json").get("step")), manifest.get("loss")
    facts.step = step if isinstance(step, int) else None
    facts.loss = float(loss) if isinstance(loss, int | float) else None
    if run is not None:
        _read_run(facts, run, measured)
    return facts


def _read_run(facts: Facts, run: RunDirectory, measured: dict[str, Any] | None) -> None:
    experiment = None
    try:
        experiment = load_experiment(run.config)
        facts.name = experiment.name
    except (UserError, OSError):
        pass
    validated, benchmarked = (_object(run.stage(stage) / "results.json") for stage in ("validate", "benchmark"))
    facts.corpora = _corpora(experiment, run)
    if facts.tuned:
        if experiment is not None and experiment.finetune is not None:
            experiment = experiment.tuning()
            facts.conversations = _corpora(experiment, run, conversations=True)
        else:
            experiment = None  # its settings are not there any more
        tuned = _of_step(_objects(validated).get("tuned", {}), facts.step)
        facts.measured = _figures(tuned)
        # Those of the stage first: beside them stand the base model's, of the same conversations.
        answers = _figures(_objects(tuned).get("conversations", {}))
        if not answers["overall"]:
            answers = measured or _figures(_validation(run.training("finetune").metrics, facts.step))
        facts.answers = answers
        tasks = _of_step(_objects(benchmarked).get("tuned", {}), facts.step)
        if tuned or tasks:
            facts.base = Facts("", facts.model, facts.vocab_size, facts.parameters)
            facts.base.measured = _figures(validated) if tuned else {}
            facts.base.answers = _figures(_objects(validated).get("conversations", {})) if tuned else {}
            _read_tasks(facts.base, benchmarked if tasks else {})
        _read_tasks(facts, tasks)
    else:
        found = _of_step(validated, facts.step)
        if not isinstance(found.get("overall"), dict):  # else those of the validation in training after this step
            found = _validation(run.metrics, facts.step)
        facts.measured = measured or _figures(found)
        _read_tasks(facts, _of_step(benchmarked, facts.step))
    facts.experiment = experiment
    try:
        lines = run.environment.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
        facts.environment = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    except OSError:
        pass


def _read_tasks(facts: Facts, results: dict[str, Any]) -> None:
    """Those of the benchmark stage."""
    tasks = results.get("tasks")
    if isinstance(tasks, dict):
        found = _objects(tasks.get("measured"))
        facts.tasks = {name: task for name, task in found.items() if _finite(task.get("score"))}
        reasons = tasks.get("not_measured")
        facts.not_measured = {name: str(why) for name, why in reasons.items()} if isinstance(reasons, dict) else {}


def _figures(found: dict[str, Any]) -> dict[str, Any]:
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


def _corpora(experiment: Experiment | None, run: RunDirectory, *, conversations: bool = False) -> list[Corpus]:
    if experiment is None:
        return []
    try:
        artifacts = Artifacts.of_run(run)
        places = artifacts.corpus, artifacts.packed
        if conversations:
            places = artifacts.conversations_corpus, artifacts.conversations
        documents, packed = (_objects(_object(place / MANIFEST).get("sources")) for place in places)
    except (UserError, OSError, KeyError, TypeError, AttributeError):
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
