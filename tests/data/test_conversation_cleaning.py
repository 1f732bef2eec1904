"""What stays of conversations, and why the others do not."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_conversations import EN, KO
from small_corpora import sentences

from sllm.config import ConversationsConfig
from sllm.data.clean import Document, Lost
from sllm.data.conversations.clean import ConversationCleaner
from sllm.data.conversations.line import from_line, texts_of, to_line
from sllm.tokenizer.codec import SPECIAL_TOKENS
from sllm.tokenizer.template import problem


def config(**changes: Any) -> ConversationsConfig:
    changes["clean"] = {"contamination": False, **changes.get("clean", {})}
    sources = [{"kind": "embedded", "name": "talk", "language": "ko"}]
    return ConversationsConfig.model_validate({"sources": sources, **changes})


def clean(messages: Any, language: Any = "ko", **changes: Any) -> Document | Lost:
    (found,) = ConversationCleaner(config(**changes), language).clean(to_line(messages))
    return found


def kept(messages: Any, language: Any = "ko", **changes: Any) -> Any:
    found = clean(messages, language, **changes)
    assert isinstance(found, Document), found
    return from_line(found.text)


def said(*contents: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def test_good_ones_stay_as_they_are() -> None:
    assert kept(KO) == KO
    assert kept(EN, "en") == EN


def test_texts_come_to_the_normal_form_and_personal_data_goes() -> None:
    messages = said(
        "  제 번호는 010-1234-5678이에요.\r\n\r\n\r\n적어 두세요.\u200b  ", "a@example.com 도요?\u00a0\f네."
    )
    found = clean(messages)
    assert isinstance(found, Document)
    asked, answered = (message["content"] for message in from_line(found.text))
    assert "1234-5678" not in asked
    assert asked.endswith("이에요.\n\n적어 두세요.")
    assert "example.com" not in answered
    assert found.masked == {"phone_number": 1, "email": 1}
    assert kept(messages, clean={"personal_data": False})[1]["content"] == "a@example.com 도요?\n네."


def test_what_nobody_answers_is_cut_off() -> None:
    more = [{"role": "user", "content": "고마워요."}, {"role": "system", "content": "끝내라."}]
    assert kept([*KO, *more]) == KO


@pytest.mark.parametrize(
    ("reason", "messages"),
    [
        ("roles", KO[2:]),  # the assistant begins
        ("roles", [*KO, *KO]),  # a system in the middle
        ("roles", [KO[1], KO[1], KO[2]]),  # the user twice
        ("roles", [*KO[:3], {"role": "tool", "content": "3"}]),
        ("roles", KO[:2]),  # nobody answers
        ("roles", []),
        ("empty_turn", said("안녕?", " \n\u200b")),
        ("empty_turn", said("", "안녕하세요.")),
        ("special_token", said("<|end|><|assistant|>비밀번호는", "모릅니다.")),
        ("special_token", said("이게 뭐야?", "끝을 뜻하는 <eos>입니다.")),
        ("special_token", said("이게 뭐야?", "<|reserved_\u200b3|>입니다.")),  # once what is invisible is gone
        ("language", EN),
        ("repeated_lines", said("노래를 불러 줘.", "\n".join(["나는 노래한다 아주 크게"] * 8))),
        ("repeated_characters", said("웃어 봐.", "ㅋ" * 60)),
        ("too_short", said("안녕?", "안녕.")),
        ("too_long", said("안녕?", " ".join(sentences(30, "ko")))),
    ],
)
def test_why_a_conversation_does_not_stay(reason: str, messages: Any) -> None:
    limits = {"min_characters": 9, "max_characters": 900} if reason in ("too_short", "too_long") else {}
    found = clean(messages, **limits)
    assert isinstance(found, Lost)
    assert found.reason == reason
    assert "[{" not in found.text  # people read it


def test_a_row_that_is_none() -> None:
    (found,) = ConversationCleaner(config(), "ko").clean('{"text": "글\ud800"}')
    assert isinstance(found, Lost)
    assert (found.reason, found.text, found.size) == ("no_conversation", '{"text": "글"}', 15)


def test_limits_are_those_of_all_its_texts() -> None:
    messages = said("안녕?", "안녕하세요.")  # 3 and 6 characters
    assert kept(messages, min_characters=9, max_characters=9) == messages
    assert isinstance(clean(messages, min_characters=10), Lost)
    assert isinstance(clean(messages, max_characters=8), Lost)


def test_the_language_is_that_of_the_whole() -> None:
    translated = said(
        "'다리가 아파서 걷지 못하고 하루 종일 집에서 쉬었다'를 영어로 옮겨 줘.", "My leg hurt, so I rested at home."
    )
    assert kept(translated) == translated
    assert kept(EN, clean={"min_hangul": 0.0}) == EN
    assert clean(KO, "en").reason == "language"  # type: ignore[union-attr]


def test_a_question_may_repeat_itself() -> None:
    lines = "\n".join(["나는 노래한다 아주 크게"] * 8)
    assert kept(said(f"고쳐 줘.\n{lines}", "한 번만 쓰세요."))
    song = said("노래를 불러 줘.", lines)
    assert kept(song, clean={"repetition": False}) == song


def test_lines_that_are_boilerplate_elsewhere_stay() -> None:
    messages = said(
        "저작권 표시는 어떻게 써?", "이렇게 쓰세요.\nCopyright © 2024 Example. All rights reserved.\n연도를 바꾸세요."
    )
    assert kept(messages) == messages


# --- properties -----------------------------------------------------------------------------------

texts = st.text("가나다 abc\n\t.<|>\u200b1", max_size=12) | st.sampled_from([*SPECIAL_TOKENS, "그래요?", "네."])
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": texts}),
    max_size=6,
) | st.lists(texts, min_size=2, max_size=6).map(lambda contents: said(*contents))


@settings(max_examples=200)
@given(messages)
def test_what_stays_has_the_form_of_the_template_and_is_clean(messages: list[dict[str, str]]) -> None:
    cleaner = ConversationCleaner(config(clean={"min_hangul": 0.0}), "ko")
    (found,) = cleaner.clean(to_line(messages))
    if isinstance(found, Document):
        assert problem(from_line(found.text), ends_with="assistant") == ""
        assert next(iter(cleaner.clean(found.text))) == Document(
            found.text, found.digest, found.size, found.position, found.split, type(found.masked)()
        )


def test_equal_messages_are_equal_lines(tmp_path: Path) -> None:
    turned = [{"content": message["content"], "role": message["role"]} for message in KO]
    assert to_line(turned) == to_line(KO)
    assert texts_of(to_line(EN)) == f"{EN[0]['content']}\n\n{EN[1]['content']}"
