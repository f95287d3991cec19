"""Items that count as seen though nothing was learned of them: disliked, rated low, looked at.

What a user took stands in his history, from which members learn; here stands what he did that
teaches nothing, for no other use than not to show it to him again.
"""

from __future__ import annotations

import numpy as np

from models.base import U64, State, StateError


class AlsoSeen:
    """The last items of each user, both by the hash of their id.

    Parameters
    ----------
    users : int
        So many users are kept; the longest idle goes first.
    items : int
        So many items of each.
    """

    def __init__(self, users: int, items: int) -> None:
        self._users = users
        self._items = items
        self._seen: dict[int, dict[int, None]] = {}

    def add(self, user: int, item: int) -> None:
        """A user has done with an item."""
        items = self._seen.pop(user, {})
        items.pop(item, None)
        self._seen[user] = items
        items[item] = None
        self._trim(items)

    def _trim(self, items: dict[int, None]) -> None:
        while len(items) > self._items:
            del items[next(iter(items))]
        while len(self._seen) > self._users:
            del self._seen[next(iter(self._seen))]

    def of(self, user: int) -> U64:
        """His items, the newest last."""
        return np.array(list(self._seen.get(user, ())), np.uint64)

    def forget_user(self, user: int) -> None:
        """Nothing is known of a user any more."""
        self._seen.pop(user, None)

    def forget_item(self, item: int) -> None:
        """An item is new to everybody when it comes again."""
        for user in [user for user, items in self._seen.items() if item in items]:
            del self._seen[user][item]
            if not self._seen[user]:
                del self._seen[user]

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`: in their order, the longest idle first."""
        return {
            "users": np.array(list(self._seen), np.uint64),
            "counts": np.array([len(items) for items in self._seen.values()], np.int64),
            "items": np.array([i for items in self._seen.values() for i in items], np.uint64),
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`."""
        users, counts, items = state["users"], state["counts"], state["items"]
        if len(users) != len(counts) or counts.sum() != len(items):
            raise StateError("also_seen: expected a count of items of each user")
        self._seen.clear()
        first = 0
        for user, n in zip(users.tolist(), counts.tolist(), strict=True):
            self._seen[user] = dict.fromkeys(items[first : first + n].tolist())
            self._trim(self._seen[user])
            first += n
