"""Reading packed conversations: windows are rows that share nothing, and a conversation is named by its place in the
corpus, not by that in the windows."""

from pathlib import Path

import numpy as np
import pytest

from sllm.data.pack import answers_file, documents_file, origins_file, token_file
from sllm.data.sampler import PackedData, Sampler
from sllm.errors import UserError
from sllm.manifests import atomic_directory

CONTEXT = 7
ROWS = {"train": 5, "validation": 3}


@pytest.fixture
def packed(tmp_path: Path) -> PackedData:
    """Two conversations a row, 5 and 2 tokens long, and one token of filler."""
    with atomic_directory(
        tmp_path / "packed",
        kind="packed",
        overlap=0,
        context_length=CONTEXT,
        dtype="<u2",
        vocab_size=400,
        tokenizer="t",
        sources={
            "talk": {
                "language": "ko",
                **{
                    split: {
                        "tokens": 8 * rows,
                        "documents": 2 * rows,
                        "windows": rows,
                        "bytes": 9 * rows,
                        "shards": [
                            {"name": f"talk/{split}-00000-00000.jsonl.zst", "documents": rows},
                            {"name": f"talk/{split}-00000-00001.jsonl.zst", "documents": rows + 1},
                        ],
                    }
                    for split, rows in ROWS.items()
                },
            }
        },
    ) as directory:
        for split, rows in ROWS.items():
            tokens = np.array([[1, *range(100 + row, 104 + row), 1, 300, 0] for row in range(rows)], "<u2")
            token_file(directory, "talk", split).write_bytes(tokens.tobytes())
            starts = [8 * row + place for row in range(rows) for place in (0, 5)]
            documents_file(directory, "talk", split).write_bytes(np.array(starts, "<u8").tobytes())
            answers_file(directory, "talk", split).write_bytes(np.arange(rows, dtype="<u4").tobytes())
            # As they stand in the corpus the last is the first, and number 0 was left out.
            origins = range(2 * rows, 0, -1)
            origins_file(directory, "talk", split).write_bytes(np.array(origins, "<u8").tobytes())
    return PackedData.open(tmp_path / "packed", "t")


def test_windows_are_rows(packed: PackedData) -> None:
    assert packed.overlap == 0
    assert packed.source("talk").windows(CONTEXT) == 5
    rows = packed.tokens("train", "talk").reshape(-1, CONTEXT + 1)
    for number in range(5):
        assert packed.window("train", "talk", number, CONTEXT).tolist() == rows[number].tolist()
    batch = Sampler(packed, {"talk": 1.0}, CONTEXT, seed=3, global_batch=5).batch(0, 5)
    assert sorted(batch.tolist()) == rows.tolist()


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (13, 1), (14, 2), (20, 2), (21, 3), (10_000, 3)])
def test_validation_takes_whole_rows(packed: PackedData, limit: int, count: int) -> None:
    rows = packed.tokens("validation", "talk").reshape(-1, CONTEXT + 1)
    windows = packed.validation_windows("talk", CONTEXT, limit)
    assert [window.tolist() for window in windows] == rows[:count].tolist()


def test_answers_are_counted_by_window(packed: PackedData) -> None:
    assert packed.answers("train", "talk").tolist() == [0, 1, 2, 3, 4]
    assert packed.answers("validation", "talk").tolist() == [0, 1, 2]
    assert packed.answers("train", "talk").dtype == np.uint32


def test_a_conversation_is_named_by_its_place_in_the_corpus(packed: PackedData) -> None:
    # The second of row 1 starts at token 13: the fourth, and number 10 - 3 of the corpus, behind 5 in the first shard.
    (number,) = packed.documents_of("talk", 14, 15)
    assert number == 3
    assert packed.document_name("talk", number) == "talk/train-00000-00001.jsonl.zst:3"
    assert packed.document_name("talk", 9) == "talk/train-00000-00000.jsonl.zst:2"
    assert packed.document_name("talk", 0, "validation") == "talk/validation-00000-00001.jsonl.zst:4"


def test_fewer_windows_than_a_batch(packed: PackedData) -> None:
    with pytest.raises(UserError, match=r"^finetune\.train\.global_batch: 6, but the conversations fill 5 sequences"):
        Sampler(packed, {"talk": 1.0}, CONTEXT, seed=3, global_batch=6)
