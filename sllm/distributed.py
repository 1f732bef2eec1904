"""Ranks: who am I, do we all agree, what is the sum. Reads torchrun's variables and nothing else.

Gradients travel over NCCL (GPU) or gloo (CPU). Decisions and figures travel over a gloo group of their own, so that
agreeing on a flag needs no GPU synchronization and works while a GPU is busy.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# A rank that died closes its connections and the others fail at once; this bounds the wait for one that hangs.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """The processes that train together; with `size` 1 every collective is the identity."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: dist.ProcessGroup | None = None

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
        return self.gather(make() if self.main else None)[0]

    def barrier(self) -> None:
        if self.control is not None:
            dist.barrier(group=self.control)


@contextmanager
def connect() -> Iterator[World]:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe, if they do.

    Without these variables: one process, no group. The group is destroyed when the block ends normally; after an
    exception it is left to the exit of the process, since other ranks may be inside a collective.
    """
    rank = int(os.environ.get("RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        # A cluster that shows each task its own GPU only shows it as device 0.
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if size == 1:
        yield World(rank, size, local_rank, device)
        return
    if device.type == "cuda":
        dist.init_process_group("nccl", rank=rank, world_size=size, timeout=TIMEOUT, device_id=device)
        control = dist.new_group(backend="gloo", timeout=TIMEOUT)
    else:
        dist.init_process_group("gloo", rank=rank, world_size=size, timeout=TIMEOUT)
        control = dist.group.WORLD
    world = World(rank, size, local_rank, device, control)
    yield world
    world.barrier()
    dist.destroy_process_group()
