"""Which architecture a configuration names."""

from collections.abc import Sequence

from sllm.config import ModelConfig
from sllm.model.first_weights import initialize
from sllm.model.gpt2 import GPT2
from sllm.model.qwen3 import Qwen3
from sllm.model.shared import LanguageModel

FAMILIES: dict[str, type[GPT2] | type[Qwen3]] = {"gpt2": GPT2, "qwen3": Qwen3}


def make_model(config: ModelConfig, vocab_size: int, tokens: Sequence[bytes] = ()) -> LanguageModel:
    """A model with its first weights, drawn from torch's generator. `tokens` are the bytes of each id, if known."""
    model = frame(config, vocab_size)
    initialize(model, tokens)
    return model


def frame(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """A model whose weights are still to be put in."""
    return FAMILIES[config.family](config, vocab_size)
