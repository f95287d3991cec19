"""Leaves that vote among ``k`` classes: histograms by class, majority or naive Bayes.

What ``models/kernels/votes.py`` is for two classes: a leaf splits as a Hoeffding tree does
(Domingos and Hulten 2000) and predicts by majority or naive Bayes, whichever was right more often
of late (Gama, Rocha and Medas 2003). Nothing here is allocated while it runs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.base import F64, I64
from models.kernels.binning import Bins
from models.kernels.common import HELPER, RARE
from models.kernels.trees import REFUSED, Trees, leaves_left, left_sum, split_node

MAJORITY, BAYES = range(2)
"""Predictors of a leaf."""

FADE = 0.98
"""Per row and leaf, of the weight a predictor got right: the choice follows the last 50 rows."""

REACH = 255
"""Naive Bayes counts all the bins beside a number's own that ``look_around`` allows: on moving
clusters of eight classes the forest is right .02 less often with 3."""

EVEN = 4.0
"""Weight that naive Bayes spreads evenly over the bins of a column, of each class."""

GRACE, DELTA, TIE = range(3)
"""Settings, by place in an array."""

LEAST = 1e-9
"""No class's share of a vote is smaller."""


def known_of(k: int) -> int:
    """Numbers a leaf knows besides its histograms: weight by class, with what its parent passed
    on; weight by class in its histograms; weight at its last look for a split; and the fading
    weight that each predictor got right."""
    return 2 * k + 1 + 2


@njit(**HELPER)
def likeliest(share: F64) -> int:
    """The class with the largest share, the first of equals."""
    best = 0
    for c in range(1, len(share)):
        if share[c] > share[best]:
            best = c
    return best


@njit(**HELPER)
def to_one(weights: F64, share: F64) -> None:
    """Write the weights to ``share`` as shares, which sum to 1; both may be one array."""
    total = 0.0
    for c in range(len(share)):
        total += weights[c]
    for c in range(len(share)):
        share[c] = weights[c] / total


@njit(**HELPER)
def _bayes(leaf: int, near: I64, bins: Bins, t: Trees, per: F64, share: F64) -> None:
    """Multiply shares by the likelihood of the bins ``near`` under each class."""
    k = len(share)
    for c in range(k):
        per[c] = 1.0 / (t.known[leaf, k + c] + EVEN)
    for j in range(t.histogram.shape[1]):
        f = t.subspace[leaf, j]
        first, last = near[f, 0], near[f, 1]
        even = EVEN * (last - first) / bins.used[f]
        for c in range(k):
            counted = even
            for p in range(first, last):
                counted += t.histogram[leaf, j, p, c]
            share[c] *= counted * per[c]
        if j % 8 == 7:  # before a product leaves the range of numbers
            to_one(share, share)


@njit(**HELPER)
def leaf_vote(
    leaf: int,
    prior: F64,
    near: I64,
    bins: Bins,
    t: Trees,
    per: F64,
    share: F64,
    said: I64,
    judged: bool,
) -> None:
    """Write to ``share`` what the leaf's best predictor of late gives each class; they sum to 1.

    ``prior`` by class: one row's weight of it smooths the counts. If :func:`learn_leaf` is to
    judge the predictors, the class that each holds likeliest goes to ``said``. ``per``: scratch.
    """
    k = len(share)
    right = 2 * k + 1
    bayes = t.known[leaf, right + BAYES] > t.known[leaf, right + MAJORITY]
    for c in range(k):
        share[c] = t.known[leaf, c] + prior[c]
    to_one(share, share)
    said[MAJORITY] = likeliest(share)
    if judged or bayes:
        _bayes(leaf, near, bins, t, per, share)
        said[BAYES] = likeliest(share)
    if not bayes:
        for c in range(k):
            share[c] = t.known[leaf, c] + prior[c]
    to_one(share, share)
    for c in range(k):
        share[c] = max(share[c], LEAST)


@njit(**HELPER)
def learn_leaf(leaf: int, label: int, weight: float, at: I64, k: int, t: Trees, said: I64) -> None:
    """Count a row at a leaf, after judging what its predictors said of it."""
    for i in range(len(said)):
        place = 2 * k + 1 + i
        t.known[leaf, place] = FADE * t.known[leaf, place] + weight * (said[i] == label)
    t.known[leaf, label] += weight
    t.known[leaf, k + label] += weight
    for j in range(t.histogram.shape[1]):
        t.histogram[leaf, j, at[t.subspace[leaf, j]], label] += np.float32(weight)


@njit(**HELPER)
def _purity(leaf: int, k: int, t: Trees) -> tuple[float, float]:
    """What the leaf's histograms hold: the weight, and ``sum w_c ** 2 / sum w_c``."""
    total, squares = 0.0, 0.0
    for c in range(k):
        total += t.known[leaf, k + c]
        squares += t.known[leaf, k + c] * t.known[leaf, k + c]
    return total, squares / max(total, 1e-300)


@njit(**HELPER)
def _best_cut(
    leaf: int, j: int, total: float, bins: Bins, t: Trees, sides: F64
) -> tuple[float, int]:
    """The purest two sides that a threshold on subspace column ``j`` gives, and its position."""
    k = sides.shape[1]
    least = 0.01 * total
    best, cut = 0.0, -1
    for c in range(k):
        sides[0, c] = 0.0
    weight = 0.0
    for p in range(bins.used[t.subspace[leaf, j]] - 1):
        inside = 0.0
        for c in range(k):
            inside += t.histogram[leaf, j, p, c]
        if inside == 0.0:  # most bins of a young leaf
            continue
        weight += inside
        below, above = 0.0, 0.0
        for c in range(k):
            sides[0, c] += t.histogram[leaf, j, p, c]
            right = t.known[leaf, k + c] - sides[0, c]
            below += sides[0, c] * sides[0, c]
            above += right * right
        if weight < least or total - weight < least:
            continue
        purity = below / weight + above / (total - weight)
        if purity > best:
            best, cut = purity, p
    return best, cut


@njit(**HELPER)
def try_split(node: int, bins: Bins, t: Trees, hyper: F64, sides: F64) -> None:
    """Split a leaf that has learned enough since its last look, if Hoeffding's bound allows.

    ``sides`` ``(2, k)``: scratch.
    """
    leaf, k = t.child[node], sides.shape[1]
    weight = 0.0
    for c in range(k):
        weight += t.known[leaf, c]
    if weight - t.known[leaf, 2 * k] >= hyper[GRACE]:
        t.known[leaf, 2 * k] = weight
        _look(node, leaf, weight, bins, t, hyper, sides)


@njit(**RARE)
def _look(
    node: int, leaf: int, weight: float, bins: Bins, t: Trees, hyper: F64, sides: F64
) -> None:
    """Look for the best cut of a leaf, and split it there if Hoeffding's bound allows.

    The drop of Gini impurity is scaled to a range of 0 to 1, as the bound expects.
    """
    k = sides.shape[1]
    seen, whole = _purity(leaf, k, t)
    if seen - whole <= 1e-9 * seen:  # one class alone
        return
    best, second, column, cut = whole, whole, -1, -1
    for j in range(t.histogram.shape[1]):
        purity, at = _best_cut(leaf, j, seen, bins, t, sides)
        if purity > best:
            best, second, column, cut = purity, best, j, at
        elif purity > second:
            second = purity
    ahead = (best - second) / seen * k / (k - 1.0)
    bound = math.sqrt(-math.log(hyper[DELTA]) / (2.0 * weight))
    if cut < 0 or (ahead <= bound and bound >= hyper[TIE]):
        return
    if leaves_left(t) < 1:
        t.counter[REFUSED] += 1
        return
    _split(node, column, cut, bins, t, sides)


@njit(**HELPER)
def _split(node: int, column: int, cut: int, bins: Bins, t: Trees, sides: F64) -> None:
    """Split a leaf; its sides know what its histogram says of them."""
    leaf, k = t.child[node], sides.shape[1]
    for c in range(k):  # taken down before: one of the sides may lie where the leaf did
        sides[0, c] = left_sum(leaf, column, cut, c, t)
        sides[1, c] = max(t.known[leaf, k + c] - sides[0, c], 0.0)
    pair = split_node(node, column, cut, (0.0, 0.0), (0.0, 0.0), bins, t)
    for side in range(2):
        leaf = t.child[pair + side]
        for c in range(k):
            t.known[leaf, c] = sides[side, c]
            t.known[leaf, 2 * k] += sides[side, c]
