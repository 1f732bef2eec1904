"""The experiment file: every shipped one loads, and everything wrong with one is said at once."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sllm.config import (
    BenchmarkConfig,
    EmbeddedSource,
    Experiment,
    HubSource,
    TrainConfig,
    all_keys,
    check_world_size,
    load_experiment,
    names_of_finetune,
    phase_step,
    phase_weights,
    write_experiment,
)
from sllm.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_experiment(path, overrides)
    return str(caught.value).split("\n")


def test_settings_of_a_fine_tuning_are_called_as_in_its_file() -> None:
    told = "data.sources: a: /b/train.max_steps.jsonl; lower train.max_steps, validate.tokens or finetune.train.decay"
    with pytest.raises(UserError) as caught, names_of_finetune():
        raise UserError(told)
    named = "finetune.data.sources: a: /b/train.max_steps.jsonl; "
    assert (
        str(caught.value) == f"{named}lower finetune.train.max_steps, finetune.validate.tokens or finetune.train.decay"
    )


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
    assert "train.warmup_steps=300 (command line): 300 is not below max_steps (300)" in text
    assert "train.max_stesp=10 (command line): unknown key; did you mean max_steps? valid: max_steps, glo" in text
    assert "train.learning_rate=fast (command line): 'fast'" in text
    assert "model.n_heads=7 (command line): 7 does not divide d_model (192); valid: 1, 2, 3, 4, 6, 8" in text
    assert "validate.every=0 (command line): 0" in text
    assert "data.sources.0.megabytes=-1 (command line): -1" in text
    assert "wandb.mode=maybe (command line): 'maybe'; input should be 'auto', 'online', 'offline' or 'disabled'" in text


def test_a_problem_names_the_place_of_its_value(tmp_path: Path) -> None:
    """The file, the catalogue, or the command line."""
    (tmp_path / "catalogue.yaml").write_text("[{name: a, kind: embedded, language: fr}]", "utf-8")
    smoke = yaml.safe_load((CONFIGS / "smoke.yaml").read_text("utf-8"))
    smoke["data"]["sources"], smoke["train"]["warmup_steps"] = "catalogue.yaml", 5.0
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(smoke), "utf-8")
    assert sorted(problems(file, "seed=x", "wandb={mode: on}", "tokenizer.vocab_size=1e3")) == [
        f"{tmp_path}/catalogue.yaml: data.sources.0.language: 'fr'; input should be 'ko' or 'en'",
        f"{file}: train.warmup_steps: 5.0; input should be a valid integer; write 5",
        "seed=x (command line): 'x'; input should be a valid integer",
        "tokenizer.vocab_size=1e3 (command line): 1000.0; input should be a valid integer; write 1000",
        "wandb={mode: on} (command line): wandb.mode: 'on'; input should be 'auto', 'online', 'offline' or 'disabled'",
    ]
    assert (
        "trian.max_steps=3 (command line): trian: unknown key; did you mean train?"
        in problems(file, "trian.max_steps=3")[-1]
    )
    # What stands in the file, and an override that does not go with it.
    (line,) = problems(CONFIGS / "smoke.yaml", "train.max_steps=20")
    assert line.startswith(f"{CONFIGS}/smoke.yaml: train.warmup_steps: 30 is not below max_steps (20)")
    assert line.endswith(" (command line: train.max_steps=20)")
    # A list of the keys that are valid speaks of none of them.
    (line,) = problems(CONFIGS / "smoke.yaml", "train.max_stps=99", "train.warmup_steps=2")
    assert line.endswith("activation_checkpointing, init_from, profile, checkpoint")


def test_phases() -> None:
    experiment = load_experiment(
        CONFIGS / "smoke.yaml",
        [
            "data.phases=[{from: 0.5, weights: {sample-korean: 0}}, {from: 0.85, weights: {sample-english: 4}}]",
            "data.sources.0.weight=3",
            "data.phases.1.from=0.9",
        ],
    )
    assert [source.name for source in experiment.data.sources] == ["sample-korean", "sample-english"]
    assert [phase_step(phase.from_, 43) for phase in experiment.data.phases] == [22, 39], "21.5 and 38.7"
    assert phase_weights(experiment.data, 43) == {
        0: {"sample-korean": 3.0, "sample-english": 1.0},
        22: {"sample-korean": 0.0, "sample-english": 1.0},
        39: {"sample-korean": 3.0, "sample-english": 4.0},
    }


def test_every_problem_of_phases_is_told_at_once() -> None:
    def told(*overrides: str) -> list[str]:
        return [line.split("data.phases.", 2)[-1] for line in problems(CONFIGS / "smoke.yaml", *overrides)]

    hub = "{name: b, kind: hub, dataset: x/y, language: ko, optional: true}"
    phases = "{from: 0.5, weights: {a: 0, c: 3}}, {from: 0.5, weights: {b: 0}}, {from: 0.9, weights: {a: 0, b: 0}}"
    assert told(f"data.sources=[{{name: a, kind: embedded, language: ko}}, {hub}]", f"data.phases=[{phases}]") == [
        "0.weights.c: no source has this name; valid: a, b",
        "0.weights: no text if b cannot be had: the others are 0; set optional: false, or give another a weight",
        "1.from: 0.5 is not above that of the phase before (0.5)",
        "2.weights: all are 0; give a source a weight",
    ]
    assert told("data.phases=[{from: 0, weights: {}}, {from: 1.0, weights: {sample-korean: -1}}, {}]") == [
        "0.from: 0; input should be greater than 0",
        "0.weights: {}; at least one item",
        "1.from: 1.0; input should be less than 1",
        "1.weights.sample-korean: -1; input should be greater than or equal to 0",
        "2.from: missing; it must be set",
        "2.weights: missing; it must be set",
    ]
    phases = "[{from: 0.001, weights: {sample-korean: 2}}, {from: 0.999, weights: {sample-korean: 3}}]"
    way_out = "it; raise train.max_steps, or take the phase out (command line: train.max_steps=40)"
    assert told(f"data.phases={phases}", "train.max_steps=40") == [
        f"0.from: 0.001 of train.max_steps (40) is 0 steps, and leaves none before {way_out}",
        f"1.from: 0.999 of train.max_steps (40) is 40 steps, and leaves none after {way_out}",
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            "train.max_steps=300 train.warmup_steps=300",
            "warmup_steps=300 (command line): 300 is not below max_steps (300); use at most 299",
        ),
        (
            "train.global_batch=32 train.micro_batch=5",
            "micro_batch=5 (command line): 5 does not divide global_batch (32); valid: 1, 2, 4, 8, 16, 32",
        ),
        (
            "train.max_steps=100 train.warmup_steps=81 train.schedule=wsd",
            "warmup_steps=81 (command line): 81 is above 80, where the decay starts (the last 0.2 of 100 steps)",
        ),
        ("train.decay=0.1", "train.decay=0.1 (command line): 0.1, but a cosine falls over all steps; leave it out, or"),
        ("train.max_steps=many", "train.max_steps=many (command line): 'many'"),
        ("train.max_steps=1.5", "train.max_steps=1.5 (command line): 1.5"),
        (
            "data.sources.0.kind=web",
            "data.sources.0.kind=web (command line): 'web'; valid: embedded, files, hub, aihub",
        ),
        (
            "data.sources.0.file=x",
            "data.sources.0.file=x (command line): unknown key; valid: kind, name, language, meg",
        ),
        ("data.sources.0.files=x", "data.sources.0.files=x (command line): unknown key; valid: kind, name, language"),
        ("data.sources.0.hub.x=1", "data.sources.0.hub: unknown key"),
        ("data.sources=[1]", "data.sources.0: 1; input should be a section of keys"),
        ('data.sources=[{"name":"x"}]', "data.sources.0.kind: missing; valid: embedded, files, hub, aihub"),
        ("data.sources.².name=x", "'²' is not a position in a list of 2; use 0 to 1"),
        ("data.sources.٣.name=x", "'٣' is not a position in a list of 2"),
        (f"data.sources.{'9' * 5000}.name=x", "is not a position in a list of 2"),
        ("max_steps=100", "max_steps=100 (command line): unknown key; did you mean train.max_steps? valid: name, seed"),
        ("steps=100", "did you mean train.max_steps or train.warmup_steps?"),
        ("train.every=5", "did you mean train.checkpoint.every or validate.every?"),
        ("train.seed=5", "did you mean seed?"),
        (f"seed={2**63}", "input should be less than or equal to 9223372036854775807"),
        ("seed=" + "9" * 5000, "99999999999999999999… (5,000 characters) is not an integer that can be read"),
        ("model.d_model=1000000000000", "input should be less than or equal to 1048576"),
        ("train.global_batch=1000000000000", "input should be less than or equal to 1048576"),
        ("train.learning_rate=1e300", "input should be less than or equal to 10"),
        ("train.learning_rate=1e999", "inf; input should be a finite number"),
        ("train.learning_rate=.nan", "nan; input should be a finite number"),
        ("train.max_steps=010", "'010'; input should be a valid integer; write 10"),
        ("train.max_steps=1:30", "'1:30'; input should be a valid integer; write one number, without colons"),
        ("validate.prompts=하나", "'하나'; input should be a list; write [하나]"),
        ("name=123", "123; input should be text; put it in quotes"),
        (f"name={'a' * 300}", "should have at most 128 characters"),
        ('runs_directory="a\\0b"', r"'a\x00b' is not text that a file can hold"),
        ("data_directory=~nobody-of-this-name/x", "~nobody-of-this-name is nobody's home directory"),
        ("train=[]", "train=[] (command line): []; input should be a section of keys"),
        ("na\nme=a", "na�me=a (command line): na�me: unknown key; did you mean name?"),
        ("train..x=1", "an override is written key=value"),
        ("a." * 50 + "b=1", "no key is as deep as 51 levels"),
        ("validate={{X}}", "validate={{X}} (command line): not valid YAML: a key is a word"),
        ("validate.sample_tokens=128", "128 is not below model.context_length (128)"),
        ("data.sources=[]", "data.sources"),
        ("data.sources.7.weight=2", "'7' is not a position in a list of 2; use 0 to 1"),
        ("name=../elsewhere", "name=../elsewhere (command line): '../elsewhere'"),
        ("train", "an override is written key=value"),
        ("train.max_steps.x=1", "train.max_steps is a value and has no keys below it"),
        ("benchmark.new_tokens=5000", "above model.context_length (128)"),
    ],
)
def test_bad_values(overrides: str, expected: str) -> None:
    (line,) = problems(CONFIGS / "smoke.yaml", *overrides.split(" "))
    assert expected in line


VALUES = st.sampled_from(
    ["", "{}", "[]", "[[]]", "[null]", "{a: 1}", "-1", "1e999", ".nan", "9" * 5000, '"\\0"', "x" * 300]
)


@given(
    key=st.sampled_from(sorted(all_keys(Experiment))),
    below=st.sampled_from(["", ".0", ".x", ".²"]),
    value=VALUES | st.text(),
)
@example(key="data.sources", below="", value="\xad")
def test_whatever_is_typed_fits_or_is_told_on_a_line(key: str, below: str, value: str) -> None:
    told = ""
    try:
        load_experiment(CONFIGS / "smoke.yaml", [f"{key}{below}={value}"])
    except UserError as error:
        told = str(error)
    assert all(line.isprintable() and len(line) < 1000 for line in told.split("\n")), told


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: a\ntrain: {max_steps: [", ":2: not valid YAML"),
        (b"name: a\n# \xff\n", ":2: not valid UTF-8; save the file as UTF-8"),
        ("name: a\n".encode("utf-16"), ":1: not valid UTF-8; save the file as UTF-8"),
        (b"", ": is empty; an experiment has the sections data, model and train"),
        (b"- name", ": not an experiment, which is a mapping of sections (data, model, train …); a list of sources"),
        (b"defaults: {partition: gpu}\nstages:", ": a cluster profile, not an experiment; give it as --cluster "),
        (b"answer: 42", ": not an experiment: it has answer, and none of name, seed"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, expected: str) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(content)
    (line,) = problems(bad)
    assert line.startswith(f"{bad}{expected}")


def test_a_file_that_is_not_there_is_looked_for_nearby(tmp_path: Path) -> None:
    assert problems(tmp_path / "absent.yaml") == [f"{tmp_path}/absent.yaml: no such file"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("name: x", "utf-8")
    (tmp_path / "configs" / "mine.out").touch()  # is nearer to `mine`, but no experiment
    for typed in ("config/mine.yaml", "configs/mein.yaml", "configs/mine"):
        line = f"{tmp_path}/{typed}: no such file; did you mean {tmp_path}/configs/mine.yaml?"
        assert problems(tmp_path / typed) == [line]
    assert problems(tmp_path / "configs") == [f"{tmp_path}/configs: a folder; name a file in it: mine.yaml"]


def test_defaults_fit_the_model(tmp_path: Path) -> None:
    """What the user has not set goes with what is set; what is set is kept."""
    smoke = yaml.safe_load((CONFIGS / "smoke.yaml").read_text("utf-8"))
    smoke.update(validate={}, benchmark=None, train={"max_steps": 9, "global_batch": 8, "micro_batch": 8})
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(smoke), "utf-8")

    def sizes(context: int, *overrides: str) -> tuple[int, int, int]:
        experiment = load_experiment(file, [f"model.context_length={context}", *overrides])
        benchmark = experiment.benchmark
        return experiment.validate_.sample_tokens, benchmark.prompt_tokens, benchmark.new_tokens

    assert sizes(2048) == sizes(128) == (48, 64, 64)
    assert sizes(64) == (48, 32, 32)
    assert sizes(2) == (1, 1, 1)
    assert sizes(128, "benchmark.prompt_tokens=100") == (48, 100, 28)
    assert sizes(128, "benchmark.new_tokens=100") == (48, 28, 100)
    assert load_experiment(file, ["train.learning_rate=1e-5"]).train.min_learning_rate == pytest.approx(1e-6)
    assert load_experiment(file, ["train.learning_rate=1e-4"]).train.min_learning_rate == 6e-5
    assert load_experiment(file, ["data.max_characters=10"]).data.min_characters == 10
    assert BenchmarkConfig() == load_experiment(file).benchmark, "what one experiment gets is no other's default"


def test_sections_that_stand_empty_have_their_defaults(tmp_path: Path) -> None:
    smoke = (CONFIGS / "smoke.yaml").read_text("utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(smoke[: smoke.index("validate:")] + "validate:\nbenchmark:\nwandb:\n", "utf-8")
    assert load_experiment(file).wandb == load_experiment(CONFIGS / "smoke.yaml").wandb
    assert load_experiment(file, ["wandb.project=x"]).wandb.project == "x"
    assert problems(file, "model=") == [
        f"model= (command line): model.{name}: missing; it must be set" for name in MODEL
    ]


MODEL = ("d_model", "n_layers", "n_heads", "d_ff", "context_length")


def test_an_alias_is_a_copy(tmp_path: Path) -> None:
    """An override of one section that was written with `*name` leaves the others as they are."""
    smoke = (CONFIGS / "smoke.yaml").read_text("utf-8")
    source = "{name: ko, kind: embedded, language: ko, megabytes: 1}"
    file = tmp_path / "mine.yaml"
    file.write_text(
        smoke[: smoke.index("data:")]
        + f"data: {{sources: [&first {source}, {{<<: *first, name: second}}, *first]}}\n"
        + smoke[smoke.index("tokenizer:") :],
        "utf-8",
    )
    sources = load_experiment(file, ["data.sources.2.name=third", "data.sources.2.megabytes=3"]).data.sources
    assert [(s.name, s.megabytes) for s in sources if isinstance(s, EmbeddedSource)] == [
        ("ko", 1.0),
        ("second", 1.0),
        ("third", 3.0),
    ]


def test_a_key_that_begins_with_x_holds_what_is_merged(tmp_path: Path) -> None:
    """In an experiment at the top, and nowhere else; whoever calls it otherwise is told."""
    file, smoke = tmp_path / "mine.yaml", (CONFIGS / "smoke.yaml").read_text("utf-8")
    merged = "x-often: &often {every: 7}\n" + smoke.replace("validate:\n  every: 120", "validate:\n  <<: *often")
    file.write_text(merged, "utf-8")
    assert load_experiment(file) == load_experiment(CONFIGS / "smoke.yaml", ["validate.every=7"])
    (line,) = problems(file, "model.x-a={}")
    assert "model.x-a={} (command line): unknown key; valid: family, d_model" in line
    file.write_text(merged.removeprefix("x-"), "utf-8")
    (line,) = problems(file)
    assert line.startswith(f"{file}: often: unknown key; ")
    assert line.endswith(", wandb; a key that begins with x- may hold it")


def test_overrides_reach_lists_and_replace_sections() -> None:
    experiment = load_experiment(
        CONFIGS / "smoke.yaml",
        ["data.sources.1.weight=2.5", "train.learning_rate=3e-4", "validate.prompts=[하나, two]", "seed=7"],
    )
    assert experiment.data.sources[1].weight == 2.5
    assert experiment.train.learning_rate == 3e-4
    assert experiment.validate_.prompts == ("하나", "two")
    assert experiment.seed == 7


@pytest.mark.parametrize("path", [CONFIGS / "data" / f"{name}.yaml" for name in ("corpora", "quality")])
def test_a_shipped_catalogue_is_pinned_and_says_licence_and_size(path: Path) -> None:
    sources = load_experiment(CONFIGS / "default.yaml", [f"data.sources={path}"]).data.sources
    assert {source.language for source in sources} == {"ko", "en"}
    hub = [source for source in sources if isinstance(source, HubSource)]
    assert len(hub) >= 6
    for source in hub:
        assert re.fullmatch("[0-9a-f]{40}", source.revision), source.name
        assert source.licence
        assert source.text_megabytes or source.limit_megabytes


def test_the_catalogue_of_conversations_says_licence_size_and_what_is_not_pinned() -> None:
    training = "{max_steps: 10, global_batch: 8, micro_batch: 1, warmup_steps: 1}"
    settings = [f"finetune.data.sources={CONFIGS}/data/conversations.yaml", f"finetune.train={training}"]
    experiment = load_experiment(CONFIGS / "default.yaml", settings)
    assert experiment.finetune
    sources = experiment.finetune.data.sources
    assert {source.language for source in sources} == {"ko", "en"}
    hub = [source for source in sources if isinstance(source, HubSource)]
    assert all(source.licence and source.text_megabytes for source in hub)
    moving = {source.name for source in hub if not re.fullmatch("[0-9a-f]{40}", source.revision)}
    assert moving == {"ko-kullm", "ko-carrot", "ko-realqa"}
    assert [source.name for source in sources if getattr(source, "optional", False)] == [
        "ko-qarv",
        "ko-realqa",
        "ko-talk",
    ]


def test_a_catalogue_of_sources_is_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = load_experiment(CONFIGS / "default.yaml", ["data.sources.0.weight=2"]).data.sources
    assert len(sources) == 9
    assert sources[0].weight == 2.0
    (line,) = problems(CONFIGS / "default.yaml", f"data.sources={tmp_path}/none.yaml")
    assert line.startswith("data.sources=/")
    assert line.endswith(f" (command line): {tmp_path}/none.yaml: no such file")
    monkeypatch.chdir(tmp_path)  # a file names its catalogue from where it is, a person from where they are
    (tmp_path / "mine.yaml").write_text("[{name: mine, kind: embedded, language: ko}]", "utf-8")
    (source,) = load_experiment(CONFIGS.absolute() / "default.yaml", ["data.sources=mine.yaml"]).data.sources
    assert source.name == "mine"


def test_a_problem_of_a_source_is_told_with_its_place() -> None:
    (line,) = problems(CONFIGS / "default.yaml", "data.sources.0.dataset=wikipedia")
    assert "data.sources.0.dataset=wikipedia (command line): 'wikipedia'; a dataset of the hub is written own" in line
    (line,) = problems(CONFIGS / "default.yaml", "data.sources.0.subset=x")
    assert "data.sources.0.subset=x (command line): unknown key; valid: kind, name, language, dataset, config" in line


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


@given(micro=st.integers(1, 8), groups=st.integers(1, 64), first=st.integers(1, 4), more=st.integers(0, 5))
def test_every_number_of_ranks_is_checked_and_the_message_lists_what_fits_all(
    micro: int, groups: int, first: int, more: int
) -> None:
    train, sizes = (
        TrainConfig(max_steps=10, global_batch=micro * groups, micro_batch=micro),
        range(first, first + more + 1),
    )
    wrong = [size for size in sizes if groups % size]
    if not wrong:
        check_world_size(train, *sizes)
        return
    with pytest.raises(UserError, match=f" on {', '.join(map(str, wrong))} ranks; valid: ") as caught:
        check_world_size(train, *sizes)
    advice = re.findall(r"train\.(\w+)=([\d, or]+)", str(caught.value))
    assert advice
    for key, values in advice:
        for value in map(int, re.findall(r"\d+", values)):
            check_world_size(train.model_copy(update={key: value}), *sizes)


def test_numbers_of_ranks_that_no_batch_fits() -> None:
    train = TrainConfig(max_steps=10, global_batch=64, micro_batch=4)
    with pytest.raises(UserError, match=r"65536 ranks; valid: fewer ranks$"):
        check_world_size(train, *range(1, 65_537))
