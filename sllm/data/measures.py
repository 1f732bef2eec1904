"""What a text is made of and how much of it repeats, counted over code points by compiled loops."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import uint64

from sllm.compiled import compiled

HANGUL, LATIN, OTHER_LETTER, DIGIT, OPENING, INNER, CLOSING, QUOTE, SPACE, NEWLINE = range(1, 11)
"""Classes of characters; 0 is any other sign. OPENING to QUOTE are what prose has around words, and within them."""

SIGNS = {OPENING: "([“‘", INNER: "'’-", CLOSING: ",.;:!?…)]”", QUOTE: '"'}

PROSE = 4
"""Words, at least, that stand in a row in prose, and hardly ever in code or in a list of names."""

TOP = (2, 3, 4)
"""Lengths, in words, of the n-grams of which the most frequent is looked at."""
REPEATED = 6
"""Numbers of lengths, one after the other, of the n-grams of which every one that came before is looked at."""


class Measures(NamedTuple):
    """Counts, and shares of a text's characters without white space (but `lines` and `paragraphs`, shares of those).

    What repeats is the second and every later occurrence: what the text could lose and still say as much.
    """

    hangul: int
    latin: int
    letters: int
    """Of all scripts, Hangul and Latin among them."""
    digits: int
    words: int
    lines: float
    line_characters: float
    paragraphs: float
    paragraph_characters: float
    runs: float
    """Characters after the third of a run of the same one, such as ㅋㅋㅋㅋㅋㅋ."""
    top: tuple[float, ...]
    """All occurrences of the most frequent n-gram, for each n of TOP."""
    repeated: tuple[float, ...]
    """N-grams that came before, for n = first … first + 5; characters in two of them count once."""


def codes_of(text: str) -> np.ndarray:
    """(characters,) uint32: their code points."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def measure(codes: np.ndarray, first: int, negligible: float = 0.0) -> Measures:
    """`repeated` starts at n = `first`, and its values after one of `negligible` or less are left at 0.

    (They could not be larger: what a longer n-gram repeats, shorter ones do.)
    """
    counts, shares = _measure(codes, _classes(), first, negligible)
    values = shares.tolist()
    return Measures._make([*counts.tolist(), *values[:5], tuple(values[5:8]), tuple(values[8:])])


@cache
def _classes() -> np.ndarray:
    """(65536,) uint8: the class of each character of the basic plane; those above it count as none."""
    classes = np.zeros(1 << 16, np.uint8)
    for code in range(1 << 16):
        character = chr(code)
        if character.isalpha():
            classes[code] = OTHER_LETTER
        elif character.isdecimal():
            classes[code] = DIGIT
        elif character.isspace():
            classes[code] = SPACE
    for first, last in ((0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xAC00, 0xD7A3), (0xD7B0, 0xD7FB)):
        letters = classes[first : last + 1]
        letters[letters == OTHER_LETTER] = HANGUL
    for first, last in ((0x41, 0x24F), (0x1E00, 0x1EFF), (0xFF21, 0xFF5A)):
        letters = classes[first : last + 1]
        letters[letters == OTHER_LETTER] = LATIN
    for kind, signs in SIGNS.items():
        for sign in signs:
            classes[ord(sign)] = kind
    classes[ord("\n")] = NEWLINE
    return classes


MULTIPLIER = uint64(0x9E3779B97F4A7C15)


@compiled
def mix(x):  # type: ignore[no-untyped-def]
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


@compiled
def _measure(codes, classes, first, negligible):  # type: ignore[no-untyped-def]
    shares = np.zeros(5 + len(TOP) + REPEATED, np.float64)
    counts, size, in_runs, words, lines, paragraphs = _units(codes, classes)
    if size == 0:
        return counts, shares
    slots = 16
    while slots < 2 * len(words[0]):
        slots *= 2
    table = np.empty(slots, np.uint64), np.zeros(slots, np.int8)  # keys, and stamps that say whose they are
    for number, units in enumerate((lines, paragraphs)):
        repeated, characters = _repeats(units, table, number + 1)
        shares[2 * number], shares[2 * number + 1] = repeated / max(len(units[0]), 1), characters / size
    shares[4] = in_runs / size
    _measure_phrases(words, table, size, first, negligible, shares[5:])
    return counts, shares


@compiled
def _units(codes, classes):  # type: ignore[no-untyped-def]
    """Hangul, Latin, letters, digits and words; characters, and those in runs; hash and characters of every word, line
    and paragraph, which ends at a blank line."""
    length = len(codes)
    kinds = np.zeros(SPACE, np.int64)
    words, word_sizes = np.empty(length // 2 + 1, np.uint64), np.empty(length // 2 + 1, np.int32)
    lines, line_sizes = np.empty(length // 2 + 1, np.uint64), np.empty(length // 2 + 1, np.int32)
    paragraphs, paragraph_sizes = np.empty(length // 2 + 1, np.uint64), np.empty(length // 2 + 1, np.int32)
    n_words, n_lines, n_paragraphs = 0, 0, 0
    word, line, paragraph = uint64(0), uint64(0), uint64(0)
    word_size, line_size, paragraph_size = 0, 0, 0
    run, in_runs = 0, 0
    last, letters_before = uint64(0), 0
    for i in range(length + 1):
        code = uint64(codes[i]) if i < length else uint64(10)
        kind = classes[code] if code < 65536 else 0
        if kind < SPACE:
            word = (word ^ code) * MULTIPLIER
            word ^= word >> uint64(29)
            word_size += 1
            kinds[kind] += 1
            run = run + 1 if code == last else 1
            if run > 3:
                in_runs += 1
            last = code
            continue
        last = uint64(0)
        if word_size:
            words[n_words], word_sizes[n_words] = word, word_size
            n_words += 1
            line = mix(line * MULTIPLIER + word)
            line_size += word_size
            word, word_size = uint64(0), 0
        if kind != NEWLINE:
            continue
        if line_size:
            letters = kinds[HANGUL] + kinds[LATIN] + kinds[OTHER_LETTER]
            if letters > letters_before:  # a line of signs alone (a rule, a bracket) may repeat
                lines[n_lines], line_sizes[n_lines] = line, line_size
                n_lines += 1
                letters_before = letters
            paragraph = mix(paragraph * MULTIPLIER + line)
            paragraph_size += line_size
            line, line_size = uint64(0), 0
        if paragraph_size and (i >= length - 1 or classes[min(codes[i + 1], 65535)] == NEWLINE):
            paragraphs[n_paragraphs], paragraph_sizes[n_paragraphs] = paragraph, paragraph_size
            n_paragraphs += 1
            paragraph, paragraph_size = uint64(0), 0
    letters = kinds[HANGUL] + kinds[LATIN] + kinds[OTHER_LETTER]
    return (
        np.array([kinds[HANGUL], kinds[LATIN], letters, kinds[DIGIT], n_words]),
        kinds.sum(),
        in_runs,
        (words[:n_words], word_sizes[:n_words]),
        (lines[:n_lines], line_sizes[:n_lines]),
        (paragraphs[:n_paragraphs], paragraph_sizes[:n_paragraphs]),
    )


@compiled
def _measure_phrases(words, table, size, first, negligible, shares):  # type: ignore[no-untyped-def]
    """Fill in the shares of the most frequent n-gram for each n of TOP, then of those that came before."""
    n_words = len(words[0])
    # Polynomial hashes of all prefixes: that of any n-gram is a difference.
    prefix, ends = np.zeros(n_words + 1, np.uint64), np.zeros(n_words + 1, np.int64)
    for i in range(n_words):
        prefix[i + 1] = prefix[i] * MULTIPLIER + words[0][i]
        ends[i + 1] = ends[i] + words[1][i]
    seen = np.empty(len(table[0]), np.int32)
    power = MULTIPLIER
    for n in range(2, first + REPEATED):
        power *= MULTIPLIER
        most, covered = _phrases(n, prefix, ends, power, table, seen)
        if n <= TOP[-1]:
            shares[n - TOP[0]] = most / size
        if n >= first:
            shares[len(TOP) + n - first] = covered / size
        if covered == 0 or (n >= max(first, TOP[-1]) and covered <= negligible * size):
            break


@compiled
def _phrases(n, prefix, ends, power, table, seen):  # type: ignore[no-untyped-def]
    """Characters in all occurrences of the most frequent n-gram, and in n-grams that came before."""
    keys, stamps = table
    best, best_size, covered, until = 1, 0, 0, 0
    for i in range(len(prefix) - n):
        key = mix(prefix[i + n] - prefix[i] * power)
        slot = _slot(key, keys, stamps, n + 1)
        if stamps[slot] != n + 1:
            stamps[slot], keys[slot], seen[slot] = n + 1, key, 1
            continue
        seen[slot] += 1
        covered += ends[i + n] - ends[max(i, until)]
        until = i + n
        n_size = ends[i + n] - ends[i]
        if seen[slot] > best or (seen[slot] == best and n_size > best_size):
            best, best_size = seen[slot], n_size
    return best * best_size, covered


@compiled
def _slot(key, keys, stamps, stamp):  # type: ignore[no-untyped-def]
    """Where `key` is, or belongs, in a table in which other stamps mean empty."""
    mask = uint64(len(keys) - 1)
    slot = key & mask
    while stamps[slot] == stamp and keys[slot] != key:
        slot = (slot + uint64(1)) & mask
    return slot


@compiled
def _repeats(units, table, stamp):  # type: ignore[no-untyped-def]
    """How many came before, and their characters."""
    (hashes, sizes), (keys, stamps) = units, table
    count, characters = 0, 0
    for i in range(len(hashes)):
        slot = _slot(hashes[i], keys, stamps, stamp)
        if stamps[slot] == stamp:
            count += 1
            characters += sizes[i]
        stamps[slot], keys[slot] = stamp, hashes[i]
    return count, characters


# What the characters of a word make of it: signs that open, Latin letters, signs that close; or no word of prose.
START, LETTERS, END, NO_WORD = range(4)
_NEXT = np.full((4, SPACE), NO_WORD, np.int8)
_NEXT[START, [OPENING, QUOTE]] = START
_NEXT[[START, LETTERS], LATIN] = LETTERS
_NEXT[LETTERS, INNER] = LETTERS
_NEXT[LETTERS : END + 1, [CLOSING, QUOTE]] = END


def latin_prose(codes: np.ndarray) -> int:
    """Latin letters in PROSE or more words in a row, of a line, that are nothing but words: neither code nor names."""
    return int(_latin_prose(codes, _classes()))


@compiled
def _latin_prose(codes, classes):  # type: ignore[no-untyped-def]
    total, row, row_letters, letters, state = 0, 0, 0, 0, START
    for i in range(len(codes) + 1):
        code = codes[i] if i < len(codes) else 10
        kind = classes[code] if code < 65536 else 0
        if kind < SPACE:
            letters += kind == LATIN
            state = _NEXT[state, kind]
            continue
        if state in (LETTERS, END):
            row, row_letters = row + 1, row_letters + letters
        if state == NO_WORD or kind == NEWLINE:
            if row >= PROSE:
                total += row_letters
            row, row_letters = 0, 0
        state, letters = START, 0
    return total
