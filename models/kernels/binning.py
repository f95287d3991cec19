"""Bins that grow with the stream: a number becomes one of a few dozen ids, fine in the tails.

The crossed member and the forest call the compiled helpers of this module; each keeps its own
:class:`Bins`. A column starts as one bin. A bin that holds too much of the stream splits at the
mean of what it saw: the left half keeps the id, the right half gets the next free one, so what was
learned about an id stays true. Discrete values end in bins of their own, and a column that was
constant for a year still grows bins when it starts to move. This is the growing first layer of
Partition Incremental Discretization (Gama and Pinto 2006) with a size limit in the manner of the
t-digest (Dunning 2021): a bin may hold at most ``4 / capacity`` of all rows, and no more than
everything beyond it towards the nearer end, so tails halve and halve again down to :data:`FLOOR`
rows. Where that floor begins lower, a young column is resolved sooner. It never merges bins, keeps
no raw rows but extremes, and draws no randomness.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.base import F32, F64, I64, U32, Role
from models.kernels.common import HELPER, RARE

FLOOR = 32
"""A bin that saw fewer rows since it was born does not split."""

YOUNG = 2
"""Where that floor may begin: then it is a 16th of the column's rows, between the two. With 32 from
the start a forest was right .10 less often than River's, whose leaves know mean and deviation after
two rows, in the first 200 rows of plain streams; with 2 as often."""

SPREAD = 8
"""Bins that a column has in use for each on either side of a value's own that naive Bayes counts:
single bins of many hold a row or two, and of few each may be a value of its own."""

U8 = NDArray[np.uint8]


MASS, FRESH, CHECK, LOW, HIGH, TOTAL = range(6)
"""What is known of a bin: rows in all (those before its birth estimated); rows since its birth; how
many of these to await before the next look at its size; their least, greatest, and sum. They lie in
one cache line: with an array each, counting a row took twice as long."""

_BORN = (0.0, 0.0, 0.0, np.inf, -np.inf, 0.0, 0.0, 0.0)


class Bins(NamedTuple):
    """The bins of ``d`` columns, at most ``b`` each; positions run by value, ids by age."""

    edge: F64  # (d, b): by position, the largest value of the bin; inf for the last and beyond
    order: U8  # (d, b): by position, the bin's id
    used: I64  # (d,): bins in use
    known: F64  # (d, b, 8): by id, see MASS and the rest
    floor: F64  # (1,): setting, where the floor begins


ROLES: dict[str, Role] = dict.fromkeys(("edge", "order", "used", "known"), "statistic")


def make_bins(d: int, capacity: int, floor: int = FLOOR) -> Bins:
    """One bin for each of ``d`` columns; room for ``capacity``, at most 256 (ids are bytes).

    ``floor`` is that of the first rows, :data:`YOUNG` to :data:`FLOOR`.
    """
    known = np.empty((d, capacity, len(_BORN)))
    known[:] = _BORN
    known[:, :, CHECK] = floor
    return Bins(
        edge=np.full((d, capacity), np.inf),
        order=np.zeros((d, capacity), np.uint8),
        used=np.ones(d, np.int64),
        known=known,
        floor=np.array([float(floor)]),
    )


@njit(**HELPER)
def position(f: int, x: float, edge: F64) -> int:
    """Where ``x`` falls in column ``f``: how many edges are below it.

    Comparing with every edge has no branch to mispredict: 4 ns for 64 edges, bisection 24 ns.
    """
    p = 0
    for q in range(edge.shape[1]):
        p += edge[f, q] < x
    return p


@njit(**HELPER)
def observe(f: int, x: float, p: int, bins: Bins) -> int:
    """Count ``x`` in column ``f``, where it falls in position ``p``; split a bin grown too large.

    Returns the position of the bin that split (its new right half is one further), or -1.
    """
    b = np.int64(bins.order[f, p])
    known = bins.known
    known[f, b, MASS] += 1.0
    known[f, b, FRESH] += 1.0
    known[f, b, LOW] = min(known[f, b, LOW], x)
    known[f, b, HIGH] = max(known[f, b, HIGH], x)
    known[f, b, TOTAL] += x
    if known[f, b, FRESH] < known[f, b, CHECK] or bins.used[f] == bins.edge.shape[1]:
        return -1
    # A look costs a sum over the column; it must stay rare.
    known[f, b, CHECK] = known[f, b, FRESH] * 1.125
    # Rounding may carry the mean of nearly equal values past one of them.
    middle = known[f, b, TOTAL] / known[f, b, FRESH]
    inside = known[f, b, LOW] <= middle and middle < known[f, b, HIGH]
    if not inside:
        return -1
    limit, floor = _limit(f, p, bins)
    if known[f, b, MASS] <= limit:
        return -1
    _split(f, p, middle, floor, bins)
    return p


@njit(**RARE)
def _limit(f: int, p: int, bins: Bins) -> tuple[float, float]:
    """The most rows that the bin at position ``p`` may hold, and the column's present floor."""
    below = 0.0
    above = 0.0
    for q in range(bins.used[f]):
        mass = bins.known[f, bins.order[f, q], MASS]
        if q < p:
            below += mass
        elif q > p:
            above += mass
    total = below + above + bins.known[f, bins.order[f, p], MASS]
    floor = min(max(total / 16.0, bins.floor[0]), float(FLOOR))
    return max(floor, min(4.0 * total / bins.edge.shape[1], min(below, above))), floor


@njit(**RARE)
def _split(f: int, p: int, middle: float, floor: float, bins: Bins) -> None:
    """Cut the bin at position ``p``: values up to ``middle`` keep its id.

    Neither half is looked at before it has seen ``floor`` rows.
    """
    old = np.int64(bins.order[f, p])
    new = bins.used[f]
    for q in range(new, p + 1, -1):
        bins.edge[f, q] = bins.edge[f, q - 1]
        bins.order[f, q] = bins.order[f, q - 1]
    bins.edge[f, p + 1] = bins.edge[f, p]
    bins.order[f, p + 1] = new
    bins.edge[f, p] = middle
    bins.used[f] += 1
    mass = bins.known[f, old, MASS] * 0.5
    for b in (old, new):
        for i in range(len(_BORN)):
            bins.known[f, b, i] = _BORN[i]
        bins.known[f, b, CHECK] = floor
        bins.known[f, b, MASS] = mass


@njit(**HELPER)
def place(dense: F32, hashed: U32, i: int, edge: F64, x: F64, at: I64) -> None:
    """Fill ``x`` and ``at`` with the values of row ``i``, dense first, and their positions."""
    d = dense.shape[1]
    for f in range(len(x)):
        x[f] = np.float64(dense[i, f]) if f < d else np.float64(hashed[i, f - d])
        at[f] = position(f, x[f], edge)


@njit(**HELPER)
def look_around(at: I64, used: I64, numbers: int, most: int, near: I64) -> None:
    """Fill ``near`` with where the bins begin and end that naive Bayes counts of each column.

    Once a row: it is the same in all leaves. ``most`` bins on either side; none of a code's own,
    beyond the first ``numbers`` columns: codes beside one another have nothing in common.
    """
    for f in range(len(at)):
        reach = min(used[f] // SPREAD, most) if f < numbers else 0
        near[f, 0] = max(at[f] - reach, 0)
        near[f, 1] = min(at[f] + reach + 1, used[f])


@njit(**HELPER)
def locate(dense: F32, i: int, edge: F64, order: U8, at: I64, ids: I64) -> None:
    """Fill ``at`` with the positions of row ``i``, and ``ids`` with the ids of the bins there."""
    for f in range(dense.shape[1]):
        at[f] = position(f, np.float64(dense[i, f]), edge)
        ids[f] = order[f, at[f]]
