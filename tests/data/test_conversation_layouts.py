"""Which rows are conversations, in all layouts and kinds of files."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from small_conversations import EN, KO, over_sources, write_rows

from sllm.config import AihubSource, FilesSource
from sllm.data.conversations.layouts import messages_of
from sllm.data.conversations.line import from_line
from sllm.data.conversations.read import parquet_conversations, read_conversations
from sllm.errors import UserError


def talk(*contents: str, system: str = "") -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    said = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}, *said] if system else said


HI = talk("안녕?", "안녕하세요.")


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": KO, "source": "made up"}, KO),
        ({"messages": [{"role": "system", "content": " "}, *EN]}, EN),
        ({"messages": EN, "prompt": "How", "completion": "So"}, EN),
        ({"conversations": [{"from": "human", "value": "안녕?"}, {"from": "gpt", "value": "안녕하세요."}]}, HI),
        (
            {"conversations": HI, "system": "친절하게 대답해라."},
            talk("안녕?", "안녕하세요.", system="친절하게 대답해라."),
        ),
        ({"conversation": HI, "system": None}, HI),
        (
            {"conversations": [{"from": "system", "value": "하나"}, {"from": "human", "value": "둘"}], "system": "셋"},
            talk("둘", system="하나"),
        ),
        ({"instruction": "안녕?", "input": "", "output": "안녕하세요.", "url": "x"}, HI),
        ({"instruction": "요약해라.", "input": "긴 글", "output": "글"}, talk("요약해라.\n\n긴 글", "글")),
        ({"instruction": "Sum up.", "context": "Text", "response": "T", "category": "x"}, talk("Sum up.\n\nText", "T")),
        ({"question": "안녕?", "answer": "안녕하세요.", "system_prompt": ""}, HI),
        (
            {"question": "안녕?", "response": "안녕하세요.", "system_prompt": "짧게"},
            talk(*[m["content"] for m in HI], system="짧게"),
        ),
        ({"prompt": "안녕?", "completion": "안녕하세요."}, HI),
        # What is missing is empty, and a role that nobody knows stays: the cleaning counts them.
        ({"instruction": "안녕?", "output": None}, talk("안녕?", "")),
        ({"messages": [{"role": "tool", "content": "3"}]}, [{"role": "tool", "content": "3"}]),
        ({"messages": []}, []),
        # No conversations.
        ({"messages": "안녕?"}, None),
        ({"messages": None}, None),
        ({"messages": ["안녕?"]}, None),
        ({"messages": [{"content": "안녕?"}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "안녕?"}]}]}, None),
        ({"instruction": ["안녕?"], "output": "안녕하세요."}, None),
        ({"instruction": "안녕?", "output": 3}, None),
        ({"text": "안녕?"}, None),
    ],
)
def test_layouts(row: dict[str, Any], messages: list[dict[str, str]] | None) -> None:
    assert messages_of(row) == messages


def files(*paths: Path) -> FilesSource:
    return FilesSource(kind="files", name="talk", language="ko", paths=tuple(map(str, paths)))


def read(*paths: Path, start: int = 0) -> list[Any]:
    return [from_line(text) for text in read_conversations(files(*paths), 0, list(map(str, paths)), start)]


ROWS = [{"messages": KO, "id": 1}, {"messages": EN, "id": 2}, {"messages": HI, "id": 3}]


def test_every_kind_of_file_reads_alike_from_any_row_on(tmp_path: Path) -> None:
    plain = write_rows(tmp_path / "a.jsonl", ROWS)
    packed = tmp_path / "b.jsonl.zst"
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    table = tmp_path / "c.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), table)
    for path in (plain, packed, table):
        for start in range(4):
            assert read(path, start=start) == [KO, EN, HI][start:]
    assert read(plain, table, start=2) == [HI, KO, EN, HI]


def test_other_columns_of_parquet_are_not_read(tmp_path: Path) -> None:
    rows = [{"messages": EN, "score": 3}, {"messages": None, "score": 4}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with (tmp_path / "a.parquet").open("rb") as file:
        found = [from_line(text or "") for text in parquet_conversations(file, "a", 0)]
    assert found == [EN, {"messages": None}]


def test_a_row_that_is_none_is_given_whole(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [ROWS[0], {"text": "글"}, {"messages": [3]}, ROWS[1]])
    assert read(path) == [KO, {"text": "글"}, {"messages": [3]}, EN]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '\n{"text": "글", "id": 3}\n',
            "a.jsonl:2: no conversation: its keys are text, id, and those of conversations messages (role, content), "
            "conversations (from, value), or instruction, prompt or question with output, response, answer or "
            "completion; write it so, or leave the file out",
        ),
        ("a.jsonl", "{}\n", "a.jsonl:1: no conversation: its keys are none, and"),
        ("a.jsonl", '{"instruction": "하나"}\n', "a.jsonl:1: no conversation: its keys are instruction, and"),
        ("a.jsonl", '[{"messages": []}]\n', 'a.jsonl:1: a list, not an object such as {"messages": […]}'),
        ("a.jsonl", "null\n", 'a.jsonl:1: null, not an object such as {"messages": […]}'),
        ("a.jsonl", '{"messages": [}\n', "a.jsonl:1: not valid JSON: Expecting value at column 15; correct the line"),
        ("a.txt", "안녕?", "a.txt: text, not conversations; valid are .jsonl, .jsonl.zst, .parquet"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(error.value)


def test_parquet_without_a_layout(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["글"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"/a\.parquet: no conversation: its keys are text, label, and those of"):
        read(tmp_path / "a.parquet")


def test_text_field_means_nothing(tmp_path: Path) -> None:
    source = {"kind": "files", "name": "talk", "language": "ko", "paths": ["*.jsonl"], "text_field": "dialogue"}
    with pytest.raises(ValueError, match=r"sources\.0\.text_field: 'dialogue', but conversations are found by their"):
        over_sources([source])
    assert over_sources([{**source, "text_field": "text"}])  # as a run's config.yaml says it


# --- AI Hub ---------------------------------------------------------------------------------------


def aihub(folder: Path, *dialogues: list[tuple[str, str | None]]) -> list[Any]:
    """As conversations in messengers are handed out."""
    data = [{"body": [{"participantID": who, "utterance": said} for who, said in turns]} for turns in dialogues]
    path = folder / "set.json"
    path.write_text(json.dumps({"data": data}, ensure_ascii=False), encoding="utf-8")
    source = AihubSource(kind="aihub", name="talk", folder=str(folder))
    return [from_line(text) for text in read_conversations(source, 0, [str(path)], 0)]


def test_speakers_become_user_and_assistant(tmp_path: Path) -> None:
    lines = [
        ("P02", "밥 먹었어?"),
        ("P01", "아직."),
        ("P01", None),
        ("P01", "배고프다."),
        ("P02", "같이 먹자."),
        ("P02", "지금."),
    ]
    assert aihub(tmp_path, lines) == [
        [
            {"role": "user", "content": "밥 먹었어?"},
            {"role": "assistant", "content": "아직.\n배고프다."},
            {"role": "user", "content": "같이 먹자.\n지금."},
        ]
    ]


def test_one_and_three_speakers_have_no_roles(tmp_path: Path) -> None:
    one, three, none = aihub(tmp_path, [("A", "안녕"), ("A", "여기")], [("A", "하나"), ("B", "둘"), ("C", "셋")], [])
    assert one == [{"role": "A", "content": "안녕\n여기"}]
    assert [message["role"] for message in three] == ["A", "B", "C"]
    assert none == []
