"""One step of a model with its key–value cache, and the layout of the weights that makes such a step fast.

Shapes: B batch, T time, V vocabulary (see `sllm.model.shared`).
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sllm.device import without_cudnn_attention
from sllm.model.shared import LanguageModel, LayerCache

Dtype = Literal["fp32", "bf16"]


def new_cache(model: LanguageModel, batch: int, capacity: int) -> list[LayerCache]:
    """Room for the keys and values of `capacity` positions, for every layer."""
    config = model.config
    shape = (batch, config.kv_heads, capacity, config.head_width)
    return [(model.positions.new_empty(shape), model.positions.new_empty(shape)) for _ in range(config.n_layers)]


def prefill(
    model: LanguageModel, tokens: Tensor, cache: list[LayerCache] | None = None, padding: Tensor | None = None
) -> Tensor:
    """Read the prompts (B, T), left-padded by `padding` (B,), into the cache; logits (B, V) of the token after them."""
    return model.logits(model.hidden(tokens, cache, 0, padding)[:, -1])


def decode(
    model: LanguageModel, tokens: Tensor, cache: list[LayerCache], filled: int, padding: Tensor | None = None
) -> Tensor:
    """Add one token a row (B,) to a cache that holds `filled` positions; logits (B, V) of the token after it."""
    return model.logits(model.hidden(tokens[:, None], cache, filled, padding)[:, -1])


@contextlib.contextmanager
def eval_mode(model: LanguageModel) -> Iterator[None]:
    """Without dropout while the block runs, in training or not."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def prepare(model: LanguageModel, dtype: Dtype) -> LanguageModel:
    """Lay the weights out, in place, for decoding on the device where they are; the model can no longer be trained.

    A decode step reads every weight once for one token a row, so it is as fast as the weights can be read. On a CPU
    it pays to choose their form for that:

    * fp32: a layer wider at its output than at its input is stored by columns: the matrix product then runs along
      the output (measured on two Zen 3 cores: 19–24 instead of 12–15 GB/s; no difference to the result's meaning).
    * bf16: weights only. Activations and the cache stay fp32, which is faster there and more exact.
    """
    model.eval().requires_grad_(False)
    without_cudnn_attention(model.positions.device)
    if model.positions.device.type != "cpu":
        return model.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    if dtype == "bf16":
        for block in list(model.modules()):
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(block, name, HalfLinear(layer))
        model.embedding.to(torch.bfloat16)
    else:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and module.weight.shape[0] > module.weight.shape[1]:
                module.weight.data = module.weight.data.t().contiguous().t()
    return model


class HalfLinear(nn.Module):
    """A linear layer of fp32 vectors with weights in bf16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.to(torch.bfloat16), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        # Without bf16 instructions PyTorch multiplies a few bf16 vectors fast and matrices very slowly (five times
        # slower at 64 rows than widening the weights first); from 5 rows on it pays to widen.
        if x.shape[:-1].numel() > 4 and not _has_bf16_matrices():
            return F.linear(x, self.weight.float(), self.bias)
        product = F.linear(x.to(torch.bfloat16), self.weight).float()
        return product if self.bias is None else product + self.bias


@functools.cache
def _has_bf16_matrices() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
