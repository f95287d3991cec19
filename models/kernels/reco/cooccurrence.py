"""What follows what: for each item a small table of the items taken near it by the same user.

A row of the table holds 256 cells, probed 16 at a time; where an item finds none of its own, the
weakest of the 16 gives way as in Space-Saving [1]_: it loses what the new one brings, and its cell
once nothing is left.

.. [1] A. Metwally, D. Agrawal and A. El Abbadi, "Efficient computation of frequent and top-k
   elements in data streams", ICDT 2005.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from models.base import F32, U32
from models.kernels.common import HELPER, RARE
from models.kernels.reco.tables import Items, Users, bucket_bits, recent, remembered, slot_of

CELLS = 256
PROBES = 16
READINGS = 3
"""One table is read with three fades: that of learning, a third of it, three times it."""


class Cooccurrence(NamedTuple):
    """A table of neighbours for each item; ``S`` item slots."""

    tags: U32  # (S, CELLS)
    weights: F32  # (S, CELLS): 0 where the cell is empty
    total: F32  # (S,): all that was ever added to the row
    near: F32  # (L, READINGS): what the user's last item but q counts for
    back: F32  # (1,): of that, what counts from the later item to the earlier
    prior: F32  # (1,): rows with less than this in all count for less


def cooccurrence(items: int, length: int, fade: float, back: float, prior: float) -> Cooccurrence:
    """An empty table with room for so many items."""
    return Cooccurrence(
        np.zeros((items, CELLS), np.uint32),
        np.zeros((items, CELLS), np.float32),
        np.zeros(items, np.float32),
        np.exp(-np.arange(length)[:, None] / (fade * np.array([1, 1 / 3, 3]))).astype(np.float32),
        np.array([back], np.float32),
        np.array([prior], np.float32),
    )


@njit(**HELPER)
def _add(a: Cooccurrence, items: Items, row: int, tag: Any, amount: Any) -> None:
    a.total[row] += amount
    start = bucket_bits(tag)
    weakest, least = 0, np.float32(np.inf)
    for k in range(PROBES):
        at = (start + k) & (CELLS - 1)
        weight = a.weights[row, at]
        held = a.tags[row, at]
        if weight > 0.0:
            if held == tag:
                a.weights[row, at] = weight + amount
                return
            if items.tags[slot_of(held)] != held:
                weight = np.float32(0.0)
        if weight < least:
            weakest, least = at, weight
            if weight == 0.0 and a.weights[row, at] == 0.0:
                break  # cells are filled in the order of their probes
    if least > amount:
        a.weights[row, weakest] = least - amount
    else:
        a.tags[row, weakest] = tag
        a.weights[row, weakest] = amount


@njit(**RARE)
def score_cooccurrence(a: Cooccurrence, items: Items, users: Users, user: int, out: F32) -> None:
    """Add up the rows of the user's last items, each by its share: ``out`` ``(READINGS, S)``."""
    n = items.scalars[0]
    usual, short, long = out[0], out[1], out[2]
    for j in range(n):
        usual[j] = np.float32(0.0)
        short[j] = np.float32(0.0)
        long[j] = np.float32(0.0)
    if user < 0:
        return
    for q in range(min(remembered(users, user), len(a.near))):
        tag = recent(users, user, q)
        row = slot_of(tag)
        if items.tags[row] != tag:
            continue
        scale = np.float32(1.0) / (a.total[row] + a.prior[0])
        f, g, h = a.near[q, 0] * scale, a.near[q, 1] * scale, a.near[q, 2] * scale
        for k in range(CELLS):
            weight = a.weights[row, k]
            if weight > 0.0:
                held = a.tags[row, k]
                slot = slot_of(held)
                if items.tags[slot] == held:
                    usual[slot] += f * weight
                    short[slot] += g * weight
                    long[slot] += h * weight


@njit(**RARE)
def learn_cooccurrence(
    a: Cooccurrence, items: Items, users: Users, user: int, item: int, weight: float
) -> None:
    """Let the user's last items know of this one, and this one of them."""
    if user < 0:
        return
    mine = items.tags[item]
    for q in range(min(remembered(users, user), len(a.near))):
        tag = recent(users, user, q)
        row = slot_of(tag)
        if items.tags[row] == tag:
            amount = np.float32(weight) * a.near[q, 0]
            _add(a, items, row, mine, amount)
            _add(a, items, item, tag, amount * a.back[0])


@njit(**RARE)
def forget_cooccurrence(a: Cooccurrence, item: int) -> None:
    """Clear an item's row; what other rows hold of it names nobody once its tag is another."""
    for k in range(CELLS):
        a.weights[item, k] = 0.0
    a.total[item] = 0.0
