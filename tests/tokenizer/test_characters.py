"""The automaton of whole characters, against Python's decoder."""

import codecs
import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm.tokenizer import Tokenizer
from sllm.tokenizer.characters import BETWEEN, BROKEN, states_after
from sllm.tokenizer.codec import FIRST_BYTE, FORMER_SPECIAL_TOKENS, SPECIAL_TOKENS

BYTES = Tokenizer([]).utf8_states[FIRST_BYTE:]


def after(data: Iterable[int]) -> int:
    state = BETWEEN
    for byte in data:
        state = BYTES[byte][state]
    return state


REST = [bytes(rest) for n in (1, 2, 3) for rest in itertools.product((0x80, 0x90, 0xA0, 0xBF), repeat=n)]


def expected(data: bytes) -> tuple[bool, bool]:
    """Whether some text begins with these bytes, and whether they are whole characters."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(data)
    except UnicodeDecodeError:
        return False, False
    held_back, _ = decoder.getstate()
    # The decoder waits for the third byte of a surrogate, which cannot come.
    completed = not held_back or any(is_text(held_back + rest) for rest in REST)
    return completed and "\ufffd" not in text, not held_back


def is_text(data: bytes) -> bool:
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


def assert_as_python_decodes(data: bytes) -> None:
    begins_a_text, whole = expected(data)
    state = after(data)
    assert (state != BROKEN) == begins_a_text
    assert (state == BETWEEN) == (begins_a_text and whole)


def test_every_two_bytes_and_the_borders_of_more() -> None:
    for pair in itertools.product(range(256), repeat=2):
        assert_as_python_decodes(bytes(pair))
    borders = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBC, 0xBD, 0xBE, 0xBF, 0xC0, 0xFF)
    for first, *rest in itertools.product(range(0xE0, 0xF6), borders, borders):
        assert_as_python_decodes(bytes([first, *rest]))
        if first >= 0xF0:
            for last in borders:
                assert_as_python_decodes(bytes([first, *rest, last]))


def test_characters_of_all_planes() -> None:
    for code in [*range(0, 0xD800, 17), *range(0xE000, 0xFFFD), *range(0xFFFE, 0x110000, 17), 0xD7FF, 0x10FFFF]:
        assert after(chr(code).encode()) == BETWEEN, hex(code)
    assert after("\ufffd".encode()) == BROKEN


@given(data=st.binary(max_size=12) | st.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(data: bytes) -> None:
    assert_as_python_decodes(data)


@given(
    merges=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=12),
    state=st.integers(0, BROKEN),
    n_special=st.sampled_from([4, 16]),
)
def test_a_token_is_the_bytes_it_joins(merges: list[tuple[int, int]], state: int, n_special: int) -> None:
    pairs = [(n_special + a % (256 + i), n_special + b % (256 + i)) for i, (a, b) in enumerate(merges)]
    table = states_after(n_special, 3, pairs)
    content = [bytes([byte]) for byte in range(256)]
    for a, b in pairs:
        content.append(content[a - n_special] + content[b - n_special])
    for token, data in enumerate(content, start=n_special):
        reached = state
        for byte in data:
            reached = BYTES[byte][reached]
        assert table[token][state] == reached


@pytest.mark.parametrize("special_tokens", [SPECIAL_TOKENS, FORMER_SPECIAL_TOKENS])
def test_special_tokens_are_no_text(special_tokens: tuple[str, ...]) -> None:
    states = Tokenizer([], special_tokens=special_tokens).utf8_states
    assert states[len(special_tokens) :] == BYTES
    pad, unk, bos, eos, *others = states[: len(special_tokens)]
    assert {*pad, *unk, *bos, *b"".join(others)} == {BROKEN}
    assert [state for state, reached in enumerate(eos) if reached != BROKEN] == [BETWEEN]
    assert eos[BETWEEN] == BETWEEN
