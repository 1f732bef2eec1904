"""The validate stage: a model on disk is measured, and the report written. And the same model on any text.

Of a run with a tuned model both are measured, and both on text and on conversations: what was learnt, and what it cost.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table

from sllm.artifacts import Artifacts
from sllm.config import Experiment
from sllm.data.sampler import PackedData
from sllm.device import Precision
from sllm.distributed import World, connect
from sllm.errors import Stopped, UserError
from sllm.evaluation.loss import continuations, evaluate, predicted_tokens, replies
from sllm.evaluation.results import write_results
from sllm.evaluation.text import evaluate_texts, ours
from sllm.inference.generator import complete
from sllm.inference.sampling import Sampling
from sllm.manifests import read_manifest
from sllm.model.storage import load_pair
from sllm.progress import track
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag


class ModelValidator:
    """Measures a trained model: on the data it was validated with, written to `results.json` and `results.txt`, or on
    any text.

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
    >>> ModelValidator("runs/default/best").evaluate_text(["notes/*.txt"])["bits_per_byte"]  # doctest: +SKIP
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
        self._data, self._output = data, output
        self.tokens_per_source, self.batch, self.precision = tokens_per_source, batch, precision
        self.prompts, self.sample_tokens = prompts, sample_tokens

    @cached_property
    def data(self) -> PackedData:
        return PackedData.open(Path(self._data) if self._data else self._run_data(), self.tokenizer.fingerprint)

    @cached_property
    def output(self) -> Path:
        return Path(self._output) if self._output else self._run().stage("validate")

    def evaluate_text(
        self, paths: Sequence[Path | str], *, text_field: str = "text", context: int | None = None
    ) -> dict[str, Any]:
        """The model's figures on a user's files, patterns or folders; nothing is written. `evaluate_texts` does this,
        for several models at once, also those of Transformers, and tells what a figure is.

        Raises:
            UserError: no text, or files that cannot be read.
        """
        reader = ours(self.model, self.tokenizer)
        results = evaluate_texts([reader], paths, text_field=text_field, context=context, batch=self.batch)
        return dict(results["models"][0])

    def run_comprehensive_evaluation(self, stop: StopFlag | None = None) -> dict[str, Any]:
        """`evaluate`'s figures, with `step`, the model's, and `samples`, a list of prompts and continuations; also
        written, and printed.

        Raises:
            UserError: the packed data is missing, or belongs to another tokenizer.
            Stopped: `stop` was set; nothing is written.
        """
        output = self.output
        with connect() as world:
            results = self.measure(world, stop or StopFlag())
            if world.main:
                write_results(output, results, *tables(results))
        return results

    def measure(self, world: World, stop: StopFlag) -> dict[str, Any]:
        """The same, not written. Raises the same."""
        results = self.figures(self.data, world, stop, tokens_per_source=self.tokens_per_source)
        if (step := self.step()) is not None:
            results["step"] = step
        results["samples"] = continuations(self.model, self.tokenizer, self.prompts, self.sample_tokens)
        return results

    def figures(
        self, data: PackedData, world: World, stop: StopFlag, *, tokens_per_source: int, of: str = "validate"
    ) -> dict[str, Any]:
        """`evaluate`'s on this data; `of` is what the bar says. Raises Stopped if `stop` was set."""
        total = predicted_tokens(data, self.model.config.context_length, tokens_per_source)
        with track(of, total, "tokens") as bar:
            self.model.to(world.device)
            found = evaluate(
                self.model,
                data,
                self.tokenizer,
                tokens_per_source=tokens_per_source,
                batch=self.batch,
                world=world,
                stop=stop,
                precision=self.precision,
                bar=bar,
            )
        if found is None:
            raise Stopped(stop.reason)
        return found

    def step(self) -> int | None:
        """Of the training, by the model's manifest: figures of one step are not those of the next best model."""
        directory = self.model_path.parent if self.model_path.is_file() else self.model_path
        step = read_manifest(directory).get("step")
        return step if isinstance(step, int) else None

    def _run(self) -> RunDirectory:
        run = RunDirectory.above(self.model_path)
        if run is None:
            raise UserError(
                f"{self.model_path}: lies in no run directory; give the packed data and the output directory"
            )
        return run

    def _run_data(self) -> Path:
        return Artifacts.of_run(self._run()).packed


def validate_stage(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    """The validate stage: measure the run's best model and, if it was tuned, the tuned one beside it.

    Then the results hold more: `conversations`, the base model's figures of answers in held-out conversations; `tuned`,
    the other model's `step`, figures on the text and `conversations`; and `answers`, to each of the experiment's
    questions those of both, `{"prompt": …, "base": …, "tuned": …}`. A question is told to the tuned model by its
    template; the base model, which has never seen that, goes on from the bare question.

    Raises:
        UserError: a model or its data is missing.
        Stopped: `stop` was set; nothing is written.
    """
    config, precision = experiment.validate_, experiment.train.precision
    base = ModelValidator(
        run.best,
        data=artifacts.packed,
        output=run.stage("validate"),
        tokens_per_source=config.final_tokens,
        batch=config.batch,
        precision=precision,
        prompts=config.prompts,
        sample_tokens=config.sample_tokens,
    )
    if experiment.finetune is None:
        return base.run_comprehensive_evaluation(stop)
    of = experiment.finetune.validate_
    best = run.training("finetune").best
    tuned = ModelValidator(best, data=artifacts.packed, batch=config.batch, precision=precision)
    conversations = PackedData.open(artifacts.conversations, base.tokenizer.fingerprint)
    with connect() as world:

        def figures(model: ModelValidator, data: PackedData, tokens: int, name: str) -> dict[str, Any]:
            return model.figures(data, world, stop, tokens_per_source=tokens, of=name)

        results = base.measure(world, stop)
        results["conversations"] = figures(base, conversations, of.final_tokens, "validate answers")
        results["tuned"] = figures(tuned, tuned.data, config.final_tokens, "validate tuned")
        results["tuned"]["conversations"] = figures(tuned, conversations, of.final_tokens, "validate tuned answers")
        if (step := tuned.step()) is not None:
            results["tuned"]["step"] = step
        greedy = Sampling(temperature=0)
        continued = complete(base.model, base.tokenizer, of.prompts, of.sample_tokens, sampling=greedy)
        answered = replies(tuned.model, tuned.tokenizer, of.prompts, of.sample_tokens)
        results["answers"] = [
            {"prompt": reply["prompt"], "base": text, "tuned": reply["continuation"]}
            for text, reply in zip(continued, answered, strict=True)
        ]
        if world.main:
            write_results(base.output, results, *tables(results))
    return results


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
    return [figures, samples, *(_tuned_tables(results) if "tuned" in results else [])]


def _tuned_tables(results: dict[str, Any]) -> list[Table]:
    beside = Table(title="Base and tuned model")
    for heading in ("", "base loss", "tuned loss", "base bits/byte", "tuned bits/byte"):
        beside.add_column(heading, justify="right" if heading else "left")
    for name, base, tuned in (
        ("text", results, results["tuned"]),
        ("answers", results["conversations"], results["tuned"]["conversations"]),
    ):
        pairs = [(figure, model["overall"][figure]) for figure in ("loss", "bits_per_byte") for model in (base, tuned)]
        beside.add_row(name, *("not finite" if value is None else format(value, ".4f") for _, value in pairs))
    answers = Table(title="Answers", show_lines=True)
    for heading in ("question", "base", "tuned"):
        answers.add_column(heading)
    for answer in results["answers"]:
        answers.add_row(answer["prompt"], answer["base"], answer["tuned"])
    return [beside, answers]
