"""A file that exists is complete, whatever happens to its writer."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm.errors import Superseded
from sllm.files import atomic_file, fenced_by, fingerprint, read_json, remove_leftovers, write_json
from sllm.manifests import atomic_directory
from sllm.records import append_jsonl, read_jsonl


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError, match="midway"), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError("midway")
    assert path.read_text(encoding="utf-8") == '{\n  "old": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=5))
def test_fingerprint_ignores_order_and_nothing_else(value: dict) -> None:
    assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)
    assert fingerprint({**value, "extra": 1}) != fingerprint({**value, "extra": 2})


def test_leftovers_of_a_living_name_are_kept(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    (tmp_path / ".hidden").write_text("mine", encoding="utf-8")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "a.json"]


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
