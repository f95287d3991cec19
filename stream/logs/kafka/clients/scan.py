"""Finds the records of an unpacked Kafka batch: one compiled pass over its varints.

kafka-python reads a record in 10 us of Python; of a service that reads two records for each score
that was a third of all it did.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.base import I64
from models.kernels.common import HELPER
from models.kernels.entry import entry

LENGTH, TIME, OFFSET, KEY, VALUE, WITH_HEADERS = 0, 1, 2, 3, 5, 7
"""Columns: the record's bytes; what its time and its offset add to the batch's; where key and value
begin, each with its length beside it (-1: null); where the record begins if it has headers, else
-1."""


def scan(buffer: bytearray, start: int, count: int) -> I64 | None:
    """Where the parts of ``count`` records from ``start`` on are: int64 ``(count, 8)``.

    ``None`` if they do not fill the rest of the buffer exactly, each by the length it states.
    """
    if count > len(buffer):  # a record takes 7 bytes at least: never allocate for a lie
        return None
    found = np.empty((count, 8), dtype=np.int64)
    view: NDArray[Any] = np.frombuffer(buffer, dtype=np.uint8)
    return found if _scan(view, start, found) == len(buffer) else None


@njit(**HELPER)
def _varint(buffer: NDArray[Any], at: int) -> Any:
    """A zigzag varint and where it ends; beyond the buffer when it is cut off or too long."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while at < len(buffer) and shift < np.uint64(64):
        byte = np.uint64(buffer[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), len(buffer) + 1


@entry("i8(u1[::1], i8, i8[:, ::1])")
def _scan(buffer: NDArray[Any], at: int, found: I64) -> int:
    """Fill ``found``; returns where the last record ends, -1 at one that is not sound."""
    for i in range(len(found)):
        start = at
        length, at = _varint(buffer, at)
        end = at + length
        if length < 0 or end > len(buffer):
            return -1
        found[i, LENGTH] = length
        _, at = _varint(buffer, at)  # attributes: none are defined
        found[i, TIME], at = _varint(buffer, at)
        found[i, OFFSET], at = _varint(buffer, at)
        for part in (KEY, VALUE):
            size, at = _varint(buffer, at)
            if size > end - at:
                return -1
            found[i, part] = at
            found[i, part + 1] = max(size, -1)
            at += max(size, 0)
        headers, at = _varint(buffer, at)
        found[i, WITH_HEADERS] = start if headers != 0 else -1
        if at > end or (headers == 0 and at != end):
            return -1
        at = end
    return at
