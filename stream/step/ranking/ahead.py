"""What users did that the learner has not answered yet: it counts for them at once."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from models.base import U64, State, StateError

MOST = 1 << 20
"""Deeds that are kept; without a learner the oldest go."""


class Late(NamedTuple):
    """Of one user: what he took, oldest first, and else has seen; ``gone``: he was deleted before
    that, and nothing else is known of him."""

    took: U64
    seen: U64
    gone: bool


NOTHING = Late(np.zeros(0, np.uint64), np.zeros(0, np.uint64), False)
TOOK, SEEN, GONE, OTHER = range(4)
"""What was done: an item taken, or seen without that; the user deleted; something else."""


class Ahead:
    """Deeds that were handed over, numbered in their order.

    Parameters
    ----------
    handed : int
        The number before the first.

    Attributes
    ----------
    handed : int
        The number of the newest.
    """

    def __init__(self, handed: int = 0) -> None:
        self.handed = handed
        self._deeds: deque[tuple[int, int, int]] = deque()  # kind, user, item
        self._of: dict[int, deque[tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self._deeds)

    def add(self, kind: int, user: int = 0, item: int = 0) -> None:
        """A deed was handed over; 0 is nobody."""
        self.handed += 1
        self._deeds.append((kind, user, item))
        if kind != OTHER and user:
            self._of.setdefault(user, deque()).append((kind, item))
        if len(self._deeds) > MOST:
            self._leave()

    def answered(self, upto: int) -> None:
        """Deeds up to this number are part of what is known."""
        while self._deeds and self.handed - len(self._deeds) < upto:
            self._leave()

    def _leave(self) -> None:
        kind, user, _ = self._deeds.popleft()
        if kind != OTHER and user:
            self._of[user].popleft()
            if not self._of[user]:
                del self._of[user]

    def of(self, user: int) -> Late:
        """Those of a user, by the hash of his id."""
        deeds = self._of.get(user)
        if deeds is None:
            return NOTHING
        found: dict[int, list[int]] = {TOOK: [], SEEN: []}
        gone = False
        for kind, item in deeds:
            if kind == GONE:
                found, gone = {TOOK: [], SEEN: []}, True
            else:
                found[kind].append(item)
        return Late(np.array(found[TOOK], np.uint64), np.array(found[SEEN], np.uint64), gone)

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`."""
        kinds, users, items = ([deed[k] for deed in self._deeds] for k in range(3))
        return {
            "handed": self.handed,
            "kinds": np.array(kinds, np.uint8),
            "users": np.array(users, np.uint64),
            "items": np.array(items, np.uint64),
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`."""
        columns = [state[name].tolist() for name in ("kinds", "users", "items")]
        if len({*map(len, columns)}) > 1 or not {*columns[0]} <= {TOOK, SEEN, GONE, OTHER}:
            raise StateError("ahead: expected a kind, a user and an item of each deed")
        self._deeds.clear()
        self._of.clear()
        self.handed = int(state["handed"]) - len(columns[0])
        for kind, user, item in zip(*columns, strict=True):
            self.add(kind, user, item)
