"""What labels tell of waiting rows: each one's truth and marks, by segment, two bytes a row.

Truths that are classes, or yes and no, stand as a byte each; a segment with another number in it
has eight bytes for each. A checkpoint takes the arrays themselves, and their digests: a label that
comes later copies those of its segment first, and only what it changed is hashed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, U8
from monitoring.audit.contents import LABELS, blocks, leaf

WAITING = math.nan
"""The truth of a row without a label yet; with one it is a truth of the task."""
_NONE = 255
"""The byte of a row without a label; others are the truth."""


class _Part:
    """Labels of one segment.

    Attributes
    ----------
    truth, marks : array ``(size,)``
    lent : bool
        A state has these arrays.
    shown : array or None
        The truths as :meth:`Labels.held` tells them of the whole segment, since the last change.
    kind : numpy.dtype
        Of the truths that were shown last.
    digests : dict
        Of blocks that are full, by where they begin, since the last change of each.
    """

    def __init__(self, size: int) -> None:
        self.truth: NDArray[Any] = np.full(size, _NONE, np.uint8)
        self.marks: U8 = np.zeros(size, np.uint8)
        self.lent = False
        self.shown: NDArray[Any] | None = None
        self.kind = self.truth.dtype
        self.digests: dict[int, str] = {}

    def change(self, at: I64) -> None:
        """Labels of these rows will be others."""
        if self.lent:
            self.truth, self.marks, self.lent = self.truth.copy(), self.marks.copy(), False
        self.shown = None
        if self.digests:
            for block in np.unique(at // LABELS).tolist():
                self.digests.pop(block * LABELS, None)

    def held(self, at: slice) -> tuple[NDArray[Any], U8]:
        """Truths, as bytes where all of them can be, and marks of some rows."""
        if at != slice(0, len(self.truth)):
            truth = self.truth[at]
            return truth if (codes := _as_bytes(truth)) is None else codes, self.marks[at]
        if self.shown is None:
            codes = _as_bytes(self.truth)
            shown = self.truth if codes is None else codes
            if self.digests and shown.dtype != self.kind:
                self.digests.clear()
            self.shown, self.kind = shown, shown.dtype
        return self.shown, self.marks


class Labels:
    """Truths and marks of the rows of some segments of ``size`` rows."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts: dict[int, _Part] = {}

    @property
    def nbytes(self) -> int:
        """Memory of all."""
        return sum(part.truth.nbytes + part.marks.nbytes for part in self._parts.values())

    def begin(self, segment: int) -> None:
        """Rows of a new segment, none of which has a label."""
        self._parts[segment] = _Part(self._size)

    def drop(self, segment: int) -> None:
        """Let a segment go."""
        del self._parts[segment]

    def truth(self, rows: I64) -> F64:
        """The truth of each row, :data:`WAITING` where there is none yet."""
        out = np.empty(len(rows))
        for segment, where in by_segment(rows, self._size):
            out[where] = truths(self._parts[segment].truth[rows[where] % self._size])
        return out

    def settle(self, rows: I64, y: F64) -> None:
        """Give rows a truth, or another one; of ``nan`` none."""
        for segment, where in by_segment(rows, self._size):
            self._put(segment, rows[where] % self._size, y[where])

    def marks(self, rows: I64) -> U8:
        """The marks of each row."""
        out = np.empty(len(rows), np.uint8)
        for segment, where in by_segment(rows, self._size):
            out[where] = self._parts[segment].marks[rows[where] % self._size]
        return out

    def mark(self, rows: I64, mark: int) -> None:
        """Set one of the marks of rows."""
        for segment, where in by_segment(rows, self._size):
            part, at = self._parts[segment], rows[where] % self._size
            part.change(at)
            part.marks[at] |= mark

    def set_marks(self, rows: I64, marks: U8) -> None:
        """Let rows have these marks, and no other."""
        for segment, where in by_segment(rows, self._size):
            part, at = self._parts[segment], rows[where] % self._size
            part.change(at)
            part.marks[at] = marks[where]

    def unmarked(self, mark: int, head: int, tail: int) -> I64:
        """Numbers of the rows that have a label and not this mark, in order."""
        found = [np.empty(0, np.int64)]
        for part, first, at in self._each(head, tail):
            wanted = ~waits(part.truth[at]) & (part.marks[at] & mark == 0)
            found.append(np.flatnonzero(wanted) + first + at.start)
        return np.concatenate(found)

    def held(self, head: int, tail: int) -> tuple[list[NDArray[Any]], list[U8]]:
        """Truths and marks of rows from ``head`` to ``tail``, by segment; they never change.

        Truths are bytes where all of a segment's can be, whatever they were before: equal ones look
        alike.
        """
        truth, marks = [], []
        for part, _, at in self._each(head, tail):
            part.lent = True
            shown = part.held(at)
            truth.append(shown[0])
            marks.append(shown[1])
        return truth, marks

    def digests(self, head: int, tail: int) -> list[str]:
        """Of what :meth:`held` gives, by :func:`~monitoring.audit.contents.labels_of`.

        Only what has changed since the last call is hashed.
        """
        found = []
        for part, first, at in self._each(head, tail):
            truth, marks = part.held(at)
            known = part.digests if len(truth) == self._size else {}
            for block in blocks(first + at.start, first + at.start + len(truth)):
                digest = known.get(block.start)
                if digest is None:
                    digest = known[block.start] = leaf(truth[block], marks[block])
                found.append(digest)
        return found

    def _each(self, head: int, tail: int) -> Iterator[tuple[_Part, int, slice]]:
        """Segments with rows from ``head`` to ``tail``: the first row's number, and which."""
        for segment in range(head // self._size, -(-tail // self._size)):
            first = segment * self._size
            at = slice(max(head - first, 0), min(tail - first, self._size))
            yield self._parts[segment], first, at

    def restore(self, segment: int, at: slice, truth: NDArray[Any], marks: U8) -> None:
        """Take over what :meth:`held` gave for some rows of a segment that has begun."""
        part = self._parts[segment]
        if truth.dtype == np.uint8 and part.truth.dtype == np.uint8:
            part.truth[at] = truth
        else:
            self._put(segment, np.arange(self._size)[at], truths(truth))
        part.marks[at] = marks

    def _put(self, segment: int, at: I64, y: F64) -> None:
        part, codes = self._parts[segment], _as_bytes(y)
        part.change(at)
        if codes is None or part.truth.dtype == np.float64:
            part.truth = truths(part.truth)
            part.truth[at] = y
        else:
            part.truth[at] = codes


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
