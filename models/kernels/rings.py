"""Window statistics over the entities' rings: exact by event time, amortised O(1) an event.

``models/windows.py`` calls :func:`update`, :func:`mark` and :func:`refill`; everything else here
serves these three. A window of length ``w`` is ``(t - delay - w, t - delay]``: open at its old end,
closed at its young end. Each keeps one trailing pointer and a running sum; all share the pointer
at the young end.

Running sums are kept as the unevaluated sum of two floats (TwoSum: Knuth, TAOCP 2, 4.2.2), good to
2**-104 of the largest sum so far; a sum that has fallen below 2**-40 of that is taken anew from the
ring. So it stays within 1e-9 of a fresh summation however long the stream runs.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import njit

from models.base import F64, I64, U64
from models.kernels.entities import (
    ARENA,
    CLASS,
    COUNT,
    ENTER,
    HEAD,
    LATE,
    NEVER,
    NEXT,
    OLDEST,
    SCALARS,
    SLOTS,
    SMALLEST,
    START,
    TRUNCATED,
    UNMATCHED,
    Arrays,
    admit,
    find,
    lookup_add,
    newest_time,
    place,
    resize,
    touch,
)

CANCELLED = 2.0**-40


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


@njit(nogil=True)
def add(a: Arrays, slot: int, k: int, v: float) -> None:
    """Add ``v`` to a window's running sum; ``nan`` is an entry without a value."""
    high, low = a.sums[slot, k, 0], a.sums[slot, k, 1]
    total = high + v
    step = total - high
    low += (high - (total - step)) + (v - step)
    a.sums[slot, k, 0] = total + low
    a.sums[slot, k, 1] = low - (a.sums[slot, k, 0] - total)
    a.sums[slot, k, 2] = max(a.sums[slot, k, 2], abs(a.sums[slot, k, 0]))


@njit(nogil=True)
def join(a: Arrays, slot: int, k: int, v: float) -> None:
    """An entry comes into window ``k``."""
    if not math.isnan(v):
        a.ints[slot, START + a.sums.shape[1] + k] += 1
        add(a, slot, k, v)


@njit(nogil=True)
def unjoin(a: Arrays, slot: int, k: int, v: float) -> None:
    """An entry goes out of window ``k``."""
    if not math.isnan(v):
        a.ints[slot, START + a.sums.shape[1] + k] -= 1
        add(a, slot, k, -v)


@njit(nogil=True)
def settle(a: Arrays, slot: int, k: int) -> None:
    """Take the running sum anew where cancellation may have eaten its digits."""
    present = a.ints[slot, START + a.sums.shape[1] + k]
    if present > 0 and abs(a.sums[slot, k, 0]) >= CANCELLED * a.sums[slot, k, 2]:
        return
    a.sums[slot, k, :] = 0.0
    if present > 0:
        for i in range(a.ints[slot, START + k], a.ints[slot, ENTER]):
            v = a.values[place(a, slot, i)]
            if not math.isnan(v):
                add(a, slot, k, v)


@njit(nogil=True)
def after(a: Arrays, slot: int, t: int) -> int:
    """The position of the first entry younger than ``t`` (binary search)."""
    low, high = 0, int(a.ints[slot, COUNT])
    while low < high:
        middle = (low + high) >> 1
        if a.times[place(a, slot, middle)] <= t:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True)
def leave(a: Arrays, slot: int, windows: I64, young_end: int) -> None:
    """Move the trailing pointers on and let go of what is out of the longest window."""
    enter, count = a.ints[slot, ENTER], a.ints[slot, COUNT]
    last = len(windows) - 1
    for k in range(last + 1):
        start = a.ints[slot, START + k]
        bound = young_end - windows[k]
        moved = False
        while start < count:
            at = place(a, slot, start)
            if a.times[at] > bound:
                break
            if start < enter:
                unjoin(a, slot, k, a.values[at])
                moved = True
            start += 1
        a.ints[slot, START + k] = start
        if moved:
            settle(a, slot, k)
    drop(a, slot, a.ints[slot, START + last])


@njit(nogil=True)
def drop(a: Arrays, slot: int, n: int) -> None:
    """Let go of the ``n`` oldest entries, which are in no window any more."""
    if n > 0:
        mask = (1 << a.ints[slot, CLASS]) - 1
        a.ints[slot, HEAD] = (a.ints[slot, HEAD] + n) & mask
        a.ints[slot, COUNT] -= n
        a.ints[slot, ENTER] = max(0, a.ints[slot, ENTER] - n)
        for k in range(a.sums.shape[1]):
            a.ints[slot, START + k] = max(0, a.ints[slot, START + k] - n)


@njit(nogil=True)
def enter(a: Arrays, slot: int, young_end: int) -> None:
    """Take in the entries that have become old enough."""
    i = a.ints[slot, ENTER]
    while i < a.ints[slot, COUNT]:
        at = place(a, slot, i)
        if a.times[at] > young_end:
            break
        for k in range(a.sums.shape[1]):
            if i >= a.ints[slot, START + k]:
                join(a, slot, k, a.values[at])
        i += 1
    a.ints[slot, ENTER] = i


@njit(nogil=True)
def make_room(a: Arrays, slot: int, ring_cap: int) -> None:
    """Room for one more entry: a larger block, a smaller one, or the oldest entry's place."""
    count, size_class = a.ints[slot, COUNT], a.ints[slot, CLASS]
    if count >= ring_cap:
        v = a.values[place(a, slot, 0)]
        inside = a.ints[slot, ENTER] > 0
        for k in range(a.sums.shape[1]):
            if inside and a.ints[slot, START + k] == 0:
                unjoin(a, slot, k, v)
        drop(a, slot, 1)
        for k in range(a.sums.shape[1]):
            settle(a, slot, k)
        a.scalars[TRUNCATED] += 1
    elif count == 1 << size_class:
        resize(a, slot, size_class + 1)
    elif size_class > SMALLEST and count < 1 << (size_class - 2):
        resize(a, slot, size_class - 1)


@njit(nogil=True)
def append(a: Arrays, slot: int, t: int, v: float, ring_cap: int) -> None:
    """Put the newest entry."""
    make_room(a, slot, ring_cap)
    at = place(a, slot, a.ints[slot, COUNT])
    a.times[at] = t
    a.values[at] = v
    a.ints[slot, COUNT] += 1


@njit(nogil=True)
def insert(a: Arrays, slot: int, windows: I64, delay: int, t: int, v: float, ring_cap: int) -> int:
    """Put an entry that came late at its place (behind equal times); returns its position."""
    young_end = newest_time(a, slot) - delay
    make_room(a, slot, ring_cap)
    position = after(a, slot, t)
    i = int(a.ints[slot, COUNT])
    while i > position:
        to, source = place(a, slot, i), place(a, slot, i - 1)
        a.times[to] = a.times[source]
        a.values[to] = a.values[source]
        i -= 1
    at = place(a, slot, position)
    a.times[at] = t
    a.values[at] = v
    a.ints[slot, COUNT] += 1
    if t <= young_end:
        a.ints[slot, ENTER] += 1
    for k in range(len(windows)):
        if t <= young_end - windows[k]:
            a.ints[slot, START + k] += 1
        elif t <= young_end:
            join(a, slot, k, v)
    return position


@njit(nogil=True)
def write(row: F64, k: int, windows: int, count: int, present: int, total: float) -> None:
    """One window's count, sum and mean into an output row."""
    row[k] = count
    row[windows + k] = total
    row[2 * windows + k] = total / present if present > 0 else 0.0


@njit(nogil=True)
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


@njit(nogil=True)
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
    elif count > 0 and t < newest_time(a, slot):
        position = insert(a, slot, windows, delay, t, v, ring_cap)
        if position > 0:
            since = t - a.times[place(a, slot, position - 1)]
        end = position + 1 if own else min(position, after(a, slot, t - delay))
        write_as_of(a, slot, windows, t - delay, end, row)
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
        if not own:
            append(a, slot, t, v, ring_cap)
    row[3 * n] = since / 1000.0
    first = a.first[slot]
    row[3 * n + 1] = min(t - first, reach) / 1000.0 if first <= t else reach / 1000.0


def _update(
    a: Arrays, windows: I64, delay: int, own: bool, ring_cap: int, max_entities: int, begin: int,
    keys: U64, times: I64, values: F64, out: F64,
) -> int:  # fmt: skip
    """Take events from ``begin`` on, in order; returns the first not taken for want of arena room.

    ``out`` ``(n, 3 W + 2)``: counts, sums and means by window, seconds since the entity's last
    event, seconds since its first known positive.
    """
    reach = delay + windows[len(windows) - 1]
    for i in range(begin, len(keys)):
        # One event takes at most one block, at worst one of the largest size.
        if a.scalars[ARENA] + ring_cap > len(a.times):
            return i
        if keys[i] == 0:
            out[i, :] = 0.0
            continue
        slot = find(a, keys[i])
        if slot < 0:
            slot = admit(a, keys[i], times[i], reach, max_entities)
        else:
            touch(a, slot)
        observe(a, slot, windows, delay, own, ring_cap, times[i], values[i], out[i])
    return len(keys)


def _mark(a: Arrays, windows: I64, keys: U64, times: I64, delta: I64) -> None:
    """Set (+1) or take back (-1) a mark on one entry at that time of that entity, in order."""
    for i in range(len(keys)):
        if keys[i] == 0:
            continue
        slot = find(a, keys[i])
        if slot < 0 or not mark_one(a, slot, times[i], delta[i]):
            a.scalars[UNMATCHED] += 1


@njit(nogil=True)
def mark_one(a: Arrays, slot: int, t: int, delta: int) -> bool:
    """Mark the first entry at ``t`` that is not marked, or the reverse; false if there is none."""
    value = 1.0 if delta > 0 else 0.0
    i = after(a, slot, t - 1)
    while i < a.ints[slot, COUNT] and a.times[place(a, slot, i)] == t:
        at = place(a, slot, i)
        if a.values[at] != value:
            a.values[at] = value
            for k in range(a.sums.shape[1]):
                if a.ints[slot, START + k] <= i < a.ints[slot, ENTER]:
                    add(a, slot, k, 2.0 * value - 1.0)
                    settle(a, slot, k)
            remember_first(a, slot, t, delta)
            return True
        i += 1
    return False


@njit(nogil=True)
def remember_first(a: Arrays, slot: int, t: int, delta: int) -> None:
    """Keep the earliest known positive; taken back, the ring tells the next one."""
    if delta > 0:
        a.first[slot] = min(a.first[slot], t)
    elif a.first[slot] == t:
        a.first[slot] = NEVER
        for i in range(a.ints[slot, COUNT]):
            at = place(a, slot, i)
            if a.values[at] > 0.0:
                a.first[slot] = a.times[at]
                break


def _refill(a: Arrays) -> None:
    """Fill an empty lookup from the list of entities."""
    slot = a.scalars[OLDEST]
    while slot >= 0:
        lookup_add(a, slot)
        slot = a.ints[slot, NEXT]


_ARRAYS = numba.typeof(empty_arrays(1, 1, 1))
_I64, _U64, _F64 = (numba.types.Array(t, 1, "C") for t in (numba.i8, numba.u8, numba.f8))
_compile = {"nogil": True, "cache": True}
# Explicit signatures: compiled (or read from the cache) on import, never in the middle of a stream.
update = njit(
    numba.i8(
        _ARRAYS, _I64, numba.i8, numba.b1, numba.i8, numba.i8, numba.i8, _U64, _I64, _F64,
        numba.types.Array(numba.f8, 2, "C"),
    ),
    **_compile,
)(_update)  # fmt: skip
mark = njit(numba.void(_ARRAYS, _I64, _U64, _I64, _I64), **_compile)(_mark)
refill = njit(numba.void(_ARRAYS), **_compile)(_refill)
