"""Documents from a seed: a frame is drawn, then its style, then what goes into its holes.

A hole such as `{hero}` is filled from the document's cast (facts.py: who, where, what, how much), while `{when}`, a
phrase, and `(a|b)` are chosen afresh wherever they stand.
"""

from collections.abc import Iterator
from functools import cache
from typing import Literal

from sllm.data.embedded import english, korean
from sllm.data.embedded.facts import ENGLISH_FACTS, KOREAN_FACTS, SHARED_FACTS, Cast, Draw, Language
from sllm.data.embedded.notation import Hole, Parts, read_frames, read_phrases, read_tables


def documents(language: Literal["ko", "en"], megabytes: float, seed: int) -> Iterator[str]:
    """Yield documents of `language` until their UTF-8 length reaches `megabytes` (10^6 bytes) in total.

    The text depends on the arguments alone: not on the machine, the Python version or the hash seed.
    """
    whole, draw = read_language(language), Draw(seed)
    remaining = megabytes * 1e6
    while remaining > 0:
        document = compose(whole, draw)
        remaining -= len(document.encode("utf-8"))
        yield document


@cache
def read_language(language: Literal["ko", "en"]) -> Language:
    """All that documents of a language are made of."""
    facts, number, settle = {
        "ko": (KOREAN_FACTS, korean.native_number, korean.settle),
        "en": (ENGLISH_FACTS, english.english_number, english.settle),
    }[language]
    frames = read_frames(f"{language}/frames.txt", settle)
    styles = list(dict.fromkeys(style for frame in frames for style in frame))
    phrases = {style: read_phrases(f"{language}/phrases.txt", settle, style) for style in styles}
    whole = Language(frames, phrases, read_tables(f"{language}/words.txt"), {}, number, settle)
    # Each function is called once for the names it answers to. It may use what those before it answer to.
    for fact in facts + SHARED_FACTS:
        whole.facts.update(dict.fromkeys(fact(Draw(0), Cast(whole, Draw(0), styles[0])), fact))
    return whole


def compose(language: Language, draw: Draw) -> str:
    """One document."""
    frame = draw.one(language.frames)
    style = draw.one(list(frame))
    cast, phrases = Cast(language, draw, style), language.phrases[style]
    text = ""
    for line in frame[style]:
        if line.optional and draw.fraction() < 0.5:
            continue
        out: list[str] = []
        expand(line.parts, cast, phrases, draw, out)
        sentence = "".join(out).strip()
        if sentence:
            text += (line.separator if text else "") + sentence[0].upper() + sentence[1:]
    return language.settle(text, style)


def expand(parts: Parts, cast: Cast, phrases: dict[str, list[Parts]], draw: Draw, out: list[str]) -> None:
    """Append `parts` to `out`: holes filled from the phrases, else from the cast, alternatives drawn."""
    for part in parts:
        if isinstance(part, list):
            expand(draw.one(part), cast, phrases, draw, out)
        elif not isinstance(part, Hole):
            out.append(part)
        elif part in phrases:
            expand(draw.one(phrases[part]), cast, phrases, draw, out)
        else:
            out.append(cast[part])
