"""What a document is, once clean: one normal form, counted once, for ever on one side of the train/validation split."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from unicodedata import normalize

from sllm.config import DataConfig, Language

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
    text = normalize("NFC", "\n".join([line.rstrip() for line in lines]))
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip()


def digest_of(text: str) -> bytes:
    """16 bytes that stand for a normalised text: equal for equal texts, and for no others that anyone will meet."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


class Dropped(StrEnum):
    """Why a document is not in the corpus. (`sllm.data.dedup` drops more, when all sources are there.)"""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"

    @property
    def reason(self) -> str:
        return self.value


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
    """Cleans the documents of a source. What becomes of a text depends on nothing but the text."""

    def __init__(self, config: DataConfig, language: Language) -> None:
        self._config, self._language = config, language

    def clean(self, text: str) -> Document | Dropped:
        """The normalised document, or why it is dropped.

        The split depends on nothing but the normalised text and `validation_fraction`, and a larger fraction only
        moves documents from train to validation: no text is ever on both sides, in whichever source it stands.
        """
        text = normalise(text)
        if len(text) < self._config.min_characters:
            return Dropped.TOO_SHORT
        if len(text) > self._config.max_characters:
            return Dropped.TOO_LONG
        digest = digest_of(text)
        position = (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: what a float holds exactly
        split: Split = "validation" if position < self._config.validation_fraction else "train"
        return Document(text, digest, len(text.encode("utf-8")), position, split, Counter())
