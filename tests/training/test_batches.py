"""The tokens of micro-batches, read ahead by a thread."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sllm.training.batches import Batches


class Numbers:
    """Stands for a sampler whose sample i is the tokens i and i + 1."""

    def __init__(self) -> None:
        self.data = SimpleNamespace(overlap=1)
        self.read: list[int] = []
        self.reading = threading.Event()

    def batch(self, start: int, count: int) -> np.ndarray:
        self.read.append(start)
        if start >= 100:
            raise OSError("the disk is gone")
        if len(self.read) > 1:
            self.reading.set()
        return np.arange(start, start + count)[:, None] + np.arange(2)


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
def batches(numbers: Numbers) -> Iterator[Batches]:
    reader = Batches(numbers, 4, torch.device("cpu"))  # type: ignore[arg-type]
    yield reader
    reader.close()


def test_the_next_one_is_read_before_it_is_asked_for_and_once(batches: Batches, numbers: Numbers) -> None:
    assert batches.take(0, following=8).tokens.flatten().tolist() == [0, 1, 2, 3]
    assert numbers.reading.wait(600), "it is read while nobody waits"
    assert batches.take(8, following=16).tokens.flatten().tolist() == [8, 9, 10, 11]
    assert batches.take(16, following=24).tokens.flatten().tolist() == [16, 17, 18, 19]
    batches.close()
    assert numbers.read in ([0, 8, 16, 24], [0, 8, 16])


def test_what_was_not_foreseen_is_read_all_the_same(batches: Batches) -> None:
    batches.take(0, following=4)
    assert batches.take(40, following=0).tokens.flatten().tolist() == [40, 41, 42, 43]
    assert batches.take(0, following=4).tokens.flatten().tolist() == [0, 1, 2, 3]


def test_what_cannot_be_read_is_told_when_it_is_needed(batches: Batches) -> None:
    batches.take(0, following=100)
    with pytest.raises(OSError, match="the disk is gone"):
        batches.take(100, following=104)
