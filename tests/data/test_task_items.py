"""The items of tasks come from the hub once, whole or not at all, and say where they are from."""

import json
from pathlib import Path

import pytest
from hub import Hub, hub
from small_tasks import ENGLISH, KOREAN, add_tasks, write_rows

from sllm.config.tasks import TASKS
from sllm.data import tasks as task_data
from sllm.data.tasks import fetch_tasks, fetched, not_tried, parts_of, why_missing

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


# --- outside the catalogue ------------------------------------------------------------------------


def test_any_task_of_lm_eval_with_a_plain_home(served: Hub, tmp_path: Path) -> None:
    """Whose files `datasets` finds by its configuration; all columns of text count."""
    rows = [
        {"sentence": f"the _ is {number}", "option1": "cat", "option2": "sea", "answer": "1"} for number in range(5)
    ]
    home = served.root / "allenai/winogrande"
    for split in ("validation", "train", "test"):
        write_rows(home / f"winogrande_xl/{split}-00000-of-00001.parquet", rows)
    lines = [f"  - split: {split}\n    path: winogrande_xl/{split}-*" for split in ("train", "validation", "test")]
    head = "---\nconfigs:\n- config_name: winogrande_xl\n  data_files:\n"
    (home / "README.md").write_text(head + "\n".join(lines) + "\n---\n", encoding="utf-8")
    assert fetch_tasks(["winogrande"], tmp_path / "tasks") == {}
    manifest = fetched(tmp_path / "tasks", "winogrande")
    assert manifest is not None
    assert (manifest["splits"], manifest["items"], manifest["language"]) == (["validation", "train"], 5, "en")
    assert manifest["licence"] is None
    texts = [text for _, _, text in task_data.test_texts(tmp_path / "tasks", ["winogrande"])]
    assert texts[3] == "the _ is 3\ncat\nsea\n1"


def test_what_the_hub_has_made_of_a_loading_script(served: Hub, tmp_path: Path) -> None:
    home = served.root / "allenai/openbookqa"
    for split in ("test", "train"):
        rows = [{"question_stem": "민수는 책을", "choices": {"text": ["읽었다", "보았다"]}, "answerKey": "A"}]
        write_rows(home / f"main/{split}/0000.parquet", rows)
    (home / "openbookqa.py").write_text("raise SystemExit('never run')\n", encoding="utf-8")
    assert fetch_tasks(["openbookqa"], tmp_path / "tasks") == {}
    manifest = fetched(tmp_path / "tasks", "openbookqa")
    assert manifest is not None
    assert (manifest["splits"], manifest["language"]) == (["test", "train"], "ko")


def test_a_group_is_fetched_by_its_tasks(served: Hub, tmp_path: Path) -> None:
    assert not_tried(["kobest"], tmp_path / "tasks") == ["kobest"]
    lost = fetch_tasks(["kobest"], tmp_path / "tasks")
    names = [f"kobest_{part}" for part in ("boolq", "copa", "hellaswag", "sentineg", "wic")]
    assert parts_of("kobest", tmp_path / "tasks") == names
    assert not_tried(["kobest"], tmp_path / "tasks") == []
    # Outside the catalogue its home is as `datasets` finds it, which here has no README that tells its configurations.
    assert set(lost) <= set(names)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("kobest_bolq", "no task 'kobest_bolq'; did you mean kobest_boolq"),
        ("gsm8k", "the hub has no dataset openai/gsm8k"),
        ("niah_single_1", "its items are made by code of its own"),
    ],
)
def test_what_cannot_be_had_says_why_and_costs_nothing_else(
    name: str, reason: str, served: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = fetch_tasks([name, "piqa"], tmp_path / "tasks")
    assert list(lost) == [name]
    assert reason in lost[name]
    assert reason in capsys.readouterr().err
    assert not_tried([name, "piqa"], tmp_path / "tasks") == []
