"""The pictures, drawn with matplotlib: as SVG for the page, whose colours are CSS variables and whose words are of both
languages, and as PNG for slides, in English.

Colours are those of Okabe and Ito (2008), which the colour-blind can tell apart; where they mean something they differ
in form, too.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from sllm.report.curves import Curves, Over, Thinned, thin
from sllm.report.life import SPANS, Life
from sllm.report.markup import Markup, escape, visible
from sllm.report.words import LANGUAGES, WORDS, english

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# As matplotlib writes them, and the CSS variable that takes their place on the page.
INK, MUTED, LINE, PAPER = "#1c2128", "#59636e", "#d8dee4", "#fefefe"
COLOURS = {"blue": "#0072b2", "orange": "#d55e00", "green": "#009e73", "purple": "#aa4499", "amber": "#e69f00",
           "sky": "#56b4e9", "grey": "#8c959f"}  # fmt: skip
VARIABLES = {"ink": INK, "muted": MUTED, "line": LINE, "paper": PAPER, **COLOURS}
SERIES = ("blue", "orange", "green", "purple", "amber", "sky", "grey")

SPAN_COLOURS = dict(zip(SPANS, ("amber", "sky", "green", "orange", "blue", "purple", "grey"), strict=True))

WIDE, NARROW = (8.6, 3.5), (3.8, 3.2)
"""Inches: a picture over the whole width, and one that a telephone can read."""

BUCKETS, MOST_POINTS = 400, 2000
"""Points of a curve at most: of steps, and of validations or checkpoints."""
MOST_ROWS = 60
"""Attempts that have a row."""
MOST_DOTS = 40
"""Validations or checkpoints, so many have a dot each."""

FONT = "DejaVu Sans"
"""Comes with matplotlib. The page's own takes its place there, and is no wider."""

STYLE: Any = {
    "font.family": FONT,
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.formatter.limits": (-4, 6),
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


# --- what is drawn --------------------------------------------------------------------------------


def loss(curves: Curves, over: Over, size: tuple[float, float] = WIDE) -> "Figure":
    """Loss of training as a band and a line, of validation with dots, overall and by language."""
    with _axes(size) as (figure, axes):
        steps = curves.train["step"]
        _band(axes, thin(curves.at(steps, over), curves.train["loss"], BUCKETS), "blue", english("training"))
        names = [None, *(curves.languages if len(curves.languages) > 1 else [])]
        for name, colour, mark in zip(
            names, cycle(("orange", "green", "purple", "amber")), cycle("osD^"), strict=False
        ):
            where, values = curves.validation("loss", name)
            label = english("validation") if name is None else f"{english('validation')}, {_word(name)}"
            style = "-" if name is None else "--"
            _dotted(axes, curves.at(where, over), values, colour, label, mark, style)
        _frame_losses(axes, curves)
        figure.legend(loc="outside upper right", ncols=4 if size == WIDE else 2)
        _label(axes, over, english("nats per token"))
    return figure


def losses(runs: Mapping[str, Curves], over: Over, size: tuple[float, float] = WIDE) -> "Figure":
    """Of several runs: training as a thin line without its band, validation with dots."""
    with _axes(size) as (figure, axes):
        for (name, curves), colour, mark in zip(runs.items(), cycle(SERIES), cycle("osD^v"), strict=False):
            thinned = thin(curves.at(curves.train["step"], over), curves.train["loss"], BUCKETS)
            axes.plot(thinned.x, thinned.mean, color=COLOURS[colour], alpha=0.5, linewidth=0.9)
            where, values = curves.validation("loss")
            _dotted(axes, curves.at(where, over), values, colour, name, mark)
        _frame_losses(axes, *runs.values())
        figure.legend(loc="outside upper right", ncols=4 if size == WIDE else 2)
        _label(axes, over, english("nats per token"))
    return figure


def series(curves: Curves, name: str, size: tuple[float, float] = (4.2, 2.2)) -> "Figure":
    """A figure of each step: learning_rate, gradient_norm, tokens_per_second, mfu, memory_bytes or data_wait."""
    scale = {"mfu": 100.0, "data_wait": 100.0, "memory_bytes": 1e-9}.get(name, 1.0)
    with _axes(size) as (figure, axes):
        values = curves.train[name] * scale
        _band(axes, thin(curves.train["step"], values, BUCKETS), "blue", None)
        finite = values[np.isfinite(values) & (values > 0)]
        if name == "gradient_norm" and len(finite) and finite.max() > 20 * np.median(finite):
            axes.set_yscale("log")
        elif name != "gradient_norm" or len(finite):
            axes.set_ylim(bottom=0)
        if name == "tokens_per_second":
            axes.yaxis.set_major_formatter("{x:,.0f}")
        _label(axes, "steps", "")
    return figure


def saves(curves: Curves, size: tuple[float, float] = (4.2, 2.2)) -> "Figure":
    """Of each checkpoint the seconds until it was on the disk, and those that training stood for it."""
    with _axes(size) as (figure, axes):
        steps = np.array([record["step"] for record in curves.checkpoints], float)
        for name, colour, mark in (("seconds", "blue", "o"), ("stall", "orange", "s")):
            values = np.array([record.get(name, math.nan) for record in curves.checkpoints], float)
            _dotted(axes, steps, values, colour, english(f"save_{name}"), mark, "")
        axes.set_ylim(bottom=0)
        axes.margins(y=0.25)
        axes.set_xlim(0, max(curves.last_step, *steps) * 1.01)
        figure.legend(loc="outside upper right", ncols=2)
        _label(axes, "steps", "")
    return figure


def timeline(life: Life, size: tuple[float, float] = WIDE) -> "Figure":
    """A row for each attempt: the queue before it, then its seconds by what they went into, in the order of SPANS."""
    rows = life.attempts[-MOST_ROWS:]
    height = 0.7 + len(rows) * (0.24 if len(rows) <= 20 else 0.16)
    with _axes((size[0], height)) as (figure, axes):
        begin = life.attempts[0].queued or life.attempts[0].launched
        unit, name = _time_unit(life.attempts[-1].end - begin)
        for row, attempt in enumerate(rows):
            at = (attempt.launched - begin) / unit
            if attempt.in_queue:
                wide = attempt.in_queue / unit
                axes.barh(row, wide, 0.28, at - wide, color=LINE, edgecolor=MUTED, linewidth=0.5)
            spans = attempt.seconds or {"other": attempt.allocated}
            for span in SPANS:
                if wide := spans.get(span, 0.0) / unit:
                    hatch = "////" if span == "lost" else None
                    axes.barh(
                        row,
                        wide,
                        0.66,
                        at,
                        color=COLOURS[SPAN_COLOURS[span]],
                        hatch=hatch,
                        edgecolor=PAPER,
                        linewidth=0,
                    )
                    at += wide
        axes.set_yticks(range(len(rows)), [_named(attempt) for attempt in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(english(f"{name} since the start"))
        axes.margins(x=0.01)
    return figure


def tasks(measured: Mapping[str, Mapping[str, Any]], size: tuple[float, float] = WIDE) -> "Figure":
    """Scores as bars with their standard error, what guessing gets as a stroke, published models as diamonds."""
    with _axes((size[0], 0.8 + 0.3 * max(2, len(measured)))) as (figure, axes):
        for row, task in enumerate(measured.values()):
            once = row == 0
            axes.barh(
                row,
                task["score"],
                0.62,
                color=COLOURS["blue"],
                alpha=0.85,
                label=english("this model") if once else None,
            )
            if task.get("stderr"):
                axes.errorbar(task["score"], row, xerr=task["stderr"], color=INK, linewidth=1, capsize=2)
            if task.get("guess") is not None:
                guess = [task["guess"]] * 2
                label = english("guessing") if once else None
                axes.plot(guess, [row - 0.4, row + 0.4], color=COLOURS["orange"], linewidth=2, label=label)
            scores = [model["score"] for model in task.get("published", ())]
            axes.plot(scores, [row] * len(scores), "D", color=COLOURS["green"], markersize=4.5, markeredgecolor=PAPER,
                      label=english("published models") if once else None)  # fmt: skip
        axes.set_yticks(range(len(measured)), [visible(name) for name in measured])
        axes.set_ylim(max(2, len(measured)) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside upper right", ncols=3)
    return figure


# --- as files -------------------------------------------------------------------------------------


def png(figure: "Figure") -> bytes:
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="png", dpi=200, facecolor="#ffffff")
    return out.getvalue()


def svg(figure: "Figure", name: str, description: str) -> Markup:
    """For the page: `name` makes its ids its own; `description` is the id of the element that describes it."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue().decode("utf-8")
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<title>.*?</title>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{2,}", _rounded, tag[0]), text)
    for variable, colour in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = text.replace(f"'{FONT}'", "var(--font)")
    text = re.sub(r"(<text [^>]*>)([^<]*)(</text>)", _in_both_languages, text)
    head, tail = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box
    return Markup(
        f'<svg {box[0]} role="img" aria-labelledby="{escape(description)}">' + re.sub(r"\s*\n\s*", "\n", tail)
    )


def _rounded(number: re.Match[str]) -> str:
    """A tenth of a unit of the page is enough for a place, and a third of the bytes."""
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _in_both_languages(found: re.Match[str]) -> str:
    """An SVG text once for each language, if its words are in WORDS."""
    begin, text, end = found.groups()
    keys = [_KEYS[part] for part in text.split(", ") if part in _KEYS]
    if len(keys) != text.count(", ") + 1:
        return found[0]
    marked = []
    for number, code in enumerate(LANGUAGES):
        words = escape(", ".join(WORDS[key][number] for key in keys))
        marked.append(f'{begin[:-1]} class="{code}" lang="{code}">{words}{end}')
    return "".join(marked)


_KEYS = {pair[0]: key for key, pair in WORDS.items()}


# --- parts ----------------------------------------------------------------------------------------


@contextmanager
def _axes(size: tuple[float, float]) -> Iterator[tuple["Figure", "Axes"]]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.add_subplot()


def _band(axes: "Axes", curve: Thinned, colour: str, label: str | None) -> None:
    if curve.steps_a_bucket > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=COLOURS[colour], alpha=0.22, linewidth=0)
    axes.plot(curve.x, curve.mean, color=COLOURS[colour], label=label)


def _dotted(axes: "Axes", x: np.ndarray, y: np.ndarray, colour: str, label: str, mark: str, style: str = "-") -> None:
    """Each point is a dot, unless there are many."""
    if len(x) > MOST_POINTS:
        _band(axes, thin(x, y, BUCKETS), colour, label)
        return
    marker = mark if len(x) <= MOST_DOTS else ""
    axes.plot(
        x,
        y,
        style,
        marker=marker,
        markersize=4,
        color=COLOURS[colour],
        label=label,
        markeredgecolor=PAPER,
        markeredgewidth=0.6,
    )


def _frame_losses(axes: "Axes", *curves: Curves) -> None:
    """The first steps, at the loss of a model that knows nothing, would leave no room for the rest: the axis ends where
    a twentieth of the steps is over, and the band says that it goes on."""
    tops, bottoms = [], []
    for each in curves:
        values = each.train["loss"]
        values = values[np.isfinite(values)]
        measured = each.validation("loss")[1]
        if len(values):
            tops.append(values[len(values) // 20 :].max() if len(values) > BUCKETS else values.max())
            bottoms.append(values.min())
        if np.isfinite(measured).any():
            bottoms.append(np.nanmin(measured))
    if tops:
        room = 0.06 * (max(tops) - min(bottoms) or 1.0)
        axes.set_ylim(min(bottoms) - room, max(tops) + room)


def _label(axes: "Axes", over: Over, y: str) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    axes.set_xlabel(english(f"over_{over}"))
    axes.set_ylabel(y)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=over == "steps"))
    if over == "tokens":
        axes.xaxis.set_major_formatter(EngFormatter(sep="\N{NO-BREAK SPACE}"))
    elif over == "steps":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _word(name: str) -> str:
    """What a file calls something: our word for it, if there is one."""
    return english(name) if name in WORDS else visible(name)


def _time_unit(seconds: float) -> tuple[float, str]:
    for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return unit, name
    return 1.0, "seconds"


def _named(attempt: Any) -> str:
    nodes = f"{attempt.nodes} nodes" if attempt.nodes > 1 else attempt.node
    return f"{attempt.number}  {visible(nodes)[:18]} × {attempt.ranks}"
