"""The tokens of micro-batches: a thread makes the next ones ready while a rank computes with the last."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from sllm.data.sampler import Sampler


class Batches:
    """Reads samples ahead, by one micro-batch. What a sample is never depends on that.

    Args:
        size: samples of a micro-batch.
        device: where their tokens go; to a GPU through pinned memory, on a stream of their own.
    """

    def __init__(self, sampler: Sampler, size: int, device: torch.device) -> None:
        self.sampler, self.size, self.device = sampler, size, device
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: tuple[int, Future[Tensor]] | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def take(self, sample: int, following: int) -> Tensor:
        """Token ids (size, context_length + 1) of the samples from `sample` on; next wanted are those from
        `following` on."""
        if self._ahead is None or self._ahead[0] != sample:
            self._ahead = sample, self._thread.submit(self._read, sample)
        tokens = self._ahead[1].result()
        if self._stream is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self._stream)
            tokens.record_stream(computing)  # else the next ones might be copied to where it still reads
        self._ahead = following, self._thread.submit(self._read, following)
        return tokens

    def _read(self, sample: int) -> Tensor:
        tokens = torch.from_numpy(self.sampler.batch(sample, self.size))
        if self._stream is None:
            return tokens
        with torch.cuda.stream(self._stream):
            return tokens.pin_memory().to(self.device, non_blocking=True)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
