"""From event ids to row numbers: a compiled open-addressing table, 8 bytes a slot.

A slot is 32 bits of the id above 32 bits of the row number. A slot's home follows from its own 32
bits of id: growing and deleting need no rows. Deletion shifts back, so that no tombstones pile up
over months. The caller compares whole ids in the rows themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from models.base import I64, U64
from models.kernels.common import GOLDEN, HELPER
from models.kernels.entry import entry

_EMPTY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ROW = np.uint64(0xFFFF_FFFF)


class IdIndex:
    """The table; at most three quarters full, so at least 8 and mostly below 22 bytes a row."""

    def __init__(self) -> None:
        self._table = np.full(1024, _EMPTY)

    @property
    def nbytes(self) -> int:
        """Memory of the table."""
        return self._table.nbytes

    def find(self, ids: U64, slots: I64, head: int) -> tuple[I64, I64]:
        """Row and slot of the first match after each slot.

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
        _find(self._table, ids, slots, head, rows, at)
        return rows, at

    def insert(self, ids: U64, rows: I64, total: int) -> None:
        """Add ids that are not held; ``total`` rows are held with them."""
        while total * 4 > len(self._table) * 3:
            smaller, self._table = self._table, np.full(2 * len(self._table), _EMPTY)
            _refill(smaller, self._table)
        _insert(self._table, ids, rows)

    def remove(self, ids: U64, rows: I64) -> None:
        """Remove ids that are held with these rows."""
        _remove(self._table, ids, rows)


@njit(**HELPER)
def _home(tag: Any, mask: int) -> Any:
    return np.int64((tag * GOLDEN) >> np.uint64(20)) & mask


@njit(**HELPER)
def _tag(identifier: Any) -> Any:
    tag = identifier >> np.uint64(32)
    return tag if tag != np.uint64(0xFFFFFFFF) else np.uint64(0xFFFFFFFE)


@entry("void(u8[::1], u8[::1], i8[::1], i8, i8[::1], i8[::1])")
def _find(table: U64, ids: U64, slots: I64, head: int, rows: I64, at: I64) -> None:
    """Row and slot of the first match after ``slots`` (-1: from home); row -1 for none."""
    mask = len(table) - 1
    low = np.int64(0xFFFFFFFF)
    for i in range(len(ids)):
        tag = _tag(ids[i])
        slot = _home(tag, mask) if slots[i] < 0 else (slots[i] + 1) & mask
        rows[i] = -1
        while table[slot] != _EMPTY:
            if table[slot] >> np.uint64(32) == tag:
                # 32 bits of row number are enough: live rows span less than 2^32.
                rows[i] = head + ((np.int64(table[slot] & _ROW) - head) & low)
                break
            slot = (slot + 1) & mask
        at[i] = slot


@entry("void(u8[::1], u8[::1], i8[::1])")
def _insert(table: U64, ids: U64, rows: I64) -> None:
    mask = len(table) - 1
    for i in range(len(ids)):
        tag = _tag(ids[i])
        slot = _home(tag, mask)
        while table[slot] != _EMPTY:
            slot = (slot + 1) & mask
        table[slot] = (tag << np.uint64(32)) | (np.uint64(rows[i]) & _ROW)


@entry("void(u8[::1], u8[::1], i8[::1])")
def _remove(table: U64, ids: U64, rows: I64) -> None:
    """Delete by backward shift, so that no tombstones pile up over months."""
    mask = len(table) - 1
    for i in range(len(ids)):
        tag = _tag(ids[i])
        wanted = (tag << np.uint64(32)) | (np.uint64(rows[i]) & _ROW)
        hole = _home(tag, mask)
        while table[hole] != wanted:
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


@entry("void(u8[::1], u8[::1])")
def _refill(table: U64, bigger: U64) -> None:
    """Enter all of a table into an empty larger one."""
    mask = len(bigger) - 1
    for i in range(len(table)):
        if table[i] != _EMPTY:
            slot = _home(table[i] >> np.uint64(32), mask)
            while bigger[slot] != _EMPTY:
                slot = (slot + 1) & mask
            bigger[slot] = table[i]
