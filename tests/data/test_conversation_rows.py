"""Conversations share windows: each whole and once, none over-full, few left empty."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sllm.data.conversations.rows import rows

lengths = st.lists(st.integers(1, 40), max_size=200)


@given(lengths, st.integers(40, 100), st.integers(1, 20))
def test_every_conversation_once_and_no_window_over_full(lengths: list[int], width: int, most_open: int) -> None:
    found = list(rows(enumerate(lengths), width, most_open))
    assert sorted(number for row in found for number in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[number] for number in row) <= width for row in found)
    assert all(row == sorted(row) for row in found)


@given(lengths)
def test_with_all_windows_open_none_could_hold_what_another_begins_with(lengths: list[int]) -> None:
    found = list(rows(enumerate(lengths), 40, most_open=1000))
    for number, row in enumerate(found):
        # What begins a window had room in none that was there.
        for other in found[:number]:
            assert sum(lengths[n] for n in other if n < row[0]) + lengths[row[0]] > 40


def test_the_fullest_that_has_room() -> None:
    #                                10 | 6 → 4 left | 7 → 3 left | 3 → into the second | 4 → into the first
    assert list(rows([(0, 10), (1, 6), (2, 7), (3, 3), (4, 4)], 10)) == [[0], [1, 4], [2, 3]]


def test_no_more_windows_are_open_than_may_be() -> None:
    # 9, 5 and 6 need a window each: the fullest is done when the third begins, and what would fit there comes late.
    assert list(rows([(0, 9), (1, 5), (2, 6), (3, 1), (4, 5)], 10, most_open=2)) == [[0], [1, 4], [2, 3]]


def test_little_is_left_empty() -> None:
    draw = random.Random(0)
    sizes = [min(2048, int(draw.lognormvariate(5.5, 1))) for _ in range(20_000)]
    found = list(rows(enumerate(sizes), 2049))
    assert sum(sizes) / (2049 * len(found)) > 0.995
