"""A chat: whose turn it is, what the model reads of it, and the commands."""

from collections.abc import Iterator
from typing import Any

import pytest
from small_models import CTRL_C, Scripted, talk

from sllm.inference.generator import TextGenerator


def test_chat_continues_a_growing_transcript() -> None:
    generator = Scripted("\n 좋다.\n더 말하지 않는다")
    assert talk(generator, ["날씨가", "그래서"], reply_tokens=30) == " 좋다.\n 좋다.\n\n"
    assert generator.asked == [
        generator.tokenizer.encode("날씨가", bos=True),
        generator.tokenizer.encode("날씨가 좋다.\n그래서", bos=True),
    ]


@pytest.mark.parametrize("reply_tokens", [1, 20, 64, 100_000])
def test_chat_reads_the_line_whatever_the_room(reply_tokens: int) -> None:
    """64 tokens of context. The reply gets shorter before a line does, and old lines go before that."""
    generator = Scripted("b\n")
    lines = ["0" * 20, "1" * 20, "2" * 45, "3" * 62]
    talk(generator, lines, reply_tokens=reply_tokens)
    bos, kept = {ids[0] for ids in generator.asked}, [generator.tokenizer.decode(ids) for ids in generator.asked]
    assert bos == {2}
    assert kept == [lines[0], f"{lines[0]}b\n{lines[1]}", lines[2], lines[3]]
    assert generator.rooms == [min(reply_tokens, 64 - len(ids)) for ids in generator.asked]
    assert generator.rooms[-1] == 1


def test_chat_reads_the_end_of_a_line_that_is_longer_than_the_context() -> None:
    generator, told = Scripted("b\n"), []
    talk(generator, ["가나다" * 30 + "라", "end"], reply_tokens=64, tell=told.append)
    first, second = generator.asked
    assert first[0] == 2
    assert generator.tokenizer.decode(first) == ("가나다" * 30 + "라")[-15:], (
        "whole characters, a quarter for the reply"
    )
    assert generator.rooms == [16, 60]
    assert generator.tokenizer.decode(second) == "end"
    assert [line for line in told if "64 tokens" in line] == told[1:]


def test_two_lines_get_two_answers(generator: TextGenerator) -> None:
    """Where the room for a reply is the whole context, as with the 128 of `smoke`."""
    assert len({talk(generator, [line], reply_tokens=64, seed=1) for line in ("민수", "Anna", "")}) == 3


def test_each_turn_of_a_chat_draws_anew_and_a_seed_repeats_all(generator: TextGenerator) -> None:
    written = talk(generator, ["민수", "/new", "민수"], seed=1)
    first, second, *_ = written.split("\n")
    assert first != second
    assert talk(generator, ["민수", "/new", "민수"], seed=1) == written


def test_chat_commands() -> None:
    generator, told = Scripted("b\n"), []
    lines = ["a", "/new", "c", "/help", "/help me", " /", "/usr/bin", "/quit", "never"]
    assert talk(generator, lines, tell=told.append) == "b\n" * 3
    assert [generator.tokenizer.decode(ids) for ids in generator.asked] == ["a", "c", "cb\n/usr/bin"]
    greeting, _, helped, unknown, alone = told
    assert "/help" in greeting
    assert all(command in helped for command in ("/new", "/help", "/quit", "Ctrl-C"))
    assert unknown.startswith("/help me: no such command")
    assert alone.startswith("/: no such command")


def test_ctrl_c_ends_a_reply_and_not_the_chat() -> None:
    class Interrupted(Scripted):
        def stream_ids(self, *arguments: Any) -> Iterator[str]:
            for i, piece in enumerate(super().stream_ids(*arguments)):
                if i == 2:
                    raise KeyboardInterrupt
                yield piece

    generator, told = Interrupted("안녕하세요\n"), []
    assert talk(generator, ["a", CTRL_C, "b"], tell=told.append) == "안녕\n\n안녕\n\n"
    assert generator.tokenizer.decode(generator.asked[1]) == "a안녕\nb", "what was said stays"
    assert "Ctrl-D" in told[-1]


def test_chat_with_a_real_model_fills_the_context(generator: TextGenerator) -> None:
    text = talk(generator, ["가나다라마바사"] * 4, reply_tokens=40, seed=1)
    assert text.count("\n") >= 4
