"""HTML by construction: what is not made here is text, and text cannot become markup.

>>> element("p", "1 < 2", element("br"), class_="note")
'<p class="note">1 &lt; 2<br></p>'
"""

import html
import re
from collections.abc import Iterable
from typing import Union

VOID = {"br", "col", "hr", "img", "input", "link", "meta"}

# What has no picture, or would turn round the text after it: shown as its escape. (A carriage return is white space.)
UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = Union[str, int, float, None, Iterable["Content"]]  # noqa: UP007 - it names itself


def visible(text: str) -> str:
    """Text in which everything can be seen, and written."""
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def escape(text: object) -> Markup:
    """Text as HTML, in any place of a page, attributes included."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(visible(str(text))))


def join(*contents: Content) -> Markup:
    """One after the other; None is nothing."""
    found = []
    for content in contents:
        if isinstance(content, str | int | float):
            found.append(escape(content))
        elif content is not None:
            found.append(join(*content))
    return Markup("".join(found))


def element(name: str, /, *contents: Content, **attributes: str | int | float | bool | None) -> Markup:
    """`class_` is class, `aria_label` is aria-label; an attribute that is None or False is left out, one that is True
    has no value."""
    told = []
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            told.append(f" {key}" if value is True else f' {key}="{escape(value)}"')
    opened = f"<{name}{''.join(told)}>"
    return Markup(opened if name in VOID else f"{opened}{join(*contents)}</{name}>")
