"""Who and what is known: ids as dense numbers, and each user's last items.

Two tables, of users and of items, each a hash lookup over 64-bit keys and a list from the longest
idle to the newest, both as in ``models/kernels/windows/entities.py``. A slot that is given to
another id gets another tag: what still names the old tag names nobody. Nothing here allocates: the
owner makes room first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.base import I64, U8, U32, U64
from models.kernels.common import HELPER
from models.kernels.windows.entities import (
    BLOCK,
    CLASS,
    COUNT,
    ENTITIES,
    EVICTED,
    FREE_SLOT,
    HEAD,
    NEXT,
    OLDEST,
    SLOTS,
    link,
    lookup_add,
    lookup_remove,
    unlink,
)

I32 = NDArray[np.int32]

SLOT_BITS = 20
"""Bits of an item's tag that are its slot; the others count how often the slot was given away."""
MOST_ITEMS = 1 << SLOT_BITS

_SLOT = np.uint32(MOST_ITEMS - 1)
_NEXT_TAG = np.uint32(MOST_ITEMS)

# Places in ``scalars`` beyond those of ``entities.py``.
ARENA = 4  # places of the arena ever used
BOUND = 7  # ids kept at most
FREE_BLOCK = 8  # first free block of each size, -1 for none
CLASSES = 20
SCALARS = FREE_BLOCK + CLASSES

# Places in a row of ``ints`` beyond those of ``entities.py``.
TOTAL = 6  # items ever put into the user's history
SITTING = 7  # how many of them before this sitting
INTS = 8


class Items(NamedTuple):
    """The known items; ``S`` slots."""

    scalars: I64  # (SCALARS,)
    lookup: I32  # (power of two,) hash index: slot or -1
    keys: U64  # (S,)
    ints: I32  # (S, INTS)
    tags: U32  # (S,): the slot, and how often it was given away
    alive: U8  # (S,): whether the slot is in use


class Users(NamedTuple):
    """The known users, each with a ring of the tags of his last items; ``A`` places in all."""

    scalars: I64  # (SCALARS,)
    lookup: I32  # (power of two,) hash index: slot or -1
    keys: U64  # (S,)
    ints: I32  # (S, INTS)
    tags: U32  # (S,): how often the slot was given away
    last_ms: I64  # (S,): event time of the user's last row
    session: U64  # (S,): session of the user's last row
    arena: U32  # (A,)
    history: I64  # (1,): items of a user that are remembered at most, a power of two


@njit(**HELPER)
def slot_of(tag: Any) -> Any:
    """The slot that an item's tag names."""
    return np.uint64(tag & _SLOT)


@njit(**HELPER)
def bucket_bits(tag: Any) -> Any:
    """The tag with its bits spread (Knuth's multiplicative hashing), for tables of 2 ** k."""
    return np.int64((np.uint64(tag) * np.uint64(2654435769)) & np.uint64(0xFFFFFFFF)) >> 7


@njit(**HELPER)
def is_full(a: Any) -> bool:
    """Whether the next new id takes the place of the longest idle."""
    return a.scalars[ENTITIES] >= a.scalars[BOUND]


@njit(**HELPER)
def has_room(a: Any) -> bool:
    """Whether a new id finds a slot in the arrays as they are."""
    return is_full(a) or a.scalars[FREE_SLOT] >= 0 or a.scalars[SLOTS] < len(a.keys)


@njit(**HELPER)
def enter(a: Any, key: Any) -> int:
    """A slot for a new id; there is one free."""
    slot = a.scalars[FREE_SLOT]
    if slot >= 0:
        a.scalars[FREE_SLOT] = a.ints[slot, NEXT]
    else:
        slot = a.scalars[SLOTS]
        a.scalars[SLOTS] += 1
    a.keys[slot] = key
    a.ints[slot, :] = 0
    lookup_add(a, slot)
    link(a, slot)
    a.scalars[ENTITIES] += 1
    return slot


@njit(**HELPER)
def leave(a: Any, slot: int) -> None:
    """Give a slot back; its tag, when it is used again, is another."""
    lookup_remove(a, slot)
    unlink(a, slot)
    a.ints[slot, NEXT] = a.scalars[FREE_SLOT]
    a.scalars[FREE_SLOT] = slot
    a.scalars[ENTITIES] -= 1
    a.scalars[EVICTED] += 1


@njit(**HELPER)
def oldest(a: Any) -> int:
    """The slot that was idle for longest."""
    return a.scalars[OLDEST]


@njit(**HELPER)
def enter_item(a: Items, key: Any) -> int:
    """A new item's slot."""
    slot = enter(a, key)
    a.tags[slot] = (a.tags[slot] & ~_SLOT) | np.uint32(slot)
    a.alive[slot] = 1
    return slot


@njit(**HELPER)
def leave_item(a: Items, slot: int) -> None:
    """Let an item go."""
    leave(a, slot)
    a.alive[slot] = 0
    a.tags[slot] += _NEXT_TAG


@njit(**HELPER)
def enter_user(a: Users, key: Any) -> int:
    """A new user's slot, with an empty history."""
    slot = enter(a, key)
    a.ints[slot, CLASS] = -1
    a.last_ms[slot] = 0
    a.session[slot] = 0
    return slot


@njit(**HELPER)
def leave_user(a: Users, slot: int) -> None:
    """Let a user go with his history."""
    _release(a, slot)
    leave(a, slot)
    a.tags[slot] += np.uint32(1)


@njit(**HELPER)
def _release(a: Users, slot: int) -> None:
    size = a.ints[slot, CLASS]
    if size >= 0:
        # A free block holds where the next of its size begins.
        block = a.ints[slot, BLOCK]
        a.arena[block] = np.uint32(a.scalars[FREE_BLOCK + size] + 1)
        a.scalars[FREE_BLOCK + size] = block


@njit(**HELPER)
def _allocate(a: Users, size: int) -> int:
    block = a.scalars[FREE_BLOCK + size]
    if block >= 0:
        a.scalars[FREE_BLOCK + size] = np.int64(a.arena[block]) - 1
        return block
    block = a.scalars[ARENA]
    a.scalars[ARENA] = block + (1 << size)
    return block


@njit(**HELPER)
def remembered(a: Users, slot: int) -> int:
    """How many items of a user are remembered."""
    return a.ints[slot, COUNT]


@njit(**HELPER)
def ring(a: Users, slot: int) -> tuple[Any, Any, Any]:
    """Where a user's items lie in the arena: the beginning, the place of the last, and a mask of
    places; the last but ``q`` is at ``beginning + ((last - q) & mask)``."""
    mask = (1 << np.int64(a.ints[slot, CLASS])) - 1
    last = np.int64(a.ints[slot, HEAD]) + a.ints[slot, COUNT] - 1
    return np.int64(a.ints[slot, BLOCK]), last, mask


@njit(**HELPER)
def recent(a: Users, slot: int, q: int) -> Any:
    """The tag of the user's last item but ``q``."""
    begin, last, mask = ring(a, slot)
    return a.arena[np.uint64(begin + ((last - q) & mask))]


@njit(**HELPER)
def push(a: Users, slot: int, tag: Any) -> None:
    """Put an item at the end of a user's history; of a full one the first goes."""
    count, size = a.ints[slot, COUNT], a.ints[slot, CLASS]
    if size < 0 or (count == 1 << size and count < a.history[0]):
        block = _allocate(a, size + 1)
        for q in range(count):
            a.arena[block + count - 1 - q] = recent(a, slot, q)
        _release(a, slot)
        a.ints[slot, BLOCK] = block
        a.ints[slot, CLASS] = size + 1
        a.ints[slot, HEAD] = 0
    mask = (1 << a.ints[slot, CLASS]) - 1
    a.arena[a.ints[slot, BLOCK] + ((a.ints[slot, HEAD] + count) & mask)] = tag
    if count > mask:
        a.ints[slot, HEAD] = (a.ints[slot, HEAD] + 1) & mask
    else:
        a.ints[slot, COUNT] = count + 1
    a.ints[slot, TOTAL] += 1


def tables(items: int, users: int, places: int) -> tuple[Items, Users]:
    """Empty tables with room for so many items, users, and places of histories."""
    return (
        Items(*known(items), np.zeros(items, np.uint8)),
        Users(
            *known(users),
            np.zeros(users, np.int64),
            np.zeros(users, np.uint64),
            np.zeros(places, np.uint32),
            np.zeros(1, np.int64),
        ),
    )


def lookup_of(keys: U64, slots: I64, room: int) -> I32:
    """The hash index of these slots, for arrays of ``room`` slots: half empty at worst."""
    lookup = np.full(1 << max(2 * room - 1, 3).bit_length(), -1, np.int32)
    mask = len(lookup) - 1
    for slot in slots.tolist():
        at = int(keys[slot]) & mask
        while lookup[at] >= 0:
            at = (at + 1) & mask
        lookup[at] = slot
    return lookup


def known(slots: int) -> tuple[I64, I32, U64, I32, U32]:
    """An empty table of ids: scalars, lookup, keys, ints and tags."""
    scalars = np.full(SCALARS, -1, np.int64)
    scalars[[SLOTS, ARENA, ENTITIES, EVICTED, BOUND]] = 0
    keys = np.zeros(slots, np.uint64)
    none = np.zeros(0, np.int64)
    ints = np.zeros((slots, INTS), np.int32)
    return scalars, lookup_of(keys, none, slots), keys, ints, np.zeros(slots, np.uint32)
