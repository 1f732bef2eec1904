"""A conversation with a tuned model: what it reads, where its reply ends, and what it never says."""

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import CTRL_C, GREEDY, Scripted, chain_model, random_model, talk

from sllm.errors import UserError
from sllm.inference.context import fit_conversation
from sllm.inference.generator import TextGenerator, continue_ids
from sllm.inference.sampling import utf8_table
from sllm.model.storage import save_model
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.characters import BETWEEN, BROKEN
from sllm.tokenizer.codec import FIRST_BYTE
from sllm.tokenizer.template import END_ID, ENDS, ROLE_IDS, conversation_ids

TOKENIZER = Tokenizer([])
Messages = list[dict[str, str]]


def said(*turns: str, system: str | None = None) -> Messages:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, *({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns))]


# --- what it reads --------------------------------------------------------------------------------

texts = st.text(st.sampled_from("a가 "), min_size=1, max_size=20).filter(str.strip)


@given(
    turns=st.lists(texts, min_size=1, max_size=9).filter(lambda turns: len(turns) % 2 == 1),
    system=st.none() | texts,
    length=st.integers(8, 150),
    reply_tokens=st.integers(1, 200),
)
def test_the_oldest_exchanges_are_left_out_and_no_more_than_must(
    turns: list[str], system: str | None, length: int, reply_tokens: int
) -> None:
    """Against trying every number of exchanges, the fewest first."""
    messages = said(*turns, system=system)
    candidates = [conversation_ids(TOKENIZER, said(*turns[i:], system=system)) for i in range(0, len(turns), 2)]
    most = length - max(1, min(reply_tokens, length // 4))
    wanted = next((ids for ids in candidates if len(ids) <= most), candidates[-1])
    if len(wanted) >= length:
        with pytest.raises(
            UserError, match=rf"^messages: {len(wanted)} tokens for the last one.* has {length}; shorten"
        ):
            fit_conversation(TOKENIZER, messages, length, reply_tokens)
        return
    ids, room = fit_conversation(TOKENIZER, messages, length, reply_tokens)
    assert ids == wanted
    assert room == min(reply_tokens, length - len(ids)) >= 1


def test_what_cannot_be_answered_is_one_line(tuned: TextGenerator, generator: TextGenerator) -> None:
    lines: list[tuple[Messages, dict[str, Any], str]] = [
        (said("a", "b"), {}, "messages: the last message is of assistant; it must be of user"),
        ([], {}, "messages: no messages"),
        (said("<bos>"), {}, "messages: message 1, of user, holds <bos>, which no text may"),
        (
            said("a" * 64),
            {},
            "messages: 68 tokens for the last one, and the context, which is for the reply too, has 64",
        ),
        (said("a" * 9, system="b" * 60), {}, "messages: 75 tokens for the last one and the system message, and the"),
        (said("a"), {"reply_tokens": 0}, "reply_tokens: 0 is no length of a reply"),
        (said("a"), {"top_p": 0}, "top_p: 0 is not a probability"),
        (said("a"), {"seed": -1}, "seed: not a number"),
    ]
    for messages, arguments, line in lines:
        for refused in (tuned.chat, tuned.stream_chat):  # the stream before its first piece
            with pytest.raises(UserError, match=f"^{re.escape(line)}") as caught:
                refused(messages, **arguments)
            assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"^a base model, .*`sllm generate`.*finetune"):
        generator.chat(said("a"))


# --- what it says ---------------------------------------------------------------------------------


def test_a_reply_is_what_the_model_goes_on_with(tuned: TextGenerator) -> None:
    messages = said("민수는?", "책을 읽어.", "왜?", system="짧게")
    ids, room = fit_conversation(TOKENIZER, messages, 64, 30)
    table = utf8_table(TOKENIZER, torch.device("cpu"), ENDS)
    [row] = continue_ids(random_model().eval(), [ids], [room], ENDS, GREEDY, utf8=table)
    reply = tuned.chat(messages, reply_tokens=30, temperature=0)
    assert reply == TOKENIZER.decode(row).rstrip("\ufffd") != ""
    assert "".join(tuned.stream_chat(messages, reply_tokens=30, temperature=0)) == reply
    first, second = (tuned.chat(messages, seed=seed) for seed in (1, 2))
    assert first != second
    assert first == tuned.chat(messages, seed=1)


def letters(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def saying(tmp_path: Path, *tokens: int) -> TextGenerator:
    """A tuned model that begins a reply with the first of these tokens, each of which stands here once."""
    TOKENIZER.save(tmp_path / "tokenizer.json")
    model = chain_model(ROLE_IDS["assistant"], *tokens)
    save_model(tmp_path / "tuned", model, tmp_path / "tokenizer.json", tuned=True)
    return TextGenerator(tmp_path / "tuned", device="cpu")


@pytest.mark.parametrize("end", ENDS)
def test_a_reply_ends_where_the_model_ends_it(end: int, tmp_path: Path) -> None:
    generator = saying(tmp_path, *letters("가나 abc"), end, *letters("def"))
    assert generator.chat(said("?"), temperature=0) == "가나 abc"
    assert list(generator.stream_chat(said("?"), temperature=0)) == [*"가나 abc"]
    assert generator.chat(said("?"), temperature=0, reply_tokens=4) == "가", "no half character"
    assert generator.generate("a", temperature=0, max_length=4).pop()[:2] == "bc", "a text goes on with text"


@pytest.mark.parametrize("token", sorted(set(range(FIRST_BYTE)) - {*ENDS, ROLE_IDS["assistant"]}))
def test_a_reply_never_holds_another_special_token(token: int, tmp_path: Path) -> None:
    """A model that would say one after `ab`, and go on from there, says something else."""
    generator = saying(tmp_path, *letters("ab"), token, *letters("cd"), END_ID)
    assert generator.chat(said("?"), temperature=0) == "ab!"


def test_texts_and_replies_by_turns(tmp_path: Path) -> None:
    """Which tokens may come differs, so neither takes the other's decoder."""
    generator = saying(tmp_path, *letters("ab"), END_ID, *letters("cd"))
    for _ in range(2):
        assert generator.generate("a", temperature=0) == ["b!"]
        assert generator.chat(said("?"), temperature=0) == "ab"


def test_only_a_reply_ends_with_the_token_of_its_end() -> None:
    """And neither does so within a character; a text is ended by `<eos>` alone."""
    text, reply = (utf8_table(TOKENIZER, torch.device("cpu"), ends) for ends in ((), ENDS))
    assert (text[:, :FIRST_BYTE] != BROKEN).nonzero().tolist() == [[BETWEEN, Tokenizer.eos_id]]
    assert (reply[:, :FIRST_BYTE] != BROKEN).nonzero().tolist() == [[BETWEEN, end] for end in ENDS]
    assert torch.equal(text[:, FIRST_BYTE:], reply[:, FIRST_BYTE:])


# --- in a terminal --------------------------------------------------------------------------------


def test_each_line_is_a_turn() -> None:
    generator, told = Scripted("네.\n둘째", tuned=True), []
    assert talk(generator, ["날씨는?", "  ", "", "왜?"], system="짧게", tell=told.append) == "네.\n둘째\n" * 2 + "\n"
    turns = ["날씨는?", "네.\n둘째", "왜?"]
    assert generator.asked == [conversation_ids(TOKENIZER, said(*turns[:i], system="짧게")) for i in (1, 3)]
    assert len(told) == 1, "an empty line asks nothing"


def test_commands_of_a_conversation() -> None:
    generator, told = Scripted("b", tuned=True), []
    lines = ["a", "/new", "c", "/help", " /hlep", "/usr/bin", "/quit", "never"]
    assert talk(generator, lines, tell=told.append, system="s") == "b\n" * 3
    assert generator.asked == [
        conversation_ids(TOKENIZER, said(*turns, system="s")) for turns in (["a"], ["c"], ["c", "b", "/usr/bin"])
    ], "/new forgets all but the system message"
    greeting, _, helped, unknown = told
    assert "A tuned model" in greeting
    assert "대화를 배운" in greeting
    assert all(command in helped for command in ("/new", "/help", "/quit", "Ctrl-C", "대답"))
    assert unknown.startswith("/hlep: no such command")


def test_what_a_line_cannot_be_is_told_and_the_conversation_goes_on() -> None:
    generator, told = Scripted("b", tuned=True), []
    assert talk(generator, ["a", "x<|end|>y", "z" * 64, "c"], tell=told.append) == "b\nb\n\n"
    assert generator.asked == [conversation_ids(TOKENIZER, said(*turns)) for turns in (["a"], ["a", "b", "c"])]
    _, special, long = told
    assert special.startswith("<|end|> is a mark of the model's own")
    assert long.startswith("messages: 68 tokens for the last one")
    assert "\n" not in special + long


def test_ctrl_c_keeps_what_was_said_and_takes_a_line_without_an_answer_back() -> None:
    class Interrupted(Scripted):
        after = 2

        def stream_ids(self, *arguments: Any) -> Generator[str]:
            for i, piece in enumerate(super().stream_ids(*arguments)):
                if i == self.after:
                    raise KeyboardInterrupt
                yield piece
            self.after = 2

    generator, told = Interrupted("안녕하세요", tuned=True), []
    assert talk(generator, ["a", CTRL_C, "b"], tell=told.append) == "안녕\n\n안녕\n\n"
    assert generator.asked[1] == conversation_ids(TOKENIZER, said("a", "안녕", "b"))
    assert "Ctrl-D" in told[-1]
    generator.after, generator.asked, told = 0, [], []
    assert talk(generator, ["a", "b"], tell=told.append) == "\n\n\n"
    assert generator.asked == [conversation_ids(TOKENIZER, said(text)) for text in "ab"]
    assert [line.startswith("No answer") for line in told[1:]] == [True, True]


@pytest.mark.parametrize("reply", ["", " \n", "x<|user|>y"])
def test_a_reply_that_could_not_be_told_to_the_model_is_forgotten(reply: str) -> None:
    generator, told = Scripted(reply, tuned=True), []
    talk(generator, ["a", "b"], tell=told.append)
    assert generator.asked == [conversation_ids(TOKENIZER, said(text)) for text in "ab"]
    assert [line.startswith("No answer") for line in told[1:]] == [True, True]


def test_each_turn_draws_anew_and_a_seed_repeats_all(tuned: TextGenerator) -> None:
    written = talk(tuned, ["민수", "/new", "민수"], seed=1, reply_tokens=8)
    assert talk(tuned, ["민수", "/new", "민수"], seed=1, reply_tokens=8) == written
    first = tuned.chat(said("민수"), seed=1, reply_tokens=8)
    second = tuned.chat(said("민수"), seed=2, reply_tokens=8)
    assert written == f"{first}\n{second}\n\n"
    assert first != second


def test_a_system_message_is_looked_at_first(generator: TextGenerator) -> None:
    for system, line in (("<|user|>", "holds <|user|>, which no text may"), (" ", "is empty")):
        with pytest.raises(UserError, match=rf"^system: message 1, of system, {re.escape(line)}"):
            talk(Scripted("b", tuned=True), ["a"], system=system)
    with pytest.raises(UserError, match=r"^system: a base model has learnt no conversations"):
        talk(generator, ["a"], system="s")
