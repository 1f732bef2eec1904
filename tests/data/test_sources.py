"""Every format gives the same documents, and what is wrong with a file is named with file and line."""

import bz2
import gzip
import json
import lzma
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
from sllm.data.sources import read_documents, read_file
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


GOOD = b'{"text": "good"}\n'
ZSTD = zstandard.compress(GOOD)


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def compressed(content: bytes) -> Callable[[Path], object]:
    return raw(zstandard.compress(content))


def cut(path: Path) -> None:
    whole = zstandard.compress(GOOD * 1000 + lines([f"{i:x}" * 50 for i in range(1000)]))
    path.write_bytes(whole[: len(whole) // 2])


def cut_in_a_line(path: Path) -> None:
    whole = zstandard.compress(lines([random.Random(number).randbytes(50).hex() for number in range(3000)]))
    path.write_bytes(whole[:-20_000])


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
    "a list over many lines": (
        "a.jsonl",
        raw(b'[\n{"text": "a"},\n'),
        r"a\.jsonl is one JSON value over many lines.*`jq -c",
    ),
    "truncated zst": ("a.jsonl.zst", cut, r"a\.jsonl\.zst is truncated"),
    "truncated zst, torn line": ("a.jsonl.zst", cut_in_a_line, r"a\.jsonl\.zst is truncated"),
    "no zst": ("a.jsonl.zst", raw(GOOD), r"a\.jsonl\.zst is plain text, not zstd; call it ….jsonl$"),
    "damaged zst": ("a.jsonl.zst", raw(ZSTD[:20] + b"\xff" * 50), r"a\.jsonl\.zst cannot be decompressed"),
    "no column": ("a.parquet", table(pa.array(["x"]), name="body"), r"a\.parquet: no field 'text'.*: id, body$"),
    "no text column": ("a.parquet", table(pa.array([1])), r"a\.parquet: row 1: 'text' holds a value of type int"),
    "truncated parquet": ("a.parquet", cut_table, r"a\.parquet: damaged, or cut off \("),
    "no parquet": ("a.parquet", raw(GOOD), r"a\.parquet is plain text, not parquet; call it ….jsonl$"),
    "nothing, parquet": ("a.parquet", raw(b""), r"a\.parquet is empty, and parquet is not"),
    "random bytes, parquet": ("a.parquet", raw(bytes(range(128, 256))), r"a\.parquet is not parquet, or damaged"),
    "a page, parquet": ("a.parquet", raw(b"<!DOCTYPE html><title>Log in</title>"), r"a\.parquet is a page of the web"),
    "CP949": (
        "a.txt",
        raw("가나다\n라마바\n".encode("cp949")),
        r"a\.txt:1: not valid UTF-8.*: iconv -f CP949 -t UTF-8$",
    ),
    "Latin-1": (
        "a.txt",
        raw("eins\nM\xfcll und K\xe4se\n".encode("latin-1")),
        r"a\.txt:2: not valid .*; iconv does it$",
    ),
    "no number": ("a.jsonl", raw(b'{"text": NaN}\n'), r"a\.jsonl:1: 'text' holds a value of type float, not text"),
    "a long number": ("a.jsonl", raw(b'{"text": ' + b"9" * 5000 + b"}\n"), r"a\.jsonl:1: 'text' holds a value of type"),
}

ZIP = b"PK\3\4\x14\0\0\0\x08\0"
TAR = b"a.txt".ljust(257, b"\0") + b"ustar\x0000"
FOREIGN = {
    "gzip": (gzip.compress(GOOD), "is gzip; unpack it: gzip -dc"),
    "bzip2": (bz2.compress(GOOD), "is bzip2; unpack it: bzip2 -dc"),
    "xz": (lzma.compress(GOOD), "is xz; unpack it: xz -dc"),
    "zstd": (ZSTD, r"is zstd; call it …\.jsonl\.zst"),
    "zip": (ZIP, r"is zip.*; unpack it: unzip"),
    "tar": (TAR, r"is a tar archive; unpack it: tar -xf"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"),
    "UTF-16, big end": (
        b"\xfe\xff" + GOOD.decode().encode("utf-16-be"),
        "is UTF-16 text; convert it: iconv -f UTF-16 -t",
    ),
    "UTF-16LE": (GOOD.decode().encode("utf-16-le"), "is UTF-16 text; convert it: iconv -f UTF-16LE -t UTF-8"),
    "UTF-16BE": (GOOD.decode().encode("utf-16-be"), "is UTF-16 text; convert it: iconv -f UTF-16BE -t UTF-8"),
    "UTF-32": (GOOD.decode().encode("utf-32"), "is UTF-32 text; convert it: iconv -f UTF-32 -t UTF-8"),
    "zeros": (bytes(1000), "holds zeros, as after a crash of its disk; fetch it again"),
    "PDF": (b"%PDF-1.7\n%\xb5\xed\xae\xfb\n", "is PDF; take the text out of it: pdftotext"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS.*: git lfs pull"),
}


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".jsonl.zst", ".parquet", " compressed.jsonl.zst"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_a_file_really_is_is_told(tmp_path: Path, kind: str, suffix: str) -> None:
    content, message = FOREIGN[kind]
    if (kind, suffix) == ("zstd", ".jsonl.zst"):
        return
    path = tmp_path / f"a{suffix}"
    path.write_bytes(zstandard.compress(content) if suffix.startswith(" ") else content)
    with pytest.raises(UserError, match=rf"/a{suffix} {message}") as caught:
        list(read_file(path, "text"))
    assert "\n" not in str(caught.value)
    assert "CP949" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".jsonl.zst"])
def test_parquet_under_another_name_is_told(tmp_path: Path, suffix: str) -> None:
    table(pa.array(["a" * 1000]))(tmp_path / f"a{suffix}")
    with pytest.raises(UserError, match=r"is parquet; call it …\.parquet"):
        list(read_file(tmp_path / f"a{suffix}", "text"))


@pytest.mark.parametrize(
    "text", ["PAR1 은 첫 네 글자다", "BZh9 ORC %PDF-1.7", "ARROW1\ttab\x1b[0m", "PK", "", "가" * 500, "\ufeff하나"]
)
def test_text_that_begins_like_another_format_is_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert list(read_file(tmp_path / "a.txt", "text")) == [text]


def test_what_json_may_hold_beside_the_text(tmp_path: Path) -> None:
    odd = b'{"text": "x", "id": ' + b"9" * 5000 + b', "score": NaN, "deep": ' + b"[" * 500 + b"]" * 500 + b"}\n"
    (tmp_path / "a.jsonl").write_bytes(odd + rb'{"text": "\ud800 \u0000 y"}')
    assert list(read_file(tmp_path / "a.jsonl", "text")) == ["x", "\ud800 \0 y"]


def test_frames_to_be_skipped(tmp_path: Path) -> None:
    """pzstd begins with one."""
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    (tmp_path / "a.jsonl.zst").write_bytes(skipped + zstandard.compress(GOOD) + skipped + zstandard.compress(GOOD))
    assert list(read_file(tmp_path / "a.jsonl.zst", "text")) == ["good", "good"]


@pytest.mark.parametrize("tail", range(1, 60, 4))
def test_a_cut_is_told_wherever_it_is(tmp_path: Path, tail: int) -> None:
    texts = [random.Random(number).randbytes(60).hex() for number in range(30)]
    whole = zstandard.compress(lines(texts))
    (tmp_path / "a.jsonl.zst").write_bytes(whole[:-tail])
    documents = read_file(tmp_path / "a.jsonl.zst", "text")
    with pytest.raises(UserError, match=r"a\.jsonl\.zst is truncated"):
        for text, expected in zip(documents, texts, strict=True):
            assert text == expected


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


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    texts = [random.Random(number).randbytes(12_500).hex() for number in range(1_000)]
    if name == "a.parquet":  # one row group, of pages of a megabyte
        pq.write_table(pa.table({"text": texts}), tmp_path / name, write_batch_size=16)
    else:
        write(tmp_path / name, texts)
    before = pa.total_allocated_bytes()
    total = peak = 0
    tracemalloc.start()
    for text in read_documents(source(tmp_path / name), seed=0):
        total += len(text)
        peak = max(peak, pa.total_allocated_bytes() - before)
    peak += tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 25_000_000
    # Of parquet 256 rows are decoded at a time.
    assert peak < (13_000_000 if name == "a.parquet" else 6_000_000)


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


def test_what_was_not_said_is_no_turn(tmp_path: Path) -> None:
    def said(*texts: str | None) -> list[dict[str, object]]:
        return [{"participantID": f"p{number % 2}", "utterance": text} for number, text in enumerate(texts)]

    bodies = [
        said("안녕", None, "잘 지냈어?"),
        said(None, " ", ""),
        [],
        None,
        said("\ud800", "3"),
        said(None, "응", "그래"),
    ]
    content = {"info": None, "data": [{"body": body} for body in bodies]}
    (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "b.json").write_text('{"sessionInfo": [{"dialog": []}, {"dialog": null}]}', encoding="utf-8")
    nobody = {
        "info": [{"annotations": {"lines": [{"speaker": None, "norm_text": "가"}, {"norm_text": "나", "id": 10}]}}]
    }
    (tmp_path / "c.json").write_text(json.dumps(nobody), encoding="utf-8")
    both = {"info": [], "data": [{"body": said("여기")}], "sessionInfo": [{"dialog": said("저기")}]}
    (tmp_path / "d.json").write_text(json.dumps(both), encoding="utf-8")
    talk = AihubSource(kind="aihub", name="talk", folder=str(tmp_path))
    assert list(read_documents(talk, seed=0)) == [
        "A: 안녕\nA: 잘 지냈어?", "", "", "", "A: \ud800\nB: 3", "A: 응\nB: 그래", "", "",
        "A: 가\nA: 나", "A: 여기", "A: 저기",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"info": [{"lines": []}]}', r"a\.json: info 1: not a conversation set of AI Hub.*: no list of turns"),
        ('{"info": null}', r"a\.json: not a conversation set of AI Hub.*: no list info, data or sessionInfo"),
        ('{"data": {"body": []}}', r"a\.json: not a conversation set of AI Hub"),
        (
            '{"data": [{"body": [{"utterance": "a"}]}, {"body": [{"utterance": 3}]}]}',
            r"data 2: turn 1 holds .* type int",
        ),
        (
            '{"data": [{"body": [{"utterance": ["a"]}]}]}',
            r"a\.json: data 1: turn 1 holds a value of type list, not text",
        ),
        ('{"data": [{"body": {"utterance": "a"}}]}', r"a\.json: data 1: not a conversation set"),
        ('{"data": [{"body": ["a"]}]}', r"a\.json: data 1: not a conversation set"),
        ('{"data": [null]}', r"a\.json: data 1: not a conversation set"),
        ("[1]", r"a\.json: not a conversation set of AI Hub"),
        ("3", r"a\.json: not a conversation set of AI Hub"),
        ('{"data": [\n', r"a\.json:2: not valid JSON"),
        ("[" * 100_000, r"a\.json: not a conversation set: JSON nested too deeply; take it out of the folder"),
        ("", r"a\.json:1: not valid JSON"),
        (None, "talk: no .json file in .*; with an account of https://aihub.or.kr .* unpack it there, or set optional"),
    ],
)
def test_what_is_not_from_ai_hub(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        list(read_documents(AihubSource(kind="aihub", name="talk", folder=str(tmp_path)), seed=0))
    assert "\n" not in str(caught.value)


def test_a_file_of_ai_hub_that_is_something_else(tmp_path: Path) -> None:
    talk = AihubSource(kind="aihub", name="talk", folder=str(tmp_path))
    for content, message in ((gzip.compress(b"{}"), "is gzip"), ('{"data": []}'.encode("utf-16"), "is UTF-16 text")):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.json {message}"):
            list(read_documents(talk, seed=0))
    (tmp_path / "a.json").write_bytes(b'{"id": ' + b"9" * 5000 + b', "data": []}')
    assert list(read_documents(talk, seed=0)) == []
