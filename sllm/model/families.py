"""Which architecture a configuration names."""

from sllm.config import ModelConfig
from sllm.model.gpt2 import GPT2
from sllm.model.qwen3 import Qwen3
from sllm.model.shared import LanguageModel

FAMILIES: dict[str, type[GPT2] | type[Qwen3]] = {"gpt2": GPT2, "qwen3": Qwen3}


def make_model(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """A model with first weights, drawn from torch's generator, on torch's default device."""
    return FAMILIES[config.family](config, vocab_size)
