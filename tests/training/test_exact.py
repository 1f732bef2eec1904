"""The same bits twice: on any number of ranks, through changes of it; and what says so when they are not."""

import contextlib
import itertools
import math
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ranks import outcome
from torch.nn.parallel import DistributedDataParallel
from waiting import wait

from sllm.artifacts import Artifacts
from sllm.config import Experiment, validate
from sllm.distributed import World
from sllm.errors import UserError
from sllm.model.attention import FLEX, use_flex
from sllm.records import read_jsonl
from sllm.run_directory import checkpoint_steps
from sllm.training.exact import GradientSum
from sllm.training.trainer import Trainer

# --- sums -----------------------------------------------------------------------------------------

LARGE = 2.0**20
floats = st.floats(-LARGE, LARGE, width=32)


def mean(gradients: list[list[float]], shares: int = 1, scale: float = 1.0) -> list[float]:
    """As so many ranks compute it: each adds its share, then their sums are added."""
    weight, scaled = torch.nn.Parameter(torch.zeros(len(gradients[0]))), torch.tensor(gradients) * scale
    ranks_ = [GradientSum([weight], len(gradients), compiled=False, group=None) for _ in range(shares)]
    for rank, one in enumerate(ranks_):
        one.begin(scale)
        for gradient in scaled[rank::shares]:
            weight.grad = gradient.clone()
            one.add()
    for other in ranks_[1:]:
        ranks_[0].sums[weight] += other.sums[weight]
    ranks_[0].finish()
    assert weight.grad is not None
    return (weight.grad / scale).tolist()


@given(st.data(), st.integers(1, 8), st.sampled_from([1.0, 2.0**-3, 2.0**16]))
def test_a_mean_depends_on_no_order_and_is_that_of_the_numbers(data: Any, size: int, scale: float) -> None:
    gradients = data.draw(st.lists(st.lists(floats, min_size=size, max_size=size), min_size=1, max_size=6))
    found = mean(gradients, scale=scale)
    shuffled = data.draw(st.permutations(gradients))
    assert mean(shuffled, data.draw(st.integers(1, len(gradients))), scale) == found
    for column, value in zip(zip(*gradients, strict=True), found, strict=True):
        exact = math.fsum(column) / len(column)
        assert abs(value - exact) <= 2.0**-41 + abs(exact) * 2.0**-22


@pytest.mark.parametrize(
    ("element", "fits"),
    [
        (0.0, True),
        (2.0**21 * 0.999, True),
        (-(2.0**21), False),
        (math.inf, False),
        (-math.inf, False),
        (math.nan, False),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 2.0**16])
def test_what_might_not_fit_into_a_sum_is_seen(element: float, fits: bool, scale: float) -> None:
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    one = GradientSum(weights, 4, compiled=False, group=None)
    one.begin(scale)
    for weight, elements in zip(weights, ([1.0, 2.0], [3.0, element], [4.0, 5.0]), strict=True):
        weight.grad = torch.tensor(elements) * scale
    assert bool(one.add() < one.limit) == fits


@pytest.fixture
def group() -> Iterator[None]:
    """Of this process alone, over which DDP adds."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("distributed", [False, True])
@pytest.mark.parametrize("overflows", [[], [0], [1], [2]])
def test_what_might_not_fit_makes_the_mean_nan_for_this_step_alone(
    overflows: list[int], distributed: bool, group: None
) -> None:
    """Whichever micro-batch it comes in: the last is the one during which DDP adds."""
    model = torch.nn.Linear(1, 1, bias=False)
    one = GradientSum(model.parameters(), 3, compiled=False, group=None)
    forward = DistributedDataParallel(model) if distributed else model
    if isinstance(forward, DistributedDataParallel):
        forward.register_comm_hook(None, one.reduce)
    for step in (1, 2):
        one.begin(1.0)
        for number in range(3):
            size = 2.0**22 if number in overflows and step == 1 else 3.0
            reducing = isinstance(forward, DistributedDataParallel) and number == 2
            with contextlib.nullcontext() if reducing or not distributed else forward.no_sync():  # type: ignore[operator]
                forward(torch.tensor([[size]])).sum().backward()
            largest = one.reduced() if reducing else one.add()
            assert largest == size
        if not distributed:
            one.finish()
        assert model.weight.grad is not None
        assert bool(model.weight.grad.isnan()) == (step == 1 and bool(overflows))
        if not model.weight.grad.isnan():
            assert model.weight.grad == 3.0
        model.zero_grad()
    if isinstance(forward, DistributedDataParallel):
        del forward.reducer, forward.logger


def test_sums_as_large_as_they_may_be_are_right() -> None:
    """Four of nearly 2⁶³ / 4 each, which is all that an int64 holds."""
    assert mean([[2.0**21 * (1 - 2**-24)]] * 4) == [2.0**21 * (1 - 2**-24)]


# --- trainings ------------------------------------------------------------------------------------

MICRO_BATCHES = 12  # one, two, three and four ranks have equally many
MODERN_MODEL = {"family": "qwen3", "n_kv_heads": 1, "tie_embeddings": False, "dropout": 0.0}
MODERN_TRAINING = {"optimizer": "muon", "learning_rate": 0.02, "rates": {"embedding": 0.1, "head": 0.128}}
PHASES = [
    {"from": 0.3, "weights": {"sample-korean": 0.0}},
    {"from": 0.7, "weights": {"sample-korean": 2.0, "sample-english": 0.1}},
]
"""Their borders lie between checkpoints."""


@pytest.fixture(scope="module")
def configure(prepared: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes an experiment of twelve steps with dropout, in a directory of its own; returns the path of the file.
    A `modern` one has Qwen3's blocks, an output layer of its own, Muon and a rate for each group."""
    numbers = itertools.count()

    def write(*, modern: bool = False, **train: Any) -> Path:
        directory = tmp_path_factory.mktemp("exact") / f"run-{next(numbers)}"
        directory.mkdir()
        sizes = {"max_steps": 12, "global_batch": MICRO_BATCHES, "micro_batch": 1, "checkpoint": {"every": 4}}
        values = {
            **prepared,
            "name": directory.name,
            "runs_directory": str(directory.parent),
            "data": {**prepared["data"], "phases": PHASES},
            "model": {**prepared["model"], **(MODERN_MODEL if modern else {})},
            "train": {**prepared["train"], **sizes, **(MODERN_TRAINING if modern else {}), **train},
            "validate": {**prepared["validate"], "every": 5, "batch": 3},
        }
        path = directory / "experiment.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def steps_of(run: Path) -> int:
    return sum(record["kind"] == "train" for record in read_jsonl(run / "metrics.jsonl"))


def interrupt(config: Path, world: int, number: signal.Signals, step: int, **environment: str) -> None:
    """Take steps until there are so many, then end the attempt, but not before it has begun."""
    began = time.time()
    attempt = ranks.start(config, world, **environment)

    def due() -> bool:
        starts = [record for record in read_jsonl(config.parent / "metrics.jsonl") if record["kind"] == "start"]
        return bool(starts) and starts[-1]["time"] >= began and steps_of(config.parent) >= step

    wait(lambda: due() or not attempt.processes[0].is_alive(), "steps")
    attempt.signal(number)
    codes = attempt.wait()
    assert set(codes) <= {0, -signal.SIGKILL}, (config.parent / "ranks.log").read_text(encoding="utf-8")[-3000:]


@pytest.mark.parametrize("modern", [False, True], ids=["gpt2", "qwen3 and muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_any_number_of_ranks_and_any_change_of_it_is_the_same_training(
    configure: Callable[..., Path], precision: str, modern: bool
) -> None:
    same_on_any_number_of_ranks(lambda: configure(precision=precision, modern=modern))


@pytest.mark.slow
@pytest.mark.kills
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("modern", [False, True], ids=["gpt2", "qwen3 and muon"])
def test_a_compiled_training_is_the_same_on_any_number_of_ranks(
    configure: Callable[..., Path], signalled: ranks.Signalled, modern: bool
) -> None:
    same_on_any_number_of_ranks(lambda: configure(compile=True, modern=modern), **signalled.environment)


def same_on_any_number_of_ranks(configure: Callable[[], Path], **environment: str) -> None:
    found = []
    for world in (1, 2, 3, 4):
        config = configure()
        assert ranks.run(config, world, **environment)["outcome"] == "finished"
        found.append(outcome(config.parent))
    assert [record["step"] for record in found[0]["records"] if record["kind"] == "train"] == list(range(1, 13))
    assert [record["step"] for record in found[0]["records"] if record["kind"] == "validation"] == [5, 10, 12]
    assert found == [found[0]] * 4

    changing = configure()
    for world, number, step in ((4, signal.SIGKILL, 3), (1, signal.SIGTERM, 5), (3, signal.SIGKILL, 7)):
        interrupt(changing, world, number, step, **environment)
    interrupt(changing, 3, signal.SIGTERM, 9, **environment)
    ranks.run(changing, 2, **environment)
    assert outcome(changing.parent) == found[0]
    starts = sum(record["kind"] == "start" for record in read_jsonl(changing.parent / "metrics.jsonl"))
    assert starts >= 3


def test_three_ranks_go_on_exactly(configure: Callable[..., Path]) -> None:
    """DDP arranges its buckets anew after the first step of each process, and adds in another order from then on."""
    whole, broken = configure(max_steps=16), configure(max_steps=16)
    ranks.run(whole, 3)
    for step in (3, 6, 9):
        interrupt(broken, 3, signal.SIGTERM, step)
    ranks.run(broken, 3)
    assert outcome(broken.parent) == outcome(whole.parent)


def test_ranks_above_0_need_not_see_the_checkpoints(configure: Callable[..., Path], tmp_path: Path) -> None:
    whole, broken = configure(), configure()
    ranks.run(whole, 2)
    (tmp_path / "empty").mkdir()
    interrupt(broken, 2, signal.SIGTERM, 6)
    ranks.run(broken, 2, **{ranks.VIEW: str(tmp_path / "empty")})
    log = (broken.parent / "ranks.log").read_text(encoding="utf-8")
    assert "resumed from the checkpoint" in log
    assert outcome(broken.parent) == outcome(whole.parent)
    assert not list((tmp_path / "empty").iterdir())


# --- what says that they are not ------------------------------------------------------------------


def test_a_resume_on_another_kind_of_processor_says_so(configure: Callable[..., Path]) -> None:
    """Here one with another number of threads, which share sums out otherwise."""
    config = configure()
    for step, threads, warnings in ((3, 1, 0), (6, 1, 0), (9, 2, 1)):
        interrupt(config, 1, signal.SIGTERM, step, **{ranks.THREADS: str(threads)})
        log = (config.parent / "ranks.log").read_text(encoding="utf-8")
        assert log.count("exact on processors of one kind only") == warnings
    assert re.search(r"one kind only, not on: .*1 threads.*; .*2 threads", log)


@pytest.mark.parametrize(
    ("every", "flipped", "seen"), [(4, 6, 8), (1000, 98, 100)], ids=["before a checkpoint", "in between"]
)
def test_a_bit_that_flips_on_one_rank_stops_all(
    configure: Callable[..., Path], every: int, flipped: int, seen: int
) -> None:
    config = configure(max_steps=seen + 4, checkpoint={"every": every})
    attempt = ranks.start(config, 3, **{ranks.FLIP: f"1:{flipped}"})
    assert attempt.wait() == [1, 1, 1]
    log = (config.parent / "ranks.log").read_text(encoding="utf-8")
    assert f"after step {seen} rank 1 has other weights than rank 0, in final_norm.bias first" in log
    assert steps_of(config.parent) == seen
    assert checkpoint_steps(config.parent / "checkpoints") == ([4] if every == 4 else [])


def test_gradients_that_are_not_the_same_twice_stop_a_training_before_its_first_step(
    prepared: dict[str, Any], tmp_path: Path
) -> None:
    experiment = validate(Experiment, {**prepared, "runs_directory": str(tmp_path)}, "test")
    trainer = Trainer(experiment, Artifacts(experiment), World(0, 1, 0, torch.device("cpu")))
    trainer.check_determinism()
    assert all(parameter.grad is None for parameter in trainer.model.parameters()), "the first step begins from nothing"

    noise = torch.Generator()
    trainer.model.blocks[1].register_forward_hook(
        lambda module, inputs, output: output + 1e-3 * torch.randn(1, generator=noise)
    )
    with pytest.raises(UserError, match=r"two gradients on cpu.*rank 0: \d+ of \d+, embedding\.weight first") as told:
        trainer.check_determinism()
    assert "train.compile=false" in str(told.value)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_an_attention_that_fails_is_given_up_for_pytorchs_own(
    prepared: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """FlexAttention has no gradients on a CPU."""
    values = {**prepared, "runs_directory": str(tmp_path), "model": {**prepared["model"], "dropout": 0.0}}
    experiment = validate(Experiment, values, "test")
    trainer = Trainer(experiment, Artifacts(experiment), World(0, 1, 0, torch.device("cpu")))
    use_flex(trainer.model)
    trainer.attention = FLEX
    trainer.check_determinism()
    assert trainer.attention == ""
    assert caplog.text.count("FlexAttention cannot be used here") == 1
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    trainer.train_step()
    trainer.close()
