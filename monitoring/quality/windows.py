"""What quality keeps whatever the target is: a place for each scorer, three windows, its state.

``classes.py`` and ``numbers.py`` say what is added up. The windows, and how the engine uses them,
are those of ``quality.py``. Never scores again, never reads a clock.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, State, StateError, contiguous, state_digest
from models.carry import fill, shared
from models.kernels.entry import entry
from monitoring.quality.measures import column_of, ratio

Figures = dict[str, dict[str, dict[str, float]]]
"""Name (ensemble first) to window to metric to value."""

Arrays = Mapping[str, NDArray[Any]]

PROMISES = ("coverage", "width")
"""What is told of intervals and sets: the share that held the truth, and their mean width; of a set
that is how many classes it has. Only the ensemble makes them."""

_SAID, _COVERED, _WIDTH = range(3)


class Windows(ABC):
    """Counts since the start, faded sums and a sliding window for the ensemble and ``m`` members.

    Parameters
    ----------
    names : sequence of str
        The ensemble, then the members.
    k : int
        Columns of an output.
    window : int
        Outcomes in the sliding window.
    fade : float
        ``0 < fade <= 1``: what an outcome's weight is multiplied by at the next one.
    """

    _names_at: ClassVar[dict[str, int]]
    """The axis along which an array has a place for each name."""

    def __init__(self, names: Sequence[str], k: int, window: int, fade: float) -> None:
        if window < 1 or not 0 < fade <= 1 or not names or len(set(names)) < len(names):
            raise ValueError(
                "Quality: expected different names, window >= 1 and 0 < fade <= 1, "
                f"got {list(names)}, {window}, {fade}"
            )
        self._names = tuple(names)
        self._k = k
        self._window = window
        self._fade = np.array([1.0, fade])
        self._begin()

    def _begin(self) -> None:
        self._seen = 0
        self._promised = np.zeros((2, 3))
        self._kept_promises = np.full((self._window, 2), np.nan)
        self._own = self._fresh()

    def update(self, output: F64, y: F64, alert: BOOL, said: NDArray[Any] | None = None) -> None:
        """Take ``n`` outcomes in label order; one call or many with the same rows, same state.

        Parameters
        ----------
        output : float64 array ``(n, 1 + m, k)``
            What each scorer said when it scored; ``nan`` where it made no score.
        y : float64 array ``(n,)``
            Truths: a number, or the index of a class.
        alert : bool array ``(n,)``
            What the ensemble decided; not judged here: no truth says which alerts were right.
        said : array ``(n, 2)`` or ``(n, k)``
            The ensemble's intervals (``nan``: none), or its sets of classes (empty: none).
        """
        if output.shape != (len(y), len(self._names), self._k) or alert.shape != y.shape:
            raise ValueError(
                f"Quality.update: expected output (n, {len(self._names)}, {self._k}), y (n,), "
                f"alert (n,); got {output.shape}, {y.shape}, {alert.shape}"
            )
        output, y = (contiguous(a, np.float64) for a in (output, y))
        promises = np.full((len(y), 2), np.nan) if said is None else self._promises(said, y)
        self._absorb(output, y)
        _absorb_promises(self._promised, self._fade, self._kept_promises, self._seen, promises)
        self._seen += len(y)

    def correct(
        self, output: F64, y: F64, instead: F64, alert: BOOL, said: NDArray[Any] | None = None
    ) -> None:
        """See :meth:`monitoring.quality.tasks.Judge.correct`."""
        for i in range(len(y)):
            rows = slice(i, i + 1)
            promised = None if said is None else said[rows]
            for truth, sign in ((y[rows], -1.0), (instead[rows], 1.0)):
                if np.isnan(truth[0]):
                    continue
                alone = copy(self)
                alone._begin()
                alone.update(output[rows], truth, alert[rows], promised)
                self._merge(alone._own["sums"][0], sign)
                self._promised[0] += sign * alone._promised[0]
            if np.isnan(instead[i]):
                self._shorten(~np.isnan(output[i, :, 0]))

    @abstractmethod
    def _merge(self, sums: NDArray[Any], sign: float) -> None:
        """One outcome's sums, of who has seen nothing else, join those of all, or leave them."""

    @abstractmethod
    def _shorten(self, made: BOOL) -> None:
        """An outcome of these scorers never was: others took less long to arrive."""

    @abstractmethod
    def _fresh(self) -> dict[str, NDArray[Any]]:
        """Arrays of who has seen nothing."""

    @abstractmethod
    def _absorb(self, output: F64, y: F64) -> None:
        """Check the rows, then add them; ``ValueError`` before anything has changed."""

    @staticmethod
    @abstractmethod
    def _promises(said: NDArray[Any], y: F64) -> F64:
        """Whether each held the truth, and its width, ``(n, 2)``; ``nan`` where none was said."""

    def set_threshold(self, threshold: float) -> None:
        """See :meth:`monitoring.quality.quality.Quality.set_threshold`; no figure here asks it."""
        del threshold

    def report(self) -> Figures:
        """Every metric of every window; see :meth:`Snapshot.report`."""
        return self.snapshot().report()

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """A copy that another thread may keep and read."""

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        own = {"names": list(self._names), "seen": self._seen, "fade": self._fade.copy()}
        return own | self._copies()

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these names; the others start new.

        Window and fade must be the same.
        """
        if not np.array_equal(state["fade"], self._fade):
            raise StateError(
                f"quality.fade: expected {self._fade.tolist()}, got {state['fade'].tolist()}"
            )
        self._begin()
        fill(self._arrays(), state, "quality", self._names_at, shared(self._names, state["names"]))
        self._seen = int(state["seen"])

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`."""
        return state_digest(self.state())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"promised": self._promised, "kept_promises": self._kept_promises, **self._own}

    def _copies(self) -> dict[str, NDArray[Any]]:
        return {key: array.copy() for key, array in self._arrays().items()}


@dataclass(frozen=True, slots=True)
class Snapshot(ABC):
    """What a :class:`Windows` held at one moment; computes its report when first asked."""

    names: tuple[str, ...]
    seen: int
    arrays: Arrays
    _report: Figures = field(default_factory=dict, compare=False)

    def report(self) -> Figures:
        """Every metric of every window. Two threads at once compute the same values twice."""
        if not self._report:
            self._report.update({n: self._windows(j) for j, n in enumerate(self.names)})
        return self._report

    def outcomes(self) -> dict[str, int]:
        """How many events were judged since the start."""
        return {"judged": self.seen}

    def precision_at_budget(self, budget: float) -> dict[str, float]:
        """None: nobody is positive."""
        return {}

    def fading(self, name: str) -> dict[str, float]:
        """See :meth:`monitoring.quality.tasks.Snapshot.fading`."""
        return self._summed(1, column_of(name, self.names))

    def _windows(self, column: int) -> dict[str, dict[str, float]]:
        promises = self._newest("kept_promises")
        told = promised(0.0, 0.0, 0.0) if column else of_promises(promises)
        return {
            "all": self._summed(0, column),
            "fading": self._summed(1, column),
            "sliding": self._from_rows(column) | told,
        }

    def _summed(self, fading: int, column: int) -> dict[str, float]:
        sums = self.arrays["promised"][fading]
        told = promised(0.0, 0.0, 0.0) if column else promised(*sums)
        return self._from_sums(fading, column) | told

    @abstractmethod
    def _from_sums(self, fading: int, column: int) -> dict[str, float]:
        """A scorer's metrics over all outcomes (0) or the faded ones (1)."""

    @abstractmethod
    def _from_rows(self, column: int) -> dict[str, float]:
        """A scorer's metrics over the last outcomes."""

    def _newest(self, name: str) -> NDArray[Any]:
        """An array of the sliding window, the oldest outcome first."""
        ring = self.arrays[name]
        if self.seen <= len(ring):
            return ring[: self.seen]
        return np.roll(ring, -(self.seen % len(ring)), axis=0)


def promised(said: float, covered: float, width: float) -> dict[str, float]:
    """:data:`PROMISES` from sums over the same outcomes."""
    return {"coverage": ratio(covered, said), "width": ratio(width, said)}


def of_promises(promises: F64) -> dict[str, float]:
    """:data:`PROMISES` of rows ``(n, 2)``: held the truth, width; ``nan`` where none was made."""
    made = promises[~np.isnan(promises[:, 1])]
    return promised(float(len(made)), *(made.sum(axis=0).tolist() if len(made) else (0.0, 0.0)))


def no_change(same: float, right: float, pairs: float) -> dict[str, float]:
    """Accuracy of repeating the truth before, and how far the scorer beats it.

    From sums over the outcomes that have one before them: those of the same truth, those that the
    scorer had right, all. See :func:`monitoring.quality.measures.kappa_temporal`.
    """
    expected, accuracy = ratio(same, pairs), ratio(right, pairs)
    kappa = (accuracy - expected) / (1 - expected) if expected < 1 else math.nan
    return {"no_change_accuracy": expected, "kappa_temporal": kappa}


@entry("void(f8[:, ::1], f8[::1], f8[:, ::1], i8, f8[:, ::1])")
def _absorb_promises(sums: F64, fade: F64, kept: F64, seen: int, promises: F64) -> None:
    """Add what became of intervals or sets, and write them over the oldest."""
    for i in range(len(promises)):
        slot = (seen + i) % len(kept)
        kept[slot, 0], kept[slot, 1] = promises[i, 0], promises[i, 1]
        if np.isnan(promises[i, 1]):
            continue
        for f in range(2):
            sums[f, _SAID] = sums[f, _SAID] * fade[f] + 1.0
            sums[f, _COVERED] = sums[f, _COVERED] * fade[f] + promises[i, 0]
            sums[f, _WIDTH] = sums[f, _WIDTH] * fade[f] + promises[i, 1]
