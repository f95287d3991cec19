"""How member links become one: the combiners that a configuration can name.

A combiner sees member links and truths, never features. All of them work on predictions as they
were made, row by row in label order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from models.base import F64, Parameter, State
from models.carry import Places
from models.ensemble.experts import ClassStack, ClassStacking, NumberStack, NumberStacking
from models.ensemble.stack import Stack, Stacking
from models.kernels.common import AT, GOLDEN, NODES, WEIGHT, mix_all, poisson_table
from models.links import MAX_LINK, sigmoid
from models.task import BINARY, Task, TaskType


class Combiner(Protocol):
    """What every way of combining offers."""

    def combine(self, links: F64) -> F64:
        """Member links ``(n, m, k)`` to ensemble links ``(n, k)``; changes nothing."""

    def slopes(self, start: F64, links: F64, nodes: int = NODES) -> F64 | None:
        """By how much the link moves with each member's, on average: ``(n, m)``.

        Along the straight line from links ``start`` to ``links``, each ``(n, m)``, of a target
        with one link, at so many ``nodes`` of it. ``None``: it moves in steps.
        """

    def update(self, links: F64, y: F64, w: F64) -> None:
        """Learn from ``n`` labelled rows in order: links as made ``(n, m, k)``, truths, weights.

        A link is ``nan`` where the member made none: the row says nothing about that member.
        """

    def member_weights(self, first: int, w: F64) -> F64:
        """Weights ``(n, m)`` with which the members learn rows ``first, first + 1, ...``."""

    def weights(self) -> F64:
        """The members' present weights ``(m,)``."""

    def parameters(self) -> Sequence[Parameter]:
        """The combiner's own parameter table."""

    def state(self) -> State:
        """What :meth:`restore` needs, as copies."""

    def restore(self, state: State, known: Places) -> None:
        """Take over what ``state``, of the same kind of combiner, tells of the ``known`` members.

        The others have no weight and earn it. With all members in their places this becomes the
        combiner that gave the state, bit for bit.
        """


class _Fixed:
    """Base of the combiners that learn nothing: every member counts the same."""

    def __init__(self, m: int, seed: int, task: Task = BINARY) -> None:
        self._m = m
        self._seed = seed
        self._task = task

    def slopes(self, start: F64, links: F64, nodes: int = NODES) -> F64 | None:
        """Unknown."""
        return None

    def update(self, links: F64, y: F64, w: F64) -> None:
        """Learns nothing."""

    def member_weights(self, first: int, w: F64) -> F64:
        """Every member learns every row with its own weight."""
        return np.repeat(w[:, None], self._m, axis=1)

    def weights(self) -> F64:
        """Equal shares ``1 / m``."""
        return np.full(self._m, 1 / self._m)

    def parameters(self) -> Sequence[Parameter]:
        """None."""
        return []

    def state(self) -> State:
        """Nothing but the number of members."""
        return {"members": self._m}

    def restore(self, state: State, known: Places) -> None:
        """Nothing was learned: nothing is taken over."""


class MeanLogit(_Fixed):
    """``mean_j z_j``: the geometric mean of the odds; of numbers their mean."""

    def combine(self, links: F64) -> F64:
        """See :meth:`Combiner.combine`."""
        return links.mean(axis=1)

    def slopes(self, start: F64, links: F64, nodes: int = NODES) -> F64 | None:
        """``1 / m``, always."""
        return np.full(links.shape, 1 / self._m)


class MeanProbability(_Fixed):
    """The mean of what members say, ``link(mean_j output_j)``: soft voting."""

    def combine(self, links: F64) -> F64:
        """See :meth:`Combiner.combine`."""
        return self._task.link(self._task.output(links).mean(axis=1))

    def slopes(self, start: F64, links: F64, nodes: int = NODES) -> F64 | None:
        """See :meth:`Combiner.slopes`."""
        return _slopes(start, links, nodes, np.full(self._m, 1 / self._m))


class MajorityVote(_Fixed):
    """What most members say, see :meth:`models.task.Task.majority`."""

    def combine(self, links: F64) -> F64:
        """See :meth:`Combiner.combine`."""
        return self._task.majority(links)


class Bagging(MeanProbability):
    """Soft voting over members that each see their own resampling of the stream.

    Every member learns every row with a weight drawn from Poisson(1) [1]_. The draw depends on
    seed, member and the row's number only, so that batches may be cut anywhere.

    .. [1] N. Oza and S. Russell, "Online bagging and boosting", AISTATS 2001.
    """

    _cumulative = poisson_table(1.0)

    def member_weights(self, first: int, w: F64) -> F64:
        """See :meth:`Combiner.member_weights`."""
        uniform = _uniform(self._seed, first, (len(w), self._m))
        draws = np.searchsorted(self._cumulative, uniform, side="right")
        return draws * w[:, None]


class WeightedVote(_Fixed):
    """Members vote with their probabilities; who errs loses weight.

    The continuous Weighted Majority algorithm, WMC [1]_: the vote is ``sum_j v_j p_j`` with weights
    that sum to 1, and a label multiplies ``v_j`` by ``beta ** e_j`` of the error ``e_j``, which is
    ``|p_j - y|`` of yes or no (:meth:`models.task.Task.error`). Then every weight gets a share
    ``alpha`` of the total [2]_, so that a member that was poor can come back.

    .. [1] N. Littlestone and M. Warmuth, "The weighted majority algorithm", Information and
       Computation 108, 1994, section 5.
    .. [2] M. Herbster and M. Warmuth, "Tracking the best expert", Machine Learning 32, 1998.
    """

    beta = 0.9
    alpha = 1e-4

    def __init__(self, m: int, seed: int, task: Task = BINARY) -> None:
        super().__init__(m, seed, task)
        self._votes = np.full(m, 1 / m)

    def combine(self, links: F64) -> F64:
        """See :meth:`Combiner.combine`."""
        said = self._task.output(links) * self._votes[:, None]
        return self._task.link(said.sum(axis=1))

    def slopes(self, start: F64, links: F64, nodes: int = NODES) -> F64 | None:
        """See :meth:`Combiner.slopes`."""
        return _slopes(start, links, nodes, self._votes)

    def update(self, links: F64, y: F64, w: F64) -> None:
        """See :meth:`Combiner.update`; a row of weight ``w`` counts as ``w`` rows."""
        factors = self.beta ** (self._task.error(self._task.output(links), y) * w[:, None])
        some_silent = np.isnan(factors).any()
        for factor in factors:
            votes = self._votes * (self._silence(factor) if some_silent else factor)
            votes /= votes.sum()
            self._votes = (1 - self.alpha) * votes + self.alpha / self._m

    def _silence(self, factor: F64) -> F64:
        """``factor`` with what leaves their share of the votes to members that made no score."""
        made = ~np.isnan(factor)
        total = self._votes[made].sum()
        mean = (self._votes[made] * factor[made]).sum() / total if total > 0 else 1.0
        return np.where(made, factor, mean)

    def weights(self) -> F64:
        """The votes; they sum to 1."""
        return self._votes.copy()

    def parameters(self) -> Sequence[Parameter]:
        """The votes."""
        return [Parameter("votes", "learned", (self._m,), "float64", self._m, 8 * self._m)]

    def state(self) -> State:
        """The votes."""
        return {**super().state(), "votes": self._votes.copy()}

    def restore(self, state: State, known: Places) -> None:
        """See :meth:`Combiner.restore`."""
        here, there = known
        votes = state["votes"]
        self._votes = np.zeros(self._m)
        self._votes[here] = votes[there]
        if len(there) < len(votes):
            self._votes /= self._votes.sum()


class Boosting(_Fixed):
    """Online AdaBoost [1]_: each member learns most where those before it were wrong.

    A row reaches member 1 with its own weight and is passed on: a member that was right has it
    lowered for the next, one that was wrong has it raised, such that half of what each member saw
    was wrong by weight. Members learn with weights drawn from Poisson of it, so that they are whole
    numbers. The vote is ``sum_j log((1 - e_j) / e_j) * sign(link_j)`` over the members that err on
    less than half (``e_j`` by weight), the log odds of AdaBoost as an additive model [2]_. Of
    classes each votes with that for its likeliest one (AdaBoost.M1).

    .. [1] N. Oza and S. Russell, "Online bagging and boosting", AISTATS 2001.
    .. [2] J. Friedman, T. Hastie and R. Tibshirani, "Additive logistic regression", Annals of
       Statistics 28, 2000.
    """

    most = 10.0
    """A row's weight stays within this: one mislabelled row must not rule every member."""

    def __init__(self, m: int, seed: int, task: Task = BINARY) -> None:
        super().__init__(m, seed, task)
        self._right = np.zeros(m)
        self._wrong = np.zeros(m)
        self._row = 0
        self._draws = np.zeros((0, m))  # of the newest update, for the members' learning after it

    def combine(self, links: F64) -> F64:
        """See :meth:`Combiner.combine`."""
        if self._task.k == 1:
            votes = (np.sign(links[:, :, 0]) * self.weights()).sum(axis=1)[:, None]
        else:
            chosen = np.arange(self._task.k) == links.argmax(axis=2)[:, :, None]
            votes = (chosen * self.weights()[:, None]).sum(axis=1)
        return np.clip(votes, -MAX_LINK, MAX_LINK)

    def update(self, links: F64, y: F64, w: F64) -> None:
        """See :meth:`Combiner.update`: passes each row on from member to member."""
        made = ~np.isnan(links[:, :, 0])
        if self._task.k == 1:
            correct = (links[:, :, 0] > 0) == (y[:, None] > 0)
        else:
            correct = links.argmax(axis=2) == y[:, None]
        self._draws = np.zeros(made.shape)
        uniform = _uniform(self._seed, self._row, made.shape)
        for i in range(len(y)):
            weight = float(w[i])
            for j in range(self._m):
                self._draws[i, j] = _poisson(weight, uniform[i, j])
                if not made[i, j]:
                    continue
                seen = self._right if correct[i, j] else self._wrong
                seen[j] += weight
                total = self._right[j] + self._wrong[j]
                weight = min(weight * total / (2 * seen[j]), self.most) if weight else 0.0
        self._row += len(y)

    def member_weights(self, first: int, w: F64) -> F64:
        """The draws of the update just made for the same rows."""
        return self._draws

    def weights(self) -> F64:
        """Log odds of being right ``(m,)``; 0 for a member that errs on half or more."""
        # Half a row each way, so that a member without rows has weight 0 and none an infinite one.
        return np.maximum(np.log((self._right + 0.5) / (self._wrong + 0.5)), 0.0)

    def parameters(self) -> Sequence[Parameter]:
        """Weight of rows that each member got right and wrong."""
        return [
            Parameter(name, "statistic", (self._m,), "float64", self._m, 8 * self._m)
            for name in ("right", "wrong")
        ]

    def state(self) -> State:
        """The weights seen, and how many rows."""
        own = {"right": self._right.copy(), "wrong": self._wrong.copy(), "row": self._row}
        return {**super().state(), **own}

    def restore(self, state: State, known: Places) -> None:
        """See :meth:`Combiner.restore`."""
        here, there = known
        self._right, self._wrong = np.zeros(self._m), np.zeros(self._m)
        self._right[here], self._wrong[here] = state["right"][there], state["wrong"][there]
        self._row = int(state["row"])


def _slopes(start: F64, links: F64, nodes: int, votes: F64) -> F64:
    """Of the logit of probabilities weighed by ``votes`` ``(m,)``, which sum to 1."""
    found = np.zeros(links.shape)
    for at, weight in zip(AT[nodes, :nodes], WEIGHT[nodes, :nodes], strict=True):
        line = start + at * (links - start)
        p, q = sigmoid(line), sigmoid(-line)
        # Not by a matrix product, whose bits depend on how many rows there are.
        both = (p * votes).sum(axis=1) * (q * votes).sum(axis=1)
        found += weight * votes * p * q / both[:, None]
    return found


def _uniform(seed: int, first: int, shape: tuple[int, ...]) -> F64:
    """Numbers in 0..1 ``(n, m)`` for rows from ``first`` on: by seed, member and row only."""
    row = np.arange(first, first + shape[0], dtype=np.uint64)[:, None]
    member = np.arange(shape[1], dtype=np.uint64)[None, :]
    with np.errstate(over="ignore"):
        key = mix_all((mix_all(np.uint64(seed) + member + GOLDEN) ^ row) + GOLDEN)
    return np.asarray((key >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _poisson(rate: float, uniform: float) -> int:
    """The quantile of Poisson(``rate``) at ``uniform``, by adding up probabilities."""
    k, probability = 0, math.exp(-rate)
    below = probability
    while below <= uniform and k < 100:
        k += 1
        probability *= rate / k
        below += probability
    return k


Make = Callable[[int, int, Task], Combiner]
"""What builds a combiner of (number of members, seed, task)."""


def _any(make: Make) -> dict[TaskType, Make]:
    return {"binary": make, "classes": make, "number": make}


COMBINERS: dict[str, dict[TaskType, Make]] = {
    "mean_logit": _any(MeanLogit),
    "mean_probability": _any(MeanProbability),
    "majority_vote": _any(MajorityVote),
    "weighted_vote": _any(WeightedVote),
    "bagging": _any(Bagging),
    "boosting": {"binary": Boosting, "classes": Boosting},
    "stacking": {"binary": Stacking, "classes": ClassStacking, "number": NumberStacking},
    "stack": {"binary": Stack, "classes": ClassStack, "number": NumberStack},
}
"""Names to what builds them, for each type of target that they can combine."""


def combiner(name: str, m: int, seed: int, task: Task = BINARY) -> Combiner:
    """The combiner of that name for ``m`` members; raises ``KeyError`` with the known names."""
    if name not in COMBINERS or task.type not in COMBINERS[name]:
        known = ", ".join(n for n, tasks in COMBINERS.items() if task.type in tasks)
        raise KeyError(f"ensemble.combine: expected one of {known}; got {name!r}")
    return COMBINERS[name][task.type](m, seed, task)
