"""The plan tells what the sampler will do."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from jobs.describe import BYTES_PER_TOKEN, data_bytes, describe_experiment, plan_data
from jobs.presets import CONFIGS
from sllm.artifacts import Artifacts
from sllm.config import Experiment, load_experiment, phase_weights
from sllm.data.sampler import PackedData, Sampler


def test_epochs_are_those_of_the_sampler(prepared: dict[str, Any]) -> None:
    experiment = Experiment.model_validate(prepared)
    plan = plan_data(experiment)
    data = PackedData.open(Artifacts(experiment).packed, None)
    weights = {source.name: source.weight for source in experiment.data.sources}
    samples = experiment.train.max_steps * experiment.train.global_batch
    # Blocks of samples keep the shares exactly, one run of 320 samples does so nearly.
    drawn = Counter(name for name, _ in Sampler(data, weights, 32, experiment.seed).windows(0, 100 * samples))
    assert plan.basis == "as packed"
    assert data_bytes(experiment) == (0, 0, []), "what is packed is there"
    for name, epochs in plan.epochs.items():
        assert plan.tokens[name] == data.source(name).tokens("train")
        assert drawn[name] / data.source(name).windows(32) == pytest.approx(100 * epochs, rel=0.02)


def test_a_phase_is_told_apart(prepared: dict[str, Any]) -> None:
    phases = [{"from": 0.33, "weights": {"sample-korean": 0.0}}, {"from": 0.85, "weights": {"sample-english": 0.5}}]
    experiment = Experiment.model_validate({**prepared, "data": {**prepared["data"], "phases": phases}})
    steps, batch = experiment.train.max_steps, experiment.train.global_batch
    plan = plan_data(experiment)
    data = PackedData.open(Artifacts(experiment).packed, None)
    weights = phase_weights(experiment.data, steps)
    assert list(plan.phases) == list(weights) == [0, 13, 34]
    mixed = Sampler(data, weights[0], 32, experiment.seed, global_batch=batch, phases=weights)
    for name in plan.epochs:
        windows = data.source(name).windows(32)
        for start, end in pairwise([*plan.phases, steps]):
            drawn = [source for source, _ in mixed.windows(start * batch, (end - start) * batch)].count(name)
            assert plan.phases[start][name] * windows == pytest.approx(drawn, rel=0.2), "a block that is cut"
        assert plan.epochs[name] == pytest.approx(sum(part[name] for part in plan.phases.values()))
    assert plan.phases[13]["sample-korean"] == 0.0
    shown = describe_experiment(experiment)
    assert "#   sample-korean, steps 14 to 34   0: 0.00 epochs\n" in shown
    assert "#   sample-english, steps 35 to 40  " in shown
    assert ", steps " not in describe_experiment(Experiment.model_validate(prepared))


def test_a_plan_before_the_data_is_there(prepared: dict[str, Any], tmp_path: Path) -> None:
    """From the sizes of sources and files it is of the right size."""
    exact = plan_data(Experiment.model_validate(prepared))
    early = plan_data(Experiment.model_validate({**prepared, "data_directory": str(tmp_path)}))
    assert early.basis.startswith("estimated from the sizes")
    for name, tokens in early.tokens.items():
        assert tokens == int(0.2e6 * 0.9 / BYTES_PER_TOKEN)
        assert 0.3 < tokens / (exact.tokens[name] or 1) < 3
        assert 0.3 < early.epochs[name] / exact.epochs[name] < 3
    there = Artifacts(Experiment.model_validate(prepared))
    corpus, tokens = (
        sum(file.stat().st_size for file in folder.rglob(pattern))
        for folder, pattern in ((there.corpus, "*.jsonl.zst"), (there.packed, "*.bin"))
    )
    most, about, unknown = data_bytes(Experiment.model_validate({**prepared, "data_directory": str(tmp_path)}))
    assert corpus < most < 10 * corpus
    assert 0.3 < about / tokens < 3
    assert unknown == []


def test_the_limit_of_a_try_is_in_the_plan_and_on_the_disk(tmp_path: Path) -> None:
    config = tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=3))
    made_up = "data.sources=[{name: ko, kind: embedded, language: ko, megabytes: 3}]"
    all_of_it, a_third = (load_experiment(config, [made_up, *more]) for more in ([], ["data.limit_megabytes=1"]))
    assert plan_data(all_of_it).tokens["ko"] == pytest.approx(3 * (plan_data(a_third).tokens["ko"] or 0), rel=1e-3)
    for all_bytes, third_bytes in zip(data_bytes(all_of_it)[:2], data_bytes(a_third)[:2], strict=True):
        assert all_bytes == pytest.approx(3 * third_bytes, rel=1e-3)


def test_the_catalogue_of_better_text_is_half_korean_and_repeats_little() -> None:
    """For the training of `default`, the longest that is shipped."""
    catalogue = [f"data.sources={CONFIGS / 'data' / 'quality.yaml'}", "data_directory=/nowhere"]
    experiment = load_experiment(CONFIGS / "default.yaml", catalogue)
    plan = plan_data(experiment)
    seen = {name: epochs * (plan.tokens[name] or 0) for name, epochs in plan.epochs.items()}
    assert len(seen) == 6
    korean = sum(seen[source.name] for source in experiment.data.sources if source.language == "ko")
    assert korean / sum(seen.values()) == pytest.approx(0.5, abs=0.01)
    assert not plan.warnings
    assert max(plan.epochs, key=lambda name: plan.epochs[name]) == "ko-wikipedia", "the best is seen most often"


def test_too_many_epochs_are_warned_of(tmp_path: Path) -> None:
    texts = tiny.write_texts(tmp_path / "texts")
    config = tiny.write_experiment(tmp_path, texts)
    assert "WARNING" not in describe_experiment(load_experiment(config))
    shown = describe_experiment(load_experiment(config, ["train.max_steps=30000", "data.sources.0.weight=3"]))
    assert "# WARNING: ko is seen " in shown
    experiment = load_experiment(config, ["train.max_steps=30000", "data.sources.0.weight=3"])
    (tmp_path / "shown.yaml").write_text(shown, encoding="utf-8")
    assert load_experiment(tmp_path / "shown.yaml") == experiment, "with its comments it is still an experiment"
    assert yaml.safe_load(shown)["train"]["max_steps"] == 30000


def test_files_that_are_not_there_leave_the_plan_open(tmp_path: Path) -> None:
    config = tiny.write_experiment(tmp_path, {"ko": tmp_path / "nowhere.jsonl"})
    plan = plan_data(load_experiment(config))
    assert plan.tokens == {"ko": None}
    assert plan.epochs == {}
    assert "nowhere.jsonl" in describe_experiment(load_experiment(config))
