"""Entities on their way from one table to another: found, listed by idleness, copied whole."""

from __future__ import annotations

import numba

from models.base import I64, U64
from models.kernels.entry import entry
from models.kernels.windows.entities import (
    BLOCK,
    CLASS,
    COUNT,
    ENTITIES,
    HEAD,
    NEXT,
    OLDEST,
    SLOTS,
    Arrays,
    allocate,
    find,
    link,
    lookup_add,
    newest_time,
    place,
)
from models.kernels.windows.updates import _ARRAYS, _I64, _U64


@entry(numba.void(_ARRAYS, _U64, _I64))
def slots(a: Arrays, keys: U64, out: I64) -> None:
    """The slot of each key, -1 where it is not held."""
    for i in range(len(keys)):
        out[i] = find(a, keys[i])


@entry(numba.void(_ARRAYS, _I64, _I64, _I64))
def idle(a: Arrays, out: I64, times: I64, places: I64) -> None:
    """Every slot in use, the longest idle first; its newest event's time and its block's length."""
    slot = a.scalars[OLDEST]
    for i in range(len(out)):
        out[i] = slot
        times[i] = newest_time(a, slot)
        places[i] = 1 << a.ints[slot, CLASS]
        slot = a.ints[slot, NEXT]


@entry(numba.void(_ARRAYS, _I64, _ARRAYS))
def copy_all(a: Arrays, chosen: I64, to: Arrays) -> None:
    """Append these slots to another table, which has room and holds none of them."""
    for slot in chosen:
        at = to.scalars[SLOTS]
        to.scalars[SLOTS] = at + 1
        to.keys[at], to.first[at] = a.keys[slot], a.first[slot]
        block = allocate(to, a.ints[slot, CLASS])
        for i in range(a.ints.shape[1]):
            to.ints[at, i] = a.ints[slot, i]
        for k in range(a.sums.shape[1]):
            for i in range(3):
                to.sums[at, k, i] = a.sums[slot, k, i]
        for i in range(a.ints[slot, COUNT]):
            to.times[block + i] = a.times[place(a, slot, i)]
            to.values[block + i] = a.values[place(a, slot, i)]
        to.ints[at, BLOCK] = block
        to.ints[at, HEAD] = 0
        lookup_add(to, at)
        link(to, at)
        to.scalars[ENTITIES] += 1
