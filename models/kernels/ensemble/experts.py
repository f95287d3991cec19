"""Kernels of the stacks of classes and numbers: what experts say, shares, the stack's step.

The experts of ``m`` members are, in this order: the stack, the mean link, the mean probability (of
numbers the median), each member. A link of ``nan`` is no score: the means go without it, and the
member as an expert says their mean; they go without one that joined (``JOINED``), too. One of
``-inf`` is of a class that nobody had named yet: these are the last ones, and no expert says
anything of them. Formulas and their sources stand in ``models/ensemble/experts.py``. Kernels keep
no state of their own.
"""

from __future__ import annotations

import math

from numba import float64, njit, void

from models.base import F64
from models.kernels.common import HELPER
from models.kernels.entry import entry
from models.kernels.stack import JOINED, admit, apart, deal, step, unlearned

LEAST = -30.0
"""Log probabilities are at least this."""

_CUBE = float64[:, :, ::1]
_ROWS = float64[:, ::1]
_LINE = float64[::1]
_COLUMN = float64[:]

FADE = 1000.0
"""The squared error of the mean is that of about the last so many labels."""
_FAR = 2.0
"""An error counts up to so many times the usual one."""


# ------------------------------------------------------------------ classes


@njit(**HELPER)
def _log_softmax(line: F64, k: int) -> None:
    """Log probabilities in place of the first ``k`` links."""
    top = line[0]
    for c in range(1, k):
        top = max(top, line[c])
    total = 0.0
    for c in range(k):
        total += math.exp(line[c] - top)
    shift = top + math.log(total)
    for c in range(k):
        line[c] = max(line[c] - shift, LEAST)


@njit(**HELPER)
def _named(links: F64) -> int:
    """How many classes a row of member links ``(m, k)`` knows."""
    m, k = links.shape
    for c in range(k, 0, -1):
        for j in range(m):
            if links[j, c - 1] > -math.inf:
                return c
    return 0


@njit(**HELPER)
def _class_experts(
    links: F64, k: int, weights: F64, intercepts: F64, first: F64, logs: F64
) -> None:
    """The experts' log probabilities of the ``k`` classes that a row of member links knows."""
    m, some = len(links), apart(links[:, 0], first)
    made = 0
    for c in range(k):
        logs[0, c], logs[1, c], logs[2, c] = intercepts[c], 0.0, 0.0
    for j in range(m):
        line = logs[3 + j]
        if math.isnan(links[j, 0]):
            continue
        for c in range(k):
            line[c] = links[j, c]
        _log_softmax(line, k)
        for c in range(k):
            logs[0, c] += weights[j] * line[c]
        if some and first[j] == JOINED:
            continue
        made += 1
        for c in range(k):
            logs[1, c] += line[c]
            logs[2, c] += math.exp(line[c])
    for c in range(k):
        logs[1, c] /= made
        logs[2, c] = max(math.log(logs[2, c] / made), LEAST)
    _log_softmax(logs[0], k)
    _log_softmax(logs[1], k)
    for j in range(m):
        if math.isnan(links[j, 0]):
            for c in range(k):
                logs[3 + j, c] = logs[2, c]


@entry(void(_CUBE, _LINE, _LINE, _LINE, _COLUMN, _ROWS, _ROWS))
def combine_classes(
    links: F64, weights: F64, intercepts: F64, shares: F64, first: F64, logs: F64, out: F64
) -> None:
    """``out[i]``: the log of the experts' probabilities, mixed by ``shares``."""
    for i in range(len(links)):
        k = _named(links[i])
        _class_experts(links[i], k, weights, intercepts, first, logs)
        out[i] = -math.inf
        for c in range(k):
            p = 0.0
            for e in range(len(shares)):
                p += shares[e] * math.exp(logs[e, c])
            out[i, c] = max(math.log(p), LEAST)


@entry(void(_CUBE, _LINE, _LINE, float64, float64, *[_LINE] * 5, _ROWS, _ROWS))
def update_classes(
    links: F64,
    y: F64,
    w: F64,
    rate: float,
    alpha: float,
    weights: F64,
    squares: F64,
    intercepts: F64,
    intercept_squares: F64,
    shares: F64,
    first: F64,
    logs: F64,
) -> None:
    """Learn rows in order: first the shares, on what the experts said, then the stack.

    A row whose class nobody had named when it was scored tells no expert from another.
    """
    m = links.shape[1]
    for i in range(len(links)):
        same = True
        for j in range(m):
            same &= unlearned(links[i, j], first[j])
        k, truth, total = _named(links[i]), int(y[i]), 0.0
        if same or truth >= k:
            continue
        _class_experts(links[i], k, weights, intercepts, first[:, 0], logs)
        for e in range(len(shares)):
            shares[e] *= math.exp(w[i] * logs[e, truth])
            total += shares[e]
        deal(alpha, total, shares)
        for j in range(m):
            if math.isnan(links[i, j, 0]):
                continue
            g = -logs[3 + j, truth]
            for c in range(k):
                g += math.exp(logs[0, c]) * logs[3 + j, c]
            step(j, g * w[i], rate, weights, squares)
        for c in range(k):
            error = math.exp(logs[0, c]) - (1.0 if c == truth else 0.0)
            step(c, error * w[i], rate, intercepts, intercept_squares)
        admit(links[i, :, 0], shares, first[:, 0])


# ------------------------------------------------------------------ numbers


@njit(**HELPER)
def _median(links: F64, some: bool, first: F64, order: F64) -> float:
    """The median of what was said; ``order`` is scratch."""
    n = 0
    for j in range(len(links)):
        z = links[j]
        if math.isnan(z) or (some and first[j] == JOINED):
            continue
        at = n
        while at > 0 and order[at - 1] > z:
            order[at] = order[at - 1]
            at -= 1
        order[at] = z
        n += 1
    if n % 2 == 1:
        return order[n // 2]
    return order[n // 2 - 1] + (order[n // 2] - order[n // 2 - 1]) / 2.0


@njit(**HELPER)
def _number_experts(
    links: F64, weights: F64, intercept: F64, usual: float, first: F64, said: F64, order: F64
) -> None:
    """What the experts say of one row of members' numbers."""
    total, made, some = 0.0, 0, apart(links, first)
    for j in range(len(links)):
        if not (math.isnan(links[j]) or (some and first[j] == JOINED)):
            total += links[j]
            made += 1
    mean = total / made
    said[0] = mean + intercept[0] * usual
    said[1] = mean
    said[2] = _median(links, some, first, order)
    for j in range(len(links)):
        said[3 + j] = mean if math.isnan(links[j]) else links[j]
        said[0] += weights[j] * (said[3 + j] - mean)


@entry(void(_ROWS, *[_LINE] * 4, _COLUMN, *[_LINE] * 3))
def combine_numbers(
    links: F64,
    weights: F64,
    intercept: F64,
    error: F64,
    shares: F64,
    first: F64,
    said: F64,
    order: F64,
    out: F64,
) -> None:
    """``out[i]``: the experts' numbers, mixed by ``shares``."""
    usual = math.sqrt(error[1])
    for i in range(len(links)):
        _number_experts(links[i], weights, intercept, usual, first, said, order)
        # Around the mean: what all say alike loses no digits.
        mixed = 0.0
        for e in range(len(shares)):
            mixed += shares[e] * (said[e] - said[1])
        out[i] = said[1] + mixed


@entry(void(_ROWS, _LINE, _LINE, float64, float64, *[_LINE] * 6, _COLUMN, _LINE, _LINE))
def update_numbers(
    links: F64,
    y: F64,
    w: F64,
    rate: float,
    alpha: float,
    weights: F64,
    squares: F64,
    intercept: F64,
    intercept_squares: F64,
    error: F64,
    shares: F64,
    first: F64,
    said: F64,
    order: F64,
) -> None:
    """Learn rows in order: the usual error, the shares on what the experts said, then the stack."""
    m = links.shape[1]
    for i in range(len(links)):
        if unlearned(links[i], first) or w[i] == 0.0:
            continue
        _number_experts(links[i], weights, intercept, math.sqrt(error[1]), first, said, order)
        off = said[1] - y[i]
        error[0] += 1.0
        error[1] += (off * off - error[1]) * max(1.0 / error[0], 1.0 / FADE)
        usual = math.sqrt(error[1])
        if usual == 0.0:
            continue
        total = 0.0
        for e in range(len(shares)):
            far = min(abs(said[e] - y[i]) / usual, _FAR)
            shares[e] *= math.exp(-w[i] * far * far / 8.0)
            total += shares[e]
        deal(alpha, total, shares)
        # One absurd truth must not turn the stack around.
        wrong = min(max((said[0] - y[i]) / usual, -3.0), 3.0) * w[i]
        for j in range(m):
            step(j, wrong * (said[3 + j] - said[1]) / usual, rate, weights, squares)
        step(0, wrong, rate, intercept, intercept_squares)
        admit(links[i], shares, first)
