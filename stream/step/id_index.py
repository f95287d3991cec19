"""From event ids to row numbers: a compiled open-addressing table, 8 bytes a slot.

A slot is 32 bits of the id above 32 bits of the row number. A slot's home follows from its own 32
bits of id: growing and deleting need no rows. Deletion shifts back, so that no tombstones pile up
over months. The caller compares whole ids in the rows themselves.
"""

from __future__ import annotations

import numba
import numpy as np

from models.base import I64, U64

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
        return _find(self._table, ids, slots, head)

    def insert(self, ids: U64, rows: I64, total: int) -> None:
        """Add ids that are not held; ``total`` rows are held with them."""
        while total * 4 > len(self._table) * 3:
            self._table = _grow(self._table)
        _insert(self._table, ids, rows)

    def remove(self, ids: U64, rows: I64) -> None:
        """Remove ids that are held with these rows."""
        _remove(self._table, ids, rows)


@numba.njit("i8(u8, i8)", cache=True, nogil=True)
def _home(tag, mask):  # type: ignore[no-untyped-def]
    return np.int64((tag * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask


@numba.njit("u8(u8)", cache=True, nogil=True)
def _tag(identifier):  # type: ignore[no-untyped-def]
    tag = identifier >> np.uint64(32)
    return tag if tag != np.uint64(0xFFFFFFFF) else np.uint64(0xFFFFFFFE)


@numba.njit("UniTuple(i8[:], 2)(u8[:], u8[:], i8[:], i8)", cache=True, nogil=True)
def _find(table, ids, slots, head):  # type: ignore[no-untyped-def]
    """Row and slot of the first match after ``slots`` (-1: from home); row -1 for none."""
    n = len(ids)
    mask = len(table) - 1
    rows = np.empty(n, dtype=np.int64)
    at = np.empty(n, dtype=np.int64)
    low = np.int64(0xFFFFFFFF)
    for i in range(n):
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
    return rows, at


@numba.njit("void(u8[:], u8[:], i8[:])", cache=True, nogil=True)
def _insert(table, ids, rows):  # type: ignore[no-untyped-def]
    mask = len(table) - 1
    for i in range(len(ids)):
        tag = _tag(ids[i])
        slot = _home(tag, mask)
        while table[slot] != _EMPTY:
            slot = (slot + 1) & mask
        table[slot] = (tag << np.uint64(32)) | (np.uint64(rows[i]) & _ROW)


@numba.njit("void(u8[:], u8[:], i8[:])", cache=True, nogil=True)
def _remove(table, ids, rows):  # type: ignore[no-untyped-def]
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


@numba.njit("u8[:](u8[:])", cache=True, nogil=True)
def _grow(table):  # type: ignore[no-untyped-def]
    bigger = np.full(len(table) * 2, _EMPTY)
    mask = len(bigger) - 1
    for i in range(len(table)):
        if table[i] != _EMPTY:
            slot = _home(table[i] >> np.uint64(32), mask)
            while bigger[slot] != _EMPTY:
                slot = (slot + 1) & mask
            bigger[slot] = table[i]
    return bigger
