"""One page that shows a run: a file that asks nobody for anything, in Korean and English, and its pictures as PNGs."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from sllm import __version__
from sllm.files import make_directory, write_text
from sllm.report import other_sections, training_sections, tuning_section
from sllm.report.data import RunData, read_run
from sllm.report.markup import Content, Markup, element, join
from sllm.report.parts import Pictures, moment, note, number
from sllm.report.style import CSS
from sllm.report.words import LANGUAGES, both
from sllm.run_directory import RunDirectory

log = logging.getLogger(__name__)

Section = Callable[[RunData, Pictures], Content]

SECTIONS: dict[str, tuple[str, Section]] = {
    "result": ("result", training_sections.result),
    "loss": ("loss_section", training_sections.loss),
    "steps": ("steps_section", training_sections.steps),
    "life": ("life", training_sections.life),
    "samples": ("samples", training_sections.samples),
    "tasks": ("tasks", other_sections.tasks),
    "tuning": ("tuning_section", tuning_section.tuning),
    "speed": ("speed_section", other_sections.speed),
    "tokenizer": ("tokenizer", other_sections.tokenizer),
    "corpus": ("corpus", other_sections.corpus),
    "settings": ("settings", other_sections.settings),
}
"""By id, in the order of what people ask: the words of its heading, and what writes it."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LANGUAGE_NAMES = {"en": "English", "ko": "한국어"}


def write_report(run: RunDirectory) -> Path:
    """Write `report/index.html` in the run directory, and a PNG of each picture beside it. Returns the page's path.

    What the run's files do not tell is noted on the page; nothing of it is an error.
    """
    make_directory(run.report)
    data, pictures = read_run(run), Pictures(run.report)
    shown = {name: each for name, each in SECTIONS.items() if name != "tuning" or data.tuning is not None}
    sections = [
        element("section", element("h2", both(words), id=f"{name}-heading"), *_notes(data, name),
                _written(name, write, data, pictures), id=name, aria_labelledby=f"{name}-heading")
        for name, (words, write) in shown.items()
    ]  # fmt: skip
    for picture in set(run.report.glob("*.png")) - pictures.written:  # of a training that was set aside
        picture.unlink()
    contents = [element("li", element("a", both(words), href=f"#{name}")) for name, (words, _) in shown.items()]
    page = run.report / "index.html"
    write_text(
        page,
        document(
            run.name,
            _state(data),
            element("nav", element("ul", *contents), aria_labelledby="contents"),
            element("main", *sections),
            element("footer", both("made_by", version=__version__, time=moment(data.now), name=run.name)),
        ),
    )
    return page


def document(title: str, subtitle: Content, *contents: Content) -> str:
    """A whole page, with a switch of its language."""
    choices = [
        element("label", element("input", type="radio", name="language", id=f"language-{code}", checked=code == "en"),
                element("span", LANGUAGE_NAMES[code], lang=code))
        for code in LANGUAGES
    ]  # fmt: skip
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} – sllm"),
        element("style", Markup(CSS)),
    )
    body = element(
        "body",
        element(
            "div",
            element(
                "header",
                element("div", element("h1", title), element("p", subtitle, class_="state")),
                element("fieldset", element("legend", both("language_switch")), *choices),
            ),
            element("p", both("contents"), id="contents", hidden=True),
            *contents,
            class_="page",
        ),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _state(data: RunData) -> Content:
    states = {stage.name: stage for stage in data.stages}
    training, tuning = states.get("pretrain"), states.get("finetune")
    if data.tuning and data.tuning.experiment and tuning and tuning.state == "running":
        last, whole = data.tuning.curves.last_step, data.tuning.experiment.train.max_steps
        return both("state_tuning", step=number(last), steps=number(whole), time=moment(data.now))
    steps = number(data.experiment.train.max_steps if data.experiment else None)
    key, time = "state_stands", data.now
    if training and training.state == "running":
        key = "state_running"
    elif training and training.state == "done" and training.finished:
        key, time = "state_done", training.finished
    return both(key, step=number(data.curves.last_step), steps=steps, time=moment(time))


def _notes(data: RunData, section: str) -> Iterable[Content]:
    return [note(each.key, **each.values) for each in data.notes if each.section == section]


def _written(name: str, write: Section, data: RunData, pictures: Pictures) -> Content:
    """A section; where a file holds what no version of ours writes, a note in its place."""
    try:
        return join(write(data, pictures))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        log.warning("report: the part %s is left out: %s: %s", name, type(error).__name__, error)
        return note("section_damaged", why=f"{type(error).__name__}: {error}")
