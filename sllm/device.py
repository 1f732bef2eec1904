"""The device that computes: its name, its peak, its memory, and the choice of kernels that give the same bits twice."""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from typing import Literal

import torch

from sllm.gpus import PEAK_FLOPS, known_gpu

Precision = Literal["fp32", "bf16", "fp16"]


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak in FLOP/s, where known."""
    if device.type != "cuda":
        return None
    name = known_gpu(torch.cuda.get_device_name(device))
    return PEAK_FLOPS[name] if name else None


def memory_bytes(device: torch.device) -> int:
    """Peak memory: of this process's tensors on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def arithmetic(device: torch.device) -> str:
    """What decides, beside our own code, on the last bits of a result: the kind of processor, on a CPU with its
    instruction set and the number of threads that share a sum out, and PyTorch."""
    instructions = f", {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else ""
    return f"{device_name(device)}{instructions}, PyTorch {torch.__version__}"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Moment:
    """When the device came to this point of its work, which for a GPU may be in the future."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        self._time = time.perf_counter()
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: "Moment") -> float:
        """Of two that have come."""
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        return float(earlier._event.elapsed_time(self._event)) / 1000


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a model computes in `precision`, with weights in fp32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


# --- the same bits twice --------------------------------------------------------------------------


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On a GPU flash attention, matrix products and the embedding's gradient add up in whatever order threads finish,
    unless they are told not to. Not with `warn_only`: then flash attention does no more than warn, and cuDNN's
    attention, which knows no other way, stays in the choice."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_float32_matmul_precision("high")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # what is written anyway
    with determinism(True):
        yield


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def without_cudnn_attention(device: torch.device) -> None:
    """Leave cuDNN out of the attention kernels that PyTorch chooses from on a GPU: its gradients are not the same
    twice, and it makes a new plan for every length, in decoding for every token."""
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def seed(device: torch.device, number: int) -> None:
    """`torch.manual_seed` formats a traceback for each kind of device that is not in use: milliseconds, as much as a
    tiny step takes on a CPU."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
