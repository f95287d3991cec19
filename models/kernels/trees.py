"""Trees in shared arrays: nodes, leaves with histograms, an arena that takes back what is dropped.

The kinds of leaves are those of ``votes.py``, ``gradients.py`` and ``leaves/``. All trees of a
member draw nodes and leaves from one arena with free lists, so memory is bounded. A leaf looks at a
random subspace of columns; for each bin of these (:mod:`models.kernels.binning`) its histogram
holds two sums or more: weights of the classes, gradients and curvatures. Bins lie in the order of
their values, so that neighbours share a cache line: by id, as the crossed member keeps them, a
forest took half as long again. Nothing here is allocated while it runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64, I64, U64, Role
from models.kernels.binning import Bins, observe
from models.kernels.common import HELPER, RARE, below

FIRST, SECOND = range(2)
"""What every leaf knows at least: its two sums. The kind of leaf defines the rest."""

KNOWN = 10
"""Numbers a leaf has room for besides its histograms."""

PAIRS, FREE_PAIRS, LEAVES, FREE_LEAVES, SPLITS, REFUSED = range(6)

ROLES: dict[str, Role] = {
    "column": "learned",
    "threshold": "learned",
    "child": "control",
    "free_pair": "control",
    "histogram": "statistic",
    "subspace": "control",
    "known": "statistic",
    "free_leaf": "control",
    "counter": "control",
    "rng": "rng",
}


class Trees(NamedTuple):
    """The arena: ``n`` nodes in pairs of siblings, ``l`` leaves, ``m`` columns in a subspace."""

    column: I64  # (n,): the column a node splits on, -1 for a leaf
    threshold: F64  # (n,): values up to it go left
    child: I64  # (n,): the left child, its sibling next to it; of a leaf: its place in the arena
    free_pair: I64  # (n / 2,): stack
    histogram: F32  # (l, m, b, s): sums by the bin's position
    subspace: I64  # (l, m)
    known: F64  # (l, KNOWN) or wider
    free_leaf: I64  # (l,): stack
    counter: I64  # (6,): see PAIRS and the rest
    rng: U64  # (1,)
    stack: I64  # (n,): scratch
    shuffle: I64  # (columns,): scratch


def make_trees(
    columns: int,
    share: float,
    bins: int,
    leaves: int,
    seed: int,
    sums: int = 2,
    known: int = KNOWN,
) -> Trees:
    """An empty arena for ``leaves`` leaves, each of which looks at a share of the columns.

    At three at least: on three plain columns a forest that looked at two of them was right .0012
    less often. A leaf's histograms hold ``sums`` for each bin; beside them it has room for
    ``known`` numbers.
    """
    subspace = min(max(round(share * columns), 3), columns)
    nodes = 4 * leaves  # roots waste their sibling, so pairs may outnumber leaves
    return Trees(
        # Zeros: a root's sibling is never written, and a restored arena must hold the same there.
        column=np.zeros(nodes, np.int64),
        threshold=np.zeros(nodes),
        child=np.zeros(nodes, np.int64),
        free_pair=np.zeros(nodes // 2, np.int64),
        histogram=np.zeros((leaves, subspace, bins, sums), np.float32),
        subspace=np.zeros((leaves, subspace), np.int64),
        known=np.zeros((leaves, known)),
        free_leaf=np.zeros(leaves, np.int64),
        counter=np.zeros(6, np.int64),
        rng=np.array([seed], np.uint64),
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
def _new_leaf(node: int, first: float, second: float, t: Trees) -> None:
    """Make ``node`` a leaf with a subspace of its own and these two sums."""
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
    t.known[leaf, FIRST] = first
    t.known[leaf, SECOND] = second
    for f in range(len(t.shuffle)):
        t.shuffle[f] = f
    for j in range(t.histogram.shape[1]):
        pick = j + below(t.rng, len(t.shuffle) - j)
        f = t.shuffle[pick]
        t.shuffle[pick] = t.shuffle[j]
        t.subspace[leaf, j] = f
        for b in range(t.histogram.shape[2]):
            for c in range(t.histogram.shape[3]):
                t.histogram[leaf, j, b, c] = 0.0


@njit(**RARE)
def new_tree(t: Trees) -> int:
    """The root of a tree of one leaf; the caller has seen to it that a leaf is left."""
    node = _new_pair(t)
    _new_leaf(node, 0.0, 0.0, t)
    return node


@njit(**RARE)
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
def find_leaf_nodes(root: I64, x: F64, t: Trees, node: I64) -> None:
    """Fill ``node`` with the leaf node that ``x`` falls into in each tree.

    All trees go down side by side, without a branch but the last: one tree after the other, a
    forest scored half as fast.
    """
    for i in range(len(node)):
        node[i] = root[i]
    going = True
    while going:
        going = False
        for i in range(len(node)):
            at = node[i]
            f = t.column[at]
            inner = f >= 0
            to = t.child[at] + (x[max(f, 0)] > t.threshold[at])
            node[i] = to if inner else at
            going |= inner


@njit(**HELPER)
def left_sum(leaf: int, j: int, cut: int, channel: int, t: Trees) -> float:
    """A leaf's sum over the bins of subspace column ``j`` up to position ``cut``."""
    total = 0.0
    for p in range(cut + 1):
        total += t.histogram[leaf, j, p, channel]
    return total


@njit(**RARE)
def split_node(
    node: int,
    j: int,
    cut: int,
    left: tuple[float, float],
    right: tuple[float, float],
    bins: Bins,
    t: Trees,
) -> int:
    """Turn a leaf into a node over two leaves with these sums; returns the left one's node."""
    leaf = t.child[node]
    f = t.subspace[leaf, j]
    t.free_leaf[t.counter[FREE_LEAVES]] = leaf
    t.counter[FREE_LEAVES] += 1
    t.counter[SPLITS] += 1
    pair = _new_pair(t)
    t.column[node] = f
    t.threshold[node] = bins.edge[f, cut]
    t.child[node] = pair
    _new_leaf(pair, left[0], left[1], t)
    _new_leaf(pair + 1, right[0], right[1], t)
    return pair


@njit(**RARE)
def divide_bin(f: int, p: int, used: int, t: Trees) -> None:
    """After the bin at position ``p`` of column ``f`` split, halve its sums in every leaf.

    ``used`` counts the column's bins with the new half; those beyond it move one place up.
    """
    for leaf in range(t.counter[LEAVES]):
        for j in range(t.histogram.shape[1]):
            if t.subspace[leaf, j] == f:
                for c in range(t.histogram.shape[3]):
                    for q in range(used - 1, p + 1, -1):
                        t.histogram[leaf, j, q, c] = t.histogram[leaf, j, q - 1, c]
                    half = t.histogram[leaf, j, p, c] * np.float32(0.5)
                    t.histogram[leaf, j, p, c] = half
                    t.histogram[leaf, j, p + 1, c] = half


@njit(**HELPER)
def plant(root: I64, t: Trees) -> None:
    """A tree at each root, unless they are there already."""
    if root[0] < 0:
        for i in range(len(root)):
            root[i] = new_tree(t)


@njit(**HELPER)
def grow(x: F64, at: I64, bins: Bins, t: Trees) -> None:
    """Count the values of a row, see ``place``; where a bin splits, its sums do in every leaf."""
    for f in range(len(x)):
        p = observe(f, x[f], at[f], bins)
        if p >= 0:
            divide_bin(f, p, bins.used[f], t)


def used_part(t: Trees) -> dict[str, int]:
    """How many rows of each array are in use; the others are in use whole."""
    nodes = dict.fromkeys(("column", "threshold", "child"), 2 * t.counter[PAIRS])
    leaves = dict.fromkeys(("histogram", "subspace", "known"), t.counter[LEAVES])
    free = {"free_pair": t.counter[FREE_PAIRS], "free_leaf": t.counter[FREE_LEAVES]}
    return {name: int(end) for name, end in (nodes | leaves | free).items()}
