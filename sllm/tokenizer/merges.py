"""Learning merges from counted words: the inner loop of byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909).

Again and again the pair of tokens that stands side by side most often becomes a token; of equally frequent pairs the
one with the smallest left id, then the smallest right id. `aaa` holds the pair (a, a) twice; joining goes from
left to right.

What makes it fast:

* The words are one flat array of cells, one for each byte. The first cell of a token holds its id, the last one minus
  the distance to the first. Neighbours are found by arithmetic, in the same cache line.
* A pair's places are listed once. Every pair with token n in it arises while n is merged and only loses places later.
  So lists never grow, counts never rise, and all new pairs of a merge are gathered in plain arrays indexed by the
  neighbour's id. A listed place counts only if the pair still stands there.
* Most pairs are far too rare ever to be merged. Pairs below a floor are not followed; when none above it is left, the
  floor sinks and the words are indexed again.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import uint64

from sllm.compiled import compiled
from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE
from sllm.tokenizer.words import Words

BOUNDARY = np.iinfo(np.int32).min
"""Stands in the cell between two words."""
WORK = 1 << 20
"""Places to look at before control goes back to Python, for progress and stopping."""

DONE, FLOOR, FULL = range(3)  # why `merge` returned


def learn_merges(words: Words, n_merges: int, floor: int | None = None) -> Iterator[list[tuple[int, int]]]:
    """Yield the pairs of ids that become tokens 272, 273, …, a few at a time; fewer than `n_merges` if none is left.

    `floor`: the count below which pairs are not followed at first. It changes the work, never the result.
    """
    vocab_size = FIRST_MERGE + n_merges
    cells = _cells(words)
    lengths = np.ones(vocab_size, np.int32)  # bytes of each token
    merges = np.empty((vocab_size, 2), np.int32)
    token = FIRST_MERGE
    if floor is None:
        # Experience: the last merge has rarely been as rare as that.
        floor = max(1, int(np.dot(np.diff(words.ends, prepend=0) - 1, words.counts)) // (64 * vocab_size))
    index = build_index(cells, lengths, floor)
    while token < vocab_size:
        start = token
        token, reason = merge(token, merges, cells, lengths, floor, index)
        if token > start:
            yield [(int(a), int(b)) for a, b in merges[start:token]]
        if reason == FLOOR:
            if floor == 1:
                return
            floor = max(1, floor // 8)
        if reason != DONE:
            index = build_index(cells, lengths, floor)


def _cells(words: Words) -> np.ndarray:
    """(N, 2): the token or mark of each byte, and the count of the word it is in; a BOUNDARY around every word."""
    n = len(words.letters) + len(words) + 1
    assert n < 2**31, "places are 32-bit"
    assert len(words) == 0 or words.counts.max() < 2**31, "counts of words are 32-bit"
    cells = np.empty((n, 2), np.int32)
    fill_cells(cells, words.letters, words.ends, words.counts, FIRST_BYTE)
    return cells


@compiled
def fill_cells(cells, letters, ends, counts, first_byte):  # type: ignore[no-untyped-def]
    # An argument, because compiled code in the cache keeps a constant of another module as it was.
    cells[0, 0] = BOUNDARY
    at, i = 1, 0
    for word in range(len(ends)):
        while i < ends[word]:
            cells[at, 0] = first_byte + letters[i]
            cells[at, 1] = counts[word]
            at += 1
            i += 1
        cells[at, 0] = BOUNDARY
        at += 1


# --- the index: every pair worth following, its count and its places ------------------------------


class Index(NamedTuple):
    """The pairs that stand in the cells at least `floor` times, with room for those to come."""

    slots: np.ndarray
    """int32, a hash table: the number of a pair + 1, or 0."""
    keys: np.ndarray
    """int64: the left id of a pair in the high half, the right id in the low half."""
    counts: np.ndarray
    """int64."""
    starts: np.ndarray
    """int64: where in `places` the list of a pair starts."""
    sizes: np.ndarray
    """int32: how long the list is."""
    places: np.ndarray
    """int32: cells in which a pair starts, or once did; ascending within a list."""
    heap: np.ndarray
    """int32: pairs, most frequent first, then smallest key."""
    heap_counts: np.ndarray
    """int64: the counts that the heap is ordered by."""
    used: np.ndarray
    """int64: how many pairs, places and entries of the heap are in use."""


PAIRS, PLACES, HEAP = range(3)  # of `used`


def build_index(cells: np.ndarray, lengths: np.ndarray, floor: int) -> Index:
    vocab_size = len(lengths)
    # A pair's count is at most that of its bucket: the buckets below the floor keep most rare pairs out of the table.
    buckets = np.zeros(1 << 20, np.int64)
    count_buckets(cells, lengths, buckets)
    capacity = 4 * vocab_size
    while True:
        slots = np.zeros(1 << (2 * capacity).bit_length(), np.int32)
        keys = np.empty(capacity, np.int64)
        counts = np.zeros(capacity, np.int64)
        sizes = np.zeros(capacity, np.int32)
        n = count_pairs(cells, lengths, floor, buckets, slots, keys, counts, sizes)
        if n + 2 * vocab_size <= capacity:  # one merge brings at most 2 * vocab_size new pairs
            break
        capacity *= 2
    sizes[counts < floor] = 0
    starts = np.cumsum(sizes, dtype=np.int64) - sizes
    listed = int(sizes.sum(dtype=np.int64))
    # One merge brings at most two new places for each place it joins.
    places = np.empty(listed + max(listed, 2 * int(sizes.max())), np.int32)
    list_places(cells, lengths, slots, keys, counts, starts, floor, places)
    heap, heap_counts = np.empty(capacity, np.int32), np.empty(capacity, np.int64)
    index = Index(slots, keys, counts, starts, sizes, places, heap, heap_counts, np.array([n, listed, 0]))
    for pair in np.flatnonzero(counts[:n] >= floor):
        push(index, pair)
    return index


@compiled
def bucket(key, size):  # type: ignore[no-untyped-def]
    """Fibonacci hashing (Knuth, TAOCP vol. 3, 6.4) into `size` buckets, a power of two."""
    return ((uint64(key) * uint64(0x9E3779B97F4A7C15)) >> uint64(24)) & uint64(size - 1)


@compiled
def find(slots, keys, key):  # type: ignore[no-untyped-def]
    """(slot, pair): where `key` is or belongs, and its number or -1."""
    at = bucket(key, len(slots))
    while slots[at] != 0:
        pair = slots[at] - 1
        if keys[pair] == key:
            return at, pair
        at = (at + uint64(1)) & uint64(len(slots) - 1)
    return at, -1


@compiled
def key_of(a, b):  # type: ignore[no-untyped-def]
    return np.int64(a) << 32 | np.int64(b)


@compiled
def next_pair(cells, lengths, at):  # type: ignore[no-untyped-def]
    """(place, key, following): the first pair at or after the token or boundary at `at`, and the place of its right
    token; place -1 at the end."""
    while at < len(cells):
        a = cells[at, 0]
        if a == BOUNDARY:
            at += 1
            continue
        following = at + lengths[a]
        b = cells[following, 0]
        if b != BOUNDARY:
            return at, key_of(a, b), following
        at = following
    return -1, key_of(0, 0), at


@compiled
def count_buckets(cells, lengths, buckets):  # type: ignore[no-untyped-def]
    at, key, following = next_pair(cells, lengths, 0)
    while at >= 0:
        buckets[bucket(key, len(buckets))] += cells[at, 1]
        at, key, following = next_pair(cells, lengths, following)


@compiled
def count_pairs(cells, lengths, floor, buckets, slots, keys, counts, sizes):  # type: ignore[no-untyped-def]
    """Fill the table; returns the number of pairs, which is its capacity if it was too small."""
    n = 0
    at, key, following = next_pair(cells, lengths, 0)
    while at >= 0:
        if buckets[bucket(key, len(buckets))] >= floor:
            slot, pair = find(slots, keys, key)
            if pair < 0:
                if n == len(keys):
                    return n
                pair = n
                n += 1
                keys[pair] = key
                slots[slot] = n
            counts[pair] += cells[at, 1]
            sizes[pair] += 1
        at, key, following = next_pair(cells, lengths, following)
    return n


@compiled
def list_places(cells, lengths, slots, keys, counts, starts, floor, places):  # type: ignore[no-untyped-def]
    cursors = starts.copy()
    at, key, following = next_pair(cells, lengths, 0)
    while at >= 0:
        _, pair = find(slots, keys, key)
        if pair >= 0 and counts[pair] >= floor:
            places[cursors[pair]] = at
            cursors[pair] += 1
        at, key, following = next_pair(cells, lengths, following)


# --- the heap -------------------------------------------------------------------------------------


@compiled
def before(count, key, other_count, other_key):  # type: ignore[no-untyped-def]
    return count > other_count or (count == other_count and key < other_key)


@compiled
def push(index, pair):  # type: ignore[no-untyped-def]
    heap, heap_counts, keys = index.heap, index.heap_counts, index.keys
    count = index.counts[pair]
    at = index.used[HEAP]
    index.used[HEAP] += 1
    while at > 0:
        parent = (at - 1) >> 1
        if not before(count, keys[pair], heap_counts[parent], keys[heap[parent]]):
            break
        heap[at], heap_counts[at] = heap[parent], heap_counts[parent]
        at = parent
    heap[at], heap_counts[at] = pair, count


@compiled
def replace_top(index, pair, count):  # type: ignore[no-untyped-def]
    heap, heap_counts, keys = index.heap, index.heap_counts, index.keys
    size = index.used[HEAP]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        other = child + 1
        if other < size and before(heap_counts[other], keys[heap[other]], heap_counts[child], keys[heap[child]]):
            child = other
        if not before(heap_counts[child], keys[heap[child]], count, keys[pair]):
            break
        heap[at], heap_counts[at] = heap[child], heap_counts[child]
        at = child
    heap[at], heap_counts[at] = pair, count


@compiled
def drop_top(index):  # type: ignore[no-untyped-def]
    index.used[HEAP] -= 1
    last = index.used[HEAP]
    if last > 0:
        replace_top(index, index.heap[last], index.heap_counts[last])


@compiled
def best(index, floor):  # type: ignore[no-untyped-def]
    """The pair to merge next, or -1 if none stands `floor` times. Counts in the heap may be out of date, but only too
    high: a top that is not what it claims sinks to where it belongs."""
    while index.used[HEAP] > 0:
        pair = index.heap[0]
        count = index.counts[pair]
        if count == index.heap_counts[0]:
            return pair
        if count >= floor:
            replace_top(index, pair, count)
        else:
            drop_top(index)
    return -1


# --- merging --------------------------------------------------------------------------------------


@compiled
def merge(token, merges, cells, lengths, floor, index):  # type: ignore[no-untyped-def]
    """Learn tokens `token`… until all are learnt or WORK is done; returns (next token, why it stopped)."""
    vocab_size = len(lengths)
    # What a merge gathers about its neighbours, by side: token x on the left is x, on the right vocab_size + x.
    lost = np.zeros(2 * vocab_size, np.int64)
    gained = np.zeros(2 * vocab_size, np.int64)
    gained_sizes = np.zeros(2 * vocab_size, np.int32)
    cursors = np.zeros(2 * vocab_size, np.int64)
    work = 0
    while token < vocab_size and work < WORK:
        pair = best(index, floor)
        if pair < 0:
            return token, FLOOR
        size = index.sizes[pair]
        if index.used[PAIRS] + min(2 * vocab_size, 2 * size) > len(index.keys) or index.used[PLACES] + 2 * size > len(
            index.places
        ):
            return token, FULL
        drop_top(index)
        key = index.keys[pair]
        a, b = key >> 32, key & 0xFFFFFFFF
        merges[token, 0], merges[token, 1] = a, b
        lengths[token] = lengths[a] + lengths[b]
        places = index.places[index.starts[pair] : index.starts[pair] + size]
        join(token, a, b, places, cells, lengths, floor, index, lost, gained, gained_sizes, cursors)
        index.counts[pair] = 0
        work += size + 256
        token += 1
    return token, DONE


@compiled
def join(new, a, b, old_places, cells, lengths, floor, index, lost, gained, gained_sizes, cursors):  # type: ignore[no-untyped-def]
    """Join all (a, b) to `new`, take the pairs they stood in off the counts, and enter the pairs that arise."""
    right_side = len(lengths)
    sides = np.empty(2 * len(old_places), np.int32)  # of every new pair that has arisen, with its place
    places = np.empty(2 * len(old_places), np.int32)
    lost_sides = np.empty(2 * len(old_places), np.int32)  # the distinct ones
    gained_sides = np.empty(2 * len(old_places), np.int32)
    n = n_lost = n_gained = 0
    for at in old_places:
        if cells[at, 0] != a:
            continue
        middle = at + lengths[a]
        if cells[middle, 0] != b:
            continue
        count = cells[at, 1]
        mark = cells[at - 1, 0]
        if mark != BOUNDARY:
            left_at = at - 1 if mark >= 0 else at - 1 + mark
            left = cells[left_at, 0]
            if left == new:
                # It was joined just now, when its right neighbour, the last pair noted, was still `a`.
                gained[right_side + a] -= count
                gained_sizes[right_side + a] -= 1
                n -= 1
                left = right_side + new
            else:
                if lost[left] == 0:
                    lost_sides[n_lost] = left
                    n_lost += 1
                lost[left] += count
            sides[n], places[n] = left, left_at
            n += 1
            if gained_sizes[left] == 0:
                gained_sides[n_gained] = left
                n_gained += 1
            gained[left] += count
            gained_sizes[left] += 1
        after = middle + lengths[b]
        right = cells[after, 0]
        if right != BOUNDARY:
            side = right_side + right
            if lost[side] == 0:
                lost_sides[n_lost] = side
                n_lost += 1
            lost[side] += count
            sides[n], places[n] = side, at
            n += 1
            if gained_sizes[side] == 0:
                gained_sides[n_gained] = side
                n_gained += 1
            gained[side] += count
            gained_sizes[side] += 1
        cells[at, 0] = new
        cells[middle, 0] = -1
        cells[after - 1, 0] = at - (after - 1)

    for side in lost_sides[:n_lost]:
        key = key_of(side, a) if side < right_side else key_of(b, side - right_side)
        _, pair = find(index.slots, index.keys, key)
        if pair >= 0:
            index.counts[pair] -= lost[side]
        lost[side] = 0
    for side in gained_sides[:n_gained]:
        if gained_sizes[side] == 0:  # stands here twice, or was gained and lost again
            continue
        cursors[side] = -1
        if gained[side] >= floor:
            key = key_of(side, new) if side < right_side else key_of(new, side - right_side)
            slot, _ = find(index.slots, index.keys, key)
            pair = index.used[PAIRS]
            index.used[PAIRS] += 1
            index.slots[slot] = pair + 1
            index.keys[pair], index.counts[pair] = key, gained[side]
            index.starts[pair], index.sizes[pair] = index.used[PLACES], gained_sizes[side]
            cursors[side] = index.used[PLACES]
            index.used[PLACES] += gained_sizes[side]
            push(index, pair)
        gained[side] = gained_sizes[side] = 0
    for i in range(n):
        side = sides[i]
        if cursors[side] >= 0:
            index.places[cursors[side]] = places[i]
            cursors[side] += 1
