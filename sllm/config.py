"""The experiment: typed, frozen, strict. One YAML file plus dotted overrides (`train.max_steps=500`).

Everything wrong with a file is reported at once, each problem on its own line with the key, the value and what
would be valid. Paths are made absolute when the file is loaded, so that a job may run from any folder.
"""

import copy
import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sllm.errors import UserError

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Language = Literal["ko", "en"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


SourceName = Annotated[str, Field(pattern=NAME_PATTERN)]
Weight = Annotated[float, Field(gt=0)]


class EmbeddedSource(Section):
    """Text written by our own generator (`sllm.data.embedded`): needs no network and no files."""

    kind: Literal["embedded"]
    name: SourceName
    language: Language
    megabytes: Annotated[float, Field(gt=0)] = 4.0
    weight: Weight = 1.0


class FilesSource(Section):
    """The user's own files: globs of .txt (one document a file), .jsonl, .jsonl.zst and .parquet."""

    kind: Literal["files"]
    name: SourceName
    language: Language
    paths: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    text_field: str = "text"
    """Key (jsonl) or column (parquet) that holds the text."""
    weight: Weight = 1.0
    """Times this source's natural share: 2.0 shows its documents twice as often as weight 1.0 would."""


class HubSource(Section):
    """A dataset of the Hugging Face hub, in parquet; streamed into shards, never kept as it is there."""

    kind: Literal["hub"]
    name: SourceName
    language: Language
    dataset: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Its id: owner/name."""
    config: str | None = None
    """The configuration (subset), where the dataset has several."""
    split: str = "train"
    files: str | None = None
    """A pattern of files in its repository, for one whose layout does not tell its configurations."""
    revision: str = "main"
    """A commit: a branch may move. The commit that was read is in the corpus manifest."""
    text_field: str = "text"
    limit_megabytes: Positive | None = None
    """Text to take, at most: the beginnings of files spread over the dataset. All of it if not set."""
    text_megabytes: Positive | None = None
    """About how much text it holds, for the reader and for the check of the disk."""
    licence: str | None = None
    optional: bool = False
    """Go on without it where it cannot be had."""
    weight: Weight = 1.0


class AihubSource(Section):
    """Conversation sets of AI Hub (aihub.or.kr), which a person with an account there has downloaded and unpacked."""

    kind: Literal["aihub"]
    name: SourceName
    language: Literal["ko"] = "ko"
    folder: str
    """Every .json file in it, and in the folders below, is read."""
    licence: str | None = None
    optional: bool = False
    weight: Weight = 1.0


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
    """A document of a Korean source with a smaller share of Hangul among its letters is dropped."""
    min_latin: Annotated[float, Field(ge=0, le=1)] = 0.8
    """The same for Latin letters in an English source."""
    repetition: bool = True
    """Drop documents that mostly repeat themselves."""
    boilerplate: bool = True
    """Remove lines such as copyright notices and cookie banners."""
    personal_data: bool = True
    """Mask resident registration numbers, phone and card numbers, and e-mail addresses."""


class DataConfig(Section):
    sources: Annotated[tuple[Source, ...], Field(strict=False, min_length=1)]
    min_characters: Positive = 20
    max_characters: Positive = 1_000_000
    clean: CleanConfig = CleanConfig()
    near_duplicates: bool = False
    """Drop documents that are nearly equal to another of any source, not only those that are equal."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.01
    shard_megabytes: Positive = 64
    """Uncompressed text in one .jsonl.zst shard."""
    limit_megabytes: Positive | None = None
    """Text to take from each source, at most: a few megabytes for a try."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        problems = []
        names = [source.name for source in self.sources]
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(f"sources: two are named {name!r}; give each its own name")
        if self.min_characters > self.max_characters:
            problems.append(
                f"min_characters: {self.min_characters} is above max_characters ({self.max_characters}); lower it"
            )
        return _raise(self, problems)


class TokenizerConfig(Section):
    vocab_size: Annotated[int, Field(ge=260, le=1_000_000)] = 32_000
    """All ids: 4 special tokens, 256 bytes, the rest merges."""
    sample_bytes: Positive = 200_000_000
    """Text the merges are learnt from, at most; documents are drawn by the seed."""
    language_weights: dict[Language, Annotated[float, Field(gt=0)]] = {}
    """Times the language's natural share of that text; 1.0 for a language that is not named."""
    max_words: Positive = 6_000_000
    """Distinct words kept for learning; if the text has more, the rarest are dropped, and the report says so."""


class ModelConfig(Section):
    d_model: Positive
    n_layers: Positive
    n_heads: Positive
    d_ff: Positive
    context_length: Annotated[int, Field(gt=1)]
    """Positions: the longest sequence, and the length of every training sequence."""
    dropout: Probability = 0.1

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
        return _raise(self, problems)


class CheckpointConfig(Section):
    every: Positive = 500
    """Steps between checkpoints."""
    keep_last: Positive = 2
    keep_every: Positive | None = None
    """Also keep for ever each checkpoint whose step is a multiple of this."""


class TrainConfig(Section):
    max_steps: Positive
    global_batch: Positive
    """Sequences per optimizer step, over all ranks."""
    micro_batch: Positive
    """Sequences per forward pass on one rank; the rest is gradient accumulation."""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    min_learning_rate: Annotated[float, Field(ge=0)] = 6e-5
    warmup_steps: NonNegative = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta1: Probability = 0.9
    beta2: Probability = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-8
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    compile: bool = False
    activation_checkpointing: bool = False
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
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
        return _raise(self, problems)


class ValidateConfig(Section):
    every: Positive = 500
    """Training steps between validations."""
    tokens: Positive = 262_144
    """Tokens of each source that a validation during training reads, at most."""
    final_tokens: Positive = 4_194_304
    """The same for the validate stage."""
    batch: Positive = 8
    """Sequences per forward pass."""
    prompts: Strings = ("대한민국의 수도는", "The capital of Korea is")
    sample_tokens: Positive = 48


class BenchmarkConfig(Section):
    batches: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] = (1, 8)
    prompt_tokens: Positive = 64
    new_tokens: Positive = 64
    train_steps: Positive = 5
    repeats: Positive = 3


class WandbConfig(Section):
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """When training sends to W&B. auto: if it has a key and a network; offline: never, `sllm sync` does it later."""
    project: str = "sllm"
    entity: str | None = None
    tags: Strings = ()


class Experiment(Section):
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    seed: NonNegative = 1234
    runs_directory: str = "runs"
    data_directory: str = "data"
    data: DataConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig
    train: TrainConfig
    validate_: Annotated[ValidateConfig, Field(alias="validate")] = ValidateConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    wandb: WandbConfig = WandbConfig()

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        problems = []
        wanted = self.benchmark.prompt_tokens + self.benchmark.new_tokens
        if wanted > self.model.context_length:
            problems.append(
                f"benchmark: prompt_tokens + new_tokens is {wanted}, above model.context_length "
                f"({self.model.context_length}); lower one of them"
            )
        return _raise(self, problems)

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


class _Loader(yaml.SafeLoader):
    """SafeLoader with two of YAML 1.1's traps closed (3e-4 is a number; on, off, yes, no are words) and no
    silent duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9_]+|[0-9][0-9_]*\.?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def load_yaml(path: Path) -> Any:
    """Parse YAML into plain values; nothing in the file can be executed. Raises UserError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not valid UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{where}:{line}: not valid YAML: {error.problem or error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {error}") from None


def load_experiment(path: Path, overrides: tuple[str, ...] | list[str] = ()) -> Experiment:
    """Read an experiment. Raises UserError with every problem of the file and the overrides, one a line."""
    values = load_yaml(Path(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: an experiment is a mapping of sections; see configs/smoke.yaml")
    _read_catalogue(values, Path(path).parent)
    for override in overrides:
        apply_override(values, override)
    _read_catalogue(values, Path())
    experiment = validate(Experiment, values, str(path))
    return _absolute_paths(experiment)


def _read_catalogue(values: dict[str, Any], folder: Path) -> None:
    """Put the list of sources in place where `data.sources` names the file that holds it, relative to `folder`."""
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("sources"), str):
        data["sources"] = load_yaml(folder / data["sources"])


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set `a.b.0.c=value` in nested dicts and lists; the value is YAML."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"{override!r}: an override is written key=value, for example train.max_steps=500")
    *parents, last = dotted.strip().split(".")
    target: Any = values
    for depth, key in enumerate(parents):
        if isinstance(target, list):
            target = target[_list_index(target, key, override)]
        else:
            target = target.setdefault(key, {})
        if not isinstance(target, dict | list):
            raise UserError(f"{override!r}: {'.'.join(parents[: depth + 1])} is a value and has no keys below it")
    value = parse_yaml(text, override)
    if isinstance(target, list):
        target[_list_index(target, last, override)] = value
    else:
        target[last] = value


def _list_index(items: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise UserError(f"{override!r}: {key!r} is not a position in a list of {len(items)}; use 0 to {len(items) - 1}")
    return int(key)


def validate(model: type[M], values: Any, where: str) -> M:
    """`values` as `model`. Raises UserError with every problem, one a line, each with key, value and what is valid."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = _problem_lines(model, error, where)
        lines += _hidden_problems(model, values, error, where)
        raise UserError("\n".join(lines)) from None


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
    return str(Path(path).expanduser().absolute())


def write_experiment(experiment: Experiment) -> str:
    """The YAML text that loads back to this experiment."""
    return yaml.safe_dump(experiment.to_dict(), allow_unicode=True, sort_keys=False)


# --- messages -------------------------------------------------------------------------------------


def _raise(value: T, problems: list[str]) -> T:
    if problems:
        raise ValueError("\n".join(problems))
    return value


def _listed(values: list[int]) -> str:
    shown = values if len(values) <= 12 else [*values[:11], "…", values[-1]]
    return ", ".join(map(str, shown))


def _problem_lines(model: type[BaseModel], error: ValidationError, where: str) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        # A discriminated union puts the kind into the location; the user's file has no such key.
        location = [str(part) for part in problem["loc"] if part not in SOURCES]
        key = ".".join(location)
        given = problem["input"]
        kind = problem["type"]
        if kind == "extra_forbidden":
            valid = _fields_at(model, problem["loc"][:-1])
            close = difflib.get_close_matches(location[-1], valid, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            lines.append(f"{where}: {key}: unknown key; {hint}valid: {', '.join(valid)}")
        elif kind == "missing":
            lines.append(f"{where}: {key}: missing; it must be set")
        elif kind == "value_error":
            lines.extend(_value_error_lines(problem, where))
        elif kind in ("union_tag_not_found", "union_tag_invalid"):
            got = given.get("kind", "nothing") if isinstance(given, dict) else given
            lines.append(
                f"{where}: {key}.kind: {got!r}; valid: {problem['ctx'].get('expected_tags', ', '.join(SOURCES))}"
            )
        else:
            shown = repr(given) if len(repr(given)) <= 60 else repr(given)[:57] + "…"
            lines.append(f"{where}: {key}: {shown}; {_requirement(problem['msg'])}")
    return lines


def _hidden_problems(model: type[BaseModel], values: Any, error: ValidationError, where: str) -> list[str]:
    """Combinations that cannot work, in sections where pydantic did not look because some value there was wrong.

    Found by leaving the wrong values out; a combination that one of them is part of is not judged.
    """
    values = copy.deepcopy(values)
    wrong = []
    for problem in error.errors(include_url=False):
        parent, location = values, [part for part in problem["loc"] if part not in SOURCES]
        for part in location[:-1]:
            parent = parent[part]
        if location and isinstance(parent, dict) and problem["type"] not in ("missing", "value_error"):
            parent.pop(location[-1], None)
            wrong.append(str(location[-1]))
    try:
        model.model_validate(values)
    except ValidationError as second:
        known = _problem_lines(model, error, where)
        combinations = [p for p in second.errors(include_url=False) if p["type"] == "value_error"]
        lines = [line for p in combinations for line in _value_error_lines(p, where)]
        return [line for line in lines if line not in known and not any(name in line for name in wrong)]
    return []


def _value_error_lines(problem: Any, where: str) -> list[str]:
    key = ".".join(str(part) for part in problem["loc"])
    prefix = f"{key}." if key else ""
    return [f"{where}: {prefix}{line}" for line in str(problem["ctx"]["error"]).split("\n")]


def _requirement(message: str) -> str:
    return message[0].lower() + message[1:].replace("Input should", "input should")


def _fields_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid at `location` inside `model`."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        if not location:
            return [field.alias or name for name, field in model.model_fields.items()]
        for name, field in model.model_fields.items():
            if location[0] in (name, field.alias):
                return _fields_at(field.annotation, location[1:])
        return []
    arguments = [a for a in getattr(model, "__args__", ()) if a is not Ellipsis]
    if location and isinstance(location[0], int):
        return _fields_at(arguments[0], location[1:]) if arguments else []
    if location and location[0] in SOURCES:
        return _fields_at(SOURCES[str(location[0])], location[1:])
    for argument in arguments:
        found = _fields_at(argument, location)
        if found:
            return found
    return []


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
