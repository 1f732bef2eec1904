"""A rank's share of a checkpoint, as it was after one step: copied while the training goes on, and written from there.

All ranks have the same weights and the same optimizer state, so each copies and writes a part of them only.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sllm.model.shared import LanguageModel
from sllm.origin import WEIGHTS
from sllm.tensors import Kind, header, write_file

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32"}


class Snapshot:
    """The share of writer `number`, from 0, of so many. Its buffer is allocated once."""

    def __init__(self, number: int, writers: int) -> None:
        self.number, self.writers = number, writers
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._allocating: threading.Thread | None = None
        self._files: dict[str, list[bytes | memoryview]] = {}
        self._stream: torch.cuda.Stream | None = None
        self.copied: torch.cuda.Event | None = None
        """On a GPU: what the next change of the weights has to wait for, and nothing else has."""

    def allocate(self, model: LanguageModel, optimizers: list[Optimizer]) -> None:
        """Begin to, beside the training, once the optimizers have their state: for gigabytes it takes seconds."""
        size = _size(self._share(model.state_dict(), optimizer_tensors(model, optimizers)))
        if len(self._buffer) != size:
            work = partial(self._allocate, size, _gpu_of(model))
            self._allocating = threading.Thread(target=work, name="allocation", daemon=True)
            self._allocating.start()

    def _allocate(self, size: int, gpu: torch.device | None) -> None:
        self._buffer = torch.ones(size, dtype=torch.uint8)  # a page is there once something was written to it
        if gpu is not None:
            _pin(self._buffer, gpu)

    def take(self, model: LanguageModel, optimizers: list[Optimizer]) -> None:
        """Copy; on a GPU by a stream of its own. The one before must be written by then."""
        if self._allocating:
            self._allocating.join()
        gpu, files = _gpu_of(model), self._share(model.state_dict(), optimizer_tensors(model, optimizers))
        if len(self._buffer) != (size := _size(files)):
            self._allocate(size, gpu)
        if gpu is None:
            self._copy(files)
            return
        self._stream = self._stream or torch.cuda.Stream(gpu)
        self._stream.wait_stream(torch.cuda.current_stream(gpu))
        with torch.cuda.stream(self._stream):
            self._copy(files)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def write(self, directory: Path, check: Callable[[], None]) -> list[dict[str, Any]]:
        """Write this rank's files. Returns what the manifest says of them; see `sllm.tensors.write_file`."""
        if self.copied is not None:
            self.copied.synchronize()
        return [write_file(directory / name, parts, check) for name, parts in self._files.items()]

    def _share(self, weights: Tensors, state: Tensors) -> dict[str, Tensors]:
        """The files that this rank writes. The first rank writes the weights; of the optimizer's state as much as makes
        all ranks' bytes about equal."""
        one = sum(tensor.nbytes for tensor in (*weights.values(), *state.values())) / self.writers
        mine, at = {}, float(sum(tensor.nbytes for tensor in weights.values()))
        for name, tensor in state.items():
            if min(int(at / one), self.writers - 1) == self.number:
                mine[name] = tensor
            at += tensor.nbytes
        part = f"-{self.number + 1}-of-{self.writers}" if self.writers > 1 else ""
        return {**({WEIGHTS: weights} if self.number == 0 else {}), f"optimizer{part}.safetensors": mine}

    def _copy(self, files: Mapping[str, Tensors]) -> None:
        self._files, start = {}, 0
        for file, tensors in files.items():
            # The order of safetensors' own writer, so that equal tensors are equal files whoever has written them.
            ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
            kinds = {name: Kind(DTYPES[tensor.dtype], tensor.shape, tensor.nbytes) for name, tensor in ordered}
            self._files[file] = [header(kinds)]
            for _, tensor in ordered:
                place = self._buffer[start : start + tensor.nbytes]
                place.view(tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=True)
                self._files[file].append(place.numpy().data)
                start += _padded(tensor.nbytes)


def _gpu_of(model: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in model.parameters() if parameter.is_cuda), None)


def _pin(buffer: Tensor, gpu: torch.device) -> None:
    """Let the GPU write to it by itself. PyTorch's own pinned memory is a power of two, up to twice as much."""
    cuda = torch.cuda.cudart()
    with torch.cuda.device(gpu):  # else a thread would open the first one
        error = int(cuda.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 1))
    if error:
        size = buffer.nbytes / 1e9
        log.warning("%.1f GB cannot be pinned (CUDA error %d): training stands still for its checkpoints", size, error)
    else:
        weakref.finalize(buffer, cuda.cudaHostUnregister, buffer.data_ptr())


def _size(files: Mapping[str, Tensors]) -> int:
    return sum(_padded(tensor.nbytes) for tensors in files.values() for tensor in tensors.values())


def _padded(size: int) -> int:
    """So that the next tensor in the buffer stands where its type may."""
    return -(-size // 64) * 64


def optimizer_tensors(model: nn.Module, optimizers: list[Optimizer]) -> Tensors:
    """`{"exp_avg.blocks.0.expand.weight": …}`: state by parameter name, independent of parameter order."""
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{key}.{names[parameter]}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
