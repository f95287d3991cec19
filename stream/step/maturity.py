"""When the label of an event is learned, by ``label.learning``: as it comes, or once it is mature.

Positives are told after their delay; where nobody tells negatives, silence does, a horizon after
the event. Learned as they come, labels are positives alone for a horizon, and positives of another
time than the negatives from then on; ``docs/labels.md`` says what that costs. The engine asks here
for every label that joins its event. Decisions follow from the order of the records alone.
"""

from __future__ import annotations

import numpy as np

from models.base import I64, State
from stream.settings.schema import LabelSettings
from stream.step.pending import I8, Pending

SILENT = 2
"""So many silent events for each negative told end learning as labels come. One would let it begin
and end with every label where both are as many."""


class Maturity:
    """Decides which of one engine's labelled events are learned now.

    ``arrival``: each as its label comes. ``mature``: each at its horizon, in the order of scoring.
    ``auto``: as its label comes while negatives are told, at its horizon while silence tells them.
    Told they are once there are any, and at least as many as events without a label, up to the
    newest event with one; no longer where those are :data:`SILENT` times as many. ``corrected``
    learns by :meth:`unheard`, and the ensemble's combiner at the horizon.

    Parameters
    ----------
    settings : LabelSettings
    pending : Pending

    Attributes
    ----------
    corrected : bool
    at_once : bool
        Whether labels are learned as they come now.
    """

    def __init__(self, settings: LabelSettings, pending: Pending) -> None:
        self.corrected = settings.learning == "corrected"
        self._pending = pending
        # Where silence tells nothing, or labels come in the events, there is nothing to wait for.
        told = settings.inline or settings.at_horizon == "drop"
        self._auto = settings.learning == "auto" and not told
        self.at_once = settings.learning == "arrival" or (settings.learning == "auto" and told)
        self._heard = 0  # corrected: rows before this one have been learned as 0

    def joined(self, rows: I64, y: I8) -> I64:
        """Settle rows whose labels came with or before them; those to learn now, in order."""
        self._pending.settle(rows, y)
        return self._learned(rows if self.at_once else rows[:0])

    def labelled(self, rows: I64, y: I8) -> I64:
        """Settle rows that get their labels in this order; those to learn now, in order."""
        if not self._auto:
            return self.joined(rows, y)
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
                    start = at + 1
        return np.concatenate(parts)

    def _told(self, rows: I64, y: I8) -> tuple[I64, I64]:
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

    def unheard(self) -> I64:
        """The rows scored since the last call: ``corrected`` learns them before anybody is heard.

        Members learn each as 0, weighted by the probability that it is one by the score as made,
        and as 1 once its label says so: the fake negative weighted loss, whose expectation is that
        of the truth for a score that is right [1]_.

        .. [1] S. Ktena et al., "Addressing delayed feedback for continuous training with neural
           networks in CTR prediction", RecSys 2019, section 4.2.
        """
        rows = np.arange(max(self._heard, self._pending.head), self._pending.tail, dtype=np.int64)
        self._heard = self._pending.tail
        return rows

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        heard = self._heard if self.corrected else self._pending.tail
        return {"at_once": self.at_once, "heard": heard}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`; what is configured stays."""
        if self._auto:
            self.at_once = bool(state["at_once"])
        self._heard = int(state["heard"])
