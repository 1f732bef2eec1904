"""How often a training sees each source: what follows from weights and sizes, as the sampler has it."""

from collections.abc import Mapping
from itertools import pairwise

from sllm.config import Experiment, phase_weights


def epochs_by_phase(
    experiment: Experiment, tokens: Mapping[str, int], steps: int | None = None
) -> dict[int, dict[str, float]]:
    """Epochs by source, of what is seen from each of these numbers of steps on, in the first `steps` (default: all).

    `tokens` are the training tokens of each source that there is; empty if one of them has no whole window. Shares are
    in proportion to weight × windows.
    """
    windows = {name: (count - 1) // experiment.model.context_length for name, count in tokens.items()}
    last = experiment.train.max_steps if steps is None else min(steps, experiment.train.max_steps)
    if not windows or min(windows.values()) <= 0:
        return {}
    weights = phase_weights(experiment.data, experiment.train.max_steps)
    phases = {}
    for start, end in pairwise([*weights, experiment.train.max_steps]):
        samples = max(0, min(end, last) - start) * experiment.train.global_batch
        weighted = sum(weights[start][name] * windows[name] for name in windows)
        phases[start] = {name: samples * weights[start][name] / weighted for name in windows}
    return phases


def total(phases: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Epochs by source over all phases."""
    names = next(iter(phases.values()), {})
    return {name: sum(part[name] for part in phases.values()) for name in names}
