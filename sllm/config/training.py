"""What an experiment may say of a training: how far, in what batches, with which optimizer, when it is saved and
validated."""

import math
import re
from functools import reduce
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from sllm.config.section import (
    LARGEST,
    WIDEST,
    Folder,
    NonNegative,
    Positive,
    Probability,
    Section,
    Strings,
    Width,
    combined,
    listed,
)
from sllm.errors import UserError

Rate = Annotated[float, Field(gt=0, le=10)]


INTERVAL = {"anyOf": [{"type": "integer", "minimum": 1}, {"enum": ["90s", "2m", "1h", "auto"]}]}


def _interval(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST:
        return value
    if isinstance(value, str) and (value == "auto" or (re.fullmatch(r"[0-9]{1,6}[smh]", value) and _seconds(value))):
        return value
    raise ValueError("write a number of steps from 1 on, a time such as 90s, 2m or 1h, or auto")


def _seconds(text: str) -> float:
    return float(int(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]])


class CheckpointConfig(Section):
    """When the training is saved, and what is kept."""

    every: Annotated[int | str, PlainValidator(_interval), WithJsonSchema(INTERVAL)] = "auto"
    """Steps between checkpoints, or a time: `90s`, `2m`. auto: as often as its cost and the failures so far make it
    pay, so that a kill takes two minutes at most. A time, or auto, also saves each step that is validated."""
    keep_last: Positive = 2
    """How many of the newest are kept."""
    keep_every: Positive | None = None
    """Also keep for ever each checkpoint whose step is a multiple of this. Where every is no number of steps, such
    steps are always saved."""

    @property
    def seconds(self) -> float | None:
        """What `every` says, if it is a time."""
        return None if isinstance(self.every, int) or self.every == "auto" else _seconds(self.every)


class RatesConfig(Section):
    """Learning rates, at their highest, of what is not a matrix inside a block; learning_rate where not set."""

    embedding: Rate | None = None
    """Of the table of embeddings."""
    head: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Of the output layer, if it is one of its own, times model.d_model: a step moves a logit as far at any width."""
    vectors: Rate | None = None
    """Of norms and biases."""


MOMENTUM = 0.95
DECAY = 0.2
"""The share of the steps in which wsd's learning rate falls, if nothing is said."""


class TrainConfig(Section):
    """The training: how far, in what batches, and the optimizer."""

    max_steps: Annotated[int, Field(gt=0, le=99_999_999)]
    """Optimizer steps."""
    global_batch: Width
    """Sequences per optimizer step, over all ranks."""
    micro_batch: Width
    """Sequences per forward pass on one rank; the rest is gradient accumulation."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Of the matrices inside the blocks; all else is always AdamW's."""
    learning_rate: Rate = 6e-4
    """After the warm-up, at its highest."""
    rates: RatesConfig = RatesConfig()
    min_learning_rate: Annotated[float, Field(ge=0, le=10)] = 6e-5
    """At the last step; the other rates fall by as much. If not set, and learning_rate is below 6e-5: a tenth of it."""
    warmup_steps: NonNegative = 0
    """Steps in which the learning rate rises from 0."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """How the learning rate falls after the warm-up: in half a cosine over all steps; or not before the last share of
    them, so that a training can be made longer or shorter afterwards."""
    decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """wsd: the share of the steps, the last ones, in which the learning rate falls, linearly; 0.2 if not set."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    """Of the matrices inside the blocks, times the learning rate."""
    momentum: Probability = MOMENTUM
    """Muon's."""
    beta1: Probability = 0.9
    """AdamW's, of the mean of the gradients."""
    beta2: Probability = 0.95
    """AdamW's, of the mean of their squares."""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """AdamW's, added to the root of that mean."""
    clip_norm: Annotated[float, Field(gt=0, le=1e30)] = 1.0
    """The gradient's largest norm."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of the matrix products; weights and sums are fp32."""
    compile: bool = False
    """Use torch.compile."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    init_from: Folder | None = None
    """Begin with the weights and the tokenizer of this model, at step 0: a run by its name (its best model), or a
    folder with a model. RUN@1000: go on from step 1000 of a run that is the same up to there."""
    profile: Annotated[int, Field(gt=0)] | None = None
    """Write a profile of this step into the run directory: a trace and, on a GPU, the history of its memory."""
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.learning_rate < 6e-5:
            self._fit(min_learning_rate=self.learning_rate / 10)
        if self.schedule == "wsd" and self.decay is None:
            object.__setattr__(self, "decay", DECAY)
        problems = []
        if self.schedule == "cosine" and self.decay is not None:
            problems.append(
                f"decay: {self.decay}, but a cosine falls over all steps; leave it out, or set schedule=wsd"
            )
        start = self.max_steps if self.decay is None else decay_start(self.max_steps, self.decay)
        if start < self.warmup_steps < self.max_steps:
            problems.append(
                f"warmup_steps: {self.warmup_steps} is above {start}, where the decay starts (the last {self.decay:g} "
                f"of {self.max_steps} steps); lower it, or decay"
            )
        if self.optimizer == "adamw" and self.momentum != MOMENTUM:
            problems.append(f"momentum: {self.momentum}, but AdamW has none; leave it out, or set optimizer=muon")
        if self.profile is not None and self.profile > self.max_steps:
            problems.append(
                f"profile: {self.profile} is above max_steps ({self.max_steps}); use a step of the training"
            )
        if self.warmup_steps >= self.max_steps:
            problems.append(
                f"warmup_steps: {self.warmup_steps} is not below max_steps ({self.max_steps}); "
                f"use at most {self.max_steps - 1}"
            )
        if self.min_learning_rate > self.learning_rate:
            problems.append(
                f"min_learning_rate: {self.min_learning_rate} is above learning_rate ({self.learning_rate}); lower it"
            )
        if self.global_batch % self.micro_batch:
            valid = [m for m in range(1, self.global_batch + 1) if self.global_batch % m == 0]
            problems.append(
                f"micro_batch: {self.micro_batch} does not divide global_batch ({self.global_batch}); "
                f"valid: {listed(valid)}"
            )
        return combined(self, problems)


def decay_start(max_steps: int, decay: float) -> int:
    """wsd: the last step before the learning rate falls."""
    return max_steps - max(1, round(max_steps * decay))


class ValidateConfig(Section):
    """The validation loss, in training and of the best model after it."""

    every: Positive = 500
    """Training steps between validations."""
    tokens: Positive = 262_144
    """Tokens of each source that a validation during training reads, at most."""
    final_tokens: Positive = 4_194_304
    """The same for the validate stage."""
    batch: Width = 8
    """Sequences per forward pass."""
    prompts: Strings = ("대한민국의 수도는", "The capital of Korea is")
    """Texts that the model continues at each validation."""
    sample_tokens: Width = 48
    """Tokens of a continuation; at most three quarters of the context if not set."""


def fits_world_size(train: TrainConfig, world_size: int) -> bool:
    """Whether a global batch splits evenly over so many ranks."""
    return train.global_batch % (train.micro_batch * world_size) == 0


def check_world_size(train: TrainConfig, *world_sizes: int) -> None:
    """A global batch must split evenly over each of these numbers of ranks. Raises UserError with what would."""
    wrong = [size for size in world_sizes if not fits_world_size(train, size)]
    if not wrong:
        return
    # What splits over so many ranks splits over each number of them; no batch over more than the largest one.
    common = reduce(lambda a, b: a if a > WIDEST else math.lcm(a, b), world_sizes)
    shares = range(1, train.global_batch // common + 1)
    batches = [b for b in shares if train.global_batch % (b * common) == 0]
    unit = train.micro_batch * common
    near = sorted({max(unit, train.global_batch // unit * unit), (train.global_batch // unit + 1) * unit})
    ways = [f"train.micro_batch={listed(batches)}"] if batches else []
    if possible := [str(batch) for batch in near if batch <= WIDEST]:
        ways.append(f"train.global_batch={' or '.join(possible)}")
    raise UserError(
        f"train.global_batch: {train.global_batch} sequences cannot be split into micro-batches of "
        f"{train.micro_batch} on {listed(wrong)} ranks; valid: {', or '.join(ways) or 'fewer ranks'}"
    )
