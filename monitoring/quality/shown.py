"""What is shown of a catalogue: how much of it, and how much of what is shown is the same.

A ring of the items that stood in the newest lists. Nothing here knows users or scores.
"""

from __future__ import annotations

import numpy as np

from models.base import BOOL, U64, State, StateError, state_digest

MOST = 10
"""So many of the most shown items are told apart from the others."""


class Shown:
    """The newest places of lists.

    Parameters
    ----------
    window : int
        Places that are remembered.

    >>> shown = Shown(4)
    >>> shown.update(np.array([1, 2, 2, 3, 3], np.uint64))
    >>> shown.items().tolist()
    [2, 3]
    >>> shown.top(1)
    0.5
    """

    def __init__(self, window: int = 10_000) -> None:
        self._places = np.zeros(window, np.uint64)
        self._seen = 0

    def update(self, items: U64) -> None:
        """These were shown, in order."""
        window = len(self._places)
        last = items[-window:]
        first = self._seen + len(items) - len(last)
        self._places[(first + np.arange(len(last))) % window] = last
        self._seen += len(items)

    def _kept(self) -> U64:
        return self._places[: min(self._seen, len(self._places))]

    def items(self) -> U64:
        """Each item that was shown, once, in the order of their numbers."""
        return np.unique(self._kept())

    def coverage(self, known: BOOL, items: int) -> float:
        """Share of ``items`` items that was shown; ``known``: those of :meth:`items` among them.

        ``nan`` before the first list.
        """
        return int(known.sum()) / items if len(known) and items else float("nan")

    def top(self, most: int = MOST) -> float:
        """Share of the places that the ``most`` most shown items had; ``nan`` before the first."""
        counts = np.sort(np.unique(self._kept(), return_counts=True)[1])
        return float(counts[-most:].sum() / counts.sum()) if len(counts) else float("nan")

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`."""
        return {"places": self._places.copy(), "seen": self._seen}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`."""
        if len(state["places"]) != len(self._places):
            raise StateError(
                f"shown.places: expected {len(self._places)}, got {len(state['places'])}"
            )
        self._places[:] = state["places"]
        self._seen = int(state["seen"])

    def digest(self) -> str:
        """See :meth:`models.base.Learner.digest`."""
        return state_digest(self.state())
