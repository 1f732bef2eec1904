"""UTF-8 as an automaton over tokens: what may follow what, so that a generated text is whole characters."""

from collections.abc import Sequence

# What may follow in each state, as (first byte, last byte, state after it): table 3-7 of the Unicode standard. State 0
# is between two characters. U+FFFD, the sign of broken text, is left out: it is never what somebody wanted to read.
_NEXT = [
    [
        (0x00, 0x7F, 0),
        (0xC2, 0xDF, 1),
        (0xE0, 0xE0, 3),
        (0xE1, 0xEC, 2),
        (0xED, 0xED, 4),
        (0xEE, 0xEE, 2),
        (0xEF, 0xEF, 8),
        (0xF0, 0xF0, 5),
        (0xF1, 0xF3, 6),
        (0xF4, 0xF4, 7),
    ],
    [(0x80, 0xBF, 0)],  # 1: one more byte
    [(0x80, 0xBF, 1)],  # 2: two more
    [(0xA0, 0xBF, 1)],  # 3: after E0, nothing that fewer bytes can say
    [(0x80, 0x9F, 1)],  # 4: after ED, no surrogates
    [(0x90, 0xBF, 2)],  # 5: after F0, as after E0
    [(0x80, 0xBF, 2)],  # 6: three more
    [(0x80, 0x8F, 2)],  # 7: after F4, nothing above U+10FFFF
    [(0x80, 0xBE, 1), (0xBF, 0xBF, 9)],  # 8: after EF
    [(0x80, 0xBC, 0), (0xBE, 0xBF, 0)],  # 9: after EF BF, not BD
]
BETWEEN, BROKEN = 0, len(_NEXT)
"""The state where a text may end, and the one after which nothing makes it UTF-8 again."""


def states_after(n_special: int, eos_id: int, merges: Sequence[tuple[int, int]]) -> list[bytes]:
    """For each token, the state after it by the state before it. `<eos>` stands between characters; the other
    `n_special` tokens before the bytes are no text."""
    broken = bytes([BROKEN] * (BROKEN + 1))
    table = [broken] * n_special
    table[eos_id] = bytes([BETWEEN]) + broken[1:]
    for byte in range(256):
        table.append(bytes([*(_after(state, byte) for state in range(BROKEN)), BROKEN]))
    for a, b in merges:
        table.append(bytes([table[b][state] for state in table[a]]))
    return table


def _after(state: int, byte: int) -> int:
    return next((after for first, last, after in _NEXT[state] if first <= byte <= last), BROKEN)
