"""The optimizers, a learning rate for each kind of parameter, and the schedule as a function of the step."""

import math
from typing import Any

import torch

from sllm.config import TrainConfig, decay_start
from sllm.model.shared import LanguageModel


def make_optimizers(model: LanguageModel, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Fused AdamW (Loshchilov and Hutter 2019); with `muon`, Muon (Jordan et al. 2024) for the matrices inside the
    blocks, each orthogonalised by itself. Each group has its `peak`, which the schedule is a share of.

    Only those matrices decay: decaying norms, biases or embeddings pulls scales and rare tokens towards zero for no
    benefit.
    """
    groups = parameter_groups(model, config)
    muon = [groups.pop("matrices")] if config.optimizer == "muon" else []
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(list(groups.values()), betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    ]
    if muon:
        optimizers.append(torch.optim.Muon(muon, momentum=config.momentum))
    return optimizers


def parameter_groups(model: LanguageModel, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Every parameter in one of the groups embedding, head, matrices and vectors, with its peak rate and decay."""
    rates = config.rates
    head = rates.head and rates.head / model.config.d_model
    peaks = {"embedding": rates.embedding, "head": head, "matrices": None, "vectors": rates.vectors}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        group = part if part in ("embedding", "head") else "matrices" if parameter.ndim == 2 else "vectors"
        peak = peaks[group] or config.learning_rate
        decay = config.weight_decay if group == "matrices" else 0.0
        groups.setdefault(group, {"params": [], "lr": peak, "peak": peak, "weight_decay": decay})
        groups[group]["params"].append(parameter)
    return groups


def set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float, config: TrainConfig) -> None:
    """Give each group the same share of its peak as `rate` is of the matrices'."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (rate / config.learning_rate)


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
