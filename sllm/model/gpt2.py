"""GPT-2: the whole architecture on one page.

A decoder in GPT-2's mould (Radford et al. 2019): token embedding + fixed sinusoidal positions, pre-LayerNorm blocks of
causal multi-head attention and a GELU feed-forward, a last LayerNorm, and an output layer, tied to
the embedding or not. The blocks are GPT-2's to the letter, so Transformers' GPT2LMHeadModel can hold our weights (see
`sllm.export`).

Shapes: B batch, T time, C width (d_model), H heads, D head width (C / H), F feed-forward width, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sllm.config import ModelConfig
from sllm.model.shared import INIT_STD, LanguageModel, LayerCache, attend

POSITION_SIZE = 0.25
"""Root mean square of the position table, as a share of the embeddings'; docs/model.md has the ablation."""


def sinusoidal_positions(config: ModelConfig) -> Tensor:
    """Position table (context_length, C) of Vaswani et al. 2017, section 3.5, a quarter of the embeddings' size.

    A sine has a root mean square of 1/√2, 35 times that of embeddings drawn with std 0.02 at the start of
    training; unscaled, every token of a position would look alike.
    """
    size = POSITION_SIZE * (INIT_STD if config.tie_embeddings else 1.0)
    position = torch.arange(config.context_length, dtype=torch.float64)[:, None]
    frequency = torch.exp(-math.log(10_000) * torch.arange(0, config.d_model, 2, dtype=torch.float64) / config.d_model)
    angle = position * frequency
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
    return (table * size * math.sqrt(2)).float()


class LayerNorm(nn.LayerNorm):
    """In the precision of its weights, fp32 in training, whatever that of its input (…, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, cache: LayerCache | None, at: Tensor | None, mask: Tensor | None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)  # 3 × (B, H, T, D)
        return self.out(attend(q, k, v, cache, at, mask, self.dropout if self.training else 0.0))


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = LayerNorm(config.d_model)
        self.expand = nn.Linear(config.d_model, config.d_ff)
        self.contract = nn.Linear(config.d_ff, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: LayerCache | None, at: Tensor | None, mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), cache, at, mask))
        hidden = F.gelu(self.expand(self.feed_forward_norm(x)), approximate="tanh")
        return x + self.dropout(self.contract(hidden))


class GPT2(LanguageModel):
    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        blocks = [Block(config) for _ in range(config.n_layers)]
        super().__init__(config, vocab_size, sinusoidal_positions(config), blocks, LayerNorm(config.d_model))

    def hidden(
        self,
        tokens: Tensor,
        cache: list[LayerCache] | None = None,
        at: Tensor | None = None,
        begins: Tensor | None = None,
    ) -> Tensor:
        x = self.embed(tokens, self.places(tokens.shape[1], at, begins))
        return self.last_norm(self.through_blocks(x, cache, at, begins))
