"""Entry points of recommendation: rows learned in order, a request ranked, an id forgotten.

Every row is the same walk: who and what, the candidates, each member's scores, the stack, the ranks
where they are asked for, then learning. Ranking a request is its first half: the two can never
disagree. Where the arrays have no room for a row the walk stops before it and says so.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numba import int64, njit, uint64, void

from models.base import BOOL, F32, F64, I64, U8, U64
from models.kernels.common import RARE
from models.kernels.entry import entry
from models.kernels.reco.cooccurrence import (
    Cooccurrence,
    cooccurrence,
    forget_cooccurrence,
    learn_cooccurrence,
    score_cooccurrence,
)
from models.kernels.reco.popular import (
    Popular,
    forget_popular,
    learn_popular,
    popular,
    score_popular,
)
from models.kernels.reco.sessions import (
    Sessions,
    forget_sessions,
    learn_sessions,
    score_sessions,
    sessions,
)
from models.kernels.reco.stack import Stack, combine, context_of, learn_stack, stack
from models.kernels.reco.tables import (
    ARENA,
    I32,
    SITTING,
    TOTAL,
    Items,
    Users,
    enter_item,
    enter_user,
    has_room,
    is_full,
    leave_item,
    leave_user,
    oldest,
    push,
    recent,
    remembered,
    slot_of,
    tables,
)
from models.kernels.windows.entities import SLOTS, find, touch

# Places in ``control``: rows of the members' scores, -1 for a member that is not there.
POPULAR, COOCCURRENCE, SESSIONS = 0, 1, 2
MEMBERS = 3
SITTING_MS = 3  # a longer gap begins a new sitting
EXCLUDE_SEEN = 4  # whether what a user took is not shown again
CONTROLS = 5

LONGEST_MS = 1 << 50


class Everything(NamedTuple):
    """All that a recommender holds."""

    items: Items
    users: Users
    popular: Popular
    cooccurrence: Cooccurrence
    sessions: Sessions
    stack: Stack
    control: I64  # (CONTROLS,)
    shown: U8  # (S,): scratch, 1 for what may be shown


class Rows(NamedTuple):
    """Interactions as columns, in order."""

    time_ms: I64
    user: U64
    session: U64
    item: U64
    weight: F64
    value: F64


def smallest() -> Everything:
    """The types of all that a recommender holds."""
    items, users = tables(1, 1, 1)
    return Everything(
        items,
        users,
        popular(1, 10.0, 10.0),
        cooccurrence(1, 1, 1.0, 1.0, 1.0),
        sessions(items=1, users=1, entries=1, length=1, fade=1.0, reach=1.0, neighbours=1),
        stack(1, 1),
        np.zeros(CONTROLS, np.int64),
        np.zeros(1, np.uint8),
    )


_ROWS = numba.typeof(Rows(*(np.zeros(1, t) for t in ("i8", "u8", "u8", "u8", "f8", "f8"))))
_ALL = numba.typeof(smallest())


@njit(**RARE)
def _show(a: Everything, user: int, seen: int) -> None:
    """Mark what may be shown to a user: what is known, and not taken by him unless ``seen``."""
    for j in range(a.items.scalars[SLOTS]):
        a.shown[j] = a.items.alive[j]
    if user >= 0 and not seen:
        for q in range(remembered(a.users, user)):
            tag = recent(a.users, user, q)
            if a.items.tags[slot_of(tag)] == tag:
                a.shown[slot_of(tag)] = 0


@njit(**RARE)
def _candidates(a: Everything) -> int:
    """List what is marked."""
    n = 0
    for j in range(a.items.scalars[SLOTS]):
        a.stack.candidates[n] = j
        n += a.shown[j]
    return n


@njit(**RARE)
def _score(a: Everything, user: int) -> None:
    """Each member's scores of all items."""
    scores = a.stack.scores
    if a.control[POPULAR] >= 0:
        score_popular(a.popular, a.items.scalars[SLOTS], scores[a.control[POPULAR]])
    if a.control[COOCCURRENCE] >= 0:
        out = scores[a.control[COOCCURRENCE]]
        score_cooccurrence(a.cooccurrence, a.items, a.users, user, out)
    if a.control[SESSIONS] >= 0:
        score_sessions(a.sessions, a.items, a.users, user, scores[a.control[SESSIONS]])


@njit(**RARE)
def _learn(a: Everything, user: int, item: int, weight: float) -> None:
    """Each member learns a row."""
    if a.control[POPULAR] >= 0:
        learn_popular(a.popular, item, weight)
    if a.control[COOCCURRENCE] >= 0:
        learn_cooccurrence(a.cooccurrence, a.items, a.users, user, item, weight)
    if a.control[SESSIONS] >= 0:
        learn_sessions(a.sessions, a.users, user, item)


@njit(**RARE)
def _forget_item(a: Everything, item: int) -> None:
    if a.control[POPULAR] >= 0:
        forget_popular(a.popular, item)
    if a.control[COOCCURRENCE] >= 0:
        forget_cooccurrence(a.cooccurrence, item)
    if a.control[SESSIONS] >= 0:
        forget_sessions(a.sessions, item)
    leave_item(a.items, item)


@njit(**RARE)
def _forget_user(a: Everything, user: int) -> None:
    leave_user(a.users, user)


@njit(**RARE)
def _user(a: Everything, key: int) -> int:
    """The slot of a user, new or known; -1 for nobody."""
    if key == 0:
        return -1
    slot = find(a.users, key)
    if slot < 0:
        while is_full(a.users):
            _forget_user(a, oldest(a.users))
        return enter_user(a.users, key)
    touch(a.users, slot)
    return slot


@njit(**RARE)
def _item(a: Everything, key: int) -> int:
    slot = find(a.items, key)
    if slot < 0:
        while is_full(a.items):
            _forget_item(a, oldest(a.items))
        return enter_item(a.items, key)
    touch(a.items, slot)
    return slot


@njit(**RARE)
def _gap(a: Everything, user: int, time_ms: int) -> int:
    """How long ago the user's last row was."""
    if user < 0 or a.users.ints[user, TOTAL] == 0:
        return LONGEST_MS
    return min(max(time_ms - a.users.last_ms[user], 0), LONGEST_MS)


@njit(**RARE)
def _place(scores: F32, a: Everything, n: int, item: int) -> int:
    """1 + how many other candidates a member scores at least as high as this one."""
    least, place = scores[item], 1
    for c in range(n):
        other = a.stack.candidates[c]
        if other != item and scores[other] >= least:
            place += 1
    return place


@njit(**RARE)
def _choose(a: Everything, user: int, context: int, item: int, weight: float, ranks: I32) -> None:
    """Rank what may be shown, note the item's place, and let the stack learn the choice."""
    m = len(a.stack.shared)
    if len(ranks):
        ranks[m + 1] = a.users.ints[user, TOTAL] if user >= 0 else 0
    _show(a, user, a.control[EXCLUDE_SEEN] == 0)
    if item < 0 or a.shown[item] == 0:
        return
    n = _candidates(a)
    _score(a, user)
    combine(a.stack, context, n)
    chosen = 0
    while a.stack.candidates[chosen] != item:
        chosen += 1
    if len(ranks):
        for r in range(m):
            ranks[r] = _place(a.stack.scores[r], a, n, item)
        least, place = a.stack.utility[chosen], 0
        for c in range(n):
            place += a.stack.utility[c] >= least
        ranks[m] = place
    learn_stack(a.stack, context, n, chosen, weight)


@entry(int64(_ROWS, int64, numba.int32[:, ::1], _ALL))
def walk(rows: Rows, first: int, ranks: I32, a: Everything) -> int:
    """Learn rows from ``first`` on; the number of the row that found no room, else of all.

    ``ranks`` ``(n, m + 2)`` gets the place that each member, and the stack, gave the row's item
    before it was learned, 0 where it could not be shown, and how many its user took before;
    without rows none is noted.
    """
    nothing = ranks[:0, 0] if len(ranks) == 0 else ranks[0, :0]
    for i in range(first, len(rows.time_ms)):
        room = 2 * a.users.history[0] + a.users.scalars[ARENA] <= len(a.users.arena)
        if not (room and has_room(a.items) and has_room(a.users)):
            return i
        if rows.weight[i] <= 0.0 or rows.item[i] == 0:
            continue
        user = _user(a, rows.user[i] if rows.user[i] != 0 else rows.session[i])
        gap = _gap(a, user, rows.time_ms[i])
        context = context_of(a.users, user, gap, a.control[SITTING_MS])
        item = find(a.items, rows.item[i])
        _choose(a, user, context, item, rows.weight[i], ranks[i] if len(ranks) else nothing)
        item = _item(a, rows.item[i])
        _learn(a, user, item, rows.weight[i])
        if user >= 0:
            if gap > a.control[SITTING_MS] or rows.session[i] != a.users.session[user]:
                a.users.ints[user, SITTING] = a.users.ints[user, TOTAL]
            push(a.users, user, a.items.tags[item])
            a.users.last_ms[user] = max(rows.time_ms[i], a.users.last_ms[user])
            a.users.session[user] = rows.session[i]
    return len(rows.time_ms)


@entry(int64(uint64, int64, int64, uint64[::1], uint64[::1], _ALL))
def rank(key: int, time_ms: int, seen: int, only: U64, never: U64, a: Everything) -> int:
    """Score for a user what may be shown to him: the number of candidates.

    Of ``only`` these items where there are any; never those of ``never``.
    """
    user = find(a.users, key) if key != 0 else -1
    _show(a, user, seen)
    for k in range(len(never)):
        item = find(a.items, never[k])
        if item >= 0:
            a.shown[item] = 0
    n = 0
    if len(only):
        for k in range(len(only)):
            item = find(a.items, only[k])
            if item >= 0 and a.shown[item]:
                a.stack.candidates[n] = item
                a.shown[item] = 0
                n += 1
    else:
        n = _candidates(a)
    _score(a, user)
    context = context_of(a.users, user, _gap(a, user, time_ms), a.control[SITTING_MS])
    combine(a.stack, context, n)
    return n


@entry(void(uint64[::1], numba.boolean[::1], _ALL))
def known(keys: U64, found: BOOL, a: Everything) -> None:
    """Which items there are."""
    for k in range(len(keys)):
        found[k] = find(a.items, keys[k]) >= 0


@entry(int64(uint64, _ALL))
def history_of(key: int, a: Everything) -> int:
    """How many items of a user are remembered; 0 for an unknown one."""
    slot = find(a.users, key)
    return remembered(a.users, slot) if slot >= 0 else 0


@entry(void(uint64, _ALL))
def forget_user(key: int, a: Everything) -> None:
    """Let a user go, if he is known."""
    slot = find(a.users, key)
    if slot >= 0:
        _forget_user(a, slot)


@entry(void(uint64, _ALL))
def forget_item(key: int, a: Everything) -> None:
    """Let an item go, if it is known."""
    slot = find(a.items, key)
    if slot >= 0:
        _forget_item(a, slot)
