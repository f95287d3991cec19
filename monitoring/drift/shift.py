"""How far values have moved from a frozen reference: PSI and KS over fixed bins.

``monitor.py`` keeps one :class:`Shift` for the scores and one for the features; each holds its
first values as the reference for good and compares the latest with them. Gives effect sizes only:
at a stream's volume every p-value is zero. Never forgets its reference by itself, never reads a
clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import F32, F64, I64, State, contiguous
from models.carry import fill
from models.kernels.entry import entry

DECILES = 9


class Shift:
    """``k`` columns of values: the last ``window`` rows against the first ``reference`` rows.

    Parameters
    ----------
    k : int
        Columns.
    bounds : sequence of float, optional
        Upper bounds of the bins (``value <= bound``), increasing, the same for each column; one
        more bin takes the rest. Without them each column gets the deciles of its own reference.
    reference, window : int
        Rows in the frozen part and in the current one.
    """

    def __init__(
        self,
        k: int,
        bounds: Sequence[float] | None = None,
        reference: int = 10_000,
        window: int = 10_000,
    ) -> None:
        given = bounds is not None
        self._reference = reference
        self._seen = 0
        # Rows of the reference, until the bounds are known; then it is empty.
        self._raw: F32 = np.zeros((0 if given else reference, k), np.float32)
        self._bounds: F64 = np.tile(np.array(bounds if given else [0.0] * DECILES), (k, 1))
        bins = self._bounds.shape[1] + 1
        self._before: I64 = np.zeros((k, bins), np.int64)
        self._now: I64 = np.zeros((k, bins), np.int64)
        self._ring: NDArray[np.uint8] = np.zeros((window, k), np.uint8)

    def observe(self, values: F64 | F32) -> None:
        """Take ``n`` finite rows ``(n, k)``; one call or many give the same state."""
        values = contiguous(values, np.float64)
        if len(self._raw):
            head = values[: self._reference - self._seen]
            self._raw[self._seen : self._seen + len(head)] = head
            self._seen += len(head)
            if self._seen < self._reference:
                return
            self._freeze()
            values = values[len(head) :]
        arrays = (self._bounds, self._before, self._now, self._ring)
        _count(*arrays, self._seen, self._reference, values)
        self._seen += len(values)

    def _freeze(self) -> None:
        """Make the deciles the bounds, and count the reference by them."""
        ranks = np.arange(1, DECILES + 1) / (DECILES + 1)
        # Values that occurred, not interpolated ones: exact on every machine.
        self._bounds = np.ascontiguousarray(
            np.quantile(self._raw, ranks, axis=0, method="inverted_cdf").T.astype(np.float64)
        )
        arrays = (self._bounds, self._before, self._now, self._ring)
        _count(*arrays, 0, self._reference, self._raw.astype(np.float64))
        self._raw = self._raw[:0].copy()

    @property
    def ready(self) -> bool:
        """Whether reference and window are full; before that every figure is ``nan``."""
        return self._seen >= self._reference + len(self._ring)

    def psi(self) -> list[float]:
        """Population stability index of each column: ``sum((q - p) ln(q / p))``.

        Half a value is added to each bin, so that an empty one gives a finite figure.
        """
        if not self.ready:
            return [math.nan] * len(self._before)
        counts = np.stack([self._before, self._now]) + 0.5
        p, q = counts / counts.sum(axis=2, keepdims=True)
        return ((q - p) * np.log(q / p)).sum(axis=1).tolist()

    def ks(self) -> list[float]:
        """Largest gap of each column's two distribution functions at the bounds, in ``[0, 1]``."""
        if not self.ready:
            return [math.nan] * len(self._before)
        p, q = np.cumsum([self._before / self._reference, self._now / len(self._ring)], axis=2)
        return np.abs(p - q).max(axis=1).tolist()

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        arrays = {name: array.copy() for name, array in self._arrays().items()}
        return {"seen": self._seen, "raw": self._raw.copy(), **arrays}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        fill(self._arrays(), state, "shift")
        self._seen = int(state["seen"])
        self._raw = state["raw"].copy()

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "bounds": self._bounds,
            "before": self._before,
            "now": self._now,
            "ring": self._ring,
        }


@entry("void(f8[:, ::1], i8[:, ::1], i8[:, ::1], u1[:, ::1], i8, i8, f8[:, ::1])")
def _count(
    bounds: F64,
    before: I64,
    now: I64,
    ring: NDArray[np.uint8],
    seen: int,
    reference: int,
    values: F64,
) -> None:
    """Count rows by bins: into the reference until it is full, then into the sliding window."""
    for i in range(len(values)):
        row = seen + i - reference
        for j in range(values.shape[1]):
            found = 0
            for b in range(bounds.shape[1]):
                found += values[i, j] > bounds[j, b]
            if row < 0:
                before[j, found] += 1
                continue
            slot = row % len(ring)
            if row >= len(ring):
                now[j, ring[slot, j]] -= 1
            ring[slot, j] = found
            now[j, found] += 1
