"""Leaves that step: sums of gradients and curvatures, Newton values, and a score test for a split.

The arena is that of ``trees.py``. A leaf's value is the Newton step of its fading sums (Chen and
Guestrin 2016, equations 5 and 7). Half the statistic of the score test for "the two sides need
other values" is the gain in log likelihood that formula 7 gives; so a leaf splits when the best
gain is beyond what chance gives among all cuts looked at (as Gouk, Pfahringer and Frank 2019 test
theirs). Nothing here is allocated while it runs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.base import F64, I64
from models.kernels.binning import Bins
from models.kernels.common import HELPER, RARE
from models.kernels.trees import FIRST, REFUSED, SECOND, Trees, leaves_left, left_sum, split_node

SEEN_GRADIENT, SEEN_CURVATURE, ROWS, LOOKED = range(2, 6)
"""What a leaf knows beside its fading sums: sums in its histograms, rows, rows at its last look."""

GRACE, NEEDED, RIDGE, KEEP = range(4)
"""Settings: rows between looks; gain in nats for a split; what is added to every curvature; the
share of a leaf's sums that a row leaves over."""

LEAST_CURVATURE = 1e-6
"""Where a probability is next to 0 or 1 a row must not count for nothing."""

LARGEST = 4.0
"""No leaf steps further than this in logits."""

LEAST_RISE = 0.1
"""A tree is replaced when the error of those before it rises by more than this share of it.

What falls short of it may be certain without being a reason: the error of the first trees hardly
varies, so that after enough rows its last digits are known. To replace one for that raises the
error which all after it are judged by, and they fall like dominoes.
"""


@njit(**HELPER)
def leaf_value(leaf: int, t: Trees, hyper: F64) -> float:
    """The Newton step ``-G / (H + ridge)``."""
    step = -t.known[leaf, FIRST] / (t.known[leaf, SECOND] + hyper[RIDGE])
    return min(max(step, -LARGEST), LARGEST)


@njit(**HELPER)
def learn_leaf(
    leaf: int, gradient: float, curvature: float, at: I64, bins: Bins, t: Trees, hyper: F64
) -> None:
    """Add a row's gradient and curvature."""
    t.known[leaf, FIRST] = hyper[KEEP] * t.known[leaf, FIRST] + gradient
    t.known[leaf, SECOND] = hyper[KEEP] * t.known[leaf, SECOND] + curvature
    t.known[leaf, SEEN_GRADIENT] += gradient
    t.known[leaf, SEEN_CURVATURE] += curvature
    t.known[leaf, ROWS] += 1.0
    for j in range(t.histogram.shape[1]):
        f = t.subspace[leaf, j]
        t.histogram[leaf, j, at[f], 0] += np.float32(gradient)
        t.histogram[leaf, j, at[f], 1] += np.float32(curvature)


@njit(**HELPER)
def _fit(gradient: float, curvature: float, ridge: float) -> float:
    """Log likelihood that the Newton step of these sums gains, in nats."""
    return 0.5 * gradient * gradient / (curvature + ridge)


@njit(**HELPER)
def _best_cut(leaf: int, j: int, ridge: float, bins: Bins, t: Trees) -> tuple[float, int]:
    """The largest gain that a threshold on subspace column ``j`` gives, and its position."""
    f = t.subspace[leaf, j]
    all_g, all_h = t.known[leaf, SEEN_GRADIENT], t.known[leaf, SEEN_CURVATURE]
    whole = _fit(all_g, all_h, ridge)
    best, cut = 0.0, -1
    left_g, left_h = 0.0, 0.0
    for p in range(bins.used[f] - 1):
        left_g += t.histogram[leaf, j, p, 0]
        left_h += t.histogram[leaf, j, p, 1]
        right_h = max(all_h - left_h, 0.0)
        gain = _fit(left_g, left_h, ridge) + _fit(all_g - left_g, right_h, ridge) - whole
        if gain > best:
            best, cut = gain, p
    return best, cut


@njit(**HELPER)
def try_split(node: int, bins: Bins, t: Trees, hyper: F64) -> None:
    """Split a leaf that has learned enough since its last look, if the gain is beyond chance."""
    leaf = t.child[node]
    if t.known[leaf, ROWS] - t.known[leaf, LOOKED] < hyper[GRACE]:
        return
    t.known[leaf, LOOKED] = t.known[leaf, ROWS]
    _look(node, leaf, bins, t, hyper)


@njit(**RARE)
def _look(node: int, leaf: int, bins: Bins, t: Trees, hyper: F64) -> None:
    """Look for the best cut of a leaf, and split it there if the gain is beyond chance."""
    best, column, cut = 0.0, -1, -1
    for j in range(t.histogram.shape[1]):
        gain, position = _best_cut(leaf, j, hyper[RIDGE], bins, t)
        if gain > best:
            best, column, cut = gain, j, position
    if best < hyper[NEEDED] + math.log(t.histogram.shape[1] * t.histogram.shape[2]):
        return
    if leaves_left(t) < 1:
        t.counter[REFUSED] += 1
        return
    left_g = left_sum(leaf, column, cut, 0, t)
    left_h = left_sum(leaf, column, cut, 1, t)
    right = (
        t.known[leaf, SEEN_GRADIENT] - left_g,
        max(t.known[leaf, SEEN_CURVATURE] - left_h, 0.0),
    )
    split_node(node, column, cut, (left_g, left_h), right, bins, t)
