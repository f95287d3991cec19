"""Quality of a scorer of several classes: prequential windows, and the same over whole arrays.

The windows are those of ``quality.py``. In the fading one each class fades by itself here too: with
one fade of 0.999 for all, a class of 1 % has 10 effective outcomes left, and its recall a standard
error of up to 0.16; with a fade of its own it has 1,000, and 0.016. The classes are put together by
their prevalence: each one's effective outcomes over the faded number of outcomes that they took to
arrive, as shares that sum to 1. With ``fade = 1`` all of it equals ``all``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, State, StateError
from models.kernels.entry import entry
from models.task import Classes
from monitoring.quality.measures import ratio
from monitoring.quality.windows import (
    PROMISES,
    Snapshot,
    Windows,
    no_change,
    of_promises,
)

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "weighted_f1",
    "kappa",
    "log_loss",
    "top_2_accuracy",
    "no_change_accuracy",
    "kappa_temporal",
    *PROMISES,
)
"""The quality metrics of classes, in the order in which they are shown."""

_EPSILON = float(np.finfo(np.float64).eps)  # as in the log loss of scikit-learn

# What is added up for each class of truth; predictions of each class follow.
_COUNT, _LOG_LOSS, _TOP_2, _SPAN, _PAIRS, _SAME, _PAIRED_RIGHT = range(7)
_PREDICTED = 7


def measure(output: F64, y: F64, sets: BOOL | None = None) -> dict[str, float]:
    """All of :data:`METRICS` and the effective samples of one scorer.

    Parameters
    ----------
    output : float64 array ``(n, k)``
        Probability of each class. The likeliest is predicted, the first of equals.
    y : float64 array ``(n,)``
        Index of the true class.
    sets : bool array ``(n, k)``
        Which classes were promised to hold the truth; a row without any promised nothing.

    >>> measure(np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]), np.array([0.0, 1.0]))["accuracy"]
    0.5
    """
    n, k = output.shape
    truth = y.astype(np.int64)
    right = np.take_along_axis(output, truth[:, None], axis=1)
    before = np.arange(k) < truth[:, None]
    ahead = ((output > right) | ((output == right) & before)).sum(axis=1)
    losses = -np.log(np.clip(right[:, 0], _EPSILON, 1 - _EPSILON))
    became = np.full((n, 2), np.nan) if sets is None else promises(sets, y)
    predicted = output.argmax(axis=1) if n else np.zeros(0, np.int64)
    return _of_rows(predicted, losses, ahead < 2, truth, k) | of_promises(became)


def promises(said: NDArray[Any], y: F64) -> F64:
    """Whether each set held the truth, and its size, ``(n, 2)``; ``nan`` for an empty one."""
    held = np.take_along_axis(said, y.astype(np.int64)[:, None], axis=1)[:, 0]
    found = np.column_stack([held, said.sum(axis=1)]).astype(np.float64)
    found[found[:, 1] == 0] = np.nan
    return found


class ClassQuality(Windows):
    """Confusion and losses of the ensemble and ``m`` members, in three windows.

    Parameters
    ----------
    names, window, fade
        See :class:`monitoring.quality.windows.Windows`.
    task : Classes

    >>> quality = ClassQuality(["ensemble"], Classes(["low", "mid", "high"]))
    >>> output = np.array([[[0.7, 0.2, 0.1]], [[0.3, 0.3, 0.4]]])
    >>> quality.update(output, np.array([0.0, 1.0]), np.array([False, False]))
    >>> quality.report()["ensemble"]["all"]["accuracy"]
    0.5
    """

    _promises = staticmethod(promises)
    _names_at: ClassVar = {
        **{"sums": 1, "waiting": 0, "before": 0},
        **{"kept_predicted": 1, "kept_loss": 1, "kept_top_2": 1},
    }

    def __init__(
        self, names: Sequence[str], task: Classes, window: int = 10_000, fade: float = 0.999
    ) -> None:
        self._task = task
        super().__init__(names, task.k, window, fade)

    def _fresh(self) -> dict[str, NDArray[Any]]:
        m, k, window = len(self._names), self._k, self._window
        return {
            "sums": np.zeros((2, m, k, _PREDICTED + k)),
            "waiting": np.zeros((m, k), np.int64),  # outcomes since the last one of the class
            "before": np.full(m, -1),  # the class of the last outcome
            "kept_predicted": np.full((window, m), -1, np.int32),  # -1: made no score
            "kept_loss": np.zeros((window, m)),
            "kept_top_2": np.zeros((window, m), np.bool_),
            "kept_y": np.zeros(window, np.int64),
        }

    def _absorb(self, output: F64, y: F64) -> None:
        if not _valid(output, y):
            raise ValueError(
                "Quality.update: expected output in [0, 1] that sums to 1, or nan, and y one of "
                f"0..{self._k - 1}"
            )
        own = self._own
        rings = (own["kept_predicted"], own["kept_loss"], own["kept_top_2"], own["kept_y"])
        sums = (own["sums"], own["waiting"], own["before"])
        _absorb_rows(*sums, self._fade, *rings, self._seen, output, y)

    def _merge(self, sums: NDArray[Any], sign: float) -> None:
        sums[..., _SPAN] = 0.0  # all arrive when they did
        self._own["sums"][0] += sign * sums

    def _shorten(self, made: BOOL) -> None:
        self._own["sums"][0, made, :, _SPAN] -= 1.0

    def snapshot(self) -> ClassSnapshot:
        """See :meth:`monitoring.quality.windows.Windows.snapshot`; 0.9 MB for 4 scorers."""
        return ClassSnapshot(self._names, self._seen, self._copies())

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return super().state() | {"classes": list(self._task.names)}

    def restore(self, state: State) -> None:
        """Like :meth:`Windows.restore`; classes may have come to those of the state, at the end."""
        ours, theirs = self._task.names, tuple(state["classes"])
        if ours[: len(theirs)] != theirs:
            raise StateError(
                f"quality.classes: expected {list(ours)} or the first of them, got {list(theirs)}"
            )
        new = (0, self._k - state["waiting"].shape[1])
        old = (0, 0)
        more = {
            "sums": np.pad(state["sums"], (old, old, new, new)),
            "waiting": np.pad(state["waiting"], (old, new)),
        }
        super().restore({**state, **more})


@dataclass(frozen=True, slots=True)
class ClassSnapshot(Snapshot):
    """What :class:`ClassQuality` held at one moment."""

    def confusion(self) -> dict[str, dict[str, F64]]:
        """Name to window to ``(k, k)``: truths in rows, predictions in columns.

        ``all`` and ``sliding`` count outcomes; ``fading`` has shares that sum to 1.
        """
        return {name: self._confusion(j) for j, name in enumerate(self.names)}

    def _confusion(self, column: int) -> dict[str, F64]:
        counted: F64 = self.arrays["sums"][0, column, :, _PREDICTED:]
        predicted, _, _, y = self._rows(column)
        return {
            "all": counted,
            "fading": self._masses(1, column)[:, _PREDICTED:],
            "sliding": _confusion(predicted, y, len(counted)),
        }

    def _masses(self, fading: int, column: int) -> F64:
        """The sums of each class ``(k, ...)`` on a scale on which all outcomes weigh 1."""
        sums = self.arrays["sums"][fading, column]
        effective = sums[:, _COUNT]
        seen = effective > 0
        reach = sums[:, _SPAN] + self.arrays["waiting"][column]
        share = np.divide(effective, reach, out=np.zeros(len(sums)), where=seen)
        scale = np.divide(share, effective, out=np.zeros(len(sums)), where=seen)
        masses: F64 = sums * (scale / (share.sum() or 1.0))[:, None]
        return masses

    def _from_sums(self, fading: int, column: int) -> dict[str, float]:
        masses = self._masses(fading, column)
        effective = float(self.arrays["sums"][fading, column, :, _COUNT].sum())
        return _summary(masses[:, _PREDICTED:], masses[:, :_PREDICTED].sum(axis=0), effective)

    def _from_rows(self, column: int) -> dict[str, float]:
        return _of_rows(*self._rows(column), self.arrays["sums"].shape[2])

    def _rows(self, column: int) -> tuple[I64, F64, BOOL, I64]:
        """Predicted, losses, among the first two, truths: of the outcomes that it scored."""
        names = ("kept_predicted", "kept_loss", "kept_top_2")
        predicted, losses, top_2 = (self._newest(name)[:, column] for name in names)
        made = predicted >= 0
        y = self._newest("kept_y")
        return predicted[made].astype(np.int64), losses[made], top_2[made], y[made]


def _confusion(predicted: I64, y: I64, k: int) -> F64:
    return np.bincount(y * k + predicted, minlength=k * k).reshape(k, k).astype(np.float64)


def _of_rows(predicted: I64, losses: F64, top_2: BOOL, y: I64, k: int) -> dict[str, float]:
    """:data:`METRICS` but :data:`PROMISES` of outcomes ``(n,)``."""
    n = len(y)
    totals = np.zeros(_PREDICTED)
    totals[[_COUNT, _LOG_LOSS, _TOP_2]] = n, losses.sum(), top_2.sum()
    totals[_PAIRS] = max(n - 1, 0)
    totals[_SAME] = (y[1:] == y[:-1]).sum()
    totals[_PAIRED_RIGHT] = (predicted[1:] == y[1:]).sum()
    return _summary(_confusion(predicted, y, k), totals, float(n))


def _summary(confusion: F64, totals: F64, effective: float) -> dict[str, float]:
    """One row of a report from sums on any common scale; classes that never were do not count."""
    total = float(totals[_COUNT])
    true, said, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    recall, f1 = _ratios(hits, true), _ratios(2 * hits, true + said)
    by_chance = ratio(float((true * said).sum()), total * total)
    accuracy = ratio(float(hits.sum()), total)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": _mean(recall),
        "macro_f1": _mean(f1),
        "weighted_f1": ratio(float((np.nan_to_num(f1) * true).sum()), total),
        "kappa": (accuracy - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan,
        "log_loss": ratio(float(totals[_LOG_LOSS]), total),
        "top_2_accuracy": ratio(float(totals[_TOP_2]), total),
        **no_change(*(float(totals[c]) for c in (_SAME, _PAIRED_RIGHT, _PAIRS))),
        "effective_samples": effective,
    }


def _ratios(part: F64, whole: F64) -> F64:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: F64) -> float:
    """Of those that are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


@entry("b1(f8[:, :, ::1], f8[::1])")
def _valid(output: F64, y: F64) -> bool:
    """Whether each output is a distribution or nan, and each truth the index of a class."""
    k = output.shape[2]
    good = True
    for i in range(len(y)):
        good &= (y[i] >= 0.0) & (y[i] < k) & (y[i] == math.floor(y[i]))
        for j in range(output.shape[1]):
            total, silent = 0.0, 0
            for c in range(k):
                p = output[i, j, c]
                silent += np.isnan(p)
                good &= not ((p < 0.0) | (p > 1.0))
                total += p
            good &= (silent == k) | (abs(total - 1.0) < 1e-6)
    return good


@entry(
    "void(f8[:, :, :, ::1], i8[:, ::1], i8[::1], f8[::1], i4[:, ::1], f8[:, ::1], b1[:, ::1], "
    "i8[::1], i8, f8[:, :, ::1], f8[::1])"
)
def _absorb_rows(
    sums: F64,
    waiting: I64,
    before: I64,
    fade: F64,
    kept_predicted: NDArray[np.int32],
    kept_loss: F64,
    kept_top_2: BOOL,
    kept_y: I64,
    seen: int,
    output: F64,
    y: F64,
) -> None:
    """Add each outcome to the sums of its class, and write it over the oldest of the window."""
    k = output.shape[2]
    for i in range(len(y)):
        c = int(y[i])
        slot = (seen + i) % len(kept_y)
        kept_y[slot] = c
        for j in range(output.shape[1]):
            p = output[i, j]
            kept_predicted[slot, j] = -1
            if np.isnan(p[0]):
                continue
            predicted, ahead = 0, 0
            for a in range(k):
                if p[a] > p[predicted]:
                    predicted = a
                ahead += (p[a] > p[c]) | ((p[a] == p[c]) & (a < c))
                waiting[j, a] += 1
            loss = -math.log(min(max(p[c], _EPSILON), 1.0 - _EPSILON))
            kept_predicted[slot, j] = predicted
            kept_loss[slot, j] = loss
            kept_top_2[slot, j] = ahead < 2
            for f in range(2):
                row = sums[f, j, c]
                row *= fade[f]
                row[_COUNT] += 1.0
                row[_LOG_LOSS] += loss
                row[_TOP_2] += ahead < 2
                row[_SPAN] += waiting[j, c]
                row[_PAIRS] += before[j] >= 0
                row[_SAME] += before[j] == c
                row[_PAIRED_RIGHT] += (before[j] >= 0) & (predicted == c)
                row[_PREDICTED + predicted] += 1.0
            waiting[j, c] = 0
            before[j] = c
