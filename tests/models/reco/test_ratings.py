"""Ratings: members and stack beside plain readings of what they compute, and what holds of all."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from models.base import F64, StateError
from models.kernels.common import numbers
from models.kernels.ratings import stack as kernel
from models.kernels.ratings.factors import DEVIATION, DRIFT, PRIOR
from models.reco.ratings import Ratings
from models.reco.recommender import Interactions
from models.reco.settings import RatingSettings
from tests.models.reco.common import cut, key

SEED = 3
KNN = {"cells": 1024, "length": 64, "prior": 7.0}


def rated(n: int, users: int = 25, items: int = 30, seed: int = 0) -> Interactions:
    """Ratings from 1 to 5 by biases and two tastes, in sittings, some at the same time."""
    rng = np.random.default_rng(seed)
    user = np.repeat(rng.integers(0, users, n), rng.integers(1, 6, n))[:n]
    item = rng.integers(0, items, n)
    tastes, kinds = rng.normal(0, 1, (users, 2)), rng.normal(0, 0.7, (items, 2))
    mean = 3.4 + rng.normal(0, 0.4, users)[user] + rng.normal(0, 0.5, items)[item]
    mean += (tastes[user] * kinds[item]).sum(1)
    gaps = np.where(rng.random(n) < 0.1, 7_200_000, rng.integers(0, 40, n) * 1000)
    return Interactions(
        time_ms=np.cumsum(gaps),
        user=key(user),
        session=np.zeros(n, np.uint64),
        item=key(item),
        weight=np.ones(n),
        value=np.clip(np.round(mean + rng.normal(0, 0.5, n)), 1, 5),
    )


def ratings(users: int = 1000, items: int = 1000, **settings: Any) -> Ratings:
    """A fresh one."""
    return Ratings(RatingSettings.model_validate(settings), users, items, SEED)


def dense(rows: Interactions) -> tuple[list[int], list[int]]:
    """Users and items as small numbers."""
    both = [np.unique(ids, return_inverse=True)[1] for ids in (rows.user, rows.item)]
    return both[0].tolist(), both[1].tolist()


class Plain:
    """The mean, the deviation and the damped effects of all ratings so far, by plain sums."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.sums: dict[Any, float] = defaultdict(float)
        self.rated: dict[Any, int] = defaultdict(int)

    def effect(self, who: Any) -> float:
        return self.sums[who] / (self.rated[who] + 5)

    def deviation(self) -> float:
        return float(np.std(self.values)) or 1.0

    def put(self, value: float) -> float:
        """A rating in deviations from the mean."""
        return float((value - np.mean(self.values)) / self.deviation())

    def back(self, rating: float) -> float:
        """A rating from deviations, within those that were given."""
        told = np.mean(self.values) + self.deviation() * rating
        return float(np.clip(told, min(self.values), max(self.values)))

    def take(self, user: int, item: int, value: float) -> float:
        """The residual, after both effects know of the rating."""
        mine, its = ("user", user), ("item", item)
        before = self.effect(mine)
        self.values.append(value)
        rating = self.put(value)
        self.sums[its] += rating - before
        self.rated[its] += 1
        self.sums[mine] += rating - self.effect(its)
        self.rated[mine] += 1
        return rating - self.effect(mine) - self.effect(its)


def plain_factors(rows: Interactions, k: int, noise: float) -> F64:
    """The extended Kalman filter over (bias, factors) of the two sides, written with matrices."""
    drawn = iter((numbers(SEED, 100_000) >> np.uint64(11)) * 2.0**-53)
    means: dict[Any, F64] = {}
    spreads: dict[Any, F64] = {}
    drifts = {"user": DRIFT[:2], "item": DRIFT[2:]}
    plain, told = Plain(), []
    for user, item, value in zip(*dense(rows), rows.value.tolist(), strict=True):
        both = (("user", user), ("item", item))
        known = [who in means for who in both]
        zero = np.zeros(k + 1)
        p, q = (means.get(who, zero) for who in both)
        expected = p[0] + q[0] + p[1:] @ q[1:]
        told.append(plain.back(expected) if plain.values else np.nan)
        for who, is_known, prior in zip(both, known, (PRIOR[:2], PRIOR[2:]), strict=True):
            if not is_known:
                draws = np.array([0, *itertools.islice(drawn, k)])
                means[who] = (draws - 0.5) * DEVIATION * np.sqrt(12)
                means[who][0] = 0
                spreads[who] = np.diag([prior[0], *[prior[1]] * k])
        if len(set(plain.values)) > 1:
            p, q = (means[who].copy() for who in both)
            slopes = [np.array([1, *q[1:]]), np.array([1, *p[1:]])]
            gains = [spreads[who] @ slope for who, slope in zip(both, slopes, strict=True)]
            variance = noise + sum(g @ slope for g, slope in zip(gains, slopes, strict=True))
            variance += np.diag(spreads[both[0]])[1:] @ np.diag(spreads[both[1]])[1:]
            error = plain.put(value) - p[0] - q[0] - p[1:] @ q[1:]
            for who, gain in zip(both, gains, strict=True):
                means[who] += gain * error / variance
                bias, factor = drifts[who[0]]
                spreads[who] -= np.outer(gain, gain) / variance - np.diag([bias, *[factor] * k])
        plain.take(user, item, value)
    return np.array(told)


def plain_neighbours(rows: Interactions, by_item: bool) -> F64:
    """Neighbours by sums over all pairs of ratings."""
    together: dict[tuple[int, int], list[float]] = defaultdict(list)
    past: dict[int, list[tuple[int, float]]] = defaultdict(list)
    plain, told = Plain(), []
    for user, item, value in zip(*dense(rows), rows.value.tolist(), strict=True):
        row, other = (item, user) if by_item else (user, item)
        above, below = 0.0, 1.0
        for theirs, residual in past[other][-KNN["length"] :]:
            products = together[min(row, theirs), max(row, theirs)]
            alike = sum(products) / (len(products) + KNN["prior"])
            above += alike * residual
            below += abs(alike)
        base = plain.effect(("user", user)) + plain.effect(("item", item))
        told.append(plain.back(base + above / below) if plain.values else np.nan)
        mine = plain.take(user, item, value)
        for theirs, residual in past[other][-KNN["length"] :]:
            together[min(row, theirs), max(row, theirs)].append(mine * residual)
        past[other].append((row, mine))
    return np.array(told)


def test_bias_factors_are_a_kalman_filter() -> None:
    """Vectors, covariances and drift as matrices of a plain reading have them."""
    rows = rated(500)
    found = ratings(members={"bias_factors": {"factors": 3, "noise": 0.5}}).learn(rows)
    np.testing.assert_allclose(found[:, 1], plain_factors(rows, 3, 0.5), rtol=1e-4)


@pytest.mark.parametrize("name", ["item_knn", "user_knn"])
def test_neighbours_are_those_of_all_pairs(name: str) -> None:
    """While no cell gives way, what is foretold follows from sums over all pairs of ratings."""
    rows = rated(700)
    found = ratings(members={name: KNN}).learn(rows)
    np.testing.assert_allclose(found[:, 1], plain_neighbours(rows, name == "item_knn"), rtol=1e-4)


def test_the_stack_is_the_ridge_regression_of_all_ratings() -> None:
    """Without drift, from the weights with which it begins."""
    rng, line = np.random.default_rng(1), kernel.line(0.0, True)
    x, y, first = (
        rng.normal(size=(60, len(kernel.READINGS))),
        rng.normal(size=60),
        line.weights.copy(),
    )
    for readings, rating in zip(x, y, strict=True):
        line.readings[:] = readings
        kernel.learn_line.py_func(line, rating)
    ridge = (
        np.linalg.solve(x.T @ x + np.eye(len(first)) / kernel.SPREAD, x.T @ (y - x @ first)) + first
    )
    np.testing.assert_allclose(line.weights, ridge, atol=1e-9)


def test_the_stack_foretells_better_than_each_member() -> None:
    """On a seeded stream, over its later half."""
    rows = rated(6000, users=150, items=80)
    r = ratings()
    errors = (r.learn(rows) - rows.value[:, None])[3000:]
    stack, *members = np.sqrt(np.square(errors).mean(0))
    assert r.scorers == ("ratings", "bias_factors", "item_knn", "user_knn")
    assert stack < min(members)
    assert min(members) < np.std(rows.value[3000:])


def test_many_ratings_at_once_equal_many_single_calls() -> None:
    """State and predictions do not depend on how the rows were cut into batches."""
    rows = rated(600)
    whole, pieces = ratings(), ratings()
    told = whole.learn(rows)
    found = [pieces.learn(cut(rows, first, first + 60)) for first in range(0, 600, 60)]
    assert whole.digest() == pieces.digest()
    np.testing.assert_array_equal(np.concatenate(found), told)


def test_restored_ratings_go_on_bit_for_bit() -> None:
    """After users, items and neighbours had to give way."""
    rows = rated(1500, users=90, items=80)
    one, other = (
        ratings(40, 60, members={"bias_factors": {}, "item_knn": {"cells": 16}, "user_knn": {}})
        for _ in range(2)
    )
    one.learn(cut(rows, 0, 1000))
    other.restore(one.state())
    assert other.digest() == one.digest()
    np.testing.assert_array_equal(
        one.learn(cut(rows, 1000, 1500)), other.learn(cut(rows, 1000, 1500))
    )
    assert other.digest() == one.digest()
    assert (one.counts()["users"], one.counts()["items"]) == (40, 60)


def test_what_is_expected_is_what_is_foretold_before_learning() -> None:
    """And asking changes no state."""
    rows = rated(400)
    r = ratings()
    assert np.isnan(r.expect(0, 1, rows.item[:2])).all()
    for i in range(400):
        row, before = cut(rows, i, i + 1), r.digest()
        expected = r.expect(int(row.time_ms[0]), int(row.user[0]), row.item)
        assert r.digest() == before
        np.testing.assert_array_equal(r.learn(row)[:, 0], expected)


def test_what_has_no_value_and_whom_nobody_knows_teaches_nothing() -> None:
    """Rows without a value, or without user and session; a session stands for a user."""
    rows, r = rated(100), ratings()
    nobody = rows._replace(user=np.zeros(100, np.uint64))
    assert np.isnan(r.learn(rows._replace(value=np.full(100, np.nan)))).all()
    assert np.isnan(r.learn(nobody)).all()
    assert r.digest() == ratings().digest()
    other = ratings()
    r.learn(rows)
    other.learn(nobody._replace(session=rows.user))
    assert r.digest() == other.digest()


def test_ratings_on_another_scale_are_foretold_alike() -> None:
    """Whether up to 5 or up to 100: only deviations from the mean count."""
    rows = rated(500)
    small, large = ratings().learn(rows), ratings().learn(rows._replace(value=20 * rows.value - 7))
    np.testing.assert_allclose(large, 20 * small - 7, rtol=1e-6)
    assert np.nanmin(small) >= 1
    assert np.nanmax(small) <= 5


def test_the_forgotten_are_unknown() -> None:
    """Of a forgotten user and item as much is known as of one that never was."""
    rows = rated(500)
    r = ratings()
    r.learn(rows)
    user, item, now = int(rows.user[0]), rows.item[:1], int(rows.time_ms[-1])
    r.forget_user(user)
    every = np.unique(rows.item)
    np.testing.assert_array_equal(r.expect(now, user, every), r.expect(now, 0, every))
    r.forget_item(int(item[0]))
    other = int(rows.user[-1])
    stranger = np.array([12345], np.uint64)
    np.testing.assert_array_equal(r.expect(now, other, item), r.expect(now, other, stranger))
    assert r.counts()["users"] == len(np.unique(rows.user)) - 1
    assert r.counts()["items"] == len(every) - 1


def test_the_state_of_other_members_is_refused() -> None:
    """The error names what differs."""
    with pytest.raises(StateError, match="members"):
        ratings().restore(ratings(members={"item_knn": {}}).state())
