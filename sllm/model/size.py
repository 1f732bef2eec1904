"""Arithmetic on a model before there is one: parameters, bytes and FLOPs. Needs no torch."""

from sllm.config import ModelConfig, TrainConfig

LOSS_AT_ONCE = {"cuda": 4096, "cpu": 512}
"""Tokens whose logits a training makes at a time: more take more memory; fewer more time, since each time a gradient as
large as the output layer is added to."""


def parameter_count(model: ModelConfig, vocab_size: int) -> tuple[int, int]:
    """Trainable parameters (all, without embeddings and output layer)."""
    c = model.d_model
    vectors = {"gpt2": 2 * 2 * c + 5 * c + model.d_ff, "qwen3": 2 * c + 2 * model.head_width}[model.family]
    last_norm = {"gpt2": 2 * c, "qwen3": c}[model.family]
    blocks = _matrices(model) + model.n_layers * vectors + last_norm
    return blocks + vocab_size * c * (1 if model.tie_embeddings else 2), blocks


def _matrices(model: ModelConfig) -> int:
    """Elements of the matrices inside the blocks."""
    attention = 2 * model.d_model * model.head_width * (model.n_heads + model.kv_heads)
    feed_forward = {"gpt2": 2, "qwen3": 3}[model.family] * model.d_model * model.d_ff
    return model.n_layers * (attention + feed_forward)


def checkpoint_bytes(model: ModelConfig, train: TrainConfig, vocab_size: int) -> int:
    """Weights and the optimizers' moments, fp32: AdamW keeps two, Muon one."""
    values = 3 * parameter_count(model, vocab_size)[0] - (_matrices(model) if train.optimizer == "muon" else 0)
    return 4 * values


def training_memory_bytes(model: ModelConfig, train: TrainConfig, vocab_size: int) -> int:
    """An estimate of one rank's memory: weights and moments, gradients and their sums (int64), DDP buckets,
    activations, the loss.

    Activations follow Korthikanti et al. 2022 (arXiv:2205.05198), eq. 1, without the attention matrix, which
    scaled_dot_product_attention does not keep: of GPT-2 17 values a layer for each of B·T·C.
    """
    state = checkpoint_bytes(model, train, vocab_size) + 4 * 4 * parameter_count(model, vocab_size)[0]
    width = 4 if train.precision == "fp32" else 2
    tokens = train.micro_batch * model.context_length
    values = {
        "gpt2": 17 * model.d_model,
        # What a compiled block was seen to keep under bf16.
        "qwen3": 8 * model.d_model + 3 * model.kv_heads * model.head_width + 3 * model.d_ff,
    }[model.family]
    per_layer = (model.d_model if train.activation_checkpointing else values) * tokens * width
    working = values * tokens * width if train.activation_checkpointing else 0
    logits = min(tokens, LOSS_AT_ONCE["cuda"]) * vocab_size * (width + 2 * 4)
    loss = logits + model.d_model * (tokens * width + vocab_size * (width + 4))
    return state + model.n_layers * per_layer + working + loss


def flops_per_token(model: ModelConfig, vocab_size: int) -> float:
    """Forward and backward FLOPs per trained token: 6N + 12·L·C·T (Chowdhery et al. 2022, PaLM, appendix B).

    N counts the blocks and the output layer; looking a token up in the table of embeddings multiplies nothing.
    """
    n = parameter_count(model, vocab_size)[1] + vocab_size * model.d_model
    return 6.0 * n + 12.0 * model.n_layers * model.d_model * model.context_length
