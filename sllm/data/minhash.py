"""MinHash (Broder 1997) over character n-grams, in bands (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
section 3.4): two texts that share a band's key are candidates for being nearly equal.

With b bands of r rows two texts whose sets of n-grams have Jaccard similarity s share a key with probability
1 - (1 - sʳ)ᵇ: here 0.05 for s = 0.5, 0.56 for 0.7, 0.77 for 0.75, 0.92 for 0.8, 0.9996 for 0.9. The 14 bands of 8 are
FineWeb's (Penedo et al. 2024, appendix E.1).

Our own loop, because the libraries take n-grams as Python strings, and making those costs more than hashing them.
"""

from functools import cache

import numpy as np
from numba import uint32, uint64

from sllm.compiled import compiled
from sllm.data.measures import mix

BANDS, ROWS = 14, 8

CHARACTERS = 8
"""Characters of an n-gram, of letters and digits alone: writers of Korean differ in where they put spaces."""


def band_keys(text: str) -> np.ndarray:
    """(BANDS,) uint64. Upper and lower case, spaces and punctuation make no difference."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return _band_keys(codes, _folded(), *_permutations())


@cache
def _folded() -> np.ndarray:
    """(65536,) uint32: the lower case of letters and digits of the basic plane, 0 for its other characters."""
    characters = map(chr, range(1 << 16))
    return np.array([ord(c.lower()[0]) if c.isalnum() else 0 for c in characters], np.uint32)


@cache
def _permutations() -> tuple[np.ndarray, np.ndarray]:
    """Two rows of (BANDS · ROWS,) uint32, the same on every machine; the second are odd."""
    drawn = np.random.Generator(np.random.PCG64(0)).integers(0, 1 << 32, (2, BANDS * ROWS), np.uint32)
    return drawn[0], drawn[1] | np.uint32(1)


@compiled
def _band_keys(codes, folded, offsets, factors):  # type: ignore[no-untyped-def]
    base = uint64(0x9E3779B97F4A7C15)
    leaving = uint64(1)
    for _ in range(CHARACTERS):
        leaving *= base
    signature = np.full(len(offsets), 0xFFFFFFFF, np.uint32)
    window = np.zeros(CHARACTERS, np.uint64)
    rolling, n = uint64(0), 0
    for code in codes:
        letter = uint64(folded[code]) if code < 65536 else uint64(code)
        if letter == 0:
            continue
        rolling = rolling * base + letter - window[n % CHARACTERS] * leaving
        window[n % CHARACTERS] = letter
        n += 1
        if n >= CHARACTERS:
            _lower(signature, uint32(mix(rolling) >> uint64(32)), offsets, factors)
    if n < CHARACTERS:
        _lower(signature, uint32(mix(rolling) >> uint64(32)), offsets, factors)
    keys = np.zeros(BANDS, np.uint64)
    for i in range(len(signature)):
        keys[i // ROWS] = mix(keys[i // ROWS] * base + uint64(signature[i]))
    return keys


@compiled
def _lower(signature, hashed, offsets, factors):  # type: ignore[no-untyped-def]
    for i in range(len(signature)):
        value = uint32((hashed ^ offsets[i]) * factors[i])
        signature[i] = min(signature[i], value)
