"""What the benches share: shapes, random tokens, a Transformers model with the same weights, fair timing of rivals."""

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.pipeline import STAGES
from sllm.artifacts import Artifacts
from sllm.config import Experiment, ModelConfig, load_experiment, validate
from sllm.data.pack import POSITION_DTYPE, documents_file, token_dtype, token_file
from sllm.export.transformers import their_config, their_weights
from sllm.manifests import atomic_directory
from sllm.model.shared import LanguageModel
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory
from sllm.speed import timed
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE

CONFIGS = Path(__file__).parents[1] / "configs"

# What two CPU cores train in half a second or so.
MINI = ModelConfig(d_model=256, n_layers=4, n_heads=4, d_ff=1024, context_length=256, dropout=0.1)


def shape(name: str) -> tuple[ModelConfig, int]:
    """Model and vocabulary size of `configs/<name>.yaml`, or of `mini`, which is none of them."""
    if name == "mini":
        return MINI, 4096
    experiment = load_experiment(CONFIGS / f"{name}.yaml")
    return experiment.model, experiment.tokenizer.vocab_size


def run_stage(experiment: Experiment, stage: str, artifacts: Artifacts, run: Path = Path("unused")) -> None:
    """A stage of the pipeline, here and now."""
    STAGES[stage].work(experiment, RunDirectory(run), artifacts, StopFlag())


def final_validation(experiment: Experiment, artifacts: Artifacts, run: Path) -> dict[str, Any]:
    """The last validation of a model trained in the directory `run`."""
    run_stage(experiment, "pretrain", artifacts, run)
    return [record for record in read_jsonl(run / "metrics.jsonl") if record["kind"] == "validation"][-1]


def random_experiment(
    name: str, place: Path, model: ModelConfig, vocab_size: int, tokens: int, **train: Any
) -> Experiment:
    """An experiment below `place` over so many random tokens, which are on disk when it returns."""
    values = {
        "name": name,
        "runs_directory": str(place / "runs"),
        "data_directory": str(place / "data"),
        "data": {"sources": [{"name": "random", "kind": "embedded", "language": "en", "megabytes": 1}]},
        "tokenizer": {"vocab_size": vocab_size},
        "model": model.model_dump(),
        "train": {"max_steps": 1000, "warmup_steps": 10, **train},
    }
    experiment = validate(Experiment, values, name)
    artifacts = Artifacts(experiment)
    if not artifacts.packed.exists():
        _write_random_tokens(artifacts, vocab_size, tokens)
    return experiment


def _write_random_tokens(artifacts: Artifacts, vocab_size: int, tokens: int) -> None:
    """What the tokenizer and pack stages would leave for one source named `random`, of no meaning at all."""
    tokenizer = Tokenizer([(FIRST_BYTE + i // 256, FIRST_BYTE + i % 256) for i in range(vocab_size - FIRST_MERGE)])
    artifacts.tokenizer.mkdir(parents=True)
    tokenizer.save(artifacts.tokenizer / "tokenizer.json")
    draw = np.random.default_rng(0)
    about = {"kind": "packed", "dtype": token_dtype(vocab_size), "vocab_size": vocab_size}
    artifacts.packed.parent.mkdir(parents=True, exist_ok=True)
    source: dict[str, Any] = {"language": "en"}
    for split, count in {"train": tokens, "validation": 10_000}.items():
        source[split] = {"tokens": count, "documents": 1, "bytes": count, "shards": []}
    with atomic_directory(artifacts.packed, **about, tokenizer=tokenizer.fingerprint, sources={"random": source}) as to:
        for split in ("train", "validation"):
            ids = draw.integers(FIRST_BYTE, vocab_size, source[split]["tokens"])
            ids.astype(token_dtype(vocab_size)).tofile(token_file(to, "random", split))
            np.zeros(1, POSITION_DTYPE).tofile(documents_file(to, "random", split))


def twin(model: LanguageModel) -> Any:
    """A Transformers model with the weights of `model`, or None, with a word to the user, without Transformers."""
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed (pip install -e '.[bench]'): sllm alone")
        return None
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    theirs: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**their_config(model, Tokenizer([]))))
    theirs.load_state_dict(their_weights(model), strict=False)
    theirs.tie_weights()
    theirs.generation_config.eos_token_id = None  # neither side ends early
    return theirs.to(model.positions.device)


def take_turns(rivals: Sequence[Callable[[], object]], rounds: int, device: torch.device) -> list[float]:
    """Median seconds of each, after one round to warm up. They take turns, so that a busy machine is busy for all."""
    times: list[list[float]] = [[] for _ in rivals]
    for number in range(rounds + 1):
        for work, seconds in zip(rivals, times, strict=True):
            elapsed = timed(work, device)
            if number:
                seconds.append(elapsed)
    return [statistics.median(seconds) for seconds in times]
