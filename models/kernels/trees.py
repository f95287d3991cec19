"""Hoeffding trees in shared arrays: nodes, leaves with histograms, and how a leaf splits.

Called from ``models/forest.py``. All trees of a forest draw nodes and leaves from one arena with
free lists, so memory is bounded and a dropped tree's parts are used again. A leaf holds, for a
random subspace of columns, how often each bin (:mod:`models.binning`) came with each class. It
splits as a Hoeffding tree does (Domingos and Hulten 2000) and predicts by majority or naive Bayes,
whichever was right more often there of late (Gama, Rocha and Medas 2003). Nothing here is allocated
while it runs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64, I64, U64
from models.binning import Bins
from models.kernels.common import HELPER, below

NEGATIVE, POSITIVE, SEEN_NEGATIVE, SEEN_POSITIVE, LOOKED, LATEST, RIGHT = range(7)
"""What a leaf knows besides histograms: weight by class, with what its parent passed on; weight by
class in its histograms; weight at its last look for a split; 1 + its last label, 0 before any; and
from RIGHT on, the fading weight that each predictor got right."""

MAJORITY, BAYES, LAST_LABEL = range(3)
"""Predictors of a leaf."""

FADE = 0.98
"""Per row and leaf, of the weight a predictor got right: the choice follows the last 50 rows."""

REACH = 3
"""Naive Bayes counts the bins this near to a value's own too: single bins hold a row or two."""

PAIRS, FREE_PAIRS, LEAVES, FREE_LEAVES, SPLITS, REFUSED = range(6)

GRACE, DELTA, TIE, CORRECTION, TRUST_LATEST = range(5)


class Trees(NamedTuple):
    """The arena: ``n`` nodes in pairs of siblings, ``l`` leaves, ``m`` columns in a subspace."""

    column: I64  # (n,): the column a node splits on, -1 for a leaf
    threshold: F64  # (n,): values up to it go left
    child: I64  # (n,): the left child, its sibling next to it; of a leaf: its place in the arena
    free_pair: I64  # (n / 2,): stack
    histogram: F32  # (l, m, b, 2): weight by bin id and class
    subspace: I64  # (l, m)
    known: F64  # (l, 10): see NEGATIVE and the rest
    free_leaf: I64  # (l,): stack
    counter: I64  # (6,): see PAIRS and the rest
    rng: U64  # (1,)
    hyper: F64  # (5,): see GRACE and the rest
    stack: I64  # (n,): scratch
    shuffle: I64  # (columns,): scratch


def make_trees(columns: int, subspace: int, bins: int, leaves: int, seed: int) -> Trees:
    """An empty arena for ``leaves`` leaves."""
    nodes = 4 * leaves  # roots waste their sibling, so pairs may outnumber leaves
    return Trees(
        column=np.full(nodes, -1),
        threshold=np.zeros(nodes),
        child=np.zeros(nodes, np.int64),
        free_pair=np.zeros(nodes // 2, np.int64),
        histogram=np.zeros((leaves, subspace, bins, 2), np.float32),
        subspace=np.zeros((leaves, subspace), np.int64),
        known=np.zeros((leaves, RIGHT + 3)),
        free_leaf=np.zeros(leaves, np.int64),
        counter=np.zeros(6, np.int64),
        rng=np.array([seed], np.uint64),
        hyper=np.zeros(5),
        stack=np.zeros(nodes, np.int64),
        shuffle=np.zeros(columns, np.int64),
    )


@njit(**HELPER)
def leaves_left(t: Trees) -> int:
    """How many leaves the arena can still give."""
    return len(t.free_leaf) - t.counter[LEAVES] + t.counter[FREE_LEAVES]


@njit(**HELPER)
def _new_pair(t: Trees) -> int:
    if t.counter[FREE_PAIRS] > 0:
        t.counter[FREE_PAIRS] -= 1
        return t.free_pair[t.counter[FREE_PAIRS]]
    t.counter[PAIRS] += 1
    return 2 * (t.counter[PAIRS] - 1)


@njit(**HELPER)
def _new_leaf(node: int, negative: float, positive: float, t: Trees) -> None:
    """Make ``node`` a leaf with a subspace of its own and these class weights."""
    if t.counter[FREE_LEAVES] > 0:
        t.counter[FREE_LEAVES] -= 1
        leaf = t.free_leaf[t.counter[FREE_LEAVES]]
    else:
        leaf = t.counter[LEAVES]
        t.counter[LEAVES] += 1
    t.column[node] = -1
    t.child[node] = leaf
    for k in range(t.known.shape[1]):
        t.known[leaf, k] = 0.0
    t.known[leaf, NEGATIVE] = negative
    t.known[leaf, POSITIVE] = positive
    t.known[leaf, LOOKED] = negative + positive
    for f in range(len(t.shuffle)):
        t.shuffle[f] = f
    for j in range(t.histogram.shape[1]):
        pick = j + below(t.rng, len(t.shuffle) - j)
        f = t.shuffle[pick]
        t.shuffle[pick] = t.shuffle[j]
        t.subspace[leaf, j] = f
        for b in range(t.histogram.shape[2]):
            t.histogram[leaf, j, b, 0] = 0.0
            t.histogram[leaf, j, b, 1] = 0.0


@njit(**HELPER)
def new_tree(t: Trees) -> int:
    """The root of a tree of one leaf; the caller has seen to it that a leaf is left."""
    node = _new_pair(t)
    _new_leaf(node, 0.0, 0.0, t)
    return node


@njit(**HELPER)
def free_tree(root: int, t: Trees) -> None:
    """Give a tree's nodes and leaves back."""
    t.stack[0] = root
    height = 1
    while height > 0:
        height -= 1
        node = t.stack[height]
        if t.column[node] >= 0:
            t.stack[height] = t.child[node]
            t.stack[height + 1] = t.child[node] + 1
            height += 2
        else:
            t.free_leaf[t.counter[FREE_LEAVES]] = t.child[node]
            t.counter[FREE_LEAVES] += 1
        if node % 2 == 0:  # a left child or a root: its pair goes with it
            t.free_pair[t.counter[FREE_PAIRS]] = node
            t.counter[FREE_PAIRS] += 1


@njit(**HELPER)
def find_leaf_node(root: int, x: F64, t: Trees) -> int:
    """The leaf node that the values ``x`` fall into."""
    node = root
    while t.column[node] >= 0:
        node = t.child[node] + (x[t.column[node]] > t.threshold[node])
    return node


@njit(**HELPER)
def _bayes_ratio(leaf: int, at: I64, bins: Bins, t: Trees) -> float:
    """Likelihood of the positions ``at`` under the positive class over that under the negative."""
    least = 0.5 * t.histogram.shape[2] / (2 * REACH + 1)
    share = (t.known[leaf, SEEN_NEGATIVE] + least) / (t.known[leaf, SEEN_POSITIVE] + least)
    ratio = 1.0
    for j in range(t.histogram.shape[1]):
        f = t.subspace[leaf, j]
        up, down = 0.5, 0.5
        for p in range(max(at[f] - REACH, 0), min(at[f] + REACH + 1, bins.used[f])):
            b = bins.order[f, p]
            down += t.histogram[leaf, j, b, 0]
            up += t.histogram[leaf, j, b, 1]
        ratio *= up / down * share
    return ratio


@njit(**HELPER)
def leaf_odds(leaf: int, prior: float, at: I64, bins: Bins, t: Trees, said: F64, i: int) -> float:
    """Odds of the positive class by the leaf's best predictor of late, within 1e-9 .. 1e9.

    What each predictor says goes to ``said[i]``, for :func:`learn_leaf` to judge. One row's weight
    of the prior smooths them.
    """
    none = 1.0 - prior
    said[i, MAJORITY] = (t.known[leaf, POSITIVE] + prior) / (t.known[leaf, NEGATIVE] + none)
    said[i, BAYES] = said[i, MAJORITY] * _bayes_ratio(leaf, at, bins, t)
    said[i, LAST_LABEL] = said[i, MAJORITY]
    last = t.known[leaf, LATEST]
    if last > 0.0:
        said[i, LAST_LABEL] = (6.0 + prior) / none if last > 1.5 else prior / (6.0 + none)
    best = BAYES if t.known[leaf, RIGHT + BAYES] > t.known[leaf, RIGHT + MAJORITY] else MAJORITY
    if t.hyper[TRUST_LATEST] * t.known[leaf, RIGHT + LAST_LABEL] > t.known[leaf, RIGHT + best]:
        best = LAST_LABEL
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
        t.histogram[leaf, j, bins.order[f, at[f]], label] += np.float32(weight)


@njit(**HELPER)
def _impurity(negative: float, positive: float) -> float:
    """Gini impurity, scaled to a range of 0 to 1 as Hoeffding's bound expects, times weight."""
    total = negative + positive
    return 4.0 * negative * positive / total if total > 0.0 else 0.0


@njit(**HELPER)
def _best_cut(leaf: int, j: int, bins: Bins, t: Trees) -> tuple[float, int]:
    """The largest drop of weighted impurity that a threshold on subspace column ``j`` gives."""
    f = t.subspace[leaf, j]
    all_0, all_1 = t.known[leaf, SEEN_NEGATIVE], t.known[leaf, SEEN_POSITIVE]
    total = all_0 + all_1
    least = 0.01 * total
    before = _impurity(all_0, all_1)
    best, cut = 0.0, -1
    left_0, left_1 = 0.0, 0.0
    for p in range(bins.used[f] - 1):
        b = bins.order[f, p]
        left_0 += t.histogram[leaf, j, b, 0]
        left_1 += t.histogram[leaf, j, b, 1]
        left = left_0 + left_1
        if left < least or total - left < least:
            continue
        after = _impurity(left_0, left_1) + _impurity(all_0 - left_0, all_1 - left_1)
        if before - after > best:
            best, cut = before - after, p
    return best / total, cut


@njit(**HELPER)
def try_split(node: int, bins: Bins, t: Trees) -> None:
    """Split a leaf that has learned enough since its last look, if Hoeffding's bound allows."""
    leaf = t.child[node]
    weight = t.known[leaf, NEGATIVE] + t.known[leaf, POSITIVE]
    if weight - t.known[leaf, LOOKED] < t.hyper[GRACE]:
        return
    t.known[leaf, LOOKED] = weight
    if t.known[leaf, SEEN_NEGATIVE] <= 0.0 or t.known[leaf, SEEN_POSITIVE] <= 0.0:
        return
    best, second, column, cut = 0.0, 0.0, -1, -1
    for j in range(t.histogram.shape[1]):
        gain, at = _best_cut(leaf, j, bins, t)
        if gain > best:
            best, second, column, cut = gain, best, j, at
        elif gain > second:
            second = gain
    bound = math.sqrt(-math.log(t.hyper[DELTA]) / (2.0 * weight))
    if cut < 0 or (best - second <= bound and bound >= t.hyper[TIE]):
        return
    if leaves_left(t) < 1:
        t.counter[REFUSED] += 1
        return
    _split(node, column, cut, bins, t)


@njit(**HELPER)
def _split(node: int, j: int, cut: int, bins: Bins, t: Trees) -> None:
    """Turn a leaf into a node of two leaves, which start with its class weights by side."""
    leaf = t.child[node]
    f = t.subspace[leaf, j]
    left_0, left_1 = 0.0, 0.0
    for p in range(cut + 1):
        left_0 += t.histogram[leaf, j, bins.order[f, p], 0]
        left_1 += t.histogram[leaf, j, bins.order[f, p], 1]
    right_0 = max(t.known[leaf, SEEN_NEGATIVE] - left_0, 0.0)
    right_1 = max(t.known[leaf, SEEN_POSITIVE] - left_1, 0.0)
    t.free_leaf[t.counter[FREE_LEAVES]] = leaf
    t.counter[FREE_LEAVES] += 1
    t.counter[SPLITS] += 1
    pair = _new_pair(t)
    t.column[node] = f
    t.threshold[node] = bins.edge[f, cut]
    t.child[node] = pair
    _new_leaf(pair, left_0, left_1, t)
    _new_leaf(pair + 1, right_0, right_1, t)


@njit(**HELPER)
def divide_bin(f: int, old: int, new: int, t: Trees) -> None:
    """After a bin of column ``f`` split, give its new half half of its weight in every leaf."""
    for leaf in range(t.counter[LEAVES]):
        for j in range(t.histogram.shape[1]):
            if t.subspace[leaf, j] == f:
                for c in range(2):
                    half = t.histogram[leaf, j, old, c] * np.float32(0.5)
                    t.histogram[leaf, j, old, c] = half
                    t.histogram[leaf, j, new, c] = half
