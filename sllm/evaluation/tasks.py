"""How well a model does lm-eval's tasks, from the items that the download stage has brought, without a network.

A task that has been measured is kept at once, so that the next attempt goes on with the one after it.
"""

import contextlib
import importlib.metadata
import logging
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sllm.config import BenchmarkConfig
from sllm.config.tasks import TASKS
from sllm.data import lm_eval_tasks
from sllm.data.tasks import AGAIN, NO_ITEMS, NO_LIBRARY, fetched, parts_of, why_missing
from sllm.errors import Stopped, Superseded, UserError
from sllm.files import CorruptError, fingerprint, finite, read_object, write_json
from sllm.model.shared import LanguageModel
from sllm.progress import track
from sllm.stop import Check, no_check
from sllm.tokenizer import Tokenizer

RESAMPLES = 200
"""Of the items, to estimate a standard error that no formula gives (Efron 1979)."""

EXAMPLES_SEED = 1234
"""lm-eval's own for the choice of few-shot's examples, which its figures depend on."""


def measure_tasks(
    config: BenchmarkConfig,
    directory: Path,
    kept: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    model_key: Any,
    check: Check = no_check,
    *,
    template: bool = False,
) -> dict[str, dict[str, Any]]:
    """Measure `config.tasks`.

    Args:
        directory: where `fetch_tasks` has put their items.
        kept: where the results of single tasks are, and are put.
        model_key: a JSON value that another model has not: results of that are measured anew.
        check: called between two batches; may raise.
        template: ask by conversations, as a tuned model has learnt to be asked: what an item asks is the user's turn,
            what may follow the assistant's, and examples are turns before it.

    Returns:
        `measured`, by name of the task: language, metric (the one shown), score, stderr (None if there is none), guess
        (the score of answers drawn at random), few_shot, items, limit, revision, licence, metrics (all of them) and
        published (see `sllm.config.tasks.Published`); `not_measured`: why, by name of the task.
    """
    how = ["template"] if template else []
    measured, not_measured = {}, {}
    names = list(dict.fromkeys(config.tasks))
    todo: dict[str, tuple[list[str], str]] = {}
    for name in names:
        parts = parts_of(name, directory)
        if lost := [part for part in parts if fetched(directory, part) is None]:
            why = why_missing(directory, lost[0]) or f"not in {directory}"
            not_measured[name] = f"{NO_ITEMS} ({why}); {AGAIN}"
        elif not lm_eval_tasks.installed():
            not_measured[name] = f"{NO_LIBRARY}: pip install 'sllm[eval]'"
        else:
            items = [manifest["files"] for part in parts if (manifest := fetched(directory, part))]
            version = importlib.metadata.version("lm_eval")
            key = fingerprint([model_key, name, items, config.task_limit, config.few_shot, version, *how])
            if (result := _kept(kept / f"{name}.json", key)) is not None:
                measured[name] = result
            else:
                todo[name] = parts, key
    if todo:
        for name, outcome in _measure_each(todo, directory, config, model, tokenizer, check, template):
            if isinstance(outcome, str):
                not_measured[name] = outcome
            else:
                measured[name] = outcome
                write_json(kept / f"{name}.json", {"key": todo[name][1], "result": outcome})
    return {
        "measured": {name: measured[name] for name in names if name in measured},
        "not_measured": {name: not_measured[name] for name in names if name in not_measured},
    }


def _measure_each(
    todo: dict[str, tuple[list[str], str]],
    directory: Path,
    config: BenchmarkConfig,
    model: LanguageModel,
    tokenizer: Tokenizer,
    check: Check,
    template: bool,
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Each task with its result, or with why there is none."""
    sizes = {name: _items(directory, parts, config.task_limit) for name, (parts, _) in todo.items()}
    with track("tasks", sum(sizes.values()), "items") as bar, _quiet():
        for name, (parts, _) in todo.items():
            before = bar.completed

            def after(share: float, name: str = name, before: float = before) -> None:
                bar.update(before + share * sizes[name], task=name)
                check()

            result: dict[str, Any] | str
            try:
                result = _measure(name, parts, directory, config, model, tokenizer, after, template)
            except (Stopped, Superseded):
                raise
            except Exception as error:  # lm-eval's tasks come from many hands
                if "out of memory" in str(error):
                    raise
                result = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:300]
            bar.update(before + sizes[name])
            yield name, result


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    try:
        found = read_object(path, "key", "result")
    except (OSError, CorruptError):
        return None
    return found["result"] if found["key"] == key else None


def _items(directory: Path, parts: list[str], limit: int | None) -> int:
    sizes = [manifest["items"] for part in parts if (manifest := fetched(directory, part))]
    return sum(min(size, limit or size) for size in sizes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of lm-eval's bars and warnings beside our own."""
    import datasets
    from lm_eval.api import task

    logger, bar = logging.getLogger("lm_eval"), task.tqdm
    level = logger.level
    try:
        datasets.disable_progress_bars()
        logger.setLevel(logging.CRITICAL)
        task.tqdm = lambda items, **_: items
        yield
    finally:
        task.tqdm = bar
        logger.setLevel(level)


# --- one task -------------------------------------------------------------------------------------


def _measure(
    name: str,
    parts: list[str],
    directory: Path,
    config: BenchmarkConfig,
    model: LanguageModel,
    tokenizer: Tokenizer,
    after: Callable[[float], None],
    template: bool,
) -> dict[str, Any]:
    from sllm.evaluation.harness import Harness

    outcomes, done = [], 0
    total = _items(directory, parts, config.task_limit)
    for part in parts:
        size = _items(directory, [part], config.task_limit)

        def after_batch(share: float, done: int = done, size: int = size) -> None:
            after((done + share * size) / total)

        harness = Harness(model, tokenizer, after_batch)
        task = load_task(part, directory, config.few_shot)
        outcomes.append(_run(task, harness, config.task_limit, template=template))
        done += size
    sizes = [outcome["items"] for outcome in outcomes]
    weights = sizes if _weighted(name) else [1] * len(sizes)
    shared = [metric for metric in outcomes[0]["scores"] if all(metric in each["scores"] for each in outcomes)]

    def mean(values: Sequence[float]) -> float:
        return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)

    metrics = {metric: mean([outcome["scores"][metric][0] for outcome in outcomes]) for metric in shared}
    known_task, manifest = TASKS.get(name), fetched(directory, parts[0]) or {}
    metric = known_task.metric if known_task else shared[0]
    # The parts are independent: the variance of a weighted mean of their scores.
    errors = [outcome["scores"][metric][1] for outcome in outcomes]
    shares = [weight / sum(weights) for weight in weights]
    known = not any(error is None for error in errors)
    return {
        "language": manifest["language"],
        "metric": metric,
        "score": metrics[metric],
        "stderr": math.sqrt(sum((s * e) ** 2 for s, e in zip(shares, errors, strict=True))) if known else None,
        "guess": known_task.guess if known_task else mean([outcome["guess"] for outcome in outcomes]),
        "few_shot": config.few_shot,
        "items": sum(sizes),
        "limit": config.task_limit,
        "revision": manifest["revision"],
        "licence": manifest["licence"],
        "metrics": {metric: finite(value) for metric, value in metrics.items()},
        "published": [vars(published) for published in known_task.published] if known_task else [],
    }


def _weighted(name: str) -> bool:
    """Whether the score of a group counts each item the same, not each task."""
    rules = lm_eval_tasks.settings(name).get("aggregate_metric_list") or [{}]
    rule = rules[0] if isinstance(rules, list) else rules
    return bool(rule.get("weight_by_size", True))


def load_task(part: str, directory: Path, few_shot: int) -> Any:
    """One of lm-eval's tasks over the items in `directory`."""
    from lm_eval.api.task import ConfigurableTask

    manifest = fetched(directory, part)
    if manifest is None:
        raise UserError(f"{part}: {NO_ITEMS}")
    settings = lm_eval_tasks.settings(part, functions=True)
    for key in ("tag", "group", "task_list", "dataset_kwargs"):
        settings.pop(key, None)
    splits = manifest["splits"]
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if settings.get(key) not in splits:
            settings[key] = None
    # Its name on the hub would be looked for there, and so would metrics which lm-eval has itself.
    rules = [
        {key: value for key, value in r.items() if key != "hf_evaluate"} for r in settings.get("metric_list") or ()
    ]
    task = ConfigurableTask(
        config={
            **settings,
            "num_fewshot": few_shot,
            "custom_dataset": lambda **_: _datasets(directory / part, splits),
            "metric_list": rules or None,
        }
    )
    task.set_fewshot_seed(EXAMPLES_SEED)
    return task


def _datasets(directory: Path, splits: list[str]) -> dict[str, Any]:
    """In memory: `datasets` keeps nothing of them on disk."""
    import datasets
    import pyarrow.parquet

    tables = {split: pyarrow.parquet.read_table(directory / f"{split}.parquet") for split in splits}
    return {split: datasets.Dataset.from_list(table.to_pylist(), split=split) for split, table in tables.items()}


def _run(task: Any, harness: Any, limit: int | None, *, template: bool = False) -> dict[str, Any]:
    """`scores`: by metric the score, and its standard error or None; `items`; `guess`."""
    from lm_eval.evaluator import evaluate

    name = task.config.task
    found = evaluate(
        harness,
        {name: task},
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=template,
        fewshot_as_multiturn=template,
    )
    samples, aggregations = found["samples"][name], task.aggregation()
    scores: dict[str, tuple[float, float | None]] = {}
    for key, value in found["results"][name].items():
        metric, _, rule = key.partition(",")
        if not rule or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        values = [sample[metric] for sample in samples if sample["filter"] == rule and metric in sample]
        error = standard_error(values, aggregations.get(metric))
        scores[metric if rule == "none" else key] = float(value), error
    choices = [len(sample["arguments"]) for sample in samples]
    chance = statistics.fmean(1 / count for count in choices) if task.OUTPUT_TYPE == "multiple_choice" else 0.0
    return {"scores": scores, "items": len({sample["doc_id"] for sample in samples}), "guess": chance}


def standard_error(values: list[Any], aggregation: Callable[[list[Any]], float] | None) -> float | None:
    """Of the score that `aggregation` makes of the items' values: of a mean the sample's standard deviation over the
    root of its size, else the standard deviation of the scores of items drawn anew; None of fewer than two."""
    if len(values) < 2 or aggregation is None:
        return None
    if all(isinstance(value, int | float) for value in values):
        mean = statistics.fmean(values)
        if math.isclose(aggregation(values), mean, rel_tol=1e-9, abs_tol=1e-12):
            return statistics.stdev(values) / math.sqrt(len(values))
    draw = random.Random(0)
    return statistics.stdev(float(aggregation(draw.choices(values, k=len(values)))) for _ in range(RESAMPLES))


# --- the report -----------------------------------------------------------------------------------


def tables(results: dict[str, Any], title: str = "Tasks") -> list[Table]:
    if not results["measured"] and not results["not_measured"]:
        return []
    table = Table(title=title)
    for heading in ("task", "", "metric", "score", "±", "guess", "items", "published"):
        table.add_column(heading, justify="right" if heading in ("score", "±", "guess", "items") else "left")
    for name, row in results["measured"].items():
        same = [
            other
            for other in row["published"]
            if (other["metric"], other["few_shot"]) == (row["metric"], row["few_shot"])
        ]
        table.add_row(
            name,
            row["language"],
            row["metric"],
            f"{row['score']:.4f}",
            "—" if row["stderr"] is None else f"{row['stderr']:.4f}",
            f"{row['guess']:.2f}",
            f"{row['items']:,}",
            ", ".join(f"{other['model']} {other['score']:.4f}" for other in same),
        )
    shots = {row["few_shot"] for row in results["measured"].values()}
    notes = [f"{', '.join(map(str, shots))}-shot"] if shots else []
    for reason in dict.fromkeys(results["not_measured"].values()):
        lost = [name for name, why in results["not_measured"].items() if why == reason]
        notes.append(f"not measured: {', '.join(lost)}: {reason}")
    if not results["measured"]:
        reasons = Table(title=title, title_justify="left", show_header=False, box=None)
        for note in notes:
            reasons.add_row(note)
        return [reasons]
    table.caption = "\n".join(notes)
    return [table]
