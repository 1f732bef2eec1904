"""What the sections of a page are made of: tables, pictures, cards, notes; and how numbers read."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllm.files import atomic_file
from sllm.report.figures import NARROW, WIDE, png, svg
from sllm.report.markup import Content, Markup, element, join
from sllm.report.words import both

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NONE = "–"


class Pictures:
    """Draws, and writes each picture as a PNG beside the page."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.written: set[Path] = set()

    def wide(self, name: str, caption: Content, draw: Callable[[tuple[float, float]], "Figure"]) -> Markup:
        """Over the whole width, with another drawing for narrow screens."""
        described = f"{name}-caption"
        figure = draw(WIDE)
        self._write(name, figure)
        drawn = [
            element("div", svg(figure, name, described), class_="wide"),
            element("div", svg(draw(NARROW), f"{name}-narrow", described), class_="narrow"),
        ]
        return _figure(drawn, described, caption)

    def small(self, name: str, title: Content, caption: Content, figure: "Figure") -> Markup:
        """One of several beside each other, under a title."""
        described = f"{name}-caption"
        self._write(name, figure)
        text = join(element("strong", title), " ", element("span", caption, class_="muted"))
        return _figure([svg(figure, name, described)], described, text, above=True)

    def _write(self, name: str, figure: "Figure") -> None:
        path = self.directory / f"{name}.png"
        with atomic_file(path) as file:
            file.write(png(figure))
        self.written.add(path)


def _figure(drawn: Sequence[Markup], described: str, caption: Content, *, above: bool = False) -> Markup:
    text = element("figcaption", caption, id=described)
    return element("figure", *([text, *drawn] if above else [*drawn, text]))


def table(name: str, caption: Content, headings: Sequence[Content], rows: Iterable[Sequence[Content]]) -> Markup:
    """The first column names the row; a column is set to the right if its cells are `number`s."""
    rows = list(rows)
    right = [i > 0 and bool(rows) and all(isinstance(row[i], Number) for row in rows) for i in range(len(headings))]
    head = [
        element("th", heading, scope="col", class_="right" if right[i] else None) for i, heading in enumerate(headings)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_="right" if right[i] else None) for i, cell in enumerate(row[1:], 1)),
        )
        for row in rows
    ]
    content = element("table", element("thead", element("tr", *head)), element("tbody", *body), aria_labelledby=name)
    return join(
        element("p", caption, id=name, class_="caption"),
        element("div", content, class_="scroll", tabindex=0, role="region", aria_labelledby=name),
    )


def long(text: Content) -> Markup:
    """A cell of text, which may be broken into lines."""
    return element("div", element("bdi", text), class_="long")


def card(label: Content, value: Content, remark: Content = None) -> Markup:
    return element("div", element("dt", label), element("dd", element("b", value), element("small", remark)))


def details(summary: Content, *contents: Content) -> Markup:
    return element("details", element("summary", summary), *contents)


def note(key: str, **values: Any) -> Markup:
    return element("p", both(key, **values), class_="note")


def code(text: str) -> Markup:
    return element("pre", element("code", text), tabindex=0)


# --- numbers --------------------------------------------------------------------------------------


class Number(str):
    """A cell of a column of numbers."""

    __slots__ = ()


def number(value: float | None, style: str = ",.0f") -> Number:
    return Number(NONE if value is None else format(value, style))


def percent(value: float | None, style: str = ".1%") -> Number:
    return number(value, style)


def score(task: dict[str, Any] | None) -> Number:
    """Of a task, with its standard error."""
    if task is None:
        return Number(NONE)
    return Number(f"{task['score']:.4f}" + ("" if task.get("stderr") is None else f" ± {task['stderr']:.4f}"))


def compact(value: float | None) -> Number:
    """1,234,567 → `1.23 M`."""
    if value is None:
        return Number(NONE)
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return Number(f"{value / size:.3g}\N{NO-BREAK SPACE}{unit}")
    return Number(f"{value:,.3g}")


def size(value: float | None) -> Number:
    if value is None:
        return Number(NONE)
    for bound, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= bound:
            return Number(f"{value / bound:.3g}\N{NO-BREAK SPACE}{unit}")
    return Number(f"{value:.0f}\N{NO-BREAK SPACE}B")


def duration(seconds: float | None) -> Number:
    """`2 d 3 h`, `1 h 5 min`, `3 min 20 s`, `0.4 s`."""
    if seconds is None:
        return Number(NONE)
    if seconds < 10:
        return Number(f"{seconds:.1f} s" if seconds else "0 s")
    whole = round(seconds)
    parts: list[str] = []
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, length)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return Number(" ".join(part for part in parts[:2] if part))


def moment(unix: float | None) -> str:
    try:
        return NONE if unix is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix))
    except (OverflowError, ValueError, OSError):  # no time at all
        return NONE
