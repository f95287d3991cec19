"""A bounded table of entities, each with a ring of (time, value): the storage under the windows.

One hash lookup over 64-bit keys, one list from the longest idle entity to the newest, one arena of
power-of-two blocks with a free list per size. ``rings.py`` and ``updates.py`` call it, and
``models/features/windows.py`` owns the arrays. Nothing here allocates: the owner makes room first.
The layout follows from the calls alone, never from the arrays' lengths, so a copy of the used parts
behaves as the original does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.base import F64, I64, U64
from models.kernels.common import HELPER

I32 = NDArray[np.int32]


class Arrays(NamedTuple):
    """Everything a table holds. ``S`` slots, ``W`` windows, ``A`` places in the arena.

    ``first`` is the event time of an entity's earliest known positive, :data:`NEVER` without one;
    ``sums`` holds for each window the running sum as two floats and the largest it has been.
    """

    scalars: I64  # (SCALARS,)
    lookup: I32  # (power of two,) hash index: slot or -1
    keys: U64  # (S,)
    first: I64  # (S,)
    ints: I32  # (S, START + 2 W)
    sums: F64  # (S, W, 3)
    times: I64  # (A,)
    values: F64  # (A,)


NEVER = np.iinfo(np.int64).max

# Places in ``scalars``.
SLOTS = 0  # slots ever used: the high-water mark
FREE_SLOT = 1  # first free slot, -1 for none; the chain goes on in ints[slot, NEXT]
NEWEST = 2  # entity touched last, -1 for none
OLDEST = 3  # entity idle for longest
ARENA = 4  # arena places ever used: the high-water mark
ENTITIES = 5
EVICTED = 6  # entities let go because the table was full
EXPIRED = 7  # entities let go because all they knew was out of date
LATE = 8  # events older than their entity remembers
TRUNCATED = 9  # events let go because their entity's ring was full
UNMATCHED = 10  # labels whose event was no longer there
FREE_BLOCK = 11  # first free block of each size, -1 for none; the chain goes on in times[block]
CLASSES = 32
SCALARS = FREE_BLOCK + CLASSES

# Places in a row of ``ints``. Positions in a ring count from its oldest entry.
BLOCK = 0  # where the ring's block begins in the arena
CLASS = 1  # log2 of the block's length
HEAD = 2  # where in the block the oldest entry is
COUNT = 3  # entries in the ring; 0 only in a free slot
PREV = 4  # the entity touched before this one
NEXT = 5  # the entity touched after this one
ENTER = 6  # entries from here on are still too young for the windows
START = 7  # W places: the first entry inside each window; then W places: its entries with a value

SMALLEST = 1  # class of a new entity's block: two entries
EXPIRED_AT_ONCE = 2  # out-of-date entities let go for each new one: bounded work, yet it keeps pace


@njit(**HELPER)
def home(key: Any, mask: int) -> Any:
    """Where in the index the search for ``key`` begins. Keys are hashes: their low bits serve."""
    return np.int64(key & np.uint64(mask))


@njit(**HELPER)
def find(a: Arrays, key: int) -> int:
    """The slot of ``key``, or -1."""
    mask = len(a.lookup) - 1
    i = home(key, mask)
    while True:
        slot = a.lookup[i]
        if slot < 0 or a.keys[slot] == key:
            return slot
        i = (i + 1) & mask


@njit(**HELPER)
def lookup_add(a: Arrays, slot: int) -> None:
    """Enter a slot whose key is not in the index yet (linear probing)."""
    mask = len(a.lookup) - 1
    i = home(a.keys[slot], mask)
    while a.lookup[i] >= 0:
        i = (i + 1) & mask
    a.lookup[i] = slot


@njit(**HELPER)
def lookup_remove(a: Arrays, slot: int) -> None:
    """Take a slot out and close the gap behind it (backward shift): no tombstones pile up."""
    mask = len(a.lookup) - 1
    gap = home(a.keys[slot], mask)
    while a.lookup[gap] != slot:
        gap = (gap + 1) & mask
    i = gap
    while True:
        i = (i + 1) & mask
        other = a.lookup[i]
        if other < 0:
            break
        # It may move back only if its own home is not behind the gap.
        if ((i - home(a.keys[other], mask)) & mask) >= ((i - gap) & mask):
            a.lookup[gap] = other
            gap = i
    a.lookup[gap] = -1


@njit(**HELPER)
def unlink(a: Arrays, slot: int) -> None:
    """Take a slot out of the list by idleness."""
    before, after = a.ints[slot, PREV], a.ints[slot, NEXT]
    if before >= 0:
        a.ints[before, NEXT] = after
    else:
        a.scalars[OLDEST] = after
    if after >= 0:
        a.ints[after, PREV] = before
    else:
        a.scalars[NEWEST] = before


@njit(**HELPER)
def link(a: Arrays, slot: int) -> None:
    """Put a slot at the list's newest end."""
    newest = a.scalars[NEWEST]
    a.ints[slot, PREV] = newest
    a.ints[slot, NEXT] = -1
    if newest >= 0:
        a.ints[newest, NEXT] = slot
    else:
        a.scalars[OLDEST] = slot
    a.scalars[NEWEST] = slot


@njit(**HELPER)
def touch(a: Arrays, slot: int) -> None:
    """Make a slot the newest."""
    if a.scalars[NEWEST] != slot:
        unlink(a, slot)
        link(a, slot)


@njit(**HELPER)
def allocate(a: Arrays, size_class: int) -> int:
    """A block of ``2 ** size_class`` places: a freed one, else from the arena's end."""
    block = a.scalars[FREE_BLOCK + size_class]
    if block >= 0:
        a.scalars[FREE_BLOCK + size_class] = a.times[block]
        return block
    block = a.scalars[ARENA]
    a.scalars[ARENA] = block + (1 << size_class)
    return block


@njit(**HELPER)
def release(a: Arrays, block: int, size_class: int) -> None:
    """Give a block back."""
    a.times[block] = a.scalars[FREE_BLOCK + size_class]
    a.scalars[FREE_BLOCK + size_class] = block


@njit(**HELPER)
def place(a: Arrays, slot: int, i: int) -> int:
    """Where in the arena entry ``i`` (from the oldest) of a slot's ring is."""
    mask = (1 << a.ints[slot, CLASS]) - 1
    return a.ints[slot, BLOCK] + ((a.ints[slot, HEAD] + i) & mask)


@njit(**HELPER)
def resize(a: Arrays, slot: int, size_class: int) -> None:
    """Move a ring to a block of another size that holds it."""
    old_block, old_class = a.ints[slot, BLOCK], a.ints[slot, CLASS]
    block = allocate(a, size_class)
    for i in range(a.ints[slot, COUNT]):
        at = place(a, slot, i)
        a.times[block + i] = a.times[at]
        a.values[block + i] = a.values[at]
    a.ints[slot, BLOCK] = block
    a.ints[slot, CLASS] = size_class
    a.ints[slot, HEAD] = 0
    release(a, old_block, old_class)


@njit(**HELPER)
def newest_time(a: Arrays, slot: int) -> int:
    """Event time of the newest entry of a ring that is not empty."""
    return a.times[place(a, slot, a.ints[slot, COUNT] - 1)]


@njit(**HELPER)
def forget(a: Arrays, slot: int) -> None:
    """Let an entity go with all it holds."""
    release(a, a.ints[slot, BLOCK], a.ints[slot, CLASS])
    lookup_remove(a, slot)
    unlink(a, slot)
    a.ints[slot, COUNT] = 0
    a.ints[slot, NEXT] = a.scalars[FREE_SLOT]
    a.scalars[FREE_SLOT] = slot
    a.scalars[ENTITIES] -= 1


@njit(**HELPER)
def admit(a: Arrays, key: int, t: int, reach: int, max_entities: int) -> int:
    """Give a new entity a slot with an empty ring.

    1. Of the longest idle, up to two whose newest event is older than ``t - reach`` are let go:
       no event from ``t`` on could tell that they were forgotten.
    2. While the table is still full, the longest idle is let go (a loss: counted apart); more than
       one only where the bound was lowered.
    3. A freed slot is taken, else a fresh one.
    """
    for _ in range(EXPIRED_AT_ONCE):
        oldest = a.scalars[OLDEST]
        if oldest < 0 or newest_time(a, oldest) > t - reach:
            break
        forget(a, oldest)
        a.scalars[EXPIRED] += 1
    while a.scalars[ENTITIES] >= max_entities:
        forget(a, a.scalars[OLDEST])
        a.scalars[EVICTED] += 1
    slot = a.scalars[FREE_SLOT]
    if slot >= 0:
        a.scalars[FREE_SLOT] = a.ints[slot, NEXT]
    else:
        slot = a.scalars[SLOTS]
        a.scalars[SLOTS] += 1
    a.keys[slot] = key
    a.first[slot] = NEVER
    a.ints[slot, :] = 0
    a.sums[slot, :, :] = 0.0
    a.ints[slot, BLOCK] = allocate(a, SMALLEST)
    a.ints[slot, CLASS] = SMALLEST
    lookup_add(a, slot)
    link(a, slot)
    a.scalars[ENTITIES] += 1
    return slot
