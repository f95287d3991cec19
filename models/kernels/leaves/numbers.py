"""Leaves that say a number: the mean, a line, or that and how far off it was of late.

A leaf says what was nearest of late, as the leaves of model trees do (Ikonomovska, Gama and
Dzeroski 2011, "Learning model trees from evolving data streams"), and splits where its sides need
other numbers: in the mean of the truth, or of what its own predictions left of it. Truths and
errors are counted in deviations of the target. Nothing here is allocated while it runs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.base import F64, I64
from models.kernels.binning import Bins
from models.kernels.common import HELPER, RARE
from models.kernels.leaves.lines import HANDED_ON, Lines, begin, hand_on, learn, say
from models.kernels.trees import REFUSED, Trees, leaves_left, left_sum, split_node

WEIGHT, AVERAGE, COUNTED, LOOKED, SQUARES, LEVEL, ERROR = 0, 1, 2, 3, 4, 6, 7
"""What a leaf knows besides histograms and line: rows, with what its parent passed on; the mean of
the truth; rows in its histograms; those at its last look for a split; sums of squares of what is
counted there (two); how far off it was of late; and from ERROR on each predictor's fading squared
error. Rows are weighed."""

ROWS, TRUTH, REST = range(3)
"""What a histogram sums by bin: rows; truths; and what was left of them when they came."""

MEAN, LINE, LEVELLED, SAID = range(4)
"""Predictors of a leaf: its mean, its line, and the nearer of the two with its last errors made
good; and what it said."""

FADE = 0.95
"""Per row and leaf, of a predictor's squared error: the choice follows the last 20 rows."""

FRESH = 0.4
"""Share of the newest error in how far off a leaf was of late."""

CLEARLY = 0.9
"""Making the last errors good must have left less than this share of the squared error: where rows
know nothing of each other, it is chance."""

FARTHEST = 100.0
"""Truths and errors count as no more deviations: a single one must not own a histogram."""

LEAST = 2.0
"""Rows on each side of a split, at least."""

FINEST = 0.01
"""Deviations of the target that a leaf errs by at least, as far as splits go: a leaf that is right,
but for rounding, would split on that for ever."""

GRACE, NEEDED = range(2)
"""Settings: rows between looks; gain in nats for a split."""


@njit(**HELPER)
def leaf_say(leaf: int, mean: float, t: Trees, lines: Lines, said: F64) -> None:
    """Write to ``said`` what each predictor says of the standardised row, and the leaf with them.

    ``mean`` is that of the whole target, for a leaf that knows nothing.
    """
    known = t.known[leaf]
    if known[WEIGHT] == 0.0:
        for k in range(len(said)):
            said[k] = mean
        return
    said[MEAN] = known[AVERAGE]
    said[LINE] = say(leaf, lines)
    best = LINE if known[ERROR + LINE] <= known[ERROR + MEAN] else MEAN
    said[LEVELLED] = said[best] + known[LEVEL]
    said[SAID] = said[best]
    if known[ERROR + LEVELLED] < CLEARLY * known[ERROR + best]:
        said[SAID] = said[LEVELLED]


@njit(**HELPER)
def _bounded(number: float) -> float:
    return min(max(number, -FARTHEST), FARTHEST)


@njit(**HELPER)
def learn_leaf(
    leaf: int,
    y: float,
    weight: float,
    mean: float,
    unit: float,
    at: I64,
    t: Trees,
    lines: Lines,
    said: F64,
) -> None:
    """Learn a row after judging what was said of it; ``mean`` and ``unit`` of the whole target."""
    known = t.known[leaf]
    if known[WEIGHT] == 0.0:
        begin(leaf, mean, lines)
        for k in range(len(said)):  # the very first truth is the mean only now
            said[k] = mean
    known[WEIGHT] += weight
    known[COUNTED] += weight
    for k in range(SAID):
        error = y - said[k]
        known[ERROR + k] = FADE * known[ERROR + k] + weight * error * error
    off = y - said[LEVELLED] + known[LEVEL]
    known[LEVEL] += FRESH * (off - known[LEVEL])
    known[AVERAGE] += (y - known[AVERAGE]) * weight / known[WEIGHT]
    learn(leaf, y - said[LINE], weight, lines)
    truth, rest = _bounded((y - mean) / unit), _bounded((y - said[SAID]) / unit)
    known[SQUARES] += weight * truth * truth
    known[SQUARES + 1] += weight * rest * rest
    for j in range(t.histogram.shape[1]):
        p = at[t.subspace[leaf, j]]
        t.histogram[leaf, j, p, ROWS] += np.float32(weight)
        t.histogram[leaf, j, p, TRUTH] += np.float32(weight * truth)
        t.histogram[leaf, j, p, REST] += np.float32(weight * rest)


@njit(**HELPER)
def _explained(total: float, rows: float) -> float:
    """Squares that the mean takes from a sum of them."""
    return total * total / rows if rows > 0.0 else 0.0


@njit(**HELPER)
def _best_cut(
    leaf: int, j: int, kind: int, rows: float, total: float, bins: Bins, t: Trees
) -> tuple[float, int]:
    """The most squares that a threshold on subspace column ``j`` explains, and its position."""
    whole = _explained(total, rows)
    most, cut = 0.0, -1
    left, part = 0.0, 0.0
    for p in range(bins.used[t.subspace[leaf, j]] - 1):
        inside = t.histogram[leaf, j, p, ROWS]
        if inside == 0.0:  # most bins of a young leaf
            continue
        left += inside
        part += t.histogram[leaf, j, p, kind]
        if left < LEAST or rows - left < LEAST:
            continue
        gain = _explained(part, left) + _explained(total - part, rows - left) - whole
        if gain > most:
            most, cut = gain, p
    return most, cut


@njit(**HELPER)
def try_split(node: int, unit: float, bins: Bins, t: Trees, lines: Lines, hyper: F64) -> None:
    """Split a leaf that has learned enough since its last look, if the gain is beyond chance."""
    known = t.known[t.child[node]]
    if known[COUNTED] - known[LOOKED] >= hyper[GRACE]:
        known[LOOKED] = known[COUNTED]
        _look(node, unit, bins, t, lines, hyper)


@njit(**RARE)
def _look(node: int, unit: float, bins: Bins, t: Trees, lines: Lines, hyper: F64) -> None:
    """Look for the best cut of a leaf, and split it there if the gain is beyond chance.

    A cut that explains a share ``s`` of the squares of ``n`` rows gains ``-n / 2 * log(1 - s)`` of
    log likelihood; beyond chance as for the leaves of ``models/kernels/gradients.py``.
    """
    leaf = t.child[node]
    rows = t.known[leaf, COUNTED]
    needed = hyper[NEEDED] + math.log(t.histogram.shape[1] * t.histogram.shape[2])
    share, column, cut = 1.0 - math.exp(-2.0 * needed / rows), -1, -1
    for kind in (TRUTH, REST):
        total = left_sum(leaf, 0, bins.used[t.subspace[leaf, 0]] - 1, kind, t)
        squares = t.known[leaf, SQUARES + kind - TRUTH] - _explained(total, rows)
        squares = max(squares, rows * FINEST * FINEST)
        for j in range(t.histogram.shape[1]):
            gain, at = _best_cut(leaf, j, kind, rows, total, bins, t)
            if gain > share * squares:
                share, column, cut = gain / squares, j, at
    if cut < 0:
        return
    if leaves_left(t) < 1:
        t.counter[REFUSED] += 1
        return
    _split(node, column, cut, unit, bins, t, lines)


@njit(**HELPER)
def _split(node: int, j: int, cut: int, unit: float, bins: Bins, t: Trees, lines: Lines) -> None:
    """Split a leaf; each side goes on with its mean and line, moved by what its histogram says."""
    leaf = t.child[node]
    last = bins.used[t.subspace[leaf, j]] - 1
    left = left_sum(leaf, j, cut, ROWS, t)
    right = left_sum(leaf, j, last, ROWS, t) - left
    truths, rests = left_sum(leaf, j, cut, TRUTH, t), left_sum(leaf, j, cut, REST, t)
    all_truths, all_rests = left_sum(leaf, j, last, TRUTH, t), left_sum(leaf, j, last, REST, t)
    whole = all_truths / (left + right)
    sides = (
        (left, truths / left - whole, rests / left),
        (right, (all_truths - truths) / right - whole, (all_rests - rests) / right),
    )
    rows, average, level = t.known[leaf, WEIGHT], t.known[leaf, AVERAGE], t.known[leaf, LEVEL]
    errors = t.known[leaf, ERROR], t.known[leaf, ERROR + 1], t.known[leaf, ERROR + 2]
    pair = split_node(node, j, cut, (0.0, 0.0), (0.0, 0.0), bins, t)
    # The left side lies where the leaf did: the right one takes its line before that is changed.
    for side in (1, 0):
        own = t.child[pair + side]
        known = t.known[own]
        hand_on(leaf, own, rows, lines)
        weight, truth, rest = sides[side]
        if errors[LINE] <= errors[MEAN]:
            lines.weight[own, 0] += rest * unit
        known[WEIGHT] = min(weight, HANDED_ON)
        known[AVERAGE] = average + truth * unit
        known[LEVEL] = level
        for k in range(SAID):
            known[ERROR + k] = errors[k]
