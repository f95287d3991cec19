"""Neighbours: users who rated the same items, or items that the same users rated.

``item_knn`` and ``user_knn`` are one kernel whose two sides change places: a row stands for an item
(a user), and the other side, users (items), remembers its last ratings. Each row has a small table
of how often it was rated together with each other row, and of the sum of the products of the two
ratings' residuals. A pair stands in the table of the newer of the two, in a cell of the bucket that
the older one's tag names; where the bucket is full, the weakest of its cells gives way, as in
Space-Saving (Metwally 2005).

A rating is foretold twice from the residuals of the other side's ratings: by how the two rows'
ratings vary together, and by how many ratings they share (their cosine, squared).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64, I64, U32, U64
from models.kernels.common import HELPER, LANES, RARE, least_of, lowest, matching, prefetch
from models.kernels.reco.tables import I32
from models.kernels.windows.entities import ENTITIES, EVICTED

READINGS = 2
SHARED = 0.1
"""Shared ratings are damped by this much of a squared cosine."""
ALONE = 5.0
"""A row counts as rated so many times more than it was: few ratings tell little of whom it is
like."""

ABREAST = 8
"""Pairs that are summed side by side, each in a sum of its own: it does not depend on how wide a
machine's registers are."""

AHEAD = 8
"""Pairs ahead of the one whose cells are read, the next ones' are asked for."""

# Rows of what is held of pairs, in ``pairs``.
RESIDUAL, COUNT, PRODUCT, RATED = range(4)
PAIR = 4

_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)


class Known(NamedTuple):
    """The known ids of one side; ``S`` slots."""

    scalars: I64  # (SCALARS,)
    lookup: I32  # (power of two,) hash index: slot or -1
    keys: U64  # (S,)
    ints: I32  # (S, INTS)
    tags: U32  # (S,): ids so far when the slot's came, never 0; 0 where it is free


class Neighbours(NamedTuple):
    """Tables of ``C`` cells of ``R`` rows; the last ``H`` ratings of each of ``O`` others."""

    cells: U32  # (R, C): the tag of whom the cell is of, 0 where it is empty
    counts: U32  # (R, C): ratings together, 0 where it is empty
    products: F32  # (R, C): the sum of their residuals' products
    rated: U64  # (O, H): rows that the other rated, their tags above their slots
    said: F32  # (O, H): residuals of the ratings
    heard: I32  # (O,): ratings, in all
    prior: F64  # (1,): rows with fewer ratings together than this are alike for less
    out: F64  # (READINGS,): scratch, what was read
    pairs: F32  # (PAIR, H up to a multiple of ABREAST): scratch, what is held of each pair
    totals: F64  # (4, ABREAST): scratch


def neighbours(*, rows: int, others: int, cells: int, length: int, prior: float) -> Neighbours:
    """Tables of nobody."""
    wide = -(-length // ABREAST) * ABREAST
    return Neighbours(
        np.zeros((rows, cells), np.uint32),
        np.zeros((rows, cells), np.uint32),
        np.zeros((rows, cells), np.float32),
        np.zeros((others, length), np.uint64),
        np.zeros((others, length), np.float32),
        np.zeros(others, np.int32),
        np.array([prior]),
        np.zeros(READINGS),
        np.zeros((PAIR, wide), np.float32),
        np.zeros((4, ABREAST)),
    )


@njit(**HELPER)
def name(side: Known, slot: int) -> None:
    """Give a slot's new id its tag."""
    count = np.uint32(side.scalars[ENTITIES] + side.scalars[EVICTED])
    side.tags[slot] = max(count, np.uint32(1))


@njit(**HELPER)
def unname(side: Known, slot: int) -> None:
    """Whoever remembers the slot's tag remembers nobody from now on."""
    side.tags[slot] = 0


@njit(**HELPER)
def _bucket(a: Neighbours, tag: int) -> int:
    """Where in a row a tag's bucket begins."""
    return np.int64(tag) * LANES & (a.cells.shape[1] - 1)


@njit(**HELPER)
def _named(name: int) -> Any:
    """The slot of what was rated, and the tag that it had then."""
    return np.int64(name & _LOW), np.uint32(name >> _HIGH)


@njit(**HELPER)
def _pairs(a: Neighbours, side: Known, rated: F64, row: int, other: int) -> int:
    """Read what the row has together with each row that the other rated last; how many these are.

    It is three lines of the cache for each, of which those in rows of others are asked for ahead.
    """
    wide, me = a.cells.shape[1], side.tags[row]
    n = min(np.int64(a.heard[other]), a.rated.shape[1])
    for q in range(n):
        theirs, tag = _named(a.rated[other, min(q + AHEAD, n - 1)])
        if tag > me:
            at = theirs * wide + _bucket(a, me)
            prefetch(a.cells, at)
            prefetch(a.counts, at)
            prefetch(a.products, at)
        theirs, tag = _named(a.rated[other, q])
        table, key = (row, tag) if me >= tag else (theirs, me)
        bucket = _bucket(a, key)
        same = matching(a.cells, table * wide + bucket, key)
        at = bucket + (lowest(same) & (LANES - 1))
        held = np.float32(side.tags[theirs] == tag and same != 0)
        a.pairs[RESIDUAL, q] = a.said[other, q]
        a.pairs[COUNT, q] = held * a.counts[table, at]
        a.pairs[PRODUCT, q] = held * a.products[table, at]
        a.pairs[RATED, q] = rated[theirs]
    return n


@njit(**HELPER)
def read_neighbours(a: Neighbours, side: Known, rated: F64, row: int, other: int) -> None:
    """Fill ``out`` with what the other's last ratings foretell of the row; ``rated`` ``(R,)`` has
    how often each row was rated. -1 is somebody unknown: nothing is foretold."""
    a.out[:] = 0.0
    if row < 0 or other < 0:
        return
    n = _pairs(a, side, rated, row, other)
    residual, count, product, often = a.pairs[0], a.pairs[1], a.pairs[2], a.pairs[3]
    for q in range(n, -(-n // ABREAST) * ABREAST):
        residual[q] = count[q] = product[q] = often[q] = 0.0
    t0, t1, t2, t3 = a.totals[0], a.totals[1], a.totals[2], a.totals[3]
    a.totals[:] = 0.0
    prior, mine = a.prior[0], rated[row] + ALONE
    for start in range(0, n, ABREAST):
        for k in range(ABREAST):
            q = start + k
            c, r = np.float64(count[q]), np.float64(residual[q])
            together = product[q] / (c + prior)
            cosine = c * c / (mine * (often[q] + ALONE))
            t0[k] += together * r
            t1[k] += abs(together)
            t2[k] += cosine * r
            t3[k] += cosine
    varied, like, shared, cosines = 0.0, 0.0, 0.0, 0.0
    for k in range(ABREAST):
        varied += t0[k]
        like += t1[k]
        shared += t2[k]
        cosines += t3[k]
    a.out[0] = varied / (like + 1.0)
    a.out[1] = shared / (cosines + SHARED)


@njit(**HELPER)
def _count(a: Neighbours, table: int, key: int, product: float) -> None:
    """Count a rating together, in the pair's cell, an empty one, or in place of the weakest.

    Whichever it is, is chosen by numbers and not by branches: nobody could foresee them.
    """
    bucket = _bucket(a, key)
    first = table * a.cells.shape[1] + bucket
    same = matching(a.cells, first, key)
    is_held, weakest = same != 0, least_of(a.counts, first)
    at = bucket + (lowest(same) if is_held else weakest)
    count, total = a.counts[table, at], a.products[table, at]
    stays = not is_held and count > 1
    fewer = np.uint32(count - 1)
    weaker = total * (np.float32(fewer) / np.float32(count))
    a.cells[table, at] = a.cells[table, at] if stays else key
    a.counts[table, at] = np.uint32(count + 1) if is_held else (fewer if stays else np.uint32(1))
    total += np.float32(product)
    a.products[table, at] = total if is_held else (weaker if stays else np.float32(product))


@njit(**HELPER)
def learn_neighbours(a: Neighbours, side: Known, row: int, other: int, residual: float) -> None:
    """The row was rated beside what the other rated last, and is what he rated last from now on."""
    length, me = a.rated.shape[1], side.tags[row]
    for q in range(min(np.int64(a.heard[other]), length)):
        theirs, tag = _named(a.rated[other, q])
        if side.tags[theirs] == tag:
            table, key = (row, tag) if me >= tag else (theirs, me)
            _count(a, table, key, residual * a.said[other, q])
    at = a.heard[other] % length
    a.rated[other, at] = (np.uint64(me) << _HIGH) | np.uint64(row)
    a.said[other, at] = residual
    a.heard[other] += 1


@njit(**RARE)
def forget_row(a: Neighbours, row: int) -> None:
    """Know of nobody who is like a row; where others knew it, its tag is no longer one."""
    a.cells[row, :] = 0
    a.counts[row, :] = 0


@njit(**RARE)
def forget_other(a: Neighbours, other: int) -> None:
    """Know no rating of the other any more."""
    a.heard[other] = 0
