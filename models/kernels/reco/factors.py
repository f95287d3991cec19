"""Two factorisations, each a vector for a user and one for an item whose product is the score.

BPR [1]_: what was taken should score above what was not; at each row a few items are drawn, and
each pair takes one step down the gradient. eALS [2]_: all that was not taken should score 0, with a
small weight; at each row the user's vector, then the item's, is solved for, one factor after
another, from the items (users) that are remembered and the sum over all others.

.. [1] S. Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009.
.. [2] X. He et al., "Fast matrix factorization for online recommendation with implicit feedback",
   SIGIR 2016, with one weight for all that was not taken.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64, U64
from models.kernels.common import RARE, below, sigmoid, uniform
from models.kernels.reco.tables import I32, Items, Users, recent, remembered, slot_of

_LOW = np.uint64(0xFFFFFFFF)
HOLDERS = 128
"""Users remembered for each item."""


class Bpr(NamedTuple):
    """Vectors of ``k`` factors; ``S`` item slots, ``U`` user slots."""

    users: F32  # (U, k)
    items: F32  # (S, k)
    bias: F32  # (S,)
    rng: U64  # (1,)
    numbers: F64  # (3,): rate, regularisation, items drawn for each row


class Eals(NamedTuple):
    """Vectors of ``k`` factors; ``S`` item slots, ``U`` user slots."""

    users: F32  # (U, k)
    items: F32  # (S, k)
    user_sum: F64  # (k, k): of users' outer products
    item_sum: F64  # (k, k): of items' outer products
    holders: U64  # (S, HOLDERS): who took the item, tag << 32 | slot
    taken: I32  # (S,)
    rng: U64  # (1,)
    numbers: F64  # (2,): weight of what was not taken, regularisation
    said: F64  # (2048,): scratch


SAID = 2048
"""Items of a user, the latest, that eALS solves from."""


def bpr(
    *,
    items: int,
    users: int,
    seed: int,
    factors: int,
    rate: float,
    regularisation: float,
    negatives: int,
) -> Bpr:
    """Vectors of nobody."""
    return Bpr(
        np.zeros((users, factors), np.float32),
        np.zeros((items, factors), np.float32),
        np.zeros(items, np.float32),
        np.array([seed], np.uint64),
        np.array([rate, regularisation, negatives], np.float64),
    )


def eals(
    *, items: int, users: int, seed: int, factors: int, missing: float, regularisation: float
) -> Eals:
    """Vectors of nobody."""
    return Eals(
        np.zeros((users, factors), np.float32),
        np.zeros((items, factors), np.float32),
        np.zeros((factors, factors)),
        np.zeros((factors, factors)),
        np.zeros((items, HOLDERS), np.uint64),
        np.zeros(items, np.int32),
        np.array([seed], np.uint64),
        np.array([missing, regularisation], np.float64),
        np.zeros(SAID),
    )


@njit(**RARE)
def score_factors(users: F32, items: F32, bias: F32, n: int, user: int, out: F32) -> None:
    """The product of the user's vector with each item's, and the item's bias if there are any."""
    for j in range(n):
        total = bias[j] if len(bias) else np.float32(0.0)
        if user >= 0:
            for f in range(items.shape[1]):
                total += users[user, f] * items[j, f]
        out[j] = total


@njit(**RARE)
def draw(vectors: F32, row: int, rng: U64) -> None:
    """A fresh vector: uniform with a deviation of .1."""
    for f in range(vectors.shape[1]):
        vectors[row, f] = np.float32((uniform(rng) - 0.5) * 0.34641016)


@njit(**RARE)
def clear(vectors: F32, row: int) -> None:
    """No vector."""
    for f in range(vectors.shape[1]):
        vectors[row, f] = np.float32(0.0)


@njit(**RARE)
def learn_bpr(a: Bpr, items: Items, user: int, item: int, weight: float) -> None:
    """One step for each of the drawn items."""
    if user < 0:
        return
    rate, shrink, k = a.numbers[0] * min(weight, 10.0), a.numbers[1], a.items.shape[1]
    for _ in range(int(a.numbers[2])):
        other = below(a.rng, items.scalars[0])
        if other == item or items.alive[other] == 0:
            continue
        ahead = np.float64(a.bias[item] - a.bias[other])
        for f in range(k):
            ahead += a.users[user, f] * (a.items[item, f] - a.items[other, f])
        g = sigmoid(-ahead)
        a.bias[item] += np.float32(rate * (g - shrink * a.bias[item]))
        a.bias[other] += np.float32(rate * (-g - shrink * a.bias[other]))
        for f in range(k):
            u, i, j = a.users[user, f], a.items[item, f], a.items[other, f]
            a.users[user, f] = np.float32(u + rate * (g * (i - j) - shrink * u))
            a.items[item, f] = np.float32(i + rate * (g * u - shrink * i))
            a.items[other, f] = np.float32(j + rate * (-g * u - shrink * j))


@njit(**RARE)
def add_outer(total: F64, vectors: F32, row: int, sign: float) -> None:
    """Add a vector's outer product to the sum, or take it off."""
    k = len(total)
    for f in range(k):
        v = sign * vectors[row, f]
        for g in range(k):
            total[f, g] += v * vectors[row, g]


@njit(**RARE)
def _user_places(a: Eals, items: Items, users: Users, user: int) -> int:
    """Fill ``said`` with the places of the user's items, each once if taken once."""
    n = 0
    for q in range(min(remembered(users, user), SAID // 2)):
        tag = recent(users, user, q)
        if items.tags[slot_of(tag)] == tag:
            a.said[2 * n] = slot_of(tag)
            n += 1
    return n


@njit(**RARE)
def _item_places(a: Eals, users: Users, item: int) -> int:
    """Fill ``said`` with the places of the item's users."""
    n = 0
    for e in range(min(a.taken[item], HOLDERS)):
        other = np.int64(a.holders[item, e] & _LOW)
        if users.tags[other] == np.uint32(a.holders[item, e] >> np.uint64(32)):
            a.said[2 * n] = other
            n += 1
    return n


@njit(**RARE)
def _solve(a: Eals, own: F32, row: int, theirs: F32, total: F64, n: int) -> Any:
    """One round over the factors of ``own[row]``, from ``n`` of ``theirs`` and all the others."""
    missing, shrink, k = a.numbers[0], a.numbers[1], own.shape[1]
    for e in range(n):
        other, product = int(a.said[2 * e]), 0.0
        for f in range(k):
            product += own[row, f] * theirs[other, f]
        a.said[2 * e + 1] = product
    for f in range(k):
        above, below_ = 0.0, missing * total[f, f] + shrink
        for g in range(k):
            if g != f:
                above -= missing * own[row, g] * total[g, f]
        for e in range(n):
            q = np.float64(theirs[int(a.said[2 * e]), f])
            rest = a.said[2 * e + 1] - own[row, f] * q
            above += (1.0 - (1.0 - missing) * rest) * q
            below_ += (1.0 - missing) * q * q
        solved = np.float32(above / below_)
        step = np.float64(solved) - own[row, f]
        for e in range(n):
            a.said[2 * e + 1] += step * theirs[int(a.said[2 * e]), f]
        own[row, f] = solved


@njit(**RARE)
def learn_eals(a: Eals, items: Items, users: Users, user: int, item: int) -> None:
    """After the row is in its user's history: solve for the user, then for the item."""
    if user < 0:
        return
    at = a.taken[item] % HOLDERS
    a.holders[item, at] = (np.uint64(users.tags[user]) << np.uint64(32)) | np.uint64(user)
    a.taken[item] += 1
    n = _user_places(a, items, users, user)
    add_outer(a.user_sum, a.users, user, -1.0)
    _solve(a, a.users, user, a.items, a.item_sum, n)
    add_outer(a.user_sum, a.users, user, 1.0)
    n = _item_places(a, users, item)
    add_outer(a.item_sum, a.items, item, -1.0)
    _solve(a, a.items, item, a.users, a.user_sum, n)
    add_outer(a.item_sum, a.items, item, 1.0)
