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
        optimizers.append(Muon(muon, momentum=config.momentum))
    return optimizers


class Muon(torch.optim.Muon):
    """torch's. It multiplies in bf16, which most CPUs emulate; there this one takes fp32, and a quarter of the time."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if self.param_groups[0]["params"][0].is_cuda:
            return super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(mean, group["momentum"]), group)
                rows, columns = update.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))
        return None


def orthogonal(x: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """About U Vᵀ of x = U S Vᵀ: torch's iteration after Newton and Schulz, in the precision of x."""
    a, b, c = group["ns_coefficients"]
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


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
