"""Entry points of the entity windows: events in, statistics out.

They are compiled, or read from Numba's cache, on import: never in the middle of a stream.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import njit

from models.base import F64, I64, U64
from models.kernels.common import F32_MAX, HELPER, prefetch
from models.kernels.entry import entry
from models.kernels.windows.entities import (
    ARENA,
    COUNT,
    ENTER,
    LATE,
    NEXT,
    PREV,
    SCALARS,
    SLOTS,
    START,
    UNMATCHED,
    Arrays,
    admit,
    find,
    home,
    lookup_add,
    newest_time,
    place,
    touch,
)
from models.kernels.windows.rings import after, append, enter, insert, leave, mark_one

LARGEST_MS = 1 << 60  # times are clipped: no sum of one and two durations overflows


def empty_arrays(windows: int, slots: int, places: int) -> Arrays:
    """Arrays of a table without entities."""
    scalars = np.full(SCALARS, -1, np.int64)
    scalars[[SLOTS, ARENA]] = 0
    scalars[ARENA + 1 : UNMATCHED + 1] = 0
    return Arrays(
        scalars,
        np.full(lookup_length(slots), -1, np.int32),
        np.zeros(slots, np.uint64),
        np.zeros(slots, np.int64),
        np.zeros((slots, START + 2 * windows), np.int32),
        np.zeros((slots, windows, 3)),
        np.zeros(places, np.int64),
        np.zeros(places),
    )


def lookup_length(slots: int) -> int:
    """A power of two, at least twice ``slots``: half empty at worst."""
    return 1 << max(2 * slots - 1, 3).bit_length()


INDEX_AHEAD, ENTITY_AHEAD, RING_AHEAD = 24, 12, 6
"""So many events before its own the memory is asked for an entity's place in the index, for the
entity, and for what its windows begin and end with: each says where the next lies."""

_ARRAYS = numba.typeof(empty_arrays(1, 1, 1))
_I64, _U64, _F64 = (numba.types.Array(t, 1, "C") for t in (numba.i8, numba.u8, numba.f8))
_ROWS = numba.types.Array(numba.f8, 2, "C")


@njit(**HELPER)
def clip_time(t: int) -> int:
    """A time that can be reckoned with."""
    return min(max(t, -LARGEST_MS), LARGEST_MS)


@njit(**HELPER)
def write(row: F64, k: int, windows: int, count: int, present: int, total: float) -> None:
    """One window's count, sum and mean into an output row."""
    row[k] = count
    row[windows + k] = total
    row[2 * windows + k] = total / present if present > 0 else 0.0


@njit(**HELPER)
def write_as_of(a: Arrays, slot: int, windows: I64, young_end: int, end: int, row: F64) -> None:
    """Statistics as of a time in the past, summed afresh over the entries before ``end``."""
    n = len(windows)
    for k in range(n):
        start = after(a, slot, young_end - windows[k])
        total, low, present = 0.0, 0.0, 0
        for i in range(start, end):
            v = a.values[place(a, slot, i)]
            if not math.isnan(v):
                new = total + v
                step = new - total
                low += (total - (new - step)) + (v - step)
                total = new
                present += 1
        write(row, k, n, max(0, end - start), present, total + low)


@njit(**HELPER)
def write_extremes(a: Arrays, slot: int, windows: I64, young_end: int, end: int, row: F64) -> None:
    """Each window's least and greatest value (0 without any), where the row has room for them.

    Looked up afresh in one pass from young to old: it costs the length of the longest window, but
    holds no state.
    """
    n, i = len(windows), end
    if len(row) == 3 * n + 2:
        return
    least, greatest = math.inf, -math.inf
    for k in range(n):
        start = after(a, slot, young_end - windows[k])
        while i > start:
            i -= 1
            v = a.values[place(a, slot, i)]
            if not math.isnan(v):
                least, greatest = min(least, v), max(greatest, v)
        row[3 * n + 2 + k] = least if least <= greatest else 0.0
        row[4 * n + 2 + k] = greatest if least <= greatest else 0.0


@njit(**HELPER)
def observe(
    a: Arrays, slot: int, windows: I64, delay: int, own: bool, ring_cap: int, t: int, v: float,
    row: F64,
) -> None:  # fmt: skip
    """Statistics of one event of a known entity into ``row``; then, or before, it is kept.

    1. An event older than all the entity remembers is counted and seen alone.
    2. One older than the newest goes to its place; it is told what was known as of its time.
    3. Any other moves the windows on.
    """
    n = len(windows)
    reach = delay + windows[n - 1]
    count = a.ints[slot, COUNT]
    since = reach
    if count > 0 and t <= newest_time(a, slot) - reach:
        a.scalars[LATE] += 1
        for k in range(n):
            present = 1 if own and not math.isnan(v) else 0
            write(row, k, n, 1 if own else 0, present, v if present else 0.0)
            row[3 * n + 2 + k : len(row) : n] = v if present else 0.0
    elif count > 0 and t < newest_time(a, slot):
        position = insert(a, slot, windows, delay, t, v, ring_cap)
        if position > 0:
            since = t - a.times[place(a, slot, position - 1)]
        end = position + 1 if own else min(position, after(a, slot, t - delay))
        write_as_of(a, slot, windows, t - delay, end, row)
        write_extremes(a, slot, windows, t - delay, end, row)
    else:
        leave(a, slot, windows, t - delay)
        if a.ints[slot, COUNT] > 0:
            since = t - newest_time(a, slot)
        if own:
            append(a, slot, t, v, ring_cap)
        enter(a, slot, t - delay)
        for k in range(n):
            inside = a.ints[slot, ENTER] - a.ints[slot, START + k]
            write(row, k, n, inside, a.ints[slot, START + n + k], a.sums[slot, k, 0])
        write_extremes(a, slot, windows, t - delay, a.ints[slot, ENTER], row)
        if not own:
            append(a, slot, t, v, ring_cap)
    row[3 * n] = since / 1000.0
    first = a.first[slot]
    row[3 * n + 1] = min(t - first, reach) / 1000.0 if first <= t else reach / 1000.0


@njit(**HELPER)
def ask_ahead(a: Arrays, i: int, keys: U64) -> None:
    """Ask the memory for what events after event ``i`` will touch; halves what an event takes."""
    width, sums, windows = a.ints.shape[1], a.sums.shape[1] * a.sums.shape[2], a.sums.shape[1]
    if i + INDEX_AHEAD < len(keys):
        prefetch(a.lookup, home(keys[i + INDEX_AHEAD], len(a.lookup) - 1))
    if i + ENTITY_AHEAD < len(keys):
        slot = find(a, keys[i + ENTITY_AHEAD])
        if slot >= 0:
            prefetch(a.ints, slot * width)
            prefetch(a.sums, slot * sums)
            prefetch(a.sums, slot * sums + sums - 1)
            prefetch(a.first, slot)
    if i + RING_AHEAD < len(keys):
        slot = find(a, keys[i + RING_AHEAD])
        if slot >= 0:
            prefetch(a.ints, max(a.ints[slot, PREV], 0) * width)
            prefetch(a.ints, max(a.ints[slot, NEXT], 0) * width)
            prefetch(a.times, place(a, slot, a.ints[slot, ENTER]))
            for k in range(windows + 1):
                first = a.ints[slot, START + k] if k < windows else a.ints[slot, COUNT] - 1
                at = place(a, slot, first)
                prefetch(a.times, at)
                prefetch(a.values, at)


@entry(
    numba.i8(
        *(_ARRAYS, _I64, numba.i8, numba.b1, numba.i8, numba.i8, numba.i8),
        *(_U64, _I64, _F64, _ROWS),
    )
)
def update(
    a: Arrays, windows: I64, delay: int, own: bool, ring_cap: int, max_entities: int, begin: int,
    keys: U64, times: I64, values: F64, out: F64,
) -> int:  # fmt: skip
    """Take events from ``begin`` on, in order; returns the first not taken for want of arena room.

    ``out`` ``(n, 3 W + 2)``: counts, sums and means by window, seconds since the entity's last
    event, seconds since its first known positive. If it has ``2 W`` columns more: least and
    greatest values.
    """
    reach = delay + windows[len(windows) - 1]
    for i in range(begin, len(keys)):
        # One event takes at most one block, at worst one of the largest size.
        if a.scalars[ARENA] + ring_cap > len(a.times):
            return i
        ask_ahead(a, i, keys)
        if keys[i] == 0:
            out[i, :] = 0.0
            continue
        t = clip_time(times[i])
        v = values[i]
        if not math.isnan(v):
            v = min(max(v, -F32_MAX), F32_MAX)  # no sum of a full ring overflows
        slot = find(a, keys[i])
        if slot < 0:
            slot = admit(a, keys[i], t, reach, max_entities)
        else:
            touch(a, slot)
        observe(a, slot, windows, delay, own, ring_cap, t, v, out[i])
    return len(keys)


@entry(
    numba.i8(*(_ARRAYS, _I64, numba.i8, numba.i8, numba.i8, numba.i8), *(_U64, _I64)),
)
def absorb(
    a: Arrays, windows: I64, delay: int, ring_cap: int, max_entities: int, begin: int,
    keys: U64, times: I64,
) -> int:  # fmt: skip
    """Take events of value 0 as :func:`update` does, of no part in their own statistics, and tell
    nothing of them; the order of their times costs little."""
    reach = delay + windows[len(windows) - 1]
    for i in range(begin, len(keys)):
        if a.scalars[ARENA] + ring_cap > len(a.times):
            return i
        ask_ahead(a, i, keys)
        if keys[i] == 0:
            continue
        t = clip_time(times[i])
        slot = find(a, keys[i])
        if slot < 0:
            slot = admit(a, keys[i], t, reach, max_entities)
        else:
            touch(a, slot)
        if a.ints[slot, COUNT] > 0 and t <= newest_time(a, slot) - reach:
            a.scalars[LATE] += 1
        elif a.ints[slot, COUNT] > 0 and t < newest_time(a, slot):
            insert(a, slot, windows, delay, t, 0.0, ring_cap)
        else:
            leave(a, slot, windows, t - delay)
            enter(a, slot, t - delay)
            append(a, slot, t, 0.0, ring_cap)
    return len(keys)


@entry(numba.void(_ARRAYS, _I64, _U64, _I64, _I64))
def mark(a: Arrays, windows: I64, keys: U64, times: I64, delta: I64) -> None:
    """Set (+1) or take back (-1) a mark on one entry at that time of that entity, in order."""
    for i in range(len(keys)):
        if keys[i] == 0:
            continue
        slot = find(a, keys[i])
        if slot < 0 or not mark_one(a, slot, clip_time(times[i]), delta[i]):
            a.scalars[UNMATCHED] += 1


@entry(numba.void(_ARRAYS))
def refill(a: Arrays) -> None:
    """Fill an empty lookup, in the order of the slots: entities lie in memory like that."""
    for slot in range(a.scalars[SLOTS]):
        if a.ints[slot, COUNT] > 0:
            lookup_add(a, slot)
