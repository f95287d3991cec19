"""What labels tell of waiting rows: each one's truth and marks, by segment, two bytes a row.

Truths that are classes, or yes and no, stand as a byte each; a segment with another number in it
has eight bytes for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, U8

WAITING = math.nan
"""The truth of a row without a label yet; with one it is a truth of the task."""
_NONE = 255
"""The byte of a row without a label; others are the truth."""


class Labels:
    """Truths and marks of the rows of some segments of ``size`` rows."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._truth: dict[int, NDArray[Any]] = {}
        self._marks: dict[int, U8] = {}

    @property
    def nbytes(self) -> int:
        """Memory of all."""
        return sum(a.nbytes for kept in (self._truth, self._marks) for a in kept.values())

    def begin(self, segment: int) -> None:
        """Rows of a new segment, none of which has a label."""
        self._truth[segment] = np.full(self._size, _NONE, np.uint8)
        self._marks[segment] = np.zeros(self._size, np.uint8)

    def drop(self, segment: int) -> None:
        """Let a segment go."""
        del self._truth[segment], self._marks[segment]

    def truth(self, rows: I64) -> F64:
        """The truth of each row, :data:`WAITING` where there is none yet."""
        out = np.empty(len(rows))
        for segment, where in by_segment(rows, self._size):
            out[where] = truths(self._truth[segment][rows[where] % self._size])
        return out

    def settle(self, rows: I64, y: F64) -> None:
        """Give rows a truth, or another one; of ``nan`` none."""
        for segment, where in by_segment(rows, self._size):
            self._put(segment, rows[where] % self._size, y[where])

    def marks(self, rows: I64) -> U8:
        """The marks of each row."""
        out = np.empty(len(rows), np.uint8)
        for segment, where in by_segment(rows, self._size):
            out[where] = self._marks[segment][rows[where] % self._size]
        return out

    def mark(self, rows: I64, mark: int) -> None:
        """Set one of the marks of rows."""
        for segment, where in by_segment(rows, self._size):
            self._marks[segment][rows[where] % self._size] |= mark

    def set_marks(self, rows: I64, marks: U8) -> None:
        """Let rows have these marks, and no other."""
        for segment, where in by_segment(rows, self._size):
            self._marks[segment][rows[where] % self._size] = marks[where]

    def unmarked(self, mark: int, head: int, tail: int) -> I64:
        """Numbers of the rows that have a label and not this mark, in order."""
        truth, marks = self.held(head, tail)
        return np.flatnonzero(~waits(truth) & (marks & mark == 0)) + head

    def held(self, head: int, tail: int) -> tuple[NDArray[Any], U8]:
        """Truths and marks of rows from ``head`` to ``tail``, of their own.

        Truths are bytes where all of them can be, whatever they were before: equal ones look alike.
        """
        parts, codes = [], []
        for segment in range(head // self._size, -(-tail // self._size)):
            first = segment * self._size
            at = slice(max(head - first, 0), tail - first)
            parts.append((self._truth[segment][at], self._marks[segment][at]))
            codes.append(_as_bytes(parts[-1][0]))
        if not parts:
            return np.empty(0, np.uint8), np.empty(0, np.uint8)
        narrow = [part for part in codes if part is not None]
        if len(narrow) < len(parts):
            narrow = [truths(truth) for truth, _ in parts]
        return np.concatenate(narrow), np.concatenate([marks for _, marks in parts])

    def restore(self, segment: int, at: slice, truth: NDArray[Any], marks: U8) -> None:
        """Take over what :meth:`held` gave for some rows of a segment that has begun."""
        if truth.dtype == np.uint8 and self._truth[segment].dtype == np.uint8:
            self._truth[segment][at] = truth
        else:
            self._put(segment, np.arange(self._size)[at], truths(truth))
        self._marks[segment][at] = marks

    def _put(self, segment: int, at: I64, y: F64) -> None:
        codes = _as_bytes(y)
        if codes is None or self._truth[segment].dtype == np.float64:
            self._truth[segment] = truths(self._truth[segment])
            self._truth[segment][at] = y
        else:
            self._truth[segment][at] = codes


def truths(kept: NDArray[Any]) -> F64:
    """Truths as numbers, from either form."""
    if kept.dtype == np.float64:
        return kept
    found: F64 = kept.astype(np.float64)
    found[kept == _NONE] = WAITING
    return found


def waits(kept: NDArray[Any]) -> BOOL:
    """Which truths, in either form, are none yet."""
    found: BOOL = np.isnan(kept) if kept.dtype == np.float64 else kept == _NONE
    return found


def _as_bytes(truth: NDArray[Any]) -> NDArray[Any] | None:
    """Truths as bytes; ``None`` where one of them is another number."""
    if truth.dtype == np.uint8:
        return truth
    fits = (truth >= 0) & (truth < _NONE) & ~np.signbit(truth)  # -0.0 has other bits than 0
    codes = np.where(fits, truth, _NONE).astype(np.uint8)
    return codes if np.array_equal(truths(codes), truth, equal_nan=True) else None


def by_segment(rows: I64, size: int) -> Iterator[tuple[int, Any]]:
    """Groups of row numbers by segment: ``(segment, positions in rows)``."""
    if len(rows) == 0:
        return
    segments = rows // size
    if segments[0] == segments[-1] and (segments == segments[0]).all():
        yield int(segments[0]), slice(None)
        return
    for segment in np.unique(segments):
        yield int(segment), np.flatnonzero(segments == segment)
