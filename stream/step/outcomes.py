"""What becomes of rows that were scored: told, looked at, over; each is judged, then learned.

Between the store in which they wait and what learns: when, says ``maturity.py``; how, ``learn.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64
from models.ensemble.ensemble import Ensemble
from monitoring.drift.monitor import Alarm
from monitoring.quality.tasks import Judge
from stream.step.join import Labelled, Left
from stream.step.learn import Learning
from stream.step.maturity import Maturity, Part
from stream.step.pending.store import Pending
from stream.step.tallies import Tallies

Settle = Callable[[I64, F64], I64]
"""Settles rows with their labels in the pending store; gives those that are learned now."""


class Outcomes:
    """Takes rows of one ensemble through their truths.

    Parameters
    ----------
    pending : Pending
    ensemble : Ensemble
    learning : Learning
    maturity : Maturity
    tallies : Tallies
    matured : Judge
        Quality of whole cohorts: what is past its horizon.

    Attributes
    ----------
    learning : Learning
        What judges and teaches; whoever watches that stands in its place.
    """

    def __init__(
        self,
        pending: Pending,
        ensemble: Ensemble,
        learning: Learning,
        maturity: Maturity,
        tallies: Tallies,
        matured: Judge,
    ) -> None:
        self._pending = pending
        self._ensemble = ensemble
        self._task = ensemble.task
        self.learning = learning
        self._maturity = maturity
        self._tallies = tallies
        self._matured = matured

    @property
    def _prior(self) -> float:
        """What the parts of a label that comes late take for the score of a cold event."""
        return float(self._ensemble.prior.output()[0])

    def labelled(self, found: Labelled, settle: Settle, watermark_ms: int) -> list[Alarm]:
        """The truth of events came: windows of risk take it, and what is mature is learned."""
        numbers, rows, y, at_ms = found
        delay_s = (at_ms - rows["event_time_ms"]) / 1000
        self._tallies.labelled(self._task.output(rows["score"]), y, delay_s)
        self.learning.told(rows, y)
        ripe = settle(numbers, y)
        if not len(ripe):
            return []
        pending = self._pending
        taken = rows if np.array_equal(ripe, numbers) else pending.take(ripe)
        return self._ripe(ripe, taken, pending.truth(ripe), pending.early(ripe), watermark_ms)

    def looked(self, watermark_ms: int) -> None:
        """Learn of the events that have come to their look."""
        self._learn(self._maturity.look(watermark_ms, self._prior), watermark_ms)

    def left(self, left: Left, numbers: I64, watermark_ms: int) -> list[Alarm]:
        """Events left the pending store: judge cohorts, learn what has waited until now.

        By configuration silence is learned as a truth. An event that made room for others before
        its horizon teaches nothing: only who was told would be learned. ``numbers`` are the rows'.
        """
        if not len(left.rows):
            return []
        alarms: list[Alarm] = []
        y = left.y.copy()
        if left.over:
            y[np.isnan(y)] = self._task.silence
            self._maturity.matured(numbers, y, left.early)
        final = ~np.isnan(y)
        ripe = final & ~left.learned & left.over
        if ripe.any():
            waited = numbers[ripe], left.rows[ripe], y[ripe], left.early[ripe]
            alarms = self._ripe(*waited, watermark_ms)
        if final.any():
            rows = left.rows[final]
            output, said = self.learning.made(rows)
            self._matured.update(output, y[final], rows["alert"], said)
        return alarms

    def _ripe(
        self, numbers: I64, rows: NDArray[Any], y: F64, early: BOOL, watermark_ms: int
    ) -> list[Alarm]:
        """Judge rows whose truth is settled, and learn what is left to learn of them."""
        alarms = self.learning.judge(numbers, rows, y, watermark_ms)
        self._learn(self._maturity.rest(numbers, rows, y, early, self._prior), watermark_ms)
        return alarms

    def _learn(self, part: Part, watermark_ms: int) -> None:
        if len(part.rows):
            at_once = self._maturity.at_once
            self.learning.learn(*part[:3], watermark_ms, not at_once, part.numbers)
