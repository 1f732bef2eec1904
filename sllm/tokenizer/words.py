"""Which words a text is made of, and how often: what the merges are learnt from.

A word is one match of `codec.SPLIT_PATTERN`. Texts are streamed; only distinct words stay in memory, as their bytes one
after another, in a hash table of our own. `word_end` is the split pattern by hand, over UTF-8 bytes, because no
regex engine splits fast enough; a test holds it to the pattern.
"""

import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import IO

import numpy as np
from numba import uint64

from sllm.compiled import compiled
from sllm.progress import Bar
from sllm.stop import StopFlag
from sllm.tokenizer.codec import LONG_PARTICLES, SHORT_PARTICLES, nfc

BATCH_BYTES = 1 << 20
END = 0xFF
"""Stands after every document; no UTF-8 text holds this byte."""

# Character classes of the split pattern.
OTHER, LETTER, NUMBER, SPACE, NEWLINE, NONE = range(6)


@dataclass
class Words:
    """Distinct words of at least two bytes: word i is `letters[ends[i - 1] : ends[i]]`, seen `counts[i]` times."""

    letters: np.ndarray
    """uint8, all words one after another."""
    ends: np.ndarray
    """int64."""
    counts: np.ndarray
    """int64."""
    documents: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of the text they were counted in."""
    min_count: int = 1
    """Words seen less often were dropped, because there were more distinct words than the budget allows."""
    dropped_words: int = 0
    dropped_bytes: int = 0
    """Text that the dropped words made up."""

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        start = 0
        for end, count in zip(self.ends.tolist(), self.counts.tolist(), strict=True):
            yield self.letters[start:end].tobytes(), count
            start = end


def count_words(
    texts: Iterable[str],
    *,
    max_words: int = 6_000_000,
    stop: StopFlag | None = None,
    bar: Bar | None = None,
) -> Words:
    """Count the words of `texts` after NFC. The result is the same set of words in whatever order the texts come.

    Memory is bounded by `max_words` distinct words: beyond it, counts move to temporary files, and when all is counted
    the rarest words are dropped: all those seen less than `min_count` times, the smallest number that makes the
    rest fit.

    Raises:
        Stopped: `stop` was requested.
    """
    stop = stop or StopFlag()
    documents = text_bytes = 0
    table = _Table(max_words)
    # One thread makes UTF-8 of the next batch while this one counts: the kernel holds no interpreter lock, and
    # what is left to Python cannot use more than one core.
    with _Spill(max_words) as spill, ThreadPoolExecutor(1) as thread:
        batches = _utf8_batches(texts)
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            text, n = batch
            position = 0
            while (position := table.count(text, position)) < len(text):
                spill.add(table)
                table = _Table(max_words)
            documents += n
            text_bytes += len(text) - n
            stop.check()
            if bar is not None:
                bar.advance(len(text) - n)
        if spill.empty:
            words = table.words()
        else:
            spill.add(table)
            words = spill.words(stop)
    words.documents, words.text_bytes = documents, text_bytes
    return words


def _utf8_batches(texts: Iterable[str]) -> Iterator[tuple[np.ndarray, int]]:
    """NFC documents as UTF-8, each followed by END, in batches of about BATCH_BYTES; with the number of documents."""
    parts: list[bytes] = []
    size = 0
    for text in texts:
        part = utf8(text)
        parts.append(part)
        size += len(part)
        if size >= BATCH_BYTES:
            yield np.frombuffer(bytes([END]).join([*parts, b""]), np.uint8), len(parts)
            parts, size = [], 0
    if parts:
        yield np.frombuffer(bytes([END]).join([*parts, b""]), np.uint8), len(parts)


def utf8(text: str) -> bytes:
    """NFC text as UTF-8. Surrogates, which UTF-8 cannot hold, are treated as tiktoken does: pairs join, others
    become U+FFFD."""
    try:
        return nfc(text).encode("utf-8")
    except UnicodeEncodeError:
        return nfc(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")).encode("utf-8")


# --- the split pattern ----------------------------------------------------------------------------


@cache
def character_classes() -> np.ndarray:
    """The class of every code point, uint8, 0x110000 entries: as tiktoken, which will encode, knows Unicode.

    Other libraries know other versions of it. No version has letters, numbers or spaces from plane 4 on.
    """
    import tiktoken

    points = np.delete(np.arange(0x40000, dtype="<u4"), np.s_[0xD800:0xE000])
    characters = points.tobytes().decode("utf-32-le")
    classes = np.full(0x110000, OTHER, np.uint8)
    for kind, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s"), (NEWLINE, r"[\r\n]")):
        # With the bytes as its tokens and a pattern of one character, encoding drops all the others.
        encoding = tiktoken.Encoding(
            "bytes", pat_str=pattern, mergeable_ranks={bytes([byte]): byte for byte in range(256)}, special_tokens={}
        )
        matches = encoding.encode_to_numpy(characters).astype(np.uint8).tobytes().decode("utf-8")
        classes[np.frombuffer(matches.encode("utf-32-le"), "<u4")] = kind
    return classes


@cache
def particle_keys() -> np.ndarray:
    """The code points of each particle, 16 bits a syllable."""
    words = [*LONG_PARTICLES, *SHORT_PARTICLES]
    return np.array([sum(ord(c) << 16 * i for i, c in enumerate(reversed(word))) for word in words], np.int64)


@compiled
def class_and_next(text, i, classes):  # type: ignore[no-untyped-def]
    """The class of the character at byte `i`, and where the next one starts; NONE at the end of a document."""
    byte = text[i]
    if byte < 0x80:
        return classes[byte], i + 1
    if byte == END:
        return NONE, i + 1
    if byte < 0xE0:
        return classes[(byte & 0x1F) << 6 | (text[i + 1] & 0x3F)], i + 2
    if byte < 0xF0:
        return classes[(byte & 0x0F) << 12 | (text[i + 1] & 0x3F) << 6 | (text[i + 2] & 0x3F)], i + 3
    point = (byte & 0x07) << 18 | (text[i + 1] & 0x3F) << 12 | (text[i + 2] & 0x3F) << 6 | (text[i + 3] & 0x3F)
    return classes[point], i + 4


@compiled
def skip(text, i, kind, classes):  # type: ignore[no-untyped-def]
    """Where the run of characters of class `kind` that starts at `i` ends."""
    found, following = class_and_next(text, i, classes)
    while found == kind:
        i = following
        found, following = class_and_next(text, i, classes)
    return i


@compiled
def is_particle(text, start, end, particles):  # type: ignore[no-untyped-def]
    key = 0
    for i in range(start, end, 3):
        if text[i] & 0xF0 != 0xE0:
            return False
        key = key << 16 | (text[i] & 0x0F) << 12 | (text[i + 1] & 0x3F) << 6 | (text[i + 2] & 0x3F)
    at = 0
    while at < len(particles) and particles[at] != key:
        at += 1
    return at < len(particles)


@compiled
def is_syllables(text, start, end):  # type: ignore[no-untyped-def]
    for i in range(start, end, 3):
        point = (text[i] & 0x0F) << 12 | (text[i + 1] & 0x3F) << 6 | (text[i + 2] & 0x3F)
        if text[i] & 0xF0 != 0xE0 or point < ord("가") or point > ord("힣"):
            return False
    return True


@compiled
def before_particle(text, start, end, particles):  # type: ignore[no-untyped-def]
    """Where the particle starts that the letters text[start:end] end with, after 1 to 15 syllables; else `end`."""
    if end - start <= 9 and is_particle(text, start, end, particles):
        return end
    for size in (9, 6, 3):
        at = end - size
        if start < at <= start + 45 and is_particle(text, at, end, particles) and is_syllables(text, start, at):
            return at
    return end


@compiled
def word_end(text, i, classes, particles):  # type: ignore[no-untyped-def]
    """Where the match of SPLIT_PATTERN that starts at byte `i` ends; its alternatives, in its order."""
    if text[i] == ord("'"):
        letter = text[i + 1] | 0x20  # makes ASCII letters small, and no other byte a letter
        if letter == ord("s") or letter == ord("d") or letter == ord("m") or letter == ord("t"):
            return i + 2
        if letter == ord("l") or letter == ord("v") or letter == ord("r"):
            second = text[i + 2] | 0x20
            if second == (ord("l") if letter == ord("l") else ord("e")):
                return i + 3
    kind, following = class_and_next(text, i, classes)
    if kind == LETTER:
        return before_particle(text, i, skip(text, following, LETTER, classes), particles)
    if kind == NUMBER:
        second_kind, after = class_and_next(text, following, classes)
        return after if second_kind == NUMBER else following
    if kind in (SPACE, OTHER):
        after = skip(text, following, LETTER, classes)
        if after > following:
            return before_particle(text, following, after, particles)
        after = following if kind == OTHER else i
        if kind == OTHER or text[i] == ord(" "):
            after = skip(text, following, OTHER, classes)
            if kind == OTHER or after > following:
                return skip(text, after, NEWLINE, classes)
    # White space: up to its last line end; else all of it, but the last one if something follows.
    last, end, line_end = i, i, i
    while kind in (SPACE, NEWLINE):
        last, end = end, following
        if kind == NEWLINE:
            line_end = end
        kind, following = class_and_next(text, end, classes)
    if line_end > i:
        return line_end
    if kind == NONE or last == i:
        return end
    return last


# --- the table ------------------------------------------------------------------------------------

# A slot is four 64-bit numbers. The first three are the word: its bytes, and its length in the last byte, so that a
# look-up touches one cache line. A word too long for that is a hash, where it starts in `letters`, and its length
# under the mark LONG. The fourth is the count; 0 is an empty slot.
INLINE = 23
LONG = 0xFF << 56
LENGTH = (1 << 56) - 1


@compiled
def pack(text, start, end):  # type: ignore[no-untyped-def]
    """The bytes text[start:end], eight at most, as a number."""
    value = uint64(0)
    for i in range(start, end):
        value |= uint64(text[i]) << uint64(8 * (i - start))
    return value


@compiled
def long_hash(text, start, end):  # type: ignore[no-untyped-def]
    """FNV-1a (Fowler, Noll, Vo), 64 bits."""
    h = uint64(0xCBF29CE484222325)
    for i in range(start, end):
        h = (h ^ uint64(text[i])) * uint64(0x100000001B3)
    return h


@compiled
def home(first, second, third, size):  # type: ignore[no-untyped-def]
    """The slot where the search for a word starts; `size` is a power of two."""
    h = first * uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> uint64(32)) ^ second) * uint64(0xC2B2AE3D27D4EB4F)
    h = (h ^ (h >> uint64(32)) ^ third) * uint64(0x9E3779B97F4A7C15)
    return (h >> uint64(32)) & uint64(size - 1)


@compiled
def key_of(text, start, end):  # type: ignore[no-untyped-def]
    """The first three numbers of the slot of text[start:end]; of a long word the second is not known yet, and 0."""
    size = end - start
    if size > INLINE:
        return long_hash(text, start, end), uint64(0), uint64(LONG) | uint64(size)
    first = pack(text, start, min(end, start + 8))
    second = pack(text, start + 8, min(end, start + 16))
    return first, second, pack(text, start + 16, end) | uint64(size) << uint64(56)


@compiled
def add_word(slots, letters, used, text, start, end, key, count):  # type: ignore[no-untyped-def]
    """Add `count` to that of text[start:end]. `used` is [words, bytes of letters]; there must be room for one more."""
    first, second, third = key
    size = end - start
    at = home(first, second, third, len(slots))
    while slots[at, 3] != 0:
        if slots[at, 0] == first and slots[at, 2] == third:
            same = slots[at, 1] == second
            if size > INLINE:
                there = int(slots[at, 1])
                k = 0
                while k < size and letters[there + k] == text[start + k]:
                    k += 1
                same = k == size
            if same:
                slots[at, 3] += uint64(count)
                return
        at = (at + uint64(1)) & uint64(len(slots) - 1)
    if size > INLINE:
        second = uint64(used[1])
        letters[used[1] : used[1] + size] = text[start:end]
        used[1] += size
    slots[at, 0], slots[at, 1], slots[at, 2], slots[at, 3] = first, second, third, uint64(count)
    used[0] += 1


@compiled
def has_room(slots, letters, used, max_words, size):  # type: ignore[no-untyped-def]
    return used[0] < max_words and 4 * used[0] < 3 * len(slots) and (size <= INLINE or used[1] + size <= len(letters))


@compiled
def count_text(text, i, classes, particles, slots, letters, used, max_words):  # type: ignore[no-untyped-def]
    """Count the words from byte `i` on; returns where it stopped: at the end, or before a word there is no room for."""
    while i < len(text):
        if text[i] == END:
            i += 1
            continue
        end = word_end(text, i, classes, particles)
        if end - i > 1:  # a single byte has no pair
            if not has_room(slots, letters, used, max_words, end - i):
                break
            add_word(slots, letters, used, text, i, end, key_of(text, i, end), 1)
        i = end
    return i


@compiled
def add_words(other_letters, ends, counts, i, slots, letters, used, max_words):  # type: ignore[no-untyped-def]
    """Add the words from number `i` on; returns the number of the first there is no room for, or how many there are."""
    while i < len(ends):
        start = ends[i - 1] if i else 0
        if not has_room(slots, letters, used, max_words, ends[i] - start):
            break
        key = key_of(other_letters, start, ends[i])
        add_word(slots, letters, used, other_letters, start, ends[i], key, counts[i])
        i += 1
    return i


@compiled
def move_slots(old, new):  # type: ignore[no-untyped-def]
    for i in range(len(old)):
        if old[i, 3] != 0:
            second = old[i, 1] if old[i, 2] < uint64(LONG) else uint64(0)
            at = home(old[i, 0], second, old[i, 2], len(new))
            while new[at, 3] != 0:
                at = (at + uint64(1)) & uint64(len(new) - 1)
            new[at] = old[i]


@compiled
def list_words(slots, letters, out, ends, counts):  # type: ignore[no-untyped-def]
    word = at = 0
    for i in range(len(slots)):
        if slots[i, 3] == 0:
            continue
        if slots[i, 2] < uint64(LONG):
            size = int(slots[i, 2] >> uint64(56))
            for k in range(size):
                out[at + k] = (slots[i, k >> 3] >> uint64(8 * (k & 7))) & uint64(0xFF)
        else:
            size = int(slots[i, 2] & uint64(LENGTH))
            start = int(slots[i, 1])
            out[at : at + size] = letters[start : start + size]
        at += size
        ends[word], counts[word] = at, slots[i, 3]
        word += 1


@compiled
def letters_needed(slots):  # type: ignore[no-untyped-def]
    total = 0
    for i in range(len(slots)):
        if slots[i, 3] != 0:
            third = slots[i, 2]
            total += int(third >> uint64(56)) if third < uint64(LONG) else int(third & uint64(LENGTH))
    return total


class _Table:
    """Words and their counts, at most `max_words` of them."""

    def __init__(self, max_words: int) -> None:
        self.max_words = max_words
        self.slots = np.zeros((1 << 16, 4), np.uint64)
        self.letters = np.empty(1 << 20, np.uint8)
        self.used = np.zeros(2, np.int64)

    def count(self, text: np.ndarray, position: int) -> int:
        """Count from `position` on; returns where it stopped: at the end, or before the word that is one too many."""
        pattern = character_classes(), particle_keys()
        while True:
            position = count_text(text, position, *pattern, self.slots, self.letters, self.used, self.max_words)
            if position == len(text) or self.used[0] == self.max_words:
                return position
            self._grow()

    def add(self, words: Words) -> None:
        """Add the counts of `words`, for all of which there must be room."""
        i = 0
        while True:
            i = add_words(
                words.letters, words.ends, words.counts, i, self.slots, self.letters, self.used, self.max_words
            )
            if i == len(words):
                return
            assert self.used[0] < self.max_words
            self._grow()

    def _grow(self) -> None:
        if 4 * self.used[0] < 3 * len(self.slots):
            self.letters = np.concatenate([self.letters, np.empty_like(self.letters)])
        else:
            slots = np.zeros((2 * len(self.slots), 4), np.uint64)
            move_slots(self.slots, slots)
            self.slots = slots

    def words(self) -> Words:
        letters = np.empty(letters_needed(self.slots), np.uint8)
        ends, counts = np.empty(self.used[0], np.int64), np.empty(self.used[0], np.int64)
        list_words(self.slots, self.letters, letters, ends, counts)
        return Words(letters, ends, counts)


# --- more words than fit --------------------------------------------------------------------------


class _Spill:
    """Counts that outgrew the table, in temporary files: a file for each part of the hash's range, so that all counts
    of a word are in one file and the files can be summed one by one."""

    PARTS = 16

    def __init__(self, max_words: int) -> None:
        self.max_words = max_words
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> "_Spill":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    @property
    def empty(self) -> bool:
        return not self._files

    def add(self, table: _Table) -> None:
        if self.empty:  # files without names: nothing is left of them, whatever ends this process
            self._files = [tempfile.TemporaryFile() for _ in range(self.PARTS)]  # noqa: SIM115 - see __exit__
        words = table.words()
        parts = hashes(words.letters, words.ends) % np.uint64(self.PARTS)
        for part, file in enumerate(self._files):
            chosen = _select(words, parts == part)
            for array in (np.array([len(chosen), len(chosen.letters)]), chosen.ends, chosen.counts, chosen.letters):
                file.write(array.tobytes())

    def words(self, stop: StopFlag) -> Words:
        """The sums; without the words seen less than `min_count` times, the smallest number that makes the rest fit."""
        kept: list[Words] = []
        distinct = total_bytes = 0
        min_count = 1
        for file in self._files:
            stop.check()
            words = self._sum(file)
            distinct += len(words)
            total_bytes += _text_bytes(words)
            kept.append(_select(words, words.counts >= min_count))
            counts = np.concatenate([words.counts for words in kept])
            if len(counts) > self.max_words:
                # One more than the count of the most frequent word that cannot stay. The number only rises with
                # every part, so what is below it now can go now.
                first_out = len(counts) - self.max_words - 1
                min_count = int(np.partition(counts, first_out)[first_out]) + 1
                kept = [_select(words, words.counts >= min_count) for words in kept]
        starts = np.cumsum([0] + [len(words.letters) for words in kept])
        result = Words(
            np.concatenate([words.letters for words in kept]),
            np.concatenate([words.ends + start for words, start in zip(kept, starts, strict=False)]),
            np.concatenate([words.counts for words in kept]),
        )
        result.min_count = min_count
        result.dropped_words = distinct - len(result)
        result.dropped_bytes = total_bytes - _text_bytes(result)
        return result

    def _sum(self, file: IO[bytes]) -> Words:
        table = _Table(np.iinfo(np.uint32).max)
        file.seek(0)
        while head := file.read(16):
            n, size = np.frombuffer(head, np.int64)
            table.add(
                Words(
                    ends=np.frombuffer(file.read(8 * n), np.int64),
                    counts=np.frombuffer(file.read(8 * n), np.int64),
                    letters=np.frombuffer(file.read(size), np.uint8),
                )
            )
        return table.words()


@compiled
def hashes(letters, ends):  # type: ignore[no-untyped-def]
    out = np.empty(len(ends), np.uint64)
    start = 0
    for i in range(len(ends)):
        out[i] = long_hash(letters, start, ends[i])
        start = ends[i]
    return out


def _select(words: Words, chosen: np.ndarray) -> Words:
    lengths = np.diff(words.ends, prepend=0)
    return Words(words.letters[np.repeat(chosen, lengths)], np.cumsum(lengths[chosen]), words.counts[chosen])


def _text_bytes(words: Words) -> int:
    return int(np.dot(np.diff(words.ends, prepend=0), words.counts))
