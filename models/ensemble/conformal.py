"""Promises about the truth that are kept as often as asked, whatever drifts: intervals and sets.

Around a number an interval, for classes the set of those that may be true. How far they reach is
learned by adaptive conformal inference: a promise broken widens the next ones, one kept narrows
them, in steps that make the share kept come out as asked on any stream [1]_. As in [2]_ a quantile
is tracked and the promises' own errors are added up beside it, here on a logarithm, so that no unit
matters: the quantile by what it would have held now, whose steps may be large however late a label
comes; the promises as they were made by steps the smaller the later, within bounds that keep all
finite. Several rates at which to follow errors, aggregated as [3]_ does with step sizes, gave no
better months, and must keep with each event what each would have promised.

What changes while labels are under way nobody can know: noise that grows by a tenth until they come
costs about 3 points of coverage, for as long as it did not grow before. Nothing here reads a clock.

.. [1] I. Gibbs and E. Candes, "Adaptive conformal inference under distribution shift", NeurIPS
   2021.
.. [2] A. Angelopoulos, E. Candes and R. Tibshirani, "Conformal PID control for time series
   prediction", NeurIPS 2023.
.. [3] I. Gibbs and E. Candes, "Conformal inference for online prediction with arbitrary
   distribution shifts", JMLR 25, 2024.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from models.base import BOOL, F64, Parameter, State, contiguous, state_digest
from models.carry import fill
from models.kernels.ensemble.conformal import (
    INTERVAL,
    REACH,
    SET,
    learn_intervals,
    learn_sets,
    promise_intervals,
    promise_sets,
)
from models.task import Classes, Number, Task

PROMISE = 2
"""Numbers that a promise is kept as."""


class Conformal(ABC):
    """Promises of one kind about the ensemble's outputs.

    A promise is what a pending event keeps beside its output, ``(2,)``: how far it reaches, and how
    many labels were known. Nothing is promised (the reach is ``nan``) before ``2 / (1 - level)``
    labels.

    Parameters
    ----------
    level : float
        The share of promises to keep, in ``(0, 1)``; a setting, no part of the state.
    """

    def __init__(self, level: float) -> None:
        if not 0 < level < 1:
            raise ValueError(f"coverage: expected a level in (0, 1), got {level}")
        self._miss = 1 - level
        self._cold = round(2 / (1 - level))
        self._known = self._fresh()

    @abstractmethod
    def _fresh(self) -> F64:
        """What is known before the first label."""

    @abstractmethod
    def promise(self, output: F64) -> F64:
        """Promises ``(n, 2)`` for outputs ``(n, k)``, as they are scored."""

    @abstractmethod
    def said(self, output: F64, promise: F64) -> F64 | BOOL:
        """What promises ``(n, 2)`` say of their outputs ``(n, k)``: intervals, or sets."""

    @abstractmethod
    def learn(self, output: F64, promise: F64, y: F64) -> None:
        """Take ``n`` truths in label order, with outputs and promises as they were made."""

    def parameters(self) -> Sequence[Parameter]:
        """What is known of reaches and errors."""
        n = len(self._known)
        return [Parameter("conformal.known", "statistic", (n,), "float64", n, 8 * n)]

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"known": self._known.copy()}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        fill({"known": self._known}, state, "conformal")

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`."""
        return state_digest(self.state())


class Intervals(Conformal):
    """Around a number: the usual error, more where more is predicted, times a learned factor.

    The usual error is a mean over about 200 labels, so that intervals follow a stream that grows
    noisier or calmer; as it grows with the prediction, they are narrow where errors are small.

    >>> intervals = Intervals(Number(low=0.0), 0.9)
    >>> output, y = np.full((30, 1), 5.0), np.tile([4.0, 6.0], 15)
    >>> intervals.learn(output, intervals.promise(output), y)
    >>> low, high = intervals.said(output[:1], intervals.promise(output[:1]))[0]
    >>> bool(0 <= low <= 4 and 6 <= high)
    True
    """

    def __init__(self, task: Number, level: float) -> None:
        self._bounds = task.low, task.high
        super().__init__(level)

    def _fresh(self) -> F64:
        known = np.zeros(INTERVAL)
        known[REACH] = math.log(-math.log(self._miss))  # of exponential errors
        return known

    def promise(self, output: F64) -> F64:
        """Half the width, and how many labels were known."""
        promise = np.empty((len(output), 2))
        promise_intervals(self._known, self._cold, _plain(output), promise)
        return promise

    def said(self, output: F64, promise: F64) -> F64:
        """Low and high ends ``(n, 2)``, both included, within the target's bounds; or ``nan``."""
        return np.clip(output + promise[:, :1] * [-1.0, 1.0], *self._bounds)

    def learn(self, output: F64, promise: F64, y: F64) -> None:
        """See :meth:`Conformal.learn`."""
        learn_intervals(self._known, self._miss, *map(_plain, (output, promise, y)))


class Sets(Conformal):
    """Of classes: those whose probability reaches a learned one, and always the likeliest.

    These are the smallest sets [4]_. They hold the truth as often as asked, or as often as the
    likeliest class alone is right, where that is more.

    .. [4] M. Sadinle, J. Lei and L. Wasserman, "Least ambiguous set-valued classifiers with bounded
       error levels", JASA 114, 2019.

    >>> sets = Sets(Classes(["low", "mid", "high"]), 0.9)
    >>> output = np.tile([0.6, 0.35, 0.05], (30, 1))
    >>> sets.learn(output, sets.promise(output), np.tile([0.0, 1.0], 15))
    >>> sets.said(output[:1], sets.promise(output[:1])).tolist()
    [[True, True, False]]
    """

    def __init__(self, task: Classes, level: float) -> None:
        super().__init__(level)

    def _fresh(self) -> F64:
        known = np.zeros(SET)
        known[REACH] = math.log(self._miss)
        return known

    def promise(self, output: F64) -> F64:
        """The least probability of a class, and how many labels were known."""
        promise = np.empty((len(output), 2))
        promise_sets(self._known, self._cold, promise)
        return promise

    def said(self, output: F64, promise: F64) -> BOOL:
        """Which classes each set has, ``(n, k)``; none where nothing was promised."""
        sets: BOOL = output >= promise[:, :1]
        made = ~np.isnan(promise[:, 0])
        sets[made, output[made].argmax(axis=1)] = True
        return sets

    def learn(self, output: F64, promise: F64, y: F64) -> None:
        """See :meth:`Conformal.learn`."""
        learn_sets(self._known, self._miss, *map(_plain, (output, promise, y)))


def conformal(task: Task) -> Conformal | None:
    """What promises are made of for the target; ``None`` for yes or no."""
    if isinstance(task, Number):
        return Intervals(task, task.coverage)
    return Sets(task, task.coverage) if isinstance(task, Classes) else None


def _plain(values: F64) -> F64:
    return contiguous(values, np.float64)
