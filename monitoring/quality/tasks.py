"""What is measured of each kind of target: the one table from a task to its quality.

Who builds an engine asks :func:`quality_of`; who shows figures asks :data:`METRICS` for their names
and order, and who has whole arrays asks :func:`measured`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from models.base import BOOL, F64, State
from models.task import Classes, Number, Task, TaskType
from monitoring.quality import classes, measures, numbers, ranks
from monitoring.quality.classes import ClassQuality
from monitoring.quality.numbers import NumberQuality
from monitoring.quality.quality import Figures, Quality

METRICS: Mapping[TaskType, tuple[str, ...]] = {
    "binary": measures.METRICS,
    "classes": classes.METRICS,
    "number": numbers.METRICS,
    "ranking": ranks.METRICS,
}
"""The quality metrics of each kind of target, in the order in which they are shown."""


class Snapshot(Protocol):
    """What a quality held at one moment."""

    @property
    def names(self) -> tuple[str, ...]:
        """The ensemble, then the members."""

    def report(self) -> Figures:
        """Every metric of every window."""

    def fading(self, name: str) -> dict[str, float]:
        """Every metric of one window of one scorer; of the ensemble where none has the name."""

    def outcomes(self) -> dict[str, int]:
        """How many events were judged since the start, by what came of them."""

    def precision_at_budget(self, budget: float) -> dict[str, float]:
        """Each scorer's precision among as many of its highest scores as may alert, if it has."""


class Kept(Protocol):
    """Quality of what was said, as any engine keeps it."""

    def snapshot(self) -> Snapshot:
        """A copy that another thread may keep and read."""

    def report(self) -> Figures:
        """Every metric of every window."""


class Judge(Kept, Protocol):
    """Prequential quality of the ensemble and its members."""

    def update(self, output: F64, y: F64, alert: BOOL, said: NDArray[Any] | None = None) -> None:
        """Take ``n`` outcomes: outputs ``(n, 1 + m, k)``, truths, alerts, and what was promised."""

    def correct(
        self, output: F64, y: F64, instead: F64, alert: BOOL, said: NDArray[Any] | None = None
    ) -> None:
        """Of ``n`` outcomes that were taken with truths ``y`` these are others; ``nan``: none.

        The window ``all`` becomes what it would be: counts exactly, sums but for rounding, and the
        pairs of neighbours stay as they were. The other windows stay.
        """

    def set_threshold(self, threshold: float) -> None:
        """What alerts from here on."""

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these names; the others start new."""

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`."""


def quality_of(task: Task, names: Sequence[str]) -> Judge:
    """The quality of a task's scorers, the ensemble's first."""
    if isinstance(task, Classes):
        return ClassQuality(names, task)
    if isinstance(task, Number):
        return NumberQuality(names, task, quantiles=task.quantiles)
    return Quality(names, task.alert_at)


def measured(
    task: Task, output: F64, y: F64, alert: BOOL, said: NDArray[Any] | None = None
) -> dict[str, float]:
    """The metrics of one scorer over whole arrays: outputs ``(n, k)``, truths, alerts, promises."""
    if task.type == "binary":
        return measures.measure(output[:, 0], y, alert)
    if task.type == "classes":
        return classes.measure(output, y, said)
    quantiles = task.quantiles if isinstance(task, Number) else ()
    return numbers.measure(output, y, said, quantiles)
