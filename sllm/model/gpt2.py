"""GPT: the whole architecture on one page.

A decoder in GPT-2's mould (Radford et al. 2019): token embedding + fixed sinusoidal positions, pre-LayerNorm blocks of
causal multi-head attention and a GELU feed-forward, a last LayerNorm, and an output layer tied to the embedding.
The blocks are GPT-2's to the letter, so Transformers' GPT2LMHeadModel can hold our weights (see `sllm.export`).

Shapes: B batch, T time, C width (d_model), H heads, D head width (C / H), F feed-forward width, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sllm.config import ModelConfig

INIT_STD = 0.02  # GPT-2's
POSITION_SIZE = 0.005  # root mean square of the position table; docs/model.md has the ablation

# Keys and values of one layer, each (B, H, capacity, D); the caller owns them and says how much is filled.
LayerCache = tuple[Tensor, Tensor]


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Position table (length, width) of Vaswani et al. 2017, section 3.5, scaled to a quarter of the embeddings' size.

    A sine has a root mean square of 1/√2, 35 times that of embeddings drawn with std 0.02 at the start of
    training; unscaled, every token of a position would look alike.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.exp(-math.log(10_000) * torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = position * frequency
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
    return (table * POSITION_SIZE * math.sqrt(2)).float()


def visible(start: int, length: int, padding: Tensor | None, device: torch.device) -> Tensor:
    """Which positions each of the tokens `start` to `start + length` may attend to, bool (B or 1, 1, T, start + T).

    Causal, and never the `padding` (B,) filler tokens at the left of a row. A filler token sees itself, since a
    softmax over nothing is NaN.
    """
    keys = torch.arange(start + length, device=device)
    queries = keys[start:, None]
    mask = keys <= queries
    if padding is not None:
        mask = mask & (keys >= padding[:, None, None]) | (keys == queries)
    return mask.view(-1, 1, length, start + length)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, cache: LayerCache | None = None, start: int = 0, mask: Tensor | None = None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)  # 3 × (B, H, T, D)
        if cache is not None:
            keys, values = cache
            keys[:, :, start : start + T] = k
            values[:, :, start : start + T] = v
            k, v = keys[:, :, : start + T], values[:, :, : start + T]
        dropout = self.dropout if self.training else 0.0
        causal = mask is None and T > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model)
        self.expand = nn.Linear(config.d_model, config.d_ff)
        self.contract = nn.Linear(config.d_ff, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: LayerCache | None = None, start: int = 0, mask: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), cache, start, mask))
        hidden = F.gelu(self.expand(self.feed_forward_norm(x)), approximate="tanh")
        return x + self.dropout(self.contract(hidden))


class GPT(nn.Module):
    """The language model.

    Args:
        config: widths, depth, dropout.
        vocab_size: V, the number of token ids.
    """

    positions: Tensor

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.activation_checkpointing = False
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.register_buffer("positions", sinusoidal_positions(config.context_length, config.d_model), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.d_model)
        self._initialize()

    def _initialize(self) -> None:
        """GPT-2's: normal(0, 0.02), zero biases, and projections into the residual stream divided by √(2·layers)."""
        residual_std = INIT_STD / math.sqrt(2 * self.config.n_layers)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                into_residual = name.endswith(("attention.out", "contract"))
                nn.init.normal_(module.weight, std=residual_std if into_residual else INIT_STD)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)

    def hidden(
        self, tokens: Tensor, cache: list[LayerCache] | None = None, start: int = 0, padding: Tensor | None = None
    ) -> Tensor:
        """Last-layer states (B, T, C) of token ids (B, T).

        Args:
            cache: keys and values of the positions before `start`, one pair a layer; the new ones are written into it.
            start: how many tokens the cache holds.
            padding: how many filler tokens stand at the left of each row, (B,). Nothing attends to them, and a row's
                positions count from its first real token, so a row means what it would mean alone.
        """
        T = tokens.shape[1]
        if padding is None:
            positions = self.positions[start : start + T]
        else:
            index = torch.arange(start, start + T, device=tokens.device) - padding[:, None]  # (B, T)
            positions = self.positions[index.clamp(0, self.config.context_length - 1)]
        # Attention knows two cases by itself: the whole sequence is here, or the one new token sees all there is.
        mask = None if padding is None and (start == 0 or T == 1) else visible(start, T, padding, tokens.device)
        x = self.dropout(self.embedding(tokens) + positions)
        for i, block in enumerate(self.blocks):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, cache[i] if cache else None, start, mask)
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, C) → (…, V)."""
        weight = self.embedding.weight
        return F.linear(hidden.to(weight.dtype), weight)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of token ids (B, T); with `targets` (B, T), the mean cross-entropy in nats instead."""
        logits = self.logits(self.hidden(tokens))
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
