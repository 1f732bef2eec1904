"""A file that exists is complete, whatever happens to its writer."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sllm.errors import Superseded, UserError
from sllm.files import (
    CorruptError,
    append_jsonl,
    atomic_directory,
    atomic_file,
    fenced_by,
    fingerprint,
    read_json,
    read_jsonl,
    read_manifest,
    read_new_jsonl,
    read_zstd_lines,
    remove_leftovers,
    write_json,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError, match="midway"), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError("midway")
    assert path.read_text(encoding="utf-8") == '{\n  "old": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_failed_directory_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with atomic_directory(path, about="first") as temporary:
        (temporary / "a").write_bytes(b"1")
    with pytest.raises(RuntimeError, match="midway"), atomic_directory(path) as temporary:
        (temporary / "a").write_bytes(b"2")
        raise RuntimeError("midway")
    assert (path / "a").read_bytes() == b"1"
    assert read_manifest(path, checksums=True)["about"] == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from sllm.files import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1]) / 'd') as t:\n"
        "    (t / 'big').write_bytes(bytes(1000)); print('writing', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "d").exists()
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["shorten", "flip", "delete", "manifest", "manifest garbage"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "d"
    with atomic_directory(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "data").write_bytes(bytes(range(256)))
    file = path / "sub" / "data"
    if damage == "shorten":
        os.truncate(file, 255)
    elif damage == "flip":
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
    elif damage == "delete":
        file.unlink()
    elif damage == "manifest":
        (path / "manifest.json").unlink()
    else:
        (path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorruptError):
        read_manifest(path, checksums=True)


def test_a_growing_file_is_read_on_from_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "growing.jsonl"
    records, offset = read_new_jsonl(path, 0)
    assert (records, offset) == ([], 0)
    for content, new in [('{"n":1}\n{"n":', [1]), ('2}\n{"n"', [2]), ("", []), (':3}\n{"n":4}\n', [3, 4])]:
        with path.open("a", encoding="utf-8") as file:
            file.write(content)
        records, offset = read_new_jsonl(path, offset)
        assert [record["n"] for record in records] == new


def test_a_torn_last_line_is_not_a_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, {"step": 1, "한글": "값"})
    append_jsonl(path, {"step": 2})
    with path.open("ab") as file:
        file.write(b'{"step": 3, "lo')
    assert read_jsonl(path) == [{"step": 1, "한글": "값"}, {"step": 2}]
    append_jsonl(path, {"step": 4})
    assert read_jsonl(path) == [{"step": 1, "한글": "값"}, {"step": 2}, {"step": 4}]

    path.write_bytes(b'{"st')  # of the first line
    append_jsonl(path, {"step": 5})
    assert read_jsonl(path) == [{"step": 5}]
    path.write_bytes(b'{"step": 1}\n\0\0\0\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"m\.jsonl: line 2 is damaged; delete this line"):
        read_jsonl(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=5))
def test_fingerprint_ignores_order_and_nothing_else(value: dict) -> None:
    assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)
    assert fingerprint({**value, "extra": 1}) != fingerprint({**value, "extra": 2})


@given(
    st.lists(st.binary(max_size=50).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")), min_size=1),
    st.integers(1, 4),
)
def test_zstd_lines_over_several_frames(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], frames: int
) -> None:
    path = tmp_path_factory.mktemp("z") / "a.zst"
    cut = max(1, len(lines) // frames)
    chunks = [lines[i : i + cut] for i in range(0, len(lines), cut)]
    path.write_bytes(b"".join(zstandard.compress(b"".join(line + b"\n" for line in chunk)) for chunk in chunks))
    assert list(read_zstd_lines(path)) == lines


def test_truncated_and_foreign_zst(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    whole = zstandard.compress(os.urandom(300_000).hex().encode())
    for keep in (len(whole) - 1, len(whole) // 2, 10):
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"a\.jsonl\.zst is truncated"):
            list(read_zstd_lines(path))
    path.write_bytes(b"plain text\n")
    with pytest.raises(UserError, match="cannot be decompressed"):
        list(read_zstd_lines(path))
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        list(read_zstd_lines(path))


def test_leftovers_of_a_living_name_are_kept(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    (tmp_path / ".hidden").write_text("mine", encoding="utf-8")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "a.json"]


def test_directories_follow_the_umask(tmp_path: Path) -> None:
    """Whatever wrote the files: safetensors makes them private, a copy keeps the permissions of its source."""
    for umask, expected in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            with atomic_directory(tmp_path / "d") as temporary:
                (temporary / "below").mkdir()
                for name, mode in (("private", 0o600), ("below/program", 0o755), ("below/readonly", 0o444)):
                    (temporary / name).write_text(name, encoding="utf-8")
                    (temporary / name).chmod(mode)
        finally:
            os.umask(before)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "d").rglob("*") if path.is_file()}
        assert modes == dict.fromkeys(("private", "program", "readonly", "manifest.json"), expected)
        read_manifest(tmp_path / "d", checksums=True)


def test_a_process_whose_run_was_taken_over_writes_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", "old")
    with atomic_directory(tmp_path / "d") as temporary:
        (temporary / "a").write_bytes(b"old")
    append_jsonl(tmp_path / "l.jsonl", {"old": 1})
    (tmp_path / ".b.host-1.tmp").mkdir()  # the successor's

    def check() -> None:
        raise Superseded("another")

    before = sorted(path.name for path in tmp_path.iterdir())
    with fenced_by(check):
        with pytest.raises(Superseded):
            write_json(tmp_path / "a.json", "new")
        with pytest.raises(Superseded), atomic_directory(tmp_path / "d") as temporary:
            (temporary / "a").write_bytes(b"new")
        with pytest.raises(Superseded):
            append_jsonl(tmp_path / "l.jsonl", {"new": 1})
        with pytest.raises(Superseded):
            remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert read_json(tmp_path / "a.json") == "old"
    assert (tmp_path / "d" / "a").read_bytes() == b"old"
    assert read_jsonl(tmp_path / "l.jsonl") == [{"old": 1}]
    write_json(tmp_path / "a.json", "new")
    assert read_json(tmp_path / "a.json") == "new"


def test_a_directory_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    """Killed after the old one was moved out of the way, and before the new one took its place."""
    for name in (".best.node1-77.old", ".best.node1-77.tmp", ".code.node1-78.old", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name, encoding="utf-8")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "code"]
    assert (tmp_path / "best" / "a").read_text(encoding="utf-8") == ".best.node1-77.old"
    assert (tmp_path / "code" / "a").read_text(encoding="utf-8") == "code"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_written_is_json(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_jsonl(tmp_path / "a.jsonl", {"loss": value})
    assert not list(tmp_path.iterdir())
