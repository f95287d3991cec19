"""What an evaluation found: scores beside truths, the course of the run, drift alarms."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from models.base import BOOL, F64, I64
from models.task import Task


class Judged(NamedTuple):
    """The events whose truth is known, in the order in which they were scored."""

    time_ms: I64  # (n,)
    y: F64  # (n,): truths of the task
    output: F64  # (n, 1 + m, k): the ensemble's first; nan where a member was out
    alert: BOOL  # (n,)
    task: Task
    said: NDArray[Any] | None = None  # (n, 2) intervals or (n, k) sets, as they were promised

    @property
    def p(self) -> F64:
        """Of yes or no the probabilities, of a number the number, ``(n, 1 + m)``."""
        return self.output[:, :, 0]


class Sample(NamedTuple):
    """Where the run stood at one moment."""

    time_ms: int
    weights: tuple[float, ...]
    events: int
    seconds: float


class AlarmMark(NamedTuple):
    """An alarm of a drift detector, as it went on the audit trail; ``at`` is the step's clock."""

    at: int
    cause: str
    model: str
