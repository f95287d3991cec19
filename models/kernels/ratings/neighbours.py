"""Neighbours: users who rated the same items, or items that the same users rated.

``item_knn`` and ``user_knn`` are one kernel whose two sides change places: a row stands for an item
(a user), and the other side, users (items), remembers its last ratings. Each row has a small table
of how often it was rated together with each other row, and of the sum of the products of the two
ratings' residuals. Where a row finds no cell of its own, the weakest of a few gives way, as in
``models/kernels/reco/cooccurrence.py``.

A rating is foretold twice from the residuals of the other side's ratings: by how the two rows'
ratings vary together, and by how many ratings they share (their cosine, squared).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64, I64, U32, U64
from models.kernels.common import GOLDEN, HELPER, RARE
from models.kernels.reco.tables import I32

PROBES = 16
READINGS = 2
SHARED = 0.1
"""Shared ratings are damped by this much of a squared cosine."""
ALONE = 5.0
"""A row counts as rated so many times more than it was: few ratings tell little of whom it is
like."""

_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)


class Known(NamedTuple):
    """The known ids of one side; ``S`` slots."""

    scalars: I64  # (SCALARS,)
    lookup: I32  # (power of two,) hash index: slot or -1
    keys: U64  # (S,)
    ints: I32  # (S, INTS)
    tags: U32  # (S,): how often the slot was given away


class Neighbours(NamedTuple):
    """Tables of ``C`` cells of ``R`` rows; the last ``H`` ratings of each of ``O`` others."""

    cells: U64  # (R, C): whom the cell is of, 0 where it is empty
    sums: F32  # (R, C, 2): ratings together, and the sum of their residuals' products
    rated: U64  # (O, H): rows that the other rated
    said: F32  # (O, H): residuals of the ratings
    heard: I32  # (O,): ratings, in all
    prior: F64  # (1,): rows with fewer ratings together than this are alike for less
    out: F64  # (READINGS,): scratch, what was read


def neighbours(*, rows: int, others: int, cells: int, length: int, prior: float) -> Neighbours:
    """Tables of nobody."""
    return Neighbours(
        np.zeros((rows, cells), np.uint64),
        np.zeros((rows, cells, 2), np.float32),
        np.zeros((others, length), np.uint64),
        np.zeros((others, length), np.float32),
        np.zeros(others, np.int32),
        np.array([prior]),
        np.zeros(READINGS),
    )


@njit(**HELPER)
def _name(side: Known, slot: int) -> Any:
    """What a slot's id is called in tables, never 0: another when the slot is given to another."""
    return (np.uint64(side.tags[slot] + np.uint64(1)) << _HIGH) | np.uint64(slot)


@njit(**HELPER)
def _slot(name: Any) -> Any:
    """The slot of a name, whosever it is by now."""
    return np.int64(name & _LOW)


@njit(**HELPER)
def _first(a: Neighbours, name: Any) -> int:
    """Where in a row the search for a name begins."""
    return np.int64((name * GOLDEN) >> np.uint64(40)) & (a.cells.shape[1] - 1)


@njit(**HELPER)
def _find(a: Neighbours, row: int, name: Any) -> int:
    """The cell of a name in a row, or -1."""
    start, mask = _first(a, name), a.cells.shape[1] - 1
    for k in range(PROBES):
        at = (start + k) & mask
        held = a.cells[row, at]
        if held == name:
            return at
        if held == 0:
            return -1  # cells are filled in the order of their probes
    return -1


@njit(**RARE)
def _enter(a: Neighbours, row: int, name: Any, product: float) -> None:
    """Count the first rating together, in an empty cell or in place of the weakest."""
    start, mask = _first(a, name), a.cells.shape[1] - 1
    weakest, least = start, np.float32(np.inf)
    for k in range(PROBES):
        at = (start + k) & mask
        if a.cells[row, at] == 0:
            weakest, least = at, np.float32(0.0)
            break
        if a.sums[row, at, 0] < least:
            weakest, least = at, a.sums[row, at, 0]
    if least > 1.0:
        a.sums[row, weakest, 1] *= (least - np.float32(1.0)) / least
        a.sums[row, weakest, 0] = least - np.float32(1.0)
    else:
        a.cells[row, weakest] = name
        a.sums[row, weakest, 0] = 1.0
        a.sums[row, weakest, 1] = product


@njit(**RARE)
def read_neighbours(a: Neighbours, side: Known, rated: F64, row: int, other: int) -> None:
    """Fill ``out`` with what the other's last ratings foretell of the row; ``rated`` ``(R,)`` has
    how often each row was rated. -1 is somebody unknown: nothing is foretold."""
    a.out[:] = 0.0
    if row < 0 or other < 0:
        return
    varied, like, shared, cosines = 0.0, 0.0, 0.0, 0.0
    mine, me = rated[row] + ALONE, _name(side, row)
    for q in range(min(a.heard[other], a.rated.shape[1])):
        name = a.rated[other, q]
        theirs = _slot(name)
        if _name(side, theirs) != name:
            continue
        # What two rows have together stands in the row of the higher slot: the newer one.
        table = max(row, theirs)
        at = _find(a, table, name if row >= theirs else me)
        if at < 0:
            continue
        count, residual = np.float64(a.sums[table, at, 0]), np.float64(a.said[other, q])
        together = a.sums[table, at, 1] / (count + a.prior[0])
        cosine = count * count / (mine * (rated[theirs] + ALONE))
        varied += together * residual
        like += abs(together)
        shared += cosine * residual
        cosines += cosine
    a.out[0] = varied / (like + 1.0)
    a.out[1] = shared / (cosines + SHARED)


@njit(**RARE)
def learn_neighbours(a: Neighbours, side: Known, row: int, other: int, residual: float) -> None:
    """The row was rated beside what the other rated last, and is what he rated last from now on."""
    length, me = a.rated.shape[1], _name(side, row)
    for q in range(min(a.heard[other], length)):
        name = a.rated[other, q]
        theirs = _slot(name)
        if _name(side, theirs) != name:
            continue
        table, key = max(row, theirs), name if row >= theirs else me
        product, at = residual * a.said[other, q], _find(a, table, key)
        if at >= 0:
            a.sums[table, at, 0] += np.float32(1.0)
            a.sums[table, at, 1] += np.float32(product)
        else:
            _enter(a, table, key, product)
    at = a.heard[other] % length
    a.rated[other, at] = me
    a.said[other, at] = residual
    a.heard[other] += 1


@njit(**RARE)
def forget_row(a: Neighbours, row: int) -> None:
    """Know of nobody who is like a row; where others knew it, its name is no longer one."""
    for k in range(a.cells.shape[1]):
        a.cells[row, k] = 0


@njit(**RARE)
def forget_other(a: Neighbours, other: int) -> None:
    """Know no rating of the other any more."""
    a.heard[other] = 0
