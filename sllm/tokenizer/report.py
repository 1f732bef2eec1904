"""What a tokenizer makes of text it was not learnt from: figures, tokens to look at, and a peer to compare with."""

import json
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np
import regex
from rich.console import Console
from rich.table import Table

from sllm.progress import track
from sllm.stop import StopFlag
from sllm.tokenizer.codec import FIRST_BYTE, SPECIAL_TOKENS, Tokenizer, byte_level_name
from sllm.workers import in_a_process

HANGUL, LATIN = regex.compile(r"\p{Hangul}").search, regex.compile(r"\p{Latin}{2}").search

PEER_BYTES = 32_000_000
"""Up to this much text the stage also trains the peer, which needs several times our time and memory."""

PEER_SECONDS = 300.0
"""How long the peer may take: its time grows with the square of a word's length."""

LISTED = 100
SHOWN = 25
SENTENCES = 3
SENTENCE_CHARACTERS = 60


def compare(
    tokenizer: Tokenizer,
    held_out: dict[str, list[str]],
    sample: Callable[[], Iterable[str]],
    sample_bytes: int,
    stop: StopFlag,
) -> dict[str, Any]:
    """Figures on `held_out` (documents by language), and the same of `tokenizers` if it is installed and the sample is
    no larger than PEER_BYTES; without them, if it fails or takes longer than PEER_SECONDS, but with the reason."""
    figures = {}
    for name, texts in held_out.items():
        stop.check()
        figures[name] = measure(tokenizer, texts)
    peer, without_peer = None, None
    if find_spec("tokenizers") and sample_bytes <= PEER_BYTES:
        try:
            arguments = sample, tokenizer.vocab_size, tokenizer.pattern
            with track("comparing with tokenizers"):
                merges = in_a_process(_peer_merges, *arguments, seconds=PEER_SECONDS, stop=stop)
            other = Tokenizer(merges, tokenizer.pattern)
            peer = {name: measure(other, texts) for name, texts in held_out.items()}
        except RuntimeError as error:
            without_peer = str(error)
    return {
        "held_out": figures,
        "tokenizers": peer,
        "without_tokenizers": without_peer,
        **look_at_tokens(tokenizer, held_out),
        "sentences": {name: segmented(tokenizer, texts) for name, texts in held_out.items()},
    }


def is_mixed(line: str) -> bool:
    """Whether the line holds both Hangul and Latin letters."""
    # Not one pattern for both: from each letter on it would look through the rest of the line.
    return bool(HANGUL(line) and LATIN(line))


def measure(tokenizer: Tokenizer, texts: list[str]) -> dict[str, float]:
    """Counts and ratios over `texts`. A word is what stands between white space: for Korean, an eojeol."""
    counts = count_tokens(tokenizer, texts)
    tokens = int(counts.sum())
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    words = sum(len(text.split()) for text in texts)
    return {
        "documents": len(texts),
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": size / max(1, tokens),
        "tokens_per_word": tokens / max(1, words),
        "partial_character_share": int(counts[~whole(tokenizer)].sum()) / max(1, tokens),
        "vocabulary_used": int(np.count_nonzero(counts)) / (tokenizer.vocab_size - len(tokenizer.special_tokens)),
    }


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> np.ndarray:
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for text in texts:
        counts += np.bincount(tokenizer.encode_to_numpy(text), minlength=len(counts))
    return counts


def whole(tokenizer: Tokenizer) -> np.ndarray:
    """For each token whether its bytes are whole UTF-8 characters."""
    return np.array([is_utf8(token) for token in tokenizer.token_bytes])


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def look_at_tokens(tokenizer: Tokenizer, held_out: dict[str, list[str]]) -> dict[str, Any]:
    """The longest tokens, and the most frequent ones of each language."""
    complete = whole(tokenizer)
    by_length = sorted(np.flatnonzero(complete).tolist(), key=lambda i: (-len(tokenizer.decode([i])), i))
    frequent = {}
    for name, texts in held_out.items():
        counts = count_tokens(tokenizer, texts)
        frequent[name] = [
            {"token": shown(tokenizer, i), "count": int(counts[i])}
            for i in np.argsort(-counts, kind="stable")[:LISTED].tolist()
            if counts[i]
        ]
    return {
        "partial_characters_in_vocabulary": int(np.count_nonzero(~complete)),
        "longest_tokens": [shown(tokenizer, i) for i in by_length[:LISTED]],
        "frequent_tokens": frequent,
    }


def segmented(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[str]]:
    """The tokens of a few short lines."""
    lines = (line for text in texts for line in text.splitlines() if 20 <= len(line) <= SENTENCE_CHARACTERS)
    return [[shown(tokenizer, i) for i in tokenizer.encode(line)] for line in islice(lines, SENTENCES)]


def shown(tokenizer: Tokenizer, token: int) -> str:
    """A token for people: its text, or hexadecimal bytes if it is no whole character."""
    data = tokenizer.token_bytes[token]
    if is_utf8(data):
        return data.decode("utf-8")
    return f"<{data.hex(' ')}>"


def _peer_merges(sample: Callable[[], Iterable[str]], vocab_size: int, pattern: str) -> list[tuple[int, int]]:
    return list(train_peer(sample(), vocab_size, pattern).merges)


def train_peer(texts: Iterable[str], vocab_size: int, pattern: str) -> Tokenizer:
    """What the BPE trainer of Hugging Face `tokenizers` learns from the same text, in our own class."""
    from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    peer = HuggingFaceTokenizer(models.BPE())
    peer.normalizer = normalizers.NFC()
    peer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    peer.train_from_iterator(texts, trainer)
    ids = {byte_level_name(bytes([byte])): FIRST_BYTE + byte for byte in range(256)}
    merges = []
    for a, b in json.loads(peer.to_str())["model"]["merges"]:
        merges.append((ids[a], ids[b]))
        ids[a + b] = FIRST_BYTE + 255 + len(merges)
    return Tokenizer(merges, pattern)


# --- for people -----------------------------------------------------------------------------------


def print_report(report: dict[str, Any]) -> None:
    # A fixed width, because a batch log has none.
    Console(width=110).print(*tables(report), sep="\n", markup=False)


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """The report, as tables to print."""
    summary, pruned, peer = report["summary"], report["pruned"], report["tokenizers"]
    title = f"Tokenizer of {summary['vocab_size']:,} ids, learnt from {summary['bytes'] / 1e6:,.1f} MB"
    if pruned["distinct_words"]:
        title += (
            f", without {pruned['distinct_words']:,} words seen less than {pruned['words_seen_less_than']} times "
            f"({pruned['bytes'] / summary['bytes']:.1%} of the text)"
        )
    caption = "measured on validation documents; a Korean word is an eojeol"
    if report["without_tokenizers"]:
        caption += f"; without the figures of `tokenizers`, which {report['without_tokenizers']}"
    figures = Table(title=title, caption=caption)
    figures.add_column("text")
    for column in ("MB", "bytes per token", "tokens per word", "part of a character", "vocabulary used"):
        figures.add_column(column, justify="right")
    if peer:
        figures.add_column("tokenizers: bytes per token", justify="right")
    for name, row in report["held_out"].items():
        cells = [
            name,
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['bytes_per_token']:.3f}",
            f"{row['tokens_per_word']:.3f}",
            f"{row['partial_character_share']:.2%}",
            f"{row['vocabulary_used']:.1%}",
        ]
        figures.add_row(*cells, *([f"{peer[name]['bytes_per_token']:.3f}"] if peer else []))
    yield figures

    tokens = Table(title="Tokens", show_lines=True, show_header=False)
    tokens.add_column()
    tokens.add_column(overflow="fold")
    tokens.add_row("longest", marked(report["longest_tokens"][:SHOWN]))
    for name, row in report["frequent_tokens"].items():
        tokens.add_row(f"most frequent, {name}", marked(entry["token"] for entry in row[:SHOWN]))
    for name, sentences in report["sentences"].items():
        for sentence in sentences:
            tokens.add_row(name, marked(sentence))
    yield tokens


def marked(tokens: Iterable[str]) -> str:
    """Tokens side by side, with the white space in them visible."""
    return "│".join(token.replace(" ", "·").replace("\n", "↵").replace("\t", "→") for token in tokens)
