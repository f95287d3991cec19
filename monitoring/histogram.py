"""Counts of values by fixed bounds, as Prometheus' classic histograms have them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from models.base import F64, State
from models.carry import fill

DURATION_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
UPDATE_NORM_BOUNDS = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10)
HTTP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3_600, 86_400)
LABEL_DELAY_BOUNDS_S = (
    *(1, 60, 600, 3_600, 21_600, 86_400, 172_800),
    *(345_600, 604_800, 1_209_600, 2_592_000, 5_184_000),
)


class Histogram:
    """Counts of values by fixed upper bounds (``value <= bound``), and their sum.

    >>> h = Histogram((1.0, 2.0))
    >>> h.observe(1.0)
    >>> h.observe_many(np.array([1.5, 9.0]))
    >>> h.counts.tolist(), h.total
    ([1, 1, 1], 11.5)
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(float(b) for b in bounds)
        self.counts = np.zeros(len(bounds) + 1, np.int64)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one finite value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_many(self, values: F64) -> None:
        """Count finite values ``(n,)``; one call or many give the same sum, bit for bit."""
        bins = np.searchsorted(self.bounds, values)
        self.counts += np.bincount(bins, minlength=len(self.counts))
        # In order, not pairwise: the sum must not depend on batches or on the processor.
        self.total = float(np.add.accumulate(np.concatenate(([self.total], values)))[-1])

    def copy(self) -> Histogram:
        """The same counts, for another thread to keep."""
        other = Histogram(self.bounds)
        other.counts, other.total = self.counts.copy(), self.total
        return other

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"counts": self.counts.copy(), "total": self.total}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        fill({"counts": self.counts}, state, "histogram")
        self.total = float(state["total"])
