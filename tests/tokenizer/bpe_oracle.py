"""Byte-pair encoding by the book, slow and plain: what the compiled trainer must agree with."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from unicodedata import normalize

import regex

from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE, SPLIT_PATTERN

Pair = tuple[int, int]


def oracle_words(texts: Iterable[str]) -> Counter[bytes]:
    """Every word of at least two bytes and how often it occurs. Surrogates pair up or become U+FFFD, then NFC."""
    words: Counter[str] = Counter()
    for text in texts:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        words.update(regex.findall(SPLIT_PATTERN, normalize("NFC", text)))
    return Counter({word.encode("utf-8"): n for word, n in words.items() if len(word.encode("utf-8")) > 1})


def oracle_merges(words: Counter[bytes], n_merges: int) -> list[Pair]:
    """The most frequent pair becomes a token; among equals, the smallest pair of ids. Stops when no pair is left."""
    parts = [[FIRST_BYTE + byte for byte in word] for word in words]
    weights = list(words.values())
    counts: Counter[Pair] = Counter()
    holders: defaultdict[Pair, set[int]] = defaultdict(set)

    def enter(i: int, sign: int) -> None:
        for pair in itertools.pairwise(parts[i]):
            counts[pair] += sign * weights[i]
            holders[pair].add(i)

    for i in range(len(parts)):
        enter(i, +1)
    merges: list[Pair] = []
    while len(merges) < n_merges:
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] == 0:
            break
        for i in holders.pop(best):
            enter(i, -1)
            parts[i] = join(parts[i], best, FIRST_MERGE + len(merges))
            enter(i, +1)
        del counts[best]
        merges.append(best)
    return merges


def join(part: list[int], pair: Pair, new: int) -> list[int]:
    """`part` with `new` for every occurrence of `pair`, from left to right."""
    joined: list[int] = []
    i = 0
    while i < len(part):
        if tuple(part[i : i + 2]) == pair:
            joined.append(new)
            i += 2
        else:
            joined.append(part[i])
            i += 1
    return joined
