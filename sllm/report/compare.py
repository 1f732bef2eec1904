"""Runs beside each other: what they were told, what came of it and what it took; as rows, and as a page with curves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sllm.errors import UserError
from sllm.files import make_directory, write_text
from sllm.report import figures
from sllm.report.data import RunData, read_run
from sllm.report.markup import element, join
from sllm.report.page import document
from sllm.report.parts import NONE, Number, Pictures, compact, duration, moment, number, percent, score, table
from sllm.report.settings import as_text, changes
from sllm.report.words import both, either
from sllm.run_directory import RunDirectory


@dataclass(frozen=True)
class Row:
    """A value for each run."""

    word: str
    """What it is: a key of WORDS, or of a setting."""
    of: str
    """The language or the task, if it is of one."""
    values: list[str]


@dataclass(frozen=True)
class Comparison:
    names: list[str]
    runs: list[RunData]
    results: list[Row]
    settings: list[Row]
    """Those that are not the same in all runs."""


def compare(runs: Sequence[RunDirectory]) -> Comparison:
    """Raises UserError if they are not at least two, or one of them is named twice."""
    if len(runs) < 2:
        raise UserError("name at least two runs to compare")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UserError("a run is named twice; name each once")
    found = [read_run(run) for run in runs]
    short = [run.name for run in runs]
    names = [run.name if short.count(run.name) == 1 else str(run.path) for run in runs]
    return Comparison(names, found, _results(found), _settings(found))


def write_page(compared: Comparison, page: Path) -> None:
    """The tables and the curves as a page of their own, and a PNG of each picture beside it."""
    make_directory(page.parent)
    pictures = Pictures(page.parent)
    curves = {name: data.curves for name, data in zip(compared.names, compared.runs, strict=True)}
    drawn = [
        pictures.wide(
            f"{page.stem}-by-{over}",
            both("compared_curves"),
            lambda size, over=over: figures.losses(curves, over, size),  # type: ignore[misc]
        )
        for over in ("tokens", "hours")
    ]
    results = table(
        "results",
        both("compared_results"),
        ["", *compared.names],
        [(join(either(row.word), " ", either(row.of)), *map(Number, row.values)) for row in compared.results],
    )
    settings = table(
        "settings",
        both("compared_settings"),
        [both("setting"), *compared.names],
        [(row.word, *row.values) for row in compared.settings],
    )
    contents = element("main", results, *drawn, settings if compared.settings else both("same_settings"))
    now = moment(max(data.now for data in compared.runs))
    write_text(page, document(" · ".join(compared.names), both("compared_on", time=now), contents))


# --- settings -------------------------------------------------------------------------------------

UNKNOWN = "?"


def _settings(runs: Sequence[RunData]) -> list[Row]:
    """By key, UNKNOWN for a run whose configuration cannot be read."""
    told = [data.experiment.to_dict() if data.experiment else None for data in runs]
    known = next((values for values in told if values is not None), {})
    found: dict[str, list[str]] = {}
    for run, values in enumerate(told):
        for change in changes(known, values) if values is not None else ():
            row = found.setdefault(change.key, [UNKNOWN if other is None else _shown(change.old) for other in told])
            row[run] = _shown(change.new)
    return [Row(key, "", values) for key, values in found.items()]


def _shown(value: Any) -> str:
    return NONE if value is None else as_text(value)


# --- results --------------------------------------------------------------------------------------


def _results(runs: Sequence[RunData]) -> list[Row]:
    rows: list[Row] = []

    def add(word: str, values: Iterable[str], of: str = "") -> None:
        row = Row(word, of, [str(value) for value in values])
        if set(row.values) != {NONE}:
            rows.append(row)

    add("parameters", (compact(data.parameters) for data in runs))
    add("steps", (number(data.curves.last_step or None) for data in runs))
    add("tokens_trained", (compact(data.curves.train["tokens"][-1]) if data.trained else NONE for data in runs))
    add("best_loss", (number((data.best_validation or {}).get("loss"), ".4f") for data in runs))
    measured = [(data.validation or data.best_validation or {}) for data in runs]
    for language in sorted({name for each in measured for name in each.get("languages", {})}):
        figures_of = [each.get("languages", {}).get(language, {}) for each in measured]
        add("bits_per_byte", (number(row.get("bits_per_byte"), ".4f") for row in figures_of), language)
    add("accuracy", (percent(each.get("overall", each).get("accuracy"), ".2%") for each in measured))
    of_tasks = [((data.benchmark or {}).get("tasks") or {}).get("measured", {}) for data in runs]
    for task in dict.fromkeys(name for each in of_tasks for name in each):
        add("task", (_score(each.get(task)) for each in of_tasks), task)
    validated = [data.validation or {} for data in runs]
    tuned = [each.get("tuned", {}) for each in validated]
    for word, models in (("answers_base", validated), ("answers_tuned", tuned)):
        figures_of = [each.get("conversations", {}).get("overall", {}) for each in models]
        add(word, (number(row.get("bits_per_byte"), ".4f") for row in figures_of))
    add("text_tuned", (number(each.get("overall", {}).get("bits_per_byte"), ".4f") for each in tuned))
    of_tuned = [((data.benchmark or {}).get("tuned") or {}).get("tasks", {}).get("measured", {}) for data in runs]
    for task in dict.fromkeys(name for each in of_tuned for name in each):
        add("task_tuned", (_score(each.get(task)) for each in of_tuned), task)
    add("speed", (number(_median(data.curves.train["tokens_per_second"])) for data in runs))
    lives = [data.life if data.life and data.life.attempts else None for data in runs]
    hours = "gpu_hours" if any(life.on_gpu for life in lives if life) else "device_hours"
    add(hours, (number(data.device_hours if life else None, ",.2f") for data, life in zip(runs, lives, strict=True)))
    add("wall_time", (duration(life.wall_seconds if life else None) for life in lives))
    add("goodput", (percent(life.goodput if life else None) for life in lives))
    add("interruptions", (number(len(life.interruptions()) if life else None) for life in lives))
    add("steps_lost", (number(life.lost if life else None) for life in lives))
    return rows


def _median(values: np.ndarray) -> float | None:
    known = values[values > 0]
    return float(np.median(known)) if len(known) else None


def _score(task: dict[str, Any] | None) -> str:
    return NONE if task is None else f"{score(task)} {task['metric']}"
