"""Which token comes next: drawn from the logits of a step.

Shapes: B batch, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sllm.errors import UserError
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.characters import BETWEEN, BROKEN

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


def utf8_table(tokenizer: Tokenizer, device: torch.device, ends: Sequence[int] = ()) -> Tensor:
    """States of a UTF-8 decoder after each token, by the state before it: (states, V) uint8, see `Choice`. `ends`:
    special tokens that may come where `<eos>` may, and no other ever does."""
    columns = torch.frombuffer(bytearray(b"".join(tokenizer.utf8_states)), dtype=torch.uint8)
    columns = columns.view(tokenizer.vocab_size, -1)
    columns[list(ends)] = columns[tokenizer.eos_id].clone()
    return columns.t().contiguous().to(device)


def sample(
    logits: Tensor, noise: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """Token ids (B,) drawn from logits (B, V); `noise` (B, V) is exponential, and the other arguments are those of
    `Sampling`. No shape depends on a value, and nothing is read."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float()
    # The likeliest becomes 0 before the division, which then cannot make an infinite one.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / _in_fp32(temperature)
    tokens = None
    if top_k is not None and top_k < logits.shape[-1]:
        logits, tokens = logits.topk(top_k)
        noise = noise.gather(-1, tokens)
    probabilities = logits.softmax(dim=-1)
    if top_p < 1:
        if tokens is None:
            kept = likeliest(probabilities, top_p)
        else:  # in their order, the likeliest first
            kept = probabilities.cumsum(dim=-1) - probabilities < top_p
        probabilities = probabilities.masked_fill(~kept, 0)
    # The first of several exponential clocks is each with the probability that is its rate: so torch.multinomial draws.
    drawn = (probabilities / noise).argmax(dim=-1, keepdim=True)
    return (drawn if tokens is None else tokens.gather(-1, drawn)).squeeze(-1)


def likeliest(probabilities: Tensor, top_p: float) -> Tensor:
    """Which of the probabilities (B, V) are kept by `top_p`: those that all larger ones together do not reach it
    without. Equal ones are kept together.

    Found without sorting: the bits of a float between 0 and 1 are a number of 30 bits in the same order, of which the
    smallest to be kept is found ten bits at a time, by what all that begin alike have together. Sums are of integers,
    so that their order does not matter.
    """
    bits = probabilities.view(torch.int32).long()
    mass = (probabilities * 2.0**40).long()
    missing = torch.full_like(bits[:, :1], max(1, int(top_p * 2**40)))
    smallest = torch.zeros_like(missing)
    for shift in (20, 10, 0):
        alike = mass.masked_fill(bits >> (shift + 10) != smallest, 0)
        each = mass.new_zeros(len(mass), 1 << 10).scatter_add_(1, bits >> shift & 0x3FF, alike)
        from_here = each.flip(1).cumsum(1).flip(1)
        digit = (from_here >= missing).sum(1, keepdim=True).sub(1).clamp(min=0)
        missing = missing - (from_here - each).gather(1, digit)
        smallest = smallest << 10 | digit
    return bits >= smallest


class Choice:
    """Which tokens come next in a batch of texts, step by step; all that it knows stands in tensors that stay where
    they are.

    Args:
        rows: B.
        utf8: the `utf8_table` of the tokenizer, or None for any token: a model knows no bytes.
    """

    def __init__(self, sampling: Sampling, rows: int, vocab_size: int, device: torch.device, utf8: Tensor | None):
        self.sampling = sampling
        self.utf8 = utf8
        self.token = torch.zeros(rows, dtype=torch.long, device=device)
        self.noise = torch.ones(rows, vocab_size if sampling.temperature else 1, device=device)
        self.seen = torch.zeros(
            rows, vocab_size if sampling.repetition_penalty != 1 else 0, dtype=torch.bool, device=device
        )
        self.state = torch.zeros(rows, dtype=torch.long, device=device)

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """Forget the texts before these, which end with whole characters."""
        self.state.fill_(BETWEEN)
        self.seen.zero_()
        if self.sampling.repetition_penalty != 1:
            for row, prompt in enumerate(prompts):
                self.seen[row, list(prompt)] = True

    def draw(self, generator: torch.Generator | None) -> None:
        """Random numbers for the next choice."""
        if self.sampling.temperature:
            self.noise.exponential_(generator=generator)

    def __call__(self, logits: Tensor) -> None:
        """Choose the next `token` (B,) by logits (B, V)."""
        how = self.sampling
        if how.repetition_penalty != 1:
            logits = penalize_repetition(logits, self.seen, how.repetition_penalty)
        if self.utf8 is not None:
            logits = logits.masked_fill(self.utf8[self.state] == BROKEN, -torch.inf)
        self.token.copy_(sample(logits, self.noise, how.temperature, how.top_k, how.top_p))
        if how.repetition_penalty != 1:
            self.seen.scatter_(1, self.token[:, None], True)
        if self.utf8 is not None:
            self.state.copy_(self.utf8[self.state, self.token])


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
