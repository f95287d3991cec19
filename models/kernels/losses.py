"""Losses of a number: their gradients, and the size of an error, so that no unit matters.

Nothing here is allocated while it runs.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from numba import njit

from models.base import F64
from models.kernels.common import HELPER

Loss = Literal["squared", "huber", "quantile"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
SQUARED, HUBER, QUANTILE = (float(LOSSES.index(loss)) for loss in LOSSES)

HUBER_UNITS = 2.0
"""Errors up to this many usual ones are squared by Huber's loss (1964): 1.35 deviations of a normal
error, whose median size is 0.67 of its deviation."""

LARGEST = 1e100
"""Truths are clipped to it: no square overflows."""

SEEN, MEAN, SQUARES, USUAL, RUN, FIRST = range(6)
"""What is known of the target: rows; mean; sum of squared distances to it; the median size of an
error; how many errors in a row were above it, below it if negative; and from FIRST on the first
truths, sorted."""

START = 5
"""Truths whose median a member begins with: the very first may be far off."""

KNOWN = FIRST + START

SLOWEST = 0.005
"""The usual error moves by this share of itself a row, times the length of the run, once 40,000
rows were seen; 1 / sqrt(rows) before."""


@njit(**HELPER)
def clipped(y: float) -> float:
    """The truth, near enough to 0 for its square."""
    return min(max(y, -LARGEST), LARGEST)


@njit(**HELPER)
def observe_truth(y: float, known: F64) -> None:
    """Welford's update (1962) of mean and squared distances."""
    known[SEEN] += 1.0
    before = y - known[MEAN]
    known[MEAN] += before / known[SEEN]
    known[SQUARES] += before * (y - known[MEAN])


@njit(**HELPER)
def begin(y: float, known: F64) -> float:
    """Keep one of the first truths, counted already; returns what to say, their median."""
    n = int(known[SEEN])
    at = FIRST + n - 1
    while at > FIRST and known[at - 1] > y:
        known[at] = known[at - 1]
        at -= 1
    known[at] = y
    middle = known[FIRST + n // 2]
    if n == START:
        low, high = middle - known[FIRST + 1], known[FIRST + 3] - middle
        lowest, highest = middle - known[FIRST], known[FIRST + 4] - middle
        known[USUAL] = min(max(low, high), lowest, highest)  # median of all five distances
    return middle


@njit(**HELPER)
def observe_error(error: float, known: F64) -> None:
    """Move the usual error towards this one's size, faster the longer all were on one side of it.

    A median by steps that lengthen while they go one way (as Frugal-2U's do; Ma, Muthukrishnan and
    Sandler 2013, "Frugal streaming for estimating quantiles"), here in shares of itself: it crosses
    orders of magnitude in a few dozen rows and does not care how far off an outlier is. An error of
    0 says nothing of how large errors are.
    """
    size = abs(error)
    if size == 0.0:
        return
    if known[USUAL] == 0.0:
        known[USUAL] = size
        return
    above = size > known[USUAL]
    run = known[RUN]
    if above:
        known[RUN] = run + 1.0 if run > 0.0 else 1.0
    else:
        known[RUN] = run - 1.0 if run < 0.0 else -1.0
    share = 1.0 + max(1.0 / math.sqrt(known[SEEN]), SLOWEST) * abs(known[RUN])
    known[USUAL] = known[USUAL] * share if above else known[USUAL] / share


@njit(**HELPER)
def unit(loss: float, known: F64) -> float:
    """The size by which errors are measured: deviation of the target, or the usual error."""
    if loss == SQUARED:
        return math.sqrt(known[SQUARES] / max(known[SEEN], 1.0))
    return known[USUAL]


@njit(**HELPER)
def slope(loss: float, quantile: float, error: float) -> float:
    """The loss's derivative at ``error`` (what was said less the truth), in units.

    Of ``e ** 2 / 2``, of Huber's loss, and of the pinball loss ``max(-q e, (1 - q) e)`` (Koenker
    and Bassett 1978, "Regression quantiles").
    """
    if loss == SQUARED:
        return error
    if loss == HUBER:
        return min(max(error, -HUBER_UNITS), HUBER_UNITS)
    return (1.0 if error > 0.0 else 0.0) - quantile
