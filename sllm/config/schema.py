"""What an experiment may say: its sections, typed, frozen, strict, and the combinations that cannot work."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sllm.config.data import DataConfig, phase_step
from sllm.config.finetune import FinetuneConfig
from sllm.config.section import (
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
from sllm.config.training import TrainConfig, ValidateConfig


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
    finetune: FinetuneConfig | None = None
    """Conversations, and a second training on them; none if not set."""
    wandb: WandbConfig = WandbConfig()

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        context, benchmark = self.model.context_length, self.benchmark.model_copy()
        left = context - benchmark.new_tokens if "new_tokens" in benchmark.model_fields_set else context // 2
        benchmark._fit(prompt_tokens=max(1, min(64, left)))
        benchmark._fit(new_tokens=max(1, min(64, context - benchmark.prompt_tokens)))
        object.__setattr__(self, "benchmark", benchmark)
        problems = []
        for above, training in self._trainings().items():
            validate = training.validate_.model_copy()
            validate._fit(sample_tokens=max(1, min(48, 3 * context // 4)))
            object.__setattr__(training, "validate_", validate)
            problems += [above + problem for problem in _problems(training, self.model)]
        if self.finetune and self.finetune.train.init_from is not None:
            problems.append(
                "finetune.train.init_from: it begins with the model of the training before it; leave it out"
            )
        wanted = benchmark.prompt_tokens + benchmark.new_tokens
        if wanted > context:
            problems.append(
                f"benchmark: prompt_tokens + new_tokens is {wanted}, above model.context_length ({context}); "
                f"lower one of them"
            )
        return combined(self, problems)

    def _trainings(self) -> "dict[str, Experiment | FinetuneConfig]":
        return {"": self, **({"finetune.": self.finetune} if self.finetune else {})}

    def tuning(self) -> "Experiment":
        """The same with the data, the training and the validation of `finetune`, which must be set."""
        assert self.finetune
        parts = {name: getattr(self.finetune, name) for name in ("data", "train", "validate_")}
        return self.model_copy(update={**parts, "finetune": None})

    @property
    def run_path(self) -> Path:
        return Path(self.runs_directory) / self.name

    def validates_after(self, step: int) -> bool:
        """Whether training measures the validation loss after this step."""
        return step % self.validate_.every == 0 or step == self.train.max_steps

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values under the names of the YAML file."""
        return self.model_dump(mode="json", by_alias=True)


def _problems(training: "Experiment | FinetuneConfig", model: ModelConfig) -> list[str]:
    """Of a training what does not go with the model, or its data not with its length."""
    problems, context, last = [], model.context_length, training.train.max_steps
    if training.train.rates.head is not None and model.tie_embeddings:
        problems.append(
            "train.rates.head: the output layer is the table of embeddings; leave it out, or set "
            "model.tie_embeddings=false"
        )
    if training.validate_.sample_tokens >= context:
        problems.append(
            f"validate.sample_tokens: {training.validate_.sample_tokens} is not below model.context_length "
            f"({context}), which has to hold the prompt too; use at most {context - 1}"
        )
    phases = training.data.phases
    for i, (start, end) in enumerate(pairwise([*(phase_step(p.from_, last) for p in phases), last])):
        if start in (0, end):
            problems.append(
                f"data.phases.{i}.from: {phases[i].from_} of train.max_steps ({last}) is {start} steps, and leaves "
                f"none {'after' if start else 'before'} it; raise train.max_steps, or take the phase out"
            )
    return problems
