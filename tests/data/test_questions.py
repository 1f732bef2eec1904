"""Conversations of the generator: they depend on their seed alone, keep some questions back, are true and agree."""

import re
from itertools import islice
from typing import Literal
from unicodedata import is_normalized, normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllm.data.embedded.generator import read_language
from sllm.data.embedded.questions import Messages, conversations, held_out, is_held_out
from sllm.tokenizer.template import ASSISTANT, SYSTEM, USER, problem

Language = Literal["ko", "en"]
LANGUAGES: list[Language] = ["ko", "en"]


@pytest.fixture(scope="module", params=LANGUAGES)
def spoken(request: pytest.FixtureRequest) -> tuple[Language, list[Messages]]:
    return request.param, list(conversations(request.param, 1.0, seed=1))


def said(messages: Messages, *roles: str) -> list[str]:
    return [message["content"] for message in messages if message["role"] in roles]


def exchanges(conversation: Messages) -> list[tuple[str, str]]:
    return list(zip(said(conversation, USER), said(conversation, ASSISTANT), strict=True))


@pytest.mark.parametrize("language", LANGUAGES)
def test_conversations_depend_on_the_seed_alone(language: Language) -> None:
    short, long = list(conversations(language, 0.02, seed=3)), list(conversations(language, 0.04, seed=3))
    assert long[: len(short)] == short
    assert len(long) > len(short)
    assert list(conversations(language, 0.02, seed=4)) != short
    assert held_out(language, 3, 20) == held_out(language, 3, 30)[:20] != held_out(language, 4, 20)
    assert len({messages[-1]["content"] for messages, _ in held_out(language, 3, 100)}) == 100


def test_they_are_as_long_as_asked_for(spoken: tuple[Language, list[Messages]]) -> None:
    sizes = [len("".join(said(messages, SYSTEM, USER, ASSISTANT)).encode("utf-8")) for messages in spoken[1]]
    assert sum(sizes) >= 1e6 > sum(sizes) - sizes[-1]


def test_they_fit_the_template_and_are_clean(spoken: tuple[Language, list[Messages]]) -> None:
    for messages in spoken[1]:
        assert problem(messages, ends_with=ASSISTANT) == ""
        for text in said(messages, SYSTEM, USER, ASSISTANT):
            assert is_normalized("NFC", text)
            assert not re.search(r"[{}()|+~<>=\n]|  | [.,!?]|\.\.|\?\?", text), text
            assert text == text.strip()
            assert text[-1] in ".!?"
            assert not text[0].islower()


def test_some_begin_with_a_system_message_and_some_ask_again(spoken: tuple[Language, list[Messages]]) -> None:
    shapes = [(bool(said(messages, SYSTEM)), len(said(messages, USER))) for messages in spoken[1]]
    assert {count for _, count in shapes} >= {1, 2}
    assert 0.05 < sum(system for system, _ in shapes) / len(shapes) < 0.3


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(LANGUAGES), st.integers(0, 2**64 - 1))
def test_what_is_held_out_is_asked_with_no_seed(language: Language, seed: int) -> None:
    for messages in islice(conversations(language, 0.02, seed), 100):
        assert not any(is_held_out(question) for question in said(messages, USER))
    for messages, answer in held_out(language, seed, 10):
        assert is_held_out(messages[-1]["content"])
        assert problem(messages, ends_with=USER) == ""
        assert answer


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_held_out_question_is_none_of_those_asked(language: Language) -> None:
    asked = {
        text for seed in range(3) for messages in conversations(language, 1.0, seed) for text in said(messages, USER)
    }
    assert not asked & {messages[-1]["content"] for messages, _ in held_out(language, 0, 300)}


def test_whoever_says_hello_is_answered() -> None:
    """They are few, and none of the usual ones may be held out."""
    usual = ["안녕하세요?", "안녕!", "누구세요?", "너는 누구야?", "고마워요.", "감사합니다."]
    usual += ["Hello!", "Hi!", "Who are you?", "What is your name?", "Thank you!", "Thanks!"]
    assert [text for text in usual if is_held_out(text)] == []
    asked = {text for code in LANGUAGES for messages in conversations(code, 1.0, 1) for text in said(messages, USER)}
    assert set(usual) <= asked


def test_every_question_has_one_answer(spoken: tuple[Language, list[Messages]]) -> None:
    answers: dict[str, set[str]] = {}
    for messages in spoken[1]:
        question, answer = exchanges(messages)[0]
        answers.setdefault(question, set()).add(answer)
    assert {question: found for question, found in answers.items() if len(found) > 1} == {}
    assert len(answers) > 1000


# What an answer tells of the word that the question is about: the table's column of both, and the question's words.
TOLD = {
    "ko": [
        ("animal", "home", r"이 동물은 (.+)에서 살아요"),
        ("animal", "prey", r"이 동물은 (.+)[을를] 먹어요"),
        ("animal", "kind", r"이 동물은 (\w+류|곤충)(?:이에요|예요)"),
        ("job", "workplace", r"이 사람은 (.+)에서 일해요"),
        ("job", "tool", r"이 사람에게는 (.+)[이가] 필요해요"),
        ("item", "shop", r"이것은 (.+)에서 팔아요"),
        ("pet", "eats", r"이 동물은 (.+)[을를] 좋아해요"),
        ("place", "seen", r"그곳에 가면 (.+)[을를] 볼 수 있어요"),
    ],
    "en": [
        ("animal", "home", r"It is found in places like (.+)"),
        ("animal", "prey", r"It eats (.+)"),
        ("animal", "kind", r"It is an? (mammal|bird|reptile|amphibian|fish|insect)"),
        ("item", "shop", r"You can buy it at the (.+)"),
        ("pet", "eats", r"It likes (.+)"),
        ("place", "seen", r"You can see (.+) there"),
    ],
}


def test_facts_are_those_of_the_tables(spoken: tuple[Language, list[Messages]]) -> None:
    language, talks = spoken
    tables = read_language(language).tables
    for subject, told, pattern in TOLD[language]:
        rows = {row[subject]: row[told] for row in tables[subject]}
        longest = sorted(rows, key=len, reverse=True)
        word = rf"(?<![가-힣0-9])({'|'.join(longest)})" if language == "ko" else rf"\b({'|'.join(longest)})(?:s|es)?\b"
        checked = set()
        for question, answer in (pair for messages in talks for pair in exchanges(messages)):
            about = set(re.findall(word, question))
            found = re.fullmatch(pattern + r"\.", answer)
            if found and len(about) == 1:
                assert rows[about.pop()] == found[1], (question, answer)
                checked.add(question)
        assert len(checked) > 10, (subject, told)


def test_particles_agree(spoken: tuple[Language, list[Messages]]) -> None:
    if spoken[0] != "ko":
        return
    tables = read_language("ko").tables
    keys = {"name", "item", "thing", "drink", "pet", "petname", "place", "animal", "job", "town", "meal", "soup"}
    nouns = sorted({row[key] for key in keys for row in tables[key]}, key=len, reverse=True)
    forms = {"은": "는", "이": "가", "을": "를", "이에요": "예요"}
    pattern = rf"(?<![가-힣])({'|'.join(nouns)})({'|'.join([*forms, *forms.values()])})(?![가-힣])"
    text = "\n".join(text for messages in spoken[1] for text in said(messages, USER, ASSISTANT))
    found = set()
    for noun, form in re.findall(pattern, text):
        assert form in (forms if normalize("NFD", noun[-1])[2:] else forms.values()), noun + form
        found.add(form)
    assert found == {*forms, *forms.values()}
