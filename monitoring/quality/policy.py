"""What lists are worth: how often the first item is taken, of the lists shown and of the best ones.

Where lists are drawn, what would have been taken of other lists shows in those that happen to
begin alike, each weighted by how unlikely it was. The policy that is valued puts the best item
first; a list is worth 1 if its first item is taken by the horizon, else 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from models.base import F64, State, StateError, state_digest
from models.kernels.common import sigmoid

ESTIMATORS = ("shown", "ips", "snips", "dr")
"""``shown`` is the mean of what was shown, the others value the best item in the first place."""
FADE = 0.9999
"""What a list's weight is multiplied by at the next one: 10,000 lists count."""
Z_95 = 1.959964
RATE = 0.05

_COUNT, _W, _WW, _WR, _WWR, _R, _D, _DD = range(8)


class Credit(NamedTuple):
    """What the first item of a list tells of the policy that puts the best one there.

    ``weight``: the probability that this policy shows it, over that with which it was shown.
    ``best``, ``first``: logarithms of how likely the best and the shown one are to be taken, as
    the ranking believes.
    """

    weight: float
    best: float
    first: float


def credit(logits: F64, first: int | None, propensity: float) -> Credit:
    """Of a list that begins with candidate ``first``, ``None`` for one that may not be shown.

    ``logits`` float64 ``(n,)``, best first, as of :func:`models.reco.explore.explored`.
    """
    likely = logits - np.logaddexp.reduce(logits)
    shown = float(likely.min()) if first is None else float(likely[first])
    return Credit((first == 0) / propensity, float(likely[0]), shown)


class PolicyValue:
    """Estimates over the lists whose horizon is over.

    ``ips`` is Horvitz and Thompson's [1]_, ``snips`` the same normalised by the sum of the weights
    [2]_, ``dr`` doubly robust [3]_: a model of what is taken, corrected where the lists agree. The
    model is a logistic line over what the ranking believes; each list is predicted before it is
    learned.

    References
    ----------
    .. [1] D. G. Horvitz and D. J. Thompson, "A generalization of sampling without replacement from
       a finite universe", JASA 47, 1952.
    .. [2] A. Swaminathan and T. Joachims, "The self-normalized estimator for counterfactual
       learning", NIPS 2015.
    .. [3] M. Dudik, J. Langford and L. Li, "Doubly robust policy evaluation and learning", ICML
       2011.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((2, 8))
        self._line = np.array([0.0, 1.0])
        self._squares = np.zeros(2)

    def update(self, weight: F64, reward: F64, best: F64, first: F64) -> None:
        """Take lists ``(n,)`` in order: their :class:`Credit` and whether the first was taken."""
        rows = zip(weight.tolist(), reward.tolist(), best.tolist(), first.tolist(), strict=True)
        for w, r, b, f in rows:
            d = self._predicted(b) + w * (r - self._predicted(f))
            self._learn(f, r)
            self._sums[1] *= FADE
            self._sums += (1.0, w, w * w, w * r, w * w * r, r, d, d * d)

    def _predicted(self, likely: float) -> float:
        return float(sigmoid.py_func(self._line[0] + self._line[1] * likely))

    def _learn(self, likely: float, reward: float) -> None:
        """One step of AdaGrad on the log loss."""
        g = (self._predicted(likely) - reward) * np.array([1.0, likely])
        self._squares += g * g
        self._line -= RATE * g / np.sqrt(self._squares + 1e-8)

    def report(self) -> dict[str, dict[str, float]]:
        """Of all lists each estimate and the bounds that hold it with 95 %; ``lists``: how many
        there are, and how many as good as drawn by the valued policy they come to (Kish)."""
        values, errors = estimates(self._sums[0])
        found = {
            name: {
                "value": values[name],
                "low": values[name] - Z_95 * errors[name],
                "high": values[name] + Z_95 * errors[name],
            }
            for name in ESTIMATORS
        }
        return found | {
            "lists": {"all": self._sums[0, _COUNT], "effective": effective(self._sums[0])}
        }

    def fading(self) -> dict[str, float]:
        """The estimates over the newest lists, and how many lists they come to."""
        values, _ = estimates(self._sums[1])
        return values | {"effective": effective(self._sums[1])}

    @property
    def lists(self) -> int:
        """How many were taken in."""
        return int(self._sums[0, _COUNT])

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`."""
        return {
            "sums": self._sums.copy(),
            "line": self._line.copy(),
            "squares": self._squares.copy(),
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`."""
        for name, ours in (("sums", self._sums), ("line", self._line), ("squares", self._squares)):
            if state[name].shape != ours.shape:
                raise StateError(f"value.{name}: expected {ours.shape}, got {state[name].shape}")
            ours[:] = state[name]

    def digest(self) -> str:
        """See :meth:`models.base.Learner.digest`."""
        return state_digest(self.state())


def estimates(sums: F64) -> tuple[dict[str, float], dict[str, float]]:
    """Each estimate and its standard error; ``nan`` of no lists, or where none begins alike.

    That of ``snips`` is of the first order: the others are means.
    """
    n, w = sums[_COUNT], sums[_W]
    if n == 0:
        none = dict.fromkeys(ESTIMATORS, math.nan)
        return none, none
    shown, ips, dr = sums[_R] / n, sums[_WR] / n, sums[_D] / n
    snips = sums[_WR] / w if w else math.nan
    spread = sums[_WWR] * (1 - 2 * snips) + snips * snips * sums[_WW]
    squares = {
        "shown": (shown - shown * shown) / n,
        "ips": (sums[_WWR] / n - ips * ips) / n,
        "snips": spread / (w * w) if w else math.nan,
        "dr": (sums[_DD] / n - dr * dr) / n,
    }
    values = {"shown": shown, "ips": ips, "snips": snips, "dr": dr}
    return (
        {name: float(value) for name, value in values.items()},
        {name: math.sqrt(max(value, 0.0)) for name, value in squares.items()},
    )


def effective(sums: F64) -> float:
    """So many equally weighted lists the weighted ones are worth (Kish 1965)."""
    return float(sums[_W] ** 2 / sums[_WW]) if sums[_WW] else 0.0
