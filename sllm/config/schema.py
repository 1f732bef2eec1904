"""The experiment: typed, frozen, strict. One YAML file plus dotted overrides (`train.max_steps=500`).

Everything wrong with a file is reported at once, each problem on its own line with the key, the value and what
would be valid. Paths are made absolute when the file is loaded, so that a job may run from any folder.
"""

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from sllm.config.yaml_text import dump_yaml, load_yaml, parse_yaml
from sllm.errors import UserError

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
DATASET_PATTERN = r"^[\w.-]+/[\w.-]+$"
LARGEST = 2**63 - 1
"""Of all integers here, seeds too: what torch, NumPy and numba take."""

Positive = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[int, Field(ge=0, le=LARGEST)]
Width = Annotated[int, Field(gt=0, le=2**20)]
"""Of a model or a batch: above it there is a slip of the finger, and no machine."""
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Strings = Annotated[tuple[str, ...], Field(strict=False)]


def _folder(path: str) -> str:
    # By hand: pydantic's own constraints refuse names that are not UTF-8, which a file system may hold.
    if not path or "\0" in path:
        raise ValueError("a path has at least one character, and no NUL")
    return path


Folder = Annotated[str, AfterValidator(_folder)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=128)]
Language = Literal["ko", "en"]


class Section(BaseModel):
    """Keys of an experiment or of a cluster profile. One that stands there empty has the defaults of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        sections = {field.alias or name for name, field in cls.model_fields.items() if _is_section(field.annotation)}
        return {key: {} if value is None and key in sections else value for key, value in values.items()}

    def _fit(self, **defaults: Any) -> None:
        """Give keys that the user has not set another default: one that goes with what is set."""
        for name, value in defaults.items():
            if name not in self.model_fields_set:
                object.__setattr__(self, name, value)  # the section is frozen for everybody else


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


Weight = Annotated[float, Field(gt=0, le=1e6)]


class EmbeddedSource(Section):
    """Text written by our own generator (`sllm.data.embedded`): needs no network and no files."""

    kind: Literal["embedded"]
    """What the other keys are."""
    name: Name
    """Names the source in manifests, figures and the report."""
    language: Language
    """Of the text; figures are told by language, and the rules of cleaning differ."""
    megabytes: Annotated[float, Field(gt=0, le=1e6)] = 4.0
    """Text to write."""
    weight: Weight = 1.0
    """Times this source's natural share: 2.0 shows its documents twice as often as weight 1.0 would."""


class FilesSource(Section):
    """The user's own files: globs of .txt (one document a file), .jsonl, .jsonl.zst and .parquet."""

    kind: Literal["files"]
    """What the other keys are."""
    name: Name
    """Names the source in manifests, figures and the report."""
    language: Language
    """Of the text; figures are told by language, and the rules of cleaning differ."""
    paths: Annotated[tuple[Folder, ...], Field(strict=False, min_length=1)]
    """Patterns, relative to the folder that sllm is run in; `**` looks in folders below. What they match is read, or
    named in an error; a folder of parquet parts is read whole."""
    text_field: str = "text"
    """Key (jsonl) or column (parquet) that holds the text."""
    weight: Weight = 1.0
    """Times this source's natural share: 2.0 shows its documents twice as often as weight 1.0 would."""


class HubSource(Section):
    """A dataset of the Hugging Face hub, in parquet; streamed into shards, never kept as it is there."""

    kind: Literal["hub"]
    """What the other keys are."""
    name: Name
    """Names the source in manifests, figures and the report."""
    language: Language
    """Of the text; figures are told by language, and the rules of cleaning differ."""
    dataset: Annotated[str, Field(pattern=DATASET_PATTERN)]
    """Its id: owner/name."""
    config: str | None = None
    """The configuration (subset), where the dataset has several."""
    split: str = "train"
    """The split that is read."""
    files: str | None = None
    """A pattern of files in its repository, for one whose layout does not tell its configurations."""
    revision: str = "main"
    """A commit: a branch may move. The commit that was read is in the corpus manifest."""
    text_field: str = "text"
    """The column that holds the text."""
    limit_megabytes: Positive | None = None
    """Text to take, at most: the beginnings of files spread over the dataset. All of it if not set."""
    text_megabytes: Positive | None = None
    """About how much text it holds, for the reader and for the check of the disk."""
    licence: str | None = None
    """For the reader, the corpus manifest and the report."""
    optional: bool = False
    """Go on without it where it cannot be had."""
    weight: Weight = 1.0
    """Times this source's natural share: 2.0 shows its documents twice as often as weight 1.0 would."""


class AihubSource(Section):
    """Conversation sets of AI Hub (aihub.or.kr), which a person with an account there has downloaded and unpacked."""

    kind: Literal["aihub"]
    """What the other keys are."""
    name: Name
    """Names the source in manifests, figures and the report."""
    language: Literal["ko"] = "ko"
    """Of the text."""
    folder: Folder
    """Every .json file in it, and in the folders below, is read, but for hidden ones."""
    licence: str | None = None
    """For the reader, the corpus manifest and the report."""
    optional: bool = False
    """Go on without it where the folder has no .json file."""
    weight: Weight = 1.0
    """Times this source's natural share: 2.0 shows its documents twice as often as weight 1.0 would."""


Source = Annotated[EmbeddedSource | FilesSource | HubSource | AihubSource, Field(discriminator="kind")]
SOURCES: dict[str, type[Section]] = {
    "embedded": EmbeddedSource,
    "files": FilesSource,
    "hub": HubSource,
    "aihub": AihubSource,
}


class CleanConfig(Section):
    """Which documents stay, and what of them; the rules and their sources are in `sllm.data.clean` and docs/data.md."""

    min_hangul: Annotated[float, Field(ge=0, le=1)] = 0.2
    """A document of a Korean source with a smaller share of Hangul among its letters is dropped; Latin letters of code
    and names do not count."""
    min_latin: Annotated[float, Field(ge=0, le=1)] = 0.8
    """A document of an English source with a smaller share of Latin letters among all letters is dropped."""
    repetition: bool = True
    """Drop documents, and parts of long ones, that mostly repeat themselves."""
    boilerplate: bool = True
    """Remove lines such as copyright notices and cookie banners."""
    personal_data: bool = True
    """Mask resident registration numbers, phone and card numbers, and e-mail addresses."""


class DataConfig(Section):
    """Which documents there are, and which of them stay."""

    sources: Annotated[tuple[Source, ...], Field(strict=False, min_length=1)]
    """The list of sources, or the name of a YAML file that holds it, relative to the experiment's folder."""
    min_characters: Positive = 20
    """Shorter documents are dropped; not above max_characters if not set."""
    max_characters: Positive = 1_000_000
    """Longer documents become several, cut at the end of a paragraph where there is one."""
    clean: CleanConfig = CleanConfig()
    near_duplicates: bool = False
    """Drop documents that are nearly equal to another of any source, not only those that are equal."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.01
    """Documents that are held out of training, to validate on."""
    shard_megabytes: Annotated[int, Field(gt=0, le=4096)] = 64
    """Uncompressed text in one .jsonl.zst shard."""
    limit_megabytes: Positive | None = None
    """Text to take from each source, at most: a few megabytes for a try."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        self._fit(min_characters=min(20, self.max_characters))
        problems = []
        names = [source.name for source in self.sources]
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(f"sources: two are named {name!r}; give each its own name")
        if self.min_characters > self.max_characters:
            problems.append(
                f"min_characters: {self.min_characters} is above max_characters ({self.max_characters}); lower it"
            )
        return combined(self, problems)


class TokenizerConfig(Section):
    """A byte-level BPE tokenizer, learnt from the corpus."""

    vocab_size: Annotated[int, Field(ge=260, le=1_000_000)] = 32_000
    """All ids: 4 special tokens, 256 bytes, the rest merges."""
    sample_bytes: Positive = 200_000_000
    """Text the merges are learnt from, at most; documents are drawn by the seed."""
    language_weights: dict[Language, Annotated[float, Field(gt=0, le=1e6)]] = {}
    """Times the language's natural share of that text; 1.0 for a language that is not named."""
    max_words: Positive = 6_000_000
    """Distinct words kept for learning; if the text has more, the rarest are dropped, and the report says so."""


class ModelConfig(Section):
    """A decoder of pre-norm Transformer blocks (GPT-2's)."""

    d_model: Width
    """Width of the residual stream; even, and a multiple of n_heads."""
    n_layers: Annotated[int, Field(gt=0, le=1024)]
    """Transformer blocks."""
    n_heads: Width
    """Attention heads of a block."""
    d_ff: Width
    """Width of the hidden layer between two of a block; mostly four times d_model."""
    context_length: Annotated[int, Field(gt=1, le=2**20)]
    """Positions: the longest sequence, and the length of every training sequence."""
    dropout: Probability = 0.1
    """Share of values set to zero in training; 0 where the data is seen about once."""

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        problems = []
        if self.d_model % self.n_heads:
            valid = [h for h in range(1, self.d_model + 1) if self.d_model % h == 0 and h <= 128]
            problems.append(
                f"n_heads: {self.n_heads} does not divide d_model ({self.d_model}); valid: {_listed(valid)}"
            )
        if self.d_model % 2:
            problems.append(f"d_model: {self.d_model} is odd, sinusoidal positions come in pairs; use an even width")
        return combined(self, problems)


class CheckpointConfig(Section):
    """When the training is saved, and what is kept."""

    every: Positive = 500
    """Steps between checkpoints."""
    keep_last: Positive = 2
    """How many of the newest are kept."""
    keep_every: Positive | None = None
    """Also keep for ever each checkpoint whose step is a multiple of this."""


class TrainConfig(Section):
    """The training: how far, in what batches, and the optimizer."""

    max_steps: Annotated[int, Field(gt=0, le=99_999_999)]
    """Optimizer steps; the learning rate falls to its minimum over them."""
    global_batch: Width
    """Sequences per optimizer step, over all ranks."""
    micro_batch: Width
    """Sequences per forward pass on one rank; the rest is gradient accumulation."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 6e-4
    """After the warm-up, at its highest."""
    min_learning_rate: Annotated[float, Field(ge=0, le=10)] = 6e-5
    """At the last step. If not set, and learning_rate is below 6e-5: a tenth of that."""
    warmup_steps: NonNegative = 0
    """Steps in which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    """AdamW's, of matrices only."""
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
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.learning_rate < 6e-5:
            self._fit(min_learning_rate=self.learning_rate / 10)
        problems = []
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
                f"valid: {_listed(valid)}"
            )
        return combined(self, problems)


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
    """How fast the best model generates and trains."""

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
        if validate.sample_tokens >= context:
            problems.append(
                f"validate.sample_tokens: {validate.sample_tokens} is not below model.context_length ({context}), "
                f"which has to hold the prompt too; use at most {context - 1}"
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


def check_world_size(train: TrainConfig, world_size: int) -> None:
    """A global batch must split evenly over the ranks. Raises UserError with what would."""
    if train.global_batch % (train.micro_batch * world_size) == 0:
        return
    batches = [b for b in range(1, train.global_batch + 1) if train.global_batch % (b * world_size) == 0]
    unit = train.micro_batch * world_size
    near = sorted({max(unit, train.global_batch // unit * unit), (train.global_batch // unit + 1) * unit})
    ways = f"train.global_batch={' or '.join(map(str, near))}"
    if batches:
        ways = f"train.micro_batch={_listed(batches)}, or {ways}"
    raise UserError(
        f"train.global_batch: {train.global_batch} sequences cannot be split into micro-batches of "
        f"{train.micro_batch} on {world_size} ranks; valid: {ways}"
    )


# --- loading --------------------------------------------------------------------------------------

Key = tuple[str, ...]
Origins = dict[Key, str]
"""Where the values below a key stand. The longest key that fits is the right one."""

COMMAND_LINE = " (command line)"
DEEPEST = 16


def load_experiment(path: Path, overrides: tuple[str, ...] | list[str] = ()) -> Experiment:
    """Read an experiment. Raises UserError with every problem of the file and the overrides, one a line."""
    path = Path(path)
    values = load_yaml(path)
    _require_experiment(values, path)
    origins: Origins = {(): str(path)}
    _read_catalogue(values, path.parent, origins)
    for override in overrides:
        apply_override(values, override, origins)
        _read_catalogue(values, Path(), origins)
    return _absolute_paths(validate(Experiment, values, origins))


def _require_experiment(values: Any, path: Path) -> None:
    """Raises UserError if the file is of another kind."""
    if values is None:
        raise UserError(f"{path}: is empty; an experiment has the sections data, model and train")
    if not isinstance(values, dict):
        hint = "; a list of sources is named in an experiment: data.sources=FILE" if isinstance(values, list) else ""
        raise UserError(f"{path}: not an experiment, which is a mapping of sections (data, model, train …){hint}")
    if values and not values.keys() & _fields(Experiment).keys():
        if values.keys() <= {"defaults", "stages"}:
            raise UserError(f"{path}: a cluster profile, not an experiment; give it as --cluster {path}")
        valid = ", ".join(_fields(Experiment))
        raise UserError(f"{path}: not an experiment: it has {_listed(list(values))}, and none of {valid}")


def _read_catalogue(values: dict[str, Any], folder: Path, origins: Origins) -> None:
    """Put the list of sources in place where `data.sources` names the file that holds it, relative to `folder`."""
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("sources"), str):
        path = folder / data["sources"]
        try:
            data["sources"] = load_yaml(path)
        except UserError as error:
            raise UserError(f"{_place(('data', 'sources'), origins)}: {error}") from None
        origins[("data", "sources")] = str(path)


def apply_override(values: dict[str, Any], override: str, origins: Origins) -> None:
    """Set `a.b.0.c=value` in nested dicts and lists; the value is YAML."""
    dotted, equals, text = override.partition("=")
    keys, place = tuple(dotted.strip().split(".")), f"{_shortened(override)}{COMMAND_LINE}"
    if not equals or not all(keys):
        raise UserError(f"{_shortened(override)!r}: an override is written key=value, for example train.max_steps=500")
    if len(keys) > DEEPEST:
        raise UserError(f"{place}: no key is as deep as {len(keys)} levels")
    value = parse_yaml(text, place, lines=False)
    target: Any = values
    for depth, key in enumerate(keys):
        at = _list_index(target, key, place) if isinstance(target, list) else key
        if depth == len(keys) - 1:
            target[at] = value
        elif isinstance(target, dict) and target.get(key) is None:
            target[key] = {}
            origins[keys[: depth + 1]] = place
            target = target[key]
        else:
            target = target[at]
            if not isinstance(target, dict | list):
                raise UserError(f"{place}: {'.'.join(keys[: depth + 1])} is a value and has no keys below it")
    for below in [key for key in origins if key[: len(keys)] == keys]:
        del origins[below]
    origins[keys] = place


def _list_index(items: list[Any], key: str, place: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < len(items)):
        valid = f"use 0 to {len(items) - 1}" if items else "it is empty"
        raise UserError(f"{place}: {_shortened(key)!r} is not a position in a list of {len(items)}; {valid}")
    return int(key)


def validate(model: type[M], values: Any, origins: str | Origins) -> M:
    """`values` as `model`. `origins`: the file they stand in, or a file for each part.

    Raises:
        UserError: every problem, one a line, each with key, value and what is valid.
    """
    origins = {(): origins} if isinstance(origins, str) else origins
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = list(_problems(model, error.errors(include_url=False)))
        problems += _hidden_problems(model, values, error.errors(include_url=False))
        raise UserError("\n".join(dict.fromkeys(_printable(_line(problem, origins)) for problem in problems))) from None


def _absolute_paths(experiment: Experiment) -> Experiment:
    sources: list[Source] = []
    for source in experiment.data.sources:
        if isinstance(source, FilesSource):
            source = source.model_copy(update={"paths": tuple(_absolute(path) for path in source.paths)})
        elif isinstance(source, AihubSource):
            source = source.model_copy(update={"folder": _absolute(source.folder)})
        sources.append(source)
    return experiment.model_copy(
        update={
            "runs_directory": _absolute(experiment.runs_directory),
            "data_directory": _absolute(experiment.data_directory),
            "data": experiment.data.model_copy(update={"sources": tuple(sources)}),
        }
    )


def _absolute(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise UserError(f"{path}: {path.split('/')[0]} is nobody's home directory") from None


def write_experiment(experiment: Experiment) -> str:
    """The YAML text that loads back to this experiment."""
    return dump_yaml(experiment.to_dict())


# --- messages -------------------------------------------------------------------------------------


class _Problem(NamedTuple):
    key: Key
    text: str


def combined(value: T, problems: list[str]) -> T:
    if problems:
        raise _CombinationError("\n".join(problems))
    return value


class _CombinationError(ValueError):
    """Values that cannot stand together; a line each, `key: value …`, the key below the section that raises it."""


def _listed(values: list[Any]) -> str:
    shown = values if len(values) <= 12 else [*values[:11], "…", values[-1]]
    return ", ".join(map(str, shown))


def _printable(text: str) -> str:
    """On one line, and no command to the terminal."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def _shortened(text: str) -> str:
    text = _printable(text)
    return text if len(text) <= 60 else text[:57] + "…"


def _place(key: Key, origins: Mapping[Key, str]) -> str:
    """Where a key stands, and its name unless the place is an override of just this key."""
    longest = max((prefix for prefix in origins if key[: len(prefix)] == prefix), key=len)
    origin, dotted = origins[longest], ".".join(key)
    return origin if not key or origin.startswith(f"{dotted}=") else f"{origin}: {dotted}"


def _line(problem: _Problem, origins: Mapping[Key, str]) -> str:
    """Names the overrides, too, that set what else the problem speaks of."""
    key, text = problem
    named = () if text.startswith("unknown key") else re.findall(r"\w+", text)  # which lists what is valid instead
    others = [
        origin.removesuffix(COMMAND_LINE)
        for other, origin in origins.items()
        if origin.endswith(COMMAND_LINE)
        and other != key
        and other[-1] in named
        and (other[:-1] == key[:-1] or ".".join(other) in text or other[:-1] == key)
    ]
    return f"{_place(key, origins)}: {text}" + (f" (command line: {', '.join(others)})" if others else "")


def _problems(model: type[BaseModel], errors: list[ErrorDetails]) -> Iterator[_Problem]:
    for error in errors:
        inside = any(other["loc"][: len(error["loc"])] == error["loc"] for other in errors if other is not error)
        if error["type"] == "too_short" and inside:
            continue  # its items are wrong, and pydantic has none left
        (key, _), given, kind = _locate(model, error["loc"]), error["input"], error["type"]
        if kind == "extra_forbidden":
            valid = _fields_at(model, error["loc"][:-1])
            yield _Problem(key, f"unknown key; {_suggestion(model, key, valid)}valid: {', '.join(valid)}")
        elif kind == "missing":
            yield _Problem(key, "missing; it must be set")
        elif kind == "value_error" and isinstance(error["ctx"]["error"], _CombinationError):
            for line in str(error["ctx"]["error"]).split("\n"):
                name, _, text = line.partition(": ")
                yield _Problem((*key, *name.split(".")), text)
        elif kind == "value_error":
            yield _Problem(key, f"{_shown(given)}; {error['ctx']['error']}")
        elif kind in ("union_tag_not_found", "union_tag_invalid"):
            got = _shown(given["kind"]) if isinstance(given, dict) and "kind" in given else "missing"
            yield _Problem((*key, "kind"), f"{got}; valid: {', '.join(SOURCES)}")
        else:
            yield _Problem(key, f"{_shown(given)}; {_requirement(error)}")


def _hidden_problems(model: type[BaseModel], values: Any, errors: list[ErrorDetails]) -> Iterator[_Problem]:
    """Combinations that cannot work, in sections where pydantic did not look because some value there was wrong.

    Found by leaving the wrong values out; a combination that one of them is part of is not judged.
    """
    values = copy.deepcopy(values)
    wrong = set()
    for error in errors:
        key, _ = _locate(model, error["loc"])
        if key and error["type"] not in ("missing", "value_error"):
            parent = values
            for part in key[:-1]:
                parent = parent[int(part)] if isinstance(parent, list) else (parent or {}).get(part)
            if isinstance(parent, dict):
                parent.pop(key[-1], None)
                wrong.add(key[-1])
    try:
        model.model_validate(values)
    except ValidationError as second:
        combinations = [error for error in second.errors(include_url=False) if error["type"] == "value_error"]
        for problem in _problems(model, combinations):
            if not wrong & {*problem.key, *re.findall(r"\w+", problem.text)}:
                yield problem


def _shown(given: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[given] if given is None or isinstance(given, bool) else _shortened(repr(given))


PATTERNS = {
    NAME_PATTERN: "use letters, digits, '.', '_' and '-', with a letter or digit first",
    DATASET_PATTERN: "a dataset of the hub is written owner/name",
}
REQUIREMENTS = {
    "string_type": "input should be text",
    "tuple_type": "input should be a list",
    "too_short": "at least one item",
    "dict_type": "input should be a section of keys",
    "model_type": "input should be a section of keys",
    "model_attributes_type": "input should be a section of keys",
    "bool_type": "input should be true or false",
}


def _requirement(error: ErrorDetails) -> str:
    kind, given = error["type"], error["input"]
    if kind == "string_pattern_mismatch" and error["ctx"]["pattern"] in PATTERNS:
        return PATTERNS[error["ctx"]["pattern"]]
    requirement = REQUIREMENTS.get(kind, error["msg"][0].lower() + error["msg"][1:])
    hint = ""
    if kind == "string_type" and isinstance(given, int | float):
        hint = "; put it in quotes"
    elif kind == "tuple_type" and isinstance(given, str):
        hint = f"; write [{_shortened(given)}]"
    elif kind == "int_type" and isinstance(given, float) and given.is_integer():
        hint = f"; write {given:.0f}"
    elif kind in ("int_type", "float_type") and isinstance(given, str):
        digits = re.sub(r"^([-+]?)0+(?=[0-9])|[,_ ]", r"\1", given)
        if re.fullmatch(r"[-+]?[0-9]+", digits):
            hint = f"; write {digits}"
        elif re.fullmatch(r"[0-9]+(:[0-9]+)+", given):
            hint = "; write one number, without colons"
    return requirement + hint


def _suggestion(model: type[BaseModel], key: Key, valid: list[str]) -> str:
    """`did you mean …? `, of the keys that are valid there, and of those elsewhere that have just this name."""
    *parents, name = key
    elsewhere = [known for known in dict.fromkeys(_all_keys(model)) if known.split(".")[:-1] != parents]
    leaves = {known: known.split(".")[-1] for known in elsewhere}
    near = difflib.get_close_matches(name, valid, n=1) or [known for known in valid if name in known.split("_")][:1]
    near += [known for known in elsewhere if leaves[known] == name][:2]
    near = near or [known for known in elsewhere if name in leaves[known].split("_")][:2]
    near = near or [k for k in elsewhere if leaves[k] in difflib.get_close_matches(name, leaves.values(), 1, 0.85)][:2]
    return f"did you mean {' or '.join(near)}? " if near else ""


# --- the keys of a section ------------------------------------------------------------------------


def _fields(section: type[BaseModel]) -> dict[str, Any]:
    """Each key of a section, as it stands in a file, with its type."""
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def _alternatives(annotation: Any) -> list[Any]:
    """The types that a type allows: of a union each."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for argument in get_args(annotation) for kind in _alternatives(argument)]
    return [annotation]


def _locate(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[Key, list[Any]]:
    """A location of pydantic's as the key that the user knows, and the types of what may stand there."""
    key: list[str] = []
    here: list[Any] = [model]
    for part in location:
        if len([kind for kind in here if _is_section(kind)]) > 1:  # the location names the kind; no key does
            here = [SOURCES[str(part)]]
        elif part != "[key]":
            key.append(str(part))
            here = [below for kind in here for below in _below(kind, part)]
    return tuple(key), here


def _below(kind: Any, part: int | str) -> list[Any]:
    if _is_section(kind):
        return _alternatives(_fields(kind).get(str(part)))
    arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
    return _alternatives(arguments[-1]) if arguments else []


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid at `location` inside `model`."""
    return [key for kind in _locate(model, location)[1] if _is_section(kind) for key in _fields(kind)]


def _all_keys(section: type[BaseModel], above: str = "") -> Iterator[str]:
    """The dotted keys of a section and of those in it; 0 stands for every position in a list."""
    for name, annotation in _fields(section).items():
        yield above + name
        for kind in _alternatives(annotation):
            items = [(kind, ".")] if _is_section(kind) else [(item, ".0.") for item in _below(kind, 0)]
            for item, dot in items:
                if _is_section(item):
                    yield from _all_keys(item, above + name + dot)


# --- arithmetic on an experiment ------------------------------------------------------------------


def parameter_count(model: ModelConfig, vocab_size: int) -> tuple[int, int]:
    """Trainable parameters (all, without embeddings). The output layer is tied to the token embedding."""
    c, f = model.d_model, model.d_ff
    block = 2 * 2 * c + (3 * c * c + 3 * c) + (c * c + c) + (c * f + f) + (f * c + c)
    blocks = model.n_layers * block + 2 * c
    return blocks + vocab_size * c, blocks


def checkpoint_bytes(model: ModelConfig, vocab_size: int) -> int:
    """Weights and two AdamW moments, fp32."""
    return 3 * 4 * parameter_count(model, vocab_size)[0]


def training_memory_bytes(model: ModelConfig, train: TrainConfig, vocab_size: int) -> int:
    """An estimate of one rank's memory: weights, gradients, AdamW moments, DDP buckets, activations, logits.

    Activations follow Korthikanti et al. 2022 (arXiv:2205.05198), eq. 1, without the attention matrix, which
    scaled_dot_product_attention does not keep: 34·B·T·C bytes per layer at 2 bytes a value.
    """
    parameters = parameter_count(model, vocab_size)[0]
    state = 5 * 4 * parameters
    width = 4 if train.precision == "fp32" else 2
    tokens = train.micro_batch * model.context_length
    per_layer = (2 if train.activation_checkpointing else 34) * tokens * model.d_model * width // 2
    working = 34 * tokens * model.d_model * width // 2 if train.activation_checkpointing else 0
    logits = tokens * vocab_size * (width + 2 * 4)
    return state + model.n_layers * per_layer + working + logits


def flops_per_token(model: ModelConfig, vocab_size: int) -> float:
    """Forward and backward FLOPs per trained token: 6N + 12·L·C·T (Chowdhery et al. 2022, PaLM, appendix B).

    N counts the tied embedding once, for the output layer, where it multiplies.
    """
    n = parameter_count(model, vocab_size)[0]
    return 6.0 * n + 12.0 * model.n_layers * model.d_model * model.context_length
