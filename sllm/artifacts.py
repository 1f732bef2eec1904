"""Which content a stage's result depends on, and where the results that runs share are kept.

A stage's key is the part of the experiment that it reads, plus the fingerprints of the stages before it. Equal key,
equal result: this is what makes a second submit do nothing, and a changed setting redo exactly what it touches.
"""

from pathlib import Path
from typing import Any

from sllm.config import AihubSource, Experiment, FilesSource, Source
from sllm.data.sources import local_files
from sllm.files import fingerprint

# Raise a stage's number when its output for equal input changes.
VERSIONS = {"download": 2, "tokenizer": 2, "pack": 1, "pretrain": 1, "validate": 1, "benchmark": 1}

# Settings of a source that change how it is weighed or described, but not its documents.
DESCRIPTIVE = ("weight", "optional", "licence", "text_megabytes")

# Settings of `train` that change how a run is watched, stored or computed, but not what it learns.
OPERATIONAL = {"checkpoint", "compile", "activation_checkpointing"}


def stage_keys(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """For each stage a JSON value that names all it depends on. Fingerprint it with `sllm.files.fingerprint`.

    Raises:
        UserError: the files of a source that is not optional are not there.
    """
    e = experiment.to_dict()
    weights = {source["name"]: source["weight"] for source in e["data"]["sources"]}
    for source in e["data"]["sources"]:
        for name in DESCRIPTIVE:
            source.pop(name, None)
    # A file counts as the same while its name, size and modification time are: reading 50 GB on a login node to
    # learn that nothing changed would be no kindness.
    inputs = {
        source.name: [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in local_files(source)]
        for source in experiment.data.sources
        if isinstance(source, FilesSource | AihubSource) and not is_left_out(source)
    }
    keys: dict[str, dict[str, Any]] = {}

    def add(stage: str, needs: list[str], **content: Any) -> None:
        parents = {parent: fingerprint(keys[parent]) for parent in needs}
        keys[stage] = {"version": VERSIONS[stage], **content, "needs": parents}

    training = {name: value for name, value in e["train"].items() if name not in OPERATIONAL}
    add("download", [], data=e["data"], seed=e["seed"], files=inputs)
    add("tokenizer", ["download"], tokenizer=e["tokenizer"], seed=e["seed"])
    add("pack", ["download", "tokenizer"])
    add(
        "pretrain",
        ["pack"],
        model=e["model"],
        train=training,
        seed=e["seed"],
        weights=weights,
        validate={name: e["validate"][name] for name in ("every", "tokens")},
    )
    add("validate", ["pretrain"], validate=e["validate"])
    add("benchmark", ["pretrain"], benchmark=e["benchmark"])
    return keys


def is_left_out(source: Source) -> bool:
    """Whether a source is optional and its files are not there."""
    return isinstance(source, AihubSource) and source.optional and not any(Path(source.folder).rglob("*.json"))


class Artifacts:
    """The directories, under `data_directory`, of the results that runs with equal keys share."""

    def __init__(self, experiment: Experiment, keys: dict[str, dict[str, Any]] | None = None) -> None:
        self.keys = keys = keys if keys is not None else stage_keys(experiment)
        root = Path(experiment.data_directory)
        self.corpus = root / "corpora" / fingerprint(keys["download"])
        self.tokenizer = root / "tokenizers" / fingerprint(keys["tokenizer"])
        self.packed = root / "packed" / fingerprint(keys["pack"])


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """`train.learning_rate 0.001 → 0.002` for each value that differs between two keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            found += differences(old.get(name), new.get(name), f"{at}.{name}" if at else name)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for i, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{at}.{i}")]
    return [] if old == new else [f"{at} {old} → {new}"]
