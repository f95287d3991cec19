"""One entity's ring of events and its windows' running sums: exact, amortised O(1) an event.

A window of length ``w`` that ends ``delay`` ago is ``(t - delay - w, t - delay]``: open at its old
end, closed at its young end. Each keeps one trailing pointer and a running sum; all share the
pointer at the young end.

Running sums are kept as the unevaluated sum of two floats (TwoSum: Knuth, TAOCP 2, 4.2.2), good to
2**-104 of the largest sum so far; a sum that has fallen below 2**-40 of that is taken anew from the
ring. So it stays within 1e-9 of a fresh summation however long the stream runs.
"""

from __future__ import annotations

import math

from numba import njit

from models.base import I64
from models.kernels.common import HELPER
from models.kernels.windows.entities import (
    CLASS,
    COUNT,
    ENTER,
    HEAD,
    NEVER,
    SMALLEST,
    START,
    TRUNCATED,
    Arrays,
    newest_time,
    place,
    resize,
)

CANCELLED = 2.0**-40


@njit(**HELPER)
def add(a: Arrays, slot: int, k: int, v: float) -> None:
    """Add ``v`` to a window's running sum; ``nan`` is an entry without a value."""
    high, low = a.sums[slot, k, 0], a.sums[slot, k, 1]
    total = high + v
    step = total - high
    low += (high - (total - step)) + (v - step)
    a.sums[slot, k, 0] = total + low
    a.sums[slot, k, 1] = low - (a.sums[slot, k, 0] - total)
    a.sums[slot, k, 2] = max(a.sums[slot, k, 2], abs(a.sums[slot, k, 0]))


@njit(**HELPER)
def join(a: Arrays, slot: int, k: int, v: float) -> None:
    """An entry comes into window ``k``."""
    if not math.isnan(v):
        a.ints[slot, START + a.sums.shape[1] + k] += 1
        add(a, slot, k, v)


@njit(**HELPER)
def unjoin(a: Arrays, slot: int, k: int, v: float) -> None:
    """An entry goes out of window ``k``."""
    if not math.isnan(v):
        a.ints[slot, START + a.sums.shape[1] + k] -= 1
        add(a, slot, k, -v)


@njit(**HELPER)
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


@njit(**HELPER)
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


@njit(**HELPER)
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


@njit(**HELPER)
def drop(a: Arrays, slot: int, n: int) -> None:
    """Let go of the ``n`` oldest entries, which are in no window any more."""
    if n > 0:
        mask = (1 << a.ints[slot, CLASS]) - 1
        a.ints[slot, HEAD] = (a.ints[slot, HEAD] + n) & mask
        a.ints[slot, COUNT] -= n
        a.ints[slot, ENTER] = max(0, a.ints[slot, ENTER] - n)
        for k in range(a.sums.shape[1]):
            a.ints[slot, START + k] = max(0, a.ints[slot, START + k] - n)


@njit(**HELPER)
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


@njit(**HELPER)
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


@njit(**HELPER)
def append(a: Arrays, slot: int, t: int, v: float, ring_cap: int) -> None:
    """Put the newest entry."""
    make_room(a, slot, ring_cap)
    at = place(a, slot, a.ints[slot, COUNT])
    a.times[at] = t
    a.values[at] = v
    a.ints[slot, COUNT] += 1


@njit(**HELPER)
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


@njit(**HELPER)
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


@njit(**HELPER)
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
