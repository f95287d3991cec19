"""Which scorer holds an event: of the ids that one scorer keeps count of, 8 bytes a slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.base import I64, U64, State
from stream.step.pending.id_index import IdIndex, tags

_HOLDER_BITS = 10
_LOW = np.uint64((1 << (32 - _HOLDER_BITS)) - 1)


class Holders:
    """From ids to scorers below 1024; ids are told by 54 of their 64 bits.

    Beside the 32 bits that the index compares a slot has room for 32: the holder's number and 22
    more of the id. Of ten million ids one in two billion others is taken for one of them: what
    follows from an answer must bear that it is wrong.
    """

    def __init__(self) -> None:
        self._index = IdIndex()
        self._count = 0
        self._slots: U64 | None = None  # since the last change

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Memory of the table."""
        return self._index.nbytes

    def add(self, ids: U64, holder: int) -> None:
        """The scorer holds these events, uint64 ``(n,)``, from now on; none of them before."""
        self._count += len(ids)
        self._slots = None
        upper = tags(ids).astype(np.uint64) << np.uint64(32)
        self._index.enter(upper | _rows(ids, holder).astype(np.uint64))

    def remove(self, ids: U64, holder: int) -> None:
        """The scorer holds these no more; of those that nothing was told of nothing changes."""
        wanted = _rows(ids, holder)
        held = np.zeros(len(ids), np.bool_)
        for at, rows in self._matches(ids):
            held[at] |= rows == wanted[at]
        self._count -= int(held.sum())
        self._slots = None
        self._index.remove(ids[held], wanted[held])

    def find(self, ids: U64, but: int = -1) -> I64:
        """Who holds each, int64 ``(n,)``: the first of several; -1: nobody, or only ``but``."""
        found = np.full(len(ids), 1 << _HOLDER_BITS)
        low = (ids & _LOW).astype(np.int64)
        for at, rows in self._matches(ids):
            holder = rows & ((1 << _HOLDER_BITS) - 1)
            right = (rows >> _HOLDER_BITS == low[at]) & (holder != but)
            found[at[right]] = np.minimum(found[at[right]], holder[right])
        found[found == 1 << _HOLDER_BITS] = -1
        return found

    def _matches(self, ids: U64) -> Any:
        """Positions in ``ids`` and what the index has for them, until it has nothing more."""
        slots, todo = np.full(len(ids), -1), np.arange(len(ids))
        while len(todo):
            rows, at = self._index.find(ids[todo], slots[todo], 0)
            hit = rows >= 0
            todo, rows = todo[hit], rows[hit]
            slots[todo] = at[hit]
            if len(todo):
                yield todo, rows

    def state(self) -> State:
        """Every slot, in an order that does not depend on when they came."""
        if self._slots is None:  # a checkpoint asks twice
            self._slots = self._index.slots()
        return {"slots": self._slots}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`models.base.Model.restore`."""
        slots = np.array(state["slots"], np.uint64)
        self._index, self._count, self._slots = IdIndex(), len(slots), None
        self._index.enter(slots)


def _rows(ids: U64, holder: int) -> I64:
    return (ids & _LOW).astype(np.int64) << _HOLDER_BITS | holder
