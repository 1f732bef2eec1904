"""Which token comes next: drawn from the logits of a step.

Shapes: B batch, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sllm.errors import UserError
from sllm.tokenizer import Tokenizer

LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises UserError for values that mean nothing.

    temperature: the logits are divided by it; 0 takes the likeliest token (greedy).
    top_k: keep the k likeliest tokens; None keeps all.
    top_p: keep the likeliest tokens that together reach this probability (Holtzman et al. 2020); 1 keeps all.
    repetition_penalty: weakens tokens already in the text (Keskar et al. 2019, section 4.1); 1 does nothing.
    valid_utf8: only tokens that continue a text, and `<eos>` where a character is complete: never bytes that no UTF-8
        has, nor any other special token. False lets every token through, as other libraries do.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    valid_utf8: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature: {self.temperature} is not a number from 0 up; 0 is greedy, 1 unchanged")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k: {self.top_k} keeps no token; use at least 1, or leave it out to keep all")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: {self.top_p} is not a probability above 0; 1 keeps all tokens")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"repetition_penalty: {self.repetition_penalty} is not above 0; 1 does nothing")


def _in_fp32(value: float) -> float:
    """A factor that fp32 can hold, and its inverse too. Beyond these bounds it chooses the same tokens as at them."""
    return min(max(value, 1e-37), 1e37)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) with those of the `seen` tokens (B, V, bool) made smaller: divided if positive, else multiplied."""
    logits, penalty = logits.float(), _in_fp32(penalty)
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    bounds = torch.finfo(penalized.dtype)
    return torch.where(seen, penalized.clamp(bounds.min, bounds.max), logits)


def utf8_table(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """States of a UTF-8 decoder after each token, by the state before it: (states, V) uint8, see `next_tokens`."""
    columns = torch.frombuffer(bytearray(b"".join(tokenizer.utf8_states)), dtype=torch.uint8)
    return columns.view(tokenizer.vocab_size, -1).t().contiguous().to(device)


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Token ids (B,) drawn from logits (B, V); the arguments are those of `Sampling`."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float()
    # The likeliest becomes 0 before the division, which then cannot make an infinite one.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / _in_fp32(temperature)
    if top_k is not None and top_k < logits.shape[-1]:
        kept, tokens = logits.topk(top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, tokens, kept)
    probabilities = logits.softmax(dim=-1)
    if top_p < 1:
        ordered, tokens = probabilities.sort(dim=-1, descending=True)
        left_out = ordered.cumsum(dim=-1) - ordered >= top_p  # by the probability of all likelier tokens
        left_out[..., 0] = False
        probabilities = torch.zeros_like(ordered).scatter(-1, tokens, ordered.masked_fill(left_out, 0))
    return torch.multinomial(probabilities, num_samples=1, generator=generator).squeeze(-1)


def seeded(seed: int | None, device: torch.device) -> torch.Generator:
    """A generator of its own, so that sampling never disturbs the random numbers of a training. None: a new seed."""
    check_seed(seed)
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def check_seed(seed: int | None) -> None:
    """Raises UserError for a number that cannot be one."""
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed: not a number from 0 to {LARGEST_SEED}; leave it out for a new one each time")
