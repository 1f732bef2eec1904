"""Qwen3: the whole architecture on one page.

A decoder as Qwen3 is (Yang et al. 2025, arXiv:2505.09388): RMSNorm before each half of a block and after the last,
causal attention with grouped queries, rotary positions and a norm of each head's queries and keys, a SwiGLU
feed-forward, no biases, no dropout. Transformers' Qwen3ForCausalLM can hold our weights (see `sllm.export`).

Shapes: B batch, T time, C width (d_model), H heads, D head width (C / H), F feed-forward width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sllm.config import ModelConfig
from sllm.model.shared import LanguageModel, LayerCache, attend

ROPE_BASE = 10_000.0
EPS = 1e-6


def rotary_positions(config: ModelConfig) -> Tensor:
    """Cosines, then sines, of the angles by which a position turns the D/2 pairs of a head: (context_length, D).
    (Su et al. 2021, RoFormer, eq. 15.)"""
    frequency = ROPE_BASE ** -(torch.arange(0, config.head_width, 2, dtype=torch.float64) / config.head_width)
    angle = torch.arange(config.context_length, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float()


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turn the pairs (i, i + D/2) of heads (B, H, T, D) by their places (T, D) or (B, T, D)."""
    cos, sin = positions.unsqueeze(-3).chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class RMSNorm(nn.RMSNorm):
    """In the precision of its weights, fp32 in training, whatever that of its input (…, C)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Attention(nn.Module):
    """Causal self-attention; each head of keys and values serves n_heads / n_kv_heads heads of queries."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        kv_width = config.kv_heads * config.head_width
        self.q = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k = nn.Linear(config.d_model, kv_width, bias=False)
        self.v = nn.Linear(config.d_model, kv_width, bias=False)
        self.q_norm = RMSNorm(config.head_width)
        self.k_norm = RMSNorm(config.head_width)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(
        self, x: Tensor, cache: LayerCache | None, at: Tensor | None, mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q = rotate(self.q_norm(q), positions).to(v.dtype)
        k = rotate(self.k_norm(k), positions).to(v.dtype)
        return self.out(attend(q, k, v, cache, at, mask))


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.expand = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.contract = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(
        self, x: Tensor, cache: LayerCache | None, at: Tensor | None, mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cache, at, mask, positions)
        hidden = self.feed_forward_norm(x)
        return x + self.contract(F.silu(self.gate(hidden)) * self.expand(hidden))


class Qwen3(LanguageModel):
    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        blocks = [Block(config) for _ in range(config.n_layers)]
        super().__init__(config, vocab_size, rotary_positions(config), blocks, RMSNorm(config.d_model))

    def hidden(
        self,
        tokens: Tensor,
        cache: list[LayerCache] | None = None,
        at: Tensor | None = None,
        begins: Tensor | None = None,
    ) -> Tensor:
        positions = self.places(tokens.shape[1], at, begins)
        return self.last_norm(self.through_blocks(self.embed(tokens), cache, at, begins, positions))
