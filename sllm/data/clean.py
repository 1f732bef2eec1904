"""What a document is, once clean: one normal form, in its language, no mere repetition, nobody's personal data, and for
ever on one side of the train/validation split. docs/data.md has what each rule drops from the reference corpus."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from operator import gt
from typing import TYPE_CHECKING, Literal

from sllm.config import DataConfig, Language
from sllm.tokenizer.codec import nfc

if TYPE_CHECKING:
    from sllm.data.measures import Measures

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

# What shows nothing and says nothing: control characters but tab and line feed, soft hyphen, zero-width space and
# non-joiner, direction marks, word joiner and other invisible operators, byte order mark, interlinear annotation,
# noncharacters, lone surrogates. The zero-width joiner U+200D stays: it holds emoji such as 👩‍🚀 together.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u00ad\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]+"
)


def normalise(text: str) -> str:
    """The normal form of a text; normalise(normalise(t)) == normalise(t).

    Every line end that Unicode knows (form feed, a page break, among them) becomes \\n, invisible characters go, then
    NFC; white space goes at the end of lines and around the text, and of several blank lines one stays. Indentation
    stays: code and poems need it.
    """
    # A printable line has nothing to remove, and asking is ten times faster than searching. Before NFC, because a
    # zero-width character between two jamo would keep them from composing.
    lines = [line if line.isprintable() else _INVISIBLE.sub("", line) for line in text.splitlines()]
    return _tidy(nfc("\n".join([line.rstrip() for line in lines])))


def _tidy(text: str) -> str:
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip()


def digest_of(text: str) -> bytes:
    """16 bytes that stand for a normalised text: equal for equal texts, and for no others that anyone will meet."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


# --- personal data --------------------------------------------------------------------------------

# What may hold a number to mask: most texts have none, and looking for the numbers themselves is ten times slower.
_LONG_NUMBER = re.compile(r"[0-9][0-9 .()-]{7,}[0-9]")

_NUMBER = re.compile(
    r"(?P<resident_number>(?<![0-9])[0-9]{6} ?-? ?[1-8][0-9]{6}(?![0-9]))"
    r"|(?P<card_number>(?<![0-9.-])(?:[3-69][0-9]{3}[ -]?(?:[0-9]{4}[ -]?){2}[0-9]{4}"
    r"|3[47][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{5})(?![0-9-]))"
    # Mobile numbers with or without separators; others (02, 031 …, 070, 050x) only with them.
    r"|(?P<phone_number>(?<![0-9.-])(?:\+82[ .-]?(?:\(0\))?|\(?0)"
    r"(?:1[016-9]\)?[ .-]?[0-9]{3,4}[ .-]?[0-9]{4}|(?:2|[3-6][1-5]|70|50[2-8])(?:\) ?|[.-])[0-9]{3,4}[.-][0-9]{4})"
    r"(?![0-9]))"
)

# From the @ on, and up to it: from the front, every word of a text would have to be tried.
_HOST = re.compile(r"@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
_MAILBOX = re.compile(r"[A-Za-z0-9._%+-]{1,64}\Z")


def mask_personal_data(text: str) -> tuple[str, Counter[str]]:
    """`text` with [EMAIL], [PHONE_NUMBER], [CARD_NUMBER] and [RESIDENT_NUMBER] for personal data; how many of each.

    Numbers that carry a check digit are masked only if it is right.
    """
    masked: Counter[str] = Counter()

    def mask_number(match: re.Match[str]) -> str:
        kind = str(match.lastgroup)
        valid = _CHECKS.get(kind)
        if valid and not valid([int(c) for c in match[0] if c.isdecimal()]):
            return match[0]
        masked[kind] += 1
        return f"[{kind.upper()}]"

    # Addresses first: they may hold numbers. Until nothing is found, because a mask may free what stood beside it.
    before = None
    while text != before:
        before = text
        pieces = []
        done = 0
        for host in _HOST.finditer(text):
            mailbox = _MAILBOX.search(text, max(done, host.start() - 64), host.start())
            if mailbox:
                pieces += [text[done : mailbox.start()], "[EMAIL]"]
                done = host.end()
                masked["email"] += 1
        text = "".join([*pieces, text[done:]])
        pieces = []
        done = 0
        for long in _LONG_NUMBER.finditer(text):
            start = max(done, long.start() - 2)  # a +, a bracket, or what shows that it goes on to the left
            pieces += [text[done:start], _NUMBER.sub(mask_number, text[start : long.end()])]
            done = long.end()
        text = "".join([*pieces, text[done:]])
    return text, masked


def is_resident_number(digits: Sequence[int]) -> bool:
    """Whether 13 digits are a Korean resident registration number: a birth date, and the check digit.

    (11 - Σ wᵢdᵢ mod 11) mod 10 with weights 2 … 9, 2 … 5; 13 instead of 11 for foreigners (seventh digit 5 to 8).
    Numbers given out from October 2020 on have no check digit: for a birth date after that, the date is enough.
    """
    year = (1900 if digits[6] in (1, 2, 5, 6) else 2000) + 10 * digits[0] + digits[1]
    month, day = 10 * digits[2] + digits[3], 10 * digits[4] + digits[5]
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return False
    if (year, month) >= (2020, 10):
        return True
    total = sum(w * d for w, d in zip((2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), digits, strict=False))
    return ((13 if digits[6] >= 5 else 11) - total % 11) % 10 == digits[12]


def is_card_number(digits: Sequence[int]) -> bool:
    """Luhn's check (ISO/IEC 7812-1, annex B): from the right every second digit doubled, its digits summed."""
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


_CHECKS = {"resident_number": is_resident_number, "card_number": is_card_number}


# --- boilerplate ----------------------------------------------------------------------------------

# Lines that are one of these, but for case, signs at their ends and spaces.
_NAVIGATION = {
    "share", "share this", "tweet", "log in", "login", "sign in", "sign up", "subscribe", "read more", "back to top",
    "skip to content", "skip to main content", "print this page", "leave a comment",
    "로그인", "회원가입", "공유하기", "구독하기", "본문 바로가기", "본문바로가기", "맨 위로", "맨위로", "이전 글",
    "이전글", "다음 글", "다음글", "더보기", "더 보기", "댓글 쓰기", "댓글쓰기", "인쇄하기", "스크랩하기", "목록으로",
    "페이스북", "트위터", "카카오톡", "카카오스토리", "네이버 블로그", "url 복사", "글자 크기", "기사 제보",
}  # fmt: skip
_LONGEST_NAVIGATION = max(map(len, _NAVIGATION)) + 4

# Short lines that hold one of the first strings, and match. (Texts without them are spared the rest.)
_NOTICES = (
    "opyright", "OPYRIGHT", "ights reserved", "ights Reserved", "IGHTS RESERVED",
    "avaScript", "avascript", "ookie", "무단", "저작권자", "자바스크립트", "쿠키",
)  # fmt: skip
_NOTICE = re.compile(
    r"\W*(?:copyright|copyrights) ?(?:©|ⓒ|\(c\)|[12][0-9]{3}|by\b).{0,60}"
    r"|.*\ball rights reserved\b.{0,20}"
    r"|(?:please |you (?:need|have) to |you must )?(?:enable|turn on|activate) (?:javascript|cookies)\b.*"
    r"|.*\b(?:javascript|cookies) (?:is|are|must be|needs? to be) (?:currently )?(?:disabled|enabled|required)\b.*"
    r"|(?:we|this (?:web)?site|our (?:web)?site) uses? cookies\b.*|by (?:continuing|using) .*\bcookies\b.*"
    r"|.*무단 ?(?:전재|복제|배포|도용).{0,20}(?:금지|금합니다|금함|불허).*|\W*저작권자 ?(?:©|ⓒ|\(c\)).*"
    r"|.*자바스크립트를? ?(?:활성화|사용하도록|허용).*|.*(?:사이트|홈페이지)[은는]? .{0,20}쿠키를 (?:사용|이용).*"
)
_LONGEST_NOTICE = 160


def remove_boilerplate(text: str) -> tuple[str, str]:
    """`text` without lines that are navigation, or notices about copyright, cookies or JavaScript; and those lines.

    The idea is C4's (Raffel et al. 2020, section 2.2); because the corpora hold programming manuals, which speak of
    JavaScript and cookies, a line must read like the notice.
    """
    notices = [word for word in _NOTICES if word in text]
    kept: list[str] = []
    removed: list[str] = []
    for line in text.split("\n"):
        if (
            len(line) <= _LONGEST_NAVIGATION
            and line[:1] not in (" ", "\t")  # an indented line is code
            and line.strip(" []|<>·▶▲▼»«:").casefold() in _NAVIGATION
        ) or (
            notices
            and len(line) <= _LONGEST_NOTICE
            and any(word in line for word in notices)
            and _NOTICE.fullmatch(line.casefold())
        ):
            removed.append(line)
        else:
            kept.append(line)
    if not removed:
        return text, ""
    return _tidy("\n".join(kept)), "\n".join(removed)


# --- cutting --------------------------------------------------------------------------------------

# Where a text may be cut, best first; from which share of the longest piece on each will do.
_ENDS = (
    (0.5, re.compile(r"\n\n+")),  # paragraphs
    (0.7, re.compile(r"\n+")),
    (0.8, re.compile(r"\n+|(?:(?<=[.!?…。])|(?<=[.!?…。][\"'”’)]))\s+")),  # sentences
    (0.9, re.compile(r"\s+")),
)


def cut(text: str, longest: int) -> Iterator[tuple[int, int]]:
    """Where the pieces of `text` begin and end: none has more than `longest` characters, and what lies between two is
    white space. At the end of a paragraph if there is one in the second half of a piece, else of a line, of a
    sentence, of a word; else where it becomes too long.

    An end depends on the piece and not on what follows, so that without some of its pieces a text is cut as before.
    """
    start = 0
    while len(text) - start > longest:
        for number, (share, end) in enumerate(_ENDS):
            until = _ENDS[number + 1][0] if number + 1 < len(_ENDS) else 1.0
            found = end.search(text, start + int(share * longest), start + int(until * longest))
            if found:
                yield start, found.start()
                start = found.end()
                break
        else:
            yield start, start + longest
            start += longest
    yield start, len(text)


# --- repetition -----------------------------------------------------------------------------------

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


# --- language -------------------------------------------------------------------------------------

MOST_CODE = 4
"""Letters in all, for one of those that a Korean page must have: a listing with one Korean comment is not Korean."""


# --- all of it ------------------------------------------------------------------------------------

AT_ONCE = 10
"""Times `max_characters` that are brought to the normal form together: a file of 200 MB should cost little more memory
than its text."""


class Dropped(StrEnum):
    """Why a document, or a part of one, is not in the corpus. (`sllm.data.dedup` drops more, when all sources are
    there.)"""

    TOO_SHORT = "too_short"
    LANGUAGE = "language"
    BOILERPLATE = "boilerplate"
    REPEATED_CHARACTERS = "repeated_characters"
    REPEATED_LINES = "repeated_lines"
    REPEATED_PHRASES = "repeated_phrases"


@dataclass(frozen=True)
class Lost:
    """What the corpus does not get of a text: all, or some pieces or lines."""

    reason: Dropped
    text: str

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
    """Cleans the texts of a source. What becomes of a text depends on nothing but the text."""

    def __init__(self, config: DataConfig, language: Language) -> None:
        from sllm.data import measures  # compiled loops: those who only read a corpus need not load them

        self._config, self._rules, self._language, self._measures = config, config.clean, language, measures

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
                    yield from self._clean(_tidy(text[start:end]), masked)
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
        digest = digest_of(text)
        position = (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: what a float holds exactly
        split: Split = "validation" if position < self._config.validation_fraction else "train"
        yield Document(text, digest, len(text.encode("utf-8")), position, split, masked)

    def _judge(self, text: str, known: "dict[str, Measures]") -> tuple[str, list[Lost]]:
        """What is left of a text, and what is not. `known` holds what was measured of it already."""
        pieces = [text[start:end] for start, end in cut(text, PIECE)]
        for piece in pieces:
            if piece not in known:
                first = FIRST_REPEATED[self._language]
                known[piece] = self._measures.measure(piece, first, negligible=MOST_REPEATED[-1])
        if not self._is_of_the_language(text, [known[piece] for piece in pieces]):
            return "", [Lost(Dropped.LANGUAGE, text)]
        if not self._rules.repetition:
            return text, []
        reasons = [_repetition(known[piece]) for piece in pieces]
        if len(pieces) > 1:
            seen: set[str] = set()
            for number, piece in enumerate(pieces):
                lines = piece.split("\n")
                if sum(map(len, filter(seen.__contains__, lines))) > MOST_KNOWN * len(piece):
                    reasons[number] = reasons[number] or Dropped.REPEATED_LINES
                elif not reasons[number]:
                    seen.update(lines)
        if not any(reasons):
            return text, []
        lost = [Lost(reason, piece) for piece, reason in zip(pieces, reasons, strict=True) if reason]
        neighbours = groupby(zip(cut(text, PIECE), reasons, strict=True), key=lambda place: place[1] is None)
        kept = [[place for place, _ in places] for is_kept, places in neighbours if is_kept]
        return _tidy("\n\n".join(text[places[0][0] : places[-1][1]] for places in kept)), lost

    def _is_of_the_language(self, text: str, found: "list[Measures]") -> bool:
        letters, latin = sum([m.letters for m in found]), sum([m.latin for m in found])
        if self._language == "en":
            return latin >= self._rules.min_latin * max(letters, 1)
        hangul, least = sum([m.hangul for m in found]), self._rules.min_hangul
        if hangul >= least * max(letters, 1):
            return True
        # A Korean page may hold more code and names than Korean; what counts against it is prose.
        foreign = letters - hangul - latin + self._measures.latin_prose(text)
        return hangul >= least * max(hangul + foreign, letters / MOST_CODE, 1)


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
