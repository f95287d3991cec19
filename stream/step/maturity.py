"""When the label of an event is learned, by ``label.learning``: as it comes, or once it is mature.

Positives are told after their delay; where nobody tells negatives, silence does, a horizon after
the event. Learned as they come, labels are positives alone for a horizon, and positives of another
time than the negatives from then on; ``docs/labels.md`` says what that costs. The engine asks here
for every label that joins its event. Decisions follow from the order of the records alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, State
from models.links import sigmoid
from models.task import Task
from stream.settings.schema import LabelSettings
from stream.step.pending.store import Pending

SILENT = 2
"""So many silent events for each negative told end learning as labels come. One would let it begin
and end with every label where both are as many."""

LOOK = 0.4
"""An event is looked at once so much of its horizon is over. What is known early is worth the share
that is told by then times the time gained: most at a half of the horizon where delays are even up
to it, earlier where most are short; here it is within a tenth of the most for both."""

KNOWN, MEMORY = 30, 1000
"""The share of positives told by the look is known once so many matured, and is that of about the
last so many."""

CATCH_UP = 8
"""So many looks at most are learned at a time: once the share is known, those of two thirds of a
horizon have waited for it."""

MOST = 10.0
"""No part weighs more: one positive that came late where it was least expected must not rule."""

_UNKNOWN, _NEVER = 0.0, -1.0
"""In place of a share: rows that wait for it, and rows that were not looked at."""


class Part(NamedTuple):
    """Rows with what is learned of them: truths of the task, weights above 0."""

    rows: NDArray[Any]  # (n,) of the store's dtype, as they were scored
    y: F64
    w: F64
    numbers: I64  # the rows' in the pending store


class Maturity:
    """Decides which of one engine's labelled events are learned now, and with which weight.

    ``arrival``: each as its label comes. ``mature``: each at its horizon, in the order of scoring.
    ``corrected``: each in two parts, at its look and at its horizon. ``auto``: as its label comes
    while negatives are told, ``corrected`` while silence tells them (``mature`` for classes and
    numbers of which silence tells one). Told they are once there are
    any, and at least as many as events without a label, up to the newest event with one; no longer
    where those are :data:`SILENT` times as many.

    An event of probability ``p``, whose label is told by the look with probability ``F`` if it is
    positive, is silent then with probability ``1 - pF``. The two parts are the terms of the
    likelihood of what is heard by the look, and after it given that [1]_: by the logit their
    gradients are those of a row with a truth and a weight,

    ================  ======================  ============================
    what is heard     at the look             at the horizon
    ================  ======================  ============================
    told by the look  its label, 1            nothing
    positive later    0, F(1 - p) / (1 - pF)  1, 1 / (1 - pF)
    no positive       0, F(1 - p) / (1 - pF)  0, (1 - F) / (1 - pF)
    ================  ======================  ============================

    Both parts of an event sum to the gradient of its truth, whatever ``F`` is; with the right one
    each is unbiased by itself. ``p`` is the score as made, or the prior where that was cold. ``F``
    is counted on what has matured; until it is known, the parts of the look wait for it, as they
    were then.

    Parameters
    ----------
    settings : LabelSettings
    task : Task
    pending : Pending

    Attributes
    ----------
    at_once : bool
        Whether labels are learned as they come now.

    References
    ----------
    .. [1] The delayed feedback model's likelihood, O. Chapelle, "Modeling delayed feedback in
       display advertising", KDD 2014, cut at one elapsed time and with a counted share in place of
       a second model.
    """

    def __init__(self, settings: LabelSettings, task: Task, pending: Pending) -> None:
        self._pending = pending
        # Where silence tells nothing, or labels come in the events, there is nothing to wait for.
        told = settings.inline or math.isnan(task.silence)
        auto = settings.learning == "auto"
        # Parts need a truth that silence tells, and one other that comes late.
        self._auto = auto and not told and task.late_positives
        self.at_once = settings.learning == "arrival" or (auto and told)
        self._looks = self._auto or settings.learning == "corrected"
        self._age_ms = int(settings.horizon * LOOK)
        self._share = 0.0
        self._counted = 1  # with a late positive that never was: the share stays below 1
        # Rows before ends[i], from ends[i - 1] on, were looked at while the share was shares[i].
        self._ends = np.zeros(0, np.int64)
        self._shares = np.zeros(0)

    @property
    def looking(self) -> bool:
        """Whether events are looked at before their horizon, now."""
        return self._looks and not self.at_once

    def labelled(self, rows: I64, y: F64) -> I64:
        """Settle rows that get their labels in this order; those to learn now, in order."""
        if not self._auto:
            self._pending.settle(rows, y)
            return self._learned(rows if self.at_once else rows[:0])
        told, silent = self._told(rows, y)
        self._pending.settle(rows, y)
        start, parts = 0, [rows[:0]]
        while start < len(rows):
            # One negative at least: the first event may be positive, with none before it.
            begins = told >= np.maximum(silent, 1)
            turned = silent > SILENT * told if self.at_once else begins
            turns = np.flatnonzero(turned[start:])
            at = start + int(turns[0]) if len(turns) else len(rows)
            if self.at_once and at > start:
                parts.append(self._learned(rows[start:at]))
            start = at
            if at < len(rows):
                self.at_once = not self.at_once
                if self.at_once:
                    # All that waited, with the label that decided it, in the order of scoring.
                    known = np.setdiff1d(self._pending.unlearned(), rows[at + 1 :])
                    parts.append(self._learned(known))
                    # What they were at their look is no part any more: they were learned whole.
                    self._shares[self._shares == _UNKNOWN] = _NEVER
                    start = at + 1
                else:
                    self._looked(self._pending.tail, _NEVER)
        return np.concatenate(parts)

    def _told(self, rows: I64, y: F64) -> tuple[I64, I64]:
        """Of the events held, after each label: negatives told, and silent ones.

        Silent are those without a label up to the newest with one; int64 ``(n,)`` each.
        """
        pending = self._pending
        newest = np.maximum(np.maximum.accumulate(rows), pending.newest)
        labelled = len(pending) - pending.waiting + 1 + np.arange(len(rows))
        return pending.told + np.cumsum(y == 0), newest + 1 - pending.head - labelled

    def _learned(self, rows: I64) -> I64:
        self._pending.learned(rows)
        return rows

    # ------------------------------------------------------------------ in two parts

    def look(self, watermark_ms: int, prior: float) -> Part:
        """What is to be learned of the events that have come to their look, in order.

        ``prior``: the probability of a positive where the score as made was cold.
        """
        # 1. Note what is known of those that have come to it.
        pending = self._pending
        first = max(int(self._ends[-1]) if len(self._ends) else 0, pending.head)
        rows = first + np.arange(pending.due(watermark_ms - self._age_ms, first), dtype=np.int64)
        pending.looked(rows[~np.isnan(pending.truth(rows))])
        self._looked(first + len(rows), _UNKNOWN)
        # 2. Learn the oldest that have waited for the share; most often these rows alone.
        waiting = np.flatnonzero(self._shares == _UNKNOWN)[:CATCH_UP]
        rows = rows[:0]
        if len(waiting) and self._counted > KNOWN and self._share > 0.0:
            begin = self._ends[waiting[0] - 1] if waiting[0] else 0
            rows = np.arange(max(begin, pending.head), self._ends[waiting[-1]], dtype=np.int64)
            rows = rows[self._share_at(rows) == _UNKNOWN]
            self._shares[waiting] = self._share
        taken, early = pending.take(rows), pending.early(rows)
        p, share = _probability(taken, prior), self._share
        w = np.where(early, 1.0, share * (1.0 - p) / (1.0 - p * share))
        return Part(taken, (early & (pending.truth(rows) == 1)).astype(np.float64), w, rows)

    def rest(self, numbers: I64, rows: NDArray[Any], y: F64, early: BOOL, prior: float) -> Part:
        """What is left to learn of rows that have their labels, in order; ``early``: by the look.

        All of it where they were not looked at. ``prior`` as in :meth:`look`.
        """
        share = np.maximum(self._share_at(numbers), 0.0)
        if not share.any():
            return Part(rows, y, np.ones(len(rows)), numbers)
        silent = 1.0 - _probability(rows, prior) * share
        w = np.minimum(np.where(y == 1, 1.0, 1.0 - share) / silent, MOST)
        left = ~(early & (share > 0.0))
        return Part(rows[left], y[left], w[left], numbers[left])

    def half_learned(self, numbers: I64) -> bool:
        """Whether the label of any of these rows was learned at its look, as all of its truth."""
        return bool((self._pending.early(numbers) & (self._share_at(numbers) > 0.0)).any())

    def matured(self, numbers: I64, y: F64, early: BOOL) -> None:
        """Count which positives among these rows, past their horizon, were told by the look."""
        counts = (y == 1) & (self._share_at(numbers) != _NEVER)
        for hit in early[counts].tolist():
            self._counted = min(self._counted + 1, MEMORY)
            self._share += (hit - self._share) / self._counted

    def moving(self, numbers: I64) -> tuple[F64, BOOL]:
        """The share when each row was looked at, and whether it came to its look already."""
        return self._share_at(numbers), numbers < (self._ends[-1] if len(self._ends) else 0)

    def moved_in(self, shares: F64, looked: BOOL) -> None:
        """Take over of another engine, whose rows these are now, what :meth:`moving` tells.

        A row that was not looked at, before one that was, is learned whole at its horizon.
        """
        n = int(np.flatnonzero(looked)[-1]) + 1 if looked.any() else 0
        shares = np.where(looked, shares, _NEVER)[:n]
        last = np.flatnonzero(np.append(shares[1:] != shares[:-1], n > 0))
        self._ends, self._shares = last + 1 + self._pending.head, shares[last]

    def _looked(self, end: int, share: float) -> None:
        """Note the share for the rows up to ``end`` that have none; forget rows that are gone."""
        if len(self._ends) and end <= self._ends[-1]:
            return
        held = self._ends > self._pending.head
        self._ends = np.append(self._ends[held], end)
        self._shares = np.append(self._shares[held], share)

    def _share_at(self, numbers: I64) -> F64:
        """The share when each row was looked at."""
        at = np.searchsorted(self._ends, numbers, side="right")
        return np.append(self._shares, _NEVER)[at]

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {
            "at_once": self.at_once,
            "looking": self.looking,
            "share": self._share,
            "counted": self._counted,
            "ends": self._ends.copy(),
            "shares": self._shares.copy(),
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`; what is configured stays."""
        if self._auto:
            self.at_once = bool(state["at_once"])
        self._share, self._counted = float(state["share"]), int(state["counted"])
        self._ends = np.array(state["ends"], np.int64)
        self._shares = np.array(state["shares"], np.float64)
        if self.looking and not state["looking"]:
            self._looked(self._pending.tail, _NEVER)


def _probability(rows: NDArray[Any], prior: float) -> F64:
    """The scores as made; what was cold knew nothing, and may have said 0.5."""
    return np.where(rows["cold"], prior, sigmoid(rows["score"][:, 0]))
