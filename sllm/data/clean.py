"""What a document is, once clean: one normal form, in its language, no mere repetition, nobody's personal data, nothing
that a benchmark asks for, and for ever on one side of the train/validation split. docs/data.md has what each rule drops
from the reference corpus."""

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from operator import gt
from typing import TYPE_CHECKING, Literal

from sllm.config import DataConfig, Language
from sllm.data.boilerplate import remove_boilerplate
from sllm.data.personal_data import mask_personal_data
from sllm.data.text import cut, digest_of, normalise, tidy

if TYPE_CHECKING:
    import numpy as np

    from sllm.data.contamination import TaskText
    from sllm.data.measures import Measures

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


# --- limits ---------------------------------------------------------------------------------------

PIECE = 4_000
"""Characters that are judged together, at most. The longer a text, the more of it came before: a limit for pages of the
web drops manuals and books for their length. docs/data.md has what other lengths do."""

# Rae et al. 2021 (Gopher), table A1: the largest share of lines, and of characters, that repeat what came before …
MOST_LINES, MOST_LINE_CHARACTERS = 0.30, 0.20
# … that the most frequent 2-, 3- and 4-gram of words makes up …
MOST_TOP = (0.20, 0.18, 0.16)
# … and that 5- to 10-grams which came before make up.
MOST_REPEATED = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)

# An eojeol holds more than an English word: a noun with its particle, a verb with its endings. The parallel part of the
# reference corpus (Python's manual in both languages) says how much: with 5- to 10-grams 16% of the English pages
# are dropped but 9% of the Korean ones; 3- to 8-grams of eojeol drop 17%.
FIRST_REPEATED: dict[Language, int] = {"ko": 3, "en": 5}

MIN_WORDS = 50
"""Gopher drops shorter documents. We keep conversations and headlines: there an n-gram that comes twice says little."""

# Our own: the largest share of a piece's characters in lines that stand in a piece before it.
MOST_KNOWN = 0.80

# Our own: ㅋㅋㅋㅋㅋㅋㅋㅋ and ━━━━━━━━. Of the 26,000 bundles of raw film reviews in the reference corpus one in a
# thousand is above 0.17.
MOST_RUNS = 0.30

MOST_CODE = 4
"""Letters in all, for one of those that a Korean page must have: a listing with one Korean comment is not Korean."""

AT_ONCE = 10
"""Times `max_characters` that are brought to the normal form together: a file of 200 MB should cost little more memory
than its text."""


# --- documents ------------------------------------------------------------------------------------


class Dropped(StrEnum):
    """Why a document, or a part of one, is not in the corpus. (`sllm.data.dedup` drops more, when all sources are
    there.)"""

    TOO_SHORT = "too_short"
    LANGUAGE = "language"
    BOILERPLATE = "boilerplate"
    REPEATED_CHARACTERS = "repeated_characters"
    REPEATED_LINES = "repeated_lines"
    REPEATED_PHRASES = "repeated_phrases"
    CONTAMINATED = "contaminated"
    # Of conversations (`sllm.data.conversations`), which are kept whole or not at all.
    NO_CONVERSATION = "no_conversation"
    ROLES = "roles"
    EMPTY_TURN = "empty_turn"
    SPECIAL_TOKEN = "special_token"
    TOO_LONG = "too_long"


OF_TEXTS = tuple(Dropped)[: tuple(Dropped).index(Dropped.NO_CONVERSATION)]


@dataclass(frozen=True)
class Lost:
    """What the corpus does not get of a text: all, or some pieces or lines."""

    reason: Dropped
    text: str
    task: str | None = None
    """The benchmark task that has some of it too …"""
    begin: int = 0
    """… from which character on."""

    @property
    def size(self) -> int:
        """Bytes in UTF-8."""
        return len(self.text.encode("utf-8"))


@dataclass(frozen=True)
class Document:
    text: str
    digest: bytes
    size: int
    """Bytes of the text in UTF-8."""
    position: float
    """A number in [0, 1) made of the digest: below `validation_fraction` it is a validation document."""
    split: Split
    masked: Counter[str]
    """Personal data that the text does not hold any more: how many of each kind."""


class Cleaner:
    """Cleans the texts of a source. What becomes of a text depends on nothing but the text, and the items of tasks that
    it is compared with."""

    reasons = OF_TEXTS

    def __init__(self, config: DataConfig, language: Language, tasks: "TaskText | None" = None) -> None:
        from sllm.data import measures  # compiled loops: those who only read a corpus need not load them

        self._config, self._rules, self._language, self._measures = config, config.clean, language, measures
        self._tasks = tasks

    def clean(self, text: str) -> Iterator[Document | Lost]:
        """The document, and what it loses; or only that. What comes out, cleaned again, is the same.

        A text of more than `max_characters` becomes several documents. A document that is judged in pieces stays one:
        the pieces that are left stand in their order, a blank line between two that were not neighbours.

        The split depends on nothing but the clean text and `validation_fraction`, and a larger fraction only
        moves documents from train to validation: no text is ever on both sides, in whichever source it stands.
        """
        for start, end in cut(text, AT_ONCE * self._config.max_characters):
            yield from self._clean(normalise(text[start:end]), Counter())

    def _clean(self, text: str, masked: Counter[str]) -> Iterator[Document | Lost]:
        """`text` is in the normal form; `masked` counts what was masked in it."""
        known: dict[str, Measures] = {}
        # Until nothing is lost: without a piece, what stood around it may read differently.
        while True:
            if len(text) > self._config.max_characters:
                for start, end in cut(text, self._config.max_characters):
                    yield from self._clean(tidy(text[start:end]), masked)
                    masked = Counter()
                return
            if self._rules.personal_data:
                text, found = mask_personal_data(text)
                if found:
                    masked.update(found)
            if self._rules.boilerplate:
                text, lines = remove_boilerplate(text)
                if lines:
                    yield Lost(Dropped.BOILERPLATE, lines)
            if len(text) > self._config.max_characters:  # a mask may be longer than what it masks
                continue
            if len(text) < self._config.min_characters:
                yield Lost(Dropped.TOO_SHORT, text)
                return
            kept, lost = self._judge(text, known)
            yield from lost
            if not kept:
                return
            if not lost:
                break
            text = kept
        yield document_of(text, masked, self._config.validation_fraction)

    # --- asked one at a time, for a text that is kept whole or not at all

    def is_of_the_language(self, text: str) -> bool:
        codes = self._measures.codes_of(text)
        return self._is_of_the_language(codes, [self._measure(codes[start:end]) for start, end in cut(text, PIECE)])

    def contaminated(self, text: str) -> Lost | None:
        """What is lost of a text from where it shares something with an item of a task on; None if it does not."""
        shared = next(iter(self._tasks.shared(self._measures.codes_of(text))), None) if self._tasks else None
        return Lost(Dropped.CONTAMINATED, text, shared.task, shared.start) if shared else None

    def repetition(self, text: str) -> Dropped | None:
        """Why the first piece that repeats itself, or those before it, does not stay."""
        codes, places = self._measures.codes_of(text), list(cut(text, PIECE))
        pieces = [text[start:end] for start, end in places]
        known = {piece: self._measure(codes[start:end]) for piece, (start, end) in zip(pieces, places, strict=True)}
        return next(filter(None, self._repetitions(pieces, known, ())), None)

    def _measure(self, codes: "np.ndarray") -> "Measures":
        return self._measures.measure(codes, FIRST_REPEATED[self._language], negligible=MOST_REPEATED[-1])

    def _judge(self, text: str, known: "dict[str, Measures]") -> tuple[str, list[Lost]]:
        """What is left of a text, and what is not. `known` holds what was measured of it already."""
        places = list(cut(text, PIECE))
        pieces = [text[start:end] for start, end in places]
        codes = self._measures.codes_of(text)
        for piece, (start, end) in zip(pieces, places, strict=True):
            if piece not in known:
                known[piece] = self._measure(codes[start:end])
        if not self._is_of_the_language(codes, [known[piece] for piece in pieces]):
            return "", [Lost(Dropped.LANGUAGE, text)]
        lost: dict[int, Lost] = {}  # by number of the piece
        # In the whole text: an item may stand across the end of a piece.
        for shared in self._tasks.shared(codes) if self._tasks else ():
            for number, (start, end) in enumerate(places):
                if shared.start < end and shared.end > start:
                    begin = max(0, shared.start - start)
                    lost.setdefault(number, Lost(Dropped.CONTAMINATED, pieces[number], shared.task, begin))
        if self._rules.repetition:
            for number, reason in enumerate(self._repetitions(pieces, known, lost)):
                if reason:
                    lost.setdefault(number, Lost(reason, pieces[number]))
        if not lost:
            return text, []
        neighbours = groupby(enumerate(places), key=lambda place: place[0] not in lost)
        kept = [[place for _, place in group] for is_kept, group in neighbours if is_kept]
        return tidy("\n\n".join(text[group[0][0] : group[-1][1]] for group in kept)), [lost[n] for n in sorted(lost)]

    def _repetitions(
        self, pieces: list[str], known: "dict[str, Measures]", lost: Container[int]
    ) -> list[Dropped | None]:
        """Why the corpus does not get a piece that repeats itself, or those before it that are not `lost`."""
        reasons = [_repetition(known[piece]) for piece in pieces]
        if len(pieces) > 1:
            seen: set[str] = set()
            for number, piece in enumerate(pieces):
                lines = piece.split("\n")
                if sum(map(len, filter(seen.__contains__, lines))) > MOST_KNOWN * len(piece):
                    reasons[number] = reasons[number] or Dropped.REPEATED_LINES
                elif not reasons[number] and number not in lost:
                    seen.update(lines)
        return reasons

    def _is_of_the_language(self, codes: "np.ndarray", found: "list[Measures]") -> bool:
        letters, latin = sum([m.letters for m in found]), sum([m.latin for m in found])
        if self._language == "en":
            return latin >= self._rules.min_latin * max(letters, 1)
        hangul, least = sum([m.hangul for m in found]), self._rules.min_hangul
        if hangul >= least * max(letters, 1):
            return True
        # A Korean page may hold more code and names than Korean; what counts against it is prose.
        foreign = letters - hangul - latin + self._measures.latin_prose(codes)
        return hangul >= least * max(hangul + foreign, letters / MOST_CODE, 1)


def document_of(text: str, masked: Counter[str], validation_fraction: float) -> Document:
    encoded = text.encode("utf-8")
    digest = digest_of(encoded)
    position = (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: what a float holds exactly
    split: Split = "validation" if position < validation_fraction else "train"
    return Document(text, digest, len(encoded), position, split, masked)


def _repetition(found: "Measures") -> Dropped | None:
    if found.runs > MOST_RUNS:
        return Dropped.REPEATED_CHARACTERS
    if (
        max(found.lines, found.paragraphs) > MOST_LINES
        or max(found.line_characters, found.paragraph_characters) > MOST_LINE_CHARACTERS
    ):
        return Dropped.REPEATED_LINES
    if found.words >= MIN_WORDS and (any(map(gt, found.top, MOST_TOP)) or any(map(gt, found.repeated, MOST_REPEATED))):
        return Dropped.REPEATED_PHRASES
    return None
