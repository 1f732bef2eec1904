"""What a corpus does not hold of its sources, told to a person: how much, why, and how to keep it."""

import sys
from collections import Counter
from typing import Any

from sllm.config import ConversationsConfig, DataConfig
from sllm.data.clean import Dropped
from sllm.progress import format_amount

TOLD_CHARACTERS = 60
"""Of an example, in the line at the end."""

FORM = (Dropped.NO_CONVERSATION, Dropped.ROLES, Dropped.EMPTY_TURN, Dropped.SPECIAL_TOKEN)
"""Why a conversation is none that can be learnt."""

WORTH_TELLING = 0.1
"""A source that loses a larger share of its bytes is told at the end."""


def loss(entry: dict[str, Any]) -> float:
    """The share of a source's bytes, in the normal form, that the corpus does not hold; `entry` is its figures."""
    lost: int = sum(entry["lost"].values())
    return lost / max(lost + entry["bytes"], 1)


def loss_by_reason(entry: dict[str, Any]) -> list[str]:
    """`1.2 MB (7.3%) repeated phrases` for each reason, what took most first."""
    lost = Counter[str](entry["lost"])
    total = max(lost.total() + entry["bytes"], 1)
    return [
        f"{format_amount(size, 'bytes')} ({100 * size / total:.1f}%) {_named(reason)}"
        for reason, size in lost.most_common()
        if size
    ]


def tell_losses(sources: dict[str, Any], data: DataConfig) -> None:
    for name, entry in sources.items():
        if loss(entry) > WORTH_TELLING:
            reason = max(entry["lost"], key=entry["lost"].__getitem__)
            first = entry["examples"][reason][0]
            text = " ".join(first["text"].split())
            text = f"{text[:TOLD_CHARACTERS]}…" if len(text) > TOLD_CHARACTERS else text
            print(
                f"{name}: {100 * loss(entry):.0f}% of its text is left out: {', '.join(loss_by_reason(entry))}. "
                f"{_way_out(reason, entry['language'], data)}. First {_named(reason)}: {first['where']}: {text}",
                file=sys.stderr,
                flush=True,
            )


def _named(reason: str) -> str:
    return reason.replace("_", " ")


def _way_out(reason: str, language: str, data: DataConfig) -> str:
    where = "finetune.data" if isinstance(data, ConversationsConfig) else "data"
    if reason == "duplicate":
        return "Each of these texts stands once in the corpus"
    if reason == "too_short":
        return f"A smaller {where}.min_characters ({data.min_characters:,}) keeps what is too short"
    if reason == "too_long":
        return f"A larger {where}.max_characters ({data.max_characters:,}) keeps what is too long"
    if reason == "language":
        name, least = ("min_hangul", data.clean.min_hangul) if language == "ko" else ("min_latin", data.clean.min_latin)
        return f"A smaller {where}.clean.{name} ({least}) keeps what is of another language"
    if reason == "contaminated":
        return f"{where}.clean.contamination=false keeps it, and scores of these tasks say less"
    if reason in FORM:
        return "No model is taught by these: put them right in the source"
    rule = {"near_duplicate": "near_duplicates", "boilerplate": "clean.boilerplate"}.get(reason, "clean.repetition")
    return f"{where}.{rule}=false keeps {_named(reason)}{'s' if reason == 'near_duplicate' else ''}"
