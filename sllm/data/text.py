"""A text as all rules of the corpus see it: its normal form, what stands for it, and where it may be cut."""

import hashlib
import re
from collections.abc import Iterator

from sllm.tokenizer.codec import nfc

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
    return tidy(nfc("\n".join([line.rstrip() for line in lines])))


def tidy(text: str) -> str:
    """One blank line where there are several, and no white space around the text."""
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip()


def digest_of(encoded: bytes) -> bytes:
    """16 bytes that stand for a normalised text in UTF-8: equal for equal texts, and for no others that anyone will
    meet."""
    return hashlib.blake2b(encoded, digest_size=16).digest()


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
