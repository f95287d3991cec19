"""ADWIN, compiled: many detectors in shared arrays, for the forest's two per tree.

The test is that of River's ``drift.ADWIN`` (Bifet and Gavalda 2007), which forgets its whole window
when it signals; so a bucket needs its sum alone, and the variance is that of everything since the
last signal. Draws no randomness and allocates nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F64, I64
from models.kernels.common import HELPER, RARE

PER_ROW = 5
"""Most buckets of one size; one more, and the two oldest merge into one of twice the size."""

CLOCK = 32
SHORTEST = 5
LEVELS = 40
WIDTH, SUM, SQUARES = range(3)


class Adwins(NamedTuple):
    """``n`` detectors; level ``l`` holds buckets of ``2**l`` values, the oldest first."""

    bucket: F64  # (n, LEVELS, PER_ROW + 1): sums
    held: I64  # (n, LEVELS): buckets in use
    moments: F64  # (n, 3): values, their sum, sum of squared deviations from their mean


def make_adwins(n: int) -> Adwins:
    """``n`` detectors that have seen nothing."""
    return Adwins(
        bucket=np.zeros((n, LEVELS, PER_ROW + 1)),
        held=np.zeros((n, LEVELS), np.int64),
        moments=np.zeros((n, 3)),
    )


@njit(**RARE)
def adwin_reset(d: int, a: Adwins) -> None:
    """Detector ``d`` forgets everything."""
    for level in range(LEVELS):
        a.held[d, level] = 0
        for k in range(PER_ROW + 1):
            a.bucket[d, level, k] = 0.0
    for k in range(3):
        a.moments[d, k] = 0.0


@njit(**HELPER)
def adwin_update(d: int, x: float, delta: float, a: Adwins) -> int:
    """Show ``x`` to detector ``d``: 1 if the mean rose, -1 if it fell (all is forgotten); or 0."""
    width = a.moments[d, WIDTH]
    if width > 0.0:
        gap = x - a.moments[d, SUM] / width
        a.moments[d, SQUARES] += width * gap * gap / (width + 1.0)
    a.moments[d, WIDTH] = width + 1.0
    a.moments[d, SUM] += x
    _insert(d, x, a)
    if np.int64(width + 1.0) % CLOCK != 0:
        return 0
    way = _changed(d, delta, a)
    if way != 0:
        adwin_reset(d, a)
    return way


@njit(**HELPER)
def _insert(d: int, x: float, a: Adwins) -> None:
    level = 0
    carried = x
    while True:
        n = a.held[d, level]
        a.bucket[d, level, n] = carried
        if n < PER_ROW or level + 1 == LEVELS:
            a.held[d, level] = min(n + 1, PER_ROW)
            return
        carried = a.bucket[d, level, 0] + a.bucket[d, level, 1]
        for k in range(PER_ROW - 1):
            a.bucket[d, level, k] = a.bucket[d, level, k + 2]
        a.held[d, level] = PER_ROW - 1
        level += 1


@njit(**RARE)
def _changed(d: int, delta: float, a: Adwins) -> int:
    """Which way the mean went at a cut that leaves two means too far apart (their theorem 3.1)."""
    width, total = a.moments[d, WIDTH], a.moments[d, SUM]
    variance = a.moments[d, SQUARES] / width
    log_term = math.log(2.0 * math.log(width) / delta)
    old, old_sum = 0.0, 0.0
    size = 2.0**LEVELS
    for step in range(LEVELS):
        level = LEVELS - 1 - step
        size *= 0.5
        for k in range(a.held[d, level]):
            old += size
            old_sum += a.bucket[d, level, k]
            new = width - old
            if old < SHORTEST or new < SHORTEST:
                continue
            rise = (total - old_sum) / new - old_sum / old
            inverse = 1.0 / (old - SHORTEST + 1.0) + 1.0 / (new - SHORTEST + 1.0)
            spread = math.sqrt(2.0 * inverse * variance * log_term)
            if abs(rise) > spread + 2.0 / 3.0 * log_term * inverse:
                return 1 if rise > 0.0 else -1
    return 0
