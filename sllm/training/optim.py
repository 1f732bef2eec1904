"""The optimizer's parameter groups and the learning rate as a function of the step."""

import math

import torch

from sllm.config import TrainConfig, decay_start
from sllm.model.gpt2 import GPT


def make_optimizer(model: GPT, config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter 2019). Weight decay only on the matrices of linear layers: decaying norms,
    biases or embeddings pulls scales and rare tokens towards zero for no benefit."""
    decayed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in decayed], "weight_decay": config.weight_decay},
        {"params": [p for n, p in model.named_parameters() if n not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of optimizer step `step`, 1 to max_steps: linear warm-up, then half a cosine to the minimum
    (Loshchilov and Hutter 2017, SGDR, eq. 5, without restarts), or what does not depend on max_steps before the decay,
    which is linear (wsd: warm-up, stable, decay; Hägele et al. 2024, arXiv:2405.18392)."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    span = config.learning_rate - config.min_learning_rate
    if config.decay is not None:
        start = decay_start(config.max_steps, config.decay)
        left = (config.max_steps - step) / (config.max_steps - start)
        return config.learning_rate if step <= start else config.min_learning_rate + span * left
    progress = (step - config.warmup_steps) / (config.max_steps - config.warmup_steps)
    return config.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress))
