"""From event ids to row numbers: a compiled open-addressing table, 8 bytes a slot.

A slot is 32 bits of the id above 32 bits of the row number. A slot's home follows from its own 32
bits of id: growing and deleting need no rows. Deletion shifts back, so that no tombstones pile up
over months. The caller compares whole ids in the rows themselves.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numba import njit

from models.base import I64, U64
from models.kernels.common import GOLDEN, HELPER
from models.kernels.entry import entry

_EMPTY = np.uint64(0)
_ROW = np.uint64(0xFFFF_FFFF)
_NONE = np.zeros(0, np.uint64)

_MOVED = 4
"""Slots moved for each id that is inserted while the table grows: a table of ``s`` slots grows with
``3/4 s`` ids, and the one of ``2 s`` lasts for as many more."""


class IdIndex:
    """The table; at most three quarters full, so at least 8 and mostly below 22 bytes a row.

    A table that grows is moved into the larger one bit by bit, by those who insert: nobody waits
    for the whole of it. Until all is there ids are looked for in both.
    """

    def __init__(self) -> None:
        self._table = _table(1024)
        self._left, self._at = _NONE, 0  # the smaller table while it is moved, up to a slot

    @property
    def nbytes(self) -> int:
        """Memory of the table."""
        return self._table.nbytes + self._left.nbytes

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
        _find(self._table, self._left, ids, slots, head, rows, at)
        return rows, at

    def insert(self, ids: U64, rows: I64, total: int) -> None:
        """Add ids that are not held; ``total`` rows are held with them."""
        if total * 4 > len(self._table) * 3:
            self._move(len(self._left))
            size = len(self._table)
            while total * 4 > size * 3:
                size *= 2
            self._left, self._at, self._table = self._table, 0, _table(size)
        if len(self._left):
            many = total * 4 > len(self._left) * 6
            self._move(len(self._left) if many else max(_MOVED * len(ids), 1024))
        _insert(self._table, ids, rows)

    def remove(self, ids: U64, rows: I64) -> None:
        """Remove ids that are held with these rows."""
        _remove(self._table, self._left, ids, rows)

    def _move(self, slots: int) -> None:
        """Move so many slots more of the smaller table."""
        if len(self._left):
            self._at = _refill(self._left, self._at, slots, self._table)
            if self._at == len(self._left):
                self._left, self._at = _NONE, 0


def _table(size: int) -> U64:
    """An empty table, whose memory is got as it is used, in small pages.

    With large ones the first batch that is spread over it waits until nearly all are zeroed: .8 s
    of 268 MB.
    """
    memory = mmap.mmap(-1, 8 * size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint64)


@njit(**HELPER)
def _home(tag: Any, mask: int) -> Any:
    return np.int64((tag * GOLDEN) >> np.uint64(20)) & mask


@njit(**HELPER)
def _tag(identifier: Any) -> Any:
    tag = identifier >> np.uint64(32)
    return tag if tag != np.uint64(0) else np.uint64(1)  # a slot of 0 is empty


@njit(**HELPER)
def _match(table: U64, tag: Any, slot: int) -> int:
    """The first slot with ``tag`` from ``slot`` on; -1 for none."""
    mask = len(table) - 1
    while table[slot] != _EMPTY:
        if table[slot] >> np.uint64(32) == tag:
            return slot
        slot = (slot + 1) & mask
    return -1


@entry("void(u8[::1], u8[::1], u8[::1], i8[::1], i8, i8[::1], i8[::1])")
def _find(table: U64, left: U64, ids: U64, slots: I64, head: int, rows: I64, at: I64) -> None:
    """Row and place of the first match after ``slots`` (-1: from home); row -1 for none.

    Places count on from the table's slots to those ``left`` to move.
    """
    size, mask = len(table), len(table) - 1
    low = np.int64(0xFFFFFFFF)
    for i in range(len(ids)):
        tag = _tag(ids[i])
        found = -1
        if slots[i] < size:
            found = _match(table, tag, _home(tag, mask) if slots[i] < 0 else (slots[i] + 1) & mask)
        if found < 0 and len(left):
            within = len(left) - 1
            home = _home(tag, within) if slots[i] < size else (slots[i] - size + 1) & within
            found = _match(left, tag, home)
            found += size if found >= 0 else 0
        rows[i] = -1
        at[i] = found
        if found >= 0:
            slot = table[found] if found < size else left[found - size]
            # 32 bits of row number are enough: live rows span less than 2^32.
            rows[i] = head + ((np.int64(slot & _ROW) - head) & low)


@njit(**HELPER)
def _enter(table: U64, slot: Any) -> None:
    mask = len(table) - 1
    at = _home(slot >> np.uint64(32), mask)
    while table[at] != _EMPTY:
        at = (at + 1) & mask
    table[at] = slot


@entry("void(u8[::1], u8[::1], i8[::1])")
def _insert(table: U64, ids: U64, rows: I64) -> None:
    for i in range(len(ids)):
        _enter(table, (_tag(ids[i]) << np.uint64(32)) | (np.uint64(rows[i]) & _ROW))


@njit(**HELPER)
def _delete(table: U64, wanted: Any) -> bool:
    """Delete a slot by backward shift, so that no tombstones pile up; whether it was there."""
    mask = len(table) - 1
    hole = _home(wanted >> np.uint64(32), mask)
    while table[hole] != wanted:
        if table[hole] == _EMPTY:
            return False
        hole = (hole + 1) & mask
    slot = hole
    while True:
        slot = (slot + 1) & mask
        if table[slot] == _EMPTY:
            break
        home = _home(table[slot] >> np.uint64(32), mask)
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            table[hole] = table[slot]
            hole = slot
    table[hole] = _EMPTY
    return True


@entry("void(u8[::1], u8[::1], u8[::1], i8[::1])")
def _remove(table: U64, left: U64, ids: U64, rows: I64) -> None:
    for i in range(len(ids)):
        wanted = (_tag(ids[i]) << np.uint64(32)) | (np.uint64(rows[i]) & _ROW)
        if not _delete(table, wanted):
            _delete(left, wanted)


@entry("i8(u8[::1], i8, i8, u8[::1])")
def _refill(left: U64, at: int, slots: int, table: U64) -> int:
    """Move ``slots`` of ``left`` from ``at`` on into the table; gives where the rest begins.

    That is behind an empty slot: of those that remain none was pushed on from one that is gone,
    so that a search from their homes still finds them.
    """
    end = min(at + slots, len(left))
    while at < len(left) and (at < end or left[at] != _EMPTY):
        if left[at] != _EMPTY:
            _enter(table, left[at])
            left[at] = _EMPTY
        at += 1
    return at
