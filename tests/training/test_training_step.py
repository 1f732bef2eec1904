"""The step of training, against its arithmetic written out: plain loops over the formulas, in float64."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import sllm.training.loop
from sllm.artifacts import Artifacts
from sllm.config import Experiment
from sllm.data.sampler import PackedData, Sampler
from sllm.files import read_json
from sllm.manifests import write_manifest
from sllm.model.families import make_model
from sllm.model.shared import LanguageModel
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag

STEPS, SEED, LAYERS, WIDTH, LENGTH = 12, 5, 2, 32, 32
BATCH, PEAK, LOWEST, WARMUP, CLIP = 8, 0.012, 0.002, 3, 0.8
BETA1, BETA2, EPS, DECAY = 0.7, 0.9, 1e-3, 1.5
WEIGHTS = {"sample-korean": 3.0, "sample-english": 1.0}
LATER, EARLIER_STEPS = {"sample-english": 9.0}, 7
VALIDATED, VALIDATION_TOKENS = (5, 10, 12), 300

Train = Callable[..., RunDirectory]


@pytest.fixture(scope="module")
def experiment(prepared: dict[str, Any]) -> Experiment:
    """No setting of the optimizer has its default, so that one which is not heeded shows."""
    sources = [{**source, "weight": WEIGHTS[source["name"]]} for source in prepared["data"]["sources"]]
    train = {
        **prepared["train"],
        **{"max_steps": STEPS, "global_batch": BATCH, "micro_batch": 2, "learning_rate": PEAK},
        **{"min_learning_rate": LOWEST, "warmup_steps": WARMUP, "clip_norm": CLIP, "weight_decay": DECAY},
        **{"beta1": BETA1, "beta2": BETA2, "eps": EPS, "checkpoint": {"every": 100}},
    }
    values = {
        **prepared,
        "seed": SEED,
        "data": {**prepared["data"], "sources": sources, "phases": [{"from": 0.6, "weights": LATER}]},
        "model": {**prepared["model"], "n_layers": LAYERS, "d_model": WIDTH, "context_length": LENGTH, "dropout": 0.0},
        "train": train,
        "validate": {**prepared["validate"], "every": 5, "tokens": VALIDATION_TOKENS, "prompts": []},
    }
    return Experiment.model_validate(values)


def changed(experiment: Experiment, **sections: dict[str, Any]) -> Experiment:
    values = experiment.to_dict()
    return Experiment.model_validate({**values, **{name: {**values[name], **new} for name, new in sections.items()}})


@pytest.fixture
def train(prepared: dict[str, Any], tmp_path: Path) -> Train:
    """Train in this process; returns the run directory."""
    shared = Artifacts(Experiment.model_validate(prepared))

    def run(experiment: Experiment, packed: Path = shared.packed) -> RunDirectory:
        directory = RunDirectory(tmp_path / f"run-{len(list(tmp_path.iterdir()))}")
        directory.path.mkdir()
        artifacts = Artifacts(experiment)
        artifacts.packed, artifacts.tokenizer = packed, shared.tokenizer
        assert sllm.training.loop.train(experiment, directory, artifacts, StopFlag())["outcome"] == "finished"
        return directory

    return run


def records(run: RunDirectory, kind: str = "train") -> list[dict[str, Any]]:
    return [record for record in read_jsonl(run.metrics) if record["kind"] == kind]


@dataclass
class Plain:
    """What the plain loop found: a value a step, and the weights it ended with."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)


@pytest.fixture(scope="module")
def plain(prepared: dict[str, Any], experiment: Experiment) -> Plain:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2), the clipping, the warm-up and the cosine, line by line."""
    shared = Artifacts(Experiment.model_validate(prepared))
    data = PackedData.open(shared.packed, None)
    order = Sampler(data, WEIGHTS, LENGTH, SEED, global_batch=BATCH, phases={EARLIER_STEPS: {**WEIGHTS, **LATER}})
    torch.manual_seed(SEED)
    model = make_model(experiment.model, data.vocab_size).double()
    weights = dict(model.named_parameters())
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    found = Plain(weights={name: weight.detach() for name, weight in weights.items()})
    for step in range(1, STEPS + 1):
        tokens = torch.from_numpy(order.batch((step - 1) * BATCH, BATCH))
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norm = math.sqrt(sum((gradient**2).sum().item() for gradient in gradients.values()))
        if step <= WARMUP:
            rate = PEAK * step / WARMUP
        else:
            rate = LOWEST + (PEAK - LOWEST) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2
        for name, weight in found.weights.items():
            gradient = gradients[name] * min(1.0, CLIP / norm)
            first[name] = BETA1 * first[name] + (1 - BETA1) * gradient
            second[name] = BETA2 * second[name] + (1 - BETA2) * gradient**2
            if name.startswith("blocks.") and weight.ndim == 2:  # of linear layers
                weight -= rate * DECAY * weight
            mean, square = first[name] / (1 - BETA1**step), second[name] / (1 - BETA2**step)
            weight -= rate * mean / (square.sqrt() + EPS)
        found.losses.append(loss.item())
        found.norms.append(norm)
        found.rates.append(rate)
        if step in VALIDATED:
            found.validation.append(validation_loss(model, data))
    return found


@torch.no_grad()
def validation_loss(model: LanguageModel, data: PackedData) -> float:
    nats = []
    for name in WEIGHTS:
        tokens = torch.tensor(np.array(data.tokens("validation", name), np.int64))
        for start in range(0, VALIDATION_TOKENS // LENGTH * LENGTH, LENGTH):
            window = tokens[start : start + LENGTH + 1]
            nats.append(F.cross_entropy(model(window[None, :-1])[0], window[1:]).item())
    return sum(nats) / len(nats)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 5e-4), ("fp16", 1e-4)])
def test_training_is_the_plain_loop(
    prepared: dict[str, Any], experiment: Experiment, plain: Plain, train: Train, precision: str, tolerance: float
) -> None:
    run = train(changed(experiment, train={"precision": precision}))
    steps, validation = records(run), records(run, "validation")
    losses = [record["loss"] for record in steps]
    assert losses == pytest.approx(plain.losses, rel=tolerance)
    assert (losses == pytest.approx(plain.losses, rel=1e-6)) == (precision == "fp32"), "another is seen to be used"
    assert min(plain.norms) < CLIP < max(plain.norms), "some steps are clipped, and some are not"
    assert [record["gradient_norm"] for record in steps] == pytest.approx(plain.norms, rel=10 * tolerance)
    assert [record["learning_rate"] for record in steps] == pytest.approx(plain.rates, rel=1e-12)
    assert [record["tokens"] for record in steps] == [step * BATCH * LENGTH for step in range(1, STEPS + 1)]
    assert [record["step"] for record in validation] == list(VALIDATED)
    assert [record["loss"] for record in validation] == pytest.approx(plain.validation, rel=tolerance)
    weights = load_file(run.checkpoints / f"step-{STEPS:08d}" / "model.safetensors")
    assert weights.keys() == plain.weights.keys()
    model = make_model(experiment.model, len(weights["embedding.weight"])).double()
    model.load_state_dict(weights)
    exact = validation_loss(model, PackedData.open(Artifacts(Experiment.model_validate(prepared)).packed, None))
    if precision == "bf16":  # the other two are too exact to be told apart in a mean
        assert validation[-1]["loss"] != pytest.approx(exact, rel=1e-6), "another is seen to be used in validation too"
    for name, weight in plain.weights.items():
        torch.testing.assert_close(weights[name].double(), weight, atol=5 * tolerance, rtol=0)


# --- dropout --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monotonous(prepared: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed data in which all tokens are the same one, and so all windows."""
    packed = tmp_path_factory.mktemp("monotonous") / "packed"
    shutil.copytree(Artifacts(Experiment.model_validate(prepared)).packed, packed)
    for path in packed.glob("*.train.bin"):
        path.write_bytes(np.full(path.stat().st_size // 2, 300, "<u2").tobytes())
    manifest = read_json(packed / "manifest.json")
    write_manifest(packed, **{name: value for name, value in manifest.items() if name != "files"})
    return packed


def test_dropout_differs_between_steps_and_micro_batches_and_only_where_it_is_asked_for(
    experiment: Experiment, train: Train, monotonous: Path
) -> None:
    """All windows are equal here and the rate is next to nothing, so that only dropout can change the loss."""

    def losses(dropout: float, global_batch: int) -> list[float]:
        still = {"learning_rate": 1e-12, "min_learning_rate": 0.0, "max_steps": 4, "warmup_steps": 0}
        sizes = {"global_batch": global_batch, "micro_batch": 1}
        made = changed(experiment, model={"dropout": dropout}, train={**still, **sizes})
        return [record["loss"] for record in records(train(made, monotonous))]

    without = losses(0.0, 1)
    assert without == pytest.approx([without[0]] * 4, rel=1e-6)
    assert losses(0.0, 2) == pytest.approx(without, rel=1e-6)
    one, two = losses(0.5, 1), losses(0.5, 2)
    everything = [without[0], *one, *two]
    closest = min(abs(a - b) for i, a in enumerate(everything) for b in everything[:i])
    assert closest > 1e-5 * without[0]


# --- figures --------------------------------------------------------------------------------------


def test_speed_is_tokens_by_seconds_and_utilization_the_share_of_the_peak(
    experiment: Experiment, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sllm.training.metrics.peak_flops", lambda device: 1e8)
    linear = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * 64 + 9 * WIDTH + 64)  # matrices, biases and norms
    flops = 6 * (512 * WIDTH + linear + 2 * WIDTH) + 12 * LAYERS * WIDTH * LENGTH
    steps = records(train(changed(experiment, train={"max_steps": 4})))
    for record in steps:
        assert record["tokens_per_second"] * record["seconds"] == pytest.approx(BATCH * LENGTH, rel=1e-2)
        assert record["mfu"] == pytest.approx(record["tokens_per_second"] * flops / 1e8, rel=1e-3)
        assert 0 <= record["data_wait"] < 1
