"""Kernels of the stack: experts' logits, Fixed-Share among them, and the stack's own step.

The experts of ``m`` members are, in this order: the stack, the mean logit, the mean probability,
each member. A logit of ``nan`` is no score: the means go without it, and the member as an expert
says 0. Kernels keep no state of their own.
"""

from __future__ import annotations

import math

from numba import float64, njit, void

from models.base import F64
from models.kernels.common import HELPER, sigmoid
from models.kernels.entry import entry

LIMIT = 30.0
"""Logits are clipped to this: beyond it a probability is 0 or 1 in float64."""

_ROWS = float64[:, ::1]
_LINE = float64[::1]


@njit(**HELPER)
def _clip(z: float) -> float:
    return min(max(z, -LIMIT), LIMIT)


@njit(**HELPER)
def _experts(links: F64, weights: F64, experts: F64) -> None:
    """The experts' logits for one row of member logits; ``weights`` ends with the intercept."""
    m = len(links)
    stacked, total, p, q, made = weights[m], 0.0, 0.0, 0.0, 0
    for j in range(m):
        experts[3 + j] = 0.0
        if math.isnan(links[j]):
            continue
        z = _clip(links[j])
        experts[3 + j] = z
        stacked += weights[j] * z
        total += z
        p += sigmoid(z)
        q += sigmoid(-z)
        made += 1
    experts[0] = _clip(stacked)
    experts[1] = total / made
    experts[2] = math.log(p / q)


@entry(void(_ROWS, _LINE, _LINE, _LINE, _LINE))
def combine(links: F64, weights: F64, shares: F64, experts: F64, out: F64) -> None:
    """``out[i]``: the logit of the experts' probabilities, mixed by ``shares``."""
    for i in range(len(links)):
        _experts(links[i], weights, experts)
        p, q = 0.0, 0.0
        for e in range(len(shares)):
            p += shares[e] * sigmoid(experts[e])
            q += shares[e] * sigmoid(-experts[e])
        out[i] = _clip(math.log(p / q))


@njit(**HELPER)
def _share(
    truth: float, weight: float, members: bool, alpha: float, shares: F64, experts: F64
) -> None:
    """One step of Fixed-Share under log loss; the members' experts join when ``members``."""
    total = 0.0
    for e in range(len(shares)):
        likelihood = sigmoid(experts[e] if truth > 0.5 else -experts[e])
        shares[e] *= math.exp(weight * math.log(likelihood))
        total += shares[e]
    joined = len(shares) if members else 3
    for e in range(len(shares)):
        shares[e] *= (1.0 - alpha) / total
        if e < joined:
            shares[e] += alpha / joined


@njit(**HELPER)
def unlearned(line: F64, first: F64) -> bool:
    """Whether each of a row's links is that of the first row of all, which is noted here.

    ``-inf``: of a class that had none yet.
    """
    same = True
    for j in range(len(line)):
        if not line[j] > -math.inf:
            continue
        if math.isnan(first[j]):
            first[j] = line[j]
        same &= line[j] == first[j]
    return same


@njit(**HELPER)
def step(at: int, gradient: float, rate: float, weights: F64, squares: F64) -> None:
    """AdaGrad's step of one weight; none before there was a gradient."""
    squares[at] += gradient * gradient
    if squares[at] > 0.0:
        weights[at] -= rate * gradient / math.sqrt(squares[at])


@entry(void(_ROWS, _LINE, _LINE, float64, float64, float64, *[_LINE] * 6))
def update(
    links: F64,
    y: F64,
    w: F64,
    rate: float,
    alpha: float,
    join_at: float,
    weights: F64,
    squares: F64,
    shares: F64,
    positives: F64,
    first: F64,
    experts: F64,
) -> None:
    """Learn rows in order: first the shares, on what the experts said, then the stack's weights."""
    m = links.shape[1]
    for i in range(len(links)):
        if unlearned(links[i], first):
            continue
        _experts(links[i], weights, experts)
        _share(y[i], w[i], positives[0] >= join_at, alpha, shares, experts)
        gradient = (sigmoid(experts[0]) - y[i]) * w[i]
        for j in range(m + 1):
            step(j, gradient * (experts[3 + j] if j < m else 1.0), rate, weights, squares)
        positives[0] += y[i] * w[i]
