"""Text to token ids and back, and `tokenizer.json`.

A vocabulary is laid out as: ids 0–15 the special tokens, 16–271 the bytes 0–255, from 272 on one token for each merge
in the order it was learnt. The merges and the split pattern are therefore all that there is to know about a tokenizer.
Older ones have four special tokens, and bytes from 4 on; they go on working, but none is learnt any more.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category, combining, normalize

from sllm.errors import UserError
from sllm.files import write_text
from sllm.tokenizer.characters import states_after

if TYPE_CHECKING:
    import numpy as np
    import tiktoken

FORMER_SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
SPECIAL_TOKENS = (
    *FORMER_SPECIAL_TOKENS,
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),  # for conversations: no text of the corpus has them
    *(f"<|reserved_{i}|>" for i in range(8)),  # for what a later training adds
)
FIRST_BYTE = len(SPECIAL_TOKENS)
FIRST_MERGE = FIRST_BYTE + 256

LONG_PARTICLES = ("에서는", "에게는", "으로는", "에서", "에게", "으로", "까지", "부터", "처럼", "보다")
SHORT_PARTICLES = "은는이가을를의에도로와과만"
"""Josa, with which a Korean noun is inflected."""

_PARTICLE = f"(?:{'|'.join(LONG_PARTICLES)}|[{SHORT_PARTICLES}])"
SPLIT_PATTERN = (
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"  # English contractions
    # A Korean word up to its particle, or the particle. The bound keeps backtracking short, and `(?:[^\p{L}]|$)` says
    # what `(?!\p{L})` says, faster.
    rf"|[^\r\n\p{{L}}\p{{N}}]?(?=[가-힣])(?:{_PARTICLE}(?!\p{{L}})|[가-힣]{{1,15}}?(?={_PARTICLE}(?:[^\p{{L}}]|$)))"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # another word; like that one, with the space or sign before it
    r"|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"  # white space, but the last one belongs to the word after it
    r"|\s+"
)
"""What a merge never crosses: the pattern of cl100k (tiktoken), with the particle at the end of a Korean word apart, so
that a noun is the same tokens before any particle, and with numbers in pieces of at most two digits."""

LONG_RUN = 100_000
"""So many characters of white space in a row are cut out here: tiktoken's regex engine gives up at a million."""

MARKS = 64
"""From so many combining marks one after another on, they are sorted here before Unicode's normalisation."""


class Tokenizer:
    """A byte-level BPE tokenizer. Text is brought to NFC first; every other byte of it comes back from `decode`.

    >>> tokenizer = Tokenizer([(FIRST_BYTE + ord("a"), FIRST_BYTE + ord("b"))])
    >>> tokenizer.encode("abc", bos=True)
    [2, 272, 115]
    >>> tokenizer.decode([2, 272, 115])
    'abc'
    """

    pad_id, unk_id, bos_id, eos_id = range(len(FORMER_SPECIAL_TOKENS))

    def __init__(
        self,
        merges: Iterable[tuple[int, int]],
        pattern: str = SPLIT_PATTERN,
        special_tokens: tuple[str, ...] = SPECIAL_TOKENS,
    ) -> None:
        """`merges`: the two ids that token 272, 273, … joins (260, 261, … after the four FORMER_SPECIAL_TOKENS). Raises
        ValueError if they are not a vocabulary."""
        self.merges = tuple((int(a), int(b)) for a, b in merges)
        self.pattern = pattern
        self.special_tokens = special_tokens
        first_byte = len(special_tokens)
        self.token_bytes: list[bytes] = [b""] * first_byte + [bytes([byte]) for byte in range(256)]
        for a, b in self.merges:
            if not (first_byte <= a < self.vocab_size and first_byte <= b < self.vocab_size):
                raise ValueError(f"merge {len(self.token_bytes)} joins {a} and {b}, which are not tokens before it")
            self.token_bytes.append(self.token_bytes[a] + self.token_bytes[b])
        if len(set(self.token_bytes)) != 1 + 256 + len(self.merges):
            raise ValueError("two tokens hold the same bytes")

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides which ids a text becomes."""
        content = json.dumps([self.special_tokens, self.pattern, self.merges], separators=(",", ":"))
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    @cached_property
    def utf8_states(self) -> list[bytes]:
        """Where each token leaves a decoder of UTF-8, by where it stood before: see `sllm.tokenizer.characters`."""
        return states_after(len(self.special_tokens), self.eos_id, self.merges)

    @cached_property
    def _encoding(self) -> "tiktoken.Encoding":
        import tiktoken

        ranks = {token: i for i, token in enumerate(self.token_bytes) if token}
        return tiktoken.Encoding("sllm", pat_str=self.pattern, mergeable_ranks=ranks, special_tokens={})

    @cached_property
    def _one_word(self) -> "tiktoken.Encoding":
        """Encodes all it is given as one word."""
        import tiktoken

        ranks = {token: i for i, token in enumerate(self.token_bytes) if token}
        return tiktoken.Encoding("one word", pat_str=r"(?s).+", mergeable_ranks=ranks, special_tokens={})

    # --- encoding ---------------------------------------------------------------------------------

    def encode(
        self,
        text: str,
        *,
        bos: bool = False,
        eos: bool = False,
        allowed_special: frozenset[str] | set[str] = frozenset(),
    ) -> list[int]:
        """Token ids of `text`, between `<bos>` and `<eos>` if asked.

        A special token written in the text is text, unless it is in `allowed_special`. A lone surrogate, which no
        UTF-8 can hold, becomes U+FFFD. Raises ValueError if `allowed_special` names what is none of this tokenizer's.
        """
        if unknown := set(allowed_special).difference(self.special_tokens):
            raise ValueError(f"no special tokens of this tokenizer: {' '.join(sorted(unknown))}")
        ids = [self.bos_id] if bos else []
        for part in _split_at(allowed_special, text) if allowed_special else (text,):
            if part in allowed_special:
                ids.append(self.special_tokens.index(part))
            else:
                for encoding, piece in self._pieces(nfc(part)):
                    ids += encoding.encode_ordinary(piece)
        if eos:
            ids.append(self.eos_id)
        return ids

    def encode_batch(
        self, texts: Iterable[str], *, bos: bool = False, eos: bool = False, workers: int = 1
    ) -> list[list[int]]:
        """`encode` of every text, in `workers` threads: tiktoken lets go of the interpreter lock while it encodes."""
        if workers == 1:
            return [self.encode(text, bos=bos, eos=eos) for text in texts]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda text: self.encode(text, bos=bos, eos=eos), texts))

    def encode_to_numpy(self, text: str) -> "np.ndarray":
        """`encode(text)` as a uint32 array, without a Python object for every token: for packing."""
        import numpy as np

        pieces = [encoding.encode_to_numpy(piece) for encoding, piece in self._pieces(nfc(text))]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _pieces(self, text: str) -> "Iterator[tuple[tiktoken.Encoding, str]]":
        """The text, and what encodes it: in pieces if it has long runs of white space, each of which is one word."""
        start = 0
        if len(text) >= LONG_RUN and self.pattern == SPLIT_PATTERN:
            for run in _long_runs().finditer(text):
                for word in _words_of_run(text, *run.span()):
                    yield self._encoding, text[start : word[0]]
                    yield self._one_word, text[slice(*word)]
                    start = word[1]
        yield self._encoding, text[start:]

    # --- decoding ---------------------------------------------------------------------------------

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of all tokens; special tokens have none. Raises IndexError for an id above the vocabulary."""
        return b"".join([self.token_bytes[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of all tokens; bytes that are not UTF-8 (a character cut in two, say) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def stream_decoder(self) -> "StreamDecoder":
        return StreamDecoder(self.token_bytes)

    # --- tokenizer.json ---------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write a Hugging Face `tokenizer.json`, which `tokenizers` and Transformers load.

        They put `<bos>` before a text, as it stands in training, unless asked not to (`add_special_tokens=False`).
        """
        write_text(path, json.dumps(self._document(), ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Raises UserError if `path` cannot be read or is not a tokenizer of this kind.

        What it puts around a text (`post_processor`) may be anything: our `encode` asks its caller.
        """
        path = Path(path)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; `sllm tokenizer CONFIG` writes one") from None
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name a tokenizer.json") from None
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); write it again with `sllm tokenizer CONFIG`") from None
        try:
            model = document["model"]
            ids = model["vocab"]
            # Older Hugging Face files join the two names of a merge with a space.
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            pattern = document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
            special_tokens = tuple(token["content"] for token in document["added_tokens"])
            tokenizer = cls(((ids[a], ids[b]) for a, b in pairs), pattern, special_tokens)
            ours = tokenizer._document()
            same = (
                special_tokens in (SPECIAL_TOKENS, FORMER_SPECIAL_TOKENS)
                and ids == ours["model"]["vocab"]
                and all(document[part] == ours[part] for part in ("added_tokens", "normalizer", "pre_tokenizer"))
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            same = False
        if not same:
            raise UserError(
                f"{path}: not a tokenizer written by `sllm tokenizer` (byte-level BPE, NFC, special tokens "
                f"{' '.join(FORMER_SPECIAL_TOKENS)} as 0 to {len(FORMER_SPECIAL_TOKENS) - 1}); name one that is"
            )
        return tokenizer

    def _document(self) -> dict[str, Any]:
        special = self.special_tokens
        names = [*special, *(byte_level_name(token) for token in self.token_bytes[len(special) :])]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        first, second = (
            [{"SpecialToken": {"id": "<bos>", "type_id": i}}, {"Sequence": {"id": name, "type_id": i}}]
            for i, name in enumerate("AB")
        )
        split = {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": i,
                    "content": token,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
                for i, token in enumerate(special)
            ],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": first,
                "pair": first + second,
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [self.bos_id], "tokens": ["<bos>"]}},
            },
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {name: i for i, name in enumerate(names)},
                "merges": [[names[a], names[b]] for a, b in self.merges],
            },
        }


# --- text that the libraries cannot take ----------------------------------------------------------


@cache
def _long_runs() -> re.Pattern[str]:
    # Unicode's White_Space; Python's own \s has four more.
    space = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
    return re.compile(f"{space}{{{LONG_RUN},}}")


def _words_of_run(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where SPLIT_PATTERN cuts the white space text[start:end], all that there is in a row: start and end of each word
    that is nothing but it."""
    if start > 0 and category(text[start - 1])[0] not in "LN":
        while start < end and text[start] in "\r\n":  # belong to the signs before them
            start += 1
    line_end = max(text.rfind("\r", start, end), text.rfind("\n", start, end)) + 1
    if line_end:
        yield start, line_end
        start = line_end
    if end < len(text):
        end -= 1  # the last one belongs to the word after it
    if start < end:
        yield start, end


def _split_at(tokens: Iterable[str], text: str) -> list[str]:
    return re.split(f"({'|'.join(map(re.escape, tokens))})", text)


def nfc(text: str) -> str:
    """Unicode's normalization form C. `normalize` alone takes time that grows with the square of a run of combining
    marks (20 seconds for 80,000 of them) unless they are in canonical order."""
    # A run of MARKS has one at every place divisible by MARKS that it reaches.
    if not text.isascii() and any(map(_is_mark, text[::MARKS])):
        text = _runs_of_marks().sub(_in_canonical_order, text)
    return normalize("NFC", text)


def _in_canonical_order(run: re.Match[str]) -> str:
    marks = "".join([normalize("NFD", mark) for mark in run[0]])
    return "".join(sorted(marks, key=combining))


@lru_cache(1 << 14)  # every text asks for some of its characters
def _is_mark(character: str) -> bool:
    return combining(normalize("NFD", character)[0]) > 0


@cache
def _runs_of_marks() -> re.Pattern[str]:
    marks = "".join(filter(_is_mark, map(chr, range(0x110000))))
    return re.compile(f"[{marks}]{{{MARKS},}}")


class StreamDecoder:
    """Decodes tokens one at a time; what it emits, joined, is `Tokenizer.decode` of them all."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The characters that `token` completes; bytes of a character that is not complete yet are held back."""
        return self._decoder.decode(self._token_bytes[token])

    def finish(self) -> str:
        """What was held back: U+FFFD if the last character was never completed, else nothing."""
        return self._decoder.decode(b"", final=True)


def _byte_level_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2, Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def byte_level_name(token: bytes) -> str:
    """How `tokenizer.json` writes a token, for example 'Ġthe' for b' the'."""
    return "".join([_ALPHABET[byte] for byte in token])
