"""How far a promise about the truth reaches, learned from those kept and broken: compiled.

Works on the arrays of ``models/ensemble/conformal.py``; keeps nothing.
"""

from __future__ import annotations

import math

from numba import njit

from models.base import F64
from models.kernels.common import HELPER
from models.kernels.entry import entry

LEARNED, BEHIND, REACH, DEBT = range(4)
"""Of both targets: labels learned; how many others come between a score and its label, as a mean;
logarithm of how far a promise should have reached lately, had nothing changed while labels were
under way; what is added to it since it did change."""

ERROR, SLOPE, SIZE, MEAN, VARIANCE = range(4, 9)
"""Of a number: the usual error of a usual prediction; how its logarithm grows with each deviation
from there; mean size of predictions; mean and variance of their places (:func:`_place`)."""

SET, INTERVAL = 4, 9
"""Numbers kept."""

AT_ONCE = 0.02
"""The reach of an interval grows by ``AT_ONCE (broken - miss)`` at each label, of a share ``miss``
of promises that may be broken: by ``level`` steps after a truth that it would not have held, back
by ``1 - level`` after one that it would have. That is known at once, however late the label comes.
The step of quantile tracking (Angelopoulos, Candes and Tibshirani 2023)."""

NOISE = 16.0
"""Of labels that come late the step is at most ``NOISE`` over those that come in between: what
lasted less than they took is over before it can help, and to follow it adds noise."""

LATE, LATE_AT_MOST = 1.5, 0.03
"""The debt moves likewise by promises as they were made, in steps of ``LATE`` over the labels that
come in between: one that is repeated before its effect shows must be small. The loop of step and
delay swings from 4 on; at 1 the first months of a stream that grows noisier are half a point off,
at 2 intervals are 2 % wider. Over ``n`` labels the
share broken is ``(last - first debt) / (step n)`` off, whatever the stream does (as in Gibbs and
Candes 2021), unless the debt reaches a bound."""

_FASTER = 3.0  # sets: the logarithm of a probability is so much more spread than that of an error
_SET_LOW, _SET_HIGH = math.log(1e-6), math.log(0.5)  # above a half only the likeliest is left
_ANY = 1e-300
_INTERVAL_LOW, _INTERVAL_HIGH = -3.0, 4.6
_DEBT_LOW, _DEBT_HIGH = -2.0, 3.0
_USUAL = 0.005  # the usual error is a mean of about 200 labels
_FEW = 10.0  # labels, after which the usual error is known well enough to compare with
_OUTLIER = 20.0  # times the usual error; a greater one counts as this
_MOST = 1e140  # squares stay finite
_BEND = 5.0  # predictions of less than a fifth of the mean size are not told apart by logarithm
_TOLD = 0.3  # how fast the slope moves, beside the usual error


@njit(**HELPER)
def _late(known: F64, learned: float) -> None:
    """Count a label of a score that was made when ``learned`` labels were known."""
    gap = known[LEARNED] - learned
    known[BEHIND] += max(0.01, 1.0 / (known[LEARNED] + 1.0)) * (gap - known[BEHIND])
    known[LEARNED] += 1.0


@njit(**HELPER)
def _at_once(known: F64) -> float:
    """The step of the reach: first that of Robbins and Monro (1951)."""
    return max(min(AT_ONCE, NOISE / (known[BEHIND] + 1.0)), 1.5 / known[LEARNED])


@njit(**HELPER)
def _later(known: F64) -> float:
    """The step of the debt."""
    return min(LATE_AT_MOST, LATE / (known[BEHIND] + 1.0))


# ------------------------------------------------------------------ classes


@njit(**HELPER)
def _least(known: F64) -> float:
    """The least probability of a class of a set; next to 0 where it is every class that has any."""
    reach = known[REACH] - known[DEBT]
    return math.exp(reach) if reach > _SET_LOW else _ANY


@njit(**HELPER)
def _within(p: F64, c: int, least: float) -> bool:
    """Whether class ``c`` is in the set; the likeliest always is, the first of equals."""
    ahead = 0
    for a in range(len(p)):
        ahead += (p[a] > p[c]) | ((p[a] == p[c]) & (a < c))
    return p[c] >= least or ahead == 0


@entry("void(f8[::1], f8, f8[:, ::1])")
def promise_sets(known: F64, cold: float, promise: F64) -> None:
    """Fill in the least probability, ``nan`` while cold, and the labels known."""
    for i in range(len(promise)):
        promise[i, 0] = math.nan if known[LEARNED] < cold else _least(known)
        promise[i, 1] = known[LEARNED]


@entry("void(f8[::1], f8, f8[:, ::1], f8[:, ::1], f8[::1])")
def learn_sets(known: F64, miss: float, output: F64, promise: F64, y: F64) -> None:
    """The least probability falls after a set without the truth, and rises after one with it.

    A class that nobody had named yet no set could hold: nothing is learned from its events.
    """
    for i in range(len(y)):
        c = int(y[i])
        if output[i, c] == 0.0:
            continue
        _late(known, promise[i, 1])
        broken = 0.0 if _within(output[i], c, math.exp(known[REACH])) else 1.0
        known[REACH] -= _FASTER * _at_once(known) * (broken - miss)
        known[REACH] = min(max(known[REACH], _SET_LOW), _SET_HIGH)
        if not math.isnan(promise[i, 0]):
            broken = 0.0 if _within(output[i], c, promise[i, 0]) else 1.0
            known[DEBT] += _FASTER * _later(known) * (broken - miss)
        known[DEBT] = min(max(known[DEBT], known[REACH] - _SET_HIGH), known[REACH] - _SET_LOW)


# ------------------------------------------------------------------ numbers


@njit(**HELPER)
def _place(known: F64, told: float) -> float:
    """Where a prediction lies, in no unit: nearly logarithmic, with a sign.

    Errors that are in proportion to what is predicted, or to a power of it, are a line over it.
    """
    return math.asinh(_BEND * told / known[SIZE]) if known[SIZE] > 0.0 else 0.0


@njit(**HELPER)
def _deviation(known: F64, told: float) -> float:
    """How many deviations a prediction's place lies from their mean, within -3 .. 3."""
    if known[VARIANCE] <= 0.0:
        return 0.0
    return min(max((_place(known, told) - known[MEAN]) / math.sqrt(known[VARIANCE]), -3.0), 3.0)


@njit(**HELPER)
def _usual(known: F64, told: float) -> float:
    """The usual error of a prediction."""
    return known[ERROR] * math.exp(known[SLOPE] * _deviation(known, told))


@entry("void(f8[::1], f8, f8[:, ::1], f8[:, ::1])")
def promise_intervals(known: F64, cold: float, output: F64, promise: F64) -> None:
    """Fill in half the width, ``nan`` while cold, and the labels known."""
    reach = math.nan if known[LEARNED] < cold else math.exp(known[REACH] + known[DEBT])
    for i in range(len(promise)):
        promise[i, 0] = reach * _usual(known, min(max(output[i, 0], -_MOST), _MOST))
        promise[i, 1] = known[LEARNED]


@njit(**HELPER)
def _learn_error(known: F64, told: float, error: float) -> None:
    """Take an error into the usual one, and into its growth with what is predicted.

    Mean and variance of the places fade as in Finch (2009, "Incremental calculation of weighted
    mean and variance").
    """
    share = max(_USUAL, 1.0 / known[LEARNED])
    moments = max(_USUAL / 10.0, 1.0 / known[LEARNED])
    known[SIZE] += moments * (abs(told) - known[SIZE])
    gap = _place(known, told) - known[MEAN]
    known[MEAN] += moments * gap
    known[VARIANCE] = (1.0 - moments) * (known[VARIANCE] + moments * gap * gap)
    deviation = _deviation(known, told)
    error /= math.exp(known[SLOPE] * deviation)
    usual = known[ERROR]
    if usual > 0.0:
        surprise = min(error / usual, 5.0) - 1.0
        slope = known[SLOPE] + _TOLD * _USUAL * surprise * deviation
        known[SLOPE] = min(max(slope, -1.0), 1.0)
    if known[LEARNED] > 20.0:
        error = min(error, _OUTLIER * usual)
    # Never so small that a first error after many of 0 would take long to be believed.
    least = (1e-4 * math.sqrt(known[VARIANCE]) + 1e-9) * known[SIZE] + 1e-100
    known[ERROR] = max(usual + share * (error - usual), least)


@entry("void(f8[::1], f8, f8[:, ::1], f8[:, ::1], f8[::1])")
def learn_intervals(known: F64, miss: float, output: F64, promise: F64, y: F64) -> None:
    """The reach grows after an interval without the truth, and shrinks after one with it."""
    for i in range(len(y)):
        told, truth = min(max(output[i, 0], -_MOST), _MOST), min(max(y[i], -_MOST), _MOST)
        _late(known, promise[i, 1])
        error = abs(truth - told)
        if known[LEARNED] > _FEW:
            broken = 1.0 if error > math.exp(known[REACH]) * _usual(known, told) else 0.0
            known[REACH] += _at_once(known) * (broken - miss)
            known[REACH] = min(max(known[REACH], _INTERVAL_LOW), _INTERVAL_HIGH)
        if not math.isnan(promise[i, 0]):
            within = told - promise[i, 0] <= truth <= told + promise[i, 0]
            known[DEBT] += _later(known) * ((0.0 if within else 1.0) - miss)
            known[DEBT] = min(max(known[DEBT], _DEBT_LOW), _DEBT_HIGH)
        _learn_error(known, told, error)
