"""The learned combiners of classes and of numbers: a stack, and safer experts beside it.

Named ``stacking`` and ``stack`` in a configuration, as that of yes or no (``stack.py``) is. Runs
per label, so the loops are compiled (``models/kernels/ensemble/experts.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.base import F64, Parameter, Role, State, contiguous
from models.carry import Places, fill
from models.ensemble.stack import before_first, counted
from models.kernels.common import NODES
from models.kernels.ensemble import experts as kernels
from models.task import Task


class _Experts:
    """Base: arrays by name, of which some have a place for each member.

    The experts are the stack, the mean link, a second mean, and each member, in this order. The
    means go without a member that joined until its share is more than theirs.
    """

    rate = 0.05
    alpha = 1e-4
    _roles: ClassVar[dict[str, Role]] = {
        "weights": "learned",
        "squares": "optimizer",
        "shares": "learned",
        "first": "control",
    }

    def __init__(self, m: int, seed: int, task: Task) -> None:
        self._m = m
        self._k = task.k
        self._arrays: dict[str, F64] = {
            "weights": np.zeros(m),
            "squares": np.zeros(m),
            "shares": np.full(m + 3, 1 / (m + 3)),
            "first": np.full((m, task.k), np.nan),
        }

    def member_weights(self, first: int, w: F64) -> F64:
        """Every member learns every row with its own weight."""
        return np.repeat(w[:, None], self._m, axis=1)

    def parameters(self) -> Sequence[Parameter]:
        """The arrays, in order."""
        return [
            Parameter(name, role, a.shape, str(a.dtype), a.size, a.nbytes)
            for name, role in self._roles.items()
            for a in [self._arrays[name]]
        ]

    def state(self) -> State:
        """The arrays, copied."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def restore(self, state: State, known: Places) -> None:
        """See :meth:`models.ensemble.combine.Combiner.restore`; raises :class:`StateError`."""
        here, there = known
        got: dict[str, NDArray[Any]] = {n: np.zeros_like(a) for n, a in self._arrays.items()}
        m = len(state.get("first", ()))
        for name in ("weights", "squares"):
            got[name] = np.zeros(m)
        got["shares"], got["first"] = np.zeros(m + 3), np.zeros((m, self._k))
        fill(got, state, "combiner")
        gone = [j for j in range(m) if j not in there]
        ours, n = self._arrays, max(len(here), 1)
        for name in [n for n in ours if n not in ("weights", "squares", "shares", "first")]:
            ours[name][...] = got[name]
        ours["weights"][:] = 0.0
        ours["weights"][here] = got["weights"][there]
        # One that joins has learned as much as the others have on average.
        ours["squares"][:] = math.fsum(got["squares"][there]) / n
        ours["squares"][here] = got["squares"][there]
        ours["shares"][:3], ours["shares"][3:] = got["shares"][:3], 0.0
        ours["shares"][3:][here] = got["shares"][3:][there]
        ours["first"][:] = before_first(here, got["squares"])
        ours["first"][here] = got["first"][there]
        if gone:
            # A member that left is taken to say the mean of the others.
            counts = counted(got["first"][there, 0])
            more = math.fsum(got["weights"][gone]) * counts
            ours["weights"][here] += more / max(counts.sum(), 1)
            ours["shares"][1] += math.fsum(got["shares"][3:][gone])

    def slopes(self, start: F64, links: F64, nodes: int = NODES) -> F64 | None:
        """See :meth:`models.ensemble.combine.Combiner.slopes`: unknown."""
        return None


class ClassStack(_Experts):
    """Fixed-Share over {stack, mean link, mean probability, each member}, of classes.

    A member's link is taken as its log probabilities. The stack is a logistic regression over
    them, ``z_c = b_c + sum_j w_j l_jc``: one weight for each member, an intercept for each class;
    weights start at ``1 / m``, and each follows AdaGrad with rate 0.05. A label multiplies the
    share of each expert by its probability of the truth, to the row's weight, then 1e-4 of the
    whole is dealt out evenly (Fixed-Share [1]_ under log loss). Shares begin even: over all labels
    the sum of log losses is at most that of the best expert plus ``log(m + 3)``, and what the 1e-4
    cost.

    .. [1] M. Herbster and M. Warmuth, "Tracking the best expert", Machine Learning 32, 1998.
    """

    _roles: ClassVar[dict[str, Role]] = {
        **_Experts._roles,
        "intercepts": "learned",
        "intercept_squares": "optimizer",
    }

    def __init__(self, m: int, seed: int, task: Task) -> None:
        super().__init__(m, seed, task)
        self._arrays["weights"][:] = 1 / m
        self._arrays["intercepts"] = np.zeros(task.k)
        self._arrays["intercept_squares"] = np.zeros(task.k)
        self._logs = np.zeros((m + 3, task.k))

    def combine(self, links: F64) -> F64:
        """See :meth:`models.ensemble.combine.Combiner.combine`."""
        out = np.zeros((len(links), self._k))
        rows, a = contiguous(links, np.float64), self._arrays
        learned = (a["weights"], a["intercepts"], a["shares"], a["first"][:, 0])
        kernels.combine_classes(rows, *learned, self._logs, out)
        return out

    def update(self, links: F64, y: F64, w: F64) -> None:
        """See :meth:`models.ensemble.combine.Combiner.update`."""
        rows, y, w = (contiguous(a, np.float64) for a in (links, y, w))
        a = self._arrays
        kernels.update_classes(
            *(rows, y, w, self.rate, self.alpha),
            *(a["weights"], a["squares"], a["intercepts"], a["intercept_squares"]),
            *(a["shares"], a["first"], self._logs),
        )

    def weights(self) -> F64:
        """Each member's slope, mixed over the experts; need not sum to 1."""
        shares = self._arrays["shares"]
        slopes: F64 = shares[0] * self._arrays["weights"] + shares[3:]
        counts = counted(self._arrays["first"][:, 0])
        return slopes + (shares[1] + shares[2]) * counts / counts.sum()


class ClassStacking(ClassStack):
    """The stack alone: all of the share is the stack's, and stays there."""

    alpha = 0.0

    def __init__(self, m: int, seed: int, task: Task) -> None:
        super().__init__(m, seed, task)
        self._arrays["shares"][:] = 0.0
        self._arrays["shares"][0] = 1.0


class NumberStack(_Experts):
    """Online aggregation of {stack, mean, median, each member} under squared loss.

    The stack adds to the mean what members differ from it by, ``mean + b s + sum_j w_j (z_j -
    mean)``: weights and ``b`` start at 0, and each follows AdaGrad with rate 0.05. ``s`` is the
    root of the mean's squared error, fading over 1,000 labels: the unit of errors, whatever that of
    the numbers. A label multiplies the share of each expert by ``exp(-min(e, 2 s)^2 / (8 s^2))`` of
    its error ``e``, to the row's weight, then 1e-4 of the whole is dealt out evenly (Fixed-Share
    [1]_). The squared loss of errors up to ``2 s`` is exp-concave at that rate [2]_: over all
    labels its sum is at most that of the best expert plus ``8 s^2 log(m + 3)``, and what the 1e-4
    cost.

    .. [1] M. Herbster and M. Warmuth, "Tracking the best expert", Machine Learning 32, 1998.
    .. [2] N. Cesa-Bianchi and G. Lugosi, "Prediction, learning, and games", 2006, section 3.3.
    """

    _roles: ClassVar[dict[str, Role]] = {
        **_Experts._roles,
        "intercept": "learned",
        "intercept_squares": "optimizer",
        "error": "statistic",
    }

    def __init__(self, m: int, seed: int, task: Task) -> None:
        super().__init__(m, seed, task)
        self._arrays["intercept"] = np.zeros(1)
        self._arrays["intercept_squares"] = np.zeros(1)
        self._arrays["error"] = np.zeros(2)  # rows, mean squared error of the mean
        self._said = np.zeros(m + 3)
        self._order = np.zeros(m)

    def combine(self, links: F64) -> F64:
        """See :meth:`models.ensemble.combine.Combiner.combine`."""
        out = np.zeros(len(links))
        rows, a = contiguous(links[:, :, 0], np.float64), self._arrays
        kernels.combine_numbers(
            *(rows, a["weights"], a["intercept"], a["error"], a["shares"], a["first"][:, 0]),
            *(self._said, self._order, out),
        )
        return out[:, None]

    def update(self, links: F64, y: F64, w: F64) -> None:
        """See :meth:`models.ensemble.combine.Combiner.update`."""
        rows, y, w = (contiguous(a, np.float64) for a in (links[:, :, 0], y, w))
        a = self._arrays
        kernels.update_numbers(
            *(rows, y, w, self.rate, self.alpha),
            *(a["weights"], a["squares"], a["intercept"], a["intercept_squares"], a["error"]),
            *(a["shares"], a["first"][:, 0], self._said, self._order),
        )

    def weights(self) -> F64:
        """Each member's share in the number; they sum to 1."""
        shares = self._arrays["shares"]
        own = self._arrays["weights"]
        counts = counted(self._arrays["first"][:, 0])
        even: F64 = (1 - own.sum()) * counts / counts.sum()
        means = (shares[1] + shares[2]) * counts / counts.sum()
        return shares[0] * (own + even) + means + shares[3:]


class NumberStacking(NumberStack):
    """The stack alone: all of the share is the stack's, and stays there."""

    alpha = 0.0

    def __init__(self, m: int, seed: int, task: Task) -> None:
        super().__init__(m, seed, task)
        self._arrays["shares"][:] = 0.0
        self._arrays["shares"][0] = 1.0
