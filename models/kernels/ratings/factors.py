"""Biases and factors by a filter: what a user's vector and an item's make of a rating together.

A rating is the user's bias, the item's, and the product of their vectors. Biases and vectors are
normal and drift, so that each rating moves them as a Kalman filter does: the user's by how
uncertain they are given the item's, and the other way round. It is Matchbox's model [1]_ with whole
covariances, and the variance of a product of two uncertain vectors in the innovation. One pass does
without a rate, epochs or replays.

.. [1] D. Stern, R. Herbrich and T. Graepel, "Matchbox: large scale online Bayesian
   recommendations", WWW 2009.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64, U64
from models.kernels.common import HELPER, RARE, uniform

DEVIATION = 0.05
"""Of the first values of vectors; of all 0 they would never leave it."""

USER_BIAS, USER_FACTOR, ITEM_BIAS, ITEM_FACTOR = range(4)
PRIOR = (0.16, 0.27, 0.24, 0.09)
"""Variances of the unknown, in variances of ratings."""
DRIFT = (0.0024, 0.0009, 0.0001, 0.00045)
"""What a rating adds to them: users change their mind, above all how they rate, items hardly."""


class Factors(NamedTuple):
    """Biases and ``k`` factors, ``1 + k`` numbers a vector; ``U`` user slots, ``S`` item slots."""

    users: F32  # (U, 1 + k)
    items: F32  # (S, 1 + k)
    user_spread: F32  # (U, 1 + k, 1 + k): covariances
    item_spread: F32  # (S, 1 + k, 1 + k)
    rng: U64  # (1,)
    noise: F64  # (1,): variance of a rating about what is expected
    gains: F64  # (2, 1 + k): scratch


def bias_factors(*, items: int, users: int, seed: int, factors: int, noise: float) -> Factors:
    """Vectors of nobody."""
    d = 1 + factors
    return Factors(
        np.zeros((users, d), np.float32),
        np.zeros((items, d), np.float32),
        np.zeros((users, d, d), np.float32),
        np.zeros((items, d, d), np.float32),
        np.array([seed], np.uint64),
        np.array([noise]),
        np.zeros((2, d)),
    )


@njit(**RARE)
def begin(means: F32, spreads: F32, row: int, bias: float, factor: float, rng: U64) -> None:
    """A vector of which nothing is known: its bias 0, its factors drawn."""
    for f in range(means.shape[1]):
        means[row, f] = (uniform(rng) - 0.5) * DEVIATION * np.sqrt(12.0) if f else 0.0
        for g in range(means.shape[1]):
            spreads[row, f, g] = 0.0
        spreads[row, f, f] = factor if f else bias


@njit(**HELPER)
def expect_factors(a: Factors, user: int, item: int) -> tuple[float, float]:
    """The sum of the biases, and with it the product of the vectors; -1 is somebody unknown."""
    bias, product = 0.0, 0.0
    if user >= 0:
        bias += a.users[user, 0]
    if item >= 0:
        bias += a.items[item, 0]
    if user >= 0 and item >= 0:
        for f in range(1, a.users.shape[1]):
            product += a.users[user, f] * a.items[item, f]
    return bias, bias + product


@njit(**HELPER)
def _gain(spread: F32, row: int, other: F32, column: int, gain: F64) -> float:
    """Fill ``gain`` with the covariance times how the rating changes with each number: 1 of the
    bias, of a factor the other side's. Its product with that again is returned.

    The covariance is symmetric to the last bit and is read by its rows: then no sum waits for
    another.
    """
    d = len(gain)
    for f in range(d):
        gain[f] = spread[row, 0, f]
    for g in range(1, d):
        slope = np.float64(other[column, g])
        for f in range(d):
            gain[f] += slope * spread[row, g, f]
    total = gain[0]
    for f in range(1, d):
        total += gain[f] * other[column, f]
    return total


@njit(**HELPER)
def _move(
    means: F32, spread: F32, row: int, gain: F64, error: float, variance: float, bias: float,
    factor: float,
) -> None:  # fmt: skip
    d, root, step = len(gain), 1.0 / math.sqrt(variance), error / variance
    for f in range(d):
        means[row, f] += gain[f] * step
        gain[f] *= root
    for f in range(d):
        for g in range(d):
            spread[row, f, g] -= gain[f] * gain[g]
        spread[row, f, f] += factor if f else bias


@njit(**HELPER)
def learn_factors(a: Factors, user: int, item: int, rating: float) -> None:
    """Move both by one rating, by what both were before it."""
    mine, theirs = a.gains[0], a.gains[1]
    _, expected = expect_factors(a, user, item)
    variance = a.noise[0]
    variance += _gain(a.user_spread, user, a.items, item, mine)
    variance += _gain(a.item_spread, item, a.users, user, theirs)
    for f in range(1, len(mine)):
        variance += np.float64(a.user_spread[user, f, f]) * a.item_spread[item, f, f]
    error = rating - expected
    _move(
        *(a.users, a.user_spread, user, mine, error, variance),
        *(DRIFT[USER_BIAS], DRIFT[USER_FACTOR]),
    )
    _move(
        *(a.items, a.item_spread, item, theirs, error, variance),
        *(DRIFT[ITEM_BIAS], DRIFT[ITEM_FACTOR]),
    )
