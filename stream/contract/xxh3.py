"""xxh3-64 of many short texts at once; the library takes one at a time, most of it to be called.

The algorithm is Y. Collet's (xxHash's specification, XXH3 without a seed, up to 16 bytes); a test
holds it against the library, which does all else.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from models.base import U64
from models.kernels.binning import U8
from models.kernels.common import HELPER
from models.kernels.entry import entry

LONGEST = 16
"""Bytes of a text at most."""
_SECRET = (
    *(0xBE4BA423396CFEB8, 0x1CAD21F72C81017C, 0xDB979083E96DD4DE, 0x1F67B3B7A4A44072),
    *(0x78E5C0CC4EE679CB, 0x2172FFCC7DD05A82, 0x8E2443F7744608B8),
)
"""Its first 56 bytes, eight at a time."""
_LOW = np.uint64(0xFFFFFFFF)
_FLIP_3 = np.uint64((_SECRET[0] ^ _SECRET[0] >> 32) & 0xFFFFFFFF)
_FLIP_8 = np.uint64(_SECRET[1] ^ _SECRET[2])
_FLIP_LOW, _FLIP_HIGH = np.uint64(_SECRET[3] ^ _SECRET[4]), np.uint64(_SECRET[5] ^ _SECRET[6])
_PRIME_2, _PRIME_3 = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_MIX_1, _MIX_2 = np.uint64(0x165667919E3779F9), np.uint64(0x9FB21C651E98DF25)


@njit(**HELPER)
def _read(text: U8, at: int, n: int) -> np.uint64:
    """``n`` bytes, the first the lowest."""
    found = np.uint64(0)
    for i in range(n):
        found |= np.uint64(text[at + i]) << np.uint64(8 * i)
    return found


@njit(**HELPER)
def _shifted(h: np.uint64, bits: int) -> np.uint64:
    return h ^ (h >> np.uint64(bits))


@njit(**HELPER)
def _turned(h: np.uint64, bits: int) -> np.uint64:
    return (h << np.uint64(bits)) | (h >> np.uint64(64 - bits))


@njit(**HELPER)
def _swapped(h: np.uint64) -> np.uint64:
    found = np.uint64(0)
    for i in range(8):
        found |= ((h >> np.uint64(8 * i)) & np.uint64(255)) << np.uint64(56 - 8 * i)
    return found


@njit(**HELPER)
def _folded(x: np.uint64, y: np.uint64) -> np.uint64:
    """The upper half of the product, by the lower one."""
    half = np.uint64(32)
    x0, x1, y0, y1 = x & _LOW, x >> half, y & _LOW, y >> half
    low = x0 * y0
    cross = x1 * y0 + (low >> half)
    middle = x0 * y1 + (cross & _LOW)
    return (x1 * y1 + (cross >> half) + (middle >> half)) ^ (x * y)


@njit(**HELPER)
def _hash(text: U8, at: int, n: int) -> np.uint64:
    size = np.uint64(n)
    if n <= 3:
        h = np.uint64(text[at]) << np.uint64(16) | np.uint64(text[at + (n >> 1)]) << np.uint64(24)
        h |= np.uint64(text[at + n - 1]) | size << np.uint64(8)
        return _shifted(_shifted(_shifted(h ^ _FLIP_3, 33) * _PRIME_2, 29) * _PRIME_3, 32)
    if n <= 8:
        h = _read(text, at + n - 4, 4) + (_read(text, at, 4) << np.uint64(32))
        h ^= _FLIP_8
        h = (h ^ _turned(h, 49) ^ _turned(h, 24)) * _MIX_2
        return _shifted((h ^ ((h >> np.uint64(35)) + size)) * _MIX_2, 28)
    low, high = _read(text, at, 8) ^ _FLIP_LOW, _read(text, at + n - 8, 8) ^ _FLIP_HIGH
    h = size + _swapped(low) + high + _folded(low, high)
    return _shifted(_shifted(h, 37) * _MIX_1, 32)


@entry("i8(Array(u1, 1, 'C', readonly=True), u8[::1])")
def hash_each(texts: U8, found: U64) -> int:
    """Fill ``found`` with the hash of each text, a zero byte behind each; how many were hashed.

    It ends before the first that is empty or too long, or with the last.
    """
    at = 0
    for i in range(len(found)):
        end = at
        while end < len(texts) and texts[end] != 0:
            end += 1
        if end == len(texts) or end == at or end - at > LONGEST:
            return i
        found[i] = _hash(texts, at, end - at)
        at = end + 1
    return len(found) if at == len(texts) else -1
