"""What the families share: the frame around the blocks, the key–value cache, places of tokens, the loss.

Shapes: B batch, T time, C width (d_model), H heads, D head width (C / H), F feed-forward width, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sllm.config import ModelConfig

INIT_STD = 0.02
"""GPT-2's, of a model whose output layer is its table of embeddings."""

# Keys and values of one layer, each (B, kv heads, capacity, D); the caller owns them and says how much is filled.
LayerCache = tuple[Tensor, Tensor]


class LanguageModel(nn.Module, ABC):
    """Token embedding, blocks, a last norm, and an output layer, tied to the embedding or not.

    A table of its own is brought to a root mean square of 1 as it is looked up (a norm that an export folds into the
    table); so its size is no matter of the optimizer's, and the blocks start from a residual stream of size 1.

    Args:
        config: widths, depth, dropout.
        vocab_size: V, the number of token ids.
        positions: what the tokens' places are told by, a row for each of `context_length`.
        blocks: called with (x, cache, start, mask) and what `through_blocks` was given.
        final_norm: of (…, C).
    """

    positions: Tensor

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        positions: Tensor,
        blocks: Iterable[nn.Module],
        final_norm: nn.Module,
    ) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.activation_checkpointing = False
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = final_norm
        self.head = None if config.tie_embeddings else nn.Linear(config.d_model, vocab_size, bias=False)

    @abstractmethod
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

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) → (B, T, C)."""
        found = self.embedding(tokens).to(self.positions.dtype)  # fp32 also where the table alone is bf16
        return found if self.head is None else normed(found)

    def places(self, length: int, start: int, padding: Tensor | None) -> Tensor:
        """The rows of `positions` for the tokens `start` to `start + length`, (T, …), or with padding (B, T, …)."""
        if padding is None:
            return self.positions[start : start + length]
        index = torch.arange(start, start + length, device=padding.device) - padding[:, None]  # (B, T)
        return self.positions[index.clamp(0, self.config.context_length - 1)]

    def through_blocks(
        self, x: Tensor, cache: list[LayerCache] | None, start: int, padding: Tensor | None, *also: Tensor
    ) -> Tensor:
        """(B, T, C) → (B, T, C), before the last norm. `also` is given to every block."""
        T = x.shape[1]
        # Attention knows two cases by itself: the whole sequence is here, or the one new token sees all there is.
        mask = None if padding is None and (start == 0 or T == 1) else visible(start, T, padding, x.device)
        for i, block in enumerate(self.blocks):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, None, 0, None, *also, use_reentrant=False)
            else:
                x = block(x, cache[i] if cache else None, start, mask, *also)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, C) → (…, V)."""
        weight = (self.embedding if self.head is None else self.head).weight
        return F.linear(hidden.to(weight.dtype), weight)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of token ids (B, T); with `targets` (B, T), the mean cross-entropy in nats instead."""
        logits = self.logits(self.hidden(tokens))
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def normed(embeddings: Tensor) -> Tensor:
    """(…, C), each row of which has a root mean square of 1."""
    return F.rms_norm(embeddings, embeddings.shape[-1:], eps=1e-6)


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


def attend(
    q: Tensor, k: Tensor, v: Tensor, cache: LayerCache | None, start: int, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Causal attention of queries (B, H, T, D) to these keys and values (B, kv heads, T, D), which follow those of the
    cache and are written into it. Returns (B, T, C)."""
    B, H, T, D = q.shape
    if cache is not None:
        keys, values = cache
        keys[:, :, start : start + T] = k
        values[:, :, start : start + T] = v
        k, v = keys[:, :, : start + T], values[:, :, : start + T]
    groups = k.shape[1]
    if T == 1:
        # A new token's queries of one group are rows of one head, which read its keys and values once for all.
        y = F.scaled_dot_product_attention(q.reshape(B, groups, H // groups, D), k, v, mask, dropout)
        return y.reshape(B, 1, H * D)
    y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None, enable_gqa=groups != H)
    return y.transpose(1, 2).reshape(B, T, H * D)
