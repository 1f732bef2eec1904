"""Ranks: who am I, on which device, do we all agree, what is the sum. Reads torchrun's variables and DEVICE.

Decisions and figures travel over gloo, so that agreeing on a flag needs no GPU synchronization and works while a GPU is
busy. Gradients travel over the same group on CPUs, and over NCCL between GPUs, once the ranks have seen that each has
one of its own: a rank that finds no GPU must not train on the CPU in silence, nor leave the others waiting in NCCL.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sllm.device import without_cudnn_attention
from sllm.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

# A rank that died closes its connections and the others fail at once; this bounds the wait for one that hangs.
TIMEOUT = timedelta(minutes=10)


DEVICE = "SLLM_DEVICE"
"""The variable in which a launcher says what the ranks compute on: `gpu` or `cpu`. Without it, as under torchrun alone,
on GPUs if there are any."""


@dataclass(frozen=True)
class World:
    """The processes that train together; with `size` 1 every collective is the identity."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    gradients: dist.ProcessGroup | None = None
    """The group that DDP uses, if it is another than `control`."""

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over the ranks, in float64."""
        if self.control is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()

    def any(self, flag: bool) -> bool:
        """Whether any rank says so: every rank gets the same answer."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """Each rank's value, on every rank. For rare, small things: it pickles between our own processes."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, on every rank: ranks on different nodes may see a file at different times."""
        found: list[Any] = [make() if self.main else None]
        if self.control is not None:  # not gathered: that would take room for as many of it as there are ranks
            dist.broadcast_object_list(found, 0, group=self.control)
        made: T = found[0]
        return made

    def tensors_from_main(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rank 0's `tensors` on every rank, on its device."""
        shapes = self.from_main(lambda: [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()])
        received = {}
        for name, shape, dtype in shapes:
            tensor = tensors[name].to(self.device) if self.main else torch.empty(shape, dtype=dtype, device=self.device)
            if self.control is not None:
                dist.broadcast(tensor, 0, group=self.gradients or self.control)
            received[name] = tensor
        return received

    def barrier(self) -> None:
        if self.control is not None:
            dist.barrier(group=self.control)


@contextmanager
def connect() -> Iterator[World]:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe, if they do.

    Without these variables: one process, no group. The group is destroyed when the block ends normally; after an
    exception it is left to the exit of the process, since other ranks may be inside a collective.

    Raises:
        UserError: on every rank, if any of them lacks the GPU that it should have, or shares it with another.
    """
    rank = int(os.environ.get("RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    control = None
    if size > 1:
        dist.init_process_group("gloo", rank=rank, world_size=size, timeout=TIMEOUT)
        control = dist.group.WORLD
    wanted = os.environ.get(DEVICE)
    if wanted not in ("gpu", "cpu", None):
        raise UserError(f"{DEVICE}={wanted}: it is gpu or cpu; or unset it")
    device, seen = _choose_device(wanted, local_rank)
    without_cudnn_attention(device)
    world = World(rank, size, local_rank, device, control)
    found = world.gather(seen)
    if wrong := problems(found, wanted):
        raise UserError("\n".join(wrong))
    if world.main and device.type == "cpu" and wanted is None and (seen["driver"] or seen["visible"]):
        log.warning("training on the CPU: %s", _no_gpu(seen))
    if size == 1:
        yield world
        return
    if device.type == "cuda":
        world = replace(world, gradients=dist.new_group(backend="nccl", timeout=TIMEOUT))
    yield world
    world.barrier()
    dist.destroy_process_group()


def _choose_device(wanted: str | None, local_rank: int) -> tuple[torch.device, dict[str, Any]]:
    """This rank's device, and what can be seen of GPUs from here."""
    seen: dict[str, Any] = {
        "node": os.uname().nodename,
        "driver": _driver(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "count": 0,
        "gpu": None,
        "trouble": "",
    }
    if wanted == "cpu":
        return torch.device("cpu"), seen
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:  # the latter: a PyTorch without CUDA
            seen["trouble"] = str(error).split("\n")[0]
        return torch.device("cpu"), seen
    seen["count"] = torch.cuda.device_count()
    # A cluster that shows each task its own GPU only shows it as device 0.
    device = torch.device("cuda", local_rank % seen["count"])
    torch.cuda.set_device(device)
    about = torch.cuda.get_device_properties(device)
    seen["gpu"] = f"{about.name}, GPU-{about.uuid}"
    return device, seen


def _driver() -> str:
    """The version of NVIDIA's driver on this node; empty if there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"\d+\.\d[\d.]*", text)
    return found[0] if found else "of an unknown version"


def problems(found: Sequence[dict[str, Any]], wanted: str | None) -> list[str]:
    """What is wrong with the GPUs that the ranks, in their order, have found (see `_choose_device`)."""
    wrong = []
    without = [rank for rank, seen in enumerate(found) if seen["gpu"] is None]
    if without and (wanted == "gpu" or len(without) < len(found)):
        for node in dict.fromkeys(found[rank]["node"] for rank in without):
            ranks = [rank for rank in without if found[rank]["node"] == node]
            wrong.append(
                f"{node}: no GPU for {_ranks(ranks)} ({_no_gpu(found[ranks[0]])}); mend the driver or install the "
                f"PyTorch that suits it, keep away from the node (exclude: {node} in the cluster profile), or say "
                f"device: cpu there"
            )
    for gpu in dict.fromkeys(seen["gpu"] for seen in found if seen["gpu"]):
        ranks = [rank for rank, seen in enumerate(found) if seen["gpu"] == gpu]
        if len(ranks) > 1:
            seen = found[ranks[0]]
            wrong.append(
                f"{seen['node']}: {_ranks(ranks)} share one GPU ({gpu}; visible to a rank: {seen['count']}, "
                f"CUDA_VISIBLE_DEVICES={seen['visible']}); ask for as many GPUs as there are processes "
                f"(gpus_per_node or gres, and tasks_per_node, in the cluster profile)"
            )
    return wrong


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _no_gpu(seen: dict[str, Any]) -> str:
    torch_version = f"PyTorch {torch.__version__}"
    driver = f"driver {seen['driver']}" if seen["driver"] else "no NVIDIA driver"
    return f"{seen['trouble']}; {driver}, {torch_version}, CUDA_VISIBLE_DEVICES={seen['visible']}"
