"""The chain from the items of tasks to their scores: one try without a network, more when told, and nothing twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from conftest import sllm
from hub import Hub, serving
from small_tasks import add_tasks

from jobs import ledger
from sllm.config.tasks import TASKS
from sllm.files import read_json
from sllm.run_directory import RunDirectory

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Hub]:
    with serving(tmp_path / "hub") as hub:
        add_tasks(hub.root, 5)
        hub.pinned |= {task.revision for task in TASKS.values()}
        yield hub


@pytest.fixture
def config(tmp_path: Path, texts: dict[str, Path]) -> Path:
    return tiny.write_experiment(tmp_path, texts)


def with_tasks(*names: str) -> str:
    return f"benchmark.tasks=[{','.join(names)}]"


@pytest.mark.slow
def test_items_are_tried_once_and_again_when_told(running: Hub, config: Path) -> None:
    """A task more makes nothing stale but the benchmark: the download runs again for its items alone."""
    place = config.parent
    arguments = ("submit", config, "--on", "here", "--until", "tokenizer", with_tasks("piqa"))
    first = sllm(*arguments, cwd=place, HF_ENDPOINT=NOBODY)
    assert first.returncode == 0, first.stderr
    assert "going on without the items of piqa: the hub cannot be reached" in first.stdout + first.stderr
    corpora = [path.stat().st_ino for path in (place / "data" / "corpora").iterdir()]

    again = sllm(*arguments, cwd=place, HF_ENDPOINT=running.url)
    assert again.returncode == 0
    assert "piqa" not in again.stderr
    assert not running.requests

    told = sllm("download", config, with_tasks("piqa"), cwd=place, HF_ENDPOINT=running.url)
    assert told.returncode == 0, told.stderr
    assert (place / "data/tasks/piqa/manifest.json").is_file()

    more = (*arguments[:-1], with_tasks("piqa", "haerae"))
    plan = sllm(*more, "--dry-run", cwd=place, HF_ENDPOINT=running.url).stdout
    assert "has not tried to get the items of haerae" in plan
    assert sllm(*more, cwd=place, HF_ENDPOINT=running.url).returncode == 0
    assert (place / "data/tasks/haerae_history/manifest.json").is_file()
    assert [path.stat().st_ino for path in (place / "data" / "corpora").iterdir()] == corpora
    started = [attempt["stage"] for attempt in ledger.attempts(RunDirectory(place / "runs/tiny"))]
    assert started == ["download", "tokenizer", "download", "download"]


@pytest.mark.slow
def test_from_the_hub_to_a_score(running: Hub, config: Path) -> None:
    """The benchmark comes when the hub is gone; what it could not measure then it measures when the items are there."""
    place, names = config.parent, with_tasks("kobest_copa", "arc_easy")
    stage = place / "runs/tiny/stages/benchmark"
    (running.root / "allenai").rename(running.root / "gone")
    until = sllm("submit", config, "--on", "here", "--until", "download", names, cwd=place, HF_ENDPOINT=running.url)
    assert until.returncode == 0, until.stderr
    running.requests.clear()
    rest = sllm("submit", config, "--on", "here", names, cwd=place, HF_ENDPOINT=running.url)
    assert rest.returncode == 0, rest.stderr
    assert not running.requests
    found = read_json(stage / "results.json")["tasks"]
    assert list(found["measured"]) == ["kobest_copa"]
    assert found["measured"]["kobest_copa"]["items"] == 5
    assert "no dataset allenai/ai2_arc" in found["not_measured"]["arc_easy"]
    assert "kobest_copa" in (stage / "results.txt").read_text(encoding="utf-8")
    status = sllm("status", place / "runs/tiny", cwd=place).stdout
    assert "kobest_copa" in status
    assert "f1 0." in status

    (running.root / "gone").rename(running.root / "allenai")
    assert sllm("download", config, names, cwd=place, HF_ENDPOINT=running.url).returncode == 0
    kept = (stage / "tasks/kobest_copa.json").stat().st_ino
    last = sllm("submit", config, "--on", "here", names, cwd=place, HF_ENDPOINT=NOBODY)
    assert last.returncode == 0, last.stderr
    assert list(read_json(stage / "results.json")["tasks"]["measured"]) == ["kobest_copa", "arc_easy"]
    assert (stage / "tasks/kobest_copa.json").stat().st_ino == kept
    assert "nothing to do" in sllm("submit", config, "--on", "here", names, cwd=place).stdout.lower()


@pytest.mark.parametrize("command", [("submit", "--on", "here"), ("download",), ("benchmark",)])
def test_a_task_that_does_not_exist_is_told_at_once(command: tuple[str, ...], config: Path) -> None:
    found = sllm(command[0], config, *command[1:], with_tasks("piqa", "kobest_bolq"), cwd=config.parent)
    assert found.returncode == 2
    assert "benchmark.tasks: no task 'kobest_bolq'; did you mean kobest_boolq" in found.stderr
    assert not (config.parent / "runs").exists()
