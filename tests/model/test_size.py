"""Parameters and FLOPs, counted by hand."""

from pathlib import Path

from sllm.config import ModelConfig, load_experiment
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
