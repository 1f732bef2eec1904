"""What the families share: the frame around the blocks, the key–value cache, places of tokens, the loss.

Shapes: B batch, T time, C width (d_model), H heads, D head width (C / H), F feed-forward width, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sllm.config import ModelConfig
from sllm.model.loss import PiecewiseLoss, differentiated

INIT_STD = 0.02
"""GPT-2's, of a model whose output layer is its table of embeddings."""

# Keys and values of one layer, each (B, kv heads, capacity, D); the caller owns them and says where tokens go.
LayerCache = tuple[Tensor, Tensor]


class LanguageModel(nn.Module, ABC):
    """Token embedding, blocks, a last norm, and an output layer, tied to the embedding or not.

    A table of its own is brought to a root mean square of 1 as it is looked up (a norm that an export folds into the
    table); so its size is no matter of the optimizer's, and the blocks start from a residual stream of size 1.

    Args:
        config: widths, depth, dropout.
        vocab_size: V, the number of token ids.
        positions: what the tokens' places are told by, a row for each of `context_length`.
        blocks: called with (x, cache, at, mask) and what `through_blocks` was given.
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
        self.training_mask: Any = None  # FlexAttention's, if that is used
        self.differentiated = differentiated  # or compiled, which a training may want
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.entry = Entry(normed=not config.tie_embeddings, dropout=config.dropout)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = final_norm
        self.head = None if config.tie_embeddings else nn.Linear(config.d_model, vocab_size, bias=False)

    @abstractmethod
    def hidden(
        self,
        tokens: Tensor,
        cache: list[LayerCache] | None = None,
        at: Tensor | None = None,
        begins: Tensor | None = None,
    ) -> Tensor:
        """Last-layer states (B, T, C) of token ids (B, T).

        Args:
            cache: keys and values of the tokens before these, one pair a layer; the new ones are written into it.
            at: the tokens' places in the cache, (T,), which they attend to as far as themselves; nothing has a shape
                that depends on its values. None: they are the first.
            begins: where the text that a token is of begins, (B, T), or of a row all after its filler, (B, 1). A token
                attends to no place before, and its positions count from there, so a text means what it would mean
                alone.
        """

    def embed(self, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        """(B, T) → (B, T, C), what the first block takes; `places` is what is added to tell the tokens' places."""
        rows: Tensor = self.embedding(tokens)
        x: Tensor = self.entry(rows.to(self.positions.dtype), places)  # fp32 also where the table alone is bf16
        return x

    def places(self, length: int, at: Tensor | None, begins: Tensor | None) -> Tensor:
        """The rows of `positions` for the tokens `at` those places, (T, …), or with `begins` (B, T, …)."""
        if at is None and begins is None:
            return self.positions[:length]
        at = torch.arange(length, device=self.positions.device) if at is None else at
        index = at if begins is None else at - begins  # (T,) or (B, T)
        return self.positions[index.clamp(0, self.config.context_length - 1)]

    def through_blocks(
        self,
        x: Tensor,
        cache: list[LayerCache] | None,
        at: Tensor | None,
        begins: Tensor | None,
        *also: Tensor,
    ) -> Tensor:
        """(B, T, C) → (B, T, C), before the last norm. `also` is given to every block."""
        mask: Any = None  # where the whole text is here, attention is causal by itself
        if at is not None or begins is not None:
            mask = visible(x, at, begins, x.shape[1] if at is None or cache is None else cache[0][0].shape[2])
        elif self.training:
            mask = self.training_mask
        for i, block in enumerate(self.blocks):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, None, None, mask, *also, use_reentrant=False)
            else:
                x = block(x, cache[i] if cache else None, at, mask, *also)
        return x

    def last_norm(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C). Of ours, since a layer of torch's own cannot be compiled by itself."""
        normed: Tensor = self.final_norm(x)
        return normed

    @property
    def output_weight(self) -> Tensor:
        """Of the output layer, (V, C)."""
        return (self.embedding if self.head is None else self.head).weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, C) → (…, V)."""
        return F.linear(hidden.to(self.output_weight.dtype), self.output_weight)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        begins: Tensor | None = None,
        learnt: Tensor | None = None,
        count: float | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of token ids (B, T); with `targets` (B, T), the mean cross-entropy in nats instead.

        Args:
            begins: see `hidden`.
            learnt: which targets count, (N,), their places in the flattened (B, T); all if None.
            count: what the sum of their cross-entropies is divided by, if not their number.
        """
        hidden, weight = self.hidden(tokens, begins=begins), self.output_weight
        if targets is None:
            return self.logits(hidden)
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        if learnt is not None:
            hidden, targets = hidden.index_select(0, learnt), targets[learnt]
        dtype, count = dtype_of_products(weight), count or len(hidden)
        loss: Tensor = PiecewiseLoss.apply(hidden, weight, targets, count, dtype, self.differentiated)
        return loss


class Entry(nn.Module):
    """From rows of the table of embeddings to the residual stream. Looking them up is no part of it: the gradient of
    that is a sort, which a compiler does no better."""

    def __init__(self, *, normed: bool, dropout: float) -> None:
        super().__init__()
        self.normed = normed
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, places: Tensor | None) -> Tensor:
        x = normed(rows) if self.normed else rows
        x = self.dropout(x if places is None else x + places)
        # All that is added to it is bf16 then. Not fp16, in which it might overflow.
        return x.bfloat16() if dtype_of_products(x) == torch.bfloat16 else x


def dtype_of_products(of: Tensor) -> torch.dtype:
    """What a matrix product computes in where this tensor is: autocast's precision, or the tensor's own."""
    kind = of.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else of.dtype


def normed(embeddings: Tensor) -> Tensor:
    """(…, C), each row of which has a root mean square of 1."""
    return F.rms_norm(embeddings, embeddings.shape[-1:], eps=1e-6)


def visible(x: Tensor, at: Tensor | None, begins: Tensor | None, length: int) -> Tensor:
    """Which of `length` places the tokens x (B, T, C) `at` theirs may attend to, (B or 1, 1, T, length): 0, or -inf,
    which is added to the scores.

    Causal, and never what stands before the place at which a token's text `begins`, (B, T) or (B, 1). A filler token
    sees itself, since a softmax over nothing is NaN.
    """
    keys = torch.arange(length, device=x.device)
    queries = (keys if at is None else at)[:, None]
    mask = keys <= queries
    if begins is not None:
        mask = mask & (keys >= torch.minimum(begins[:, :, None], queries))
    return x.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf).view(-1, 1, x.shape[1], length)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: LayerCache | None,
    at: Tensor | None,
    mask: Any,
    dropout: float = 0.0,
) -> Tensor:
    """Causal attention of queries (B, H, T, D) to these keys and values (B, kv heads, T, D), which are written into the
    cache, and with `at` to all that the cache holds. Returns (B, T, C).

    `mask` is None, what `visible` returns, or FlexAttention's, which then computes it.
    """
    B, H, T, D = q.shape
    if cache is not None:
        keys, values = cache
        if at is None:
            keys[:, :, :T], values[:, :, :T] = k, v
        else:
            k, v = keys.index_copy_(2, at, k), values.index_copy_(2, at, v)
    groups = k.shape[1]
    if not isinstance(mask, Tensor | None):
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention(q, k, v, block_mask=mask, enable_gqa=groups != H).transpose(1, 2).reshape(B, T, H * D)
    if T == 1:
        # A new token's queries of one group are rows of one head, which read its keys and values once for all.
        y = F.scaled_dot_product_attention(q.reshape(B, groups, H // groups, D), k, v, mask, dropout)
        return y.reshape(B, 1, H * D)
    y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None, enable_gqa=groups != H)
    return y.transpose(1, 2).reshape(B, T, H * D)
