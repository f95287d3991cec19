"""From event ids to row numbers: compiled open-addressing tables, 8 bytes a slot.

A slot is 32 mixed bits of the id above 32 bits of the row number. Its upper bits say in which of
many small tables it lies, and the rest, in order, where: growing and deleting need no rows. A table
grows by a quarter when it is full, and a large one becomes two, whatever the others do: nobody
waits for more than some small tables, nor does much memory stand empty (extendible hashing: Fagin
et al., 1979). Deletion shifts back, so that no tombstones pile up over months. The caller compares
whole ids in the rows themselves.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from models.base import I64, U32, U64
from models.kernels.common import GOLDEN, HELPER, ask_for
from models.kernels.entry import entry

_EMPTY = np.uint64(0)
_ROW = _LOW = np.uint64(0xFFFF_FFFF)
_ODD = GOLDEN >> np.uint64(32) | np.uint64(1)
"""2 ** 32 over the golden ratio, odd: of tags that are not random it makes such as lie apart."""
_PAGE = 512
"""Slots of a page of memory: what a table's size is a multiple of."""
_LARGE = 65_536
"""Slots of a table that becomes two rather than grow: moving half a megabyte takes .6 ms."""
_FULL, _GROWN, _APART = 0.8, 0.62, 0.06
"""Share of the slots taken above which a table grows, and of the larger one's then, which differs
by so much from table to table: all are filled evenly, and would grow in the same batches. At .8 a
search in vain reads 13 slots, side by side; at .9 it would be 50."""
SLOT_BYTES = 8 / _GROWN
"""Memory of a row at most, but for pages begun and the first tables."""
_FEW, _DOUBLED = 16, 0.4
"""While there are so few tables, one that grows is filled by so much: there is memory enough."""
_AHEAD = 16
"""Rows whose slots are asked for while earlier ones are looked at."""


class IdIndex:
    """The tables: mostly 11 bytes a row, as long as rows come."""

    def __init__(self) -> None:
        self._depth = 0
        self._leaf = np.zeros(1, np.int64)  # by the upper ``depth`` bits, the number of the table
        self._tables: list[U64] = []
        # Of each table: address, slots, rows, most rows, and how many upper bits its rows share.
        self._facts = np.zeros((0, 5), np.int64)
        self._put(0, 0, 0)

    @property
    def nbytes(self) -> int:
        """Memory of the tables."""
        return 8 * int(self._facts[:, 1].sum()) + self._leaf.nbytes + self._facts.nbytes

    def find(self, ids: U64, slots: I64, head: int) -> tuple[I64, I64]:
        """Row and place of the first match after each place.

        Parameters
        ----------
        ids : uint64 ``(n,)``
        slots : int64 ``(n,)``
            Where an earlier search for the same id ended; -1: begin at the id's home.
        head : int
            The oldest row held: row numbers in slots count from there.

        Returns
        -------
        rows, slots : int64 ``(n,)``
            Row -1 where there is none. Only 32 bits of the id were compared.
        """
        rows, at = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
        _find(self._leaf, self._depth, self._facts, ids, slots, head, rows, at)
        return rows, at

    def insert(self, tagged: U32, first: int, total: int = 0) -> None:
        """Add rows from ``first`` on, which are not held, with the :func:`tags` of their ids.

        ``total``: so many will be held soon, which matters where none is yet.
        """
        slots = np.empty(len(tagged), np.uint64)
        _slots(tagged, first, slots)
        self.enter(slots, total)

    def enter(self, slots: U64, total: int = 0) -> None:
        """Add slots, uint64 ``(n,)``, whose lower 32 bits may be anything; they may be put in order
        where they are."""
        if max(total, len(slots)) > _LARGE and not self._facts[:, 2].any():
            self._expect(max(total, len(slots)))
        if len(slots) > _LARGE:
            slots.sort()  # so that each table is filled at once
        at = 0
        while (at := _enter(self._leaf, self._depth, self._facts, slots, at)) < len(slots):
            self._grow(int(self._leaf[int(slots[at]) >> 64 - self._depth]))

    def remove(self, ids: U64, rows: I64) -> None:
        """Remove ids that are held with these rows."""
        _remove(self._leaf, self._depth, self._facts, ids, rows)

    def slots(self) -> U64:
        """What stands in all slots, in order: 32 mixed bits of an id above 32 of its row.

        They stand almost so: 10 million take .1 s of a core, sorting them anew a second.
        """
        found = np.empty(int(self._facts[:, 2].sum()), np.uint64)
        first = np.flatnonzero(np.append(True, self._leaf[1:] != self._leaf[:-1]))
        _in_order(self._leaf[first], self._facts, found)
        return found

    def _expect(self, rows: int) -> None:
        """Begin with tables for so many rows, where none is held yet."""
        self._depth = max(0, int(rows / _GROWN / _LARGE)).bit_length()
        self._leaf = np.arange(1 << self._depth)
        self._tables, self._facts = [], np.zeros((0, 5), np.int64)
        for _ in self._leaf:
            self._put(len(self._tables), rows // len(self._leaf), self._depth)

    def _grow(self, leaf: int) -> None:
        """Give a table room for more; a large one becomes two.

        Where many ids share their bits it does not: two of it would not be smaller. Tables are
        about as many as all rows need.
        """
        old, (_, _, held, _, depth) = self._tables[leaf], self._facts[leaf].tolist()
        if held <= _LARGE * _GROWN or _LARGE << depth > 4 * int(self._facts[:, 2].sum()):
            above, other = 0, leaf
        else:
            above, other = _above(old, depth), len(self._tables)
            if depth == self._depth:
                self._leaf, self._depth = np.repeat(self._leaf, 2), self._depth + 1
            mine = np.flatnonzero(self._leaf == leaf)
            self._leaf[mine[len(mine) // 2 :]] = other
            depth += 1
            self._put(other, above, depth)
        self._put(leaf, held - above, depth)
        _move(self._facts, old, leaf, other)

    def _put(self, leaf: int, rows: int, depth: int) -> None:
        """An empty table for so many rows as number ``leaf``, there already or the next."""
        few = len(self._tables) < _FEW
        share = _DOUBLED if few else _GROWN + _APART * (leaf * 0.618 % 1)
        table = _table(int(rows / share / _PAGE) * _PAGE + _PAGE)
        address = table.__array_interface__["data"][0]
        fact = (address, len(table), 0, int(len(table) * _FULL), depth)
        if leaf < len(self._tables):
            self._tables[leaf], self._facts[leaf] = table, fact
        else:
            self._tables.append(table)
            self._facts = np.vstack((self._facts, [fact]))


def tags(ids: U64) -> U32:
    """What the index knows of each id: 32 of its bits, mixed; uint32 ``(n,)``, never 0."""
    found = np.empty(len(ids), np.uint32)
    _tags(ids, found)
    return found


def _table(size: int) -> U64:
    """An empty table in pages of its own, which go back at once when it is dropped.

    Nobody else's memory: a first touch of a page that could be shared takes 2.2 us, of these 1.3.
    """
    return np.frombuffer(mmap.mmap(-1, 8 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint64)


@intrinsic
def _get(_: Any, address: Any, at: Any) -> Any:
    """The slot ``at`` of the table at an address."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = context.get_value_type(types.uint64).as_pointer()
        return builder.load(builder.gep(builder.inttoptr(given[0], kind), [given[1]]))

    return types.uint64(types.int64, types.int64), generate


@intrinsic
def _fetch(_: Any, address: Any, at: Any) -> Any:
    """Ask for the slot ``at`` of the table at an address, which will be read."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = context.get_value_type(types.uint64).as_pointer()
        ask_for(builder, builder.gep(builder.inttoptr(given[0], kind), [given[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _set(_: Any, address: Any, at: Any, slot: Any) -> Any:
    """Write the slot ``at`` of the table at an address."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = context.get_value_type(types.uint64).as_pointer()
        builder.store(given[2], builder.gep(builder.inttoptr(given[0], kind), [given[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.uint64), generate


@njit(**HELPER)
def _tag(identifier: Any) -> Any:
    upper = identifier >> np.uint64(32)
    if upper == np.uint64(0):
        upper = np.uint64(1)  # a slot of 0 is empty
    return (upper * _ODD) & _LOW


@njit(**HELPER)
def _leaf_of(leaf: I64, depth: int, tag: Any) -> Any:
    return leaf[np.int64(tag >> np.uint64(32 - depth))]


@njit(**HELPER)
def _home(tag: Any, size: Any, depth: Any) -> Any:
    """Where a tag's search begins: the bits below those that its table's rows share, in order."""
    rest = (tag << np.uint64(depth)) & _LOW
    return np.int64((rest * np.uint64(size)) >> np.uint64(32))


@njit(**HELPER)
def _past(place: Any, other: Any, size: Any) -> Any:
    """How many slots ``place`` comes after another one."""
    return place - other if place >= other else place - other + size


@entry("void(u8[::1], u4[::1])")
def _tags(ids: U64, found: U32) -> None:
    for i in range(len(ids)):
        found[i] = _tag(ids[i])


@entry("void(i8[::1], i8, i8[:, ::1], u8[::1], i8[::1], i8, i8[::1], i8[::1])")
def _find(
    leaf: I64, depth: int, facts: I64, ids: U64, slots: I64, head: int, rows: I64, at: I64
) -> None:
    """Row and place of the first match after ``slots`` (-1: from home); row -1 for none."""
    low = np.int64(0xFFFFFFFF)
    for i in range(len(ids)):
        if i + _AHEAD < len(ids) and slots[i + _AHEAD] < 0:
            tag = _tag(ids[i + _AHEAD])
            fact = facts[_leaf_of(leaf, depth, tag)]
            _fetch(fact[0], _home(tag, fact[1], fact[4]))
        tag = _tag(ids[i])
        fact = facts[_leaf_of(leaf, depth, tag)]
        table, size = fact[0], fact[1]
        place = slots[i] + 1 if slots[i] >= 0 else _home(tag, size, fact[4])
        rows[i], at[i] = -1, -1
        while True:
            if place == size:
                place = 0
            slot = _get(table, place)
            if slot == _EMPTY:
                break
            if slot >> np.uint64(32) == tag:
                # 32 bits of row number are enough: live rows span less than 2^32.
                rows[i] = head + ((np.int64(slot & _ROW) - head) & low)
                at[i] = place
                break
            place += 1


@entry("void(u4[::1], i8, u8[::1])")
def _slots(tagged: U32, first: int, slots: U64) -> None:
    """The slots of rows from ``first`` on."""
    for i in range(len(tagged)):
        slots[i] = np.uint64(tagged[i]) << np.uint64(32) | (np.uint64(first + i) & _ROW)


@entry("i8(u8[::1], i8)")
def _above(slots: U64, depth: int) -> int:
    """How many of the slots in use have the bit behind the upper ``depth`` ones."""
    found = np.int64(0)
    for slot in slots:
        found += np.int64((slot >> np.uint64(63 - depth)) & np.uint64(1))
    return int(found)


@entry("i8(i8[::1], i8, i8[:, ::1], u8[::1], i8)")
def _enter(leaf: I64, depth: int, facts: I64, slots: U64, first: int) -> int:
    """Put the slots in use where they belong, from ``first`` on; gives the first without room."""
    for i in range(first, len(slots)):
        if i + _AHEAD < len(slots):
            tag = slots[i + _AHEAD] >> np.uint64(32)
            fact = facts[_leaf_of(leaf, depth, tag)]
            _fetch(fact[0], _home(tag, fact[1], fact[4]))
        slot = slots[i]
        if slot == _EMPTY:
            continue
        tag = slot >> np.uint64(32)
        fact = facts[_leaf_of(leaf, depth, tag)]
        table, size = fact[0], fact[1]
        if fact[2] == fact[3]:
            return i
        place = _home(tag, size, fact[4])
        while _get(table, place) != _EMPTY:
            place += 1
            if place == size:
                place = 0
        _set(table, place, slot)
        fact[2] += 1
    return len(slots)


@entry("void(i8[:, ::1], u8[::1], i8, i8)")
def _move(facts: I64, old: U64, leaf: int, other: int) -> None:
    """Move the slots in use to an empty table, or to it and the one of those above it.

    In their order, so that what is written lies in the cache.
    """
    fact, above = facts[leaf], facts[other]
    bit = np.uint64(64 - fact[4])
    for slot in old:
        if slot == _EMPTY:
            continue
        to = above if other != leaf and (slot >> bit) & np.uint64(1) else fact
        place = _home(slot >> np.uint64(32), to[1], to[4])
        while _get(to[0], place) != _EMPTY:
            place += 1
            if place == to[1]:
                place = 0
        _set(to[0], place, slot)
        to[2] += 1


@entry("void(i8[::1], i8[:, ::1], u8[::1])")
def _in_order(leaves: I64, facts: I64, found: U64) -> None:
    """The slots in use of these tables, one after another, each table's in order."""
    end = np.int64(0)
    for leaf in leaves:
        fact = facts[leaf]
        table, size, begin = fact[0], fact[1], end
        # Those that found no room at the table's end stand at its beginning: they are its last.
        for wrapped in range(2):
            for place in range(size):
                slot = _get(table, place)
                if slot == _EMPTY:
                    if wrapped:
                        break
                    continue
                if (_home(slot >> np.uint64(32), size, fact[4]) > place) != (wrapped == 1):
                    continue
                at = end
                while at > begin and found[at - 1] > slot:
                    found[at] = found[at - 1]
                    at -= 1
                found[at] = slot
                end += 1


@entry("void(i8[::1], i8, i8[:, ::1], u8[::1], i8[::1])")
def _remove(leaf: I64, depth: int, facts: I64, ids: U64, rows: I64) -> None:
    """Delete by backward shift, so that no tombstones pile up."""
    for i in range(len(ids)):
        tag = _tag(ids[i])
        fact = facts[_leaf_of(leaf, depth, tag)]
        table, size = fact[0], fact[1]
        wanted = (tag << np.uint64(32)) | (np.uint64(rows[i]) & _ROW)
        hole = _home(tag, size, fact[4])
        slot = _get(table, hole)
        while slot != wanted and slot != _EMPTY:
            hole = hole + 1 if hole + 1 < size else 0
            slot = _get(table, hole)
        if slot == _EMPTY:
            continue
        place = hole
        while True:
            place = place + 1 if place + 1 < size else 0
            slot = _get(table, place)
            if slot == _EMPTY:
                break
            home = _home(slot >> np.uint64(32), size, fact[4])
            if _past(place, home, size) >= _past(place, hole, size):
                _set(table, hole, slot)
                hole = place
        _set(table, hole, _EMPTY)
        fact[2] -= 1
