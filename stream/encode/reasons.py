"""Reasons as JSON: numbers between constant texts, put together by a kernel.

Of every score they are most of its record. Put together in Python they took longer than to find:
2.5 us of an event, here 0.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numba import boolean, float64, int64, njit, uint8, void

from models.base import BOOL, F64, I64, U8
from models.kernels.common import HELPER
from models.kernels.entry import entry

PLACES = 12
"""Decimals of what is written."""
_ONE = 10**PLACES
_PAIRS = np.array([list(b"%02d" % k) for k in range(100)], np.uint8)
"""Two digits at a time: by one each, numbers were half of what reasons took to write."""
LARGEST = 1e6
"""Beyond it a number of so many decimals does not fit into 64 bits, nor a few into their sum."""
_NUMBER_BYTES = 24
_LINK, _BASE, _REST, _TOP, _END, _FIRST = range(6)
"""Texts: before each number, before and behind the reasons; from the last on two of each reason."""


@njit(**HELPER)
def _units(x: float) -> int:
    return math.floor(x * _ONE + 0.5)


@njit(**HELPER)
def _text(which: int, texts: U8, ends: I64, out: U8, at: int) -> int:
    """Write a constant text; gives where it ends."""
    first = ends[which - 1] if which > 0 else 0
    for k in range(first, ends[which]):
        out[at] = texts[k]
        at += 1
    return at


@njit(**HELPER)
def _number(units: int, out: U8, at: int) -> int:
    """Write a number of :data:`PLACES` decimals, without zeros at its end; gives where it ends."""
    if units < 0:
        out[at] = 45  # -
        at += 1
        units = -units
    whole, part = np.uint64(units) // np.uint64(_ONE), np.uint64(units) % np.uint64(_ONE)
    ten, hundred, zero = np.uint64(10), np.uint64(100), np.uint64(48)
    size, rest = 1, whole // ten
    while rest > 0:
        size, rest = size + 1, rest // ten
    for k in range(at + size - 1, at - 1, -1):
        out[k] = zero + whole % ten
        whole //= ten
    at += size
    out[at] = 46  # .
    for k in range(at + PLACES - 1, at, -2):
        pair = np.int64(part % hundred)
        part //= hundred
        out[k], out[k + 1] = _PAIRS[pair, 0], _PAIRS[pair, 1]
    end = at + 1 + PLACES
    while out[end - 1] == zero and end > at + 2:
        end -= 1
    return end


@njit(**HELPER)
def _choose(weights: F64, chosen: I64, taken: BOOL) -> int:
    """Fill ``chosen`` with the greatest that push, ties by their order; how many there are."""
    for r in range(len(weights)):
        taken[r] = False
    for count in range(len(chosen)):
        best, most = -1, 0.0
        for r in range(len(weights)):
            if weights[r] > most and not taken[r]:
                best, most = r, weights[r]
        if _units(most) == 0:
            return count
        chosen[count], taken[best] = best, True
    return len(chosen)


@entry(
    void(
        *(float64[::1], float64[::1], float64[:, ::1], uint8[::1], int64[::1]),
        *(int64[::1], boolean[::1], uint8[::1], int64[::1]),
    )
)
def _write(
    link: F64, base: F64, weights: F64, texts: U8, text_ends: I64, chosen: I64, taken: BOOL,
    out: U8, ends: I64,
) -> None:  # fmt: skip
    """Write ``n`` rows one after the other, row ``i`` up to ``ends[i]``."""
    at = 0
    for i in range(len(link)):
        count = _choose(weights[i], chosen, taken)
        whole, usual = _units(link[i]), _units(base[i])
        rest = whole - usual
        for k in range(count):
            rest -= _units(weights[i, chosen[k]])
        at = _number(whole, out, _text(_LINK, texts, text_ends, out, at))
        at = _number(usual, out, _text(_BASE, texts, text_ends, out, at))
        at = _number(rest, out, _text(_REST, texts, text_ends, out, at))
        at = _text(_TOP, texts, text_ends, out, at)
        for k in range(count):
            if k > 0:
                out[at] = 44  # ,
                at += 1
            reason = _FIRST + 2 * chosen[k]
            at = _text(reason, texts, text_ends, out, at)
            at = _number(_units(weights[i, chosen[k]]), out, at)
            at = _text(reason + 1, texts, text_ends, out, at)
        at = _text(_END, texts, text_ends, out, at)
        ends[i] = at


class Writer:
    """Writes reasons of these names.

    Parameters
    ----------
    names : sequence of str
    texts : sequence of str or None
        Of each, what people read.
    most : int
        How many are shown.
    """

    def __init__(self, names: Sequence[str], texts: Sequence[str | None], most: int) -> None:
        encode = msgspec.json.encode
        parts = [b'{"link":', b',"base":', b',"rest":', b',"top":[', b"]}"]
        for name, text in zip(names, texts, strict=True):
            parts.append(b'{"reason":%s,"weight":' % encode(name))
            parts.append(b"}" if text is None else b',"text":%s}' % encode(text))
        self._texts = np.frombuffer(b"".join(parts), np.uint8).copy()
        self._ends = np.cumsum([len(part) for part in parts])
        self._chosen = np.zeros(min(most, len(names)), np.int64)
        self._taken = np.zeros(len(names), np.bool_)
        heads, tails = parts[_FIRST::2], parts[_FIRST + 1 :: 2]
        each = max(map(len, heads)) + max(map(len, tails)) + 1 + _NUMBER_BYTES
        fixed = sum(map(len, parts[:_FIRST])) + 3 * _NUMBER_BYTES
        self._row_bytes = fixed + len(self._chosen) * each

    def write(self, link: F64, base: F64, weights: F64) -> list[bytes]:
        """Of each of ``n`` scores the reasons, as JSON.

        Links and bases ``(n,)``, weights ``(n, r)`` of each name: all within :data:`LARGEST`.
        Numbers have :data:`PLACES` decimals, and what is written of a row adds up to its link to
        the last of them.
        """
        n = len(link)
        out, ends = np.empty(n * self._row_bytes, np.uint8), np.zeros(n, np.int64)
        _write(link, base, weights, self._texts, self._ends, self._chosen, self._taken, out, ends)
        raw = out[: ends[-1] if n else 0].tobytes()
        at = [0, *ends.tolist()]
        return [raw[first:end] for first, end in pairwise(at)]
