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
from models.kernels.reco.ease import (
    Ease,
    ease,
    forget_ease,
    learn_ease,
    leave_ease,
    place_ease,
    score_ease,
)
from models.kernels.reco.factors import (
    Bpr,
    Eals,
    add_outer,
    bpr,
    clear,
    draw,
    eals,
    learn_bpr,
    learn_eals,
    score_factors,
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
from models.kernels.reco.stack import (
    AS_IT_IS,
    DEVIATION,
    SHARE,
    Stack,
    add_best,
    combine,
    context_of,
    fade,
    learn_stack,
    reward,
    stack,
)
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
from models.kernels.windows.entities import BLOCK, CLASS, COUNT, HEAD, SLOTS, find, touch

# Places in ``control``: rows of the members' scores, -1 for a member that is not there.
POPULAR, COOCCURRENCE, SESSIONS, EASE, BPR, EALS = range(6)
MEMBERS = 6
SITTING_MS = MEMBERS  # a longer gap begins a new sitting
SEEN = MEMBERS + 1  # whether what a user took is shown again: one of the three below
CONTROLS = MEMBERS + 2

KINDS = {
    "popular": [SHARE, SHARE, AS_IT_IS],
    "cooccurrence": [SHARE, SHARE, SHARE],
    "sessions": [SHARE],
    "ease": [SHARE, DEVIATION, DEVIATION],
    "bpr": [DEVIATION],
    "eals": [DEVIATION],
}
"""Members, in the order of their places in ``control``: how the stack takes each of their rows of
scores. The first is the member's ranking."""

EXCLUDE, INCLUDE, DECAY = range(3)
"""What a user took is not shown to him, is, or the less the later he took it."""

RANK, LEARN, FOLLOW = 1, 2, 3
"""What a walk does."""

LIMIT = 5000
"""So many items are candidates, where they are asked for, though they are none of the best."""

TAKEN = -1
"""The rank of an item that is not shown to its user since he took it before."""

LONGEST_MS = 1 << 50


class Everything(NamedTuple):
    """All that a recommender holds."""

    items: Items
    users: Users
    popular: Popular
    cooccurrence: Cooccurrence
    sessions: Sessions
    ease: Ease
    bpr: Bpr
    eals: Eals
    stack: Stack
    control: I64  # (CONTROLS,)
    back: F32  # (H,): added to a logit where what the user took last but q comes back
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
        sessions(
            items=1, users=1, entries=1, length=1, fade=1.0, reach=1.0, back=1.0, neighbours=1
        ),
        ease(items=1, users=1, places=1, ridge=1.0, length=1, fade=1.0, floor=0.0, batch=1),
        bpr(items=1, users=1, seed=0, factors=1, rate=0.0, regularisation=0.0, negatives=0),
        eals(items=1, users=1, seed=0, factors=1, missing=0.0, regularisation=0.0),
        stack([0], [0], 1),
        np.zeros(CONTROLS, np.int64),
        np.zeros(1, np.float32),
        np.zeros(1, np.uint8),
    )


_ROWS = numba.typeof(Rows(*(np.zeros(1, t) for t in ("i8", "u8", "u8", "u8", "f8", "f8"))))
_ALL = numba.typeof(smallest())


@njit(**RARE)
def _show(a: Everything, user: int, seen: int) -> None:
    """Mark what may be shown to a user: what is known, and not taken by him if ``EXCLUDE``."""
    for j in range(a.items.scalars[SLOTS]):
        a.shown[j] = a.items.alive[j]
    if user >= 0 and seen == EXCLUDE:
        for q in range(remembered(a.users, user)):
            tag = recent(a.users, user, q)
            if a.items.tags[slot_of(tag)] == tag:
                a.shown[slot_of(tag)] = 0


@njit(**RARE)
def _shown(a: Everything) -> int:
    """How many items may be shown."""
    n = 0
    for j in range(a.items.scalars[SLOTS]):
        n += a.shown[j] > 0
    return n


@njit(**RARE)
def _candidates(a: Everything, count: int) -> int:
    """List the best of what is marked by each member; all of it where these are fewer than
    ``count``, unless more than ``LIMIT`` are wanted."""
    n, slots = 0, a.items.scalars[SLOTS]
    for r in a.stack.member:
        n = add_best(a.stack, r, a.shown, slots, n)
    wanted = min(count, _shown(a))
    if n < wanted and wanted <= LIMIT:
        n = 0
        for j in range(slots):
            a.stack.candidates[n] = j
            n += a.shown[j] > 0
    return n


@njit(**RARE)
def _score(a: Everything, user: int) -> None:
    """Each member's scores of all items."""
    scores = a.stack.scores
    if a.control[POPULAR] >= 0:
        score_popular(a.popular, a.items, a.users, user, scores[a.control[POPULAR] :])
    if a.control[COOCCURRENCE] >= 0:
        out = scores[a.control[COOCCURRENCE] :]
        score_cooccurrence(a.cooccurrence, a.items, a.users, user, out)
    if a.control[SESSIONS] >= 0:
        score_sessions(a.sessions, a.items, a.users, user, scores[a.control[SESSIONS]])
    if a.control[EASE] >= 0:
        score_ease(a.ease, a.items, a.users, user, scores[a.control[EASE] :])
    n = a.items.scalars[SLOTS]
    if a.control[BPR] >= 0:
        out = scores[a.control[BPR]]
        score_factors(a.bpr.users, a.bpr.items, a.bpr.bias, n, user, out)
    if a.control[EALS] >= 0:
        out = scores[a.control[EALS]]
        score_factors(a.eals.users, a.eals.items, a.eals.items[0, :0], n, user, out)


@njit(**RARE)
def _learn(a: Everything, user: int, item: int, weight: float) -> None:
    """Each member learns a row."""
    if a.control[POPULAR] >= 0:
        learn_popular(a.popular, item, weight)
    if a.control[COOCCURRENCE] >= 0:
        learn_cooccurrence(a.cooccurrence, a.items, a.users, user, item, weight)
    if a.control[SESSIONS] >= 0:
        learn_sessions(a.sessions, a.users, user, item)
    if a.control[EASE] >= 0:
        place_ease(a.ease, item)
    if a.control[BPR] >= 0:
        learn_bpr(a.bpr, a.items, user, item, weight)


@njit(**RARE)
def _learn_after(a: Everything, user: int, item: int) -> None:
    """Members that learn from whole histories learn when the row is in its user's."""
    if a.control[EASE] >= 0:
        learn_ease(a.ease, a.items, a.users, user)
    if a.control[EALS] >= 0:
        learn_eals(a.eals, a.items, a.users, user, item)


@njit(**RARE)
def _forget_item(a: Everything, item: int) -> None:
    if a.control[POPULAR] >= 0:
        forget_popular(a.popular, item)
    if a.control[COOCCURRENCE] >= 0:
        forget_cooccurrence(a.cooccurrence, item)
    if a.control[SESSIONS] >= 0:
        forget_sessions(a.sessions, item)
    if a.control[EASE] >= 0:
        forget_ease(a.ease, item)
    if a.control[EALS] >= 0:
        add_outer(a.eals.item_sum, a.eals.items, item, -1.0)
        clear(a.eals.items, item)
        a.eals.taken[item] = 0
    leave_item(a.items, item)


@njit(**RARE)
def _forget_user(a: Everything, user: int) -> None:
    if a.control[EASE] >= 0:
        leave_ease(a.ease, user)
    if a.control[EALS] >= 0:
        add_outer(a.eals.user_sum, a.eals.users, user, -1.0)
        clear(a.eals.users, user)
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
        slot = enter_user(a.users, key)
        if a.control[BPR] >= 0:
            draw(a.bpr.users, slot, a.bpr.rng)
        if a.control[EALS] >= 0:
            draw(a.eals.users, slot, a.eals.rng)
            add_outer(a.eals.user_sum, a.eals.users, slot, 1.0)
        return slot
    touch(a.users, slot)
    return slot


@njit(**RARE)
def _item(a: Everything, key: int) -> int:
    slot = find(a.items, key)
    if slot < 0:
        while is_full(a.items):
            _forget_item(a, oldest(a.items))
        slot = enter_item(a.items, key)
        if a.control[BPR] >= 0:
            draw(a.bpr.items, slot, a.bpr.rng)
            a.bpr.bias[slot] = 0.0
        if a.control[EALS] >= 0:
            draw(a.eals.items, slot, a.eals.rng)
            add_outer(a.eals.item_sum, a.eals.items, slot, 1.0)
        return slot
    touch(a.items, slot)
    return slot


@njit(**RARE)
def _gap(a: Everything, user: int, time_ms: int) -> int:
    """How long ago the user's last row was."""
    if user < 0 or a.users.ints[user, TOTAL] == 0:
        return LONGEST_MS
    return min(max(time_ms - a.users.last_ms[user], 0), LONGEST_MS)


@njit(**RARE)
def _place(scores: F32, a: Everything, item: int) -> int:
    """1 + how many others that can be shown a member scores at least as high as this one."""
    least, place = scores[item], 0
    for j in range(a.items.scalars[SLOTS]):
        place += (scores[j] >= least) & (a.shown[j] > 0)
    return place


@njit(**RARE)
def _stack_places(a: Everything, n: int, item: int) -> tuple[int, int, int]:
    """Where the item is among the ``n`` candidates, by the answer, by the stack; 0 where it is not
    one of them."""
    chosen = -1
    for c in range(n):
        if a.stack.candidates[c] == item:
            chosen = c
    if chosen < 0:
        return -1, 0, 0
    answer, mine, place, stacks = a.stack.answer[chosen], a.stack.utility[chosen], 0, 0
    for c in range(n):
        place += a.stack.answer[c] >= answer
        stacks += a.stack.utility[c] >= mine
    return chosen, place, stacks


@njit(**RARE)
def _choose(
    a: Everything, user: int, context: tuple[int, int], item: int, weight: float, ranks: I32
) -> None:
    """Rank what may be shown, note the item's place, and let the stack learn the choice."""
    m = len(a.stack.member)
    if len(ranks):
        ranks[m + 1] = a.users.ints[user, TOTAL] if user >= 0 else 0
    seen = a.control[SEEN]
    _show(a, user, seen)
    if item < 0:
        return
    if a.shown[item] == 0:
        if len(ranks):
            ranks[: m + 1] = TAKEN
        return
    _score(a, user)
    n = _candidates(a, 0)
    combine(a.stack, context, n)
    if seen == DECAY:
        fade(a.stack, a.users, a.items, user, a.back, n)
    chosen, place, stacks = _stack_places(a, n, item)
    if chosen < 0:
        # As good as none: behind all that may be shown.
        place = stacks = _shown(a)
    for e in range(m):
        theirs = _place(a.stack.scores[a.stack.member[e]], a, item)
        reward(a.stack, e, theirs)
        if len(ranks):
            ranks[e] = theirs
    reward(a.stack, m, stacks)
    if len(ranks):
        ranks[m] = place
    if chosen >= 0:
        learn_stack(a.stack, context, n, chosen, weight)


@njit(**RARE)
def _lend(a: Everything, user: int, given: U64) -> None:
    """Let a user have taken these items last; his own history stays where it is."""
    users = a.users
    most, block, n = users.history[0], users.scalars[ARENA], 0
    for k in range(len(given)):
        n += find(a.items, given[k]) >= 0
    own = max(min(remembered(users, user), most - n), 0)
    for q in range(own):
        users.arena[block + own - 1 - q] = recent(users, user, q)
    count, size = own, 0
    for k in range(len(given)):
        item = find(a.items, given[k])
        if item >= 0 and count < most:
            users.arena[block + count] = a.items.tags[item]
            count += 1
    while 1 << size < most:
        size += 1
    ints = users.ints[user]
    ints[BLOCK], ints[CLASS], ints[HEAD], ints[COUNT] = block, size, 0, count
    ints[TOTAL] += count - own


@njit(**RARE)
def _lend_vector(users: F32, items: F32, user: int, a: Everything) -> None:
    """Give a user the mean of the vectors of his items."""
    n = remembered(a.users, user)
    for f in range(users.shape[1]):
        total = np.float32(0.0)
        for q in range(n):
            total += items[slot_of(recent(a.users, user, q)), f]
        users[user, f] = total / np.float32(n)


@njit(**RARE)
def _score_given(a: Everything, user: int, given: U64, gap: int) -> tuple[int, int]:
    """Score all items for a user who has just looked at some: the context he is in.

    A stranger is one in the first free slot, which the owner keeps.
    """
    slot = user if user >= 0 else a.users.scalars[SLOTS]
    ints = a.users.ints[slot]
    if user < 0:
        ints[:] = 0
        ints[CLASS] = -1
    block, size, head = ints[BLOCK], ints[CLASS], ints[HEAD]
    count, total = ints[COUNT], ints[TOTAL]
    _lend(a, slot, given)
    if user < 0 and ints[COUNT] > 0:
        if a.control[BPR] >= 0:
            _lend_vector(a.bpr.users, a.bpr.items, slot, a)
        if a.control[EALS] >= 0:
            _lend_vector(a.eals.users, a.eals.items, slot, a)
    heard = ints[TOTAL] > total
    _score(a, slot if heard or user >= 0 else -1)
    context = context_of(a.users, slot, 0 if heard else gap, a.control[SITTING_MS])
    for k in range(ints[COUNT]):
        a.users.arena[ints[BLOCK] + k] = 0  # free places are empty, in every state
    ints[BLOCK], ints[CLASS], ints[HEAD] = block, size, head
    ints[COUNT], ints[TOTAL] = count, total
    return context


@njit(**RARE)
def _rank(
    a: Everything, user: int, gap: int, seen: int, count: int, only: U64, never: U64, given: U64
) -> int:
    """Score what may be shown to a user who looks at what is given: the number of candidates."""
    _show(a, user, seen)
    for k in range(len(never)):
        item = find(a.items, never[k])
        if item >= 0:
            a.shown[item] = 0
    if len(given):
        context = _score_given(a, user, given, gap)
    else:
        context = context_of(a.users, user, gap, a.control[SITTING_MS])
        _score(a, user)
    n = 0
    for k in range(len(only)):
        item = find(a.items, only[k])
        if item >= 0 and a.shown[item]:
            a.stack.candidates[n] = item
            a.shown[item] = 0
            n += 1
    if len(only) == 0:
        n = _candidates(a, count)
    combine(a.stack, context, n)
    if seen == DECAY:
        fade(a.stack, a.users, a.items, user, a.back, n)
    return n


@njit(**RARE)
def _learn_row(a: Everything, rows: Rows, i: int, user: int, gap: int) -> None:
    """Each member learns a row, and it enters its user's history."""
    item = _item(a, rows.item[i])
    _learn(a, user, item, rows.weight[i])
    if user >= 0:
        if gap > a.control[SITTING_MS] or rows.session[i] != a.users.session[user]:
            a.users.ints[user, SITTING] = a.users.ints[user, TOTAL]
        push(a.users, user, a.items.tags[item])
        a.users.last_ms[user] = max(rows.time_ms[i], a.users.last_ms[user])
        a.users.session[user] = rows.session[i]
    _learn_after(a, user, item)


@entry(int64(_ROWS, *(4 * (int64,)), numba.int32[:, ::1], *(3 * (uint64[::1],)), _ALL))
def walk(
    rows: Rows,
    first: int,
    mode: int,
    seen: int,
    count: int,
    ranks: I32,
    only: U64,
    never: U64,
    given: U64,
    a: Everything,
) -> int:
    """Walk rows from ``first`` on, as ``mode`` says.

    ``LEARN``: the number of the row that found no room, else of all. ``ranks`` ``(n, m + 2)`` gets
    the place that each member, and the stack, gave the row's item before it was learned, 0 of an
    item that was not known, ``TAKEN`` of one that is not shown again, and how many its user took
    before; without rows none is noted.

    ``FOLLOW``: the same for all but the stack, which learns nothing: no item is scored.

    ``RANK``: score for the row's user what may be shown to him, what he took as ``seen`` says, and
    at least ``count`` candidates as far as there are; of ``only`` these items where there are any,
    never those of ``never``; ``given``: the items that he looks at, which count as his last. The
    number of candidates.
    """
    nothing = ranks[:0, 0] if len(ranks) == 0 else ranks[0, :0]
    for i in range(first, len(rows.time_ms)):
        who = rows.user[i] if rows.user[i] != 0 else rows.session[i]
        if mode != RANK:
            room = 2 * a.users.history[0] + a.users.scalars[ARENA] <= len(a.users.arena)
            if not (room and has_room(a.items) and has_room(a.users)):
                return i
            if rows.weight[i] <= 0.0 or rows.item[i] == 0:
                continue
            user = _user(a, who)
        else:
            user = find(a.users, who) if who != 0 else -1
        gap = _gap(a, user, rows.time_ms[i])
        if mode == RANK:
            return _rank(a, user, gap, seen, count, only, never, given)
        if mode == LEARN:
            context = context_of(a.users, user, gap, a.control[SITTING_MS])
            item = find(a.items, rows.item[i])
            _choose(a, user, context, item, rows.weight[i], ranks[i] if len(ranks) else nothing)
        _learn_row(a, rows, i, user, gap)
    return len(rows.time_ms)


@entry(void(uint64[::1], numba.boolean[::1], numba.typeof(smallest().items)))
def known(keys: U64, found: BOOL, items: Items) -> None:
    """Which items there are."""
    for k in range(len(keys)):
        found[k] = find(items, keys[k]) >= 0


@entry(int64(uint64, numba.typeof(smallest().users)))
def history_of(key: int, users: Users) -> int:
    """How many items of a user are remembered; 0 for an unknown one."""
    slot = find(users, key)
    return remembered(users, slot) if slot >= 0 else 0


@entry(void(uint64, uint64, _ALL))
def forget(user: int, item: int, a: Everything) -> None:
    """Let a user and an item go, as far as they are known; 0 is nobody."""
    slot = find(a.users, user) if user != 0 else -1
    if slot >= 0:
        _forget_user(a, slot)
    slot = find(a.items, item) if item != 0 else -1
    if slot >= 0:
        _forget_item(a, slot)
