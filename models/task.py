"""What a target is: yes or no, one of several classes, or a number.

The one place that knows what a label means: how its truth is read, what a link says of it, what a
score costs once the truth is known, and what is said before anything was learned. Truths are
float64 everywhere: 0 or 1, the index of a class, or the number itself; ``nan`` where there is none.
Links are ``(n, members, k)`` with the ``k`` of the task. Nothing here reads a clock.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from models.base import F64, State
from models.carry import fill

MAX_LINK = 30.0
"""Logits are clipped to this: beyond it a probability is 0 or 1 in float64."""

LEAST = 1e-15
"""A probability below it costs no more: one certain error must not rule a mean for ever."""

TaskType = Literal["binary", "classes", "number"]


def sigmoid(z: F64) -> F64:
    """``1 / (1 + exp(-z))`` without overflow."""
    e: F64 = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def logit(p: F64) -> F64:
    """``log(p / (1 - p))``, within ``-MAX_LINK .. MAX_LINK``."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-p), -MAX_LINK, MAX_LINK)


def softmax(z: F64) -> F64:
    """``exp(z_c) / sum_c exp(z_c)`` over the last axis, without overflow.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    e: F64 = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Prior(Protocol):
    """The truths learned so far, as what to say before any member knows better."""

    def learn(self, y: F64, w: F64) -> None:
        """Take ``n`` truths with their weights; one call or many, same state."""

    def output(self) -> F64:
        """What to say: outputs ``(k,)``."""

    def state(self) -> State:
        """See :data:`models.base.State`."""

    def restore(self, state: State) -> None:
        """Become the prior that gave ``state``."""


class Task(ABC):
    """One kind of target.

    Attributes
    ----------
    type : str
    k : int
        Columns of a link, and of the output that it stands for.
    """

    type: ClassVar[TaskType]
    k: int = 1

    @property
    @abstractmethod
    def expected(self) -> str:
        """What a truth may be, for an error: ``"a number"``."""

    @abstractmethod
    def truth(self, value: bool | float | str) -> float:
        """The truth that a label's value means; ``nan`` for a value that means none.

        ``value`` is what stood in the label: a JSON boolean, number or text.
        """

    @abstractmethod
    def named(self, y: float) -> bool | float | str:
        """A truth, or what is predicted, in the words of the target: what a score record says."""

    @abstractmethod
    def output(self, links: F64) -> F64:
        """What links ``(..., k)`` say: probabilities, or the number itself, ``(..., k)``."""

    @abstractmethod
    def link(self, output: F64) -> F64:
        """The links of outputs ``(..., k)``: what :meth:`output` undoes."""

    @abstractmethod
    def predicted(self, output: F64) -> F64:
        """The truth held most likely by outputs ``(..., k)``, as truths are written ``(...)``."""

    @abstractmethod
    def loss(self, output: F64, y: F64, scale: float = 1.0) -> F64:
        """What outputs ``(n, s, k)`` cost given truths ``(n,)``: ``(n, s)``, at least 0.

        ``1 - exp(-loss)`` is the error in ``[0, 1]`` that drift detectors watch. ``scale`` is the
        size of a usual error of a number.
        """

    @abstractmethod
    def prior(self, fixed: float | None = None) -> Prior:
        """A new prior; ``fixed``: what it always says."""


# ------------------------------------------------------------------ yes or no


class Binary(Task):
    """Yes or no: truths 0 and 1, links are logits of 1.

    Parameters
    ----------
    values : mapping of text to 0 or 1
        A label's value, written as JSON text, to its truth.

    >>> task = Binary({"true": 1, "false": 0})
    >>> task.truth(True), task.output(np.array([0.0])).tolist()
    (1.0, [0.5])
    """

    type = "binary"

    def __init__(self, values: dict[str, int] | None = None) -> None:
        self._values = {"true": 1, "false": 0, "1": 1, "0": 0} if values is None else values

    @property
    def expected(self) -> str:
        """See :attr:`Task.expected`."""
        return f"one of {', '.join(self._values)}"

    def truth(self, value: bool | float | str) -> float:
        """See :meth:`Task.truth`."""
        return float(self._values.get(written(value), math.nan))

    def named(self, y: float) -> bool:
        """See :meth:`Task.named`."""
        return y == 1.0

    def output(self, links: F64) -> F64:
        """The probability of 1."""
        return sigmoid(links)

    def link(self, output: F64) -> F64:
        """The logit."""
        return logit(output)

    def predicted(self, output: F64) -> F64:
        """1 where it is at least as likely."""
        found: F64 = (output[..., 0] >= 0.5).astype(np.float64)
        return found

    def loss(self, output: F64, y: F64, scale: float = 1.0) -> F64:
        """The log loss, at most ``-log(1e-15)``."""
        p = output[..., 0]
        right = np.where(y[:, None] > 0, p, 1.0 - p)
        losses: F64 = -np.log(np.maximum(right, LEAST))
        return losses

    def prior(self, fixed: float | None = None) -> BinaryPrior:
        """The share of positives."""
        return BinaryPrior(fixed)


class BinaryPrior:
    """The share of positives so far, with half a row of each class (Krichevsky, Trofimov 1981)."""

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self._weighed = 0.0
        self._positives = 0.0

    def learn(self, y: F64, w: F64) -> None:
        """See :meth:`Prior.learn`."""
        self._weighed += float(w.sum())
        self._positives += float((w * y).sum())

    def output(self) -> F64:
        """0.5 before the first truth."""
        if self._fixed is not None:
            return np.array([self._fixed])
        return np.array([(self._positives + 0.5) / (self._weighed + 1)])

    def state(self) -> State:
        """See :meth:`Prior.state`."""
        return {"weighed": self._weighed, "positives": self._positives}

    def restore(self, state: State) -> None:
        """See :meth:`Prior.restore`."""
        self._weighed = float(state["weighed"])
        self._positives = float(state["positives"])


# ------------------------------------------------------------------ one of several classes


class Classes(Task):
    """One of ``k`` classes: a truth is the class's index, links are logits up to a constant.

    Parameters
    ----------
    names : sequence of str
        The classes, in the order of their columns; two at least.
    values : mapping of text to name
        A label's value, written as JSON text, where it is not the class's name.

    >>> task = Classes(["low", "high"])
    >>> task.truth("high"), task.truth("hgih"), task.named(0.0)
    (1.0, nan, 'low')
    """

    type = "classes"

    def __init__(self, names: Sequence[str], values: dict[str, str] | None = None) -> None:
        self.names = tuple(names)
        self.k = len(self.names)
        self._index = {name: float(i) for i, name in enumerate(self.names)}
        self._index |= {text: self._index[name] for text, name in (values or {}).items()}

    @property
    def expected(self) -> str:
        """See :attr:`Task.expected`."""
        return f"one of {', '.join(self._index)}"

    def truth(self, value: bool | float | str) -> float:
        """See :meth:`Task.truth`."""
        return self._index.get(written(value), math.nan)

    def named(self, y: float) -> str:
        """See :meth:`Task.named`."""
        return self.names[int(y)]

    def output(self, links: F64) -> F64:
        """The probability of each class; they sum to 1."""
        return softmax(links)

    def link(self, output: F64) -> F64:
        """The logarithm, at least :data:`MAX_LINK` below 0."""
        return np.log(np.maximum(output, math.exp(-MAX_LINK)))

    def predicted(self, output: F64) -> F64:
        """The likeliest class, the first of equals; ``nan`` where nothing was said."""
        found: F64 = output.argmax(axis=-1).astype(np.float64)
        return np.where(np.isnan(output).any(axis=-1), np.nan, found)

    def loss(self, output: F64, y: F64, scale: float = 1.0) -> F64:
        """The log loss, at most ``-log(1e-15)``."""
        right = np.take_along_axis(output, y.astype(np.int64)[:, None, None], axis=2)[..., 0]
        losses: F64 = -np.log(np.maximum(right, LEAST))
        return losses

    def prior(self, fixed: float | None = None) -> ClassPrior:
        """The share of each class."""
        return ClassPrior(self.k)


class ClassPrior:
    """The share of each class so far, with half a row of each (Krichevsky and Trofimov 1981)."""

    def __init__(self, k: int) -> None:
        self._counts = np.zeros(k)

    def learn(self, y: F64, w: F64) -> None:
        """See :meth:`Prior.learn`."""
        np.add.at(self._counts, y.astype(np.int64), w)

    def output(self) -> F64:
        """Even shares before the first truth."""
        return (self._counts + 0.5) / (self._counts.sum() + len(self._counts) / 2)

    def state(self) -> State:
        """See :meth:`Prior.state`."""
        return {"counts": self._counts.copy()}

    def restore(self, state: State) -> None:
        """See :meth:`Prior.restore`; raises :class:`StateError` for other classes."""
        fill({"counts": self._counts}, state, "prior")


# ------------------------------------------------------------------ a number


class Number(Task):
    """A number: a link is the number itself.

    Parameters
    ----------
    low, high : float
        Bounds that a truth must lie within; a label beyond them is an error.
    unit : str
        Of the number, for people.

    >>> Number(low=0.0).truth(12.5), Number(low=0.0).truth(-1)
    (12.5, nan)
    """

    type = "number"

    def __init__(self, low: float = -math.inf, high: float = math.inf, unit: str = "") -> None:
        self.low, self.high, self.unit = low, high, unit

    @property
    def expected(self) -> str:
        """See :attr:`Task.expected`."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "a number"
        return f"a number in {self.low:g}..{self.high:g}"

    def truth(self, value: bool | float | str) -> float:
        """See :meth:`Task.truth`; text is a number only where it is one as a whole."""
        if isinstance(value, bool):
            return math.nan
        try:
            y = float(value)
        except ValueError:
            return math.nan
        return y if math.isfinite(y) and self.low <= y <= self.high else math.nan

    def named(self, y: float) -> float:
        """See :meth:`Task.named`."""
        return y

    def output(self, links: F64) -> F64:
        """The number, within the bounds that truths have."""
        return np.clip(links, self.low, self.high)

    def link(self, output: F64) -> F64:
        """The number."""
        return output

    def predicted(self, output: F64) -> F64:
        """The number."""
        found: F64 = output[..., 0]
        return found

    def loss(self, output: F64, y: F64, scale: float = 1.0) -> F64:
        """``log(1 + |error| / scale)``: the error that drift detectors see is in [0, 1] then."""
        losses: F64 = np.log1p(np.abs(output[..., 0] - y[:, None]) / max(scale, 1e-300))
        return losses

    def prior(self, fixed: float | None = None) -> MeanPrior:
        """The mean."""
        return MeanPrior(fixed)


class MeanPrior:
    """The mean of the truths so far; 0 before the first."""

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self._sums = np.zeros(2)  # weights, weighted truths

    def learn(self, y: F64, w: F64) -> None:
        """See :meth:`Prior.learn`."""
        # Added up in order: how rows were cut into calls must not show in the bits.
        for i, values in enumerate((w, w * y)):
            self._sums[i] = np.add.accumulate(np.append(self._sums[i], values))[-1]

    def output(self) -> F64:
        """See :meth:`Prior.output`."""
        if self._fixed is not None:
            return np.array([self._fixed])
        return np.array([self._sums[1] / self._sums[0] if self._sums[0] > 0 else 0.0])

    def state(self) -> State:
        """See :meth:`Prior.state`."""
        return {"sums": self._sums.copy()}

    def restore(self, state: State) -> None:
        """See :meth:`Prior.restore`."""
        fill({"sums": self._sums}, state, "prior")


def written(value: Any) -> str:
    """A label's value as JSON writes it, text without its quotes.

    >>> written(True), written(3), written("Y")
    ('true', '3', 'Y')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


BINARY = Binary()
"""The task of members that are built without one."""
