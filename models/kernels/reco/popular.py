"""What is popular: how often each item was taken, faded slowly and fast.

Instead of every count shrinking at every row, the step by which counts grow grows: only ratios
matter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64
from models.kernels.common import RARE

LARGEST = 1e100


class Popular(NamedTuple):
    """Counts with two fades; ``S`` item slots."""

    counts: F64  # (S, 2)
    step: F64  # (2,): what a row of weight 1 adds
    total: F64  # (2,): of all counts
    growth: F64  # (2,): of the step, at each row


def popular(items: int, slow: float, fast: float) -> Popular:
    """An empty table with room for so many items."""
    growth = np.array([1.0 + 1.0 / slow, 1.0 + 1.0 / fast])
    return Popular(np.zeros((items, 2)), np.ones(2), np.zeros(2), growth)


@njit(**RARE)
def score_popular(a: Popular, n: int, out: F32) -> None:
    """Each item's share of what is taken, half by each fade."""
    slow = 0.5 / a.total[0] if a.total[0] > 0.0 else 0.0
    fast = 0.5 / a.total[1] if a.total[1] > 0.0 else 0.0
    for j in range(n):
        out[j] = np.float32(slow * a.counts[j, 0] + fast * a.counts[j, 1])


@njit(**RARE)
def learn_popular(a: Popular, item: int, weight: float) -> None:
    """Count one row."""
    for k in range(2):
        a.step[k] *= a.growth[k]
        a.counts[item, k] += weight * a.step[k]
        a.total[k] += weight * a.step[k]
        if a.step[k] > LARGEST:
            for j in range(len(a.counts)):
                a.counts[j, k] /= LARGEST
            a.total[k] /= LARGEST
            a.step[k] /= LARGEST


@njit(**RARE)
def forget_popular(a: Popular, item: int) -> None:
    """Count nothing for an item any more."""
    for k in range(2):
        a.total[k] = max(a.total[k] - a.counts[item, k], 0.0)
        a.counts[item, k] = 0.0
