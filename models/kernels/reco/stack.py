"""The stack of a ranking: a conditional logit over the candidates, with weights by context.

McFadden's choice model [1]_: a candidate's utility is a weighted sum of what the members say of it,
the choice a softmax over the candidates. The weights are those shared by all contexts plus the
context's own; both follow AdaGrad on the cross-entropy at each choice.

.. [1] D. McFadden, "Conditional logit analysis of qualitative choice behavior", 1974.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64
from models.kernels.common import RARE
from models.kernels.reco.tables import I32, TOTAL, Users

SIZES = np.array([1, 3, 10, 40])
"""Where the contexts by the length of a history begin, after the first."""
GAPS = 3
CONTEXTS = (len(SIZES) + 1) * GAPS

FLOOR = 0.05
"""Added to a member's share of a candidate, in units of the mean share: nothing is impossible."""

RATE, CONTEXT_RATE = 0.1, 0.05
EPS = 1e-8


class Stack(NamedTuple):
    """Weights of ``m`` members' words; ``S`` item slots."""

    shared: F64  # (m,)
    own: F64  # (CONTEXTS, m)
    shared_squares: F64  # (m,)
    own_squares: F64  # (CONTEXTS, m)
    scores: F32  # (m, S): scratch, of all items
    candidates: I32  # (S,): scratch, slots
    said: F32  # (m, S): scratch, what members say of the candidates
    utility: F64  # (S,): scratch, of the candidates
    gradient: F64  # (m,): scratch


def stack(members: int, items: int) -> Stack:
    """All members count alike."""
    m = members
    return Stack(
        np.full(m, 1.0 / max(m, 1)),
        np.zeros((CONTEXTS, m)),
        np.zeros(m),
        np.zeros((CONTEXTS, m)),
        np.zeros((m, items), np.float32),
        np.zeros(items, np.int32),
        np.zeros((m, items), np.float32),
        np.zeros(items),
        np.zeros(m),
    )


@njit(**RARE)
def context_of(users: Users, user: int, gap_ms: int, sitting_ms: int) -> int:
    """Which of the contexts a user is in, ``gap_ms`` after his last row."""
    size = 0
    if user >= 0:
        while size < len(SIZES) and users.ints[user, TOTAL] >= SIZES[size]:
            size += 1
    gap = 0 if gap_ms * 30 < sitting_ms else 1 if gap_ms < sitting_ms else 2
    return size * GAPS + gap


@njit(**RARE)
def combine(a: Stack, context: int, n: int) -> None:
    """Fill the utilities of the first ``n`` candidates."""
    m = len(a.shared)
    for c in range(n):
        a.utility[c] = 0.0
    for r in range(m):
        total = 0.0
        for c in range(n):
            total += a.scores[r, a.candidates[c]]
        scale = np.float32(n / total) if total > 0.0 else np.float32(0.0)
        weight = a.shared[r] + a.own[context, r]
        for c in range(n):
            said = np.float32(math.log(a.scores[r, a.candidates[c]] * scale + np.float32(FLOOR)))
            a.said[r, c] = said
            a.utility[c] += weight * said


@njit(**RARE)
def learn_stack(a: Stack, context: int, n: int, chosen: int, weight: float) -> None:
    """One step, the ``chosen`` of the first ``n`` candidates being right."""
    m = len(a.shared)
    top = a.utility[0]
    for c in range(1, n):
        top = max(top, a.utility[c])
    for r in range(m):
        a.gradient[r] = 0.0
    total = 0.0
    for c in range(n):
        p = math.exp(a.utility[c] - top)
        total += p
        a.utility[c] = p
    for r in range(m):
        g = 0.0
        for c in range(n):
            g += a.utility[c] * a.said[r, c]
        g = weight * (g / total - a.said[r, chosen])
        a.shared_squares[r] += g * g
        a.own_squares[context, r] += g * g
        a.shared[r] -= RATE * g / math.sqrt(a.shared_squares[r] + EPS)
        a.own[context, r] -= CONTEXT_RATE * g / math.sqrt(a.own_squares[context, r] + EPS)
