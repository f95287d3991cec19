"""ADWIN, compiled: windows of exponential buckets, over arrays of their owners.

The test is that of River's ``drift.ADWIN`` (Bifet and Gavalda 2007, doi
10.1137/1.9781611972771.42), bit for bit; a rise may have to be large as well as certain to count
(``least``). Detectors forget their whole window at a signal; so a bucket needs its sum alone, and
the variance is that of everything since the last signal. Draws no randomness and allocates nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F64, I64, Role
from models.kernels.common import HELPER, RARE

PER_ROW = 5
"""Most buckets of one size; one more, and the two oldest merge into one of twice the size."""

CLOCK = 32
"""Values from one test to the next."""

SHORTEST = 5
"""Values in the shorter of two parts that are compared, at least."""

WIDTH, SUM, SQUARES = range(3)
"""What is known of a window: values, their sum, sum of squared deviations from their mean."""

LEVELS = 40

ROLES: dict[str, Role] = {"bucket": "statistic", "held": "control", "moments": "statistic"}


class Adwins(NamedTuple):
    """``n`` detectors; level ``l`` holds buckets of ``2**l`` values, the oldest first."""

    bucket: F64  # (n, LEVELS, PER_ROW + 1): sums
    held: I64  # (n, LEVELS): buckets in use
    moments: F64  # (n, 3): see WIDTH and the rest


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
    a.held[d, :] = 0
    a.bucket[d, :, :] = 0.0
    a.moments[d, :] = 0.0


@njit(**HELPER)
def adwin_update(d: int, x: float, delta: float, least: float, a: Adwins) -> int:
    """Show ``x`` to detector ``d``: 1 if the mean rose, -1 if it fell (all is forgotten); or 0.

    A rise by no more than the share ``least`` of the mean before is none; 0.0 takes any. ``x`` is
    an error, 0 or more.
    """
    _insert(d, x, a.moments, a.held, a.bucket)
    if np.int64(a.moments[d, WIDTH]) % CLOCK != 0:
        return 0
    change = _find_cut(d, a.moments, a.held, a.bucket, delta, least)
    if change == 0.0:
        return 0
    adwin_reset(d, a)
    return 1 if change > 0.0 else -1


@njit(**HELPER)
def _insert(d: int, x: float, known: F64, held: I64, sums: F64) -> None:
    """Add a bucket of one value to window ``d``; merge the two oldest of a level with too many."""
    width = known[d, WIDTH]
    if width > 0.0:
        gap = x - known[d, SUM] / width
        known[d, SQUARES] += width * gap * gap / (width + 1.0)
    known[d, WIDTH] = width + 1.0
    known[d, SUM] += x
    level = 0
    while True:
        n = held[d, level]
        sums[d, level, n] = x
        if n < PER_ROW or level + 1 == held.shape[1]:
            held[d, level] = min(n + 1, PER_ROW)
            return
        x = sums[d, level, 0] + sums[d, level, 1]
        for k in range(PER_ROW - 1):
            sums[d, level, k] = sums[d, level, k + 2]
        held[d, level] = PER_ROW - 1
        level += 1


@njit(**RARE)
def _find_cut(d: int, known: F64, held: I64, sums: F64, delta: float, least: float) -> float:
    """How far the mean rose at the first cut between two means too far apart (theorem 3.1); or 0.

    Looks from the oldest bucket to the youngest.
    """
    old, old_sum = 0.0, 0.0
    new, new_sum = known[d, WIDTH], known[d, SUM]
    spread = 2.0 * known[d, SQUARES] / known[d, WIDTH]
    log_term = math.log(2.0 * math.log(known[d, WIDTH]) / delta)
    for level in range(LEVELS - 1, -1, -1):
        size = 2.0**level
        for k in range(held[d, level]):
            old += size
            new -= size
            old_sum += sums[d, level, k]
            new_sum -= sums[d, level, k]
            if old < SHORTEST or new < SHORTEST:
                continue
            rise = new_sum / new - old_sum / old
            gap = abs(rise)
            inverse = 1.0 / (old - SHORTEST + 1.0) + 1.0 / (new - SHORTEST + 1.0)
            cut = math.sqrt(inverse * spread * log_term) + 2.0 / 3.0 * log_term * inverse
            if gap > cut and (rise < 0.0 or rise > least * old_sum / old):
                return rise
    return 0.0
