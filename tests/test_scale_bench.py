"""bench/scale.py: what its formulas say must hang together, and its curves must be measured by what they name."""

import importlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sllm.distributed import World

ROOT = Path(__file__).parents[1]


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("scale_curves")


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("scale")


def test_a_faster_link_hides_more_of_the_all_reduce(paper: Any) -> None:
    model, vocabulary = paper.shape("default")
    times = [paper.all_reduce(model, vocabulary, 64, speed) for speed in sorted(paper.LINKS.values())]
    assert times == sorted(times, reverse=True)
    for busy, exposed in times:
        assert 0 < exposed < busy
    assert paper.all_reduce(model, vocabulary, 1, 1e9) == (0, 0)
    # Twice through the link, 8 bytes a parameter, but for the rank's own part.
    parameters, _ = paper.parameter_count(model, vocabulary)
    assert times[-1][0] * paper.REACHED * paper.LINKS["NVLink 4, one node"] == pytest.approx(
        2 * 63 / 64 * 8 * parameters
    )


def test_more_ranks_are_faster_and_less_well_used(paper: Any) -> None:
    link = paper.LINKS["8 × 400 Gb/s"]
    found = [paper.training(ranks, link) for ranks in paper.RANKS]
    for key, direction in (("tokens", 1), ("agreement", 1), ("saving", -1)):
        values = [direction * round(each[key], 9) for each in found]
        assert values == sorted(values)
    small, large = paper.stages(1e11), paper.stages(1e12)
    for stage in ("download", "pack"):
        assert large[stage]["shared"] == pytest.approx(10 * small[stage]["shared"])
        assert large[stage]["disk"] == pytest.approx(10 * small[stage]["disk"])
    assert large["tokenizer"] == small["tokenizer"], "its sample is bounded"
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    for row in [*paper.stage_rows(), *paper.link_rows(), *paper.training_rows(link)]:
        assert f"| {' | '.join(row)} |" in page


def test_curves_begin_at_their_first_point_and_follow_their_law(curves: Any, tmp_path: Path) -> None:
    found = list(curves.curve("c", "w", lambda size: size**2, {2: 8.0, 4: 40.0}))
    assert [(point.size, point.predicted, point.measured) for point in found] == [(2, 8.0, 8.0), (4, 32.0, 40.0)]
    assert found[1].ratio == 0.8
    sizes = {
        "tokens": (10**6, 10**12),
        "manifest": (10, 100),
        "metrics": (1000, 3000),
        "digests": (10_000, 40_000),
        "shares": (2, 4),
    }
    for name, those in sizes.items():
        (tmp_path / name).mkdir()
        points = list(curves.CURVES[name](tmp_path / name, those))
        assert {point.size for point in points} >= set(those)
        assert all(point.measured > 0 for point in points)
        exact = {p.what: p.ratio for p in points if p.what in ("MB", "MB of manifest", "KB of page tables")}
        assert list(exact.values()) == pytest.approx([1.0] * len(exact), rel=0.05), exact


def test_a_rank_tells_what_it_takes(curves: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, curves.STARTED, str(time.time() - 100))
    made = curves.random_experiment(
        "r", tmp_path, curves.TINY, 300, 10_000, precision="fp32", global_batch=2, micro_batch=1
    )
    found = curves._rank(made, World(0, 1, 0, torch.device("cpu")), 2)
    assert found["started"] > 100
    assert 20 < found["memory"] < 5000
    assert found["reduce"] == 0, "there is nobody to add to"
