"""The learned combiners: a logistic stack, alone or under a share of safer experts.

Named ``stacking`` and ``stack`` in a configuration. Runs per label, so the loops are compiled
(``models/kernels/stack.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from models.base import F64, Parameter, State
from models.carry import Places, fill
from models.kernels import stack as kernels
from models.task import BINARY, Task


class Stack:
    """Fixed-Share over {stack, mean logit, mean probability, each member}.

    The stack is a logistic regression over the member logits: weights start at ``1 / m``, the
    intercept at 0. It learns by AdaGrad [1]_ with rate 0.05 in other coordinates: the mean of the
    logits, what each differs from it by, and 1. Members say nearly the same: along the logits
    themselves their differences were learned so slowly that on plain streams it was right .0012
    less often than along these. Intercept and slope are an online Platt scaling. The experts'
    probabilities are mixed by shares, even at first; a label multiplies each share by the expert's
    likelihood to the row's weight, then 1e-4 of the whole is dealt out evenly (Fixed-Share [2]_
    under log loss), so that no expert is lost for good. Over all labels the sum of log losses is at
    most that of the best expert plus ``log(m + 3)``, and what the 1e-4 cost.

    A member that joins begins with weight 0, share 0 and the others' mean sum of squares. One that
    leaves is taken to say the mean of the others, as one in quarantine does: its weight goes to
    them in equal parts, its share to the mean logit.

    .. [1] J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods", JMLR 12, 2011.
    .. [2] M. Herbster and M. Warmuth, "Tracking the best expert", Machine Learning 32, 1998.
    """

    rate = 0.05
    alpha = 1e-4

    def __init__(self, m: int, seed: int, task: Task = BINARY) -> None:
        self._m = m
        self._weights = np.append(np.full(m, 1 / m), 0.0)
        self._squares = np.zeros(m + 2)
        self._shares = np.full(m + 3, 1 / (m + 3))
        self._first = np.full(m, np.nan)
        self._experts = np.zeros(m + 3)

    def combine(self, links: F64) -> F64:
        """See :meth:`models.ensemble.combine.Combiner.combine`."""
        out = np.zeros(len(links))
        rows = np.require(links[:, :, 0], np.float64, ["C", "W"])
        kernels.combine(rows, self._weights, self._shares, self._experts, out)
        return out[:, None]

    def update(self, links: F64, y: F64, w: F64) -> None:
        """See :meth:`models.ensemble.combine.Combiner.update`."""
        rows, y, w = (np.require(a, np.float64, ["C", "W"]) for a in (links[:, :, 0], y, w))
        kernels.update(
            *(rows, y, w, self.rate, self.alpha),
            *(self._weights, self._squares, self._shares, self._first, self._experts),
        )

    def member_weights(self, first: int, w: F64) -> F64:
        """Every member learns every row with its own weight."""
        return np.repeat(w[:, None], self._m, axis=1)

    def weights(self) -> F64:
        """Each member's slope on the logit scale, mixed over the experts; need not sum to 1."""
        slopes: F64 = self._shares[0] * self._weights[:-1] + self._shares[3:]
        return slopes + (self._shares[1] + self._shares[2]) / self._m

    def parameters(self) -> Sequence[Parameter]:
        """Weights and intercept, AdaGrad's sums of squares, shares, first row."""
        m = self._m
        return [
            Parameter("stack.weights", "learned", (m,), "float64", m, 8 * m),
            Parameter("stack.intercept", "learned", (), "float64", 1, 8),
            Parameter("stack.squares", "optimizer", (m + 2,), "float64", m + 2, 8 * (m + 2)),
            Parameter("shares", "learned", (m + 3,), "float64", m + 3, 8 * (m + 3)),
            Parameter("first", "control", (m,), "float64", m, 8 * m),
        ]

    def state(self) -> State:
        """The arrays, copied."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def restore(self, state: State, known: Places) -> None:
        """See :meth:`models.ensemble.combine.Combiner.restore`; raises :class:`StateError`."""
        here, there = known
        m = len(state.get("first", ()))
        sizes = {"weights": m + 1, "squares": m + 2, "shares": m + 3, "first": m}
        got = {name: np.zeros(size) for name, size in sizes.items()}
        fill(got, state, "combiner")
        gone = [j for j in range(m) if j not in there]
        n = max(len(here), 1)
        self._weights[:] = 0.0
        self._squares[:] = math.fsum(got["squares"][there]) / n
        self._weights[here], self._weights[-1] = got["weights"][there], got["weights"][-1]
        self._squares[here], self._squares[-2:] = got["squares"][there], got["squares"][-2:]
        self._shares[:3], self._shares[3:] = got["shares"][:3], 0.0
        self._shares[3:][here] = got["shares"][3:][there]
        self._first[:] = np.nan
        self._first[here] = got["first"][there]
        if gone:
            self._weights[here] += math.fsum(got["weights"][gone]) / n
            self._shares[1] += math.fsum(got["shares"][3:][gone])

    def _arrays(self) -> dict[str, F64]:
        return {
            "weights": self._weights,
            "squares": self._squares,
            "shares": self._shares,
            "first": self._first,
        }


class Stacking(Stack):
    """The logistic stack alone: all of the share is the stack's, and stays there."""

    alpha = 0.0

    def __init__(self, m: int, seed: int, task: Task = BINARY) -> None:
        super().__init__(m, seed, task)
        self._shares[:] = 0.0
        self._shares[0] = 1.0
