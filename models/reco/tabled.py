"""A learner over tables of users and items: the room that its arrays have, and its state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import I64, U64, Learner, Parameter, State, StateError
from models.kernels.reco.tables import ARENA, BOUND, lookup_of
from models.kernels.windows.entities import ENTITIES, EVICTED, NEXT, OLDEST, SLOTS
from models.reco.parts import Sizes, Table, copies, grown, rows, take, used, views

SMALLEST = 64
"""Items, users and places of histories that a fresh learner has room for."""


class Tabled(Learner):
    """Bundles of arrays whose rows are users or items, doubled as these come.

    A subclass says in ``_layout`` how each bundle is kept, and builds them in :meth:`_fresh`.

    Parameters
    ----------
    names : sequence of str
        The members that take part; of the layout the bundles of others are left out.
    others : sequence of str
        Those that do not.
    items, users : int
        Kept at most; the longest idle goes first.
    history : int
        Places of the arena that a row may need at once, halved.
    """

    apart = True
    _layout: Mapping[str, Table]
    _all: Any

    def __init__(
        self, names: Sequence[str], others: Sequence[str], items: int, users: int, history: int = 0
    ) -> None:
        self.names = tuple(names)
        self._bounds = (items, users)
        self._history = history
        self._held = {k: table for k, table in self._layout.items() if k not in others}
        self._build(Sizes(SMALLEST, SMALLEST, 2 * history + SMALLEST))

    @abstractmethod
    def _fresh(self, room: Sizes) -> Any:
        """All bundles, empty, with so much room."""

    def _build(self, room: Sizes) -> None:
        self._room = room
        self._all = self._fresh(room)
        self._bound()

    def _bound(self) -> None:
        self._all.items.scalars[BOUND], self._all.users.scalars[BOUND] = self._bounds

    # ------------------------------------------------------------------ room

    def _make_room(self) -> None:
        """Double what has no room left."""
        sizes, room, (items, users) = self._sizes(), self._room, self._bounds
        self._room = Sizes(
            min(2 * room.items, max(items, SMALLEST)) if sizes.items == room.items else room.items,
            min(2 * room.users, max(users, SMALLEST)) if sizes.users == room.users else room.users,
            2 * room.arena if sizes.arena + 2 * self._history > room.arena else room.arena,
        )
        self._grow()

    def _grow(self) -> None:
        self._all = self._all._replace(
            **{
                n: grown(getattr(self._all, n), table, self._room)
                for n, table in self._held.items()
            }
        )
        for side in ("items", "users"):
            ids = getattr(self._all, side)
            lookup = lookup_of(ids.keys, self._slots(ids), len(ids.keys))
            self._all = self._all._replace(**{side: ids._replace(lookup=lookup)})

    @staticmethod
    def _slots(ids: Any) -> I64:
        """The slots in use: those that the list by idleness holds."""
        found, slot = [], int(ids.scalars[OLDEST])
        while slot >= 0:
            found.append(slot)
            slot = int(ids.ints[slot, NEXT])
        return np.array(found, np.int64)

    def counts(self) -> dict[str, int]:
        """Users and items that are known, and how many were let go."""
        found = {}
        for side in ("users", "items"):
            scalars = getattr(self._all, side).scalars
            found[side] = int(scalars[ENTITIES])
            found[f"{side}_evicted"] = int(scalars[EVICTED])
        return found

    # ------------------------------------------------------------------ state

    def _sizes(self) -> Sizes:
        """How much of the arrays is in use."""
        users = self._all.users.scalars
        return Sizes(int(self._all.items.scalars[SLOTS]), int(users[SLOTS]), int(users[ARENA]))

    def _parts(self) -> dict[str, dict[str, NDArray[Any]]]:
        sizes = self._sizes()
        return {n: used(getattr(self._all, n), table, sizes) for n, table in self._held.items()}

    def state(self) -> State:
        """Everything :meth:`restore` needs, as copies."""
        return {"members": list(self.names)} | {
            name: copies(arrays, self._held[name]) for name, arrays in self._parts().items()
        }

    def _digested(self) -> State:
        return {"members": list(self.names)} | {
            name: views(arrays, self._held[name]) for name, arrays in self._parts().items()
        }

    def restore(self, state: State) -> None:
        """Become the learner that gave ``state``; raises :class:`StateError`."""
        try:
            users = state["users"]["scalars"]
            sizes = Sizes(
                int(state["items"]["scalars"][SLOTS]), int(users[SLOTS]), int(users[ARENA])
            )
        except (KeyError, TypeError, IndexError) as error:
            raise StateError("expected tables of items and users") from error
        if state.get("members") != list(self.names):
            raise StateError(f"members: expected {list(self.names)}, got {state.get('members')!r}")
        self._build(
            Sizes(
                max(sizes.items, SMALLEST),
                max(sizes.users, SMALLEST),
                max(sizes.arena + 2 * self._history, SMALLEST),
            )
        )
        for name, table in self._held.items():
            take(getattr(self._all, name), table, sizes, state.get(name), name)
        self._bound()
        self._grow()

    def parameters(self) -> Sequence[Parameter]:
        """The parameter table of all parts, in a stable order."""
        return [
            p
            for name, arrays in self._parts().items()
            for p in rows(name, arrays, self._held[name])
        ]

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Learned arrays by path; views to read."""
        return self.arrays("learned")

    def arrays(self, role: str) -> dict[str, NDArray[Any]]:
        """Arrays of a role by path; views to read."""
        return {
            f"{part}.{name}": array
            for part, arrays in self._parts().items()
            for name, array in arrays.items()
            if self._held[part][name].role == role
        }

    def row_keys(self, path: str) -> U64 | None:
        """Whose the rows of an array are, users or items; ``None``: they are nobody's."""
        part, _, name = path.partition(".")
        side = self._held[part][name].by
        if side not in ("items", "users"):
            return None
        keys: U64 = getattr(self._all, side).keys
        return keys
