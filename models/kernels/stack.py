"""Kernels of the stack: experts' logits, Fixed-Share among them, and the steps of both stacks.

The experts of ``m`` members are, in this order: the stack, the mean logit, the mean probability,
each member, the bent stack. A logit of ``nan`` is no score: the means go without it, both stacks
add nothing for it, and the member as an expert says 0. ``first`` has the members' logits of the
first row, or ``JOINED``. Kernels keep no state of their own.
"""

from __future__ import annotations

import math

from numba import float64, int64, njit, void

from models.base import F64
from models.kernels.common import AT, HELPER, WEIGHT, both_ways, sigmoid
from models.kernels.entry import entry

LIMIT = 30.0
"""Logits are clipped to this: beyond it a probability is 0 or 1 in float64."""

JOINED = math.inf
"""In place of its first logit: a member that joined others, which the means go without so far."""

NOISE = 1e-3
"""What a label adds to the variance of a weight, as a share of what it began with: labels fade."""
STEEP = 2.0
"""A bent logit is ``z / (1 + STEEP |z|)``: half of its range is between -0.5 and 0.5."""

_ROWS = float64[:, ::1]
_LINE = float64[::1]


@njit(**HELPER)
def _clip(z: float) -> float:
    return min(max(z, -LIMIT), LIMIT)


@njit(**HELPER)
def apart(links: F64, first: F64) -> bool:
    """Whether the means go without those that joined: of all where nobody else says anything."""
    some = False
    for j in range(len(links)):
        some |= not math.isnan(links[j]) and first[j] != JOINED
    return some


@njit(**HELPER)
def admit(links: F64, shares: F64, first: F64) -> None:
    """The means go with one that joined as soon as its share is more than theirs."""
    for j in range(len(links)):
        more = shares[3 + j] > shares[1] + shares[2]
        if more and first[j] == JOINED and not math.isnan(links[j]):
            first[j] = links[j]


@njit(**HELPER)
def _bent(experts: F64, links: F64, bent: F64, readings: F64) -> float:
    """The bent stack's logit, for which ``readings`` are made: logits, bent logits, 1."""
    m, said = len(links), 0.0
    for j in range(m):
        z = experts[3 + j]
        readings[j], readings[m + j] = z, z / (1.0 + STEEP * abs(z))
    readings[2 * m] = 1.0
    for k in range(2 * m + 1):
        said += bent[k] * readings[k]
    return _clip(said)


@njit(**HELPER)
def _experts(links: F64, weights: F64, bent: F64, first: F64, readings: F64, experts: F64) -> None:
    """The experts' logits for one row of member logits; ``weights`` ends with the intercept."""
    m, some = len(links), apart(links, first)
    stacked, total, p, q, made = weights[m], 0.0, 0.0, 0.0, 0
    for j in range(m):
        experts[3 + j] = 0.0
        if math.isnan(links[j]):
            continue
        z = _clip(links[j])
        experts[3 + j] = z
        stacked += weights[j] * z
        if some and first[j] == JOINED:
            continue
        total += z
        p += sigmoid(z)
        q += sigmoid(-z)
        made += 1
    experts[0] = _clip(stacked)
    experts[1] = total / made
    experts[2] = math.log(p / q)
    if len(bent) > 0:
        experts[3 + m] = _bent(experts, links, bent, readings)


@entry(void(_ROWS, *[_LINE] * 7))
def combine(
    links: F64, weights: F64, bent: F64, shares: F64, first: F64,
    readings: F64, experts: F64, out: F64,
) -> None:  # fmt: skip
    """``out[i]``: the logit of the experts' probabilities, mixed by ``shares``."""
    for i in range(len(links)):
        _experts(links[i], weights, bent, first, readings, experts)
        p, q = 0.0, 0.0
        for e in range(len(shares)):
            p += shares[e] * sigmoid(experts[e])
            q += shares[e] * sigmoid(-experts[e])
        out[i] = _clip(math.log(p / q))


@entry(void(_ROWS, _ROWS, int64, *[_LINE] * 6, _ROWS))
def slopes(
    start: F64, links: F64, nodes: int, weights: F64, bent: F64, shares: F64, counts: F64,
    line: F64, own: F64, out: F64,
) -> None:  # fmt: skip
    """``out[i, j]``: by how much :func:`combine` moves with member ``j``'s link, on average.

    Along the straight line from ``start[i]`` to ``links[i]``, at so many ``nodes``; ``counts`` is
    1 for those in the means, ``line`` and ``own`` ``(m,)`` are scratch, ``out`` comes as zeros.
    """
    m, made = len(line), counts.sum()
    for i in range(len(links)):
        for q in range(nodes):
            stacked, total, bending = weights[m], 0.0, bent[2 * m] if len(bent) > 0 else 0.0
            p, n = 0.0, 0.0
            for j in range(m):
                z = _clip(start[i, j] + AT[nodes, q] * (links[i, j] - start[i, j]))
                yes, no = both_ways(z)
                share = shares[2] * counts[j] / made + shares[3 + j]
                p += share * yes
                n += share * no
                line[j], own[j] = z, share * yes * no
                stacked += weights[j] * z
                total += counts[j] * z
                if len(bent) > 0:
                    bending += (bent[j] + bent[m + j] / (1.0 + STEEP * abs(z))) * z
            yes, no = both_ways(_clip(stacked))
            p, n, stack = p + shares[0] * yes, n + shares[0] * no, shares[0] * yes * no
            yes, no = both_ways(total / made)
            p, n, mean = p + shares[1] * yes, n + shares[1] * no, shares[1] * yes * no / made
            last = shares[3 + m]
            yes, no = both_ways(_clip(bending))
            p, n, bend = p + last * yes, n + last * no, last * yes * no
            scale = WEIGHT[nodes, q] / (p * n)
            for j in range(m):
                moved = own[j] + stack * weights[j] + mean * counts[j]
                if len(bent) > 0:
                    flat = 1.0 + STEEP * abs(line[j])
                    moved += bend * (bent[j] + bent[m + j] / (flat * flat))
                out[i, j] += scale * moved


@njit(**HELPER)
def deal(alpha: float, total: float, shares: F64) -> None:
    """Shares sum to 1 again, ``alpha`` of them dealt out evenly."""
    for e in range(len(shares)):
        shares[e] = shares[e] * (1.0 - alpha) / total + alpha / len(shares)


@njit(**HELPER)
def _share(truth: float, weight: float, alpha: float, shares: F64, experts: F64) -> None:
    """One step of Fixed-Share under log loss."""
    total = 0.0
    for e in range(len(shares)):
        likelihood = sigmoid(experts[e] if truth > 0.5 else -experts[e])
        shares[e] *= math.exp(weight * math.log(likelihood))
        total += shares[e]
    deal(alpha, total, shares)


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
def _move(at: int, gradient: float, rate: float, squares: F64) -> float:
    """How far AdaGrad moves a weight; not at all before there was a gradient."""
    squares[at] += gradient * gradient
    return -rate * gradient / math.sqrt(squares[at]) if squares[at] > 0.0 else 0.0


@njit(**HELPER)
def step(at: int, gradient: float, rate: float, weights: F64, squares: F64) -> None:
    """AdaGrad's step of one weight."""
    weights[at] += _move(at, gradient, rate, squares)


@njit(**HELPER)
def _teach(
    links: F64, gradient: float, rate: float, weights: F64, squares: F64, first: F64, experts: F64
) -> None:
    """The stack's step: along what each member differs from the mean by, the mean, and 1."""
    m, mean, some = len(links), experts[1], apart(links, first)
    made, moved = 0, 0.0
    for j in range(m):
        if not math.isnan(links[j]):
            move = _move(j, gradient * (experts[3 + j] - mean), rate, squares)
            weights[j] += move
            moved += move
            if not (some and first[j] == JOINED):
                made += 1
    common = (_move(m, gradient * mean, rate, squares) - moved) / made
    for j in range(m):
        if not (math.isnan(links[j]) or (some and first[j] == JOINED)):
            weights[j] += common
    weights[m] += _move(m + 1, gradient, rate, squares)


@njit(**HELPER)
def _bend(
    said: float,
    truth: float,
    weight: float,
    readings: F64,
    bent: F64,
    variance: F64,
    begun: F64,
    gain: F64,
) -> None:
    """One step of the Kalman filter, linearised where the bent stack's logit is.

    ``begun`` has the variances at the beginning, which none grows beyond.
    """
    n, p = len(bent), sigmoid(said)
    curvature = weight * p * sigmoid(-said)
    a = 0.0
    for k in range(n):
        gain[k] = 0.0
        for j in range(n):
            gain[k] += variance[k, j] * readings[j]
        a += gain[k] * readings[k]
    shrink = 1.0 / (1.0 + curvature * a)
    wrong = weight * (p - truth) * shrink
    for k in range(n):
        bent[k] -= wrong * gain[k]
        part = curvature * shrink * gain[k]
        for j in range(k + 1):
            variance[k, j] -= part * gain[j]
            variance[j, k] = variance[k, j]
        if variance[k, k] < begun[k]:
            variance[k, k] += NOISE * begun[k]


@entry(void(_ROWS, _LINE, _LINE, float64, float64, *[_LINE] * 3, _ROWS, *[_LINE] * 6))
def update(
    links: F64,
    y: F64,
    w: F64,
    rate: float,
    alpha: float,
    weights: F64,
    squares: F64,
    bent: F64,
    variance: F64,
    begun: F64,
    shares: F64,
    first: F64,
    readings: F64,
    gain: F64,
    experts: F64,
) -> None:
    """Learn rows in order: first the shares, on what the experts said, then both stacks."""
    m = links.shape[1]
    for i in range(len(links)):
        if unlearned(links[i], first):
            continue
        _experts(links[i], weights, bent, first, readings, experts)
        _share(y[i], w[i], alpha, shares, experts)
        gradient = (sigmoid(experts[0]) - y[i]) * w[i]
        _teach(links[i], gradient, rate, weights, squares, first, experts)
        if len(bent) > 0:
            _bend(experts[3 + m], y[i], w[i], readings, bent, variance, begun, gain)
        admit(links[i], shares, first)
