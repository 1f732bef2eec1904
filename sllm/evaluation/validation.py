"""How good a model is: loss, perplexity, bits per byte and next-token accuracy, overall, by language and by source.

`evaluate` measures a model in memory, on any number of ranks; `ModelValidator` one on disk, and writes a report.

Loss is nats per token and depends on the tokenizer; bits per byte does not, so it compares models of different
vocabularies: all nats over ln 2, divided by the UTF-8 bytes of the predicted text. Predicting <bos> and <eos> counts
in the nats and in the tokens, and has no bytes.
"""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sllm.artifacts import Artifacts
from sllm.config import Experiment, load_experiment
from sllm.data.sampler import PackedData
from sllm.device import Precision, autocast
from sllm.distributed import World, connect
from sllm.errors import Stopped, UserError
from sllm.files import finite, write_json, write_text
from sllm.inference.generator import complete
from sllm.model.gpt2 import GPT
from sllm.model.storage import load_pair
from sllm.progress import Bar, track
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer

# Logits are made for as many tokens at a time as fill this many fp32 values (64 MB): with a large vocabulary those of
# a whole batch would take more memory than the model.
LOGITS_AT_ONCE = 1 << 24


def evaluate(
    model: GPT,
    data: PackedData,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    tokens_per_source: int,
    batch: int,
    world: World,
    stop: StopFlag,
    precision: Precision = "fp32",
    bar: Bar | None = None,
) -> dict[str, Any] | None:
    """Measure `model` on the validation split; every rank calls this and gets the same result.

    Each token is predicted once, from the tokens before it in its window.

    Args:
        tokens_per_source: read this much of each source, from its start, rounded down to whole windows.
        batch: windows in a forward pass.

    Returns:
        `{"overall": figures, "languages": {language: figures}, "sources": {name: figures}}`, or None if any rank
        was asked to stop. Figures: loss (nats per token), perplexity, bits_per_byte, accuracy, tokens, bytes; overall
        also unigram_entropy (nats), the loss of a model that knows how often each token occurs here and no more. A
        figure that is not finite is None.

    Raises:
        UserError: the data has no validation tokens.
    """
    batches = _batches(data, context_length, tokens_per_source, batch)
    token_bytes = torch.tensor([len(token) for token in tokenizer.token_bytes], device=world.device)
    counts = torch.zeros(tokenizer.vocab_size, dtype=torch.float64, device=world.device)
    sums = torch.zeros(len(data.sources), 4, dtype=torch.float64, device=world.device)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(world.device, precision):
            # Every rank goes round equally often, since each round is an agreement.
            for first in range(0, len(batches), world.size):
                if world.any(stop.requested):
                    return None
                if first + world.rank < len(batches):
                    source, windows = batches[first + world.rank]
                    tokens = torch.from_numpy(np.stack(windows).astype(np.int64)).to(world.device)
                    sums[source] += _sums(model, tokens[:, :-1], tokens[:, 1:], token_bytes)
                    counts += torch.bincount(tokens[:, 1:].flatten(), minlength=len(counts))
                if bar:
                    bar.advance(sum(_targets(windows) for _, windows in batches[first : first + world.size]))
    finally:
        model.train(training)
    return _results(data, world.sum(sums.flatten().tolist()), world.sum(counts.tolist()))


def _batches(
    data: PackedData, context_length: int, tokens_per_source: int, size: int
) -> list[tuple[int, list[np.ndarray]]]:
    """(source number, windows of one length) in a fixed order."""
    batches = []
    for number, source in enumerate(data.sources):
        if source.tokens("validation") < 2:
            continue
        windows = data.validation_windows(source.name, context_length, tokens_per_source)
        whole = [window for window in windows if len(window) == context_length + 1]
        batches += [(number, whole[i : i + size]) for i in range(0, len(whole), size)]
        batches += [(number, [window]) for window in windows[len(whole) :]]
    if not batches:
        raise UserError(f"{data.directory}: no validation tokens; raise data.validation_fraction or add text")
    return batches


def _targets(windows: Iterable[np.ndarray]) -> int:
    return sum(len(window) - 1 for window in windows)


def _sums(model: GPT, tokens: Tensor, targets: Tensor, token_bytes: Tensor) -> Tensor:
    """(4,) float64: nats, tokens, bytes and right guesses over a batch of token ids (B, T) and their targets."""
    hidden = model.hidden(tokens).flatten(0, 1)  # (B·T, C)
    targets = targets.flatten()
    nats = torch.zeros((), dtype=torch.float64, device=tokens.device)
    right = torch.zeros((), dtype=torch.float64, device=tokens.device)
    rows = max(1, LOGITS_AT_ONCE // model.vocab_size)
    for some_hidden, some_targets in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = model.logits(some_hidden).float()
        nats += F.cross_entropy(logits, some_targets, reduction="none").double().sum()
        right += (logits.argmax(dim=-1) == some_targets).sum()
    count = torch.full_like(nats, len(targets))
    return torch.stack([nats, count, token_bytes[targets].sum().double(), right])


def _results(data: PackedData, sums: list[float], counts: list[float]) -> dict[str, Any]:
    table = np.array(sums).reshape(-1, 4)
    frequency = np.array(counts)[np.array(counts) > 0] / sum(counts)
    languages = sorted({source.language for source in data.sources})
    by_language = {
        language: table[[source.language == language for source in data.sources]].sum(axis=0) for language in languages
    }
    return {
        "overall": {
            **_figures(table.sum(axis=0)),
            "unigram_entropy": float(-(frequency * np.log(frequency)).sum()),
        },
        "languages": {language: _figures(row) for language, row in by_language.items() if row[1]},
        "sources": {source.name: _figures(row) for source, row in zip(data.sources, table, strict=True) if row[1]},
    }


def _figures(sums: np.ndarray) -> dict[str, float | None]:
    """None: not finite (a model that overflows), or, of bits per byte, no bytes."""
    nats, tokens, text_bytes, right = sums.tolist()
    loss = nats / tokens
    return {
        "loss": finite(loss),
        "perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else None,  # above 700 it is no longer a float
        "bits_per_byte": finite(nats / math.log(2) / text_bytes) if text_bytes else None,
        "accuracy": right / tokens,
        "tokens": int(tokens),
        "bytes": int(text_bytes),
    }


# --- a model on disk ------------------------------------------------------------------------------


class ModelValidator:
    """Measures a trained model and writes `results.json` and `results.txt`.

    Args:
        model_path: a directory such as runs/NAME/best or a checkpoint, or the model.safetensors in it.
        tokenizer_path: default, the tokenizer.json beside the model.
        data: a directory of packed tokens; default, that of the run the model lies in.
        output: where the results go; default, the run's stages/validate.
        tokens_per_source, batch, precision: see `evaluate`.
        prompts, sample_tokens: texts to continue, and how far.

    Raises:
        UserError: a part is missing, or the parts do not belong together.

    >>> ModelValidator("runs/default/best").run_comprehensive_evaluation()["overall"]  # doctest: +SKIP
    """

    def __init__(
        self,
        model_path: Path | str,
        tokenizer_path: Path | str | None = None,
        data: Path | str | None = None,
        *,
        output: Path | str | None = None,
        tokens_per_source: int = 4_194_304,
        batch: int = 8,
        precision: Precision = "fp32",
        prompts: Sequence[str] = ("대한민국의 수도는", "The capital of Korea is"),
        sample_tokens: int = 48,
    ) -> None:
        self.model_path = Path(model_path)
        self.model, self.tokenizer = load_pair(self.model_path, tokenizer_path, "cpu")
        self.data = PackedData.open(Path(data) if data else self._run_data(), self.tokenizer.fingerprint)
        self.output = Path(output) if output else self._run().stage("validate")
        self.tokens_per_source, self.batch, self.precision = tokens_per_source, batch, precision
        self.prompts, self.sample_tokens = prompts, sample_tokens

    def run_comprehensive_evaluation(self, stop: StopFlag | None = None) -> dict[str, Any]:
        """`evaluate`'s figures, with `samples`, a list of prompts and continuations; also written, and printed.

        Raises:
            Stopped: `stop` was set; nothing is written.
        """
        stop = stop or StopFlag()
        context_length = self.model.config.context_length
        total = sum(
            _targets(windows) for _, windows in _batches(self.data, context_length, self.tokens_per_source, self.batch)
        )
        with connect() as world, track("validate", total, "tokens") as bar:
            self.model.to(world.device)
            results = evaluate(
                self.model,
                self.data,
                self.tokenizer,
                context_length=context_length,
                tokens_per_source=self.tokens_per_source,
                batch=self.batch,
                world=world,
                stop=stop,
                precision=self.precision,
                bar=bar,
            )
            if results is None:
                raise Stopped(stop.reason)
            continuations = complete(self.model, self.tokenizer, self.prompts, self.sample_tokens, seed=0)
            results["samples"] = [
                {"prompt": prompt, "continuation": text}
                for prompt, text in zip(self.prompts, continuations, strict=True)
            ]
            if world.main:
                write_results(self.output, results, *tables(results))
        return results

    def _run(self) -> RunDirectory:
        run = RunDirectory.above(self.model_path)
        if run is None:
            raise UserError(
                f"{self.model_path}: lies in no run directory; give the packed data and the output directory"
            )
        return run

    def _run_data(self) -> Path:
        return Artifacts(load_experiment(self._run().config)).packed


def validate_stage(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    """The validate stage: measure the run's best model. Raises UserError, or Stopped if `stop` is set."""
    config = experiment.validate_
    validator = ModelValidator(
        run.best,
        data=artifacts.packed,
        output=run.stage("validate"),
        tokens_per_source=config.final_tokens,
        batch=config.batch,
        precision=experiment.train.precision,
        prompts=config.prompts,
        sample_tokens=config.sample_tokens,
    )
    return validator.run_comprehensive_evaluation(stop)


# --- the report -----------------------------------------------------------------------------------


def tables(results: dict[str, Any]) -> list[Table]:
    figures = Table(title="Validation")
    for heading in ("", "loss", "perplexity", "bits/byte", "accuracy", "tokens"):
        figures.add_column(heading, justify="right" if heading else "left")

    formats = {"loss": ".4f", "perplexity": ",.2f", "bits_per_byte": ".4f", "accuracy": ".2%", "tokens": ","}

    def add(name: str, row: dict[str, float | None]) -> None:
        cells = [(row[figure], style) for figure, style in formats.items()]
        figures.add_row(name, *("not finite" if value is None else format(value, style) for value, style in cells))

    for language, row in results["languages"].items():
        add(language, row)
    figures.add_section()
    for source, row in results["sources"].items():
        add(source, row)
    figures.add_section()
    add("overall", results["overall"])
    figures.caption = f"A model that only counts tokens: loss {results['overall']['unigram_entropy']:.4f}"
    samples = Table(title="Continuations", show_lines=True)
    samples.add_column("prompt")
    samples.add_column("continuation")
    for sample in results["samples"]:
        samples.add_row(sample["prompt"], sample["continuation"])
    return [figures, samples]


def write_results(directory: Path, results: dict[str, Any], *report: Table) -> None:
    """Write results.json and, for people, results.txt, which is also printed."""
    console = Console(file=io.StringIO(), width=110)
    console.print(*report, sep="\n", markup=False)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    write_json(directory / "results.json", results)
    write_text(directory / "results.txt", text)
    print(text, flush=True)
