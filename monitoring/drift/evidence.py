"""Whether one scorer is better than another: bets on blocks of the differences of their losses.

``stream/step/lifecycle/`` feeds it: a challenger beside its member, a member beside what it was. A
difference is that of what two scorers said of the same event, both as they said it then. Rows of
one hour resemble each other, blocks of a day much less: rows are never bet on one by one. Knows
neither clock nor models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from models.base import State

BETS = (0.9, 0.3, 0.1)
RESTART = 20
"""Blocks after which the bets begin anew beside those under way: who is best may have changed."""
UNBET = 3
"""Blocks that only say how much blocks vary."""
LEAST = 8
"""Blocks before anything is decided."""
RARE = 5
"""Rows of each group (of either truth) that a block has at least."""
DEPENDENT = 0.3
"""Correlation of neighbouring blocks from which they are too short."""
CHECKED = 12
"""Blocks from which their correlation is looked at."""


class Standing(NamedTuple):
    """How a challenge stands.

    ``number`` is the challenger's among all that ``member`` ever had, ``lane`` the one among those
    that run at once, ``spec`` its definition, empty where it is made as the member. ``divergence``
    is the mean difference of the two scores, ``agreement`` the share of events on which both alert
    or neither does; of ``labels`` events both losses as made; ``evidence`` that the challenger is
    better, ``against`` that it is worse, of ``needed``.
    """

    member: str
    number: int
    lane: int
    spec: Mapping[str, Any]
    scored: int
    divergence: float
    agreement: float
    alerts_both: int
    alerts_member: int
    alerts_challenger: int
    labels: int
    loss: float
    challenger_loss: float
    blocks: int
    block_ms: int
    evidence: float
    against: float
    needed: float
    proposed: bool


class Guarded(NamedTuple):
    """How a member, or the ensemble, compares with what it was: of ``labels`` events both losses as
    made; ``evidence`` that it has become worse, of ``needed``."""

    member: str
    version: str
    labels: int
    loss: float
    last_good_loss: float
    blocks: int
    block_ms: int
    evidence: float
    needed: float
    proposed: bool


def evidence(blocks: Sequence[float]) -> float:
    """How many times over bets that the mean of ``blocks`` is at most 0 would have been won.

    A block of ``B`` turns the stake of a bet ``b`` into ``stake (1 + b u)`` with ``u = min(B / c,
    1)``, ``c`` twice the root mean square of the blocks before. Each series of bets runs on; every
    20 blocks another begins, the ``r``-th with ``1 / ((r + 1) (r + 2))`` of a stake of 1. While the
    mean is at most 0 on average, it comes to ``1 / alpha`` with a chance of ``alpha`` at most,
    however often somebody looks (Ville's inequality; bets that stay the same allow means that
    move: Choe and Ramdas 2023, arXiv 2110.00115).

    >>> round(evidence([1.0] * 8), 3)
    1.616
    """
    stakes: list[list[float]] = []
    squares = 0.0
    for i, block in enumerate(blocks):
        if i >= UNBET and squares > 0.0:
            if (i - UNBET) % RESTART == 0:
                stakes.append([1.0] * len(BETS))
            u = min(block / (2 * math.sqrt(squares / i)), 1.0)
            stakes = [
                # Not beyond what a float holds, and nobody owes more than the stake.
                [min(s * max(0.0, 1 + bet * u), 1e300) for s, bet in zip(row, BETS, strict=True)]
                for row in stakes
            ]
        squares += block * block
    return sum(sum(row) / len(BETS) / ((r + 1) * (r + 2)) for r, row in enumerate(stakes))


def change(blocks: Sequence[float]) -> float:
    """How much speaks for the mean of ``blocks`` having come to lie above 0 at some time.

    Bets as of :func:`evidence`, with a further stake of 1 put in before each block: what all of
    them hold together. While the mean is at most 0, it takes ``x`` blocks on average, at least,
    until that comes to ``x`` (an e-detector: Shin, Ramdas and Rinaldo 2022, arXiv 2203.03532).

    >>> round(change([1.0] * 8), 1)
    10.3
    """
    stakes, squares = [0.0] * len(BETS), 0.0
    for i, block in enumerate(blocks):
        if i >= UNBET and squares > 0.0:
            u = min(block / (2 * math.sqrt(squares / i)), 1.0)
            stakes = [
                min((1 + s) * max(0.0, 1 + bet * u), 1e300)
                for s, bet in zip(stakes, BETS, strict=True)
            ]
        squares += block * block
    return sum(stakes) / len(BETS)


def correlation(blocks: Sequence[float]) -> float:
    """Of each block with the next one, beside the line through all; 0 where none lies beside it.

    A model that still learns is better in each block than before: that is no dependence.
    """
    middle, mean = (len(blocks) - 1) / 2, sum(blocks) / len(blocks)
    spread = sum((i - middle) ** 2 for i in range(len(blocks)))
    slope = sum((i - middle) * block for i, block in enumerate(blocks)) / spread if spread else 0.0
    left = [block - mean - slope * (i - middle) for i, block in enumerate(blocks)]
    whole = sum(x * x for x in left)
    return sum(a * b for a, b in pairwise(left)) / whole if whole else 0.0


class Blocks:
    """Sums of differences over stretches of event time, in the order in which truths came.

    A block ends with the row by which it spans ``length_ms``, has ``rows`` rows, and
    :data:`RARE` rows of each of ``groups`` groups. With ``lengthen`` blocks are doubled whenever
    neighbouring ones resemble each other too much; those so far are then put together in pairs.

    Attributes
    ----------
    sums : list of float
        Of the blocks that are over, oldest first.
    length_ms : int
    doubled : int
        How often.
    """

    def __init__(self, length_ms: int, rows: int, groups: int = 0, lengthen: bool = True) -> None:
        self.length_ms = length_ms
        self.sums: list[float] = []
        self.doubled = 0
        self._rows = rows
        self._lengthening = lengthen
        self._groups = groups
        self._begin()

    def _begin(self) -> None:
        self._sum, self._n, self._first_ms, self._last_ms = 0.0, 0, 0, 0
        self._seen = [0] * self._groups

    def add(self, difference: float, at_ms: int, group: int) -> bool:
        """Take the difference of an event of this time; whether a block is over with it."""
        self._first_ms = at_ms if self._n == 0 else min(self._first_ms, at_ms)
        self._last_ms = at_ms if self._n == 0 else max(self._last_ms, at_ms)
        self._sum += difference
        self._n += 1
        if self._groups:
            self._seen[group] += 1
        if not self._over():
            return False
        self.sums.append(self._sum)
        self._begin()
        if self._lengthening:
            self._lengthen()
        return True

    def _over(self) -> bool:
        return (
            self._last_ms - self._first_ms >= self.length_ms
            and self._n >= self._rows
            and min(self._seen, default=RARE) >= RARE
        )

    def _lengthen(self) -> None:
        n = len(self.sums)
        if n < CHECKED or n % 2:
            return
        # By chance it is beyond 2 / sqrt(n) once in forty looks. With 0.3 alone, of challenges that
        # are won within 35 blocks one in ten was not.
        if correlation(self.sums) <= max(DEPENDENT, 2 / math.sqrt(n)):
            return
        self.sums = [a + b for a, b in zip(self.sums[::2], self.sums[1::2], strict=True)]
        self.length_ms *= 2
        self.doubled += 1

    def better(self) -> float:
        """Evidence that the differences are above 0; 0 while there are too few blocks."""
        return evidence(self.sums) if len(self.sums) >= LEAST else 0.0

    def worse(self) -> float:
        """Evidence that they are below 0."""
        return evidence([-x for x in self.sums]) if len(self.sums) >= LEAST else 0.0

    def changed(self) -> float:
        """What speaks for their having come to lie above 0; see :func:`change`."""
        return change(self.sums) if len(self.sums) >= LEAST else 0.0

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {
            "sums": np.array(self.sums),
            "length_ms": self.length_ms,
            "doubled": self.doubled,
            "open": [self._sum, self._n, self._first_ms, self._last_ms],
            "seen": list(self._seen),
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        self.sums = state["sums"].tolist()
        self.length_ms, self.doubled = int(state["length_ms"]), int(state["doubled"])
        total, n, first_ms, last_ms = state["open"]
        self._sum, self._n = float(total), int(n)
        self._first_ms, self._last_ms = int(first_ms), int(last_ms)
        self._seen = [int(count) for count in state["seen"]]
