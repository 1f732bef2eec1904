"""What a result depends on: a setting that changes it changes the key of its stage, and of those after it; one that
does not leaves every key as it is."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.pipeline import STAGES
from sllm import artifacts
from sllm.artifacts import shared_steps, stage_keys, steps_before_the_end
from sllm.config import Experiment, Section, TrainConfig, decay_start
from sllm.errors import UserError
from sllm.files import fingerprint, write_json
from sllm.manifests import write_manifest
from sllm.tokenizer import Tokenizer
from sllm.training.optim import learning_rate

NOBODY: set[str] = set()
READ_BY = {
    "name": NOBODY,
    "runs_directory": NOBODY,
    "data_directory": NOBODY,
    "wandb": NOBODY,
    "seed": {"download", "pretrain", "conversations", "finetune"},
    "data": {"download"},
    "data.sources.optional": NOBODY,
    "data.sources.licence": NOBODY,
    "data.sources.text_megabytes": NOBODY,
    "data.sources.weight": {"pretrain"},
    "data.phases": {"pretrain"},
    "tokenizer": {"tokenizer"},
    "model": {"pretrain"},
    "train": {"pretrain"},
    "train.init_from": {"tokenizer", "pretrain"},
    "train.compile": NOBODY,
    "train.activation_checkpointing": NOBODY,
    "train.profile": NOBODY,
    "train.checkpoint": NOBODY,
    "validate": {"validate"},
    "validate.every": {"pretrain"},  # which model is the best depends on when, and on what, the training validates
    "validate.tokens": {"pretrain"},
    "benchmark": {"benchmark"},
    "model.context_length": {"pretrain", "conversations"},
    "finetune.data": {"conversations"},
    "finetune.data.sources.optional": NOBODY,
    "finetune.data.sources.licence": NOBODY,
    "finetune.data.sources.text_megabytes": NOBODY,
    "finetune.data.sources.weight": {"finetune"},
    "finetune.data.phases": {"finetune"},
    "finetune.train": {"finetune"},
    "finetune.train.compile": NOBODY,
    "finetune.train.activation_checkpointing": NOBODY,
    "finetune.train.profile": NOBODY,
    "finetune.train.checkpoint": NOBODY,
    "finetune.validate": {"validate"},
    "finetune.validate.every": {"finetune"},
    "finetune.validate.tokens": {"finetune"},
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
        found |= {stage.name} if found & {*stage.needs, *stage.after} else set()
    return found


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An experiment, every setting of it written out, with a source of each kind; beside it, in x, a model of its
    kind."""
    monkeypatch.chdir(tmp_path)
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
    train = {"max_steps": 30, "global_batch": 8, "micro_batch": 4, "warmup_steps": 2, "schedule": "wsd"}
    data = {"sources": sources, "phases": [{"from": 0.9, "weights": {"web": 3.0}}]}
    finetune = {"data": {**data, "sources": [{**source, "name": f"{source['name']}-2"} for source in sources]}}
    finetune["data"]["phases"] = [{"from": 0.9, "weights": {"web-2": 3.0}}]
    finetune["train"] = train
    values = {"name": "a", "data": data, "model": model, "train": train, "finetune": finetune}
    experiment = Experiment.model_validate(values)
    about = {"model": experiment.to_dict()["model"], "vocab_size": experiment.tokenizer.vocab_size}
    write_json(tmp_path / "x" / "config.json", about)
    write_json(tmp_path / "x" / "model.safetensors", {})
    Tokenizer([]).save(tmp_path / "x" / "tokenizer.json")
    write_manifest(tmp_path / "x")
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
            return [other for other in (2 * value, value / 2, value // 2, value + 1) if other != value]
        case str():
            return [f"{value}/.", f"{value}x", 7]  # the first is the same folder
        case list():
            return [[*value, *value], ["x"]]
        case dict():
            return [{"ko": 2.0}, {name: 2 * item for name, item in value.items()}]
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
    # A setting that can be nothing else beside the others of the first can be beside those of the second.
    model = {**values["model"], "family": "qwen3", "dropout": 0.0, "tie_embeddings": False}
    train = {**values["train"], "schedule": "cosine", "decay": None, "optimizer": "muon"}
    data = {**values["data"], "phases": [{"from": 0.5, "weights": {"files": 2.0}}]}  # the others may have other names
    phases = [{"from": 0.5, "weights": {"files-2": 2.0}}]
    finetune = {
        **values["finetune"],
        "data": {**values["finetune"]["data"], "phases": phases},
        "train": copy.deepcopy(train),
    }
    both = [values, {**values, "data": data, "model": model, "train": train, "finetune": finetune}]
    bases = [(each, fingerprints(Experiment.model_validate(each))) for each in both]
    wrong, used = {}, set()
    for place, kind in settings(Experiment.model_validate(values)):
        setting = ".".join(name for name in place if isinstance(name, str))
        tried = (
            (before, changed(base, place, other))
            for base, before in bases
            for other in others(value_at(base, place), kind)
        )
        before, found = next(((before, found) for before, found in tried if found), ({}, None))
        if setting in ("finetune.train.init_from", "finetune.data.sources.text_field"):
            assert found is None, "a fine-tuning begins with the model of its own run, and tells layouts by their keys"
            continue
        if found is None:  # it can be nothing else at all, such as the kind of a source
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


# --- made longer or shorter -----------------------------------------------------------------------


def key_of(experiment: dict[str, Any], **train: Any) -> dict[str, Any]:
    return stage_keys(Experiment.model_validate({**experiment, "train": {**experiment["train"], **train}}))["pretrain"]


@pytest.fixture
def cosine(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "train": {**values["train"], "schedule": "cosine", "decay": None}}


def test_two_lengths_share_the_steps_before_both_decays(values: dict[str, Any]) -> None:
    former = key_of(values, max_steps=100)
    assert steps_before_the_end(former) == 80
    for changes, shared in (
        ({"max_steps": 100}, 100),
        ({"max_steps": 101}, 80),
        ({"max_steps": 1000}, 80),
        ({"max_steps": 50}, 40),
        ({"max_steps": 50, "decay": 0.1}, 45),
        ({"max_steps": 100, "decay": 0.5}, 50),
        ({"max_steps": 100, "min_learning_rate": 0.0}, 80),
        ({"max_steps": 200, "learning_rate": 0.1}, 0),
        ({"max_steps": 200, "schedule": "cosine", "decay": None}, 0),
    ):
        assert shared_steps(former, key_of(values, **changes)) == shared, changes
        assert shared_steps(key_of(values, **changes), former) in (shared, changes["max_steps"])


def test_two_lengths_of_a_cosine_share_nothing(cosine: dict[str, Any]) -> None:
    assert shared_steps(key_of(cosine, max_steps=100), key_of(cosine, max_steps=200)) == 0
    assert shared_steps(key_of(cosine, max_steps=100), key_of(cosine, max_steps=100)) == 100
    old = key_of(cosine, max_steps=100)
    del old["train"]["schedule"], old["train"]["decay"]  # from before there was a schedule
    assert shared_steps(old, key_of(cosine, max_steps=200)) == 0


def test_any_other_setting_that_differs_leaves_nothing_to_share(values: dict[str, Any]) -> None:
    """Whatever else a training reads: nothing of it may be forgotten."""
    former, longer, seen = key_of(values, max_steps=100), {**values["train"], "max_steps": 200}, set()
    for place, kind in settings(Experiment.model_validate(values)):
        of_the_end = place[-1] in artifacts.OF_THE_END or "phases" in place
        for other in others(value_at(values, place), kind) if not of_the_end else ():
            experiment = changed({**values, "train": longer}, place, other)
            with contextlib.suppress(UserError):  # of a file that is not there
                if experiment and (key := stage_keys(experiment)["pretrain"]) != key_of(values, max_steps=200):
                    assert shared_steps(former, key) == 0, place
                    seen.add(place[0])
    assert seen == {"seed", "data", "tokenizer", "model", "train", "validate"}


def test_two_lengths_share_the_steps_before_the_first_phase_of_each(
    values: dict[str, Any], cosine: dict[str, Any]
) -> None:
    def key(*phases: tuple[float, float], max_steps: int = 100, of: dict[str, Any] = values) -> dict[str, Any]:
        listed = [{"from": start, "weights": {"web": weight}} for start, weight in phases]
        return key_of({**of, "data": {**of["data"], "phases": listed}}, max_steps=max_steps)

    for of, longer in ((values, 50), (cosine, 0)):
        former = key((0.5, 3.0), (0.9, 2.0), of=of)
        assert steps_before_the_end(former) == longer
        assert shared_steps(former, key((0.5, 3.0), (0.9, 2.0), of=of, max_steps=200)) == longer
        for phases, shared in (
            ([(0.5, 4.0), (0.9, 2.0)], 50),
            ([(0.5, 3.0), (0.9, 4.0)], 90),
            ([(0.5, 3.0), (0.7, 4.0), (0.9, 2.0)], 70),
            ([(0.5, 3.0)], 90),
            ([(0.3, 3.0), (0.9, 2.0)], 30),
            ([], 50),
        ):
            other = key(*phases, of=of)
            assert shared_steps(former, other) == shared_steps(other, former) == shared, phases
    assert shared_steps(key(max_steps=200), key((0.9, 3.0), max_steps=100)) == 80, "where the decay starts"
    assert shared_steps(key((0.25, 3.0), max_steps=200), key((0.5, 3.0), max_steps=100)) == 80, "equal phases"


lengths = st.fixed_dictionaries(
    {"max_steps": st.integers(2, 60), "decay": st.floats(0.01, 1), "min_learning_rate": st.sampled_from([0.0, 0.1])}
)


@given(first=lengths, second=lengths, warmup_steps=st.integers(0, 3))
def test_what_is_shared_has_equal_rates_and_no_more_is(
    first: dict[str, Any], second: dict[str, Any], warmup_steps: int
) -> None:
    common = {"global_batch": 1, "micro_batch": 1, "learning_rate": 1.0, "schedule": "wsd"}
    a, b = (
        TrainConfig(**common, **each, warmup_steps=min(warmup_steps, decay_start(each["max_steps"], each["decay"])))
        for each in (first, second)
    )
    shared = shared_steps({"train": a.model_dump()}, {"train": b.model_dump()})

    def first_difference() -> int:
        steps = range(1, min(a.max_steps, b.max_steps) + 1)
        return next((step for step in steps if learning_rate(step, a) != learning_rate(step, b)), len(steps) + 1)

    assert shared < first_difference()
    if a != b and a.warmup_steps == b.warmup_steps:
        starts = [decay_start(each.max_steps, each.decay or 0) for each in (a, b)]
        assert shared == min(starts)
        assert starts[0] == starts[1] or first_difference() == shared + 1


def test_what_is_wrong_with_a_fine_tuning_is_told_before_it_runs(values: dict[str, Any]) -> None:
    """With names as they stand in the experiment; a question that none can ask, too, which would end the training at
    its first validation."""
    tuning = values["finetune"]
    (files,) = (source for source in tuning["data"]["sources"] if source["kind"] == "files")
    files["paths"] = ["nowhere/*.jsonl"]
    tuning["validate"]["prompts"] = ["Who are you?", " ", "Say <|end|>"]
    with pytest.raises(UserError) as error:
        stage_keys(Experiment.model_validate(values))
    missing, empty, token = str(error.value).splitlines()
    assert missing.startswith("finetune.data.sources: files-2: no file matches ")
    assert empty.startswith("finetune.validate.prompts.1: ' ': ")
    assert token.startswith("finetune.validate.prompts.2: 'Say <|end|>': ")
