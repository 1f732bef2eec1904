"""Byte-pair encoding by the book, slow and plain: what the compiled trainer must agree with."""

import heapq
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

    def enter(i: int, sign: int) -> set[Pair]:
        pairs = list(itertools.pairwise(parts[i]))
        for pair in pairs:
            counts[pair] += sign * weights[i]
            holders[pair].add(i)
        return set(pairs)

    for i in range(len(parts)):
        enter(i, +1)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < n_merges:
        count, best = heapq.heappop(heap)
        if count == 0 or -count != counts[best]:
            continue  # the count has changed since; the right one is in the heap as well
        changed: set[Pair] = set()
        for i in holders.pop(best):
            changed |= enter(i, -1)
            parts[i] = join(parts[i], best, FIRST_MERGE + len(merges))
            changed |= enter(i, +1)
        for pair in changed:
            heapq.heappush(heap, (-counts[pair], pair))
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
