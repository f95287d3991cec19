"""How good rankings are: where each item that a user took had stood before it was learned.

The engine calls :meth:`RankQuality.update` with the ranks of every interaction, in order. One item
is right at a time, so that hit@k, the reciprocal rank and NDCG@k are functions of its rank alone;
no item is left out and none is drawn. Windows as in ``quality.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import F64, State, state_digest
from models.carry import fill, shared
from models.kernels.entry import entry
from monitoring.quality.measures import column_of

METRICS = ("hit_10", "hit_20", "mrr", "ndcg_10")
"""In the order in which they are shown."""
CUTOFF, WIDE = 10, 20

_I32 = NDArray[np.int32]
Figures = dict[str, dict[str, dict[str, float]]]


def gains(ranks: NDArray[np.integer]) -> F64:
    """What ranks ``(...)`` are worth by each of :data:`METRICS`, ``(..., 4)``.

    Ranks begin at 1; 0 is an item that could not be ranked: a miss. With one right item the ideal
    DCG is 1, so NDCG@k is ``1 / log2(1 + rank)`` up to ``k`` (Jarvelin and Kekalainen 2002).

    >>> gains(np.array([1, 11, 0])).round(3).tolist()
    [[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.091, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    rank = np.where(ranks > 0, ranks, np.inf).astype(np.float64)
    top = rank <= CUTOFF
    return np.stack(
        [top, rank <= WIDE, 1.0 / rank, np.where(top, 1.0 / np.log2(1.0 + rank), 0.0)], axis=-1
    ).astype(np.float64)


def measure(ranks: NDArray[np.integer]) -> dict[str, float]:
    """Each metric's mean over ranks ``(n,)``; ``nan`` of none."""
    if not len(ranks):
        return dict.fromkeys(METRICS, math.nan)
    return dict(zip(METRICS, gains(ranks).mean(axis=0).tolist(), strict=True))


@entry("void(f8[:,:,::1], f8[::1], f8[:,:,::1], f8[::1])")
def _absorb(sums: F64, counts: F64, values: F64, keep: F64) -> None:
    for i in range(len(values)):
        for window in range(2):
            counts[window] = counts[window] * keep[window] + 1.0
            for j in range(values.shape[1]):
                for k in range(values.shape[2]):
                    sums[window, j, k] = sums[window, j, k] * keep[window] + values[i, j, k]


class RankQuality:
    """Sums since the start, faded sums and a sliding window for the ranking and each member.

    Parameters
    ----------
    names : sequence of str
        The ranking that is shown, then the members.
    window : int
        Interactions in the sliding window.
    fade : float
        ``0 < fade <= 1``: what an interaction's weight is multiplied by at the next one.

    >>> quality = RankQuality(["ensemble"])
    >>> quality.update(np.array([[1], [0]], np.int32))
    >>> quality.report()["ensemble"]["all"]["hit_10"]
    0.5
    """

    def __init__(self, names: Sequence[str], window: int = 10_000, fade: float = 0.999) -> None:
        self._names = tuple(names)
        self._keep = np.array([1.0, fade])
        self._sums = np.zeros((2, len(names), len(METRICS)))
        self._counts = np.zeros(2)
        self._ranks = np.zeros((window, len(names)), np.int32)
        self._seen = 0

    def update(self, ranks: _I32) -> None:
        """Take the ranks ``(n, 1 + m)`` of ``n`` interactions, in order; 0: a miss."""
        if ranks.ndim != 2 or ranks.shape[1] != len(self._names):
            raise ValueError(
                f"RankQuality.update: expected ranks (n, {len(self._names)}), got {ranks.shape}"
            )
        _absorb(self._sums, self._counts, np.ascontiguousarray(gains(ranks)), self._keep)
        window = len(self._ranks)
        last = ranks[-window:]
        first = self._seen + len(ranks) - len(last)
        self._ranks[(first + np.arange(len(last))) % window] = last
        self._seen += len(ranks)

    def set_threshold(self, threshold: float) -> None:
        """Nothing alerts."""

    def snapshot(self) -> RankSnapshot:
        """A copy that another thread may keep and read."""
        kept = min(self._seen, len(self._ranks))
        return RankSnapshot(
            self._names, self._sums.copy(), self._counts.copy(), self._ranks[:kept].copy()
        )

    def report(self) -> Figures:
        """Every metric of every window."""
        return self.snapshot().report()

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`."""
        return {
            "names": list(self._names),
            "seen": self._seen,
            "counts": self._counts.copy(),
            "sums": self._sums.copy(),
            "ranks": self._ranks.copy(),
        }

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these names; the others start new."""
        self._seen = int(state["seen"])
        arrays: dict[str, NDArray[Any]] = {"sums": self._sums, "ranks": self._ranks}
        fill(
            arrays, state, "quality", dict.fromkeys(arrays, 1), shared(self._names, state["names"])
        )
        self._counts[:] = state["counts"]

    def digest(self) -> str:
        """See :meth:`models.base.Learner.digest`."""
        return state_digest(self.state())


@dataclass(frozen=True)
class RankSnapshot:
    """What a :class:`RankQuality` held at one moment."""

    names: tuple[str, ...]
    sums: F64
    counts: F64
    ranks: _I32

    def report(self) -> Figures:
        """Every metric of every window."""
        found: Figures = {}
        for j, name in enumerate(self.names):
            sliding = measure(self.ranks[:, j]) | {"effective_samples": float(len(self.ranks))}
            summed = {window: self._summed(i, j) for i, window in enumerate(("all", "fading"))}
            found[name] = {"sliding": sliding, **summed}
        return found

    def fading(self, name: str) -> dict[str, float]:
        """See :meth:`monitoring.quality.tasks.Snapshot.fading`."""
        return self._summed(1, column_of(name, self.names))

    def _summed(self, fading: int, column: int) -> dict[str, float]:
        sums, count = self.sums[fading, column], self.counts[fading]
        means = sums / count if count else np.full(len(METRICS), np.nan)
        told = dict(zip(METRICS, means.tolist(), strict=True))
        return told | {"effective_samples": float(count)}

    def outcomes(self) -> dict[str, int]:
        """How many interactions were judged since the start."""
        return {"judged": int(self.counts[0])}

    def precision_at_budget(self, budget: float) -> dict[str, float]:
        """Nothing alerts."""
        return {}
