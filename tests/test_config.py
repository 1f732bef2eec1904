"""The experiment file: every shipped one loads, and everything wrong with one is said at once."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm.config import (
    HubSource,
    TrainConfig,
    check_world_size,
    load_experiment,
    parameter_count,
    parse_yaml,
    write_experiment,
)
from sllm.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_experiment(path, overrides)
    return str(caught.value).split("\n")


def test_there_are_experiments() -> None:
    assert {"smoke.yaml", "small.yaml", "default.yaml"} <= {path.name for path in EXPERIMENTS}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_shipped_experiment_loads_and_survives_writing(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(write_experiment(experiment), encoding="utf-8")
    assert load_experiment(copy) == experiment
    check_world_size(experiment.train, 1)
    check_world_size(experiment.train, 2)


def test_shipped_models_have_the_promised_size() -> None:
    small, default = (load_experiment(CONFIGS / name) for name in ("small.yaml", "default.yaml"))
    assert small.tokenizer.vocab_size == default.tokenizer.vocab_size == 32_000
    assert round(parameter_count(small.model, 32_000)[1] / 1e6) == 85
    assert 300e6 < parameter_count(default.model, 32_000)[1] < 305e6


def test_all_problems_are_reported_at_once_with_key_value_and_way_out() -> None:
    lines = problems(
        CONFIGS / "smoke.yaml",
        "train.max_stesp=10",
        "train.learning_rate=fast",
        "train.max_steps=300",
        "train.warmup_steps=300",
        "model.d_model=192",
        "model.n_heads=7",
        "validate.every=0",
        "data.sources.0.megabytes=-1",
        "wandb.mode=maybe",
    )
    text = "\n".join(lines)
    assert len(lines) == 7
    assert "train.warmup_steps: 300 is not below max_steps (300)" in text
    assert "train.max_stesp: unknown key; did you mean max_steps? valid: max_steps, global_batch" in text
    assert "train.learning_rate: 'fast'" in text
    assert "model.n_heads: 7 does not divide d_model (192); valid: 1, 2, 3, 4, 6, 8" in text
    assert "validate.every: 0" in text
    assert "data.sources.0.megabytes: -1" in text
    assert "wandb.mode: 'maybe'; input should be 'auto', 'online', 'offline' or 'disabled'" in text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            "train.max_steps=300 train.warmup_steps=300",
            "warmup_steps: 300 is not below max_steps (300); use at most 299",
        ),
        (
            "train.global_batch=32 train.micro_batch=5",
            "micro_batch: 5 does not divide global_batch (32); valid: 1, 2, 4, 8, 16, 32",
        ),
        ("train.max_steps=many", "train.max_steps: 'many'"),
        ("train.max_steps=1.5", "train.max_steps: 1.5"),
        ("data.sources.0.kind=web", "data.sources.0.kind: 'web'; valid: 'embedded', 'files', 'hub', 'aihub'"),
        ("data.sources.0.file=x", "data.sources.0.file: unknown key; valid: kind, name, language, megabytes, weight"),
        ("data.sources=[]", "data.sources"),
        ("data.sources.7.weight=2", "'7' is not a position in a list of 2; use 0 to 1"),
        ("name=../elsewhere", "name: '../elsewhere'"),
        ("train", "an override is written key=value"),
        ("train.max_steps.x=1", "train.max_steps is a value and has no keys below it"),
        ("benchmark.new_tokens=5000", "above model.context_length (128)"),
    ],
)
def test_bad_values(overrides: str, expected: str) -> None:
    (line,) = problems(CONFIGS / "smoke.yaml", *overrides.split(" "))
    assert expected in line


def test_bad_files(tmp_path: Path) -> None:
    assert problems(tmp_path / "absent.yaml") == [f"{tmp_path}/absent.yaml: no such file"]
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: a\ntrain: {max_steps: [", encoding="utf-8")
    assert problems(bad)[0].startswith(f"{bad}:2: not valid YAML")
    bad.write_text("name: a\nseed: 1\nname: b\n", encoding="utf-8")
    assert problems(bad) == [f"{bad}:3: not valid YAML: the key 'name' stands twice"]
    bad.write_bytes(b"name: a\n# \xff\n")
    assert problems(bad) == [f"{bad}:2: not valid UTF-8; save the file as UTF-8"]
    bad.write_text("- name", encoding="utf-8")
    assert "mapping of sections" in problems(bad)[0]
    bad.write_text("name: !!python/object/apply:os.system ['touch hacked']", encoding="utf-8")
    assert "not valid YAML" in problems(bad)[0]


def test_yaml_traps_are_closed() -> None:
    assert parse_yaml("{a: 3e-4, b: 1e3, on: off, c: 1_000, d: .5, e: true, f: 12:30:45, g: -1.5E+2}", "x") == {
        "a": 3e-4,
        "b": 1e3,
        "on": "off",
        "c": 1000,
        "d": 0.5,
        "e": True,
        "f": parse_yaml("12:30:45", "x"),
        "g": -150.0,
    }


def test_overrides_reach_lists_and_replace_sections() -> None:
    experiment = load_experiment(
        CONFIGS / "smoke.yaml",
        ["data.sources.1.weight=2.5", "train.learning_rate=3e-4", "validate.prompts=[하나, two]", "seed=7"],
    )
    assert experiment.data.sources[1].weight == 2.5
    assert experiment.train.learning_rate == 3e-4
    assert experiment.validate_.prompts == ("하나", "two")
    assert experiment.seed == 7


def test_a_catalogue_of_sources_is_a_file_of_its_own(tmp_path: Path) -> None:
    sources = load_experiment(CONFIGS / "default.yaml", ["data.sources.0.weight=2"]).data.sources
    assert len(sources) == 9
    assert sources[0].weight == 2.0
    assert {source.language for source in sources} == {"ko", "en"}
    for source in sources:
        if isinstance(source, HubSource):
            assert re.fullmatch("[0-9a-f]{40}", source.revision), source.name
            assert source.licence
            assert source.text_megabytes or source.limit_megabytes
    (line,) = problems(CONFIGS / "default.yaml", f"data.sources={tmp_path}/none.yaml")
    assert line == f"{tmp_path}/none.yaml: no such file"
    (line,) = problems(CONFIGS / "default.yaml", "data.sources.0.dataset=wikipedia")
    assert "data.sources.0.dataset: 'wikipedia'" in line
    (line,) = problems(CONFIGS / "default.yaml", "data.sources.0.subset=x")
    assert "data.sources.0.subset: unknown key; valid: kind, name, language, dataset, config, split" in line


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS.absolute() / "smoke.yaml"
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(config, ["data.sources=[{name: a, kind: files, language: ko, paths: [x/*.txt]}]"])
    assert experiment.data.sources[0].paths == (f"{tmp_path}/x/*.txt",)
    assert experiment.runs_directory == f"{tmp_path}/runs"
    assert experiment.data_directory == f"{tmp_path}/data"


@given(micro=st.integers(1, 16), groups=st.integers(1, 64), world=st.integers(1, 16))
def test_world_size_message_lists_only_what_works(micro: int, groups: int, world: int) -> None:
    train = TrainConfig(max_steps=10, global_batch=micro * groups, micro_batch=micro)
    if train.global_batch % (micro * world) == 0:
        check_world_size(train, world)
        return
    with pytest.raises(UserError, match=r"valid: .*train\.global_batch=") as caught:
        check_world_size(train, world)
    advice = str(caught.value).split("valid: ")[1]
    for batch in map(int, advice.rsplit("train.global_batch=", 1)[1].split(" or ")):
        check_world_size(train.model_copy(update={"global_batch": batch}), world)
