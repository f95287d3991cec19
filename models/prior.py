"""The truths learned so far, as what to say before any member knows better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from models.base import F64, State
from models.carry import fill


class Prior(Protocol):
    """The truths learned so far, as what to say before any member knows better."""

    def learn(self, y: F64, w: F64) -> None:
        """Take ``n`` truths with their weights; one call or many, same state."""

    @property
    def scale(self) -> float:
        """The size of a usual error where nothing is known but the prior; 1 but for a number."""

    def output(self) -> F64:
        """What to say: outputs ``(k,)``."""

    def state(self) -> State:
        """See :data:`models.base.State`."""

    def restore(self, state: State) -> None:
        """Become the prior that gave ``state``."""


class BinaryPrior:
    """The share of positives so far, with half a row of each class (Krichevsky, Trofimov 1981)."""

    scale = 1.0

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self._weighed = 0.0
        self._positives = 0.0

    def learn(self, y: F64, w: F64) -> None:
        """See :meth:`Prior.learn`."""
        self._weighed, self._positives = _added(self._weighed, w), _added(self._positives, w * y)

    def output(self) -> F64:
        """0.5 before the first truth."""
        if self._fixed is not None:
            return np.array([self._fixed])
        return np.array([(self._positives + 0.5) / (self._weighed + 1)])

    def state(self) -> State:
        """See :meth:`Prior.state`."""
        return {"weighed": self._weighed, "positives": self._positives}

    def restore(self, state: State) -> None:
        """See :meth:`Prior.restore`."""
        self._weighed = float(state["weighed"])
        self._positives = float(state["positives"])


class ClassPrior:
    """The share of each class so far, with half a row of each (Krichevsky and Trofimov 1981).

    ``known`` says how many of the ``k`` classes, the first ones, have a share by now.
    """

    scale = 1.0

    def __init__(self, k: int, known: Callable[[], int]) -> None:
        self._counts = np.zeros(k)
        self._known = known

    def learn(self, y: F64, w: F64) -> None:
        """See :meth:`Prior.learn`."""
        np.add.at(self._counts, y.astype(np.int64), w)

    def output(self) -> F64:
        """Even shares before the first truth."""
        shares, n = np.zeros_like(self._counts), self._known()
        shares[:n] = (self._counts[:n] + 0.5) / (self._counts[:n].sum() + n / 2)
        return shares

    def state(self) -> State:
        """See :meth:`Prior.state`."""
        return {"counts": self._counts.copy()}

    def restore(self, state: State) -> None:
        """See :meth:`Prior.restore`; raises :class:`StateError` for other classes."""
        fill({"counts": self._counts}, state, "prior")


class MeanPrior:
    """The mean of the truths so far; 0 before the first. ``scale`` is their deviation."""

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self._sums = np.zeros(3)  # of weights, and weighted: distances from the anchor, squares
        self._anchor = np.full(1, np.nan)  # the first truth: what is near 0 loses no digits

    @property
    def scale(self) -> float:
        """See :attr:`Prior.scale`."""
        n, total, squares = self._sums.tolist()
        variance = squares / n - (total / n) ** 2 if n > 0 else 0.0
        return math.sqrt(variance) if variance > 0 else 1.0

    def learn(self, y: F64, w: F64) -> None:
        """See :meth:`Prior.learn`."""
        if not len(y):
            return
        if np.isnan(self._anchor[0]):
            self._anchor[0] = y[0]
        away = y - self._anchor[0]
        for i, values in enumerate((w, w * away, w * away * away)):
            self._sums[i] = _added(self._sums[i], values)

    def output(self) -> F64:
        """See :meth:`Prior.output`."""
        if self._fixed is not None:
            return np.array([self._fixed])
        if not self._sums[0] > 0:
            return np.zeros(1)
        return self._anchor + self._sums[1] / self._sums[0]

    def state(self) -> State:
        """See :meth:`Prior.state`."""
        return {"sums": self._sums.copy(), "anchor": self._anchor.copy()}

    def restore(self, state: State) -> None:
        """See :meth:`Prior.restore`."""
        fill({"sums": self._sums, "anchor": self._anchor}, state, "prior")


def _added(total: float, values: F64) -> float:
    """Added up in order: how rows were cut into calls must not show in the bits."""
    return float(np.add.accumulate(np.append(total, values))[-1])
