"""The stack of a ranking: a conditional logit over the candidates, guarded by its members.

McFadden's choice model [1]_: a candidate's utility is a weighted sum of what the members say of it,
the choice a softmax over the candidates. These are the best by each member, and only the choice of
one of them is learned: of one that no member foresees, weights would learn what no list shows, at
the cost of what lists do. The weights are those shared by all users, plus those by
the length of the user's history and by the time since his last row. All follow an online Newton
step on the cross-entropy at each choice [2]_, as a Kalman filter whose weights drift: how far each
may still be off says how far a choice moves it, so that no rate need be set, and what contexts add
stays near nothing until enough of them was seen.

The guard follows the leader: the stack and each member are rewarded for where they put what was
chosen, and who has the most rewards, faded, gives the answer. The stack starts with an advantage,
so that chance alone does not dethrone it.

.. [1] D. McFadden, "Conditional logit analysis of qualitative choice behavior", 1974.
.. [2] E. Hazan, A. Agarwal, S. Kale, "Logarithmic regret algorithms for online convex
   optimization", 2007.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64, U8
from models.kernels.common import HELPER, RARE
from models.kernels.reco.tables import I32, TOTAL, Items, Users, recent, remembered, slot_of

SIZES = np.array([1, 3, 10, 30, 100, 300])
"""Where the contexts by the length of a history begin, after the first."""
GAPS = np.array([1 / 180, 1 / 30, 1.0, 48.0])
"""Where those by the time since the last row do, in sittings of, usually, half an hour."""
BY_SIZE, BY_GAP = len(SIZES) + 1, len(GAPS) + 1
CONTEXTS = BY_SIZE + BY_GAP

SHARE, AS_IT_IS, DEVIATION = 0, 1, 2
"""How the stack takes a row of scores: as the logarithm of its share, unchanged, or in deviations
from its mean."""

FLOOR = np.float32(0.05)
"""Added to a member's share of a candidate, in units of the mean share: nothing is impossible."""

SPREAD, OWN_SPREAD = 0.2, 0.02
"""Variance of the shared weights, and of a context's own, before the first choice, and at most."""
DRIFT, OWN_DRIFT = 2e-6, 5e-7
"""Variance that each choice adds to those that it moves."""

TOP = 200
"""The best by each member are candidates, so many of each."""

FADE = 20_000.0
"""Choices that the rewards hold."""
ADVANTAGE = 10.0
"""Rewards that the stack has ahead."""

BLOCK = 32
"""Items are passed over by so many, as most are not among the best."""

ABREAST = 8
"""Numbers that are added side by side, each to a sum of its own, so that none waits for another;
it does not depend on how wide a machine's registers are."""

_NEVER = np.float32(-np.inf)
_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_LN2 = np.float32(math.log(2.0))
_LOG2E = np.float32(1.0 / math.log(2.0))
_L3, _L5, _L7, _L9 = (np.float32(1.0 / k) for k in (3, 5, 7, 9))
_E1, _E2, _E3, _E4, _E5, _E6 = (
    np.float32(math.log(2.0) ** k / math.factorial(k)) for k in range(1, 7)
)


class Stack(NamedTuple):
    """Weights of ``r`` rows of scores by ``m`` members; ``S`` item slots."""

    shared: F64  # (r,)
    own: F64  # (CONTEXTS, r)
    spread: F64  # (w, w): covariance of the w = (1 + CONTEXTS) * r weights, the shared ones first
    rewards: F64  # (m + 1,): of the members and the stack
    member: I32  # (m,): the row that is the member's ranking
    kind: I32  # (r,): how the row is taken
    scores: F32  # (r, S): scratch, of all items
    candidates: I32  # (S,): scratch, slots
    said: F32  # (r, S): scratch, what rows say of the candidates
    utility: F32  # (S,): scratch, of the candidates
    chance: F32  # (S,): scratch, not normalised
    answer: F64  # (S,): scratch, the scores that candidates are ranked by
    slope: F64  # (r,): scratch
    gain: F64  # (w,): scratch
    best: I32  # (2 * TOP + BLOCK,): scratch
    values: F32  # (2 * TOP + BLOCK,): scratch
    sums: F64  # (ABREAST,): scratch


def stack(member: list[int], kind: list[int], items: int) -> Stack:
    """Members' rankings count alike, other rows nothing."""
    r = len(kind)
    shared = np.zeros(r)
    shared[member] = 1.0 / max(len(member), 1)
    return Stack(
        shared,
        np.zeros((CONTEXTS, r)),
        np.diag(np.repeat([SPREAD, OWN_SPREAD], [r, CONTEXTS * r])),
        np.append(np.zeros(len(member)), ADVANTAGE),
        np.array(member, np.int32),
        np.array(kind, np.int32),
        np.zeros((r, items), np.float32),
        np.zeros(items, np.int32),
        np.zeros((r, items), np.float32),
        np.zeros(items, np.float32),
        np.zeros(items, np.float32),
        np.zeros(items),
        np.zeros(r),
        np.zeros((1 + CONTEXTS) * r),
        np.zeros(2 * TOP + BLOCK, np.int32),
        np.zeros(2 * TOP + BLOCK, np.float32),
        np.zeros(ABREAST),
    )


@njit(**RARE)
def logarithms(values: F32, n: int) -> None:
    """The natural logarithms of the first ``n`` values in their place, to 2e-6.

    Twenty times as fast as the library's: plain operations on whole vectors, the same bits on every
    machine.
    """
    bits = values.view(np.int32)
    for c in range(n):
        b = bits[c]
        exponent = np.float32((b >> 23) - 127)
        bits[c] = (b & np.int32(0x7FFFFF)) | np.int32(0x3F800000)
        t = (values[c] - _ONE) / (values[c] + _ONE)
        s = t * t
        series = _ONE + s * (_L3 + s * (_L5 + s * (_L7 + s * _L9)))
        values[c] = exponent * _LN2 + _TWO * t * series


@njit(**RARE)
def exponentials(values: F32, n: int, out: F32) -> None:
    """``exp`` of the first ``n`` values, none above 0, to 4e-6; at least that of -80."""
    bits = out.view(np.int32)
    for c in range(n):
        x = max(values[c], np.float32(-80.0)) * _LOG2E
        whole = np.int32(x - np.float32(0.5))
        bits[c] = (whole + np.int32(127)) << 23
    for c in range(n):
        x = max(values[c], np.float32(-80.0)) * _LOG2E
        f = x - np.float32(np.int32(x - np.float32(0.5)))
        out[c] *= _ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * _E6)))))


@njit(**HELPER)
def _total(sums: F64) -> float:
    total = 0.0
    for k in range(ABREAST):
        total += sums[k]
    return total


@njit(**RARE)
def sum_of(values: F32, n: int, sums: F64) -> float:
    """The sum of the first ``n`` values."""
    sums[:] = 0.0
    whole = n - n % ABREAST
    for first in range(0, whole, ABREAST):
        for k in range(ABREAST):
            sums[k] += values[first + k]
    for c in range(whole, n):
        sums[c - whole] += values[c]
    return _total(sums)


@njit(**RARE)
def dot(x: F32, y: F32, n: int, sums: F64) -> float:
    """The sum of the products of the first ``n`` values."""
    sums[:] = 0.0
    whole = n - n % ABREAST
    for first in range(0, whole, ABREAST):
        for k in range(ABREAST):
            sums[k] += x[first + k] * y[first + k]
    for c in range(whole, n):
        sums[c - whole] += x[c] * y[c]
    return _total(sums)


@njit(**RARE)
def context_of(users: Users, user: int, gap_ms: int, sitting_ms: int) -> tuple[int, int]:
    """Which of the contexts a user is in, ``gap_ms`` after his last row: by size, and by gap."""
    size, gap = 0, 0
    if user >= 0:
        while size < len(SIZES) and users.ints[user, TOTAL] >= SIZES[size]:
            size += 1
    while gap < len(GAPS) and gap_ms >= GAPS[gap] * sitting_ms:
        gap += 1
    return size, BY_SIZE + gap


@njit(**RARE)
def _say(a: Stack, r: int, n: int) -> None:
    """What a row says of the first ``n`` candidates."""
    scores, said = a.scores[r], a.said[r]
    for c in range(n):
        said[c] = scores[np.uint32(a.candidates[c])]
    if a.kind[r] == AS_IT_IS:
        return
    if a.kind[r] == SHARE:
        for c in range(n):
            said[c] = max(said[c], _ZERO)
        total = sum_of(said, n, a.sums)
        scale = np.float32(n / total) if total > 0.0 else _ZERO
        for c in range(n):
            said[c] = said[c] * scale + FLOOR
        logarithms(said, n)
        return
    mean = sum_of(said, n, a.sums) / n
    variance = dot(said, said, n, a.sums) / n - mean * mean
    scale = np.float32(1.0 / math.sqrt(variance)) if variance > 1e-12 else _ZERO
    for c in range(n):
        said[c] = (said[c] - np.float32(mean)) * scale


@njit(**RARE)
def leader(a: Stack) -> int:
    """Who gives the answer: a member, or the stack after the last of them."""
    first = len(a.member)
    for e in range(len(a.member)):
        if a.rewards[e] > a.rewards[first]:
            first = e
    return first


@njit(**RARE)
def fade(a: Stack, users: Users, items: Items, user: int, back: F32, n: int) -> None:
    """Make the answer's ``n`` scores logits, and lower those of what the user took: by ``back``
    ``(H,)`` of the last but q of his items."""
    lowered, first = a.chance, leader(a)
    for c in range(n):
        lowered[a.candidates[c]] = _ZERO
    took = remembered(users, user) if user >= 0 else 0
    for q in range(min(took, len(back)) - 1, -1, -1):
        tag = recent(users, user, q)
        if items.tags[slot_of(tag)] == tag:
            lowered[slot_of(tag)] = back[q]
    for c in range(n):
        if first < len(a.member):
            a.answer[c] = a.said[a.member[first], c] + 1e-12 * a.utility[c]
        a.answer[c] += lowered[a.candidates[c]]


@njit(**RARE)
def combine(a: Stack, context: tuple[int, int], n: int) -> None:
    """Fill the utilities and the answer of the first ``n`` candidates."""
    m = len(a.member)
    for c in range(n):
        a.utility[c] = _ZERO
    for r in range(len(a.shared)):
        _say(a, r, n)
        weight = np.float32(a.shared[r] + a.own[context[0], r] + a.own[context[1], r])
        said = a.said[r]
        for c in range(n):
            a.utility[c] += weight * said[c]
    first = leader(a)
    for c in range(n):
        a.answer[c] = a.utility[c]
    if first < m:
        # Where the leader says the same of two, the stack decides.
        row = a.scores[a.member[first]]
        for c in range(n):
            a.answer[c] = row[a.candidates[c]] + 1e-12 * a.answer[c]


@njit(**RARE)
def largest(values: F32, n: int, k: int) -> Any:
    """The ``k``-th largest of the first ``n`` values, which are used up.

    By the bits of a whole number in the same order: how many are at least as large is counted for
    one bit after the other. Nothing there is to be guessed, as where a selection swaps values.
    """
    keys, positive = values.view(np.int32), 0
    for i in range(n):
        keys[i] ^= (keys[i] >> 31) & np.int32(0x7FFFFFFF)
        positive += keys[i] >= 0
    found = np.int32(0) if positive >= k else np.int32(-0x80000000)
    for bit in range(30, -1, -1):
        probe, count = found | np.int32(1 << bit), 0
        for i in range(n):
            count += keys[i] >= probe
        if count >= k:
            found = probe
    keys[0] = found ^ ((found >> 31) & np.int32(0x7FFFFFFF))
    return values[0]


@njit(**RARE)
def _keep(a: Stack, scores: F32, n: int) -> Any:
    """Keep the ``TOP`` best of ``n`` items in ``best``, of equals the first; the least of them."""
    for k in range(n):
        a.values[k] = scores[a.best[k]]
    least = largest(a.values, n, TOP)
    above = 0
    for k in range(n):
        above += scores[a.best[k]] > least
    equal, kept = TOP - above, 0
    for k in range(n):
        score = scores[a.best[k]]
        stays = (score > least) | ((score == least) & (equal > 0))
        equal -= score == least
        a.best[kept] = a.best[k]
        kept += stays
    return least


@njit(**RARE)
def _bound(a: Stack, scores: F32, shown: U8, slots: int) -> Any:
    """What ``TOP`` items at least have, and not many more: the ``TOP``-th largest of as many as
    twice that are the largest of a share of the items each; minus infinity where few are shown."""
    largests = a.values
    for g in range(2 * TOP):
        largests[g] = _NEVER
    for first in range(0, slots, 2 * TOP):
        some = scores[first : min(first + 2 * TOP, slots)]
        there = shown[first : min(first + 2 * TOP, slots)]
        for g in range(len(some)):
            score = some[g]
            score = score if there[g] != 0 else _NEVER
            largests[g] = score if score > largests[g] else largests[g]
    return largest(largests, 2 * TOP, TOP)


@njit(**RARE)
def add_best(a: Stack, r: int, shown: U8, slots: int, n: int) -> int:
    """Add the ``TOP`` best by a row to the ``n`` candidates, and mark them by a 2 in ``shown``."""
    scores, found = a.scores[r], 0
    least = np.float32(0.0) if a.kind[r] == SHARE else _NEVER
    bound = _bound(a, scores, shown, slots)
    if bound > least:
        least = np.nextafter(bound, _NEVER)
    for first in range(0, slots, BLOCK):
        last, hits = min(first + BLOCK, slots), 0
        for score in scores[first:last]:
            hits += score > least
        if hits == 0:
            continue
        for j in range(first, last):
            a.best[found] = j
            found += (scores[j] > least) & (shown[j] > 0)
        if found >= 2 * TOP:
            least = _keep(a, scores, found)
            found = TOP
    if found > TOP:
        _keep(a, scores, found)
        found = TOP
    for k in range(found):
        if n == len(a.candidates):
            break  # all items are
        j = a.best[k]
        a.candidates[n] = j
        n += shown[j] == 1
        shown[j] = 2
    return n


@njit(**RARE)
def reward(a: Stack, expert: int, place: int) -> None:
    """Half for one of the first ten places, half for how near the first."""
    gain = 0.5 / place + (0.5 if place <= 10 else 0.0)
    a.rewards[expert] += gain - a.rewards[expert] / FADE


@njit(**RARE)
def _largest_of(values: F32, n: int, sums: F64) -> Any:
    """The largest of the first ``n`` values."""
    sums[:] = -np.inf
    for first in range(0, n - n % ABREAST, ABREAST):
        for k in range(ABREAST):
            value = values[first + k]
            sums[k] = value if value > sums[k] else sums[k]
    top = values[n - 1]
    for c in range(n - n % ABREAST, n):
        top = max(top, values[c])
    for k in range(ABREAST):
        top = max(top, np.float32(sums[k]))
    return top


@njit(**RARE)
def learn_stack(a: Stack, context: tuple[int, int], n: int, chosen: int, weight: float) -> None:
    """One step, the ``chosen`` of the first ``n`` candidates being right."""
    top = _largest_of(a.utility, n, a.sums)
    for c in range(n):
        a.utility[c] -= top
    exponentials(a.utility, n, a.chance)
    total = sum_of(a.chance, n, a.sums)
    for r in range(len(a.shared)):
        said = a.said[r]
        a.slope[r] = dot(a.chance, said, n, a.sums) / total - said[chosen]
    _move(a, context, weight)


@njit(**RARE)
def _move(a: Stack, context: tuple[int, int], weight: float) -> None:
    """Move the weights against ``slope``, which all that count here have in common.

    With ``s`` the slope and ``P`` the covariance: ``P += drift``, ``k = w / (1 + w s'Ps)``,
    ``weights -= k Ps``, ``P -= k Ps s'P``.
    """
    rows, gain, spread = len(a.shared), a.gain, a.spread
    own, other = (1 + context[0]) * rows, (1 + context[1]) * rows
    for r in range(rows):
        # At most what it was: of a row that says nothing it would grow for ever.
        spread[r, r] = min(spread[r, r] + DRIFT, SPREAD)
        spread[own + r, own + r] = min(spread[own + r, own + r] + OWN_DRIFT, OWN_SPREAD)
        spread[other + r, other + r] = min(spread[other + r, other + r] + OWN_DRIFT, OWN_SPREAD)
    gain[:] = 0.0
    for r in range(rows):
        for j in range(len(gain)):
            gain[j] += a.slope[r] * (spread[r, j] + spread[own + r, j] + spread[other + r, j])
    curve = 0.0
    for r in range(rows):
        curve += a.slope[r] * (gain[r] + gain[own + r] + gain[other + r])
    k = weight / (1.0 + weight * curve)
    for i in range(len(gain)):
        for j in range(len(gain)):
            spread[i, j] -= k * gain[i] * gain[j]
    for r in range(rows):
        a.shared[r] -= k * gain[r]
        for q in range(CONTEXTS):
            a.own[q, r] -= k * gain[(1 + q) * rows + r]
