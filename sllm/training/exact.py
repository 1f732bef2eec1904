"""The mean gradient of a step's micro-batches, the same bits whichever rank computed which of them.

Floats added in another order give another sum. So each micro-batch's gradient is rounded to a multiple of 2⁻⁴⁰ and
added as an integer, over the micro-batches and then over the ranks, and only the last sum becomes a float again.
Nothing of it is read by the CPU, so that a GPU need not wait for one.

Gradients above 2⁻¹⁷ (7.6e-6), half of them and more, are multiples of 2⁻⁴⁰ (9e-13) already, since they are fp32; for
the rest it is far below AdamW's eps. A sum has room up to 2²³ (8.4e6). A gradient that might not fit makes the step's
gradient NaN, as one that is not finite does: see `GradientSum.limit`.
"""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

RESOLUTION_BITS = 40


class RanksDifferError(Exception):
    """Ranks that must have the same weights do not."""


def digest(tensor: Tensor) -> Tensor:
    """An int64 scalar that any one bit of an fp32 `tensor` changes."""
    return tensor.detach().view(torch.int32).sum(dtype=torch.int64)


def add(total: Tensor, gradient: Tensor, factor: Tensor) -> None:
    """Round `gradient` × `factor` to integers and add them to `total`, int64 of the same shape. In place, both."""
    total += gradient.mul_(factor).round_().long()


class GradientSum:
    """Of one step after the other: `begin`, `add` after each backward pass, `finish`.

    Args:
        parameters: whose gradients are summed.
        micro_batches: how many a step has, over all ranks.
        compiled: whether `add` is one compiled kernel, which reads and writes a third as much.
        group: that the ranks add over, if there are several; None is the default one.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], micro_batches: int, compiled: bool, group: dist.ProcessGroup | None
    ) -> None:
        self.sums: dict[Tensor, Tensor] = {weight: torch.zeros_like(weight, dtype=torch.int64) for weight in parameters}
        self.micro_batches, self.group = micro_batches, group
        self._add = torch.compile(add, dynamic=True) if compiled else add
        device = next(iter(self.sums)).device
        self._factor = torch.ones((), device=device)
        self._largest, self._worst = torch.zeros(2, device=device)  # of this micro-batch; of those that were added

    def begin(self, scale: float) -> None:
        """A step whose losses are multiplied by `scale`, a power of two, before they are differentiated."""
        self._unit = scale * 2.0**-RESOLUTION_BITS
        self._factor.fill_(1 / self._unit)
        self._worst.zero_()
        for total in self.sums.values():
            total.zero_()

    @property
    def limit(self) -> float:
        """What every element of every micro-batch's gradient must be below, so that no sum of them can overflow."""
        return self._unit * 2.0**63 / self.micro_batches

    def add(self) -> Tensor:
        """Take in the gradients of a backward pass. Returns the largest of their elements, which may be NaN."""
        gradients = [parameter.grad for parameter in self.sums if parameter.grad is not None]
        largest = nn.utils.get_total_norm(gradients, float("inf"))
        for total, gradient in zip(self.sums.values(), gradients, strict=True):
            self._add(total.view(-1), gradient.view(-1), self._factor)
        for parameter in self.sums:
            parameter.grad = None
        self._worst = torch.maximum(self._worst, largest)
        return largest

    def reduce(self, _: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """DDP's communication hook for a step's last micro-batch on each rank: from this bucket of its gradients to
        that of the mean over all micro-batches of all ranks, while the backward pass goes on."""
        gradients = bucket.buffer()
        self._largest = torch.maximum(self._largest, torch.linalg.vector_norm(gradients, float("inf")))
        # What may not have fitted on this rank goes along with the sums, as a number more.
        too_large = self._too_large(torch.maximum(self._worst, self._largest)).view(1)
        total = torch.cat([*(self.sums[parameter].view(-1) for parameter in bucket.parameters()), too_large])
        add(total[:-1], gradients, self._factor)
        future = dist.all_reduce(total, group=self.group, async_op=True).get_future()
        return future.then(lambda _: gradients.copy_(self._mean(total[:-1], total[-1])))

    def reduced(self) -> Tensor:
        """As `add`, after a backward pass in which DDP has called `reduce`."""
        largest, self._largest = self._largest, torch.zeros_like(self._largest)
        return largest

    def finish(self) -> None:
        """Where no DDP has: give the parameters the mean as their gradient, times the scale still."""
        too_large = self._too_large(self._worst)
        for parameter, total in self.sums.items():
            parameter.grad = self._mean(total, too_large)

    def _too_large(self, largest: Tensor) -> Tensor:
        """1 if it is not below the limit, or NaN; else 0."""
        return (~(largest < self.limit)).long()

    def _mean(self, total: Tensor, too_large: Tensor) -> Tensor:
        mean = total.float().mul_(self._unit / self.micro_batches)
        return mean.masked_fill_(too_large > 0, math.nan)
