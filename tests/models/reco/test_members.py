"""Each member beside a plain reading of what it computes.

A member's kernel has no entry of its own: what it scores is read from a ranking of everything.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from models.base import F64
from models.kernels.common import numbers
from models.reco.recommender import Interactions, Recommender, Request
from tests.models.reco.common import recommender, stream

ROWS = stream(600, users=20, items=30)


def dense(rows: Interactions) -> tuple[Any, Any, Any, Any]:
    """Users and items as small numbers, and the keys that they stand for."""
    users, u = np.unique(rows.user, return_inverse=True)
    items, i = np.unique(rows.item, return_inverse=True)
    return users, u, items, i


def scores(r: Recommender, user: Any, items: Any, member: int = 0) -> F64:
    """What a member says of these items, in their order."""
    got = r.rank(Request(int(ROWS.time_ms[-1]), int(user), items=items, count=len(items)))
    order = {key: at for at, key in enumerate(got.items.tolist())}
    return got.members[[order[key] for key in items.tolist()], member]


def histories(rows: Interactions) -> dict[int, list[int]]:
    """Each user's items, in order."""
    _, u, _, i = dense(rows)
    found = defaultdict(list)
    for user, item in zip(u.tolist(), i.tolist(), strict=True):
        found[user].append(item)
    return found


def test_popular_is_the_mean_of_two_faded_shares() -> None:
    """Each count loses one part in its length at every row."""
    r = recommender(members={"popular": {"slow": 300, "fast": 50}}, seen="include")
    r.learn(ROWS)
    users, _, items, i = dense(ROWS)
    expected = np.zeros(len(items))
    for length in (300, 50):
        counts = np.zeros(len(items))
        for item, weight in zip(i, ROWS.weight, strict=True):
            counts /= 1 + 1 / length
            counts[item] += weight
        expected += counts / counts.sum() / 2
    np.testing.assert_allclose(scores(r, users[0], items), expected, rtol=1e-5)


def test_cooccurrence_counts_what_stood_near() -> None:
    """While no row of the table is full, sums are those of a matrix."""
    params = {"length": 6, "fade": 2.0, "back": 0.4, "prior": 3.0}
    r = recommender(members={"cooccurrence": params}, seen="include")
    r.learn(ROWS)
    users, u, items, i = dense(ROWS)
    table, total = np.zeros((len(items), len(items))), np.zeros(len(items))
    past: dict[int, list[int]] = defaultdict(list)
    for user, item, weight in zip(u.tolist(), i.tolist(), ROWS.weight, strict=True):
        for q, other in enumerate(past[user][::-1][:6]):
            amount = weight * np.exp(-q / 2)
            table[other, item] += amount
            table[item, other] += 0.4 * amount
            total[other] += amount
            total[item] += 0.4 * amount
        past[user].append(item)
    for user in (0, 7):
        expected = np.zeros(len(items))
        for q, other in enumerate(past[user][::-1][:6]):
            expected += np.exp(-q / 2) * table[other] / (total[other] + 3)
        np.testing.assert_allclose(scores(r, users[user], items), expected, rtol=1e-4, atol=1e-7)


def test_sessions_score_what_neighbours_took_near_the_same_items() -> None:
    """With room for all entries and all neighbours, sums are those of plain loops."""
    params = {"length": 5, "fade": 3.0, "reach": 4.0, "back": 0.5, "entries": 1024}
    r = recommender(members={"sessions": params}, seen="include")
    r.learn(ROWS)
    users, _, items, i = dense(ROWS)
    past = histories(ROWS)
    taken = np.bincount(i)
    for user in (1, 5):
        expected = np.zeros(len(items))
        last = past[user][::-1][:5]
        for other, theirs in past.items():
            shared = [
                (q, p)
                for q, item in enumerate(last)
                for p in range(len(theirs))
                if theirs[p] == item
            ]
            if other == user or not shared:
                continue
            alike = sum(np.exp(-q / 3) for q, _ in shared)
            middle = min(p for q, p in shared if q == shared[0][0])
            for place, item in enumerate(theirs):
                if abs(place - middle) <= 12:
                    near = np.exp(-abs(place - middle) / 4) * (1 if place >= middle else 0.5)
                    expected[item] += alike**1.5 * near
        expected *= (taken + 5.0) ** -0.1
        np.testing.assert_allclose(scores(r, users[user], items), expected, rtol=1e-4)


def test_ease_is_the_batch_solution() -> None:
    """Row by row, in updates of rank two, as from all of the users' items at once."""
    params = {"places": 64, "ridge": 7.0, "length": 8, "fade": 3.0, "floor": 0.1, "batch": 1}
    r = recommender(members={"ease": params}, seen="include")
    r.learn(ROWS)
    users, u, items, i = dense(ROWS)
    x = np.zeros((len(users), len(items)))
    x[u, i] = 1
    inverse = np.linalg.inv(x.T @ x + 7 * np.eye(len(items)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    for user in (0, 3):
        last = histories(ROWS)[user][::-1][:8]
        expected = sum((np.exp(-q / 3) + 0.1) * weights[h] for q, h in enumerate(last))
        np.testing.assert_allclose(scores(r, users[user], items), expected, atol=2e-5)


def test_ease_stays_the_inverse_while_items_come_and_go() -> None:
    """With fewer places than items, in a queue, users counted anew: symmetric, and positive."""
    params = {"places": 12, "ridge": 5.0, "batch": 3}
    r = recommender(members={"ease": params}, users=15, items=25, history=16)
    r.learn(stream(6000, users=60, items=60))
    inverse = r.tensors()["ease.inverse"].astype(np.float64)
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh(inverse)
    assert eigenvalues.min() > 0
    assert eigenvalues.max() <= 1 / 5 + 1e-5


class Drawn:
    """The recommender's seeded numbers, one after another."""

    def __init__(self) -> None:
        self._next = iter(numbers(3, 20_000).tolist())

    def uniform(self) -> float:
        """The next in ``[0, 1)``."""
        return float(int(next(self._next)) >> 11) / 2**53

    def vector(self, k: int) -> F64:
        """A fresh vector of factors."""
        return np.array([(self.uniform() - 0.5) * np.sqrt(0.12) for _ in range(k)])


def test_bpr_takes_the_papers_steps() -> None:
    """The gradient of ln sigmoid(x_ui - x_uj), less the regularisation, for each item drawn."""
    params = {"factors": 4, "rate": 0.1, "regularisation": 0.02, "negatives": 3}
    r = recommender(members={"bpr": params}, seen="include")
    r.learn(ROWS)
    users, u, items, i = dense(ROWS)
    drawn, order, bias = Drawn(), list[int](), defaultdict[int, Any](float)
    p, q = dict[int, F64](), dict[int, F64]()
    for user, item, weight in zip(u.tolist(), i.tolist(), ROWS.weight.tolist(), strict=True):
        if user not in p:
            p[user] = drawn.vector(4)
        if item not in q:
            q[item] = drawn.vector(4)
            order.append(item)
        for _ in range(3):
            other = order[int(drawn.uniform() * len(order))]
            if other == item:
                continue
            x = bias[item] - bias[other] + p[user] @ (q[item] - q[other])
            g, rate, old = 1 / (1 + np.exp(x)), 0.1 * weight, p[user].copy()
            bias[item] += rate * (g - 0.02 * bias[item])
            bias[other] += rate * (-g - 0.02 * bias[other])
            p[user] = old + rate * (g * (q[item] - q[other]) - 0.02 * old)
            q[item] = q[item] + rate * (g * old - 0.02 * q[item])
            q[other] = q[other] + rate * (-g * old - 0.02 * q[other])
    for user in (0, 9):
        expected = [bias[item] + p[user] @ q[item] for item in range(len(items))]
        np.testing.assert_allclose(scores(r, users[user], items), expected, atol=1e-4)


def solved(own: F64, theirs: F64, whole: F64, missing: float, shrink: float) -> F64:
    """The paper's equation 12, one factor after another; ``whole`` sums outer products."""
    own = own.copy()
    for f in range(len(own)):
        rest = theirs @ own - own[f] * theirs[:, f]
        above = (1 - (1 - missing) * rest) @ theirs[:, f]
        above -= missing * (own @ whole[:, f] - own[f] * whole[f, f])
        below = (1 - missing) * theirs[:, f] @ theirs[:, f] + missing * whole[f, f] + shrink
        own[f] = above / below
    return own


def test_eals_solves_for_the_user_and_then_the_item() -> None:
    """Of the items that the user took, then of the users who took the item."""
    params = {"factors": 4, "missing": 0.1, "regularisation": 0.3}
    r = recommender(members={"eals": params}, seen="include")
    r.learn(ROWS)
    users, u, items, i = dense(ROWS)
    drawn, p, q = Drawn(), dict[int, F64](), dict[int, F64]()
    took, holders = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    for user, item in zip(u.tolist(), i.tolist(), strict=True):
        if user not in p:
            p[user] = drawn.vector(4)
        if item not in q:
            q[item] = drawn.vector(4)
        took[user].append(item)
        holders[item].append(user)
        whole = np.sum([np.outer(v, v) for v in q.values()], 0)
        p[user] = solved(p[user], np.array([q[k] for k in took[user]]), whole, 0.1, 0.3)
        whole = np.sum([np.outer(v, v) for v in p.values()], 0)
        theirs = np.array([p[k] for k in holders[item][-128:]])
        q[item] = solved(q[item], theirs, whole, 0.1, 0.3)
    for user in (0, 9):
        expected = [p[user] @ q[item] for item in range(len(items))]
        np.testing.assert_allclose(scores(r, users[user], items), expected, atol=1e-3)
