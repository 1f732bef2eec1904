"""Models that take no training: random ones, and one that says a given text; and a chat with them."""

import itertools
from collections.abc import Generator, Sequence
from typing import Any

import pytest
import torch

from sllm.config import ModelConfig
from sllm.inference.chat import chat
from sllm.inference.generator import TextGenerator
from sllm.inference.sampling import Sampling
from sllm.model.families import make_model
from sllm.model.shared import LanguageModel
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE

KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2"},
    "gpt2 untied": {"family": "gpt2", "tie_embeddings": False},
    "qwen3": {"family": "qwen3"},
    "qwen3 untied, grouped": {"family": "qwen3", "tie_embeddings": False, "n_heads": 4, "n_kv_heads": 2},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def small_config(kind: str = "gpt2") -> ModelConfig:
    values = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 96, "context_length": 64}
    return ModelConfig.model_validate({**values, "dropout": 0.0 if "qwen3" in kind else 0.1, **KINDS[kind]})


CONFIG = small_config()
GREEDY = Sampling(temperature=0)
VOCAB_SIZE = Tokenizer([]).vocab_size
PROMPTS = ["한국어", "a", "The quick brown fox", "", "대한민국의 수도는"]
CTRL_C = "\x03"


def random_model(seed: int = 0, kind: str = "gpt2") -> LanguageModel:
    """A model whose next token depends on the whole text: a fresh one would just repeat its last token."""
    torch.manual_seed(seed)
    model = make_model(small_config(kind), VOCAB_SIZE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if "norm" not in name else 0.1))
    return model


def chain_model(*tokens: int, vocab_size: int = VOCAB_SIZE, context_length: int = 64) -> LanguageModel:
    """A model that says after each of at most 32 tokens the next one, whatever was before: its blocks do nothing, and
    each of these tokens is a direction of its own. Where the next one may not be said it says `!`; after all other
    tokens, all are equally likely."""
    config = small_config("qwen3 untied, grouped").model_copy(update={"context_length": context_length})
    model = make_model(config, vocab_size).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attention.out.weight", "contract.weight")):
                parameter.zero_()
        assert model.head is not None
        model.embedding.weight.zero_()
        model.head.weight.zero_()
        directions = torch.eye(config.d_model)
        for direction, (before, after) in zip(directions, itertools.pairwise(tokens), strict=False):
            model.embedding.weight[before] = direction
            model.head.weight[after] += direction
        model.head.weight[FIRST_BYTE + ord("!")] += 0.01 * directions.sum(0)
    return model


class Scripted(TextGenerator):
    """A generator whose model 'says' a given text, byte by byte: a deterministic language model."""

    def __init__(self, text: str, *, tuned: bool = False) -> None:
        self.tokenizer = Tokenizer([])
        self.model = random_model().eval()
        self.tuned = tuned
        self.said = self.tokenizer.encode(text, eos=True)
        self.asked: list[list[int]] = []
        self.rooms: list[int] = []

    def stream_ids(self, ids: Sequence[int], new_tokens: int, *_: object) -> Generator[str]:
        self.asked.append(list(ids))
        self.rooms.append(new_tokens)
        decoder = self.tokenizer.stream_decoder()
        for token in self.said[:new_tokens]:
            if piece := decoder.feed(token):
                yield piece


def talk(generator: TextGenerator, lines: list[str], **arguments: Any) -> str:
    """What the chat writes; what it tells goes to `told`."""
    script = iter(lines)
    written: list[str] = []

    def read(_: str) -> str:
        line = next(script, None)
        if line is None:
            raise EOFError
        if line == CTRL_C:
            raise KeyboardInterrupt
        return line

    chat(generator, read=read, write=written.append, **{"tell": lambda _: None, **arguments})
    return "".join(written)
