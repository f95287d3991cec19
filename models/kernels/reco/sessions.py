"""Users who did alike: what was taken near the user's last items in other users' histories.

As V-SKNN and STAN [1]_ do it: users whose histories hold the same last items are neighbours, and
what stands near those items in their histories is scored by how near.

.. [1] D. Garg et al., "Sequence and time aware neighborhood for session-based recommendations:
   STAN", SIGIR 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F32, U64
from models.kernels.common import HELPER, RARE
from models.kernels.reco.stack import largest
from models.kernels.reco.tables import (
    I32,
    TOTAL,
    Items,
    Users,
    recent,
    remembered,
    ring,
    slot_of,
)

_LOW = np.uint64(0xFFFFFFFF)


class Sessions(NamedTuple):
    """Who took each item last, and where in his history; ``S`` item slots, ``U`` user slots."""

    users: U64  # (S, E): tag << 32 | slot
    places: I32  # (S, E): the item's place in the user's history
    taken: I32  # (S,): how often the item was taken
    damp: F32  # (S,): what scores of the item are multiplied with
    near: F32  # (L,): what the user's last item but q counts for
    after: F32  # (R,): what stands d places after counts for
    before: F32  # (R,): what stands d places before counts for
    most: I32  # (1,): neighbours at most
    alike: F32  # (U,): scratch
    match: I32  # (U,): scratch
    found: I32  # (L * E,): scratch
    sorted: F32  # (L * E,): scratch


def sessions(
    *,
    items: int,
    users: int,
    entries: int,
    length: int,
    fade: float,
    reach: float,
    back: float,
    neighbours: int,
) -> Sessions:
    """An empty table with room for so many items and users."""
    after = np.exp(-np.arange(int(3 * reach) + 1) / reach)
    return Sessions(
        np.zeros((items, entries), np.uint64),
        np.zeros((items, entries), np.int32),
        np.zeros(items, np.int32),
        np.zeros(items, np.float32),
        np.exp(-np.arange(length) / fade).astype(np.float32),
        after.astype(np.float32),
        (back * after).astype(np.float32),
        np.array([neighbours], np.int32),
        np.zeros(users, np.float32),
        np.zeros(users, np.int32),
        np.zeros(length * entries, np.int32),
        np.zeros(length * entries, np.float32),
    )


@njit(**RARE)
def _neighbours(a: Sessions, items: Items, users: Users, user: int) -> int:
    """Fill ``found`` with the users that hold the user's last items, ``alike`` by how many."""
    entries = a.users.shape[1]
    n = 0
    for q in range(min(remembered(users, user), len(a.near))):
        tag = recent(users, user, q)
        row = slot_of(tag)
        if items.tags[row] != tag:
            continue
        weight = a.near[q]
        for e in range(min(a.taken[row], entries)):
            other = np.int64(a.users[row, e] & _LOW)
            if other == user or users.tags[other] != np.uint32(a.users[row, e] >> np.uint64(32)):
                continue
            if a.alike[other] == 0.0:
                a.found[n] = other
                a.match[other] = a.places[row, e]
                n += 1
            a.alike[other] += weight
    return n


@njit(**HELPER)
def _add_near(
    a: Sessions, items: Items, users: Users, other: int, middle: int, strength: float, out: F32
) -> None:
    """Add what a neighbour took near his last item but ``middle``, by how near.

    Where his ring lies is read once: with ``out`` written in between it would be at every item.
    """
    block, last, mask = ring(users, other)
    first = max(middle - len(a.after) + 1, 0)
    end = min(middle + len(a.before), remembered(users, other))
    for q in range(first, min(middle + 1, end)):
        tag = users.arena[np.uint64(block + ((last - q) & mask))]
        slot = slot_of(tag)
        if items.tags[slot] == tag:
            out[slot] += strength * a.after[np.uint64(middle - q)]
    for q in range(max(first, middle + 1), end):
        tag = users.arena[np.uint64(block + ((last - q) & mask))]
        slot = slot_of(tag)
        if items.tags[slot] == tag:
            out[slot] += strength * a.before[np.uint64(q - middle)]


@njit(**RARE)
def score_sessions(a: Sessions, items: Items, users: Users, user: int, out: F32) -> None:
    """Add up what the nearest neighbours took near the items that they share with the user."""
    known = items.scalars[0]
    for j in range(known):
        out[j] = np.float32(0.0)
    if user < 0:
        return
    n = _neighbours(a, items, users, user)
    k, least = min(n, a.most[0]), np.float32(0.0)
    if k < n:
        for f in range(n):
            a.sorted[f] = a.alike[a.found[f]]
        least = largest(a.sorted, n, k)
    for f in range(n):
        other = a.found[f]
        alike = a.alike[other]
        a.alike[other] = 0.0
        if alike < least or k == 0:
            continue
        k -= 1
        middle = users.ints[other, TOTAL] - 1 - a.match[other]
        _add_near(a, items, users, other, middle, alike * np.sqrt(alike), out)
    for j in range(known):
        out[j] *= a.damp[j]


@njit(**RARE)
def learn_sessions(a: Sessions, users: Users, user: int, item: int) -> None:
    """Note who takes the item; of a full row the oldest entry goes."""
    if user < 0:
        return
    at = a.taken[item] % a.users.shape[1]
    a.users[item, at] = (np.uint64(users.tags[user]) << np.uint64(32)) | np.uint64(user)
    a.places[item, at] = users.ints[user, TOTAL]
    a.taken[item] += 1
    a.damp[item] = np.float32((a.taken[item] + 5.0) ** -0.1)


@njit(**RARE)
def forget_sessions(a: Sessions, item: int) -> None:
    """Know nobody who took the item."""
    a.taken[item] = 0
    a.damp[item] = 0.0
