"""What came of a run: the figures of its validate and benchmark stages."""

import re
from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from jobs.pipeline import read_done
from sllm.run_directory import RunDirectory


def results_table(run: RunDirectory) -> Table | None:
    """The figures of the validate and benchmark stages; None if the run has not come so far."""
    validated, benchmarked = read_done(run, "validate"), read_done(run, "benchmark")
    if validated is None and benchmarked is None:
        return None
    table = Table(title=run.name, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    validation = validated["summary"] if validated else {}
    for name, value in results(validation, benchmarked["summary"] if benchmarked else {}):
        table.add_row(Text(name), Text(value))  # not a str: what a model says is no markup
    for question, answer in answers(validation):
        table.add_row(Text(question), Text(answer, no_wrap=True, overflow="ellipsis"))
    return table


def results(validation: dict[str, Any], benchmark: dict[str, Any]) -> Iterator[tuple[str, str]]:
    languages = {"ko": "Korean", "en": "English"}
    for code, name in languages.items():
        figures = validation.get("languages", {}).get(code)
        if figures:
            yield f"{name} perplexity", _number(figures["perplexity"], ".2f")
            yield f"{name} bits per byte", _number(figures["bits_per_byte"], ".3f")
    if tuned := validation.get("tuned"):
        for name, base, other in (
            ("text", validation, tuned),
            ("answers", validation["conversations"], tuned["conversations"]),
        ):
            figures = [_number(model["overall"]["bits_per_byte"], ".3f") for model in (base, other)]
            yield f"{name}, bits per byte", "base {}, tuned {}".format(*figures)
    if "overall" in validation:
        yield "next-token accuracy", f"{100 * validation['overall']['accuracy']:.1f}%"
    if "training" in benchmark:
        yield "training", f"{benchmark['training']['tokens_per_second']:,.0f} tokens/s on one device"
    for row in benchmark.get("generation", []):
        if "decode_tokens_per_second" in row:
            yield f"generation, batch {row['batch']}", f"{row['decode_tokens_per_second']:,.0f} tokens/s"
    tasks = benchmark.get("tasks", {})
    tuned_tasks = benchmark.get("tuned", {}).get("tasks", {}).get("measured", {})
    for task, row in tasks.get("measured", {}).items():
        tuned_score = f", tuned {_score(tuned_tasks[task])}" if task in tuned_tasks else ""
        yield (
            task,
            f"{row['metric']} {_score(row)}{tuned_score}, guessing {row['guess']:.2f}, {row['items']:,} items",
        )
    if lost := tasks.get("not_measured"):
        yield "tasks not measured", ", ".join(lost)
    for sample in validation.get("samples", []):
        yield sample["prompt"], sample["continuation"]


def answers(validation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the tuned model says to the first Korean question and to the first other one, each on a line; the page of
    the run has them all."""
    told = set()
    for answer in validation.get("answers", []):
        korean = re.search("[가-힣]", answer["prompt"]) is not None
        if korean not in told:
            told.add(korean)
            yield answer["prompt"], " ".join(answer["tuned"].split())


def _score(task: dict[str, Any]) -> str:
    return f"{task['score']:.3f}" + ("" if task["stderr"] is None else f" ± {task['stderr']:.3f}")


def _number(value: float | None, style: str) -> str:
    return "not finite" if value is None else format(value, style)
