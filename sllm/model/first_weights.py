"""What every weight is before the first step.

Tied to its output layer, a model starts as GPT-2 does: normal(0, 0.02), and projections into the residual stream
divided by √(2·layers). With an output layer of its own it starts with embeddings of size 1 that are like each other
where tokens are spelt alike, an output near zero, projections into the residual stream zero, and, where positions
are rotary, heads that look a few tokens back. docs/model.md has what each is worth. Biases are zero, norms one.

Shapes: C width (d_model), D head width, V vocabulary.
"""

import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sllm.model.qwen3 import Attention, Qwen3
from sllm.model.shared import INIT_STD, LanguageModel


@torch.no_grad()
def initialize(model: LanguageModel, tokens: Sequence[bytes]) -> None:
    """Draw every weight from torch's generator. `tokens` are the bytes of each id, in order; none: of no spelling."""
    config = model.config
    for name, module in model.named_modules():
        into_residual = name.endswith(("attention.out", "contract"))
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Linear | nn.Embedding) and config.tie_embeddings:
            std = INIT_STD / math.sqrt(2 * config.n_layers) if into_residual else INIT_STD
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Embedding):
            module.weight.copy_(OWN * (spelled(tokens, config.d_model) if tokens else torch.randn_like(module.weight)))
        elif isinstance(module, nn.Linear) and module is model.head:
            nn.init.normal_(module.weight, std=0.001)
        elif isinstance(module, nn.Linear) and into_residual:
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            std = (0.4 if name.endswith(("expand", "gate")) else 1.0) / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -math.sqrt(3) * std, math.sqrt(3) * std)
    if isinstance(model, Qwen3) and not config.tie_embeddings:
        look_back(model)


# --- embeddings by spelling -------------------------------------------------------------------------

LONGEST = 3
"""Characters of the longest piece; a Hangul syllable counts as its two or three letters."""
SHARE = 0.6
"""Of an embedding's variance that its pieces give it; the rest is its own."""


def spelled(tokens: Sequence[bytes], width: int) -> Tensor:
    """A table (tokens, width), normal(0, 1): in part a token's own, in part the sum of the vectors of its pieces, which
    are the runs of 1 to 3 characters in it (as fastText's subwords, Bojanowski et al. 2017)."""
    pieces = [_pieces(token) for token in tokens]
    shared = [piece for piece, count in Counter(piece for of in pieces for piece in of).items() if count > 1]
    numbers = {piece: number for number, piece in enumerate(shared)}
    known = [[numbers[piece] for piece in of if piece in numbers] for of in pieces]
    offsets = torch.tensor([0, *map(len, known[:-1])]).cumsum(0)
    vectors = torch.randn(len(numbers), width)
    sums = F.embedding_bag(torch.tensor([number for of in known for number in of]), vectors, offsets, mode="sum")
    counts = torch.tensor([len(of) for of in known])[:, None]
    own = torch.randn(len(tokens), width)
    mixed = SHARE**0.5 * sums / counts.clamp(min=1).sqrt() + (1 - SHARE) ** 0.5 * own
    return torch.where(counts > 0, mixed, own)


def _pieces(token: bytes) -> list[str]:
    text = "".join([_letters(character) for character in token.decode("utf-8", "ignore").casefold()])
    pieces = {text[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(text) - n + 1)} - {" "}
    return sorted(pieces)  # a set has another order in each process, and a sum other bits


def _letters(character: str) -> str:
    return unicodedata.normalize("NFD", character) if "가" <= character <= "힣" else character


# --- heads that look back ---------------------------------------------------------------------------

OWN, COMMON = 0.8, 0.6
"""Root mean square of an embedding's own part, and of the direction that all have in common."""
LOOKS_BACK = (1, 2, 3, 0)
"""How many tokens back a head looks, one head after the other."""


def look_back(model: Qwen3) -> None:
    """Turn every head to a token a few places back. Random heads look at all tokens alike, and take hundreds of steps
    to learn that the last few matter most.

    All embeddings are given a direction in common, from which queries and keys get a part that no token changes. In
    the quarter of a head's pairs that turns fastest the keys' is (1, 0), the queries' the same turned back by the
    distance: so the rotation makes their product largest there. It is a score of 4.5, if a head is wide enough.
    """
    config = model.config
    common = torch.randn(config.d_model)
    common *= COMMON / common.square().mean().sqrt()
    model.embedding.weight += common
    D, pairs = config.head_width, max(1, config.head_width // 8)
    share = min(0.8, 4.5 / math.sqrt(D))  # of a query's square, and of a key's
    size = math.sqrt(share / (1 - share) * D / pairs)
    cos, sin = model.positions[1].chunk(2)
    angles = torch.atan2(sin, cos)[:pairs]
    key, queries = torch.zeros(D), torch.zeros(config.n_heads, D)
    key[:pairs] = size
    for query, distance in zip(queries, itertools.cycle(LOOKS_BACK), strict=False):
        query[:pairs] = size * (angles * distance).cos()
        query[D // 2 : D // 2 + pairs] = -size * (angles * distance).sin()
    # Along it, what a block reads, which has a root mean square of 1, has 1.
    along = common / common.square().sum() * math.hypot(OWN, COMMON)
    for block in model.blocks:
        attention = block.attention
        assert isinstance(attention, Attention)
        attention.q.weight += torch.outer(queries.flatten(), along)
        attention.k.weight += torch.outer(key.repeat(config.kv_heads), along)
