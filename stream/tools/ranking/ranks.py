"""What a run of rankings leaves: the rank of each item that was taken, its worth, the run's course.

The protocol's order, its share of rows that warm up and its measures stand here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, I64
from monitoring.quality.ranks import CUTOFF, METRICS, measure

WARM = 0.1
"""Share of the positives that comes before the first that is scored."""


HISTORIES = (1, 2, 4, 10, 40)
"""From how many items on a user's history counts as longer."""


class Course(NamedTuple):
    """Where a run stood: positives so far, the stack's weights, seconds since it began."""

    positives: int
    weights: dict[str, float]
    seconds: float


class Ranks(NamedTuple):
    """The positives of a run in order: columns are the ranking's, then the members'."""

    names: tuple[str, ...]
    row: I64
    time_ms: I64
    ranks: NDArray[Any]
    history: NDArray[Any]

    @property
    def scored(self) -> BOOL:
        """Which of them count."""
        late = np.arange(len(self.row)) >= len(self.row) * WARM
        found: BOOL = late & (self.history > 0)
        return found


def in_order(times: NDArray[Any], rows: I64, of: int) -> I64:
    """Places of the ``rows`` of a file of ``of`` rows by their ``times``, int64 ``(n,)``.

    Equal times stand in an order drawn with seed 0 for all rows of the file: one sorted by item or
    user would else tell what comes next.
    """
    drawn = np.argsort(np.random.default_rng(0).permutation(of))
    return np.lexsort((drawn[rows], times))


def quality(found: Ranks) -> dict[str, dict[str, float | None]]:
    """Each scorer's measures over the rows that are scored."""
    ranks = found.ranks[found.scored]
    return {
        name: {k: finite(v) for k, v in measure(ranks[:, j]).items()}
        for j, name in enumerate(found.names)
    }


def by_history(found: Ranks) -> dict[str, dict[str, Any]]:
    """How the ranking did by how many items its user had taken before."""
    scored, shares = found.scored, {}
    for low, high in zip(HISTORIES, (*HISTORIES[1:], None), strict=True):
        some = scored & (found.history >= low)
        if high is not None:
            some &= found.history < high
        name = f"{low}+" if high is None else f"{low}..{high - 1}" if high - low > 1 else str(low)
        figures = {k: finite(v) for k, v in measure(found.ranks[some, 0]).items()}
        shares[name] = {"scored": int(some.sum()), **figures}
    return shares


def beside_best(found: Ranks) -> dict[str, Any] | None:
    """The ranking beside its own best member: McNemar's exact test on hits among the first 10."""
    names, ranks = found.names, found.ranks[found.scored]
    if len(names) < 2 or not len(ranks):
        return None
    hits = (ranks > 0) & (ranks <= CUTOFF)
    best = 1 + int(hits[:, 1:].sum(axis=0).argmax())
    won = int((hits[:, 0] & ~hits[:, best]).sum())
    lost = int((~hits[:, 0] & hits[:, best]).sum())
    difference = (won - lost) / len(ranks)
    return {
        **{"member": names[best], METRICS[0]: difference, "won": won, "lost": lost},
        "p": mcnemar(won, lost),
    }


def mcnemar(won: int, lost: int) -> float:
    """The chance of cases that differ being split as unevenly, were both alike (McNemar 1947).

    The exact binomial test, of both sides.

    >>> mcnemar(9, 1)
    0.021484375
    """
    n, few = won + lost, min(won, lost)
    logs = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2)
        for i in range(few + 1)
    )
    return min(1.0, 2 * math.fsum(math.exp(value) for value in logs))


def finite(value: float) -> float | None:
    """The value, rounded; ``None`` where it is no number."""
    return round(value, 6) if np.isfinite(value) else None
