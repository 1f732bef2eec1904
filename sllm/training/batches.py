"""The tokens of micro-batches: a thread makes the next ones ready while a rank computes with the last."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sllm.data.masks import answers, beginnings
from sllm.data.sampler import Sampler


class Batch(NamedTuple):
    """A micro-batch, as `LanguageModel.forward` takes it; text has no `begins`, and is learnt from end to end."""

    tokens: Tensor
    """(B, T)"""
    targets: Tensor
    """(B, T)"""
    begins: Tensor | None
    learnt: Tensor | None

    @classmethod
    def of(cls, windows: np.ndarray, *, conversations: bool, move: Callable[[Tensor], Tensor]) -> "Batch":
        """From token ids (B, T + 1); `move` brings tensors to the device."""
        tokens = move(torch.from_numpy(windows))
        begins = learnt = None
        if conversations:
            begins = move(torch.from_numpy(beginnings(windows[:, :-1])))
            learnt = move(torch.from_numpy(np.flatnonzero(answers(windows))))
        return cls(tokens[:, :-1], tokens[:, 1:], begins, learnt)


class Batches:
    """Reads samples ahead, by one micro-batch. What a sample is never depends on that.

    Args:
        size: samples of a micro-batch.
        device: where their tokens go; to a GPU through pinned memory, on a stream of their own.
    """

    def __init__(self, sampler: Sampler, size: int, device: torch.device) -> None:
        self.sampler, self.size, self.device = sampler, size, device
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: tuple[int, Future[Batch]] | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def take(self, sample: int, following: int) -> Batch:
        """The samples from `sample` on; next wanted are those from `following` on."""
        if self._ahead is None or self._ahead[0] != sample:
            self._ahead = sample, self._thread.submit(self._read, sample)
        batch = self._ahead[1].result()
        if self._stream is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self._stream)
            for tensor in batch:
                if tensor is not None:
                    tensor.record_stream(computing)  # else the next ones might be copied to where it still reads
        self._ahead = following, self._thread.submit(self._read, following)
        return batch

    def _read(self, sample: int) -> Batch:
        windows = self.sampler.batch(sample, self.size)
        conversations = self.sampler.data.overlap == 0
        if self._stream is None:
            return Batch.of(windows, conversations=conversations, move=lambda tensor: tensor)
        with torch.cuda.stream(self._stream):
            move = lambda tensor: tensor.pin_memory().to(self.device, non_blocking=True)  # noqa: E731
            return Batch.of(windows, conversations=conversations, move=move)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
