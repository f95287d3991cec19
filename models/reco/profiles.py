"""What is told of items, or of users: numbers and names by field, as columns.

Bounded: the one that nothing was told of for longest goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import U64, State, StateError

FRESH = 64
NOBODY = 0
"""The place of all that nothing was told of."""


class Profiles:
    """Fields by the xxh3-64 of an id.

    Parameters
    ----------
    numbers, names : sequences of str
        The fields: float64, ``nan`` where it was not told; xxh3-64 of the text, 0 where not.
    most : int
        Ids that are kept.

    Examples
    --------
    >>> items = Profiles(["price"], ["brand"], most=10)
    >>> items.told(7, {"price": 2.5})
    >>> items.columns(np.array([7, 8], np.uint64))["price"].tolist()
    [2.5, nan]
    """

    def __init__(self, numbers: Sequence[str], names: Sequence[str], most: int) -> None:
        self._missing: dict[str, Any] = {
            **dict.fromkeys(numbers, np.float64(np.nan)),
            **dict.fromkeys(names, np.uint64(0)),
        }
        self._most = most
        self._begin()

    def _begin(self) -> None:
        self._slots: dict[int, int] = {}  # longest idle first
        self._free: list[int] = []
        self._used = NOBODY + 1
        self._columns = {n: np.full(FRESH, v, v.dtype) for n, v in self._missing.items()}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._slots)

    def told(self, key: int, fields: Mapping[str, float | int | None]) -> None:
        """These fields are so from now on; ``None``: not known any more."""
        slot = self._slots.pop(key, None)
        if slot is None:
            while len(self._slots) >= self._most:
                self.forget(next(iter(self._slots)))
                self.evicted += 1
            slot = self._enter()
        self._slots[key] = slot
        for name, value in fields.items():
            self._columns[name][slot] = self._missing[name] if value is None else value

    def _enter(self) -> int:
        if self._free:
            return self._free.pop()
        self._used += 1
        if self._columns and self._used > len(next(iter(self._columns.values()))):
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate(
                    [column, np.full(len(column), self._missing[name], column.dtype)]
                )
        return self._used - 1

    def forget(self, key: int) -> None:
        """Nothing is known of an id any more."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            for name, column in self._columns.items():
                column[slot] = self._missing[name]
            self._free.append(slot)

    def columns(self, keys: U64) -> dict[str, NDArray[Any]]:
        """Each field of these ids, ``(n,)``."""
        slots = [self._slots.get(key, NOBODY) for key in keys.tolist()]
        return {name: column[slots] for name, column in self._columns.items()}

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`: longest idle first."""
        slots = list(self._slots.values())
        return {
            "keys": np.array(list(self._slots), np.uint64),
            "fields": {name: column[slots] for name, column in self._columns.items()},
            "evicted": self.evicted,
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`: of the fields that both have."""
        keys, fields = state["keys"].tolist(), state["fields"]
        self._begin()
        self.evicted = int(state["evicted"])
        for key in keys:
            self.told(key, {})
        slots = [self._slots.get(key, NOBODY) for key in keys]
        for name, ours in self._columns.items():
            theirs = fields.get(name)
            if theirs is not None and theirs.dtype == ours.dtype:
                if len(theirs) != len(keys):
                    raise StateError(f"{name}: expected {len(keys)} values, got {len(theirs)}")
                ours[slots] = theirs
                ours[NOBODY] = self._missing[name]
