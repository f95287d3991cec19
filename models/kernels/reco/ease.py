"""EASE, exact and online: which items foretell each item, by one ridge regression kept up to date.

EASE [1]_ predicts each item from all others: with ``A = X'X + ridge I`` of the users' items ``X``
and ``P`` its inverse, the weights are ``-P[i, j] / P[j, j]``. A user whose items ``x`` became ``y``
changes ``A`` by ``yy' - xx'``, hence ``P`` by one update of rank two (Woodbury's identity). Users
wait in a queue, so that a sitting is one update: who waits for how long follows from the order of
rows alone. Sums run in one order: no library of linear algebra, whose bits depend on its threads.

Only so many items have a place in ``P``; for a place that another item should have, the hand of a
clock goes round and takes a point off each item until one has none left. An item that leaves is
taken out of ``A`` exactly (``P`` loses ``P[:, k] P[k, :] / P[k, k]``); one that enters counts from
the next update of each user on who took it. Of a user, every 512 items count as one user more:
what an update takes off must still be remembered.

.. [1] H. Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from models.base import F32, I64, U32
from models.kernels.common import RARE
from models.kernels.reco.tables import I32, TOTAL, Items, Users, recent, remembered, slot_of

QUEUE = 64
"""Users that wait for their update at most."""
POINTS = 16
"""What an item in ``P`` can have to its credit at most: one for each time that it was taken."""
READINGS = 3
LONG = 10
"""Beside the usual reading there is one in which items fade so many times as slowly."""
MOST = 512
"""Items of a user, or as many as are remembered, after which he counts as another."""
TURN = 64
"""Rows of items without a place for each step of the hand: a replaced item costs an update."""

# Places in ``clock``.
USED = 0  # places that were ever used
HAND = 1
TURNS = 2  # rows of items without a place since the hand moved
UPDATES = 3
WAITING = 4  # users in the queue
FIRST = 5  # the one that waited longest
CLOCKS = 6


class Ease(NamedTuple):
    """The inverse and who has a place in it; ``S`` item slots, ``U`` user slots, ``K`` places."""

    inverse: F32  # (K, K)
    clock: I64  # (CLOCKS,)
    item: I32  # (K,): slot of the place's item, -1 where it is free
    points: I32  # (K,)
    since: I64  # (K,): updates made before the item had the place
    place: I32  # (S,): 1 + the item's place, 0 without
    applied: I32  # (U,): of the user's items, those that ``P`` knows of
    updated: I64  # (U,): updates made, his included, when he was last in one
    waits: U32  # (U,): 1 + the tag of a user who is in the queue, 0 for others
    queue: I32  # (QUEUE,)
    near: F32  # (L, 2): what the user's last item but q counts for, usually and for long
    numbers: F32  # (2,): ridge, items of a user before his update is due
    mark: I32  # (K,): scratch, 1 for an item of x, 2 for one of y alone
    left: F32  # (K,): scratch, P y
    right: F32  # (K,): scratch, P x


def ease(
    *,
    items: int,
    users: int,
    places: int,
    ridge: float,
    length: int,
    fade: float,
    floor: float,
    batch: int,
) -> Ease:
    """A table without items."""
    return Ease(
        np.zeros((places, places), np.float32),
        np.zeros(CLOCKS, np.int64),
        np.full(places, -1, np.int32),
        np.zeros(places, np.int32),
        np.zeros(places, np.int64),
        np.zeros(items, np.int32),
        np.zeros(users, np.int32),
        np.zeros(users, np.int64),
        np.zeros(users, np.uint32),
        np.zeros(QUEUE, np.int32),
        (np.exp(-np.arange(length)[:, None] / (fade * np.array([1, LONG]))) + floor).astype("f4"),
        np.array([ridge, batch], np.float32),
        np.zeros(places, np.int32),
        np.zeros(places, np.float32),
        np.zeros(places, np.float32),
    )


@njit(**RARE)
def score_ease(a: Ease, items: Items, users: Users, user: int, out: F32) -> None:
    """Fill ``out`` ``(READINGS, S)``: the weights from the user's last items to each item with a
    place, added up; once more the same; and with the slower fade."""
    for r in range(READINGS):
        for j in range(items.scalars[0]):
            out[r, j] = np.float32(0.0)
    if user < 0:
        return
    used, usual, long = a.clock[USED], a.left, a.right
    for j in range(used):
        usual[j] = np.float32(0.0)
        long[j] = np.float32(0.0)
    for q in range(min(remembered(users, user), len(a.near))):
        tag = recent(users, user, q)
        place = a.place[slot_of(tag)] - 1
        if place < 0 or items.tags[slot_of(tag)] != tag:
            continue
        row, f, g = a.inverse[place], a.near[q, 0], a.near[q, 1]
        own, own_long = usual[place], long[place]
        for j in range(used):
            usual[j] -= f * row[j]
            long[j] -= g * row[j]
        usual[place], long[place] = own, own_long
    for j in range(used):
        slot = a.item[j]
        if slot >= 0:
            out[0, slot] = usual[j] / a.inverse[j, j]
            out[1, slot] = out[0, slot]
            out[2, slot] = long[j] / a.inverse[j, j]


@njit(**RARE)
def _mark(a: Ease, items: Items, users: Users, user: int) -> None:
    """Mark the places of what the user had at his last update, and of what he has now."""
    total, applied = users.ints[user, TOTAL], a.applied[user]
    most = min(MOST, users.history[0])
    first = (total - 1) // most * most
    for q in range(min(total - first, remembered(users, user))):
        tag = recent(users, user, q)
        place = a.place[slot_of(tag)] - 1
        if place < 0 or items.tags[slot_of(tag)] != tag:
            continue
        old = total - 1 - q < applied and a.since[place] < a.updated[user]
        if old:
            a.mark[place] = 1
        elif a.mark[place] == 0:
            a.mark[place] = 2


@njit(**RARE)
def _sums(a: Ease) -> Any:
    """Fill ``left`` with ``P y`` and ``right`` with ``P x``; ``y'Py``, ``x'Py`` and ``x'Px``."""
    used = a.clock[USED]
    for j in range(used):
        a.left[j] = np.float32(0.0)
        a.right[j] = np.float32(0.0)
    for k in range(used):
        if a.mark[k]:
            row = a.inverse[k]
            for j in range(used):
                a.left[j] += row[j]
            if a.mark[k] == 1:
                for j in range(used):
                    a.right[j] += row[j]
    yy, xy, xx = 0.0, 0.0, 0.0
    for k in range(used):
        if a.mark[k]:
            yy += a.left[k]
            if a.mark[k] == 1:
                xy += a.left[k]
                xx += a.right[k]
    return yy, xy, xx


@njit(**RARE)
def _update(a: Ease, items: Items, users: Users, user: int) -> None:
    """Let ``P`` know of what the user took since his last update."""
    used = a.clock[USED]
    _mark(a, items, users, user)
    changed = False
    for k in range(used):
        changed |= a.mark[k] == 2
    a.clock[UPDATES] += 1
    a.applied[user] = users.ints[user, TOTAL]
    a.updated[user] = a.clock[UPDATES]
    if changed:
        yy, xy, xx = _sums(a)
        # The inverse of [[1 + y'Py, y'Px], [x'Py, x'Px - 1]].
        scale = 1.0 / ((1.0 + yy) * (xx - 1.0) - xy * xy)
        for i in range(used):
            left, right = a.left[i], a.right[i]
            f = np.float32(scale * ((xx - 1.0) * left - xy * right))
            g = np.float32(scale * ((1.0 + yy) * right - xy * left))
            row = a.inverse[i]
            for j in range(used):
                row[j] -= f * a.left[j] + g * a.right[j]
    for k in range(used):
        a.mark[k] = 0


@njit(**RARE)
def _clear(a: Ease, place: int) -> None:
    """Take a place's item out of ``A``."""
    used = a.clock[USED]
    for j in range(used):
        a.left[j] = a.inverse[place, j]
    for i in range(used):
        f = a.left[i] / a.left[place]
        row = a.inverse[i]
        for j in range(used):
            row[j] -= f * a.left[j]
        row[place] = np.float32(0.0)
    for j in range(used):
        a.inverse[place, j] = np.float32(0.0)
    a.inverse[place, place] = np.float32(1.0 / a.numbers[0])
    a.place[a.item[place]] = 0
    a.item[place] = -1


@njit(**RARE)
def _free(a: Ease) -> int:
    """A place for an item that has none, or -1."""
    used = a.clock[USED]
    if used < len(a.item):
        a.clock[USED] += 1
        for j in range(used):
            a.inverse[used, j] = np.float32(0.0)
            a.inverse[j, used] = np.float32(0.0)
        a.inverse[used, used] = np.float32(1.0 / a.numbers[0])
        return used
    a.clock[TURNS] += 1
    if a.clock[TURNS] < TURN:
        return -1
    a.clock[TURNS] = 0
    hand = a.clock[HAND]
    a.clock[HAND] = (hand + 1) % used
    if a.item[hand] >= 0:
        if a.points[hand] > 0:
            a.points[hand] -= 1
            return -1
        _clear(a, hand)
    return hand


@njit(**RARE)
def place_ease(a: Ease, item: int) -> None:
    """Give an item that is taken a place, or a point to its credit."""
    if a.place[item]:
        place = a.place[item] - 1
        a.points[place] = min(a.points[place] + 1, POINTS)
        return
    place = _free(a)
    if place >= 0:
        a.item[place] = item
        a.points[place] = 1
        a.since[place] = a.clock[UPDATES]
        a.place[item] = place + 1


@njit(**RARE)
def learn_ease(a: Ease, items: Items, users: Users, user: int) -> None:
    """After the row is in its user's history: queue the user, update whoever is due."""
    if user < 0:
        return
    total = users.ints[user, TOTAL]
    if total - a.applied[user] >= a.numbers[1] or total % min(MOST, users.history[0]) == 0:
        _update(a, items, users, user)
        return
    if a.waits[user] == users.tags[user] + np.uint32(1):
        return
    if a.clock[WAITING] == QUEUE:
        due = a.queue[a.clock[FIRST]]
        a.clock[FIRST] = (a.clock[FIRST] + 1) % QUEUE
        a.clock[WAITING] -= 1
        if a.waits[due] == users.tags[due] + np.uint32(1):
            a.waits[due] = 0
            if users.ints[due, TOTAL] > a.applied[due]:
                _update(a, items, users, due)
    a.queue[(a.clock[FIRST] + a.clock[WAITING]) % QUEUE] = user
    a.clock[WAITING] += 1
    a.waits[user] = users.tags[user] + np.uint32(1)


@njit(**RARE)
def forget_ease(a: Ease, item: int) -> None:
    """Take an item out."""
    if a.place[item]:
        _clear(a, a.place[item] - 1)


@njit(**RARE)
def leave_ease(a: Ease, user: int) -> None:
    """Forget of a user which of his items ``P`` knows of."""
    a.applied[user] = 0
    a.updated[user] = 0
    a.waits[user] = 0
