"""Which conversations share a window: each whole, once, in as few windows as can be done while they come by."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

MOST_OPEN = 1024
"""Windows that are being filled at a time; docs/finetune.md has what they leave empty."""


def rows(lengths: Iterable[tuple[int, int]], width: int, most_open: int = MOST_OPEN) -> Iterator[list[int]]:
    """The conversations of each window, for conversations given by number and length in tokens, up to `width`.

    Best fit (Johnson 1974): a conversation comes into the fullest open window that has room for it. If none has, it
    begins one; if too many are open then, the fullest is done.
    """
    opened = 0
    filled: dict[int, list[int]] = {}
    room: list[tuple[int, int]] = []  # of each open window, with its number: sorted
    for number, length in lengths:
        place = bisect_left(room, (length, 0))
        if place < len(room):
            left, window = room.pop(place)
        else:
            left, window, opened = width, opened, opened + 1
            filled[window] = []
            if len(room) == most_open:
                yield filled.pop(room.pop(0)[1])
        filled[window].append(number)
        insort(room, (left - length, window))
    yield from filled.values()
