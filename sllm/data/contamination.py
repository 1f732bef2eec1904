"""Text that a benchmark asks for: n-grams of words that the corpus shares with the items of tasks.

After Brown et al. 2020 (GPT-3, appendix C): a word is what stands between white space, in lower case, without anything
but letters and digits. Three things are ours:

- 13 words in English, as there, are 8 eojeol in Korean (docs/data.md has the measurement).
- A line of an item (a question, an answer) or an item that is shorter counts if the text holds all of it, from 8 words
  or 5 eojeol on. What is shorter still is compared with nothing: people write such sentences.
- GPT-3 let go what stood in more than ten documents of the corpus, as boilerplate. Here an n-gram counts as one of a
  prompt, not of an item, if it stands in more than ten items: what becomes of a text is to depend on no other text.

The table of all items, a directory that one process writes before others map it:

keys.u64       (n-grams,) little-endian uint64: their hashes, sorted
owners.u8      (n-grams,) uint8: the task of each, its place in `tasks` of the manifest, from 1 on
anchors.u64    a Bloom filter of the hashes of anchors: four bits of one of its little-endian uint64 each
sketches.u64   one of their sketches

Anchors are the first 5 eojeol or 8 words of what is shorter, and of an item those after every fourth eojeol or sixth
word: one stands in each of its n-grams. The sketch of an anchor is the first two letters of each of its first five
words. That and the filter of them, which so stays small, are all that is looked at for nearly every word of a corpus.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import int64, uint32, uint64

from sllm.compiled import compiled
from sllm.config import Language
from sllm.data.measures import MULTIPLIER, codes_of, mix
from sllm.data.text import normalise
from sllm.manifests import atomic_directory, read_manifest
from sllm.stop import Check, no_check

WORDS: dict[Language, int] = {"ko": 8, "en": 13}
SHORTEST: dict[Language, int] = {"ko": 5, "en": 8}

MOST_ITEMS = 10

RULE = [2, WORDS, SHORTEST, MOST_ITEMS]
"""What the table depends on beside the items. Raise the number when it changes otherwise."""

MOST_KEYS = 4
"""For each uint64 of a filter: of other text fewer than one place in a hundred passes."""

FILES = {"keys.u64": "<u8", "owners.u8": "u1", "anchors.u64": "<u8", "sketches.u64": "<u8"}


class Shared(NamedTuple):
    """Characters of a text from `start` up to `end` that an item of `task` has too."""

    start: int
    end: int
    task: str


class TaskText:
    """The n-grams of all items, mapped: processes of a machine share them."""

    def __init__(self, directory: Path) -> None:
        """Raises CorruptError if it is not whole."""
        self._tasks = read_manifest(directory)["tasks"]
        self._table = tuple(_mapped(directory / name).view(kind) for name, kind in FILES.items())

    def shared(self, codes: np.ndarray) -> Iterator[Shared]:
        """In the order of the text, of which these are the code points; none touches another of the same task."""
        owners = _find(codes, _letters(), self._table)
        if not len(owners):
            return
        starts, ends = _places(codes, _letters(), len(owners))
        # Runs of words of one owner; 0 is nobody's.
        changes = np.flatnonzero(np.diff(owners, prepend=0, append=0))
        for first, end in pairwise(changes):
            if owner := owners[first]:
                yield Shared(int(starts[first]), int(ends[end - 1]), self._tasks[owner - 1])


def _mapped(path: Path) -> np.ndarray:
    if not path.stat().st_size:
        return np.zeros(0, np.uint8)
    with path.open("rb") as file:
        return np.frombuffer(mmap(file.fileno(), 0, access=ACCESS_READ), np.uint8)


# --- making it ------------------------------------------------------------------------------------


def write_task_text(directory: Path, items: Iterable[tuple[str, Language, str]], check: Check = no_check) -> None:
    """Make the table of items: of each its task, language and text."""
    tasks: list[str] = []
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    owners: list[int] = []
    for task, language, text in items:
        check()
        if task not in tasks:
            tasks.append(task)
        found.append(_grams(text, language))
        owners.append(1 + tasks.index(task))
    keys, anchors, sketches = (np.concatenate([grams[kind] for grams in found] or [_NOTHING]) for kind in range(3))
    of_keys = np.repeat(np.array(owners, np.uint8), [len(grams[0]) for grams in found])
    keys, first, counts = np.unique(keys, return_index=True, return_counts=True)
    is_item = counts <= MOST_ITEMS
    with atomic_directory(directory, kind="contamination", tasks=tasks) as filled:
        table = keys[is_item], of_keys[first[is_item]], _filter(np.unique(anchors)), _filter(np.unique(sketches))
        for (name, kind), content in zip(FILES.items(), table, strict=True):
            (filled / name).write_bytes(content.astype(kind).tobytes())


def _grams(text: str, language: Language) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The hashes of an item, each once, and of its anchors, and their sketches, all uint64."""
    text, least, length = normalise(text), SHORTEST[language], WORDS[language]
    keys, anchors, sketches = [_NOTHING], [_NOTHING], [_NOTHING]
    for line in {text, *text.split("\n")}:
        codes = codes_of(line)
        prefix = _words(codes, _letters())
        words = len(prefix) - 1
        if least <= words < length or (line == text and words >= length):
            keys.append(_hashes(prefix, min(words, length)))
            places = slice(0, words - least + 1, length - least + 1)
            anchors.append(_hashes(prefix, least)[places])
            sketches.append(_sketches(codes, _letters(), _starts(codes, _letters()))[places])
    return np.unique(np.concatenate(keys)), np.concatenate(anchors), np.concatenate(sketches)


_NOTHING = np.zeros(0, np.uint64)


# --- looking --------------------------------------------------------------------------------------

_LENGTHS = np.array([(SHORTEST[language], WORDS[language]) for language in sorted(WORDS)])

_SKETCHED = 5
"""Words, 13 bits each: the sixth falls out of the uint64. Not more than the shortest anchor has."""

_LAST = uint32(65535)
"""A noncharacter, which stands for all above the basic plane."""


@cache
def _letters() -> np.ndarray:
    """(65536,) uint16: for letters and digits of the basic plane their lower case; 1 for white space; 0 for what is
    passed over, as is all above the plane."""
    letters = np.zeros(1 << 16, np.uint16)
    for code in range(1 << 16):
        character = chr(code)
        if character.isalnum():
            lower = character.lower()
            letters[code] = ord(lower) if len(lower) == 1 else code
        elif character.isspace():
            letters[code] = 1
    return letters


@compiled
def _starts(codes, letters):  # type: ignore[no-untyped-def]
    """The first letter of each word, and the end of the text, (words + 1,) int32."""
    starts = np.empty(len(codes) // 2 + 2, np.int32)
    count, inside = 0, 0
    for i in range(len(codes)):  # without a branch: nobody can foretell where a word ends
        letter = letters[min(codes[i], _LAST)]
        starts[count] = i
        is_letter = int64(letter > 1)
        count += is_letter & ~inside
        inside = (inside | is_letter) & int64(letter != 1)
    starts[count] = len(codes)
    return starts[: count + 1]


@compiled
def _sketches(codes, letters, starts):  # type: ignore[no-untyped-def]
    """(words − 4,) uint64: a hash of the first two letters of each of five words in a row. Hashing all letters takes
    three times as long, since each waits for the one before."""
    count, recent = len(starts) - 1, uint64(0)
    sketches = np.empty(count, np.uint64)
    for word in range(count):
        first, second = uint64(letters[min(codes[starts[word]], _LAST)]), uint64(1)  # as if a white space followed
        for i in range(starts[word] + 1, starts[word + 1]):
            letter = uint64(letters[min(codes[i], _LAST)])
            if letter:
                second = letter
                break
        recent = (recent << uint64(13)) ^ (((first * MULTIPLIER ^ second) * MULTIPLIER) >> uint64(51))
        sketches[word] = mix(recent)
    return sketches[_SKETCHED - 1 :]


@compiled
def _words(codes, letters):  # type: ignore[no-untyped-def]
    """Polynomial hashes of all prefixes, (words + 1,) uint64: that of any n-gram is a difference."""
    prefix = np.empty(len(codes) // 2 + 2, np.uint64)
    count, word = 0, uint64(0)
    prefix[0] = 0
    for i in range(len(codes) + 1):
        letter = uint64(letters[min(codes[i], _LAST)]) if i < len(codes) else uint64(1)
        if letter > uint64(1):
            word = (word ^ letter) * MULTIPLIER
            word ^= word >> uint64(29)
        elif letter == uint64(1) and word:
            prefix[count + 1] = prefix[count] * MULTIPLIER + word
            count, word = count + 1, uint64(0)
    return prefix[: count + 1]


@compiled
def _places(codes, letters, count):  # type: ignore[no-untyped-def]
    """Where each of these words begins and ends."""
    starts, ends = np.empty(count, np.int32), np.empty(count, np.int32)
    number, start = 0, -1
    for i in range(len(codes)):
        letter = letters[min(codes[i], _LAST)]
        if letter > 1:
            start = i if start < 0 else start
            starts[number], ends[number] = start, i + 1
        elif letter == 1 and start >= 0:
            number, start = number + 1, -1
    return starts, ends


@compiled
def _power(length):  # type: ignore[no-untyped-def]
    power = uint64(1)
    for _ in range(length):
        power *= MULTIPLIER
    return power


@compiled
def _hashes(prefix, length):  # type: ignore[no-untyped-def]
    """Of all n-grams of so many words."""
    hashes, power = np.empty(max(0, len(prefix) - length), np.uint64), _power(length)
    for i in range(len(hashes)):
        hashes[i] = mix(prefix[i + length] - prefix[i] * power)
    return hashes


@compiled
def _find(codes, letters, table):  # type: ignore[no-untyped-def]
    """(words,) uint8: the owner of the n-gram that each word is in; nothing if all are nobody's. Only words around a
    place whose sketch is an anchor's are hashed."""
    keys, owners, anchors, sketches = table
    starts = _starts(codes, letters)
    candidates = _candidates(_sketches(codes, letters, starts), sketches)
    count, found = len(starts) - 1, False
    marks = np.zeros(count if len(candidates) else 0, np.uint8)
    for row in range(len(_LENGTHS)):
        least, most = _LENGTHS[row]
        for i in candidates:
            if i + least > count:
                break
            anchor = _words(codes[starts[i] : starts[i + least]], letters)
            if not _holds(anchors, mix(anchor[least])):
                continue
            first = max(0, i - (most - least))
            prefix = _words(codes[starts[first] : starts[min(i + most, count)]], letters)
            for start in range(first, i + 1):  # n-grams that the anchor stands in
                place = _place(prefix, start - first, most, keys)
                if place >= 0:
                    marks[start : start + most] = owners[place]
                    found = True
            for length in range(least, most):  # what is shorter begins with it
                place = _place(prefix, i - first, length, keys)
                if place >= 0:
                    marks[i : i + length] = owners[place]
                    found = True
    return marks if found else marks[:0]


@compiled
def _candidates(sketches, words):  # type: ignore[no-untyped-def]
    """Where anchors may stand. A loop that does nothing else: four times as fast as with the search in it."""
    places, count = np.empty(len(sketches), np.int32), 0
    for i in range(len(sketches)):
        places[count] = i
        count += _holds(words, sketches[i])
    return places[:count]


@compiled
def _place(prefix, start, length, hashes):  # type: ignore[no-untyped-def]
    """Where the hash of an n-gram stands among these, which are sorted; -1 for nowhere."""
    if start + length >= len(prefix):
        return -1
    key = mix(prefix[start + length] - prefix[start] * _power(length))
    place = np.searchsorted(hashes, key)
    return place if place < len(hashes) and hashes[place] == key else -1


@compiled
def _filter(keys):  # type: ignore[no-untyped-def]
    size = 1
    while size * MOST_KEYS <= len(keys):
        size *= 2
    words = np.zeros(size, np.uint64)
    for key in keys:
        words[key & uint64(size - 1)] |= _bits(key)
    return words


@compiled
def _holds(words, key):  # type: ignore[no-untyped-def]
    bits = _bits(key)
    return words[key & uint64(len(words) - 1)] & bits == bits


@compiled
def _bits(key):  # type: ignore[no-untyped-def]
    """Four bits of a word of a filter; which word, the other end of the hash says."""
    bits = uint64(0)
    for shift in range(40, 64, 6):
        bits |= uint64(1) << ((key >> uint64(shift)) & uint64(63))
    return bits
