"""Entry points of ratings: rows learned in order, items foretold, an id forgotten.

A row is foretold by what was known before it, then learned; where the arrays have no room for it,
the walk stops before it and says so.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numba import int64, njit, uint64, void

from models.base import F64, I64, U64
from models.kernels.common import HELPER, RARE
from models.kernels.entry import entry
from models.kernels.ratings.factors import (
    ITEM_BIAS,
    ITEM_FACTOR,
    PRIOR,
    USER_BIAS,
    USER_FACTOR,
    Factors,
    begin,
    bias_factors,
    expect_factors,
    learn_factors,
)
from models.kernels.ratings.neighbours import (
    Known,
    Neighbours,
    forget_other,
    forget_row,
    learn_neighbours,
    name,
    neighbours,
    read_neighbours,
    unname,
)
from models.kernels.ratings.stack import (
    HIGH,
    LOW,
    MEAN,
    RATED,
    Line,
    Means,
    deviation,
    foretell,
    forget_means,
    has_scale,
    item_effect,
    learn_line,
    learn_means,
    line,
    means,
    read_means,
    user_effect,
)
from models.kernels.reco.tables import enter, has_room, is_full, known, leave, oldest
from models.kernels.windows.entities import find, touch

MEMBERS = ("bias_factors", "item_knn", "user_knn")
"""In the order of their places in ``takes``, and of what they foretell behind the stack."""
FACTORS, ITEM_KNN, USER_KNN = range(3)

_BIASES, _ITEM, _USER = 14, 18, 22
"""Where in :data:`~models.kernels.ratings.stack.READINGS` each member's begin."""


class Everything(NamedTuple):
    """All that is kept of ratings."""

    items: Known
    users: Known
    means: Means
    bias_factors: Factors
    item_knn: Neighbours  # rows are items
    user_knn: Neighbours  # rows are users
    line: Line
    takes: I64  # (3,): 1 for a member that takes part
    said: F64  # (1 + 3,): scratch, what stack and members foretell


def smallest() -> Everything:
    """The types of all that is kept."""
    return Everything(
        Known(*known(1)),
        Known(*known(1)),
        means(1, 1),
        bias_factors(items=1, users=1, seed=0, factors=1, noise=1.0),
        neighbours(rows=1, others=1, cells=1, length=1, prior=1.0),
        neighbours(rows=1, others=1, cells=1, length=1, prior=1.0),
        line(0.0, True),
        np.zeros(len(MEMBERS), np.int64),
        np.zeros(1 + len(MEMBERS)),
    )


_ALL = numba.typeof(smallest())


@njit(**HELPER)
def _read(a: Everything, user: int, item: int, time_ms: int) -> None:
    """Fill in all readings, and what each member alone foretells, in deviations."""
    x, said = a.line.readings, a.said
    read_means(a.means, user, item, time_ms, x)
    base = user_effect(a.means, user) + item_effect(a.means, item)
    if a.takes[FACTORS]:
        x[_BIASES], x[_BIASES + 1] = expect_factors(a.bias_factors, user, item)
        x[_BIASES + 2], x[_BIASES + 3] = x[_BIASES + 1] * x[1], x[_BIASES + 1] * x[2]
        said[1 + FACTORS] = x[_BIASES + 1]
    if a.takes[ITEM_KNN]:
        read_neighbours(a.item_knn, a.items, a.means.item_rated, item, user)
        varied, shared = a.item_knn.out[0], a.item_knn.out[1]
        x[_ITEM], x[_ITEM + 1], x[_ITEM + 2] = varied, varied * x[2], shared
        x[_ITEM + 3] = shared * x[1]
        said[1 + ITEM_KNN] = base + varied
    if a.takes[USER_KNN]:
        read_neighbours(a.user_knn, a.users, a.means.user_rated, user, item)
        varied, shared = a.user_knn.out[0], a.user_knn.out[1]
        x[_USER], x[_USER + 1], x[_USER + 2] = varied, varied * x[1], shared
        x[_USER + 3] = shared * x[2]
        said[1 + USER_KNN] = base + varied
    said[0] = foretell(a.line)


@njit(**HELPER)
def _in_ratings(a: Everything, k: int) -> float:
    """What was foretold as a rating, within those that were given; ``nan`` before the first."""
    if a.means.scale[RATED] == 0.0:
        return math.nan
    rating = a.means.scale[MEAN] + deviation(a.means) * a.said[k]
    return min(max(rating, a.means.scale[LOW]), a.means.scale[HIGH])


@njit(**RARE)
def _forget_user(a: Everything, user: int) -> None:
    forget_means(a.means.user_rated, a.means.users, user)
    if a.takes[ITEM_KNN]:
        forget_other(a.item_knn, user)
    if a.takes[USER_KNN]:
        forget_row(a.user_knn, user)
    leave(a.users, user)
    unname(a.users, user)


@njit(**RARE)
def _forget_item(a: Everything, item: int) -> None:
    forget_means(a.means.item_rated, a.means.items, item)
    if a.takes[ITEM_KNN]:
        forget_row(a.item_knn, item)
    if a.takes[USER_KNN]:
        forget_other(a.user_knn, item)
    leave(a.items, item)
    unname(a.items, item)


@njit(**RARE)
def _enter_user(a: Everything, key: int) -> int:
    """A slot for a new user; the longest idle gives way."""
    while is_full(a.users):
        _forget_user(a, oldest(a.users))
    slot = enter(a.users, key)
    name(a.users, slot)
    a.means.last_ms[slot] = 0
    if a.takes[FACTORS]:
        f = a.bias_factors
        begin(f.users, f.user_spread, slot, PRIOR[USER_BIAS], PRIOR[USER_FACTOR], f.rng)
    return slot


@njit(**RARE)
def _enter_item(a: Everything, key: int) -> int:
    while is_full(a.items):
        _forget_item(a, oldest(a.items))
    slot = enter(a.items, key)
    name(a.items, slot)
    if a.takes[FACTORS]:
        f = a.bias_factors
        begin(f.items, f.item_spread, slot, PRIOR[ITEM_BIAS], PRIOR[ITEM_FACTOR], f.rng)
    return slot


@njit(**HELPER)
def _learn(a: Everything, user: int, item: int, time_ms: int, value: float) -> None:
    """Learn what was read just before."""
    if has_scale(a.means):
        rating = (value - a.means.scale[MEAN]) / deviation(a.means)
        learn_line(a.line, rating)
        if a.takes[FACTORS]:
            learn_factors(a.bias_factors, user, item, rating)
    residual = learn_means(a.means, user, item, time_ms, value)
    if a.takes[ITEM_KNN]:
        learn_neighbours(a.item_knn, a.items, item, user, residual)
    if a.takes[USER_KNN]:
        learn_neighbours(a.user_knn, a.users, user, item, residual)


@entry(int64(int64[::1], uint64[::1], uint64[::1], numba.float64[::1], int64,
             numba.float64[:, ::1], _ALL))  # fmt: skip
def rate(
    time_ms: I64, user: U64, item: U64, value: F64, first: int, out: F64, a: Everything
) -> int:
    """Walk rows from ``first`` on: the number of the row that found no room, else of all.

    ``out`` ``(n, 1 + 3)`` gets what the stack and each member foretold of a row before it was
    learned; rows without a value, a user or an item are not learned.
    """
    for i in range(first, len(value)):
        if not (has_room(a.items) and has_room(a.users)):
            return i
        if math.isnan(value[i]) or user[i] == 0 or item[i] == 0:
            out[i, :] = math.nan
            continue
        who, what = find(a.users, user[i]), find(a.items, item[i])
        _read(a, who, what, time_ms[i])
        for k in range(out.shape[1]):
            out[i, k] = _in_ratings(a, k)
        if who < 0:
            who = _enter_user(a, user[i])
        else:
            touch(a.users, who)
        if what < 0:
            what = _enter_item(a, item[i])
        else:
            touch(a.items, what)
        _learn(a, who, what, time_ms[i], value[i])
    return len(value)


@entry(void(int64, uint64, uint64[::1], numba.float64[::1], _ALL))
def expect(time_ms: int, user: int, items: U64, out: F64, a: Everything) -> None:
    """What the user would say of each item, ``out`` ``(n,)``; no state is changed."""
    who = find(a.users, user) if user != 0 else -1
    for j in range(len(items)):
        _read(a, who, find(a.items, items[j]), time_ms)
        out[j] = _in_ratings(a, 0)


@entry(void(uint64, uint64, _ALL))
def forget(user: int, item: int, a: Everything) -> None:
    """Let a user and an item go, as far as they are known; 0 is nobody."""
    slot = find(a.users, user) if user != 0 else -1
    if slot >= 0:
        _forget_user(a, slot)
    slot = find(a.items, item) if item != 0 else -1
    if slot >= 0:
        _forget_item(a, slot)
