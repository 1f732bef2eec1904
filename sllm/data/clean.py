"""What a document is, once clean: one normal form, counted once, for ever on one side of the train/validation split."""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from unicodedata import normalize

from sllm.config import DataConfig

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


class Dropped(StrEnum):
    """Why a document is not in the corpus."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Document:
    text: str
    size: int
    """Bytes of the text in UTF-8."""
    position: float
    """A number in [0, 1) made of the text's hash: below `validation_fraction` it is a validation document."""
    split: Split


class Cleaner:
    """Cleans the documents of all sources of one experiment. Of equal texts the first that comes is kept.

    Remembers 16 bytes for every text kept, about 100 bytes of memory with the set around them.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._seen: set[bytes] = set()

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
        content = text.encode("utf-8")
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest in self._seen:
            return Dropped.DUPLICATE
        self._seen.add(digest)
        position = (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: what a float holds exactly
        split: Split = "validation" if position < self._config.validation_fraction else "train"
        return Document(text, len(content), position, split)
