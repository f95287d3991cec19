"""Change detectors on many signals at once, their state in plain arrays.

``monitor.py`` runs them on the errors of each scorer. ADWIN gives what River's ``drift.ADWIN``
gives, bit for bit; River's own cannot be used because its compiled window does not show its state.
A row is a moment, a column a signal, ``nan`` is no value.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.base import F64, I64
from models.kernels.adwin import (
    CLOCK,
    CUT,
    GAP,
    PER_ROW,
    SQUARES,
    SUM,
    WIDTH,
    find_cut,
    insert,
)
from models.kernels.common import RARE
from models.kernels.entry import entry

ADWIN_DELTA = 0.00001
PAGE_HINKLEY_THRESHOLD = 6.5
# Chosen, like _PH_DELTA, on other seeds than benchmarks/drift.py reports; see docs/drift.md.
RANKS_THRESHOLD = 50.0
"""Page-Hinkley's of what ranks cost: ``1 - 1 / rank`` has a variance of .14. In shops that did not
change (``millrace simulate --kind shop --no-drift``, three seeds of 24,000 records) the ranking
raised 37 alarms on average at 6.5, and none at 50; made worse by .04 to .2 it raised one after 150
to 1,150 interactions."""

_GRACE = 10  # River's default, as are those of models/kernels/adwin.py
_PH_GRACE, _PH_FADE = 30, 1 - 0.0001
_PH_DELTA = 0.0125  # half of the least rise to be found: the error of a good scorer is near 0.01
_LEVELS = 48  # 6 * 2^48 values: no stream is longer

# Columns of the detectors' numbers, for ADWIN beside those of models/kernels/adwin.py.
_TICK, _ROWS, _FIRED = 3, 4, 7
_N, _WEIGHT, _MEAN, _SUM, _PH_FIRED = range(5)


class Detection(NamedTuple):
    """One detection: where in the batch, and the statistic that had passed its threshold.

    ADWIN's statistic is negative where the mean has fallen.
    """

    row: int
    signal: int
    statistic: float
    threshold: float


class Adwin:
    """ADWIN on ``k`` signals at once (Bifet and Gavalda 2007, doi 10.1137/1.9781611972771.42).

    Each signal keeps a window of exponential buckets and drops its old part when the means of two
    parts differ by more than chance allows at ``delta``. Like River's, it starts afresh after a
    detection.

    Parameters
    ----------
    k : int
        Signals.
    delta : float
        Chance of a false alarm at one check, in ``(0, 1)``.
    """

    detector = "adwin"

    def __init__(self, k: int, delta: float = ADWIN_DELTA) -> None:
        self._delta = delta
        self._numbers = np.zeros((k, 8))
        self._counts = np.zeros((k, _LEVELS), np.int64)
        self._totals = np.zeros((k, _LEVELS, PER_ROW + 1))
        self._variances = np.zeros((k, _LEVELS, PER_ROW + 1))

    def update(self, x: F64) -> list[Detection]:
        """Take ``n`` values of each signal ``(n, k)``, rows in order; returns the detections.

        One call or many with the same rows give the same state.
        """
        found = np.zeros((*x.shape, 2))
        _adwin(self._numbers, self._counts, self._totals, self._variances, x, self._delta, found)
        return _detections(found)

    def statistic(self, j: int) -> float:
        """The largest gap between two parts' means at the last check, against its threshold."""
        return float(self._numbers[j, GAP]) if self._numbers[j, CUT] else math.nan

    def threshold(self, j: int) -> float:
        """What :meth:`statistic` may be; ``nan`` before the first check."""
        return float(self._numbers[j, CUT]) if self._numbers[j, CUT] else math.nan

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The state itself, not copies."""
        return {
            "numbers": self._numbers,
            "counts": self._counts,
            "totals": self._totals,
            "variances": self._variances,
        }


class PageHinkley:
    """Page-Hinkley test for a rise, on ``k`` signals at once (Page 1954, doi 10.2307/2333009).

    Sums the deviations above the mean, ``S = max(0, a S + x - mean - 0.0125)``, and alarms at
    ``threshold``; then it starts afresh. Sum and mean fade by ``a = 0.9999`` (Gama et al. 2013, doi
    10.1007/s10994-012-5320-9): a mean since the start would hold a learner's first, bad scores for
    ever. River's has no fading mean, and fades the distance from the extreme away from zero: after
    a long improvement that alone raises its alarm.
    """

    detector = "page_hinkley"

    def __init__(self, k: int, threshold: float = PAGE_HINKLEY_THRESHOLD) -> None:
        self._threshold = threshold
        self._numbers = np.zeros((k, 5))

    def update(self, x: F64) -> list[Detection]:
        """See :meth:`Adwin.update`."""
        found = np.zeros((*x.shape, 2))
        _page_hinkley(self._numbers, x, self._threshold, found)
        return _detections(found)

    def statistic(self, j: int) -> float:
        """The sum."""
        return float(self._numbers[j, _SUM]) if self._numbers[j, _N] else math.nan

    def threshold(self, j: int) -> float:
        """What :meth:`statistic` may be."""
        return self._threshold

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The state itself, not copies."""
        return {"numbers": self._numbers}


def _detections(found: F64) -> list[Detection]:
    """The rows of ``found`` (n, k, 2) that have a threshold."""
    rows, signals = np.nonzero(found[:, :, 1])
    return [
        Detection(int(i), int(j), float(found[i, j, 0]), float(found[i, j, 1]))
        for i, j in zip(rows, signals, strict=True)
    ]


@entry("void(f8[:, ::1], f8[:, ::1], f8, f8[:, :, ::1])")
def _page_hinkley(numbers: F64, x: F64, threshold: float, found: F64) -> None:
    for j in range(x.shape[1]):
        s = numbers[j]
        for i in range(len(x)):
            if math.isnan(x[i, j]):
                continue
            if s[_PH_FIRED]:
                s[:] = 0.0
            s[_N] += 1
            s[_WEIGHT] = _PH_FADE * s[_WEIGHT] + 1.0
            s[_MEAN] += (x[i, j] - s[_MEAN]) / s[_WEIGHT]
            s[_SUM] = max(0.0, _PH_FADE * s[_SUM] + x[i, j] - s[_MEAN] - _PH_DELTA)
            if s[_N] >= _PH_GRACE and s[_SUM] > threshold:
                s[_PH_FIRED] = 1.0
                found[i, j, 0], found[i, j, 1] = s[_SUM], threshold


@njit(**RARE)
def _drop_oldest(s: F64, c: I64, t: F64, v: F64) -> None:
    """Take the oldest bucket out of the window."""
    level = int(s[_ROWS]) - 1
    n, u = 2.0**level, t[level, 0]
    s[WIDTH] -= n
    s[SUM] -= u
    gap = u / n - s[SUM] / s[WIDTH]
    s[SQUARES] -= v[level, 0] + n * s[WIDTH] * gap * gap / (n + s[WIDTH])
    c[level] -= 1
    for k in range(c[level]):
        t[level, k], v[level, k] = t[level, k + 1], v[level, k + 1]
    if c[level] == 0:
        s[_ROWS] -= 1


@entry("void(f8[:, ::1], i8[:, ::1], f8[:, :, ::1], f8[:, :, ::1], f8[:, ::1], f8, f8[:, :, ::1])")
def _adwin(
    numbers: F64,
    counts: I64,
    totals: F64,
    variances: F64,
    x: F64,
    delta: float,
    found: F64,
) -> None:
    for j in range(x.shape[1]):
        s, c, t, v = numbers[j], counts[j], totals[j], variances[j]
        for i in range(len(x)):
            if math.isnan(x[i, j]):
                continue
            if s[_FIRED] or s[_ROWS] == 0:
                s[:] = 0.0
                c[:] = 0
                s[_ROWS] = 1.0
            insert(j, x[i, j], numbers, counts, totals, variances)
            if c[int(s[_ROWS])] > 0:
                s[_ROWS] += 1
            s[_TICK] += 1
            if s[_TICK] % CLOCK == 0 and s[WIDTH] > _GRACE:
                s[GAP], s[CUT] = 0.0, 0.0
                rise = find_cut(j, numbers, counts, totals, int(s[_ROWS]), delta)
                while rise != 0.0:
                    s[_FIRED] = 1.0
                    found[i, j, 0], found[i, j, 1] = rise, s[CUT]
                    _drop_oldest(s, c, t, v)
                    rise = find_cut(j, numbers, counts, totals, int(s[_ROWS]), delta)
