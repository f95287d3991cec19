"""A test for a rise of many signals at once: bets that each value lies above what was usual.

``monitor.py`` runs it on the errors of each scorer. An alarm needs evidence that holds for any
values in [0, 1], however they are spread, and for bursts as long as those it has seen: see
docs/drift.md, also for how often it is wrong. A row is a moment, a column a signal, ``nan`` is no
value.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.base import F64
from models.kernels.common import RARE
from models.kernels.entry import entry
from monitoring.drift.settings import EVIDENCE, MARGIN

_RISES = (0.0125, 0.025, 0.05, 0.2)
"""Each bet is the one that gains most where the mean rose by so much."""
_FADE = 1 - 0.0001
_GRACE = 2_000
"""Values before the first bet: what is usual has to be known."""
_QUIET = 1_000
"""After an alarm a signal is looked at in blocks of so many values until it has a level again."""
_LEVELS = 13
"""Scales on which variance is looked at: sums of 1, 2, ... 4,096 values."""
_PAIRS = 8
"""Pairs of sums before a scale counts: by 2, the largest of all was too small for bursts of 200."""
_MEMORY = 100_000
"""Values after which a scale has forgotten, if these are pairs enough."""
_EACH = 32  # values between two looks at the variance of all scales

# Columns of a signal's numbers, and of what is kept of each bet and each scale.
_N, _WEIGHT, _MEAN, _ONE, _LONG, _FIRED, _ASIDE, _TOTAL, _BLOCK = range(9)
_STAKE, _BET, _ABOVE = range(3)
_HALF, _OPEN, _COUNT, _SQUARES = range(4)


class Detection(NamedTuple):
    """One detection: where in the batch, and the statistic that had passed its threshold."""

    row: int
    signal: int
    statistic: float
    threshold: float


class Betting:
    """Bets against ``k`` signals: who is paid too much proves that a mean rose.

    A bet ``l`` on a signal whose values were ``m`` in the mean turns a stake ``C`` into ``max(1, C
    (1 + l (x - m - d)))``: as Page's test (1954, doi 10.2307/2333009), with the increments of an
    e-detector (Shin, Ramdas and Rinaldo 2023, arXiv 2203.03532). While the mean is at most ``m +
    d``, values in [0, 1] of any spread multiply a stake by ``evidence`` once in so many values at
    most. ``m`` is the mean when the stake was last 1, fading by 0.9999; ``d`` the ``margin``, its
    standard error, and what bursts need: half of ``l`` times by how much the variance of sums grows
    faster than that of one value. That one is the largest over sums of 1, 2, 4, ... 4,096 values,
    from the rises between neighbours alone: what a learner gains is no noise.

    After an alarm the signal is told no more until it is back (a block of 1,000 values is at most
    ``margin`` above what was usual) or keeps a new level (two blocks in a row differ by no more
    than chance), which is then what is usual.

    Parameters
    ----------
    k : int
        Signals.
    evidence : float
        What a stake must grow to, above 1.
    margin : float
        A rise that is let pass, at least 0.
    """

    detector = "betting"

    def __init__(self, k: int, evidence: float = EVIDENCE, margin: float = MARGIN) -> None:
        self._enough = evidence * len(_RISES)  # of one bet: the mean over all has to pass
        self._margin = margin
        self._numbers = np.zeros((k, 9))
        self._bets = np.zeros((k, len(_RISES), 3))
        self._scales = np.zeros((k, 2, _LEVELS, 4))  # as they are, and as they were at the alarm

    def update(self, x: F64) -> list[Detection]:
        """Take ``n`` values of each signal ``(n, k)``, rows in order; returns the detections.

        One call or many with the same rows give the same state.
        """
        found = np.zeros(x.shape)
        _bet(self._numbers, self._bets, self._scales, x, self._enough, self._margin, found)
        rows, signals = np.nonzero(found)
        limit = math.log(self._enough)
        return [
            Detection(int(i), int(j), math.log(found[i, j]), limit)
            for i, j in zip(rows, signals, strict=True)
        ]

    def statistic(self, j: int) -> float:
        """Logarithm of the largest stake; ``nan`` before the first bet and after an alarm."""
        on = self._numbers[j, _N] > _GRACE and not self._numbers[j, _FIRED]
        return math.log(max(1.0, self._bets[j, :, _STAKE].max())) if on else math.nan

    def raised(self, j: int) -> bool:
        """Whether an alarm was told of a rise that lasts."""
        return bool(self._numbers[j, _FIRED])

    def threshold(self) -> float:
        """What :meth:`statistic` may be."""
        return math.log(self._enough)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The state itself, not copies; axis 0 are the signals."""
        return {"numbers": self._numbers, "bets": self._bets, "scales": self._scales}


@njit(**RARE)
def _copy(into: F64, of: F64) -> None:
    for i in range(of.shape[0]):
        for j in range(of.shape[1]):
            into[i, j] = of[i, j]


@njit(**RARE)
def _settle(s: F64, bets: F64, scales: F64, margin: float) -> None:
    """A block after an alarm is over: bets begin anew where it says what is usual now.

    The rise to a level that stays is no noise: the scales are put back to what they were before.
    """
    mean, before = s[_TOTAL] / s[_ASIDE], s[_BLOCK]
    s[_ASIDE], s[_TOTAL], s[_BLOCK] = 0.0, 0.0, mean
    if mean > s[_MEAN] + margin:
        if before < 0.0 or abs(mean - before) > margin + 2 * math.sqrt(s[_LONG] / _QUIET):
            return
        s[_MEAN], s[_WEIGHT] = (mean + before) / 2, 2.0 * _QUIET
        _copy(scales[0], scales[1])
    s[_FIRED] = 0.0
    for bet in bets:
        bet[_STAKE] = 1.0


@entry("void(f8[:, ::1], f8[:, :, ::1], f8[:, :, :, ::1], f8[:, ::1], f8, f8, f8[:, ::1])")
def _bet(
    numbers: F64, bets: F64, scales: F64, x: F64, enough: float, margin: float, found: F64
) -> None:
    for j in range(x.shape[1]):
        s = numbers[j]
        for i in range(len(x)):
            v = x[i, j]
            if math.isnan(v):
                continue
            s[_N] += 1
            # 1. How far sums of values vary.
            rest = v
            for level in range(_LEVELS):
                scale = scales[j, 0, level]
                if scale[_OPEN] == 0.0:
                    scale[_HALF], scale[_OPEN] = rest, 1.0
                    break
                size = 2.0**level
                rise = max(0.0, rest - scale[_HALF])
                scale[_COUNT] = min(scale[_COUNT] + 1.0, max(float(_PAIRS), _MEMORY / (2 * size)))
                scale[_SQUARES] += (rise * rise / size - scale[_SQUARES]) / scale[_COUNT]
                rest += scale[_HALF]
                scale[_OPEN] = 0.0
            if s[_N] % _EACH == 0:
                s[_LONG] = 0.0
                for level in range(_LEVELS):
                    if scales[j, 0, level, _COUNT] >= _PAIRS:
                        s[_LONG] = max(s[_LONG], scales[j, 0, level, _SQUARES])
            # 2. After an alarm: whether the signal has a level again.
            if s[_FIRED]:
                s[_ASIDE] += 1
                s[_TOTAL] += v
                if s[_ASIDE] == _QUIET:
                    _settle(s, bets[j], scales[j], margin)
                continue
            # 3. The bets, by what is known before this value.
            if s[_N] > _GRACE and s[_LONG] > 0.0:
                for b in range(len(_RISES)):
                    bet = bets[j, b]
                    if bet[_STAKE] <= 1.0:
                        bet[_STAKE], bet[_BET] = 1.0, _RISES[b] / s[_LONG]
                        slow = max(0.0, s[_LONG] - s[_ONE])
                        bet[_ABOVE] = s[_MEAN] + margin + math.sqrt(s[_LONG] / s[_WEIGHT])
                        bet[_ABOVE] += bet[_BET] * slow / 2
                        bet[_BET] = min(bet[_BET], 0.5 / bet[_ABOVE])
                    bet[_STAKE] *= 1.0 + bet[_BET] * (v - bet[_ABOVE])
                    if bet[_STAKE] > enough and bet[_STAKE] > found[i, j]:
                        found[i, j] = bet[_STAKE]
                if found[i, j] > 0.0:
                    s[_FIRED], s[_ASIDE], s[_TOTAL], s[_BLOCK] = 1.0, 0.0, 0.0, -1.0
                    _copy(scales[j, 1], scales[j, 0])
                    continue
            # 4. What is usual.
            s[_WEIGHT] = _FADE * s[_WEIGHT] + 1.0
            gap = v - s[_MEAN]
            s[_MEAN] += gap / s[_WEIGHT]
            s[_ONE] += (gap * (v - s[_MEAN]) - s[_ONE]) / s[_WEIGHT]
