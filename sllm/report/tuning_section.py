"""The page's section on the fine-tuning: its loss, the tuned model beside the base, answers, conversations."""

from collections.abc import Iterable
from typing import Any

from sllm.report import figures
from sllm.report.data import RunData
from sllm.report.markup import Content, element, join
from sllm.report.other_sections import dropped_by_reason
from sllm.report.parts import NONE, Pictures, compact, details, long, note, number, percent, score, size, table
from sllm.report.training_sections import described, samples, thinned
from sllm.report.words import both, either


def tuning(data: RunData, pictures: Pictures) -> Content:
    training = data.tuning
    if training is None:
        return None
    return [
        *(note(each.key, **each.values) for each in training.notes if each.section == "loss"),
        _loss(training, pictures),
        _beside(data.validation or {}),
        _tasks(data.benchmark or {}),
        _answers(data.validation or {}),
        details(both("answers_while_tuning"), samples(training, pictures)) if training.curves.validations else None,
        _conversations(data),
    ]


def _loss(training: RunData, pictures: Pictures) -> Content:
    curves, settings = training.curves, training.experiment
    if not training.trained or settings is None:
        return note("not_tuned")
    sentence = both(
        "tuning_sentence",
        tokens=compact(float(curves.train["tokens"][-1])),
        step=number(curves.last_step),
        steps=number(settings.train.max_steps),
    )
    caption = [both("tuning_caption"), " ", described(training), " ", *thinned(len(curves.train["step"]))]
    drawn = pictures.wide("tuning-loss", caption, lambda size: figures.loss(curves, "steps", size))
    return [element("p", sentence), drawn]


# --- beside the base ------------------------------------------------------------------------------


def _beside(validation: dict[str, Any]) -> Content:
    """Loss and bits per byte of both models, on text and of answers."""
    tuned = validation.get("tuned")
    if tuned is None:
        return note("no_tuned_figures")
    rows = []
    for word, base, other in (
        ("on_text", validation, tuned),
        ("of_answers", validation.get("conversations", {}), tuned.get("conversations", {})),
    ):
        names: list[tuple[Content, dict[str, Any], dict[str, Any]]] = [
            (both(word), base.get("overall", {}), other.get("overall", {}))
        ]
        for language in base.get("languages", {}):
            of = join(both(word), ", ", either(language))
            names.append((of, base["languages"][language], other.get("languages", {}).get(language, {})))
        for name, ours, theirs in names:
            pairs = [(ours.get(figure), theirs.get(figure)) for figure in ("loss", "bits_per_byte")]
            rows.append((name, *(number(value, ".4f") for pair in pairs for value in pair)))
    headings = ("measured_on", "base_loss", "tuned_loss", "base_bits", "tuned_bits")
    return table("tuning-table", both("tuning_table_caption"), [both(key) for key in headings], rows)


def _tasks(benchmark: dict[str, Any]) -> Content:
    base = (benchmark.get("tasks") or {}).get("measured", {})
    tasks = (benchmark.get("tuned") or {}).get("tasks", {})
    tuned, missing = tasks.get("measured", {}), tasks.get("not_measured", {})
    names = [name for name in dict.fromkeys([*base, *tuned]) if name in tuned]
    rows = [
        (
            name,
            either(tuned[name]["language"]),
            tuned[name]["metric"],
            score(base.get(name)),
            score(tuned[name]),
            number(tuned[name].get("guess"), ".4f"),
        )
        for name in names
    ]
    headings = [both(key) for key in ("task", "language", "metric", "base", "tuned", "guess")]
    lost = [(name, long(why)) for name, why in missing.items()]
    return [
        table("tuning-tasks", both("tuning_tasks_caption"), headings, rows) if rows else None,
        table("tuning-not-measured", both("not_measured"), [both("task"), both("why")], lost) if lost else None,
    ]


def _answers(validation: dict[str, Any]) -> Content:
    found = validation.get("answers")
    if not found:
        return None
    rows = [
        (long(each["prompt"]), *(long(each[model].strip() or NONE) for model in ("base", "tuned"))) for each in found
    ]
    headings = [both(key) for key in ("question", "base", "tuned")]
    return [element("h3", both("answers")), table("answers", both("answers_caption"), headings, rows)]


# --- conversations --------------------------------------------------------------------------------


def _conversations(data: RunData) -> Content:
    heading = element("h3", both("conversations"))
    sources: dict[str, dict[str, Any]] = (data.conversations or {}).get("sources", {})
    if not sources:
        return [heading, note("no_conversations")]
    experiment = data.experiment
    tuned = experiment.finetune.data.sources if experiment and experiment.finetune else ()
    settings = {source.name: source for source in tuned}
    rows = []
    for name, entry in sources.items():
        splits = [entry.get(split, {}) for split in ("train", "validation")]
        source = settings.get(name)
        rows.append(
            (
                name,
                either(entry["language"]),
                *(number(_sum([split], "documents")) for split in splits),
                number(_sum(splits, "windows")),
                size(_sum(splits, "bytes")),
                percent(_sum(splits, "filler") / max(_sum(splits, "tokens"), 1)),
                number(sum(entry.get("dropped", {}).values())),
                number(source.weight if source else None, "g"),
                long(getattr(source, "licence", None) or NONE),
            )
        )
    keys = ("source", "language", "to_train", "held_out", "windows", "answers_size", "filler", "dropped_count",
            "weight", "licence")  # fmt: skip
    return [
        heading,
        table("conversations", both("conversations_caption"), [both(key) for key in keys], rows),
        dropped_by_reason("conversations-dropped", "conversations_dropped_caption", sources),
    ]


def _sum(splits: Iterable[dict[str, Any]], name: str) -> int:
    return sum(int(split.get(name, 0)) for split in splits)
