"""Parameters and FLOPs, counted by hand and by torch."""

from pathlib import Path

import torch
from small_models import each_kind, small_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sllm.config import ModelConfig, load_experiment
from sllm.model.families import make_model
from sllm.model.size import flops_per_token, parameter_count

CONFIGS = Path(__file__).parents[2] / "configs"


def test_shipped_models_have_the_promised_size() -> None:
    small, default = (load_experiment(CONFIGS / name) for name in ("small.yaml", "default.yaml"))
    assert small.tokenizer.vocab_size == default.tokenizer.vocab_size == 32_000
    assert round(parameter_count(small.model, 32_000)[1] / 1e6) == 85
    assert 300e6 < parameter_count(default.model, 32_000)[1] < 305e6


def test_flops_of_a_model_small_enough_to_count_by_hand() -> None:
    """One layer: 12,480 for qkv, 4,160 for out, 16,640 and 16,448 feed-forward, 256 in norms; in all 164,096 with two
    layers, the last norm (128) and the embedding (64,000). Attention: 12 · 2 layers · 64 · 32."""
    config = ModelConfig(d_model=64, n_layers=2, n_heads=4, d_ff=256, context_length=32)
    assert parameter_count(config, 1000) == (164_096, 100_096)
    assert flops_per_token(config, 1000) == 6 * 164_096 + 49_152


@each_kind
def test_flops_are_those_that_torch_counts(kind: str) -> None:
    """But for the vectors, whose additions are no matrix product."""
    config = small_config(kind).model_copy(update={"dropout": 0.0})
    model, tokens = make_model(config, 1000), torch.randint(1000, (2, config.context_length + 1))
    vectors = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # of the others it counts none
        model(tokens[:, :-1], tokens[:, 1:]).backward()
    counted = counter.get_total_flops() / (2 * config.context_length)
    assert counted == flops_per_token(config, 1000) - 6 * vectors
