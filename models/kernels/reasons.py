"""What columns do to the link of a sum of trees, and how it spreads to those whom people know.

A node says what its leaves say on average, by what each has learned. Along a row's way each step
moves that, and the column it splits on gets the difference; or the columns get Shapley values of
the game in which an unknown column sends a row both ways, by the same weights ("path dependent"
TreeSHAP [1]_). Of one leaf that game is a product over the columns ``f`` on its path,
``prod_f (1 - t) s_f + t o_f`` where each is known with chance ``t``: ``s_f`` is the share that goes
its way, ``o_f`` whether the row does. Shapley values are its slopes, averaged over ``t``: a
polynomial, which a Gauss-Legendre sum gets exactly.

.. [1] S. Lundberg et al., "From local explanations to global understanding with explainable AI for
   trees", Nature Machine Intelligence 2, 2020.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import float64, int64, njit, void

from models.base import F64, I64
from models.kernels.common import AT, HELPER, MOST_NODES, RARE, WEIGHT
from models.kernels.entry import entry
from models.kernels.gradients import leaf_value
from models.kernels.trees import SECOND, Trees

LEAST = 1e-12
"""What a leaf that has learned nothing counts for."""


class Walks(NamedTuple):
    """What is told of the ``n`` nodes of an arena, and scratch for a path of ``c`` columns."""

    order: I64  # (n,): nodes in use, each after its parent
    parent: I64  # (n,): -1 of a root
    cover: F64  # (n,): curvature of what the leaves below have learned
    value: F64  # (n,): what they say on average
    column: I64  # (c,): scratch, the columns on the way to a leaf
    inside: F64  # (c,): scratch, whether the row goes that way
    share: F64  # (c,): scratch, which share of all does


def make_walks(nodes: int, columns: int) -> Walks:
    """Room for an arena of so many nodes, over so many columns."""
    return Walks(
        order=np.zeros(nodes, np.int64),
        parent=np.zeros(nodes, np.int64),
        cover=np.zeros(nodes),
        value=np.zeros(nodes),
        column=np.zeros(columns, np.int64),
        inside=np.zeros(columns),
        share=np.zeros(columns),
    )


@njit(**RARE)
def survey(root: I64, t: Trees, hyper: F64, w: Walks) -> int:
    """Fill ``w`` for the trees at these roots; how many nodes they have."""
    n = 0
    for s in range(len(root)):
        t.stack[0], height = root[s], 1
        w.parent[root[s]] = -1
        while height > 0:
            height -= 1
            node = t.stack[height]
            w.order[n] = node
            n += 1
            if t.column[node] >= 0:
                for child in range(t.child[node], t.child[node] + 2):
                    w.parent[child] = node
                    t.stack[height] = child
                    height += 1
    for i in range(n - 1, -1, -1):
        node = w.order[i]
        child = t.child[node]
        if t.column[node] < 0:
            w.cover[node] = max(t.known[child, SECOND], LEAST)
            w.value[node] = leaf_value(child, t, hyper)
        else:
            w.cover[node] = w.cover[child] + w.cover[child + 1]
            both = w.cover[child] * w.value[child] + w.cover[child + 1] * w.value[child + 1]
            w.value[node] = both / w.cover[node]
    return n


@njit(**HELPER)
def follow(root: I64, rate: float, x: F64, t: Trees, w: Walks, out: F64) -> float:
    """Add to ``out`` what each step of the row's ways moves, times ``rate``.

    Gives the sum of the leaves, times ``rate``.
    """
    link = 0.0
    for s in range(len(root)):
        node = root[s]
        while t.column[node] >= 0:
            f = t.column[node]
            child = t.child[node] + (x[f] > t.threshold[node])
            out[f] += rate * (w.value[child] - w.value[node])
            node = child
        link += rate * w.value[node]
    return link


@njit(**HELPER)
def _path(leaf: int, x: F64, t: Trees, w: Walks) -> int:
    """Fill ``column``, ``inside`` and ``share`` of ``w`` for the way to a leaf; their number."""
    count, below, above = 0, leaf, w.parent[leaf]
    while above >= 0:
        f = t.column[above]
        k = 0
        while k < count and w.column[k] != f:
            k += 1
        if k == count:
            w.column[k], w.inside[k], w.share[k] = f, 1.0, 1.0
            count += 1
        if t.child[above] + (x[f] > t.threshold[above]) != below:
            w.inside[k] = 0.0
        w.share[k] *= w.cover[below] / w.cover[above]
        below, above = above, w.parent[above]
    return count


@njit(**RARE)
def shapley(n: int, rate: float, x: F64, t: Trees, w: Walks, out: F64) -> None:
    """Add to ``out`` the Shapley values of the ``n`` nodes surveyed, times ``rate``.

    With more than 32 columns on one path they are good to a few digits.
    """
    for i in range(n):
        leaf = w.order[i]
        if t.column[leaf] >= 0:
            continue
        count = _path(leaf, x, t, w)
        nodes = min((count + 1) // 2, MOST_NODES)
        for q in range(nodes):
            known = AT[nodes, q]
            product = rate * w.value[leaf] * WEIGHT[nodes, q]
            for k in range(count):
                product *= (1.0 - known) * w.share[k] + known * w.inside[k]
            for k in range(count):
                mixed = (1.0 - known) * w.share[k] + known * w.inside[k]
                out[w.column[k]] += product * (w.inside[k] - w.share[k]) / mixed


@entry(void(float64[:, ::1], float64[::1], float64[:]))
def sums(told: F64, usual: F64, out: F64) -> None:
    """``out[i]``: what columns do together, beside what they usually do."""
    for i in range(len(told)):
        out[i] = 0.0
        for f in range(len(usual)):
            out[i] += told[i, f] - usual[f]


@entry(void(float64[:, ::1], float64[::1], float64[:], int64[::1], float64[:, :]))
def spread(told: F64, usual: F64, slope: F64, place: I64, out: F64) -> None:
    """Add what columns do, beside what they usually do, to what they stand for.

    ``out[i, place[f]]`` gets ``slope[i] * (told[i, f] - usual[f])``.
    """
    for i in range(len(told)):
        for f in range(len(usual)):
            out[i, place[f]] += slope[i] * (told[i, f] - usual[f])
