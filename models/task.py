"""What a target is: yes or no, one of several classes, or a number.

The one place that knows what a label means: how its truth is read, what a link says of it, what a
score costs once the truth is known, and what is said before anything was learned. Truths are
float64 everywhere: 0 or 1, the index of a class, or the number itself; ``nan`` where there is none.
Links are ``(n, members, k)`` with the ``k`` of the task. Nothing here reads a clock.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from models.base import BOOL, F64, I64, State, StateError
from models.links import MAX_LINK, logit, sigmoid, softmax
from models.prior import BinaryPrior, ClassPrior, MeanPrior, Prior

LEAST = 1e-15
"""A probability below it costs no more: one certain error must not rule a mean for ever."""

SHARES = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
    *(0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99),
)
"""Upper bounds of the bins of a histogram of probabilities; one more bin takes the rest."""

_DECADES = [float(f"{d}e{e}") for e in range(-2, 7) for d in (1, 3)]
NUMBERS = (*(-b for b in reversed(_DECADES)), 0.0, *_DECADES)
"""Upper bounds of the bins of a histogram of numbers of any size."""

NAME_LENGTH = 80
"""Characters of a class's name, at most."""

TaskType = Literal["binary", "classes", "number", "ranking"]


class Task(ABC):
    """One kind of target.

    Attributes
    ----------
    type : str
    json : type
        What the JSON value of a label may be.
    k : int
        Columns of a link, and of the output that it stands for.
    known : int
        So many of them, the first ones, say something by now.
    names : tuple of str
        The classes so far; none of other targets.
    low, high : float
        Bounds of a score.
    unit : str
        Of a score, for people.
    bounds : sequence of float
        Upper bounds of the bins of a histogram of scores; one more bin takes the rest.
    score_bins : sequence of float, optional
        Bins in which drift of the scores is looked for; ``None``: the deciles of the first ones.
    silence : float
        The truth of an event without a label at its horizon; ``nan``: it has none.
    alerting, alert_at : int, float
        An event alerts whose output is ``alert_at`` or more in the column ``alerting``.
    """

    type: ClassVar[TaskType]
    json: ClassVar[Any] = bool | int | str
    k: int = 1
    known: int = 1
    names: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    bounds: Sequence[float] = SHARES
    score_bins: Sequence[float] | None = SHARES
    silence: float = math.nan
    alerting: int = 0
    alert_at: float = math.inf

    @property
    def thresholds(self) -> tuple[float, float] | None:
        """What a threshold of alerts lies between; ``None`` where nothing alerts."""
        return 0.0, 1.0

    @property
    @abstractmethod
    def expected(self) -> str:
        """What a truth may be, for an error: ``"a number"``."""

    @property
    def texts(self) -> Sequence[str] | None:
        """Every value that a label may have, as JSON writes it; ``None`` where they are many."""
        return None

    @abstractmethod
    def truth(self, value: bool | float | str) -> float:
        """The truth that a label's value means; ``nan`` for a value that means none.

        ``value`` is what stood in the label: a JSON boolean, number or text.
        """

    def newcomer(self, value: bool | float | str) -> str | None:
        """The class that a value without a :meth:`truth` may enter as; ``None``: as none."""
        return None

    def enter(self, name: str) -> float:
        """The truth of a class of this name, which is one from here on; ``nan`` if none may be."""
        return math.nan

    def catch_up(self) -> tuple[str, ...]:
        """All classes have a probability from here on; those that had none before."""
        return ()

    @abstractmethod
    def named(self, y: float) -> float | str:
        """A truth, or what is predicted, in the words of the target."""

    @abstractmethod
    def output(self, links: F64) -> F64:
        """What links ``(..., k)`` say: probabilities, or the number itself, ``(..., k)``."""

    def heard(self, links: F64) -> F64:
        """Links ``(..., k)`` without those of classes that nobody named yet: ``-inf``."""
        return links

    @abstractmethod
    def link(self, output: F64) -> F64:
        """The links of outputs ``(..., k)``: what :meth:`output` undoes."""

    @abstractmethod
    def predicted(self, output: F64) -> F64:
        """The truth held most likely by outputs ``(..., k)``, as truths are written ``(...)``."""

    @abstractmethod
    def score(self, output: F64) -> F64:
        """What people look at of outputs ``(n, k)``, and what alerts: one number each, ``(n,)``."""

    def alert(self, output: F64, threshold: float) -> BOOL:
        """Which outputs ``(n, k)`` are at or above the threshold in the column that alerts."""
        found: BOOL = output[:, self.alerting] >= threshold
        return found

    def positive(self, y: F64) -> BOOL:
        """Which truths count in windows of risk: yes, or the class that alerts."""
        found: BOOL = y == self.alerting
        return found & math.isfinite(self.alert_at)

    def confidence(self, output: F64, alert: BOOL) -> F64:
        """The probability that outputs ``(n, k)`` give to what was decided; ``nan``: none."""
        return np.full(len(output), np.nan)

    worst: ClassVar[float] = math.inf
    """What one row may cost where two learners are compared: of a probability that of 1e-4 for what
    then happened, for one certain error must not outweigh a day."""

    late_positives: ClassVar[bool] = False
    """Whether silence tells one of two truths and late labels the other, which can be corrected."""

    groups: ClassVar[tuple[str, ...]] = ()
    """Groups of labelled scores that people compare, such as those of either truth."""

    def group(self, output: F64, y: F64) -> I64:
        """The group of each output ``(n, k)`` with this truth."""
        return np.zeros(len(y), np.int64)

    def grouped(self, field: str) -> Sequence[str]:
        """The groups in words; ``field`` is where a label says its truth."""
        return self.groups

    @abstractmethod
    def word(self, y: float) -> str:
        """A truth, for people."""

    @abstractmethod
    def counted(self, y: F64) -> dict[str, Any]:
        """How many truths ``(n,)`` there are of which kind, as plain values by name."""

    @abstractmethod
    def majority(self, links: F64) -> F64:
        """Links ``(n, k)`` of what most of ``m`` members with links ``(n, m, k)`` say."""

    @abstractmethod
    def error(self, output: F64, y: F64) -> F64:
        """What outputs ``(n, m, k)`` are wrong by, 0..1, ``(n, m)``; ``nan`` where none was."""

    @abstractmethod
    def loss(self, output: F64, y: F64, scale: float = 1.0) -> F64:
        """What outputs ``(n, s, k)`` cost given truths ``(n,)``: ``(n, s)``, at least 0.

        ``1 - exp(-loss)`` is the error in ``[0, 1]`` that drift detectors watch. ``scale`` is the
        size of a usual error of a number.
        """

    def examples(self, n: int) -> F64:
        """Truths ``(n,)`` that alternate, to try learners on."""
        return (np.arange(n) % max(self.k, 2)).astype(np.float64)

    @abstractmethod
    def cost(self, links: F64, y: F64) -> F64:
        """The loss that a learner makes small, of links ``(n, k)``: ``(n,)``; not bounded."""

    @abstractmethod
    def prior(self, fixed: float | None = None) -> Prior:
        """A new prior; ``fixed``: what it always says."""

    def state(self) -> State:
        """See :data:`models.base.State`: what labels have changed of the target."""
        return {}

    def restore(self, state: State) -> None:
        """Become the task that gave ``state``; raises :class:`StateError` where it is another."""
        del state


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

    type: ClassVar[TaskType] = "binary"

    def __init__(
        self,
        values: Mapping[str, int] | None = None,
        silence: float = 0.0,
        alert_at: float = 0.5,
    ) -> None:
        self._values = {"true": 1, "false": 0, "1": 1, "0": 0} if values is None else values
        self.silence = silence
        self.alert_at = alert_at

    @property
    def expected(self) -> str:
        """See :attr:`Task.expected`."""
        return f"one of {', '.join(self._values)}"

    @property
    def texts(self) -> Sequence[str]:
        """See :attr:`Task.texts`."""
        return list(self._values)

    def truth(self, value: bool | float | str) -> float:
        """See :meth:`Task.truth`."""
        return float(self._values.get(json_text(value), math.nan))

    def named(self, y: float) -> int:
        """See :meth:`Task.named`."""
        return int(y)

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

    def score(self, output: F64) -> F64:
        """The probability of 1."""
        return output[:, 0]

    def positive(self, y: F64) -> BOOL:
        """See :meth:`Task.positive`."""
        found: BOOL = y == 1.0
        return found

    def confidence(self, output: F64, alert: BOOL) -> F64:
        """See :meth:`Task.confidence`."""
        return np.where(alert, output[:, 0], 1 - output[:, 0])

    worst = -math.log(1e-4)
    late_positives = True
    groups = ("0", "1")

    def group(self, output: F64, y: F64) -> I64:
        """By truth."""
        return y.astype(np.int64)

    def grouped(self, field: str) -> Sequence[str]:
        """The label's field with the first of its values for each truth.

        >>> Binary().grouped("fraud")
        ['fraud = false', 'fraud = true']
        """
        first = {y: text for text, y in reversed(list(self._values.items()))}
        return [f"{field} = {first.get(y, y)}" for y in (0, 1)]

    def word(self, y: float) -> str:
        """See :meth:`Task.word`."""
        return "positive" if y == 1.0 else "negative"

    def counted(self, y: F64) -> dict[str, Any]:
        """``positives``."""
        return {"positives": int(y.sum())}

    def majority(self, links: F64) -> F64:
        """The share of members that say yes at 0.5 or more, as ``(votes + 1/2) / (m + 1)``."""
        return logit(((links >= 0).sum(axis=1) + 0.5) / (links.shape[1] + 1))

    def error(self, output: F64, y: F64) -> F64:
        """``|p - y|``."""
        return np.abs(output[:, :, 0] - y[:, None])

    def loss(self, output: F64, y: F64, scale: float = 1.0) -> F64:
        """The log loss, at most ``-log(1e-15)``."""
        p = output[..., 0]
        right = np.where(y[:, None] > 0, p, 1.0 - p)
        losses: F64 = -np.log(np.maximum(right, LEAST))
        return losses

    def cost(self, links: F64, y: F64) -> F64:
        """The log loss of a logit."""
        z = links[:, 0]
        return np.logaddexp(0.0, np.where(y > 0, -z, z))

    def prior(self, fixed: float | None = None) -> BinaryPrior:
        """The share of positives."""
        return BinaryPrior(fixed)


class Taken(Binary):
    """Whether an item that was shown was taken: what a ranking is right by. It alerts nobody."""

    type = "ranking"

    def __init__(self) -> None:
        super().__init__(alert_at=math.inf)

    @property
    def thresholds(self) -> tuple[float, float] | None:
        """See :attr:`Task.thresholds`."""
        return None


# ------------------------------------------------------------------ one of several classes


class Classes(Task):
    """One of ``k`` classes: a truth is the class's index, links are logits up to a constant.

    With ``most`` classes the task is open: it has as many columns from the start, and a class that
    a label names first takes the next one (:meth:`enter`). Members learn all columns at once; a
    class is :attr:`known`, and has a probability, from :meth:`catch_up` on.

    Parameters
    ----------
    names : sequence of str
        The classes, in the order of their columns; two at least where none can enter.
    values : mapping of text to name
        A label's value, written as JSON text, where it is not the class's name.
    silence, alert : str, optional
        The class of an event without a label, and the one whose probability alerts.
    abstain_below : float
        A class of less probability than this is not said.
    coverage : float
        How often the set of classes told with a score is to hold the truth.
    most : int, optional
        So many classes there may be, those of ``names`` among them.

    >>> task = Classes(["low", "high"])
    >>> task.truth("high"), task.truth("hgih"), task.named(0.0)
    (1.0, nan, 'low')
    >>> task = Classes(["low"], most=2)
    >>> task.enter("high"), task.enter("mid"), task.catch_up()
    (1.0, nan, ('high',))
    """

    type = "classes"

    def __init__(
        self,
        names: Sequence[str],
        values: Mapping[str, str] | None = None,
        silence: str | None = None,
        alert: str | None = None,
        alert_at: float = 0.5,
        abstain_below: float = 0.0,
        coverage: float = 0.9,
        most: int | None = None,
    ) -> None:
        self.names = tuple(names)
        self.known = self._first = len(self.names)
        self.open = most is not None
        self.k = self.known if most is None else most
        self.silence = math.nan if silence is None else float(self.names.index(silence))
        if alert is not None:
            self.alerting, self.alert_at = self.names.index(alert), alert_at
        self.abstain_below = abstain_below
        self.coverage = coverage
        self._values = dict(values or {})
        self._index = {name: float(i) for i, name in enumerate(self.names)}

    @property
    def thresholds(self) -> tuple[float, float] | None:
        """See :attr:`Task.thresholds`."""
        return (0.0, 1.0) if math.isfinite(self.alert_at) else None

    @property
    def expected(self) -> str:
        """See :attr:`Task.expected`."""
        if self.open:
            return f"a class, named by 1..{NAME_LENGTH} characters"
        return f"one of {', '.join(self._texts())}"

    @property
    def texts(self) -> Sequence[str] | None:
        """See :attr:`Task.texts`."""
        return None if self.open else self._texts()

    def _texts(self) -> list[str]:
        return list(dict.fromkeys([*self.names, *self._values]))

    def truth(self, value: bool | float | str) -> float:
        """See :meth:`Task.truth`."""
        text = json_text(value)
        return self._index.get(self._values.get(text, text), math.nan)

    def newcomer(self, value: bool | float | str) -> str | None:
        """See :meth:`Task.newcomer`."""
        text = json_text(value)
        name = self._values.get(text, text)
        return name if self.open and 1 <= len(name) <= NAME_LENGTH else None

    def enter(self, name: str) -> float:
        """See :meth:`Task.enter`: it takes the next column, if one is left."""
        if name not in self._index and len(self.names) < self.k:
            self._index[name] = float(len(self.names))
            self.names += (name,)
        return self._index.get(name, math.nan)

    def catch_up(self) -> tuple[str, ...]:
        """See :meth:`Task.catch_up`."""
        before, self.known = self.known, len(self.names)
        return self.names[before:]

    def named(self, y: float) -> str:
        """See :meth:`Task.named`."""
        return self.names[int(y)]

    def output(self, links: F64) -> F64:
        """The probability of each class; they sum to 1, or to 0 before there is one."""
        return softmax(links)

    def heard(self, links: F64) -> F64:
        """See :meth:`Task.heard`."""
        if self.known == self.k:
            return links
        return np.where(np.arange(self.k) < self.known, links, -np.inf)

    def link(self, output: F64) -> F64:
        """The logarithm, at least :data:`MAX_LINK` below 0."""
        return np.log(np.maximum(output, math.exp(-MAX_LINK)))

    def predicted(self, output: F64) -> F64:
        """The likeliest class, the first of equals; ``nan`` where nothing was said."""
        found: F64 = output.argmax(axis=-1).astype(np.float64)
        return np.where(output.max(axis=-1) > 0, found, np.nan)

    def score(self, output: F64) -> F64:
        """The probability of the class that alerts; without one, of the likeliest."""
        if math.isfinite(self.alert_at):
            return output[:, self.alerting]
        likeliest: F64 = output.max(axis=1)
        return likeliest

    def confidence(self, output: F64, alert: BOOL) -> F64:
        """That of the likeliest class."""
        likeliest: F64 = output.max(axis=1)
        return likeliest

    worst = -math.log(1e-4)
    groups = ("wrong", "right")

    def group(self, output: F64, y: F64) -> I64:
        """By whether the likeliest class was the truth."""
        return (self.predicted(output) == y).astype(np.int64)

    def word(self, y: float) -> str:
        """See :meth:`Task.word`."""
        return self.named(y)

    def counted(self, y: F64) -> dict[str, Any]:
        """``classes``: how many of each."""
        counts = np.bincount(y.astype(np.int64), minlength=len(self.names))
        return {"classes": dict(zip(self.names, counts.tolist(), strict=True))}

    def majority(self, links: F64) -> F64:
        """The share of members whose likeliest class it is, as ``(votes + 1/k) / (m + 1)``.

        ``k``: the classes known.
        """
        votes = np.arange(self.k) == links.argmax(axis=2)[:, :, None]
        return self.link((votes.sum(axis=1) + 1 / max(self.known, 1)) / (links.shape[1] + 1))

    def error(self, output: F64, y: F64) -> F64:
        """``1 - p`` of the true class."""
        return 1 - _of_truth(output, y)

    def loss(self, output: F64, y: F64, scale: float = 1.0) -> F64:
        """The log loss, at most ``-log(1e-15)``."""
        losses: F64 = -np.log(np.maximum(_of_truth(output, y), LEAST))
        return losses

    def cost(self, links: F64, y: F64) -> F64:
        """The log loss."""
        right = np.take_along_axis(links, y.astype(np.int64)[:, None], axis=1)[:, 0]
        losses: F64 = np.logaddexp.reduce(links, axis=1) - right
        return losses

    def prior(self, fixed: float | None = None) -> ClassPrior:
        """The share of each class."""
        return ClassPrior(self.k, lambda: self.known)

    def examples(self, n: int) -> F64:
        """See :meth:`Task.examples`; to an open task classes enter for it."""
        while self.open and len(self.names) < min(self.k, 3):
            self.enter(f"class {len(self.names) + 1}")
        return (np.arange(n) % len(self.names)).astype(np.float64)

    def state(self) -> State:
        """The classes, if others may enter."""
        return {"classes": list(self.names)} if self.open else {}

    def restore(self, state: State) -> None:
        """See :meth:`Task.restore`."""
        if not self.open:
            return
        got = state.get("classes")
        names = tuple(name for name in got or () if isinstance(name, str))
        if list(names) != got or len(set(names)) < len(names) or len(names) > self.k:
            raise StateError(f"classes: expected up to {self.k} different names, got {got!r:.200}")
        if names[: self._first] != (first := self.names[: self._first]):
            raise StateError(f"classes: expected {list(first)} first, got {got!r:.200}")
        self.names = names
        self._index = {name: float(i) for i, name in enumerate(self.names)}
        self.known = len(self.names)


def _of_truth(output: F64, y: F64) -> F64:
    """The probability of the true class in outputs ``(n, s, k)``, ``(n, s)``."""
    return np.take_along_axis(output, y.astype(np.int64)[:, None, None], axis=2)[..., 0]


# ------------------------------------------------------------------ a number


class Number(Task):
    """A number: a link is the number itself.

    Parameters
    ----------
    low, high : float
        Bounds that a truth must lie within; a label beyond them is an error.
    unit : str
        Of the number, for people.
    silence : float
        The number of an event without a label; ``nan``: it has none.
    alert_at : float
        A number at or above it alerts.
    coverage : float
        How often the interval told with a score is to hold the truth.
    quantiles : sequence of float
        Of each the pinball loss is told with the quality.

    >>> Number(low=0.0).truth(12.5), Number(low=0.0).truth(-1)
    (12.5, nan)
    """

    type = "number"
    json = float | str
    score_bins = None

    def __init__(
        self,
        low: float = -math.inf,
        high: float = math.inf,
        unit: str = "",
        silence: float = math.nan,
        alert_at: float = math.inf,
        coverage: float = 0.9,
        quantiles: Sequence[float] = (),
    ) -> None:
        self.quantiles = tuple(quantiles)
        self.low, self.high, self.unit = low, high, unit
        self.coverage = coverage
        whole = math.isfinite(low) and math.isfinite(high)
        self.bounds = tuple(np.linspace(low, high, 21)[1:-1].tolist()) if whole else NUMBERS
        self.silence = silence
        self.alert_at = alert_at

    @property
    def thresholds(self) -> tuple[float, float]:
        """See :attr:`Task.thresholds`."""
        return -math.inf, math.inf

    @property
    def expected(self) -> str:
        """See :attr:`Task.expected`."""
        of = f" of {self.unit}" if self.unit else ""
        if math.isinf(self.low) and math.isinf(self.high):
            return f"a number{of}"
        return f"a number{of} in {self.low:g}..{self.high:g}"

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
        return output[..., 0]

    def score(self, output: F64) -> F64:
        """The number."""
        return output[:, 0]

    def word(self, y: float) -> str:
        """See :meth:`Task.word`."""
        return f"{y:g} {self.unit}".rstrip()

    def counted(self, y: F64) -> dict[str, Any]:
        """``truths``: their mean and quantiles; none without any."""
        if not len(y):
            return {}
        quantiles = {f"p{q}": float(np.quantile(y, q / 100)) for q in (5, 50, 95)}
        return {"truths": {"mean": float(y.mean())} | quantiles}

    def majority(self, links: F64) -> F64:
        """The median: as many members say more as say less."""
        return np.median(links, axis=1)

    def error(self, output: F64, y: F64) -> F64:
        """``d / (d + s)`` of the distance ``d``, where ``s`` is the members' mean one."""
        away = np.abs(output[:, :, 0] - y[:, None])
        made = ~np.isnan(away)
        total = np.where(made, away, 0.0).sum(axis=1, keepdims=True)
        usual = total / np.maximum(made.sum(axis=1, keepdims=True), 1)
        # Where all are right at once nobody errs.
        return away / np.where(usual > 0, away + usual, 1.0)

    def loss(self, output: F64, y: F64, scale: float = 1.0) -> F64:
        """``log(1 + |error| / scale)``: the error that drift detectors see is in [0, 1] then."""
        losses: F64 = np.log1p(np.abs(output[..., 0] - y[:, None]) / max(scale, 1e-300))
        return losses

    def examples(self, n: int) -> F64:
        """Four numbers within the bounds."""
        low = self.low if math.isfinite(self.low) else min(0.0, self.high - 1.0)
        high = self.high if math.isfinite(self.high) else max(low + 1.0, 1.0)
        return low + (high - low) * (np.arange(n) % 4) / 3

    def cost(self, links: F64, y: F64) -> F64:
        """The squared error."""
        return np.square(links[:, 0] - y)

    def prior(self, fixed: float | None = None) -> MeanPrior:
        """The mean."""
        return MeanPrior(fixed)


def json_text(value: object) -> str:
    """A JSON value as the keys of ``values`` write it: ``true``, ``1``, text as it stands.

    >>> json_text(True), json_text(3), json_text("Y")
    ('true', '3', 'Y')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


BINARY = Binary()
"""The task of members that are built without one."""
