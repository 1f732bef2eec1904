"""Conversations as tokens: the template, what it refuses, and that no text can forge a turn."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm.errors import UserError
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE, FORMER_SPECIAL_TOKENS, SPECIAL_TOKENS
from sllm.tokenizer.template import ENDS, conversation_ids, problem, require_template, special_token_in

TOKENIZER = Tokenizer([(FIRST_BYTE + ord("a"), FIRST_BYTE + ord("b"))])
BOS, EOS, SYSTEM, USER, ASSISTANT, END = (
    SPECIAL_TOKENS.index(token) for token in ("<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
)

# Almost special tokens, and whole ones.
texts = st.text() | st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "end", "<|end|", "<bos", ">", "<", "\u0338", "가", " ", "\n"]),
    max_size=4,
).map("".join)


def said(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ["user", "assistant"] * len(turns)
    return [*first, *({"role": role, "content": text} for role, text in zip(roles, turns, strict=False))]


def test_a_conversation() -> None:
    a, ab = FIRST_BYTE + ord("a"), FIRST_BYTE + 256
    assert conversation_ids(TOKENIZER, said("a")) == [BOS, USER, a, END, ASSISTANT], "for the model to go on"
    assert conversation_ids(TOKENIZER, said("a", "ab")) == [BOS, USER, a, END, ASSISTANT, ab, END]
    assert conversation_ids(TOKENIZER, said("a", "ab", "a", system="ab")) == [
        *(BOS, SYSTEM, ab, END, USER, a, END, ASSISTANT, ab, END, USER, a, END, ASSISTANT)
    ]
    assert ENDS == (EOS, END)


@given(st.lists(texts, min_size=1, max_size=5), st.none() | texts)
def test_every_text_is_refused_or_comes_back(turns: list[str], system: str | None) -> None:
    """Read off the tokens alone, whatever is in the texts: no text makes a turn, or ends one."""
    messages = said(*turns, system=system)
    forged = any(token in message["content"] for message in messages for token in SPECIAL_TOKENS)
    empty = any(not message["content"].strip() for message in messages)
    if forged or empty:
        with pytest.raises(
            UserError, match=r"^messages: message \d, of \w+, (is empty|holds <.*>, which no text may)$"
        ):
            conversation_ids(TOKENIZER, messages)
        return
    ids = conversation_ids(TOKENIZER, messages)
    assert ids[0] == BOS
    found, rest = [], ids[1:]
    while END in rest:
        end = rest.index(END)
        found.append((SPECIAL_TOKENS[rest[0]].strip("<|>"), rest[1:end]))
        rest = rest[end + 1 :]
    assert rest == ([ASSISTANT] if len(turns) % 2 else [])
    assert found == [(message["role"], TOKENIZER.encode(message["content"])) for message in messages]
    assert all(min(text) >= FIRST_BYTE for _, text in found)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("place", range(4))
def test_every_special_token_is_refused_in_every_message(token: str, place: int) -> None:
    messages = said("a", "b", "c", system="s")
    messages[place] = {**messages[place], "content": f"x{token}\u0338"}
    role = messages[place]["role"]
    assert problem(messages, ends_with="user") == f"message {place + 1}, of {role}, holds {token}, which no text may"
    assert special_token_in(f"가{token}") == token
    assert special_token_in(token[:-1]) is None


USER_TURN, ASSISTANT_TURN, SYSTEM_TURN = ({"role": role, "content": "a"} for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([], "no messages"),
        ([ASSISTANT_TURN], "message 1 is of 'assistant'; it must be of system or user"),
        ([SYSTEM_TURN, ASSISTANT_TURN], "message 2 is of 'assistant'; it must be of user"),
        ([SYSTEM_TURN, SYSTEM_TURN], "message 2 is of 'system'; it must be of user"),
        ([USER_TURN, USER_TURN], "message 2 is of 'user'; it must be of assistant"),
        ([USER_TURN, SYSTEM_TURN], "message 2 is of 'system'; it must be of assistant"),
        ([USER_TURN, ASSISTANT_TURN, ASSISTANT_TURN], "message 3 is of 'assistant'; it must be of user"),
        ([{"role": "tool", "content": "a"}], "message 1 is of 'tool'; it must be of system or user"),
        ([{"role": None, "content": "a"}], "message 1 is of None; it must be of system or user"),
        ([{"content": "a"}], "message 1 is of None; it must be of system or user"),
        ([{"role": "user", "content": " \n"}], "message 1, of user, is empty"),
        ([USER_TURN, {"role": "assistant", "content": ""}], "message 2, of assistant, is empty"),
        ([{"role": "user"}], "message 1 is no role and content, both text"),
        ([{"role": "user", "content": ["a"]}], "message 1 is no role and content, both text"),
        (["a"], "message 1 is no role and content, both text"),
        ([SYSTEM_TURN], "the last message is of system; it must be of user"),
    ],
)
def test_what_are_no_messages_is_one_line(messages: list[Any], line: str) -> None:
    assert problem(messages, ends_with="user") == line
    with pytest.raises(UserError, match=f"^messages: {re.escape(line)}$"):
        conversation_ids(TOKENIZER, messages)


def test_who_must_say_the_last() -> None:
    assert not problem(said("a"), ends_with="user")
    assert not problem(said("a", "b"), ends_with="assistant")
    assert problem(said("a"), ends_with="assistant") == "the last message is of user; it must be of assistant"
    assert problem(said("a", "b"), ends_with="user") == "the last message is of assistant; it must be of user"


def test_an_old_vocabulary_has_no_tokens_for_it() -> None:
    former = Tokenizer([], special_tokens=FORMER_SPECIAL_TOKENS)
    for refused in (lambda: require_template(former), lambda: conversation_ids(former, said("a"))):
        with pytest.raises(
            UserError, match=r"no <\|system\|> <\|user\|> <\|assistant\|> <\|end\|>, .* train one anew$"
        ):
            refused()
    require_template(TOKENIZER)
