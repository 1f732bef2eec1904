"""Lines that were cut off are no lines, and compressed files that were cut off are told."""

import fcntl
import os
import threading
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sllm.errors import UserError
from sllm.records import append_jsonl, iterate_jsonl, json_line, read_jsonl, read_new_jsonl, read_zstd_lines
from sllm.training.metrics import cut_back


def test_a_growing_file_is_read_on_from_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "growing.jsonl"
    offset = 0
    assert not list(read_new_jsonl(path, offset))
    for content, new in [('{"n":1}\n{"n":', [1]), ('2}\n{"n"', [2]), ("", []), (':3}\n{"n":4}\n', [3, 4])]:
        with path.open("a", encoding="utf-8") as file:
            file.write(content)
        read = list(read_new_jsonl(path, offset))
        assert [record["n"] for record, _ in read] == new
        offset = read[-1][1] if read else offset


def test_of_metrics_that_are_long_little_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in range(1, 3001):
        kind = "validation" if step % 1000 == 0 else "train"
        with path.open("ab") as file:
            file.write(json_line({"kind": kind, "step": step, "loss": step / 7, "time": 1.0, "more": list(range(20))}))
    size = path.stat().st_size
    tracemalloc.start()
    try:
        assert [record["step"] for record in cut_back(path, 3000)] == [1000, 2000, 3000]
        assert path.stat().st_size == size
        assert [record["step"] for record in cut_back(path, 2500)] == [1000, 2000]
        assert [record["step"] for record in iterate_jsonl(path)][-1] == 2500
        assert [end for _, end in read_new_jsonl(path, 0)][-1] == path.stat().st_size < size
        assert tracemalloc.get_traced_memory()[1] < size / 3
    finally:
        tracemalloc.stop()


def test_a_line_that_another_process_is_writing_is_not_cut_off(tmp_path: Path) -> None:
    """Tasks of a job array end together, and what one has written of its line looks like half of one to the others."""
    path = tmp_path / "ledger.jsonl"
    with path.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b'{"task":')
        thread = threading.Thread(target=append_jsonl, args=(path, {"task": 2}))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive(), "it waits"
        other.write(b" 1}\n")
    thread.join()
    assert read_jsonl(path) == [{"task": 1}, {"task": 2}]


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
