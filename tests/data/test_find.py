"""What a pattern matches is read or told: links, folders, names that are no data, and what cannot be read."""

import os
import socket
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpora import experiment

from sllm.artifacts import stage_keys
from sllm.config import AihubSource, FilesSource
from sllm.data.find import MOST_PROBLEMS, file_stamps, is_left_out, local_files
from sllm.data.sources import read_documents
from sllm.errors import UserError
from sllm.files import fingerprint, read_json, write_json


def source(*paths: Path | str) -> FilesSource:
    return FilesSource(kind="files", name="mine", language="ko", paths=tuple(map(str, paths)))


def talk(folder: Path | str, optional: bool = False) -> AihubSource:
    return AihubSource(kind="aihub", name="talk", folder=str(folder), optional=optional)


def tree(root: Path, *names: str) -> Path:
    """Empty files, and folders for names that end with a slash; `a -> b` is a link."""
    for name in names:
        name, _, target = name.partition(" -> ")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target:
            path.symlink_to(target)
        elif name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.touch()
    return root


def names(root: Path, *patterns: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in local_files(source(*(root / p for p in patterns)))]


def problems(root: Path, *patterns: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        local_files(source(*(root / pattern for pattern in patterns)))
    lines = str(caught.value).split("\n")
    assert all(line.startswith("data.sources: mine: ") for line in lines)
    return [line.removeprefix("data.sources: mine: ").replace(f"{root}/", "") for line in lines]


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything; the rights of others count in this block."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


# --- patterns -------------------------------------------------------------------------------------


def test_files_are_sorted_and_each_comes_once(tmp_path: Path) -> None:
    tree(tmp_path, "c.jsonl", "a.txt", "s/b.parquet", ".hidden.jsonl", "odd[1].txt", "B.JSONL")
    found = names(tmp_path, "**", "*.jsonl", "odd[1].txt")
    assert found == ["B.JSONL", "a.txt", "c.jsonl", "odd[1].txt", "s/b.parquet"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**", "a.txt x/b.jsonl x/y/c.jsonl [z]/d.txt"),
        ("**/*", "a.txt x/b.jsonl x/y/c.jsonl [z]/d.txt"),
        ("**/*.jsonl", "x/b.jsonl x/y/c.jsonl"),
        ("**/y/**/*.jsonl", "x/y/c.jsonl"),
        ("x/**/**/*.jsonl", "x/b.jsonl x/y/c.jsonl"),
        ("*/*.jsonl", "x/b.jsonl"),
        ("?/[a-c].jsonl", "x/b.jsonl"),
        ("[z]/*.txt", "[z]/d.txt"),
        ("[[]z]/*.txt", "[z]/d.txt"),
        ("x/../*.txt", "x/../a.txt"),
        (".h/*.txt", ".h/e.txt"),
        ("**/.h/*.txt", ".h/e.txt"),
        (".*/*.txt", ".h/e.txt"),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, found: str) -> None:
    tree(tmp_path, "a.txt", "x/b.jsonl", "x/y/c.jsonl", "[z]/d.txt", ".h/e.txt", "x/.c.jsonl", "x/._b.jsonl")
    assert sorted(names(tmp_path, pattern)) == sorted(found.split())


def test_relative_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a.txt", "x/b.txt")
    monkeypatch.chdir(tmp_path)
    for pattern in ("**/*.txt", "./**", "x/../**/*.txt"):
        assert {path.name for path in local_files(source(pattern))} == {"a.txt", "b.txt"}


def test_hangul_as_macos_writes_it(tmp_path: Path) -> None:
    """Its names are decomposed, what a keyboard types is not."""
    tree(tmp_path, unicodedata.normalize("NFD", "위키백과.txt"), unicodedata.normalize("NFC", "위키문헌.txt"))
    assert len(names(tmp_path, "위키*.txt")) == 2


# --- links ----------------------------------------------------------------------------------------


def test_a_link_to_a_folder_above_repeats_nothing(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "d/a.jsonl",
        "d/sub/b.jsonl",
        "d/sub/up -> ..",
        "d/self -> .",
        "d/sub/root -> /nowhere/../" + str(tmp_path),
    )
    (tmp_path / "d/sub/root").unlink()
    (tmp_path / "d/sub/root").symlink_to(tmp_path)
    for pattern in ("d/**/*.jsonl", "d/**", "**/*.jsonl", "d/**/sub/**/*.jsonl"):
        assert len(names(tmp_path, pattern)) == 2


def test_links_are_followed_and_what_has_two_names_is_read_once(tmp_path: Path) -> None:
    tree(tmp_path, "far/a.jsonl", "far/b.jsonl", "d/one -> ../far", "d/two -> ../far", "d/x.jsonl -> ../far/a.jsonl")
    tree(tmp_path, "d/y.jsonl -> x.jsonl")
    assert names(tmp_path, "d/**/*.jsonl", "far/*.jsonl") == ["d/one/a.jsonl", "d/one/b.jsonl"]
    assert names(tmp_path, "d/*.jsonl") == ["d/x.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("*.jsonl", ["b.jsonl", "c.jsonl"]),
        ("b.jsonl", ["b.jsonl"]),
        ("purged*/*.jsonl", ["purged"]),
        ("*/a.jsonl", ["b.jsonl", "c.jsonl", "purged", "sub/deep"]),
        ("**/*.jsonl", ["b.jsonl", "c.jsonl", "purged", "sub/deep"]),
        ("**", ["b.jsonl", "c.jsonl", "purged", "sub/deep"]),
        ("purged/x/*.jsonl", ["purged"]),
    ],
)
def test_a_link_that_leads_nowhere_is_told(tmp_path: Path, pattern: str, told: list[str]) -> None:
    tree(tmp_path, "a.jsonl", "b.jsonl -> /scratch/gone.jsonl", "c.jsonl -> c.jsonl", "purged -> /scratch/gone")
    tree(tmp_path, "sub/a.jsonl", "sub/deep -> /scratch/gone")
    if pattern == "*/a.jsonl":
        told = told[:-1]  # it is a level deeper
    found = problems(tmp_path, pattern, "a.jsonl")
    assert [line.partition(" is a link to ")[0] for line in found] == told
    assert all("which is not there; restore it, or remove the link" in line for line in found)


def test_a_link_that_cannot_be_followed_is_told_with_the_reason(tmp_path: Path) -> None:
    tree(tmp_path, f"a.jsonl -> {'x' * 300}")
    assert problems(tmp_path, "*.jsonl") == ["a.jsonl: File name too long; put it right, or leave it out of the paths"]


def test_many_problems_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{number:02d}.jsonl -> /scratch/{number}" for number in range(MOST_PROBLEMS + 7)))
    found = problems(tmp_path, "*.jsonl", "**/*.jsonl")
    assert len(found) == MOST_PROBLEMS + 1
    assert found[-1] == "7 more problems"


# --- folders --------------------------------------------------------------------------------------


def parts(folder: Path, *texts: str) -> None:
    """A folder of parquet parts, with what Spark leaves beside them; a partition for each text."""
    for number, text in enumerate(texts):
        path = folder / f"lang={number}" / f"part-{number:05d}.snappy.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [text]}), path)
        (path.parent / f".{path.name}.crc").touch()
    tree(folder, "_SUCCESS", "_metadata", "_common_metadata", "._SUCCESS.crc", ".part-00000.parquet.crc")
    tree(folder, "_temporary/0/part-00000.parquet", "_started_1", "_committed_1", ".hive-staging/part-0.parquet")


@pytest.mark.parametrize("pattern", ["*", "*.parquet", "table.parquet", "**/*.parquet", "table.parquet/"])
def test_a_folder_of_parquet_parts_is_read(tmp_path: Path, pattern: str) -> None:
    parts(tmp_path / "table.parquet", "하나", "둘")
    pq.write_table(pa.table({"text": ["셋"]}), tmp_path / "z.parquet")
    texts = list(read_documents(source(tmp_path / "z.parquet", tmp_path / pattern), seed=0))
    assert texts == ["하나", "둘", "셋"]


def test_a_partition_may_begin_with_an_underscore(tmp_path: Path) -> None:
    parts(tmp_path / "t", "하나")
    (tmp_path / "t" / "lang=0").rename(tmp_path / "t" / "_lang=0")
    assert names(tmp_path, "t") == ["t/_lang=0/part-00000.snappy.parquet"]


@pytest.mark.parametrize(
    ("files", "pattern", "message"),
    [
        ("x/b.jsonl.zst", "*", "x is a folder: write x/**/*.jsonl.zst, say"),
        ("x/b.txt", "x", "x is a folder: write x/**/*.txt, say"),
        ("x/", "x", "x is a folder: write x/**/*.jsonl.zst, say"),
        ("x.jsonl/part-00000", "**/*.jsonl", "x.jsonl is a folder: write x.jsonl/**/*.jsonl.zst, say"),
        ("t.parquet/_SUCCESS", "*.parquet", "t.parquet is a folder: write t.parquet/**/*.jsonl.zst, say"),
        (
            "t.parquet/p.parquet t.parquet/README.md",
            "*.parquet",
            "t.parquet is a folder of parquet parts, but t.parquet/READ",
        ),
        ("t/p.parquet t/_delta_log/0.json", "t", "t is a Delta table, not all of whose files count"),
        ("t/p.parquet t/.hoodie/0.commit", "*", "t is a Hudi table, not all of whose files count"),
        ("t/p.parquet t/q=1/gone.parquet~", "t", "t is a folder of parquet parts, but t/q=1/gone.parquet~ is none"),
    ],
)
def test_other_folders_are_told(tmp_path: Path, files: str, pattern: str, message: str) -> None:
    tree(tmp_path, "a.txt", *files.split())
    (line,) = problems(tmp_path, "a.txt", pattern)
    assert line.startswith(message)


def test_a_part_that_is_gone_is_told(tmp_path: Path) -> None:
    parts(tmp_path / "t", "하나")
    tree(tmp_path, "t/lang=1/part.parquet -> /scratch/gone.parquet")
    assert problems(tmp_path, "t") == [
        "t/lang=1/part.parquet is a link to /scratch/gone.parquet, which is not there; restore it, or remove the link"
    ]


# --- what cannot be read --------------------------------------------------------------------------


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl", "b.md")
    os.mkfifo(tmp_path / "p.jsonl")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "s.jsonl"))
        (tmp_path / "z.jsonl").symlink_to("/dev/zero")
        assert problems(tmp_path, "*") == [
            "b.md cannot be read; valid are .txt, .jsonl, .jsonl.zst, .parquet",
            "p.jsonl is a pipe, not a file; leave it out of the paths",
            "s.jsonl is a socket, not a file; leave it out of the paths",
            "z.jsonl is a device, not a file; leave it out of the paths",
        ]


def test_no_right_to_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "d/a.jsonl", "d/b.jsonl", "d/shut/c.jsonl", "d/ok/e.jsonl", "set/a.json", "set/shut/b.json")
    for name in ("d/b.jsonl", "d/shut", "set/shut"):
        (tmp_path / name).chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # nobody may come here from above
    with nobody():
        for pattern in ("d/**/*.jsonl", "d/**"):
            with pytest.raises(UserError) as caught:
                local_files(source(pattern))
            assert {line.split(": ")[2] for line in str(caught.value).split("\n")} == {"d/b.jsonl", "d/shut"}
            assert str(caught.value).count("Permission denied") == 2
        with pytest.raises(UserError, match=r"mine: d/shut/c\.jsonl: Permission denied"):
            local_files(source("d/shut/c.jsonl"))
        for optional in (False, True):
            assert not is_left_out(talk("set", optional))
            with pytest.raises(UserError, match="talk: set/shut: Permission denied"):
                local_files(talk("set", optional))
        assert not is_left_out(talk("set/shut", optional=True))
    (tmp_path / "d/shut").chmod(0o755)
    (tmp_path / "set/shut").chmod(0o755)


@pytest.mark.parametrize("name", ["x" * 300 + ".jsonl", "x" * 300 + "/*.jsonl", "가" * 100 + ".jsonl"])
def test_a_name_too_long_is_told(tmp_path: Path, name: str) -> None:
    (line,) = problems(tmp_path, name)
    assert "File name too long" in line


def test_what_is_below_a_file_is_not_there(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl")
    for name in ("a.jsonl/*.jsonl", "a.jsonl/b.jsonl", "a.jsonl/**/*.jsonl"):
        (line,) = problems(tmp_path, name)
        assert line == f"no file matches {name}; correct its paths"


def test_all_problems_of_all_sources_at_once(tmp_path: Path) -> None:
    tree(tmp_path, "b.md", "c.jsonl -> gone", "d.jsonl")
    files = {"kind": "files", "language": "ko"}
    made = experiment(
        [
            {"name": "one", **files, "paths": [str(tmp_path / "b.md"), str(tmp_path / "*.jsonl")]},
            {"name": "two", **files, "paths": [str(tmp_path / "e.jsonl")]},
            {"name": "three", "kind": "aihub", "folder": str(tmp_path / "f")},
        ]
    )
    with pytest.raises(UserError) as caught:
        stage_keys(made)
    assert [line.split(": ")[1] for line in str(caught.value).split("\n")] == ["one", "one", "two", "three"]


def test_what_we_wrote_is_no_source(tmp_path: Path) -> None:
    """A pattern over the project's folder would read the corpus that it has made, and make another."""
    files = {"kind": "files", "language": "ko", "paths": [str(tmp_path / "**/*.jsonl.zst")]}
    sources = [{"name": "one", **files}, {"name": "set", "kind": "aihub", "folder": str(tmp_path / "data/aihub")}]
    made = experiment(sources).model_copy(update={"data_directory": str(tmp_path / "data")})
    tree(tmp_path, "texts/a.jsonl.zst", "data/b.jsonl.zst", "data/aihub/c.json")
    assert len(stage_keys(made)["download"]["files"]["one"]) == 2
    tree(tmp_path, "data/corpora/1/one/train-00000.jsonl.zst", "data/corpora/sources/one-1/train-00000.jsonl.zst")
    with pytest.raises(UserError) as caught:
        stage_keys(made)
    assert str(caught.value) == (
        f"data.sources: one: {tmp_path}/data/corpora/1/one/train-00000.jsonl.zst is a result of this program; "
        f"leave {tmp_path}/data/corpora out of the paths"
    )


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A zip from a Korean Windows, unpacked on Linux."""
    (tmp_path / os.fsdecode("말뭉치.txt".encode("cp949"))).write_text("하나", encoding="utf-8")
    found = source(tmp_path / "*.txt")
    assert list(read_documents(found, seed=0)) == ["하나"]
    assert len(fingerprint(file_stamps(found))) == 16
    write_json(tmp_path / "plan.json", file_stamps(found))
    assert read_json(tmp_path / "plan.json") == file_stamps(found)


# --- AI Hub ---------------------------------------------------------------------------------------


def test_a_set_is_all_json_that_is_not_hidden(tmp_path: Path) -> None:
    tree(tmp_path, "set/a/1.json", "set/2.JSON", "set/notes.txt", "set/3.json.zip", "far/4.json", "set/far -> ../far")
    tree(tmp_path, "set/._1.json", "set/.cache/1.json", "set/__MACOSX/a/1.json", "set/a/up -> ..")
    found = [path.relative_to(tmp_path).as_posix() for path in local_files(talk(tmp_path / "set"))]
    assert found == ["set/2.JSON", "set/a/1.json", "set/far/4.json"]
    tree(tmp_path, "set/5.json -> /scratch/5.json")
    with pytest.raises(UserError, match=r"talk: .*5\.json is a link to /scratch/5\.json, which is not there"):
        local_files(talk(tmp_path / "set"))
    assert not is_left_out(talk(tmp_path / "set", optional=True))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("", "no .json file in .*/set; with an account of https://aihub.or.kr"),
        ("set/._a.json set/x.zip", "no .json file in .*/set; with an account"),
        ("set", "no .json file in .*/set, which is a file; with an account"),
    ],
)
def test_no_set_is_told_or_left_out(tmp_path: Path, files: str, message: str) -> None:
    tree(tmp_path, *files.split())
    with pytest.raises(UserError, match=message):
        local_files(talk(tmp_path / "set"))
    assert is_left_out(talk(tmp_path / "set", optional=True))
    (tmp_path / "link").symlink_to("/scratch/set")
    with pytest.raises(UserError, match="link, a link to /scratch/set, which is not there"):
        local_files(talk(tmp_path / "link"))
    assert is_left_out(talk(tmp_path / "link", optional=True))


# --- everything that is there ---------------------------------------------------------------------

FOLDERS = st.lists(st.sampled_from("abc"), max_size=3)


@settings(max_examples=60)
@given(
    files=st.lists(st.tuples(FOLDERS, st.sampled_from("xyz")), min_size=1), links=st.lists(st.tuples(FOLDERS, FOLDERS))
)
def test_every_file_is_found_once_whatever_links_there_are(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[str], str]],
    links: list[tuple[list[str], list[str]]],
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for folders, name in files:
        tree(root, "/".join([*folders, f"{name}.txt"]))
    every = sorted(root.rglob("*.txt"))
    for at, to in links:
        place, target = root.joinpath(*at, "link"), root.joinpath(*to)
        if place.parent.is_dir() and target.is_dir() and not place.is_symlink():
            place.symlink_to(target)
    assert sorted(path.resolve() for path in local_files(source(root / "**/*.txt"))) == every
