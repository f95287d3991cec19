"""What is popular: how often each item was taken, faded slowly and fast.

Instead of every count shrinking at every row, the step by which counts grow grows: only ratios
matter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64
from models.kernels.common import RARE
from models.kernels.reco.tables import Items, Users, recent, remembered, slot_of

LARGEST = 1e100
READINGS = 3
LAST = 5
"""A user's last items whose counts tell how popular the next one is."""


class Popular(NamedTuple):
    """Counts with two fades; ``S`` item slots."""

    counts: F64  # (S, 2)
    step: F64  # (2,): what a row of weight 1 adds
    total: F64  # (2,): of all counts
    growth: F64  # (2,): of the step, at each row
    level: F32  # (S,): logarithm of 1 + the slow count, when the item was last taken


def popular(items: int, slow: float, fast: float) -> Popular:
    """An empty table with room for so many items."""
    growth = np.array([1.0 + 1.0 / slow, 1.0 + 1.0 / fast])
    return Popular(
        np.zeros((items, 2)), np.ones(2), np.zeros(2), growth, np.zeros(items, np.float32)
    )


@njit(**RARE)
def score_popular(a: Popular, items: Items, users: Users, user: int, out: F32) -> None:
    """Fill ``out`` ``(READINGS, S)``: each item's share of what is taken, half by each fade; its
    share by the fast fade; how near its count is to those of the user's last items."""
    n = items.scalars[0]
    slow = 0.5 / a.total[0] if a.total[0] > 0.0 else 0.0
    fast = 0.5 / a.total[1] if a.total[1] > 0.0 else 0.0
    level, weights = 0.0, 0.0
    if user >= 0:
        for q in range(min(remembered(users, user), LAST)):
            tag = recent(users, user, q)
            if items.tags[slot_of(tag)] == tag:
                level += a.level[slot_of(tag)]
                weights += 1.0
    mean = np.float32(level / weights) if weights > 0.0 else np.float32(0.0)
    both, now, near = out[0], out[1], out[2]
    for j in range(n):
        now[j] = np.float32(fast * a.counts[j, 1])
        both[j] = np.float32(slow * a.counts[j, 0]) + now[j]
        off = a.level[j] - mean
        near[j] = -off * off if weights > 0.0 else np.float32(0.0)


@njit(**RARE)
def learn_popular(a: Popular, item: int, weight: float) -> None:
    """Count one row."""
    for k in range(2):
        a.step[k] *= a.growth[k]
        a.counts[item, k] += weight * a.step[k]
        a.total[k] += weight * a.step[k]
        if k == 0:
            a.level[item] = np.float32(math.log(1.0 + a.counts[item, 0] / a.step[0]))
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
    a.level[item] = 0.0
