"""Arithmetic on a model before there is one: parameters, bytes and FLOPs. Needs no torch."""

from sllm.config import ModelConfig, TrainConfig


def parameter_count(model: ModelConfig, vocab_size: int) -> tuple[int, int]:
    """Trainable parameters (all, without embeddings). The output layer is tied to the token embedding."""
    c, f = model.d_model, model.d_ff
    block = 2 * 2 * c + (3 * c * c + 3 * c) + (c * c + c) + (c * f + f) + (f * c + c)
    blocks = model.n_layers * block + 2 * c
    return blocks + vocab_size * c, blocks


def checkpoint_bytes(model: ModelConfig, vocab_size: int) -> int:
    """Weights and two AdamW moments, fp32."""
    return 3 * 4 * parameter_count(model, vocab_size)[0]


def training_memory_bytes(model: ModelConfig, train: TrainConfig, vocab_size: int) -> int:
    """An estimate of one rank's memory: weights, gradients and their sums (int64), AdamW moments, DDP buckets,
    activations, logits.

    Activations follow Korthikanti et al. 2022 (arXiv:2205.05198), eq. 1, without the attention matrix, which
    scaled_dot_product_attention does not keep: 34·B·T·C bytes per layer at 2 bytes a value.
    """
    parameters = parameter_count(model, vocab_size)[0]
    state = 7 * 4 * parameters
    width = 4 if train.precision == "fp32" else 2
    tokens = train.micro_batch * model.context_length
    per_layer = (2 if train.activation_checkpointing else 34) * tokens * model.d_model * width // 2
    working = 34 * tokens * model.d_model * width // 2 if train.activation_checkpointing else 0
    logits = tokens * vocab_size * (width + 2 * 4)
    return state + model.n_layers * per_layer + working + logits


def flops_per_token(model: ModelConfig, vocab_size: int) -> float:
    """Forward and backward FLOPs per trained token: 6N + 12·L·C·T (Chowdhery et al. 2022, PaLM, appendix B).

    N counts the tied embedding once, for the output layer, where it multiplies.
    """
    n = parameter_count(model, vocab_size)[0]
    return 6.0 * n + 12.0 * model.n_layers * model.d_model * model.context_length
