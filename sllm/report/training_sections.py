"""The page's sections on the training: result, loss, figures of the steps, life, samples."""

from typing import Any

from sllm.report import figures
from sllm.report.data import RunData
from sllm.report.figures import BUCKETS, MOST_ROWS, SPAN_COLOURS
from sllm.report.life import SPANS, Life
from sllm.report.markup import Content, Markup, element, join
from sllm.report.parts import (
    NONE,
    Number,
    Pictures,
    card,
    compact,
    details,
    duration,
    long,
    moment,
    note,
    number,
    percent,
    table,
)
from sllm.report.words import both, either

MOST_SAMPLES = 6
"""Steps from which samples are shown: the first, the last, and others evenly between."""


# --- result ---------------------------------------------------------------------------------------


def result(data: RunData, pictures: Pictures) -> Content:
    failed = [
        note("stage_failed", stage=stage.name, how=either(stage.state, "is"), why=stage.message or NONE)
        for stage in data.stages
        if stage.state not in ("done", "finished", "running", "waiting")
    ]
    return [*failed, _sentence(data), _cards(data), _validation_table(data)]


def _sentence(data: RunData) -> Content:
    experiment = data.experiment
    if experiment is None or not data.trained:
        return note("not_trained")
    words = "continued_sentence" if experiment.train.init_from else "result_sentence"
    languages = sorted({source.language for source in experiment.data.sources}, reverse=True)
    return element(
        "p",
        both(
            words,
            family=experiment.model.family,
            parameters=compact(data.parameters),
            languages=both("languages_" + "_".join(languages)),
            tokens=compact(_tokens(data)),
            step=number(data.curves.last_step),
            steps=number(experiment.train.max_steps),
        ),
        both("result_device", device=data.life.device) if data.life and data.life.device else None,
        class_="lead",
    )


def _tokens(data: RunData) -> float:
    return float(data.curves.train["tokens"][-1])


def _cards(data: RunData) -> Content:
    best, life = data.best_validation, data.life
    cards: list[Content] = []
    if best:
        at = both("at_step", step=number(best["step"]))
        cards.append(card(both("best_loss"), number(best["loss"], ".4f"), at))
    rows = (data.validation or best or {}).get("languages", {})
    for language, row in rows.items():
        remark = both("perplexity_is", value=number(row.get("perplexity"), ",.2f"))
        cards.append(
            card(join(both("bits_per_byte_of"), " ", either(language)), number(row.get("bits_per_byte"), ".3f"), remark)
        )
    if data.parameters:
        cards.append(card(both("parameters"), compact(data.parameters), number(data.parameters)))
    if data.trained:
        speed = data.curves.train["tokens_per_second"]
        cards.append(
            card(both("tokens_trained"), compact(_tokens(data)), both("in_steps", steps=number(data.curves.last_step)))
        )
        middle = sorted(speed[speed > 0].tolist())
        if middle:
            cards.append(card(both("speed"), number(middle[len(middle) // 2]), both("median_speed")))
    if life and life.attempts:
        hours = both("gpu_hours" if life.on_gpu else "device_hours")
        cards.append(card(hours, number(data.device_hours, ",.2f"), both("wall", time=duration(life.wall_seconds))))
        cards.append(card(both("goodput"), percent(life.goodput), both("goodput_is")))
    return element("dl", *cards, class_="cards") if cards else None


def _validation_table(data: RunData) -> Content:
    measured = data.validation or data.last_validation
    if measured is None:
        return note("no_validation")
    overall = measured.get("overall", measured)
    names = [
        (both("overall"), overall),
        *((either(name), row) for name, row in measured.get("languages", {}).items()),
        *(measured.get("sources", {}).items()),
    ]
    rows = [
        (
            name,
            number(row.get("loss"), ".4f"),
            number(row.get("perplexity"), ",.2f"),
            number(row.get("bits_per_byte"), ".4f"),
            percent(row.get("accuracy"), ".2%"),
            number(row.get("tokens")),
        )
        for name, row in names
    ]
    where = both("of_validate") if data.validation else both("of_step", step=number(measured["step"]))
    caption = [both("validation_caption"), " ", where]
    if (unigram := overall.get("unigram_entropy")) is not None:
        caption += [" ", both("unigram", loss=number(unigram, ".4f"))]
    headings = [both(key) for key in ("text", "loss", "perplexity", "bits_per_byte", "accuracy", "tokens")]
    return table("validation-table", caption, headings, rows)


# --- loss -----------------------------------------------------------------------------------------


def loss(data: RunData, pictures: Pictures) -> Content:
    curves = data.curves
    if not data.trained:
        return note("no_metrics")
    choices = [
        element("label", element("input", type="radio", name="over", id=f"over-{over}", checked=over == "steps"),
                both(f"over_{over}"))
        for over in ("steps", "tokens", "hours")
    ]  # fmt: skip
    caption: list[Content] = [described(data), " ", *thinned(len(curves.train["step"]))]
    if len(caption) > 2:
        caption.append(both("loss_frame"))
    drawn = []
    for over in ("steps", "tokens", "hours"):
        name = "loss" if over == "steps" else f"loss-by-{over}"
        more = both("hours_caption") if over == "hours" else None
        picture = pictures.wide(name, [*caption, " ", more], lambda size, over=over: figures.loss(curves, over, size))  # type: ignore[misc]
        drawn.append(element("div", picture, class_=f"by by-{over}"))
    extra = note("overflows", value=number(curves.overflows)) if curves.overflows else None
    missing = None if curves.validations else note("no_validation_yet")
    return [element("fieldset", element("legend", both("horizontal_axis")), *choices), *drawn, missing, extra]


def described(data: RunData) -> Markup:
    """What a picture of the losses shows, for who does not see it."""
    values = data.curves.train["loss"]
    known = values[values == values]
    if not len(known):
        return both("loss_not_finite")
    best = data.best_validation
    told = both("loss_description", first=number(known[0], ".3f"), last=number(known[-1], ".3f"))
    return join(
        told,
        " ",
        both("best_description", loss=number(best["loss"], ".3f"), step=number(best["step"])) if best else None,
    )


def thinned(steps: int) -> list[Content]:
    width = -(-steps // BUCKETS)
    return [both("thinned", width=number(width)), " "] if width > 1 else []


# --- the steps ------------------------------------------------------------------------------------


def steps(data: RunData, pictures: Pictures) -> Content:
    curves = data.curves
    if not data.trained:
        return note("no_metrics")
    drawn: list[Content] = []
    for name in ("learning_rate", "gradient_norm", "tokens_per_second", "mfu", "memory_bytes", "data_wait"):
        if curves.has(name):
            drawn.append(
                pictures.small(name.replace("_", "-"), both(name), both(f"{name}_unit"), figures.series(curves, name))
            )
    if curves.checkpoints:
        drawn.append(pictures.small("saves", both("saves"), both("saves_unit"), figures.saves(curves)))
    missing = None if curves.has("mfu") else element("p", both("no_mfu"), class_="muted")
    words = thinned(len(curves.train["step"]))
    return [element("p", words, class_="muted") if words else None, element("div", *drawn, class_="grid"), missing]


# --- life -----------------------------------------------------------------------------------------


def life(data: RunData, pictures: Pictures) -> Content:
    tuning = data.tuning.life if data.tuning else None
    found: list[Content] = [_life(data.life, pictures)]
    if tuning is not None and tuning.attempts:
        found += [element("h3", both("life_of_tuning")), _life(tuning, pictures, "tuning-")]
    return [*found, _stages(data)]


def _life(of: Life | None, pictures: Pictures, prefix: str = "") -> Content:
    """Of one training; `prefix` begins the names of its pictures and tables."""
    if of is None or not of.attempts:
        return None if of is None else note("no_attempts")
    caption: list[Content] = [both("timeline_caption", attempts=number(len(of.attempts)))]
    if len(of.attempts) > MOST_ROWS:
        caption += [" ", both("timeline_last", rows=number(MOST_ROWS))]
    timeline = pictures.wide(f"{prefix}timeline", caption, lambda size: figures.timeline(of, size))
    return [_goodput(of), _spans(of), timeline, _interruptions(of, prefix), _attempts(of, prefix)]


def _goodput(life: Life) -> Content:
    if life.useful is None:
        return note("goodput_unknown")
    return element(
        "p",
        both(
            "goodput_sentence",
            useful=duration(life.useful),
            allocated=duration(life.allocated),
            goodput=percent(life.goodput),
            wall=percent(life.goodput_of_wall_time),
            lost=number(life.lost),
        ),
    )


def _spans(life: Life) -> Content:
    """All allocated device seconds, by what they went into."""
    sums = {
        span: sum(a.seconds[span] * a.ranks for a in life.attempts if a.seconds is not None) for span in SPANS
    }  # fmt: skip
    whole = sum(sums.values())
    if not whole:
        return None
    parts = [(span, seconds, SPAN_COLOURS[span]) for span, seconds in sums.items() if seconds > 0]
    bars = [element("i", style=f"flex:{seconds / whole:.6f};background:var(--{c})") for _, seconds, c in parts]
    key = [
        element("li", element("i", style=f"background:var(--{c})"), both(f"span_{span}"), " ",
                element("b", percent(seconds / whole)), element("span", f" · {duration(seconds)}", class_="muted"))
        for span, seconds, c in parts
    ]  # fmt: skip
    return [
        element("h3", both("where_time_went")),
        element("div", *bars, class_="stack", aria_hidden="true"),
        element("ul", *key, class_="key"),
    ]


def _interruptions(life: Life, prefix: str) -> Content:
    found = life.interruptions()
    if not found:
        return element("p", both("no_interruptions")) if life.attempts[-1].ended in (None, "finished") else None
    rows = [
        (
            number(each.before.number),
            either(each.cause, "is"),
            moment(each.before.end),
            number(each.before.lost),
            duration(each.before_next),
            duration(each.until_step),
            duration(each.seconds),
            duration(each.device_seconds),
            long(each.before.message or NONE),
        )
        for each in found
    ]
    keys = (
        "after_attempt",
        "cause",
        "when",
        "steps_lost",
        "until_launch",
        "until_step",
        "cost_wall",
        "cost_device",
        "said",
    )
    return table(f"{prefix}interruptions", both("interruptions_caption"), [both(key) for key in keys], rows)


def _attempts(life: Life, prefix: str) -> Content:
    rows = []
    for each in life.attempts:
        steps = NONE if each.first_step is None else f"{each.first_step:,}–{each.last_step:,}"
        seconds: dict[str, Any] = each.seconds or {}
        rows.append(
            (
                number(each.number),
                each.node if each.nodes == 1 else join(number(each.nodes), " ", both("nodes")),
                number(each.ranks),
                moment(each.launched),
                either(each.ended or "running", "is"),
                Number(steps),
                number(each.lost),
                duration(each.in_queue),
                *(duration(seconds.get(span)) for span in SPANS),
            )
        )
    keys = ("attempt", "node", "ranks", "launched", "ended", "steps", "steps_lost", "span_queue")
    headings = [*(both(key) for key in keys), *(both(f"span_{span}") for span in SPANS)]
    return details(both("all_attempts"), table(f"{prefix}attempts", both("attempts_caption"), headings, rows))


def _stages(data: RunData) -> Content:
    if not data.stages:
        return note("no_stages")
    rows = [
        (
            stage.name,
            either(stage.state, "is"),
            number(stage.attempts or None),
            duration(stage.seconds) if stage.attempts else Number(NONE),
            moment(stage.finished),
        )
        for stage in data.stages
    ]
    headings = [both(key) for key in ("stage", "state", "attempts", "time", "finished_at")]
    return [element("h3", both("stages")), table("stages", both("stages_caption"), headings, rows)]


# --- samples --------------------------------------------------------------------------------------


def samples(data: RunData, pictures: Pictures) -> Content:
    shown = [record for record in data.curves.validations if record.get("samples")]
    if not shown:
        return note("no_samples")
    last = len(shown) - 1
    count = min(MOST_SAMPLES, len(shown))
    chosen = [shown[round(i * last / max(1, count - 1))] for i in range(count)]
    prompts = list(dict.fromkeys(sample["prompt"] for record in chosen for sample in record["samples"]))
    found: list[Content] = [
        element("p", both("samples_sentence", shown=number(count), all=number(len(shown))), class_="muted")
    ]
    for prompt in prompts:
        rows: list[Markup] = []
        for record in chosen:
            for sample in record["samples"]:
                if sample["prompt"] == prompt:
                    rows.append(element("dt", both("at_step", step=number(record["step"]))))
                    rows.append(element("dd", element("bdi", sample["continuation"].lstrip(" "))))
        found += [element("h3", "“", element("bdi", prompt), "”"), element("dl", *rows, class_="sample")]
    return found
