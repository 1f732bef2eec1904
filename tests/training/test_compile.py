"""A compiled training: what is compiled, and when, changes no bit of it."""

import json
import shutil
from pathlib import Path

import pytest
import ranks
import yaml
from ranks import Signalled, outcome

from sllm.records import read_jsonl
from sllm.run_directory import checkpoint_path

pytestmark = [pytest.mark.slow, pytest.mark.kills, pytest.mark.timeout(3600)]


def rename(config: Path, run: Path) -> Path:
    """Write the experiment as another run; returns the path of its file."""
    run.mkdir(exist_ok=True)
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    path = run / "experiment.yaml"
    path.write_text(yaml.safe_dump({**values, "name": run.name, "runs_directory": str(run.parent)}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def straight(signalled: Signalled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the training that nothing interrupts."""
    config = rename(signalled.config, tmp_path_factory.mktemp("straight") / "straight")
    ranks.run(config, 1, **signalled.environment)
    return config.parent


def test_signals_to_all_of_a_job_wait_until_it_is_compiled(signalled: Signalled, straight: Path) -> None:
    """Slurm sends them to compilers too. One that ended would fail the training, or have an instruction set taken for
    missing and other numbers computed."""
    run = signalled.config.parent
    log = (run / "ranks.log").read_text(encoding="utf-8")
    assert signalled.codes == [0, 0, 0], log[-3000:]
    assert log.count("compiling the model") == log.count("compiled in") == 3
    assert [record["kind"] for record in read_jsonl(run / "metrics.jsonl")][:3] == ["start", "start", "train"]
    assert outcome(run) == outcome(straight)


def test_nothing_compiles_after_the_first_step(signalled: Signalled) -> None:
    """It would hear signals."""
    assert signalled.codes == [0, 0, 0]
    assert list(signalled.cache.rglob("*.so"))
    assert signalled.late == []


@pytest.mark.parametrize("validated", [True, False])
def test_a_validation_that_comes_first_changes_no_step(
    signalled: Signalled, straight: Path, tmp_path: Path, validated: bool
) -> None:
    run = tmp_path / "resumed"
    shutil.copytree(straight, run)
    records = read_jsonl(run / "metrics.jsonl")
    kinds = [record["kind"] for record in records if record["kind"] != "checkpoint"]
    assert kinds == ["start", *["train"] * 3, "validation", *["train"] * 3, "validation"]

    shutil.rmtree(checkpoint_path(run / "checkpoints", 6))
    kept = [r for r in records if r["step"] <= 3 and (validated or r["kind"] != "validation")]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    ranks.run(rename(signalled.config, run), 1, **signalled.environment)
    assert outcome(run) == outcome(straight)
