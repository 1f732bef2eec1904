"""What a result depends on: a setting that changes it changes the key of its stage, and of those after it; one that
does not leaves every key as it is."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import ValidationError

from jobs.pipeline import STAGES
from sllm import artifacts
from sllm.artifacts import stage_keys
from sllm.config import Experiment, Section
from sllm.files import fingerprint

NOBODY: set[str] = set()
READ_BY = {
    "name": NOBODY,
    "runs_directory": NOBODY,
    "data_directory": NOBODY,
    "wandb": NOBODY,
    "seed": {"download", "pretrain"},
    "data": {"download"},
    "data.sources.optional": NOBODY,
    "data.sources.licence": NOBODY,
    "data.sources.text_megabytes": NOBODY,
    "data.sources.weight": {"pretrain"},
    "tokenizer": {"tokenizer"},
    "model": {"pretrain"},
    "train": {"pretrain"},
    "train.compile": NOBODY,
    "train.activation_checkpointing": NOBODY,
    "train.checkpoint": NOBODY,
    "validate": {"validate"},
    "validate.every": {"pretrain"},  # which model is the best depends on when, and on what, the training validates
    "validate.tokens": {"pretrain"},
    "benchmark": {"benchmark"},
}
"""The stages whose result depends on a setting, or on all of a section that are not named; the stages after them do,
too."""


def known_as(setting: str) -> str:
    """The entry of READ_BY for a setting: its own, or that of a section it is in."""
    name = setting
    while name not in READ_BY:
        name, dot, _ = name.rpartition(".")
        assert dot, f"{setting} is new: which stages read it?"
    return name


def with_those_after(stages: set[str]) -> set[str]:
    found = set(stages)
    for stage in STAGES.values():
        found |= {stage.name} if found & set(stage.needs) else set()
    return found


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """An experiment, every setting of it written out, with a source of each kind."""
    (tmp_path / "mine.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "one.json").write_text("{}", encoding="utf-8")
    sources = [
        {"kind": "embedded", "name": "made-up", "language": "ko"},
        {"kind": "files", "name": "files", "language": "en", "paths": [str(tmp_path / "mine.jsonl")]},
        {"kind": "hub", "name": "web", "language": "ko", "dataset": "some/web"},
        {"kind": "aihub", "name": "talks", "folder": str(tmp_path / "talks")},
    ]
    model = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32, "context_length": 256}
    train = {"max_steps": 30, "global_batch": 8, "micro_batch": 4, "warmup_steps": 2}
    experiment = Experiment.model_validate({"name": "a", "data": {"sources": sources}, "model": model, "train": train})
    return experiment.to_dict()


Place = tuple[str | int, ...]


def settings(section: Section, above: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Each setting of a section, and of those in it, with its type."""
    for name, field in type(section).model_fields.items():
        value, place = getattr(section, name), (*above, field.alias or name)
        below = [(place, value)] if not isinstance(value, tuple) else [((*place, i), v) for i, v in enumerate(value)]
        if below and all(isinstance(item, Section) for _, item in below):
            for at, item in below:
                yield from settings(item, at)
        else:
            yield place, field.annotation


def others(value: Any, kind: Any) -> list[Any]:
    """Values of a setting near to this one; some may not be allowed there."""
    if get_origin(kind) is Literal:
        return [other for other in get_args(kind) if other != value]
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [2 * value, value / 2, value // 2, value + 1]
        case str():
            return [f"{value}/.", f"{value}x"]  # the first is the same folder
        case list():
            return [[*value, *value], ["x"]]
        case dict():
            return [{"ko": 2.0}]
        case _:
            return ["x", 1]


def value_at(values: Any, place: Place) -> Any:
    for key in place:
        values = values[key]
    return values


def changed(values: dict[str, Any], place: Place, value: Any) -> Experiment | None:
    values = copy.deepcopy(values)
    value_at(values, place[:-1])[place[-1]] = value
    try:
        return Experiment.model_validate(values)
    except ValidationError:
        return None


def fingerprints(experiment: Experiment) -> dict[str, str]:
    return {stage: fingerprint(key) for stage, key in stage_keys(experiment).items()}


def test_each_setting_changes_the_keys_of_the_stages_that_it_changes_and_no_others(values: dict[str, Any]) -> None:
    experiment = Experiment.model_validate(values)
    before, wrong, used = fingerprints(experiment), {}, set()
    for place, kind in settings(experiment):
        setting, value = ".".join(name for name in place if isinstance(name, str)), value_at(values, place)
        found = next(filter(None, (changed(values, place, other) for other in others(value, kind))), None)
        if found is None:  # it can be nothing else, such as the kind of a source
            assert get_origin(kind) is Literal, f"no other value found for {setting}"
            assert len(get_args(kind)) == 1
            continue
        after, entry = fingerprints(found), known_as(setting)
        used.add(entry)
        keys = {stage for stage in STAGES if after[stage] != before[stage]}
        if keys != with_those_after(READ_BY[entry]):
            wrong[setting] = keys
    assert not wrong
    assert used == READ_BY.keys(), "of settings that there are no more"


def test_a_new_version_of_a_format_is_another_result(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment.model_validate(values)
    before = fingerprints(experiment)
    for stage in STAGES:
        with monkeypatch.context() as patched:
            patched.setitem(artifacts.VERSIONS, stage, artifacts.VERSIONS[stage] + 1)
            after = fingerprints(experiment)
        assert {name for name in STAGES if after[name] != before[name]} == with_those_after({stage})
