"""Conversations about the world of the text (words.txt), from a seed: questions of facts that its tables tell, and of
short passages; topics, ways to ask and answers are data (questions.txt).

A tenth of all questions, by the digest of what the user says, is never asked here, whatever the seed: those that
`held_out` gives, to see what a model has learnt rather than heard.
"""

import hashlib
from collections.abc import Iterator
from functools import cache, partial
from typing import Literal, NamedTuple

from sllm.data.embedded.facts import Cast, Draw, Facts, Language
from sllm.data.embedded.generator import expand, read_language
from sllm.data.embedded.notation import Parts, Topic, read_topics

Messages = list[dict[str, str]]
"""`{"role": …, "content": …}`: perhaps a system's, then a user's and an assistant's by turns."""

STYLES = {"ko": "polite", "en": "present"}
EXCHANGES = 0.6
"""How often another question follows."""
SYSTEM = 0.15
"""How often a system message stands first."""


class World(NamedTuple):
    language: Language
    style: str
    system: list[Parts]
    questions: list[tuple[Topic, int]]
    """Each question: its topic, and its number there."""


def conversations(language: Literal["ko", "en"], megabytes: float, seed: int) -> Iterator[Messages]:
    """Yield conversations in `language` until the UTF-8 length of what is said reaches `megabytes` (10^6 bytes).

    They depend on the arguments alone. None has a question that is held out.
    """
    world, draw = read_world(language), Draw(seed)
    remaining = megabytes * 1e6
    while remaining > 0:
        messages = _conversation(world, draw)
        if any(is_held_out(message["content"]) for message in messages if message["role"] == "user"):
            continue
        remaining -= sum(len(message["content"].encode("utf-8")) for message in messages)
        yield messages


def held_out(language: Literal["ko", "en"], seed: int, count: int) -> list[tuple[Messages, str]]:
    """`count` conversations that end with a question which `conversations` asks with no seed, each with its answer."""
    world, draw = read_world(language), Draw(seed)
    found: list[tuple[Messages, str]] = []
    while len(found) < count:
        *messages, answer = _conversation(world, draw)
        if is_held_out(messages[-1]["content"]):
            found.append((messages, answer["content"]))
    return found


def is_held_out(question: str) -> bool:
    """Whether what a user says, passage and question, is among the tenth that is not trained on."""
    return hashlib.sha256(question.encode("utf-8")).digest()[0] % 10 == 7


@cache
def read_world(language: Literal["ko", "en"]) -> World:
    """All that conversations in a language are made of."""
    whole, style = read_language(language), STYLES[language]
    others = {f"{key}2": partial(_another, key) for key in ("place", "thing")}
    topics = read_topics(f"{language}/questions.txt", whole.settle, style)
    ((system, _),) = topics.pop("system").questions
    questions = [(topic, number) for topic in topics.values() for number in range(len(topic.questions))]
    return World(whole._replace(facts=whole.facts | others), style, system, questions)


def _another(key: str, draw: Draw, cast: Cast) -> Facts:
    """Another word of a table than the cast's."""
    return {f"{key}2": draw.one([row[key] for row in cast.language.tables[key] if row[key] != cast[key]])}


def _conversation(world: World, draw: Draw) -> Messages:
    """One conversation, of held-out questions or others: one or two questions, of one topic or two."""
    messages: Messages = []
    cast = Cast(world.language, draw, world.style)

    def say(role: str, *sentences: Parts) -> None:
        texts = [_sentence(world, parts, cast, draw) for parts in sentences]
        messages.append({"role": role, "content": " ".join(texts)})

    if draw.fraction() < SYSTEM:
        say("system", draw.one(world.system))
    topic, number = draw.one(world.questions)
    asked, answer = topic.questions[number]
    say("user", *draw.several(topic.passage, len(topic.passage)), draw.one(asked))
    say("assistant", answer)
    if draw.fraction() < EXCHANGES:
        others = [(topic, other) for other in range(len(topic.questions)) if other != number]
        follows = bool(others) and draw.fraction() < 0.5
        topic, number = draw.one(others if follows else world.questions)
        asked, answer = topic.questions[number]
        passage = [] if follows else draw.several(topic.passage, len(topic.passage))
        if not follows:
            cast = Cast(world.language, draw, world.style)
        say("user", *passage, draw.one(asked))
        say("assistant", answer)
    return messages


def _sentence(world: World, parts: Parts, cast: Cast, draw: Draw) -> str:
    out: list[str] = []
    expand(parts, cast, world.language.phrases[world.style], draw, out)
    text = world.language.settle("".join(out).strip(), world.style)
    return text[0].upper() + text[1:]
