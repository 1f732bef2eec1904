"""What an experiment amounts to, before anything runs: parameters, tokens, bytes, and how often each source is seen."""

import math
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal as readable_bytes

from jobs.estimate import training_time
from sllm.artifacts import Artifacts
from sllm.config import (
    EmbeddedSource,
    Experiment,
    HubSource,
    Source,
    TrainConfig,
    fits_world_size,
    write_experiment,
)
from sllm.data.epochs import epochs_by_phase, total
from sllm.data.find import is_left_out, local_files
from sllm.errors import UserError
from sllm.files import CorruptError
from sllm.manifests import read_manifest
from sllm.model.size import checkpoint_bytes, parameter_count, training_memory_bytes

MOST_EPOCHS = 4
"""Up to here repeated text is worth almost as much as new text (Muennighoff et al. 2023, arXiv:2305.16264)."""

# For estimates: what a token of a large vocabulary stands for in Korean and English text, and what a file expands to.
BYTES_PER_TOKEN = 4.5
EXPANSION = {".jsonl.zst": 4.0, ".parquet": 2.0}

AS_PACKED, FROM_CORPUS = "as packed", f"estimated from the corpus, at {BYTES_PER_TOKEN} bytes a token"


@dataclass(frozen=True)
class Plan:
    """How much of each source a run sees."""

    basis: str
    """Where the figures are from."""
    tokens: dict[str, int | None]
    """Training tokens by source; None where nothing tells."""
    epochs: dict[str, float]
    """By source; empty unless the tokens of all are known."""
    phases: dict[int, dict[str, float]]
    """Epochs by source, of what is seen from each of these numbers of steps on; empty where `epochs` is."""

    @property
    def warnings(self) -> list[str]:
        return [
            f"{name} is seen {epochs:.1f} times; above {MOST_EPOCHS} repeated text is worth less and less: "
            f"add text, or lower its weight or train.max_steps"
            for name, epochs in self.epochs.items()
            if epochs > MOST_EPOCHS
        ]


def describe_experiment(experiment: Experiment) -> str:
    """The resolved experiment as YAML, and its size as comments below: the whole is a valid experiment file."""
    model, train, vocab_size = experiment.model, experiment.train, experiment.tokenizer.vocab_size
    parameters, without_embeddings = parameter_count(model, vocab_size)
    step_tokens = train.global_batch * model.context_length
    plan = plan_data(experiment)
    figures = {
        "parameters": f"{parameters:,} ({without_embeddings:,} without embeddings)",
        "tokens per step": f"{step_tokens:,}",
        "tokens in all": f"{step_tokens * train.max_steps:,}",
        "one checkpoint": readable_bytes(checkpoint_bytes(model, train, vocab_size)),
        "memory per GPU": f"about {readable_bytes(training_memory_bytes(model, train, vocab_size))}",
        "time": training_time(experiment, train.max_steps, _usual_gpus(train)),
        "disk for data": data_room(experiment),
        "disk for run": run_room(experiment)[0],
        "training tokens": plan.basis,
    }
    for name, tokens in plan.tokens.items():
        count = "unknown" if tokens is None else f"{tokens:,}"
        epochs = plan.epochs.get(name)
        figures[f"  {name}"] = (
            count if epochs is None else f"{count}; the run sees {epochs * (tokens or 0):,.0f}: {epochs:.2f} epochs"
        )
    if len(plan.phases) > 1:
        for (start, parts), end in zip(plan.phases.items(), [*list(plan.phases)[1:], train.max_steps], strict=True):
            for name, part in parts.items():
                figures[f"  {name}, steps {start + 1:,} to {end:,}"] = (
                    f"{part * (plan.tokens[name] or 0):,.0f}: {part:.2f} epochs"
                )
    width = max(map(len, figures))
    lines = [f"# {name:<{width}}  {value}" for name, value in figures.items()]
    return write_experiment(experiment) + "\n".join([*lines, *(f"# WARNING: {w}" for w in plan.warnings)]) + "\n"


def plan_data(experiment: Experiment) -> Plan:
    """Exact once the data is packed, an estimate before."""
    basis, tokens = _training_tokens(experiment)
    phases = epochs_by_phase(experiment, {name: count or 0 for name, count in tokens.items()})
    epochs = total(phases)
    return Plan(basis, tokens, epochs, phases)


def data_bytes(experiment: Experiment) -> tuple[int, int, list[str]]:
    """About how much the stages before the training still write below data_directory, of compressed text (at most)
    and of tokens, and the sources of which nothing tells the size."""
    from sllm.data.plan import SHRINKS

    basis, tokens = _training_tokens(experiment)
    if basis == AS_PACKED:
        return 0, 0, []
    known = sum(count for count in tokens.values() if count is not None) / (1 - experiment.data.validation_fraction)
    corpus = 0 if basis == FROM_CORPUS else known * BYTES_PER_TOKEN * SHRINKS
    width = 2 if experiment.tokenizer.vocab_size <= 1 << 16 else 4
    return int(corpus), int(known * width), [name for name, count in tokens.items() if count is None]


def data_room(experiment: Experiment) -> str:
    corpus, tokens, unknown = data_bytes(experiment)
    if not tokens and not unknown:
        return "corpus and tokens are there"
    parts = [f"corpus at most {readable_bytes(corpus)}"] if corpus else []
    parts += [f"tokens about {readable_bytes(tokens)}"] if tokens else []
    return ", ".join([*parts, *([f"and what {', '.join(unknown)} bring, of unknown size"] if unknown else [])])


def run_room(experiment: Experiment) -> tuple[str, int]:
    """What a run's directory holds at once, at most: in words, and in bytes."""
    count = kept_checkpoints(experiment.train) + 1  # the new one is there before an old one goes
    vocab_size = experiment.tokenizer.vocab_size
    models = 3 * 4 * parameter_count(experiment.model, vocab_size)[0]  # the best, the one that replaces it, an export
    size = count * checkpoint_bytes(experiment.model, experiment.train, vocab_size) + models
    return f"{count} checkpoints, the best model and its export take {readable_bytes(size)}", size


def kept_checkpoints(train: TrainConfig) -> int:
    """How many are there after the last step, at most."""
    config, kept = train.checkpoint, 0
    if config.keep_every and isinstance(config.every, int):
        kept = train.max_steps // math.lcm(config.every, config.keep_every)
        kept += train.max_steps % config.keep_every == 0 and train.max_steps % config.every != 0
    elif config.keep_every:
        kept = train.max_steps // config.keep_every
    most = math.ceil(train.max_steps / config.every) if isinstance(config.every, int) else train.max_steps
    return min(kept + config.keep_last, most) + (train.schedule == "wsd")  # wsd: the one before the decay


def _usual_gpus(train: TrainConfig) -> list[tuple[int, int]]:
    return [(count, count) for count in (1, 2, 4, 8) if fits_world_size(train, count)]


def _training_tokens(experiment: Experiment) -> tuple[str, dict[str, int | None]]:
    try:
        artifacts = Artifacts(experiment)
    except UserError as error:
        return f"unknown ({str(error).splitlines()[0]})", {source.name: None for source in experiment.data.sources}
    try:
        sources = read_manifest(artifacts.packed)["sources"]
        return AS_PACKED, {name: source["train"]["tokens"] for name, source in sources.items()}
    except CorruptError:
        pass
    try:
        sources = read_manifest(artifacts.corpus)["sources"]
        sizes: dict[str, float | None] = {name: source["train"]["bytes"] for name, source in sources.items()}
        basis = FROM_CORPUS
    except CorruptError:
        share = 1 - experiment.data.validation_fraction
        limit = (experiment.data.limit_megabytes or math.inf) * 1e6
        texts = {
            source.name: None if (size := _text_bytes(source)) is None else min(size, limit)
            for source in experiment.data.sources
            if not is_left_out(source)
        }
        sizes = {name: size and size * share for name, size in texts.items()}
        basis = f"estimated from the sizes of the sources, before cleaning, at {BYTES_PER_TOKEN} bytes a token"
    return basis, {name: None if size is None else int(size / BYTES_PER_TOKEN) for name, size in sizes.items()}


def _text_bytes(source: Source) -> float | None:
    """About how much text is taken from a source."""
    if isinstance(source, EmbeddedSource):
        return source.megabytes * 1e6
    if isinstance(source, HubSource):
        told = [megabytes for megabytes in (source.text_megabytes, source.limit_megabytes) if megabytes]
        return min(told) * 1e6 if told else None
    return sum(path.stat().st_size * _expansion(path) for path in local_files(source))


def _expansion(path: Path) -> float:
    return next((factor for suffix, factor in EXPANSION.items() if path.name.lower().endswith(suffix)), 1.0)
