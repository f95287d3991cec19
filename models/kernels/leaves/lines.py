"""Linear models in the leaves of trees, each by recursive least squares.

A leaf's line has a bias and a weight for each column, and the inverse of the matrix of what it
learned from (Plackett 1950, "Some theorems in least squares"), so that it is after every row the
ridge regression of all of its rows. Columns are standard: less their centre, over their unit. As
their running mean and deviation move on, all lines are rewritten for the new centre and unit and
say what they said before: a date goes up for ever, and weights for what it used to be would say of
today what was true of last month: on TrumpApproval, a date and five polls, the error was a third
larger. Nothing here is allocated while it runs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F64, I64, Role
from models.kernels.common import HELPER, RARE
from models.kernels.linear import CLIP

LEAPS = 2.0
"""Lines are rewritten when a unit has grown or shrunk by so much, or a mean moved so many units;
by no more at once: a number out of all bounds must not stretch what was learned of the others."""

HANDED_ON = 5.0
"""Rows that a leaf's parent counts for: a half is soon free to go its own way."""

ROLES: dict[str, Role] = {
    "weight": "learned",
    "inverse": "optimizer",
    "seen": "statistic",
    "mean": "statistic",
    "variance": "statistic",
    "centre": "statistic",
    "unit": "statistic",
}


class Lines(NamedTuple):
    """A line for each of ``l`` leaves over ``d`` columns."""

    weight: F64  # (l, 1 + d): the bias, then the columns
    inverse: F64  # (l, 1 + d, 1 + d)
    seen: I64  # (1,): rows
    mean: F64  # (d,)
    variance: F64  # (d,)
    centre: F64  # (d,): the mean when the lines were last written
    unit: F64  # (d,): the deviation then; 0 while a column is constant
    ridge: F64  # (1,): rows that say of each weight that it is 0
    z: F64  # (1 + d,): scratch, a row's standard values behind a 1
    pull: F64  # (1 + d,): scratch


def make_lines(leaves: int, columns: int, ridge: float) -> Lines:
    """Lines that nothing was learned for."""
    return Lines(
        weight=np.zeros((leaves, 1 + columns)),
        inverse=np.zeros((leaves, 1 + columns, 1 + columns)),
        seen=np.zeros(1, np.int64),
        mean=np.zeros(columns),
        variance=np.zeros(columns),
        centre=np.zeros(columns),
        unit=np.zeros(columns),
        ridge=np.array([ridge]),
        z=np.ones(1 + columns),
        pull=np.zeros(1 + columns),
    )


@njit(**HELPER)
def standardise(v: F64, a: Lines) -> None:
    """Fill ``z`` with the standard values of a row."""
    for j in range(len(v)):
        unit = a.unit[j]
        z = (v[j] - a.centre[j]) / unit if unit > 0.0 else 0.0
        a.z[1 + j] = min(max(z, -CLIP), CLIP)


@njit(**HELPER)
def observe(v: F64, leaves: int, a: Lines) -> bool:
    """Count the values of a row; whether the lines of the first ``leaves`` leaves were rewritten.

    The values are not yet standardised for that.
    """
    a.seen[0] += 1
    share = 1.0 / a.seen[0]
    moved = False
    for j in range(len(v)):
        before = v[j] - a.mean[j]
        a.mean[j] += before * share
        a.variance[j] += (before * (v[j] - a.mean[j]) - a.variance[j]) * share
        square = a.unit[j] * a.unit[j]
        far = abs(a.mean[j] - a.centre[j]) > LEAPS * a.unit[j]
        if far or a.variance[j] > LEAPS * square or LEAPS * a.variance[j] < square:
            _rewrite(j, leaves, a)
            moved = True
    return moved


@njit(**RARE)
def _rewrite(j: int, leaves: int, a: Lines) -> None:
    """Give column ``j`` its present mean as centre, its deviation as unit."""
    unit = math.sqrt(a.variance[j])
    old = a.unit[j] if a.unit[j] > 0.0 else unit
    if old > 0.0:
        ratio = min(unit / old, LEAPS)
        shift = min(max((a.mean[j] - a.centre[j]) / old, -LEAPS), LEAPS)
        for leaf in range(leaves):
            _substitute(j, ratio, shift, a.weight[leaf], a.inverse[leaf])
    a.centre[j] = a.mean[j]
    a.unit[j] = unit


@njit(**HELPER)
def _substitute(j: int, ratio: float, shift: float, weight: F64, inverse: F64) -> None:
    """Write a line for ``z = shift + ratio * (the new z)`` of column ``j``."""
    weight[0] += shift * weight[1 + j]
    weight[1 + j] *= ratio
    for k in range(len(weight)):
        inverse[0, k] += shift * inverse[1 + j, k]
        inverse[1 + j, k] *= ratio
    for k in range(len(weight)):
        inverse[k, 0] += shift * inverse[k, 1 + j]
        inverse[k, 1 + j] *= ratio


@njit(**HELPER)
def say(leaf: int, a: Lines) -> float:
    """What the leaf's line says of the standardised row."""
    total = 0.0
    for j in range(len(a.z)):
        total += a.weight[leaf, j] * a.z[j]
    return total


@njit(**HELPER)
def begin(leaf: int, bias: float, a: Lines) -> None:
    """A flat line, as sure of itself as the ridge makes it."""
    for j in range(len(a.z)):
        a.weight[leaf, j] = 0.0
        for k in range(len(a.z)):
            a.inverse[leaf, j, k] = 0.0
        a.inverse[leaf, j, j] = 1.0 / a.ridge[0]
    a.weight[leaf, 0] = bias


@njit(**HELPER)
def learn(leaf: int, error: float, weight: float, a: Lines) -> None:
    """Learn the standardised row, of a weight above 0; ``error``: the truth less what was said."""
    p, z, pull = a.inverse[leaf], a.z, a.pull
    spread = 0.0
    for j in range(len(z)):
        total = 0.0
        for k in range(len(z)):
            total += p[j, k] * z[k]
        pull[j] = total
        spread += total * z[j]
    if spread < 0.0:  # rounding ate the inverse
        begin(leaf, a.weight[leaf, 0], a)
        return
    scale = 1.0 / (1.0 / weight + spread)
    for j in range(len(z)):
        step = pull[j] * scale
        a.weight[leaf, j] += step * error
        for k in range(len(z)):
            p[j, k] -= step * pull[k]


@njit(**RARE)
def hand_on(parent: int, child: int, rows: float, a: Lines) -> None:
    """Give a leaf another's line, which learned from so many rows, and is less sure of it there."""
    p = a.inverse[child]
    less = max(rows / HANDED_ON, 1.0)
    for j in range(len(a.z)):
        a.weight[child, j] = a.weight[parent, j]
        for k in range(len(a.z)):
            p[j, k] = less * a.inverse[parent, j, k]
    for j in range(len(a.z)):
        most = 1.0 / a.ridge[0]
        if p[j, j] > most:  # a column that the leaf saw nothing of: no less sure than at first
            share = math.sqrt(most / p[j, j])
            for k in range(len(a.z)):
                p[j, k] *= share
            for k in range(len(a.z)):
                p[k, j] *= share
