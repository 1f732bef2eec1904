"""A shard that exists is whole, bounded, and gives back what was written."""

import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sllm.data.shards import ShardWriter, read_shard
from sllm.errors import UserError
from sllm.records import read_zstd_lines


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    directory = tmp_path_factory.mktemp("s")
    with ShardWriter(directory, "train", megabytes=1) as writer:
        for text in texts:
            writer.write(text)
    paths = sorted(directory.glob("*.zst"))
    assert [path.name for path in paths] == (["train-00000.jsonl.zst"] if texts else [])
    assert [text for path in paths for text in read_shard(path)] == texts


def test_shards_are_bounded(tmp_path: Path) -> None:
    texts = [f"{number:06d}" * 50_000 for number in range(8)] + ["x" * 2_500_000, "end"]
    with ShardWriter(tmp_path, "validation", megabytes=1) as writer:
        for text in texts:
            writer.write(text)
    paths = sorted(tmp_path.glob("*.zst"))
    assert [path.name for path in paths] == [f"validation-{number:05d}.jsonl.zst" for number in range(writer.shards)]
    sizes = [sum(len(line) + 1 for line in read_zstd_lines(path)) for path in paths]
    assert sizes == [3 * 300_012, 3 * 300_012, 2 * 300_012, 2_500_012, 3 + 12]
    assert [text for path in paths for text in read_shard(path)] == texts
    assert zstandard.get_frame_parameters(paths[0].read_bytes()).has_checksum


def test_an_error_costs_the_open_shard_only(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="midway"), ShardWriter(tmp_path, "train", megabytes=1) as writer:
        writer.write("x" * 900_000)
        writer.write("y" * 900_000)
        raise RuntimeError("midway")
    assert [path.name for path in tmp_path.glob("*.zst")] == ["train-00000.jsonl.zst"]
    assert list(read_shard(tmp_path / "train-00000.jsonl.zst")) == ["x" * 900_000]


def test_damage_is_found(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train", megabytes=1) as writer:
        writer.write(json.dumps([number * 7919 % 1000 for number in range(20_000)]))
    (path,) = tmp_path.glob("*.zst")
    whole = path.read_bytes()
    for place in (len(whole) // 3, len(whole) - 2):  # content, and the checksum itself
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"train-00000\.jsonl\.zst"):
            list(read_shard(path))
