"""Running mean and deviation of dense columns, for members that need inputs of one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import F64, Parameter, State
from models.carry import fill


class Standardiser:
    """Mean and squared deviation by column, in float64, merged batch by batch.

    The update is the pairwise form of Welford's (T. Chan, G. Golub and R. LeVeque, "Algorithms for
    computing the sample variance", The American Statistician 37, 1983).

    >>> s = Standardiser(1)
    >>> s.update(np.array([[1.0], [3.0]]))
    >>> s.transform(np.array([[3.0]])).tolist()
    [[1.0]]
    """

    def __init__(self, d: int) -> None:
        self._count = 0
        self._mean = np.zeros(d)
        self._m2 = np.zeros(d)

    def update(self, x: NDArray[Any]) -> None:
        """Take the rows of ``x`` ``(n, d)`` in."""
        if not len(x):
            return
        rows = x.astype(np.float64)
        total = self._count + len(rows)
        mean = rows.mean(axis=0)
        delta = mean - self._mean
        self._m2 += ((rows - mean) ** 2).sum(axis=0) + delta**2 * (self._count * len(rows) / total)
        self._mean += delta * (len(rows) / total)
        self._count = total

    def transform(self, x: F64) -> F64:
        """``(x - mean) / deviation``; a column that never varied is only shifted."""
        deviation = np.sqrt(self._m2 / max(self._count, 1))
        return (x - self._mean) / np.where(deviation > 0, deviation, 1.0)

    def parameters(self, path: str) -> list[Parameter]:
        """Means and squared deviations."""
        d = len(self._mean)
        return [
            Parameter(f"{path}.{name}", "statistic", (d,), "float64", d, 8 * d)
            for name in ("mean", "m2")
        ]

    def state(self) -> State:
        """Count, means and squared deviations."""
        return {"count": self._count, "mean": self._mean.copy(), "m2": self._m2.copy()}

    def restore(self, state: State) -> None:
        """Become what gave ``state``; raises :class:`StateError` for other columns."""
        fill({"mean": self._mean, "m2": self._m2}, state, "standardiser")
        self._count = int(state["count"])
