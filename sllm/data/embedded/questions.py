"""Conversations about the world of the text (words.txt), from a seed: questions of facts that its tables tell;
topics, ways to ask and answers are data (questions.txt).

A tenth of all questions, by the digest of what the user says, is never asked here, whatever the seed: those that
`held_out` gives, to see what a model has learnt rather than heard.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

from sllm.data.embedded.facts import Cast, Draw, Language
from sllm.data.embedded.generator import expand, read_language
from sllm.data.embedded.notation import Parts, Question, Topic, read_topics

Messages = list[dict[str, str]]
"""`{"role": …, "content": …}`: perhaps a system's, then a user's and an assistant's by turns."""

STYLES = {"ko": "polite", "en": "present"}
EXCHANGES = 4
"""Questions of a conversation, at most."""
OTHER = 0.2
"""How often the next question is about something else, though there is more to ask."""
SYSTEM = 0.15
"""How often a system message stands first."""


class World(NamedTuple):
    language: Language
    style: str
    system: list[Parts]
    questions: list[tuple[Topic, Question]]
    """Each question with its topic, as often as it is asked beside others."""


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
    """`count` conversations, each with its answer: all end with another question, which `conversations` never asks.
    Fewer if there are not so many: there are some 240 in a language."""
    world, draw = read_world(language), Draw(seed)
    found: dict[str, tuple[Messages, str]] = {}
    for _ in range(200 * count):
        *messages, answer = _conversation(world, draw)
        question = messages[-1]["content"]
        if is_held_out(question):
            found.setdefault(question, (messages, answer["content"]))
        if len(found) == count:
            break
    return list(found.values())


def is_held_out(question: str) -> bool:
    """Whether what a user says is among the tenth that is not trained on."""
    return hashlib.sha256(question.encode("utf-8")).digest()[0] % 10 == 7


@cache
def read_world(language: Literal["ko", "en"]) -> World:
    """All that conversations in a language are made of."""
    whole, style = read_language(language), STYLES[language]
    topics = read_topics(f"{language}/questions.txt", whole.settle, style)
    (system,) = topics.pop("system").questions
    questions = [(topic, question) for topic in topics.values() for question in topic.questions * topic.times]
    return World(whole, style, system.ways, questions)


def _conversation(world: World, draw: Draw) -> Messages:
    """One conversation, of held-out questions or others: one to EXCHANGES questions, of one topic or more."""
    messages: Messages = []
    unasked: list[Question] = []

    def say(role: str, sentence: Parts) -> None:
        messages.append({"role": role, "content": _sentence(world, sentence, cast, draw)})

    cast = Cast(world.language, draw, world.style)
    if draw.fraction() < SYSTEM:
        say("system", draw.one(world.system))
    for _ in range(draw.integer(1, EXCHANGES)):
        if not unasked or draw.fraction() < OTHER:
            cast = Cast(world.language, draw, world.style)
            topic, first = draw.one(world.questions)
            others = [question for question in topic.questions if question is not first]
            unasked = [*draw.several(others, len(others)), first]
        question = unasked.pop()
        say("user", draw.one(question.ways))
        say("assistant", question.answer)
    return messages


def _sentence(world: World, parts: Parts, cast: Cast, draw: Draw) -> str:
    out: list[str] = []
    expand(parts, cast, world.language.phrases[world.style], draw, out)
    text = world.language.settle("".join(out).strip(), world.style)
    return text[0].upper() + text[1:]
