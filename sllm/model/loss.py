"""The loss of a training's micro-batch, without its logits: they are made, and differentiated, some tokens at a time.

Shapes: N tokens, C width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sllm.model.size import LOSS_AT_ONCE

Piece = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def differentiated(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies of tokens, and its gradient to their logits in the precision of the product."""
    logits = hidden @ weight.T
    log_p = logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    loss = -log_p.gather(1, targets[:, None]).sum()
    p = log_p.exp_()
    if torch.compiler.is_compiling():  # which fuses a comparison, and no scatter
        p = p - (torch.arange(len(weight), device=targets.device) == targets[:, None]).to(p.dtype)
    else:
        p.scatter_add_(1, targets[:, None], p.new_full((len(targets), 1), -1.0))
    return loss, p.to(logits.dtype)


class PiecewiseLoss(torch.autograd.Function):
    """The gradients of hidden states and weights are computed together with the loss, so that no product is made twice,
    and multiplied by that of the loss afterwards, in the weights' precision.

    Under fp16 the scale of the loss so meets no product: theirs are the probabilities, which are in fp16's range as
    they are, not divided by the number of tokens.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, count: float, dtype: torch.dtype, piece: Piece
    ) -> Tensor:
        rows = LOSS_AT_ONCE[hidden.device.type]
        states, matrix = hidden.to(dtype), weight.to(dtype)
        loss = torch.zeros((), device=hidden.device, dtype=torch.promote_types(dtype, torch.float32))
        by_hidden, by_weight = torch.empty_like(states), torch.zeros_like(weight)
        for some, wanted, to in zip(states.split(rows), targets.split(rows), by_hidden.split(rows), strict=True):
            nats, gradient = piece(some, matrix, wanted)
            loss += nats
            torch.mm(gradient, matrix, out=to)
            if dtype == weight.dtype:
                torch.addmm(by_weight, gradient.T, some, out=by_weight)
            else:
                by_weight += gradient.T @ some
        ctx.save_for_backward(by_hidden, by_weight)
        ctx.count = count
        return loss / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        factor = gradients[0] / ctx.count
        return by_hidden.to(factor.dtype) * factor, by_weight * factor, None, None, None, None
