"""Every format gives the same documents, and what is wrong with a file is named with file and line."""

import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sllm.config import AihubSource, EmbeddedSource, FilesSource
from sllm.data.sources import matching_files, read_documents, read_file
from sllm.errors import UserError


def source(*paths: Path | str, text_field: str = "text") -> FilesSource:
    return FilesSource(kind="files", name="mine", language="ko", paths=tuple(map(str, paths)), text_field=text_field)


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def write(path: Path, texts: list[str]) -> Path:
    if path.name.endswith(".parquet"):
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path, row_group_size=2)
    elif path.name.endswith(".zst"):
        path.write_bytes(zstandard.compress(lines(texts)))
    elif path.name.endswith(".jsonl"):
        path.write_bytes(lines(texts))
    else:
        (text,) = texts
        path.write_bytes(text.encode("utf-8"))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
@settings(max_examples=25)
@given(texts=st.lists(st.text(), max_size=8))
def test_documents_come_back(tmp_path_factory: pytest.TempPathFactory, name: str, texts: list[str]) -> None:
    path = write(tmp_path_factory.mktemp("s") / name, texts)
    assert list(read_documents(source(path), seed=0)) == texts


def test_a_txt_file_is_one_document(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", ["둘\n\n두 줄\r\n"])
    write(tmp_path / "a.txt", ["하나"])
    assert list(read_documents(source(tmp_path / "*.txt"), seed=0)) == ["하나", "둘\n\n두 줄\r\n"]


def test_files_are_sorted_and_each_comes_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("c.jsonl", "a.txt", "sub/b.parquet", ".hidden.jsonl", "odd[1].txt"):
        (tmp_path / name).touch()
    patterns = source(tmp_path / "**", tmp_path / "*.jsonl", tmp_path / "odd[1].txt")
    found = [path.relative_to(tmp_path).as_posix() for path in matching_files(patterns)]
    assert found == ["a.txt", "c.jsonl", "odd[1].txt", "sub/b.parquet"]


def test_null_is_an_empty_document_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": null, "id": 1}\n\n  \n{"text": "x"}')
    assert list(read_file(path, "text")) == ["", "x"]
    pq.write_table(pa.table({"text": ["x", None]}), tmp_path / "a.parquet")
    assert list(read_file(tmp_path / "a.parquet", "text")) == ["x", ""]


def test_another_field(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "no", "document": "yes"}\n', encoding="utf-8")
    assert list(read_documents(source(tmp_path / "a.jsonl", text_field="document"), seed=0)) == ["yes"]


def test_embedded_sources_of_one_language_differ() -> None:
    def texts(name: str, seed: int) -> list[str]:
        return list(read_documents(EmbeddedSource(kind="embedded", name=name, language="ko", megabytes=0.02), seed))

    assert texts("a", 1) == texts("a", 1)
    assert texts("a", 1) != texts("b", 1)
    assert texts("a", 1) != texts("a", 2)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.parquet", r"mine: no file matches .*/\*\.parquet; correct its paths"),
        ("missing.jsonl", "mine: no file matches .*missing.jsonl"),
        ("folder", r"mine: no file matches .*it is a folder: write .*folder/\*\.jsonl\.zst"),
        ("*", r"mine: .*notes\.md cannot be read; valid are \.txt, \.jsonl, \.jsonl\.zst, \.parquet"),
    ],
)
def test_patterns_that_name_no_data(tmp_path: Path, pattern: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.md").touch()
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=message):
        matching_files(source(tmp_path / "a.txt", tmp_path / pattern))


GOOD = b'{"text": "good"}\n'


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def compressed(content: bytes) -> Callable[[Path], object]:
    return raw(zstandard.compress(content))


def cut(path: Path) -> None:
    whole = zstandard.compress(GOOD * 1000 + lines([f"{i:x}" * 50 for i in range(1000)]))
    path.write_bytes(whole[: len(whole) // 2])


def table(column: pa.Array, name: str = "text") -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.table({"id": range(len(column)), name: column}), path)


def cut_table(path: Path) -> None:
    table(pa.array(["a", "b"]))(path)
    path.write_bytes(path.read_bytes()[:-10])


BAD = {
    "invalid UTF-8, jsonl": (
        "a.jsonl",
        raw(GOOD * 2 + b'{"text": "\xb0\xa1"}\n'),
        r"a\.jsonl:3: not valid UTF-8.*0xb0",
    ),
    "invalid UTF-8, zst": (
        "a.jsonl.zst",
        compressed(GOOD + b'{"text": "\xff"}\n'),
        r"a\.jsonl\.zst:2: not valid UTF-8",
    ),
    "invalid UTF-8, txt": ("a.txt", raw("한 줄\n두 줄\n".encode() + b"\xff"), r"a\.txt:3: not valid UTF-8"),
    "invalid UTF-8, parquet": (
        "a.parquet",
        table(pa.array([b"good", b"\xff"]).view(pa.string())),
        r"a\.parquet: row 2: not valid UTF-8",
    ),
    "invalid JSON": ("a.jsonl", raw(GOOD + b'{"text": "a"\n'), r"a\.jsonl:2: not valid JSON"),
    "JSON without end": ("a.jsonl", raw(GOOD + b"[" * 100_000), r"a\.jsonl:2: not a document"),
    "no object": ("a.jsonl", raw(b'["text"]\n'), r'a\.jsonl:1: a list, not an object such as \{"text": …\}'),
    "no field": ("a.jsonl", raw(GOOD + b'{"body": "a", "id": 1}\n'), r"a\.jsonl:2: no field 'text'.*: body, id$"),
    "no text": ("a.jsonl", raw(b'{"text": 3}\n'), r"a\.jsonl:1: 'text' holds a value of type int, not text"),
    "truncated zst": ("a.jsonl.zst", cut, r"a\.jsonl\.zst is truncated"),
    "no zst": ("a.jsonl.zst", raw(GOOD), r"a\.jsonl\.zst cannot be decompressed"),
    "no column": ("a.parquet", table(pa.array(["x"]), name="body"), r"a\.parquet: no field 'text'.*: id, body$"),
    "no text column": ("a.parquet", table(pa.array([1])), r"a\.parquet: row 1: 'text' holds a value of type int"),
    "truncated parquet": ("a.parquet", cut_table, r"a\.parquet: damaged, or not parquet"),
    "no parquet": ("a.parquet", raw(b""), r"a\.parquet: damaged, or not parquet"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(tmp_path: Path, case: str) -> None:
    name, make, message = BAD[case]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        list(read_documents(source(tmp_path / name), seed=0))
    assert "\n" not in str(caught.value)


def test_what_comes_before_the_damage_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD * 2 + b"{")
    documents = read_documents(source(tmp_path / "a.jsonl"), seed=0)
    assert [next(documents), next(documents)] == ["good", "good"]
    with pytest.raises(UserError):
        next(documents)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [random.Random(number).randbytes(12_500).hex() for number in range(1_000)])
    tracemalloc.start()
    total = sum(map(len, read_documents(source(tmp_path / name), seed=0)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 25_000_000
    assert peak < 6_000_000


CONVERSATION = "A: 안녕\nB: 그래 안녕\nA: 잘 지냈어?"
TURNS = [("p7", "안녕"), ("p2", "그래 안녕"), ("p7", "잘 지냈어?")]
LAYOUTS = {
    "by topic": {
        "info": [{"annotations": {"lines": [{"speaker": {"id": s}, "norm_text": t, "text": "x"} for s, t in TURNS]}}]
    },
    "messenger": {"data": [{"header": {}, "body": [{"participantID": s, "utterance": t} for s, t in TURNS]}]},
    "sessions": {"sessionInfo": [{"dialog": [{"speaker": s, "utterance": t} for s, t in TURNS]}]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_conversations_of_ai_hub(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "unpacked" / "라벨링데이터" / "a.json"
    path.parent.mkdir(parents=True)
    path.write_text("\ufeff" + json.dumps(LAYOUTS[layout], ensure_ascii=False), encoding="utf-8")
    (tmp_path / "unpacked" / "notes.txt").touch()
    talk = AihubSource(kind="aihub", name="talk", folder=str(tmp_path / "unpacked"))
    assert list(read_documents(talk, seed=0)) == [CONVERSATION]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"info": [{"lines": []}]}', r"a\.json: not a conversation set of AI Hub"),
        ("[1]", r"a\.json: not a conversation set of AI Hub"),
        ('{"data": [\n', r"a\.json:2: not valid JSON"),
        (None, "talk: no .json file in .*; with an account of https://aihub.or.kr .* unpack it there, or set optional"),
    ],
)
def test_what_is_not_from_ai_hub(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        list(read_documents(AihubSource(kind="aihub", name="talk", folder=str(tmp_path)), seed=0))
