"""The items of tasks come from the hub once, whole or not at all, and say where they are from."""

import json
from pathlib import Path

import pytest
from hub import Hub, hub
from small_tasks import ENGLISH, KOREAN, add_tasks

from sllm.config.tasks import TASKS
from sllm.data import tasks as task_data
from sllm.data.tasks import fetch_tasks, fetched, why_missing

__all__ = ["hub"]

PARTS = [part for task in TASKS.values() for part in task.parts]


@pytest.fixture
def served(hub: Hub) -> Hub:
    """The catalogue, at commits that the stand-in knows."""
    add_tasks(hub.root)
    hub.pinned |= {task.revision for task in TASKS.values()}
    return hub


def test_every_task_comes_whole_with_its_commit_and_licence(served: Hub, tmp_path: Path) -> None:
    assert fetch_tasks(TASKS, tmp_path / "tasks") == {}
    for task in TASKS.values():
        for part, files in task.parts.items():
            manifest = fetched(tmp_path / "tasks", part)
            assert manifest is not None
            assert manifest["revision"] == served.commit(task.dataset)
            assert manifest["licence"].replace("-", " ").lower() == task.licence.replace("-", " ").lower()
            assert (manifest["items"], manifest["splits"]) == (12, list(files))
            assert {file["name"] for file in manifest["files"]} == {f"{split}.parquet" for split in files}


def test_the_texts_are_those_of_the_items_that_are_scored(served: Hub, tmp_path: Path) -> None:
    fetch_tasks(TASKS, tmp_path / "tasks")
    texts = list(task_data.test_texts(tmp_path / "tasks", TASKS))
    assert [part for part, _, _ in texts] == [part for part in PARTS for _ in range(12)]
    for part, language, text in texts:
        assert text.split()[0].strip("?.") in (KOREAN if language == "ko" else ENGLISH).split(), part
    lines = (served.root / "skt/kobest_v1/copa/test.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    shown = [text for part, _, text in texts if part == "kobest_copa"]
    assert shown == [f"{item['premise']}\n{item['alternative_1']}\n{item['alternative_2']}" for item in items]


def test_what_is_there_is_not_fetched_again(served: Hub, tmp_path: Path) -> None:
    fetch_tasks(["piqa"], tmp_path / "tasks")
    served.requests.clear()
    fetch_tasks(["piqa"], tmp_path / "tasks")
    assert not served.requests


def test_without_a_hub_it_goes_on_and_says_what_is_missing(
    served: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.server.shutdown()
    served.server.server_close()
    lost = fetch_tasks(["piqa", "haerae"], tmp_path / "tasks")
    assert set(lost) == {"piqa", *TASKS["haerae"].parts}
    assert why_missing(tmp_path / "tasks", "piqa") == lost["piqa"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "piqa" in told[0]
    assert "tries again" in told[0]
    assert list(task_data.test_texts(tmp_path / "tasks", TASKS)) == []


def test_a_home_that_has_changed_costs_that_task_only(served: Hub, tmp_path: Path) -> None:
    (served.root / "skt/kobest_v1/copa/test.jsonl").unlink()
    (served.root / "skt/kobest_v1/wic/test.jsonl").write_text('{"word": "책"}\n', encoding="utf-8")
    lost = fetch_tasks(["kobest_boolq", "kobest_copa", "kobest_wic"], tmp_path / "tasks")
    assert "no copa/test.jsonl" in lost["kobest_copa"]
    assert "no column context_1" in lost["kobest_wic"]
    assert lost.keys() == {"kobest_copa", "kobest_wic"}
    assert fetched(tmp_path / "tasks", "kobest_copa") is None


def test_what_could_not_be_had_is_tried_again(served: Hub, tmp_path: Path) -> None:
    gone = served.root / "gone"
    (served.root / "baber").rename(gone)
    assert fetch_tasks(["piqa"], tmp_path / "tasks")
    gone.rename(served.root / "baber")
    assert fetch_tasks(["piqa"], tmp_path / "tasks") == {}
    assert why_missing(tmp_path / "tasks", "piqa") is None
    assert fetched(tmp_path / "tasks", "piqa") is not None
