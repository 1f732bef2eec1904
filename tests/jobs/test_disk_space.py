"""What `sllm doctor` says of the disk, without a cluster."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import yaml
from typer.testing import CliRunner

import jobs.cli


def space(directory: Path, *arguments: str | Path) -> list[str]:
    """The findings about room, each on one line."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(directory)
        out = CliRunner(env={"COLUMNS": "200"}).invoke(jobs.cli.app, ["doctor", *map(str, arguments)]).stdout
    return [" ".join(line.split()) for line in out.split("\n") if " space " in line]


def test_checkpoints_that_are_kept_for_ever_count(tmp_path: Path) -> None:
    config = tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=3))  # one each 10 steps
    counts = {f"train.checkpoint.keep_every={each}": count for each, count in ((10, 10), (15, 6), (30, 6), (7, 4))}
    counts["train.checkpoint.keep_last=1000"] = 10  # all there ever are, and room for one more
    for override, count in {"seed=1": 3, "train.schedule=wsd": 4, **counts}.items():
        (line,) = space(tmp_path, config, "train.max_steps=90", override)
        assert line.startswith("ok here: space")
        assert f"; {count} checkpoints, the best model and its export take " in line
        assert re.search(r", corpus at most \d+ bytes, tokens about \d+ bytes$", line)


def test_data_on_a_disk_of_its_own(tmp_path: Path, mount_disk: Callable[[str], Path]) -> None:
    disk = mount_disk("8m")
    config = tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=3))
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    values["data"]["sources"].append({"kind": "embedded", "name": "much", "language": "ko", "megabytes": 100})
    values["data"]["sources"].append({"kind": "hub", "name": "web", "language": "en", "dataset": "some/web"})
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    run, data = space(tmp_path, config, f"data_directory={disk}/data")
    assert run.startswith("ok here: space")
    assert data.startswith("bad here: data: space 8.4 MB free; corpus at most 50.0 MB, tokens about 44.4 MB, ")
    assert data.endswith(" and what web bring, of unknown size")
