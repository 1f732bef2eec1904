"""What a training starts from, `train.init_from`: the weights of a model, or a step of another run.

The key of the training holds their content. A submit copies them into the run, as its first checkpoint
(`jobs.launch.start`); from then on what they were copied from may change or vanish. Needs no torch.
"""

import contextlib
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from sllm.config import Experiment, ModelConfig, load_experiment, validate
from sllm.errors import UserError
from sllm.files import CorruptError, fingerprint, read_object, to_json, write_json
from sllm.manifests import atomic_directory, read_manifest
from sllm.run_directory import RunDirectory, checkpoint_path, checkpoint_steps
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import require_template

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"

TOKENIZERS = "tokenizers"
"""The folder below data_directory."""

WITHOUT_WEIGHTS = {"dropout", "context_length"}
"""Settings of a model that its weights do not depend on."""

Content = dict[str, str]
"""`weights` and `tokenizer`: fingerprints of what a training starts from, as its key holds them."""


class Origin(NamedTuple):
    """What `train.init_from` names, as it is on disk."""

    directory: Path
    """A model, or a checkpoint."""
    step: int
    """0 for a model, which may be a checkpoint, too: then its weights alone are meant."""
    about: dict[str, Any]
    """The config.json in it."""
    content: Content | None
    """None if it is a step of a run that itself began with random weights."""
    trajectory: dict[str, Any] | None
    """The key of the run that is branched; None for a model."""


def read_origin(told: str) -> Origin:
    """Raises UserError if there is none, or it is damaged; what is in the larger files is not looked at."""
    try:
        name, at, step = told.rpartition("@")
        if at and re.fullmatch("[0-9]+", step):
            return _read_step(RunDirectory(Path(name)), int(step))
        return _read_model(_find_model(Path(told)))
    except CorruptError as error:
        raise UserError(f"train.init_from: {told}: damaged: {error}") from None
    except OSError as error:  # a name that is too long, a folder that is closed to us
        raise UserError(f"train.init_from: {told}: {error.strerror}") from None


def _read_step(run: RunDirectory, step: int) -> Origin:
    steps = [step for step in checkpoint_steps(run.checkpoints) if step]
    if step not in steps:
        there = f"there are those of {', '.join(map(str, steps))}" if steps else "there is none"
        raise UserError(f"train.init_from: {run.path}: no checkpoint of step {step}; {there}")
    directory = checkpoint_path(run.checkpoints, step)
    trajectory = read_object(directory / "state.json", "trajectory")["trajectory"]
    about = read_object(directory / CONFIG, "model", "vocab_size")
    return Origin(directory, step, about, trajectory["train"].get("init_from"), trajectory)


def _find_model(path: Path) -> Path:
    directory = path.parent if path.is_file() else path
    run = RunDirectory(directory)
    if (directory / CONFIG).is_file():
        return directory
    if run.config.is_file() and (run.best / CONFIG).is_file():
        return run.best
    if run.config.is_file():
        steps = checkpoint_steps(run.checkpoints)
        way_out = f"; until then: {checkpoint_path(run.checkpoints, steps[-1])}" if steps else ""
        raise UserError(f"train.init_from: {path}: no best model yet, which its first validation writes{way_out}")
    there = [best.parent.name for best in sorted(path.parent.glob("*/best")) if (best / CONFIG).is_file()]
    runs = f"runs with a model there: {', '.join(there)}" if there else "a run by its name, or a folder as ./NAME"
    raise UserError(f"train.init_from: {path}: no model here; {runs}")


def _read_model(directory: Path) -> Origin:
    about = read_object(directory / CONFIG)
    if not about.keys() >= {"model", "vocab_size"}:
        raise UserError(f"train.init_from: {directory}: not a model of sllm; of an export give what it was made from")
    checksums = {entry["name"]: entry["sha256"] for entry in read_manifest(directory)["files"]}
    if WEIGHTS not in checksums:
        raise CorruptError(f"{directory} has no {WEIGHTS}")
    tokenizer = Tokenizer.load(tokenizer_of(directory)).fingerprint
    return Origin(directory, 0, about, {"weights": checksums[WEIGHTS][:16], "tokenizer": tokenizer[:16]}, None)


def is_theirs(directory: Path) -> bool:
    """Whether what is in a directory is a model of Transformers (an export, say) by its config.json."""
    try:
        about = read_object(directory / CONFIG, "model_type")
    except (OSError, CorruptError):
        return False
    return not about.keys() >= {"model", "vocab_size"} or not isinstance(about["model"], dict)


def is_tuned(model_path: Path) -> bool:
    """Whether a model of ours, in a directory or beside a model.safetensors, has learnt conversations: so says its
    config.json."""
    try:
        return read_object((model_path.parent if model_path.is_file() else model_path) / CONFIG).get("tuned") is True
    except (OSError, CorruptError):
        return False


def tokenizer_of(directory: Path) -> Path:
    """The tokenizer of a model: beside it or, since a checkpoint has none, that of its run."""
    run = RunDirectory.above(directory)
    if (directory / TOKENIZER).is_file() or run is None:
        return directory / TOKENIZER
    if (run.best / TOKENIZER).is_file():
        return run.best / TOKENIZER
    try:
        key = read_object(run.path / "keys.json", "tokenizer")["tokenizer"]
    except (FileNotFoundError, CorruptError):
        return directory / TOKENIZER
    return Path(load_experiment(run.config).data_directory) / TOKENIZERS / fingerprint(key) / TOKENIZER


# --- what the keys hold ---------------------------------------------------------------------------


def starting_content(experiment: Experiment) -> Content | None:
    """What the keys of tokenizer and training hold of what the training starts from, as it is now, or, if it has
    vanished since, as it was when the run took its copy. None if it starts from random weights, like the run that it
    branches.

    Raises:
        UserError: there is nothing of that name, or no model of this experiment's; one problem a line.
    """
    told = experiment.train.init_from
    if told is None:
        return None
    try:
        origin = read_origin(told)
    except UserError:
        if told in (known := _known(experiment)):
            return known[told]
        raise
    problems = _misfits(experiment, origin)
    if experiment.finetune:
        try:
            require_template(Tokenizer.load(tokenizer_of(origin.directory)))
        except UserError as error:
            problems.append(f"finetune: {told}: {error}")
    if problems:
        raise UserError("\n".join(problems))
    return origin.content


def remember(experiment: Experiment, content: Content | None) -> None:
    """For when `train.init_from` has vanished."""
    told = experiment.train.init_from
    known = _known(experiment)
    if told is not None and (told not in known or known[told] != content):
        write_json(RunDirectory(experiment.run_path).origins, {**known, told: content})


def _known(experiment: Experiment) -> dict[str, Content | None]:
    try:
        return read_object(RunDirectory(experiment.run_path).origins)
    except (OSError, CorruptError):
        return {}


def _misfits(experiment: Experiment, origin: Origin) -> list[str]:
    """Settings of the model and of the vocabulary that would need other weights."""
    theirs = validate(ModelConfig, origin.about["model"], str(origin.directory / CONFIG)).model_dump(mode="json")
    pairs = {
        f"model.{name}": (value, theirs[name])
        for name, value in experiment.model.model_dump(mode="json").items()
        if name not in WITHOUT_WEIGHTS
    }
    pairs["tokenizer.vocab_size"] = (experiment.tokenizer.vocab_size, origin.about["vocab_size"])
    return [
        f"{name}: {to_json(ours)}, but the model of train.init_from has {to_json(other)}; set {name}={to_json(other)}"
        for name, (ours, other) in pairs.items()
        if ours != other
    ]


# --- its tokenizer --------------------------------------------------------------------------------


def take_tokenizer(experiment: Experiment, content: Content, output: Path) -> dict[str, Any]:
    """The tokenizer stage of a training that starts from a model: that model's tokenizer, in `output`. One that is
    there is left as it is. Returns a summary.

    Raises:
        UserError: the model has vanished, or has another tokenizer by now.
    """
    try:
        read_manifest(output)
        return read_object(output / "report.json", "summary")["summary"]
    except CorruptError:
        pass
    assert experiment.train.init_from is not None
    found: list[Path] = [RunDirectory(experiment.run_path).best / TOKENIZER]
    with contextlib.suppress(UserError):
        found.append(tokenizer_of(read_origin(experiment.train.init_from).directory))
    for path in found:
        with contextlib.suppress(UserError):
            tokenizer = Tokenizer.load(path)
            if tokenizer.fingerprint[:16] == content["tokenizer"]:
                summary = {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint, "from": str(path)}
                with atomic_directory(output, kind="tokenizer", fingerprint=tokenizer.fingerprint) as directory:
                    shutil.copyfile(path, directory / TOKENIZER)
                    write_json(directory / "report.json", {"summary": summary})
                return summary
    raise UserError(
        f"train.init_from: {experiment.train.init_from}: its tokenizer is not there any more, nor in {output}"
    )
