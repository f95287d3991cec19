"""Leaves that vote: class histograms, majority or naive Bayes, and Hoeffding's bound for a split.

The arena is that of ``trees.py``. A leaf splits as a Hoeffding tree does (Domingos and Hulten 2000)
and predicts by majority or naive Bayes, whichever was right more often there of late (Gama, Rocha
and Medas 2003). Nothing here is allocated while it runs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.base import F64, I64
from models.kernels.binning import Bins
from models.kernels.common import HELPER, RARE, prefetch
from models.kernels.trees import REFUSED, Trees, leaves_left, left_sum, split_node

NEGATIVE, POSITIVE, SEEN_NEGATIVE, SEEN_POSITIVE, LOOKED, LATEST, RIGHT = range(7)
"""What a leaf knows besides histograms: weight by class, with what its parent passed on; weight by
class in its histograms; weight at its last look for a split; 1 + its last label, 0 before any; and
from RIGHT on, the fading weight that each predictor got right."""

MAJORITY, BAYES, LAST_LABEL = range(3)
"""Predictors of a leaf."""

FADE = 0.98
"""Per row and leaf, of the weight a predictor got right: the choice follows the last 50 rows."""

REACH = 3
"""Naive Bayes counts no more bins than these on either side of a value's own."""

GRACE, DELTA, TIE, CORRECTION, TRUST_LATEST = range(5)
"""Settings of a forest's leaves, by place in an array."""


@njit(**HELPER)
def _bayes_ratio(leaf: int, near: I64, t: Trees) -> float:
    """Likelihood of the bins ``near`` under the positive class over that under the negative."""
    least = 0.5 * t.histogram.shape[2] / (2 * REACH + 1)
    share = (t.known[leaf, SEEN_NEGATIVE] + least) / (t.known[leaf, SEEN_POSITIVE] + least)
    ratio = 1.0
    for j in range(t.histogram.shape[1]):
        f = t.subspace[leaf, j]
        up, down = 0.5, 0.5
        for p in range(near[f, 0], near[f, 1]):
            down += t.histogram[leaf, j, p, 0]
            up += t.histogram[leaf, j, p, 1]
        ratio *= up / down * share
    return ratio


@njit(**HELPER)
def ask_for(leaf: int, near: I64, t: Trees) -> None:
    """Ask the memory for the histograms that :func:`leaf_odds` will read.

    All trees' leaves are asked for before the first of them votes: a forest of 30 MB learns a
    tenth faster.
    """
    columns, bins, sums = t.histogram.shape[1:]
    for j in range(columns):
        f = t.subspace[leaf, j]
        first = (leaf * columns + j) * bins
        prefetch(t.histogram, (first + near[f, 0]) * sums)
        prefetch(t.histogram, (first + near[f, 1]) * sums - 1)


@njit(**HELPER)
def leaf_odds(
    leaf: int,
    prior: float,
    near: I64,
    t: Trees,
    trust: float,
    said: F64,
    i: int,
    judged: bool,
) -> float:
    """Odds of the positive class by the leaf's best predictor of late, within 1e-9 .. 1e9.

    If :func:`learn_leaf` is to judge them, what each predictor says goes to ``said[i]``. One row's
    weight of the prior smooths them.
    """
    best = BAYES if t.known[leaf, RIGHT + BAYES] > t.known[leaf, RIGHT + MAJORITY] else MAJORITY
    if trust * t.known[leaf, RIGHT + LAST_LABEL] > t.known[leaf, RIGHT + best]:
        best = LAST_LABEL
    none = 1.0 - prior
    said[i, MAJORITY] = (t.known[leaf, POSITIVE] + prior) / (t.known[leaf, NEGATIVE] + none)
    if judged or best == BAYES:
        said[i, BAYES] = said[i, MAJORITY] * _bayes_ratio(leaf, near, t)
    said[i, LAST_LABEL] = said[i, MAJORITY]
    last = t.known[leaf, LATEST]
    if last > 0.0:
        said[i, LAST_LABEL] = (6.0 + prior) / none if last > 1.5 else prior / (6.0 + none)
    return min(max(said[i, best], 1e-9), 1e9)


@njit(**HELPER)
def learn_leaf(
    leaf: int, label: int, weight: float, at: I64, bins: Bins, t: Trees, said: F64, i: int
) -> None:
    """Count a row at a leaf, after judging what its predictors said of it."""
    for k in range(said.shape[1]):
        right = (said[i, k] > 1.0) == (label == 1)
        t.known[leaf, RIGHT + k] = FADE * t.known[leaf, RIGHT + k] + weight * right
    t.known[leaf, LATEST] = 1.0 + label
    t.known[leaf, NEGATIVE + label] += weight
    t.known[leaf, SEEN_NEGATIVE + label] += weight
    for j in range(t.histogram.shape[1]):
        f = t.subspace[leaf, j]
        t.histogram[leaf, j, at[f], label] += np.float32(weight)


@njit(**HELPER)
def _best_cut(leaf: int, j: int, bins: Bins, t: Trees) -> tuple[float, int]:
    """The largest drop of Gini impurity that a threshold on subspace column ``j`` gives.

    Impurity is scaled to a range of 0 to 1, as Hoeffding's bound expects.
    """
    f = t.subspace[leaf, j]
    all_0, all_1 = t.known[leaf, SEEN_NEGATIVE], t.known[leaf, SEEN_POSITIVE]
    total = all_0 + all_1
    least = 0.01 * total
    lowest, cut = all_0 * all_1 / total, -1
    left_0, left_1 = 0.0, 0.0
    for p in range(bins.used[f] - 1):
        in_0, in_1 = t.histogram[leaf, j, p, 0], t.histogram[leaf, j, p, 1]
        if in_0 + in_1 == 0.0:  # most bins of a young leaf
            continue
        left_0 += in_0
        left_1 += in_1
        left, right_0, right_1 = left_0 + left_1, all_0 - left_0, all_1 - left_1
        right = right_0 + right_1
        if left < least or right < least:
            continue
        after = (left_0 * left_1 * right + right_0 * right_1 * left) / (left * right)
        if after < lowest:
            lowest, cut = after, p
    return 4.0 * (all_0 * all_1 / total - lowest) / total, cut


@njit(**HELPER)
def try_split(node: int, bins: Bins, t: Trees, hyper: F64) -> None:
    """Split a leaf that has learned enough since its last look, if Hoeffding's bound allows."""
    leaf = t.child[node]
    weight = t.known[leaf, NEGATIVE] + t.known[leaf, POSITIVE]
    if weight - t.known[leaf, LOOKED] < hyper[GRACE]:
        return
    t.known[leaf, LOOKED] = weight
    if t.known[leaf, SEEN_NEGATIVE] > 0.0 and t.known[leaf, SEEN_POSITIVE] > 0.0:
        _look(node, leaf, weight, bins, t, hyper)


@njit(**RARE)
def _look(node: int, leaf: int, weight: float, bins: Bins, t: Trees, hyper: F64) -> None:
    """Look for the best cut of a leaf, and split it there if Hoeffding's bound allows."""
    best, second, column, cut = 0.0, 0.0, -1, -1
    for j in range(t.histogram.shape[1]):
        gain, at = _best_cut(leaf, j, bins, t)
        if gain > best:
            best, second, column, cut = gain, best, j, at
        elif gain > second:
            second = gain
    bound = math.sqrt(-math.log(hyper[DELTA]) / (2.0 * weight))
    if cut < 0 or (best - second <= bound and bound >= hyper[TIE]):
        return
    if leaves_left(t) < 1:
        t.counter[REFUSED] += 1
        return
    left_0 = left_sum(leaf, column, cut, 0, t)
    left_1 = left_sum(leaf, column, cut, 1, t)
    right_0 = max(t.known[leaf, SEEN_NEGATIVE] - left_0, 0.0)
    right_1 = max(t.known[leaf, SEEN_POSITIVE] - left_1, 0.0)
    pair = split_node(node, column, cut, (left_0, left_1), (right_0, right_1), bins, t)
    t.known[t.child[pair], LOOKED] = left_0 + left_1
    t.known[t.child[pair + 1], LOOKED] = right_0 + right_1
