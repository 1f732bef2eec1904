"""Which content a stage's result depends on, and where the results that runs share are kept.

A stage's key is the part of the experiment that it reads, plus the fingerprints of the stages before it. Equal key,
equal result: this is what makes a second submit do nothing, and a changed setting redo exactly what it touches.
"""

from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from sllm.config import (
    AihubSource,
    Experiment,
    FilesSource,
    decay_start,
    load_experiment,
    names_of_finetune,
    phase_step,
)
from sllm.data.find import file_stamps, is_left_out
from sllm.errors import UserError
from sllm.files import CorruptError, fingerprint, read_object
from sllm.origin import TOKENIZERS, starting_content
from sllm.run_directory import RunDirectory
from sllm.tokenizer.template import USER, problem

# Raise a stage's number when its output for equal input changes.
VERSIONS = {"download": 4, "tokenizer": 4, "pack": 1, "pretrain": 2, "validate": 1, "benchmark": 1, "report": 1}
VERSIONS |= {"conversations": 1, "finetune": 1}

CORPORA, PACKED = "corpora", "packed"

# Settings of a source that change how it is weighed or described, but not its documents.
DESCRIPTIVE = ("weight", "optional", "licence", "text_megabytes")

# Settings of `train` that change how a run is watched, stored or computed, but not what it learns.
OPERATIONAL = {"checkpoint", "compile", "activation_checkpointing", "profile"}

# Settings of `train` that, under wsd, are not read before the decay.
OF_THE_END = ("max_steps", "decay", "min_learning_rate")


def stage_keys(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """For each stage a JSON value that names all it depends on. Fingerprint it with `sllm.files.fingerprint`.

    Those of `conversations` and `finetune` are there where the experiment has a section finetune.

    Raises:
        UserError: files that sources name are not there, or cannot be read, or so with what `train.init_from` names, or
            a question to the tuned model is none; one problem a line.
    """
    e, found, problems = experiment.to_dict(), list[Any](), list[str]()
    for read in (_text_and_training, _tuning, starting_content):
        try:
            found.append(read(experiment))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    text, tuning, origin = found
    keys: dict[str, dict[str, Any]] = {}

    def add(stage: str, needs: list[str], **content: Any) -> None:
        parents = {parent: fingerprint(keys[parent]) for parent in needs}
        keys[stage] = {"version": VERSIONS[stage], **content, "needs": parents}

    add("download", [], data=text.data, seed=e["seed"], files=text.files)
    if origin is None:
        add("tokenizer", ["download"], tokenizer=e["tokenizer"], seed=e["seed"])
    else:
        add("tokenizer", [], taken=origin["tokenizer"])
    add("pack", ["download", "tokenizer"])
    text.training["train"]["init_from"] = origin
    add("pretrain", ["pack"], model=e["model"], seed=e["seed"], **text.training)
    trained, asked = ["pretrain"], {}
    if tuning:
        length = e["model"]["context_length"]
        add("conversations", ["tokenizer"], data=tuning.data, seed=e["seed"], files=tuning.files, context_length=length)
        add("finetune", ["pretrain", "conversations"], seed=e["seed"], **tuning.training)
        trained, asked = ["pretrain", "finetune"], {"finetune": e["finetune"]["validate"]}
    add("validate", trained, validate=e["validate"], **asked)
    add("benchmark", trained, benchmark=e["benchmark"])
    add("report", ["validate", "benchmark"])
    return keys


class _Content(NamedTuple):
    """What keys hold of an experiment's data and training."""

    data: dict[str, Any]
    files: dict[str, Any]
    training: dict[str, Any]


def _text_and_training(experiment: Experiment) -> _Content:
    e, inputs, problems = experiment.to_dict(), {}, list[str]()
    weights = {source["name"]: source["weight"] for source in e["data"]["sources"]}
    for source in e["data"]["sources"]:
        for name in DESCRIPTIVE:
            source.pop(name, None)
    phases = e["data"].pop("phases")
    for source in experiment.data.sources:
        if isinstance(source, FilesSource | AihubSource) and not is_left_out(source):
            try:
                inputs[source.name] = file_stamps(source)
                problems += _own_results(source, inputs[source.name], Path(experiment.data_directory))
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    training = {
        "train": {name: value for name, value in e["train"].items() if name not in OPERATIONAL},
        "weights": weights,
        "phases": phases,
        "validate": {name: e["validate"][name] for name in ("every", "tokens")},
    }
    return _Content(e["data"], inputs, training)


@names_of_finetune()
def _tuning(experiment: Experiment) -> _Content | None:
    """The same of a fine-tuning, if there is one. A question that cannot be asked would end it at its first
    validation."""
    if experiment.finetune is None:
        return None
    problems = [
        f"validate.prompts.{number}: {question!r}: {wrong}; ask something else"
        for number, question in enumerate(experiment.finetune.validate_.prompts)
        if (wrong := problem([{"role": USER, "content": question}], ends_with=USER))
    ]
    try:
        content = _text_and_training(experiment.tuning())
    except UserError as error:
        problems.insert(0, str(error))
    if problems:
        raise UserError("\n".join(problems))
    return content


def steps_before_the_end(key: dict[str, Any]) -> int:
    """How many steps of the training with this key of pretrain do not depend on how long it is: under wsd those before
    the decay and before the first phase of the data, under cosine none."""
    return min([_constant_steps(key), *(step for step, _ in _phases(key))])


def _constant_steps(key: dict[str, Any]) -> int:
    train = key["train"]
    return decay_start(train["max_steps"], train["decay"]) if train.get("decay") else 0


def _phases(key: dict[str, Any]) -> list[tuple[int, dict[str, float]]]:
    """The last step before each phase of the data, and its weights."""
    return [(phase_step(phase["from"], key["train"]["max_steps"]), phase["weights"]) for phase in key.get("phases", [])]


def shared_steps(old: dict[str, Any], new: dict[str, Any]) -> int:
    """Up to which step two keys of pretrain stand for the same training, bit for bit: 0 if they differ in anything that
    is read before the end."""
    if not differ_in_their_end(old, new):
        return int(new["train"]["max_steps"]) if old == new else 0
    pairs = zip_longest(_phases(old), _phases(new))
    parts = next(([phase[0] for phase in pair if phase] for pair in pairs if pair[0] != pair[1]), [])
    rates = [] if old["train"] == new["train"] else map(_constant_steps, (old, new))
    return min([*parts, *rates])


def differ_in_their_end(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two keys of pretrain differ in nothing but in how long the training is, how its rate falls, and in the
    phases of the data."""
    begins = [
        {**key, "phases": [], "train": {name: value for name, value in key["train"].items() if name not in OF_THE_END}}
        for key in (old, new)
    ]
    return old != new and begins[0] == begins[1]


def _own_results(source: FilesSource | AihubSource, stamps: list[list[Any]], root: Path) -> list[str]:
    """What to tell of a source that reads what we wrote: with every download there would be more of it."""
    for results in (root / name for name in (CORPORA, TOKENIZERS, PACKED)):
        if own := next((name for name, *_ in stamps if Path(name).is_relative_to(results)), None):
            return [f"data.sources: {source.name}: {own} is a result of this program; leave {results} out of the paths"]
    return []


def changed_files(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between the files of two keys of the download: `PATH is gone`, `is new`, `has changed`."""
    before, now = ({name: stamp for stamps in key["files"].values() for name, *stamp in stamps} for key in (old, new))
    gone = [f"{name} is gone" for name in before if name not in now]
    fresh = [f"{name} is new" for name in now if name not in before]
    return [*gone, *(f"{name} has changed" for name in before if before[name] != now.get(name, before[name])), *fresh]


class Artifacts:
    """The directories, under `data_directory`, of the results that runs with equal keys share."""

    def __init__(self, experiment: Experiment, keys: dict[str, dict[str, Any]] | None = None) -> None:
        self.keys = keys = keys if keys is not None else stage_keys(experiment)
        root = Path(experiment.data_directory)
        self.corpus = root / CORPORA / fingerprint(keys["download"])
        self.tokenizer = root / TOKENIZERS / fingerprint(keys["tokenizer"])
        self.packed = root / PACKED / fingerprint(keys["pack"])
        self.tasks = root / "tasks"
        if "conversations" in keys:
            self.conversations = root / PACKED / fingerprint(keys["conversations"])
            # Cleaned and not yet tokenized.
            cleaned = {name: value for name, value in keys["conversations"].items() if name != "context_length"}
            self.conversations_corpus = root / CORPORA / fingerprint({**cleaned, "needs": {}})

    @classmethod
    def of_run(cls, run: RunDirectory) -> "Artifacts":
        """Those that the run was submitted with, whose keys an earlier version may have made. Raises UserError if its
        experiment cannot be read."""
        try:
            keys = read_object(run.path / "keys.json", "download", "tokenizer", "pack")
        except (OSError, CorruptError):
            keys = None
        return cls(load_experiment(run.config), keys)


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """`train.learning_rate 0.001 → 0.002` for each value that differs between two keys; a section that only one of them
    has `is new` or `is gone`."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            found += differences(old.get(name), new.get(name), f"{at}.{name}" if at else name)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for i, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{at}.{i}")]
    if old is None and isinstance(new, dict):
        return [f"{at} is new"]
    if new is None and isinstance(old, dict):
        return [f"{at} is gone"]
    return [] if old == new else [f"{at} {'not set' if old is None else old} → {'not set' if new is None else new}"]
