"""What the entity windows would say of events, were each the next one: nothing is kept.

The sums of a look are those that ``updates.py`` would make, operation by operation, so that an
event that is taken in after it gets the same statistics, bit for bit. An event older than its
entity's newest is looked at as of that one, and the oldest of a full ring still counts; whoever
must know those too takes a copy of the entity.
"""

from __future__ import annotations

import math

import numba
from numba import njit

from models.base import F64, I64, U64
from models.kernels.common import F32_MAX, RARE
from models.kernels.entry import entry
from models.kernels.windows.entities import (
    ARENA,
    BLOCK,
    CLASS,
    COUNT,
    ENTER,
    ENTITIES,
    HEAD,
    NEWEST,
    NEXT,
    OLDEST,
    PREV,
    SLOTS,
    START,
    Arrays,
    find,
    lookup_add,
    newest_time,
    place,
)
from models.kernels.windows.rings import CANCELLED
from models.kernels.windows.updates import (
    _ARRAYS,
    _F64,
    _I64,
    _ROWS,
    _U64,
    clip_time,
    write,
    write_extremes,
)


@njit(**RARE)
def _add(total: F64, v: float) -> None:
    """As :func:`models.kernels.windows.rings.add`, on a running sum of its own."""
    high, low = total[0], total[1]
    new = high + v
    step = new - high
    low += (high - (new - step)) + (v - step)
    total[0] = new + low
    total[1] = low - (total[0] - new)
    total[2] = max(total[2], abs(total[0]))


@njit(**RARE)
def _window(
    a: Arrays, slot: int, k: int, windows: I64, young_end: int, own: bool, v: float, total: F64,
    row: F64,
) -> int:  # fmt: skip
    """Window ``k`` moved on to ``young_end``, with ``v`` if ``own``; returns where it ends."""
    n, begin, end = len(windows), a.ints[slot, START + k], a.ints[slot, ENTER]
    count, present = a.ints[slot, COUNT], a.ints[slot, START + n + k]
    for i in range(3):
        total[i] = a.sums[slot, k, i]
    moved = False
    while begin < count and a.times[place(a, slot, begin)] <= young_end - windows[k]:
        left = a.values[place(a, slot, begin)]
        if begin < end:
            moved = True
            if not math.isnan(left):
                present -= 1
                _add(total, -left)
        begin += 1
    if moved and not (present > 0 and abs(total[0]) >= CANCELLED * total[2]):
        total[:] = 0.0
        for i in range(begin, end if present > 0 else begin):
            stays = a.values[place(a, slot, i)]
            if not math.isnan(stays):
                _add(total, stays)
    while end < count and a.times[place(a, slot, end)] <= young_end:
        enters = a.values[place(a, slot, end)]
        if end >= begin and not math.isnan(enters):
            present += 1
            _add(total, enters)
        end += 1
    if own and not math.isnan(v):
        present += 1
        _add(total, v)
    write(row, k, n, max(0, end - begin) + (1 if own else 0), present, total[0])
    return end


@njit(**RARE)
def _extremes(a: Arrays, slot: int, windows: I64, young_end: int, end: int, own: bool, v: float,
              row: F64) -> None:  # fmt: skip
    """Each window's least and greatest value, ``v`` among them if ``own``."""
    n = len(windows)
    if len(row) == 3 * n + 2:
        return
    write_extremes(a, slot, windows, young_end, end, row)
    if not own or math.isnan(v):
        return
    for k in range(n):
        # The 0 of a window without values is none of them.
        least, greatest, alone = row[3 * n + 2 + k], row[4 * n + 2 + k], True
        for i in range(a.ints[slot, START + k], end):
            at = place(a, slot, i)
            alone &= a.times[at] <= young_end - windows[k] or math.isnan(a.values[at])
        row[3 * n + 2 + k] = v if alone else min(least, v)
        row[4 * n + 2 + k] = v if alone else max(greatest, v)


@entry(numba.void(_ARRAYS, _I64, numba.i8, numba.b1, _U64, _I64, _F64, _F64, _ROWS))
def look(
    a: Arrays, windows: I64, delay: int, own: bool, keys: U64, times: I64, values: F64,
    total: F64, out: F64,
) -> None:  # fmt: skip
    """Statistics of each event as if it were the next; ``out`` as of ``updates.update``.

    ``total`` ``(3,)`` is scratch.
    """
    n = len(windows)
    reach = delay + windows[n - 1]
    for j in range(len(keys)):
        row = out[j]
        row[:] = 0.0
        if keys[j] == 0:
            continue
        v = values[j]
        if not math.isnan(v):
            v = min(max(v, -F32_MAX), F32_MAX)
        slot = find(a, keys[j])
        row[3 * n] = row[3 * n + 1] = reach / 1000.0
        if slot < 0:
            present = 1 if own and not math.isnan(v) else 0
            for k in range(n):
                write(row, k, n, 1 if own else 0, present, v if present else 0.0)
            row[3 * n + 2 :] = v if present else 0.0
            continue
        t = max(clip_time(times[j]), newest_time(a, slot))
        end = 0
        for k in range(n):
            end = _window(a, slot, k, windows, t - delay, own, v, total, row)
        _extremes(a, slot, windows, t - delay, end, own, v, row)
        row[3 * n] = min(t - newest_time(a, slot), reach) / 1000.0
        if a.first[slot] <= t:
            row[3 * n + 1] = min(t - a.first[slot], reach) / 1000.0


@entry(numba.void(_ARRAYS, _U64, _ARRAYS))
def copy(a: Arrays, key: U64, to: Arrays) -> None:
    """Copy the entity ``key[0]``, if it is known, into an empty table."""
    slot = find(a, key[0])
    if slot < 0:
        return
    to.keys[0], to.first[0] = a.keys[slot], a.first[slot]
    for i in range(a.ints.shape[1]):
        to.ints[0, i] = a.ints[slot, i]
    for k in range(a.sums.shape[1]):
        for i in range(3):
            to.sums[0, k, i] = a.sums[slot, k, i]
    for i in range(a.ints[slot, COUNT]):
        to.times[i] = a.times[place(a, slot, i)]
        to.values[i] = a.values[place(a, slot, i)]
    to.ints[0, BLOCK] = to.ints[0, HEAD] = 0
    to.ints[0, PREV] = to.ints[0, NEXT] = -1
    to.scalars[NEWEST] = to.scalars[OLDEST] = 0
    to.scalars[SLOTS] = to.scalars[ENTITIES] = 1
    to.scalars[ARENA] = 1 << a.ints[slot, CLASS]
    lookup_add(to, 0)
