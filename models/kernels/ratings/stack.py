"""One rating from all that the members say: a regression that every rating moves.

Ratings are put in deviations from the mean of all so far. Beside what the members read, the stack
keeps a few means of its own: damped effects of users and items, and what is left of a user's
ratings by how long ago they were. A line through these readings is fitted by recursive least
squares, written as a Kalman filter: with a drift of 0 it is the ridge regression of all ratings.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F64, I64
from models.kernels.common import HELPER, RARE

# Places in ``scale``.
RATED, MEAN, SQUARES, LOW, HIGH = range(5)
SCALES = 5

SPREAD = 0.1
"""Variance of the line's weights about those that it begins with: on 2,000 seeded ratings the stack
is then better than each member, with 1 it is not yet; after 100,000 it makes no difference."""
DAMPED = 5.0
"""Ratings by which effects of users and items are damped."""
MOMENTS_MS = (10_000.0, 60_000.0, 600_000.0)
"""What is left of a user's ratings fades by these times, three times over."""
FEW = 4.0
"""Ratings by which the means over these times are damped."""
USER_FADE, ITEM_FADE, TASTE_FADE = 0.05, 0.02, 0.1
"""What a rating counts for in means that fade by ratings."""

# Columns of ``users``, the first two of ``items`` too: the sum that an effect is of; the residuals'
# fading mean; of residuals' products with items' effects and of these effects' squares the sums;
# these effects' fading mean, and its weight; sums by time, then their weights.
EFFECT, FADED, PRODUCT, SQUARE, TASTE, TASTE_WEIGHT, MOMENT, MOMENT_WEIGHT = 0, 1, 2, 3, 4, 5, 6, 9
ITEM_MEANS, USER_MEANS = 2, 12

READINGS = (
    *("one", "users", "items"),
    *("user_effect", "item_effect", "item_effect_users", "item_effect_items"),
    *("slope", "taste", "user_faded", "item_faded", "moment", "minute", "sitting"),
    *("biases", "factors", "factors_users", "factors_items"),
    *("item_varied", "item_varied_items", "item_shared", "item_shared_users"),
    *("user_varied", "user_varied_users", "user_shared", "user_shared_items"),
)
"""What the line goes through; what ends in ``_users`` is a product with how much is known of the
user, in ``_items`` of the item."""
READ = len(READINGS)


class Means(NamedTuple):
    """Of all ratings, of users and of items; ``U`` user slots, ``S`` item slots."""

    scale: F64  # (SCALES,)
    user_rated: F64  # (U,): ratings
    item_rated: F64  # (S,)
    users: F64  # (U, USER_MEANS)
    items: F64  # (S, ITEM_MEANS)
    last_ms: I64  # (U,): event time of the user's last rating


class Line(NamedTuple):
    """The regression over ``F`` readings."""

    weights: F64  # (F,)
    spread: F64  # (F, F): covariance of the weights, in variances of ratings
    drift: F64  # (1,): what each rating adds to their variances
    readings: F64  # (F,): scratch
    gain: F64  # (F,): scratch


def means(items: int, users: int) -> Means:
    """Of no rating."""
    return Means(
        np.zeros(SCALES),
        np.zeros(users),
        np.zeros(items),
        np.zeros((users, USER_MEANS)),
        np.zeros((items, ITEM_MEANS)),
        np.zeros(users, np.int64),
    )


def line(drift: float, with_factors: bool) -> Line:
    """To begin with the factors alone speak, or without them both effects."""
    weights, size = np.zeros(READ), READ
    for name in ("factors",) if with_factors else ("user_effect", "item_effect"):
        weights[READINGS.index(name)] = 1.0
    return Line(weights, SPREAD * np.eye(size), np.array([drift]), np.zeros(size), np.zeros(size))


@njit(**HELPER)
def has_scale(a: Means) -> bool:
    """Whether two ratings differed, so that it is known how much one is."""
    return a.scale[SQUARES] > 0.0


@njit(**HELPER)
def deviation(a: Means) -> float:
    """The ratings' standard deviation; 1 without a scale."""
    return math.sqrt(a.scale[SQUARES] / a.scale[RATED]) if has_scale(a) else 1.0


@njit(**HELPER)
def user_effect(a: Means, user: int) -> float:
    """How far above the mean a user rates, beside what he rates; 0 of somebody unknown."""
    return a.users[user, EFFECT] / (a.user_rated[user] + DAMPED) if user >= 0 else 0.0


@njit(**HELPER)
def item_effect(a: Means, item: int) -> float:
    """How far above the mean an item is rated; 0 of one that is not known."""
    return a.items[item, EFFECT] / (a.item_rated[item] + DAMPED) if item >= 0 else 0.0


@njit(**HELPER)
def _of_user(a: Means, user: int, time_ms: int, effect: float, x: F64) -> None:
    """Fill in what the user's last ratings tell."""
    mine = a.users[user]
    x[7] = mine[PRODUCT] / (mine[SQUARE] + 1.0) * effect
    x[8] = mine[TASTE] / (mine[TASTE_WEIGHT] + 1.0)
    x[9] = mine[FADED]
    ago = max(time_ms - a.last_ms[user], 0)
    for k in range(len(MOMENTS_MS)):
        kept = math.exp(-ago / MOMENTS_MS[k])
        x[11 + k] = kept * mine[MOMENT + k] / (kept * mine[MOMENT_WEIGHT + k] + FEW)


@njit(**HELPER)
def read_means(a: Means, user: int, item: int, time_ms: int, x: F64) -> None:
    """Fill in the readings that are the stack's own, 0 for the others."""
    x[:] = 0.0
    rated_by = a.user_rated[user] if user >= 0 else 0.0
    rated = a.item_rated[item] if item >= 0 else 0.0
    effect = item_effect(a, item)
    x[0] = 1.0
    x[1] = math.log(1.0 + rated_by) / 3.0 - 1.0
    x[2] = math.log(1.0 + rated) / 3.0 - 1.0
    x[3] = user_effect(a, user)
    x[4], x[5], x[6] = effect, effect * x[1], effect * x[2]
    if user >= 0:
        _of_user(a, user, time_ms, effect, x)
    if item >= 0:
        x[10] = a.items[item, FADED]


@njit(**HELPER)
def learn_means(a: Means, user: int, item: int, time_ms: int, value: float) -> float:
    """Take one rating in; its residual by the effects as they are then."""
    # 1. What was left of it by the effects before.
    old_user, old_item, wide = user_effect(a, user), item_effect(a, item), deviation(a)
    left = (value - a.scale[MEAN]) / wide - old_user - old_item if has_scale(a) else 0.0
    mine, ago = a.users[user], max(time_ms - a.last_ms[user], 0)
    for k in range(len(MOMENTS_MS)):
        kept = math.exp(-ago / MOMENTS_MS[k])
        mine[MOMENT + k] = kept * mine[MOMENT + k] + left
        mine[MOMENT_WEIGHT + k] = kept * mine[MOMENT_WEIGHT + k] + 1.0
    mine[PRODUCT] += left * old_item
    mine[SQUARE] += old_item * old_item
    mine[TASTE] += old_item - TASTE_FADE * mine[TASTE]
    mine[TASTE_WEIGHT] += 1.0 - TASTE_FADE * mine[TASTE_WEIGHT]
    mine[FADED] += USER_FADE * (left - mine[FADED])
    a.items[item, FADED] += ITEM_FADE * (left - a.items[item, FADED])
    a.last_ms[user] = max(time_ms, a.last_ms[user])
    # 2. The mean and deviation of all (Welford 1962).
    first = a.scale[RATED] == 0.0
    a.scale[RATED] += 1.0
    off = value - a.scale[MEAN]
    a.scale[MEAN] += off / a.scale[RATED]
    a.scale[SQUARES] += off * (value - a.scale[MEAN])
    a.scale[LOW] = value if first else min(a.scale[LOW], value)
    a.scale[HIGH] = value if first else max(a.scale[HIGH], value)
    # 3. Both effects, the item's first.
    rating = (value - a.scale[MEAN]) / deviation(a)
    a.items[item, EFFECT] += rating - old_user
    a.item_rated[item] += 1.0
    mine[EFFECT] += rating - item_effect(a, item)
    a.user_rated[user] += 1.0
    return rating - user_effect(a, user) - item_effect(a, item)


@njit(**RARE)
def forget_means(rated: F64, rows: F64, row: int) -> None:
    """Know nothing of a user, or of an item."""
    rated[row] = 0.0
    rows[row, :] = 0.0


@njit(**HELPER)
def foretell(a: Line) -> float:
    """The line at what was read."""
    total = 0.0
    for f in range(READ):
        total += a.weights[f] * a.readings[f]
    return total


@njit(**HELPER)
def learn_line(a: Line, rating: float) -> None:
    """Fit the line to one more rating, at what was read before it.

    The spread is symmetric to the last bit and is read by its rows: then no sum waits for another.
    """
    x, gain, variance = a.readings, a.gain, 1.0
    gain[:] = 0.0
    for g in range(READ):
        for f in range(READ):
            gain[f] += a.spread[g, f] * x[g]
    for f in range(READ):
        variance += gain[f] * x[f]
    error, root = (rating - foretell(a)) / variance, 1.0 / math.sqrt(variance)
    for f in range(READ):
        a.weights[f] += gain[f] * error
        gain[f] *= root
    for f in range(READ):
        for g in range(READ):
            a.spread[f, g] -= gain[f] * gain[g]
        if a.spread[f, f] < SPREAD:
            a.spread[f, f] += a.drift[0]
