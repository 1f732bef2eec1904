"""What an experiment may say: its sections, typed, frozen, strict, and the combinations that cannot work."""

import math
import re
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from sllm.config.data import DataConfig, phase_step
from sllm.config.section import (
    LARGEST,
    WIDEST,
    Folder,
    Name,
    NonNegative,
    Positive,
    Probability,
    Section,
    Strings,
    Width,
    combined,
    listed,
)
from sllm.config.sources import Language
from sllm.config.tasks import TASKS
from sllm.errors import UserError


class TokenizerConfig(Section):
    """A byte-level BPE tokenizer, learnt from the corpus."""

    vocab_size: Annotated[int, Field(ge=272, le=1_000_000)] = 32_000
    """All ids: 16 special tokens, 256 bytes, the rest merges."""
    sample_bytes: Positive = 200_000_000
    """Text the merges are learnt from, at most; documents are drawn by the seed."""
    language_weights: dict[Language, Annotated[float, Field(gt=0, le=1e6)]] = {}  # noqa: RUF012 - pydantic copies it
    """Times the language's natural share of that text; 1.0 for a language that is not named."""
    max_words: Positive = 6_000_000
    """Distinct words kept for learning; if the text has more, the rarest are dropped, and the report says so."""


class ModelConfig(Section):
    """A decoder of pre-norm Transformer blocks."""

    family: Literal["gpt2", "qwen3"] = "gpt2"
    """Whose blocks: GPT-2's with sinusoidal positions, or Qwen3's (RMSNorm, rotary positions, SwiGLU, no biases)."""
    d_model: Width
    """Width of the residual stream; even, and a multiple of n_heads."""
    n_layers: Annotated[int, Field(gt=0, le=1024)]
    """Transformer blocks."""
    n_heads: Width
    """Attention heads of a block."""
    n_kv_heads: Width | None = None
    """qwen3: heads of keys and values, each for n_heads / n_kv_heads heads of queries; n_heads if not set."""
    d_ff: Width
    """Width of the hidden layer of a block's feed-forward; mostly four times d_model, for qwen3 8/3 times."""
    tie_embeddings: bool = True
    """Whether the output layer is the table of embeddings; if not, it is one of its own, which learns better."""
    context_length: Annotated[int, Field(gt=1, le=2**20)]
    """Positions: the longest sequence, and the length of every training sequence."""
    dropout: Probability = 0.1
    """Share of values set to zero in training; 0 where the data is seen about once, and for qwen3."""

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        problems = []
        if self.family == "qwen3":
            self._fit(dropout=0.0)
            if self.dropout:
                problems.append(f"dropout: {self.dropout}, but the blocks of qwen3 have none; leave it out")
            if self.n_heads % self.kv_heads:
                valid = [h for h in range(1, self.n_heads + 1) if self.n_heads % h == 0]
                problems.append(
                    f"n_kv_heads: {self.kv_heads} does not divide n_heads ({self.n_heads}); valid: {listed(valid)}"
                )
            if self.d_model % self.n_heads == 0 and self.head_width % 2:
                problems.append(
                    f"n_heads: heads of {self.head_width} are odd, rotary positions come in pairs; use another number"
                )
        elif self.kv_heads != self.n_heads:
            problems.append(f"n_kv_heads: {self.kv_heads}, but in gpt2 every head has its own; leave it out")
        if self.d_model % self.n_heads:
            valid = [h for h in range(1, self.d_model + 1) if self.d_model % h == 0 and h <= 128]
            problems.append(f"n_heads: {self.n_heads} does not divide d_model ({self.d_model}); valid: {listed(valid)}")
        if self.d_model % 2:
            problems.append(f"d_model: {self.d_model} is odd, sinusoidal positions come in pairs; use an even width")
        return combined(self, problems)


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


class BenchmarkConfig(Section):
    """How fast the best model generates and trains, and how well it does tasks."""

    batches: Annotated[tuple[Width, ...], Field(strict=False, min_length=1)] = (1, 8)
    """Prompts that are continued at a time; each number is measured."""
    prompt_tokens: Width = 64
    """Tokens of a prompt; at most half of the context, or what new_tokens leaves of it, if not set."""
    new_tokens: Width = 64
    """Tokens of a continuation; at most what prompt_tokens leaves of the context if not set."""
    train_steps: Annotated[int, Field(gt=0, le=100_000)] = 5
    """Training steps that are timed."""
    repeats: Annotated[int, Field(gt=0, le=100_000)] = 3
    """Times that generation is measured; the medians count."""
    tasks: Strings = tuple(TASKS)
    """What to measure through lm-eval (pip install 'sllm[eval]'): names of docs/tasks.md, or others of lm-eval's whose
    items are on the hub."""
    task_limit: Positive | None = None
    """Items of each task that are measured, at most: the first ones. All if not set."""
    few_shot: Annotated[int, Field(ge=0, le=100)] = 0
    """Examples with their answers that stand before each item of a task."""


class WandbConfig(Section):
    """The mirror at Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """When training sends to W&B. auto: if it has a key and a network; offline: never, `sllm sync` does it later."""
    project: str = "sllm"
    """The project at W&B."""
    entity: str | None = None
    """The user or team at W&B; the key's own if not set."""
    tags: Strings = ()
    """Words to find the run by."""


class Experiment(Section):
    """The whole file."""

    name: Name
    """Of the run: its directory below runs_directory, its Slurm jobs, and the run at W&B are called so."""
    seed: NonNegative = 1234
    """Of everything drawn: held-out documents, text made up, order of the data, first weights, dropout."""
    runs_directory: Folder = "runs"
    """Where runs are written, relative to the folder that sllm is run in."""
    data_directory: Folder = "data"
    """Where corpora, tokenizers and token files are kept, for all runs."""
    data: DataConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig
    train: TrainConfig
    validate_: Annotated[ValidateConfig, Field(alias="validate")] = ValidateConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    wandb: WandbConfig = WandbConfig()

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        context = self.model.context_length
        validate, benchmark = self.validate_.model_copy(), self.benchmark.model_copy()
        validate._fit(sample_tokens=max(1, min(48, 3 * context // 4)))
        left = context - benchmark.new_tokens if "new_tokens" in benchmark.model_fields_set else context // 2
        benchmark._fit(prompt_tokens=max(1, min(64, left)))
        benchmark._fit(new_tokens=max(1, min(64, context - benchmark.prompt_tokens)))
        object.__setattr__(self, "validate_", validate)
        object.__setattr__(self, "benchmark", benchmark)
        problems = []
        if self.train.rates.head is not None and self.model.tie_embeddings:
            problems.append(
                "train.rates.head: the output layer is the table of embeddings; leave it out, or set "
                "model.tie_embeddings=false"
            )
        if validate.sample_tokens >= context:
            problems.append(
                f"validate.sample_tokens: {validate.sample_tokens} is not below model.context_length ({context}), "
                f"which has to hold the prompt too; use at most {context - 1}"
            )
        last = self.train.max_steps
        for i, (start, end) in enumerate(pairwise([*(phase_step(p.from_, last) for p in self.data.phases), last])):
            if start in (0, end):
                problems.append(
                    f"data.phases.{i}.from: {self.data.phases[i].from_} of train.max_steps ({last}) is "
                    f"{start} steps, and leaves none {'after' if start else 'before'} it; raise train.max_steps, or "
                    f"take the phase out"
                )
        wanted = benchmark.prompt_tokens + benchmark.new_tokens
        if wanted > context:
            problems.append(
                f"benchmark: prompt_tokens + new_tokens is {wanted}, above model.context_length ({context}); "
                f"lower one of them"
            )
        return combined(self, problems)

    @property
    def run_path(self) -> Path:
        return Path(self.runs_directory) / self.name

    def validates_after(self, step: int) -> bool:
        """Whether training measures the validation loss after this step."""
        return step % self.validate_.every == 0 or step == self.train.max_steps

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values under the names of the YAML file."""
        return self.model_dump(mode="json", by_alias=True)


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
