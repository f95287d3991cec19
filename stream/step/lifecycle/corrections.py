"""Labels that were wrong: what a later label, or a command, puts right at once, and who is stale.

At once: the truth of what still waits, the windows of risk, the counts of quality since the start,
and the history, whose rows stay as they were learned and are read as they should have been. What
cannot be put right by taking something back stays, and is told in ``docs/labels.md``: members above
all. Which of them have learned what was wrong is known here. Part of the engine's state: no clock,
no I/O.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, U64, State
from models.features.stage import FeatureStage
from models.task import Task
from monitoring.audit.auditor import Auditor
from monitoring.quality.tasks import Judge
from stream.step.learn import Learning
from stream.step.lifecycle.history import History, Place
from stream.step.maturity import Maturity
from stream.step.pending.store import Pending


class NotHeld(ValueError):
    """There is nothing to put right: the event, or what was learned of it, is not held."""


class _Event(NamedTuple):
    """What is held of an event: its number in the pending store, or -1; its rows of the history."""

    number: I64  # (1,)
    places: list[Place]
    rows: NDArray[np.void]  # (1,) of the pending store's dtype
    y: F64  # (1,): its truth until now
    judged: bool


class Corrections:
    """Puts right what wrong labels did to one engine; ``counts`` are the engine's.

    Attributes
    ----------
    newest : int
        The last step that corrected what was learned; 0: none has.
    """

    def __init__(
        self,
        pending: Pending,
        history: History,
        maturity: Maturity,
        features: FeatureStage,
        learning: Learning,
        quality: Judge,
        matured: Judge,
        auditor: Auditor,
        counts: Counter[str],
        task: Task,
    ) -> None:
        self.newest = 0
        self._pending = pending
        self._history = history
        self._maturity = maturity
        self._features = features
        self._learning = learning
        self._quality = quality
        self._matured = matured
        self._auditor = auditor
        self._counts = counts
        self._task = task
        self._wanted = np.zeros(0, np.uint64)
        self._places: dict[int, list[Place]] = {}
        self._seen = Place(-1, 0)

    def look_for(self, ids: U64) -> None:
        """These are the hashed ids of events that are going to be corrected: found in one pass."""
        self._wanted, self._places, self._seen = ids, {}, Place(-1, 0)

    def correct(self, id_hash: int, y: float) -> tuple[float, bool]:
        """The truth of an event is ``y``, and ``nan``: nobody knows it.

        Gives the truth until now, and whether members have learned that; where it is ``y`` already,
        nothing changes. Raises :class:`NotHeld`.
        """
        number = self._pending.find(np.array([id_hash], np.uint64))
        if number[0] >= 0 and self._pending.truth(number)[0] == y:
            return y, False
        event = self._event(id_hash, number)
        before = float(event.y[0])
        if before == y:
            return y, False
        truth = np.array([y])
        if event.number[0] >= 0:
            self._pending.correct(event.number, truth)
        if event.places:
            self.newest = self._auditor.step
            self._history.correct(event.places, y, self.newest)
        self._mark(event.rows, event.y, -1)
        self._mark(event.rows, truth, 1)
        made, said = self._learning.made(event.rows)
        outcome = made, event.y, truth, event.rows["alert"], said
        if event.judged:
            self._quality.correct(*outcome)
        if event.number[0] < 0:
            self._matured.correct(*outcome)
        self._counts["labels.retracted" if np.isnan(y) else "labels.corrected"] += 1
        return before, bool(event.places)

    def _event(self, id_hash: int, number: I64) -> _Event:
        """What is held of it, if that is enough to put it right; ``number`` as in the store."""
        pending, held = self._pending, number[0] >= 0
        if held and np.isnan(pending.truth(number)[0]):
            raise NotHeld("expected an event with a label: it has none, or that was retracted")
        places = self._live(id_hash)
        judged = not held or bool(pending.was_learned(number)[0])
        if not places and (judged or (held and self._maturity.half_learned(number))):
            raise NotHeld(
                "expected an event that waits for its label, or one of what was learned: it is"
                " neither, or history.keep and history.disk were too short for it"
            )
        if held:
            return _Event(number, places, pending.take(number), pending.truth(number), judged)
        learned = self._history.row(places[-1])
        rows = pending.carried(learned.rows, learned.members)
        return _Event(number, places, rows, learned.y, judged)

    def _live(self, id_hash: int) -> list[Place]:
        """The rows of the event that were learned and not retracted, oldest first."""
        history = self._history
        if id_hash not in self._wanted:
            self.look_for(np.array([id_hash], np.uint64))
        for event, places in history.places(self._wanted, self._seen).items():
            self._places.setdefault(event, []).extend(places)
        self._seen = history.end
        found = [p for p in self._places.get(id_hash, []) if p in history]
        return [place for place in found if not np.isnan(history.row(place).y[0])]

    def _mark(self, rows: NDArray[np.void], y: F64, delta: int) -> None:
        """Windows of risk know a positive, or do not any more."""
        if self._task.positive(y)[0]:
            self._features.label(
                np.ascontiguousarray(rows["keys"]),
                np.ascontiguousarray(rows["event_time_ms"]),
                np.array([delta], np.int8),
            )

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"newest": self.newest}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        self.newest = int(state["newest"])
