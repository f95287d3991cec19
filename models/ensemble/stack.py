"""The learned combiners: a logistic stack, alone or under a share of safer experts.

Named ``stacking`` and ``stack`` in a configuration. Runs per label, so the loops are compiled
(``models/kernels/stack.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from models.base import F64, Parameter, State, contiguous
from models.carry import Places, fill
from models.kernels import stack as kernels
from models.kernels.common import NODES
from models.task import BINARY, Task


def counted(first: F64) -> F64:
    """1 for members that the means go with, by their first links ``(m,)``: see ``kernels``."""
    counts = np.asarray(first != kernels.JOINED, dtype=np.float64)
    return counts if counts.any() else np.ones(len(first))


def before_first(known: Sequence[int], squares: F64) -> float:
    """What stands for the first link of one that joins: ``nan`` where nobody has learned yet."""
    return kernels.JOINED if known and squares.any() else np.nan


class Stack:
    """Fixed-Share over {stack, mean logit, mean probability, each member, bent stack}.

    The stack is a logistic regression over the member logits: weights start at ``1 / m``, the
    intercept at 0. It learns by AdaGrad [1]_ with rate 0.05 in other coordinates: the mean of the
    logits, what each differs from it by, and 1. Members say nearly the same: along the logits
    themselves their differences were learned so slowly that on plain streams it was right .0012
    less often than along these. Intercept and slope are an online Platt scaling.

    The bent stack is a logistic regression over the member logits and the bent logits ``z / (1 +
    2 |z|)``, from the same start, with a Kalman filter over weights that drift [2]_: variance 1 at
    first, 1e-6 more with each label up to that. A straight line through the logits is not enough of
    a member that knows the boundary and not how sure to be, as a linear one where a tenth of the
    labels are wrong: the stack without it followed the forest, which was right less often.

    The experts' probabilities are mixed by shares, even at first; a label multiplies each share by
    the expert's likelihood to the row's weight, then 1e-4 of the whole is dealt out evenly
    (Fixed-Share [3]_ under log loss), so that no expert is lost for good. Over all labels the sum
    of log losses is at most that of the best expert plus ``log(m + 4)``, and what the 1e-4 cost.

    A member that joins begins with weight 0, share 0, the others' mean sum of squares and variance
    1; the means go without it until its share is more than theirs, so that a poor one costs next to
    nothing. One that leaves is taken to say the mean of the others, as one in quarantine does: its
    weights go to them in equal parts, its share to the mean logit.

    .. [1] J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods", JMLR 12, 2011.
    .. [2] W. Penny and S. Roberts, "Dynamic logistic regression", IJCNN 1999.
    .. [3] M. Herbster and M. Warmuth, "Tracking the best expert", Machine Learning 32, 1998.
    """

    rate = 0.05
    alpha = 1e-4
    bends = True
    variances = (0.03, 1.0, 0.1)

    def __init__(self, m: int, seed: int, task: Task = BINARY) -> None:
        self._m = m
        readings = 2 * m + 1 if self.bends else 0
        self._weights = np.append(np.full(m, 1 / m), 0.0)
        self._squares = np.zeros(m + 2)
        self._bent = np.zeros(readings)
        self._bent[:m] = 1 / m
        self._begun = np.repeat(self.variances, (m, m, 1)) if self.bends else np.zeros(0)
        self._variance = np.diag(self._begun)
        self._shares = np.full(m + 4, 1 / (m + 4))
        self._first = np.full(m, np.nan)
        self._readings, self._gain = np.zeros(readings), np.zeros(readings)
        self._experts = np.zeros(m + 4)

    def combine(self, links: F64) -> F64:
        """See :meth:`models.ensemble.combine.Combiner.combine`."""
        out = np.zeros(len(links))
        rows = contiguous(links[:, :, 0], np.float64)
        learned = (self._weights, self._bent, self._shares)
        kernels.combine(rows, *learned, self._first, self._readings, self._experts, out)
        return out[:, None]

    def slopes(self, start: F64, links: F64, nodes: int = NODES) -> F64 | None:
        """See :meth:`models.ensemble.combine.Combiner.slopes`."""
        out = np.zeros(links.shape)
        learned = (self._weights, self._bent, self._shares)
        scratch = (np.zeros(self._m), np.zeros(self._m))
        rows = (np.ascontiguousarray(start), np.ascontiguousarray(links))
        kernels.slopes(*rows, nodes, *learned, counted(self._first), *scratch, out)
        return out

    def update(self, links: F64, y: F64, w: F64) -> None:
        """See :meth:`models.ensemble.combine.Combiner.update`."""
        rows, y, w = (contiguous(a, np.float64) for a in (links[:, :, 0], y, w))
        kernels.update(
            *(rows, y, w, self.rate, self.alpha),
            *(self._weights, self._squares, self._bent, self._variance, self._begun),
            *(self._shares, self._first, self._readings, self._gain, self._experts),
        )

    def member_weights(self, first: int, w: F64) -> F64:
        """Every member learns every row with its own weight."""
        return np.repeat(w[:, None], self._m, axis=1)

    def weights(self) -> F64:
        """Each member's slope from logit -1 to 1, mixed over the experts; need not sum to 1."""
        m = self._m
        slopes: F64 = self._shares[0] * self._weights[:-1] + self._shares[3:-1]
        if self.bends:
            bent = self._bent[:m] + self._bent[m:-1] / (1.0 + kernels.STEEP)
            slopes = slopes + self._shares[-1] * bent
        counts = counted(self._first)
        return slopes + (self._shares[1] + self._shares[2]) * counts / counts.sum()

    def parameters(self) -> Sequence[Parameter]:
        """Weights and intercepts, AdaGrad's sums of squares, variances, shares, first row."""
        m, n = self._m, len(self._bent)
        bent = [
            Parameter("bent.weights", "learned", (n,), "float64", n, 8 * n),
            Parameter("bent.variance", "optimizer", (n, n), "float64", n * n, 8 * n * n),
        ]
        return [
            Parameter("stack.weights", "learned", (m,), "float64", m, 8 * m),
            Parameter("stack.intercept", "learned", (), "float64", 1, 8),
            Parameter("stack.squares", "optimizer", (m + 2,), "float64", m + 2, 8 * (m + 2)),
            *(bent if self.bends else []),
            Parameter("shares", "learned", (m + 4,), "float64", m + 4, 8 * (m + 4)),
            Parameter("first", "control", (m,), "float64", m, 8 * m),
        ]

    def state(self) -> State:
        """The arrays, copied."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def restore(self, state: State, known: Places) -> None:
        """See :meth:`models.ensemble.combine.Combiner.restore`; raises :class:`StateError`."""
        here, there = known
        m = len(state.get("first", ()))
        old = type(self)(max(m, 1), 0)
        fill(old._arrays(), state, "combiner")
        gone = [j for j in range(m) if j not in there]
        for name, array in self._arrays().items():
            array[:] = before_first(here, old._squares) if name == "first" else 0.0
        self._first[here] = old._first[there]
        self._squares[:] = math.fsum(old._squares[there]) / max(len(here), 1)
        self._squares[here], self._squares[-2:] = old._squares[there], old._squares[-2:]
        ends = [0, 1, 2, -1]
        self._shares[ends], self._shares[3:-1][here] = old._shares[ends], old._shares[3:-1][there]
        self._shares[1] += math.fsum(old._shares[3:-1][gone])
        slopes = [(self._weights[:-1], old._weights[:-1])]
        self._weights[-1] = old._weights[-1]
        if self.bends:
            slopes += zip(np.split(self._bent[:-1], 2), np.split(old._bent[:-1], 2), strict=True)
            self._bent[-1] = old._bent[-1]
            ours = [*here, *(self._m + j for j in here), -1]
            theirs = [*there, *(m + j for j in there), -1]
            np.fill_diagonal(self._variance, self._begun)
            self._variance[np.ix_(ours, ours)] = old._variance[np.ix_(theirs, theirs)]
        counts = counted(old._first[there])
        for mine, before in slopes:
            mine[here] = before[there] + math.fsum(before[gone]) * counts / max(counts.sum(), 1)

    def _arrays(self) -> dict[str, F64]:
        bent = {"bent": self._bent, "variance": self._variance}
        return {
            "weights": self._weights,
            "squares": self._squares,
            **(bent if self.bends else {}),
            "shares": self._shares,
            "first": self._first,
        }


class Stacking(Stack):
    """The logistic stack alone: all of the share is the stack's, and stays there."""

    alpha = 0.0
    bends = False

    def __init__(self, m: int, seed: int, task: Task = BINARY) -> None:
        super().__init__(m, seed, task)
        self._shares[:] = 0.0
        self._shares[0] = 1.0
