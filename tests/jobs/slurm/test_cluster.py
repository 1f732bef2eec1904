"""Cluster profiles: strict, merged stage over defaults, every one that is shipped."""

from pathlib import Path
from typing import Any

import pytest

from jobs.pipeline import STAGES
from jobs.slurm.cluster import PROFILES, SITE_DEFAULTS, Resources, load_cluster
from sllm.config import check_world_size, load_experiment
from sllm.errors import UserError


def profile(tmp_path: Path, text: str) -> str:
    path = tmp_path / "profile.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_profile_loads_and_fits_the_shipped_experiments(path: Path) -> None:
    cluster = load_cluster(path.stem)
    ranks = cluster.resources("pretrain").rank_counts
    for config in sorted(PROFILES.parent.glob("*.yaml")):
        check_world_size(load_experiment(config).train, *ranks)


def test_a_stage_overrides_the_defaults_key_by_key(tmp_path: Path) -> None:
    text = "defaults: {partition: cpu, memory: 8G, qos: long}\nstages: {validate: {partition: gpu, qos: null}}"
    cluster = load_cluster(profile(tmp_path, text))
    validate, pack = cluster.resources("validate"), cluster.resources("pack")
    assert (validate.partition, validate.memory, validate.qos) == ("gpu", "8G", None)
    assert (pack.partition, pack.memory, pack.qos) == ("cpu", "8G", "long")


def test_a_key_that_begins_with_x_holds_what_is_merged(tmp_path: Path) -> None:
    text = "x-big: &big {memory: 64G}\nstages: {pack: {<<: *big, cpus: 4}, tokenizer: *big}"
    cluster = load_cluster(profile(tmp_path, text))
    assert cluster == load_cluster(
        profile(tmp_path, "stages: {pack: {memory: 64G, cpus: 4}, tokenizer: {memory: 64G}}")
    )
    with pytest.raises(
        UserError, match=r"big: unknown key; valid: defaults, stages; a key that begins with x- may hold"
    ):
        load_cluster(profile(tmp_path, text.removeprefix("x-")))


def test_a_resolved_profile_loads_back(tmp_path: Path) -> None:
    cluster = load_cluster("h100")
    again = load_cluster(profile(tmp_path, cluster.to_yaml()))
    assert all(again.resources(stage) == cluster.resources(stage) for stage in STAGES)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    text = "defaults: {partiton: gpu, memory: lots}\nstages: {pretrain: {nodes: 0}, trian: {}}"
    with pytest.raises(UserError) as caught:
        load_cluster(profile(tmp_path, text))
    lines = str(caught.value).split("\n")
    assert len(lines) == 4
    for words in ("partiton: unknown key; did you mean partition?", "memory: 'lots'", "nodes: 0", "trian: unknown key"):
        assert any(words in line for line in lines), words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: {gres: 'gpu:1', gpus_per_node: 1}", "gres and gpus_per_node are both set"),
        ("stages: {pack: {tasks_per_node: 2}}", "only pretrain and finetune run on more than one process"),
        ("stages: {pack: {nodes: 1-2}}", "nodes x tasks_per_node comes to 2, but only pretrain"),
        ("defaults: {time_minutes: 1, signal_seconds: 60}", "signal_seconds is 60, not below time_minutes"),
        ("defaults: {time_minutes: 1:30}", "minutes and seconds, or hours and minutes?"),
        ("defaults: {time_minutes: 0:00:30}", "not whole minutes"),
        ("time_minutes: 60", "did you mean defaults.time_minutes or stages.download.time_minutes?"),
        ("defaults: {time: 60}", "did you mean time_minutes?"),
        ("data: {}\nmodel: {}", "an experiment, not a cluster profile"),
        ("- a\n- b", "should be a section of keys"),
    ],
)
def test_impossible_combinations(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_cluster(profile(tmp_path, text))


@pytest.mark.parametrize(("nodes", "ranks"), [("1", [2]), ("3", [6]), ("1-4", [2, 4, 6, 8]), ("2-3", [4, 6])])
def test_on_how_many_ranks_an_attempt_may_run(tmp_path: Path, nodes: str, ranks: list[int]) -> None:
    text = f"stages: {{pretrain: {{nodes: {nodes}, tasks_per_node: 2}}}}"
    cluster = load_cluster(profile(tmp_path, text))
    again = load_cluster(profile(tmp_path, cluster.to_yaml()))  # what a run keeps of it
    for each in (cluster, again):
        assert list(each.resources("pretrain").rank_counts) == ranks
        assert str(each.resources("pretrain").nodes) == nodes


@pytest.mark.parametrize(
    "nodes",
    ["0", "-1", "4-1", "0-2", "1-", "-4", "1-4-8", "'4'", "1,4", "1-70000", "01-4", "1 - 4", "true", "1.5", "[1, 4]"],
)
def test_what_is_no_number_of_nodes(tmp_path: Path, nodes: str) -> None:
    with pytest.raises(UserError) as caught:
        load_cluster(profile(tmp_path, f"stages:\n  pretrain:\n    nodes: {nodes}\n"))
    (line,) = str(caught.value).split("\n")
    assert ": stages.pretrain.nodes: " in line
    assert line.endswith("; a number of nodes from 1 to 65,536, or the fewest and the most: 1-4")


@pytest.mark.parametrize(
    ("stage", "device"),
    [
        ("{}", None),
        ("{gpus_per_node: 0}", None),
        ("{gpus_per_node: 2}", "gpu"),
        ("{gres: 'gpu:h100:2'}", "gpu"),
        ("{gres: 'fpga:1'}", None),
        ("{gres: 'gpu:h100:2', device: cpu}", "cpu"),
        ("{device: gpu}", "gpu"),
    ],
)
def test_gpus_that_are_asked_for_are_a_promise(tmp_path: Path, stage: str, device: str | None) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(f"stages: {{pretrain: {stage}}}", encoding="utf-8")
    assert load_cluster(str(path)).resources("pretrain").promised_device == device


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UserError, match=r"there are: .*h100.*laptop"):
        load_cluster("nowhere")


@pytest.mark.parametrize(
    ("written", "minutes"), [("90", 90), ("2:00:00", 120), ("1-12", 2160), ("1-0:30", 1470), ("7-00:00:00", 10080)]
)
def test_time_as_slurm_writes_it(tmp_path: Path, written: str, minutes: int) -> None:
    cluster = load_cluster(profile(tmp_path, f"defaults: {{time_minutes: {written}}}"))
    assert cluster.resources("pack").time_minutes == minutes


def test_the_warning_fits_a_short_limit(tmp_path: Path) -> None:
    cluster = load_cluster(profile(tmp_path, "defaults: {time_minutes: 2}\nstages: {pretrain: {time_minutes: 60}}"))
    assert (cluster.resources("pack").signal_seconds, cluster.resources("pretrain").signal_seconds) == (60, 120)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("labtop", "did you mean laptop? there are: dev, h100, laptop"),
        ("h100.yaml", "did you mean h100? there are"),
        ("mine/my-clutser.yaml", "did you mean mine/my-cluster.yaml? there are"),
    ],
)
def test_a_name_that_is_mistyped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, hint: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my-cluster.yaml").touch()
    with pytest.raises(UserError) as caught:
        load_cluster(typed)
    assert str(caught.value).startswith(f"--cluster {typed}: no such file, nor a profile in {PROFILES}; {hint}")


def test_a_folder_is_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But one that is called like a profile does not hide it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "laptop").mkdir()
    assert list(load_cluster("laptop").resources("pretrain").rank_counts) == [2]
    with pytest.raises(UserError, match=r"^\.: a folder$"):
        load_cluster(".")


def test_a_site_says_what_the_profile_leaves_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SITE_DEFAULTS:
        monkeypatch.setenv(name, "site")
    text = "defaults: {partition: mine}\nstages: {pack: {account: other}}"
    written = load_cluster(profile(tmp_path, text))
    read_back = load_cluster(profile(tmp_path, written.to_yaml()))  # what a run keeps of it
    for cluster in (written.with_site_defaults(), read_back.with_site_defaults()):
        pack, validate = cluster.resources("pack"), cluster.resources("validate")
        assert (pack.partition, pack.account, pack.qos, pack.constraint) == ("mine", "other", "site", "site")
        assert (validate.partition, validate.account, validate.reservation) == ("mine", "site", "site")
    assert written.resources("validate").account is None


@pytest.mark.parametrize(
    ("asked", "gpus"),
    [
        ({}, 0),
        ({"gpus_per_node": 4}, 4),
        ({"gres": "gpu"}, 1),
        ({"gres": "gpu:h100"}, 1),
        ({"gres": "gpu:1g.10gb:3"}, 3),
        ({"gres": "nvme:2,gpu:a100:2(S:0-1),gpu:h100:1"}, 3),
    ],
)
def test_gpus_are_counted(asked: dict[str, Any], gpus: int) -> None:
    assert Resources(**asked).gpus == gpus
