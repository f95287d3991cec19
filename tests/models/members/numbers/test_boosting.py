"""Boosted trees for a number: steps against plain numpy, what the losses promise, drift."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from models.base import F64, FeatureBatch, FeatureSchema
from models.members.numbers.boosting import LEAST_SIZE, BoostingNumberModel, BoostingNumberParams
from models.task import Number

SCHEMA = FeatureSchema(("a", "b", "c"))


def stream(n: int, seed: int = 0) -> tuple[FeatureBatch, F64]:
    """Minutes that are more where two columns are positive, with a tail to one side."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    y = 40 + 40 * (dense[:, :2] > 0).all(1) + 5 * dense[:, 2] + rng.exponential(4, n)
    return FeatureBatch(SCHEMA, dense, np.zeros((n, 0), np.uint32)), y


def boosting(**params: Any) -> BoostingNumberModel:
    """A fresh member."""
    return BoostingNumberModel(BoostingNumberParams(**params), SCHEMA, 0, Number())


@pytest.mark.parametrize("loss", ["squared", "quantile"])
def test_trees_of_one_leaf_take_the_newton_steps_of_plain_numpy(loss: str) -> None:
    """Without splits three trees are three fading sums, each with a size of error of its own."""
    x, y = stream(300)
    w = np.random.default_rng(1).uniform(0, 2, len(y))
    q, rate, ridge = 0.8, 0.3, 2.0
    model = boosting(
        trees=3, grace=1e9, memory=100.0, ridge=ridge, learning_rate=rate, loss=loss, quantile=q
    )
    scores = model.score_learn(x, y, w)[:, 0]
    gradient, curvature, size = np.zeros(3), np.zeros(3), np.ones(3)
    for i in range(len(y)):
        steps = rate * -gradient / (curvature + ridge)
        known = y[:i] if i else np.zeros(1)
        assert scores[i] == pytest.approx(known.mean() + known.std() * steps.sum(), abs=1e-8)
        known = y[: i + 1]
        for s in range(3 if i else 0):
            e = steps[:s].sum() - (y[i] - known.mean()) / known.std()
            if loss == "squared":
                size[s] = math.sqrt(size[s] ** 2 + (e * e - size[s] ** 2) / (i + 1))
                g, h = e, 1.0
            else:
                size[s] += (abs(e) - size[s]) / (i + 1)
                g, h = size[s] * ((e > 0) - q), q * (1 - q)
            assert size[s] > LEAST_SIZE
            gradient[s] = 0.99 * gradient[s] + g / size[s] ** 2 * w[i]
            curvature[s] = 0.99 * curvature[s] + h / size[s] ** 2 * w[i]


def test_it_learns_an_interaction_and_learns_anew_after_a_drift() -> None:
    """It errs by little more than the noise, replaces trees when all turns, and does so again."""
    x, y = stream(16_000)
    y[8000:] = 124 - y[8000:]
    model = boosting()
    error = np.abs(model.score_learn(x, y, np.ones(len(y)))[:, 0] - y)
    assert error[6000:8000].mean() < 5.0
    assert model.replaced() > 0
    assert error[14_000:].mean() < 5.0


@pytest.mark.parametrize(("then", "replaced"), [(1.06, False), (2.0, True)])
def test_what_is_certain_and_small_topples_no_tree(then: float, replaced: bool) -> None:
    """Noise that grows by little replaces nothing; noise that doubles does."""
    rng, n = np.random.default_rng(0), 40_000
    y = rng.normal(size=2 * n) * np.repeat([1.0, then], n)
    x = FeatureBatch(SCHEMA, rng.random((2 * n, 3), np.float32), np.zeros((2 * n, 0), np.uint32))
    model = boosting(trees=10)
    model.learn(x, y, np.ones(2 * n))
    assert (model.replaced() > 0) == replaced


def test_a_quantile_has_its_share_of_the_truths_below() -> None:
    """Nine in ten, within two points."""
    x, y = stream(12_000)
    scores = boosting(loss="quantile", quantile=0.9).score_learn(x, y, np.ones(len(y)))[:, 0]
    assert (y < scores)[4000:].mean() == pytest.approx(0.9, abs=0.02)
