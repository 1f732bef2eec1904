"""The drill without a cluster: on which ranks it trains, and how two trainings are compared."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from jobs.slurm.cluster import Cluster
from jobs.tools.ranks import default_counts, rank_counts, with_ranks
from jobs.tools.recovery import differences, digest
from sllm.config import validate
from sllm.errors import UserError
from sllm.run_directory import RunDirectory


@pytest.mark.parametrize(
    ("own", "counts"), [(1, [1, 2]), (2, [2, 1, 2, 4]), (3, [3, 1, 3, 6]), (8, [8, 1, 8, 16])], ids=str
)
def test_the_numbers_of_ranks_of_a_drill(own: int, counts: list[int]) -> None:
    assert default_counts(own) == counts


def test_numbers_of_ranks_as_typed() -> None:
    assert rank_counts("2,1,1,2,10") == [2, 1, 2, 10]
    for typed in ("", "2,", "2, 1", "0", "02", "-1", "2→1", "²", "9" * 6):
        with pytest.raises(UserError, match=r"--ranks .*such as 2,1,2,4"):
            rank_counts(typed)


@pytest.mark.parametrize(
    ("own", "ranks", "asked"),
    [
        ({"tasks_per_node": 2}, 1, {"nodes": 1, "tasks_per_node": 1}),
        ({"tasks_per_node": 2}, 4, {"nodes": 2, "tasks_per_node": 2}),
        ({"nodes": 2}, 4, {"nodes": 4, "tasks_per_node": 1}),
        ({"nodes": 2, "tasks_per_node": 4}, 6, {"nodes": 2, "tasks_per_node": 3}),
        ({"nodes": "1-4", "tasks_per_node": 2}, 2, {"nodes": 1, "tasks_per_node": 2}),
        ({"tasks_per_node": 2, "gpus_per_node": 2}, 1, {"gpus_per_node": 1}),
        ({"tasks_per_node": 2, "gpus_per_node": 2}, 4, {"nodes": 2, "gpus_per_node": 2}),
        ({"tasks_per_node": 2, "gpus_per_node": 0}, 1, {"gpus_per_node": 0}),
        ({"tasks_per_node": 2, "gres": "gpu:h100:2,shard:8"}, 1, {"gres": "gpu:h100:1,shard:8"}),
        ({"tasks_per_node": 4, "gres": "gpu:4"}, 2, {"gres": "gpu:2"}),
        ({"tasks_per_node": 2, "gres": "gpu:h100"}, 1, {"gres": "gpu:h100:1"}),
        ({"tasks_per_node": 3, "gres": "gpu:1g.10gb:2"}, 1, {"gres": "gpu:1g.10gb:1"}),
    ],
    ids=str,
)
def test_the_profile_for_other_ranks(own: dict[str, Any], ranks: int, asked: dict[str, Any]) -> None:
    own = {"partition": "gpu", "cpus": 8, **own}
    profile = validate(Cluster, {"defaults": {"memory": "2G"}, "stages": {"pretrain": own}}, "profile")
    changed = with_ranks(profile, ranks)
    resources = changed.resources("pretrain")
    assert list(resources.rank_counts) == [ranks]
    assert {key: getattr(resources, key) for key in asked} == asked
    assert (resources.partition, resources.cpus, resources.memory) == ("gpu", 8, "2G")
    assert changed.resources("validate") == profile.resources("validate")


def trained(directory: Path, name: str, losses: list[float], weight: float, moment: float) -> RunDirectory:
    run = RunDirectory(directory / name)
    checkpoint = run.checkpoints / "step-00000003"
    checkpoint.mkdir(parents=True)
    records = [{"kind": "train", "step": step, "loss": loss, "time": 0.0} for step, loss in enumerate(losses, 1)]
    run.metrics.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    save_file({"a": torch.zeros(2), "b": torch.tensor([weight])}, checkpoint / "model.safetensors")
    save_file({"b.moment": torch.tensor([moment])}, checkpoint / "optimizer.safetensors")
    lines = [
        {"stage": "pretrain", "token": "", "fingerprint": "", "attempt": n, "ranks": ranks, **steps}
        for n, ranks, steps in [(1, 2, {"first_step": 1, "last_step": 2}), (2, 4, {"first_step": 3, "last_step": 3})]
    ]
    run.ledger.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return run


def test_what_differs_first_is_told(tmp_path: Path) -> None:
    right = trained(tmp_path, "right", [3.0, 2.0, 1.0], 1.0, 0.5)
    same = trained(tmp_path, "same", [3.0, 2.0, 1.0], 1.0, 0.5)
    assert list(differences(same, right, 3)) == []
    assert digest(same, 3) == digest(right, 3)
    assert len(digest(right, 3)) == 12
    late = trained(tmp_path, "late", [3.0, 2.0, 1.5], 1.0, 0.25)
    assert digest(late, 3) != digest(right, 3)
    assert list(differences(late, right, 3)) == [
        "late: the loss of step 3 (attempt 2, ranks: 4) differs from that of right",
        f"late: digest {digest(late, 3)} of step 3 differs from that of right, {digest(right, 3)}: first in b.moment",
    ]
    other = trained(tmp_path, "other", [3.0, 2.0, 1.0], 1.5, 0.25)
    assert [line.partition("first in ")[2] for line in differences(other, right, 3)] == ["b"]


def test_weights_that_are_not_there_are_not_the_same(tmp_path: Path) -> None:
    runs = [trained(tmp_path, name, [3.0, 2.0, 1.0], 1.0, 0.5) for name in ("one", "two")]
    for run in runs:
        (run.checkpoints / "step-00000003" / "model.safetensors").unlink()
    (line,) = differences(*runs, 3)
    assert line == "one: digest none of step 3 differs from that of two, none: first in model.safetensors"
