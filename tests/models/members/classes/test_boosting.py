"""Boosted trees for classes: steps against plain numpy, interactions, drift."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import F64, FeatureBatch, FeatureSchema
from models.kernels.gradients import LEAST_CURVATURE
from models.links import softmax
from models.members.classes.boosting import BoostingClassesModel, BoostingClassesParams
from models.task import Classes

SCHEMA = FeatureSchema(("a", "b"))
TASK = Classes(["low", "middle", "high"])


def stream(n: int, seed: int = 0) -> tuple[FeatureBatch, F64]:
    """The class is how many of two columns are positive, if their signs differ the middle one."""
    dense = np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)
    y = (dense > 0).sum(1).astype(float)
    return FeatureBatch(SCHEMA, dense, np.zeros((n, 0), np.uint32)), y


def test_trees_of_one_leaf_take_the_newton_steps_of_plain_numpy() -> None:
    """Without splits three rounds are three fading sums for each class, to the last digits."""
    x, y = stream(300)
    w = np.random.default_rng(1).uniform(0, 2, len(y))
    params = BoostingClassesParams(trees=3, grace=1e9, memory=100.0, ridge=2.0, learning_rate=0.3)
    scores = BoostingClassesModel(params, SCHEMA, 0, TASK).score_learn(x, y, w)
    gradient, curvature = np.zeros((3, 3)), np.zeros((3, 3))
    for i in range(len(y)):
        steps = 0.3 * -gradient / (curvature + 2.0)
        assert scores[i] == pytest.approx(steps.sum(0), abs=1e-9)
        for s in range(3):
            p = softmax(steps[:s].sum(0))
            gradient[s] = 0.99 * gradient[s] + (p - (np.arange(3) == y[i])) * w[i]
            curvature[s] = 0.99 * curvature[s] + np.maximum(p * (1 - p), LEAST_CURVATURE) * w[i]


def test_it_learns_and_learns_anew_after_a_drift() -> None:
    """It tells the classes of boxes apart, replaces trees when they change, and does so again."""
    x, y = stream(16_000)
    y[8000:] = (y[8000:] + 1) % 3
    model = BoostingClassesModel(BoostingClassesParams(), SCHEMA, 0, TASK)
    right = model.score_learn(x, y, np.ones(len(y))).argmax(1) == y
    assert right[6000:8000].mean() > 0.95
    assert model.replaced() > 0
    assert right[14_000:].mean() > 0.95


@pytest.mark.parametrize(("then", "replaced"), [(0.45, False), (0.2, True)])
def test_what_is_certain_and_small_topples_no_round(then: float, replaced: bool) -> None:
    """The commonest class is a little less common, and nothing happens; much less, and it does."""
    rng, n = np.random.default_rng(0), 40_000
    first = rng.random(2 * n) < np.repeat([0.5, then], n)
    y = np.where(first, 0.0, rng.integers(1, 3, 2 * n))
    x = FeatureBatch(SCHEMA, rng.random((2 * n, 2), np.float32), np.zeros((2 * n, 0), np.uint32))
    model = BoostingClassesModel(BoostingClassesParams(trees=10), SCHEMA, 0, TASK)
    model.learn(x, y, np.ones(2 * n))
    assert (model.replaced() > 0) == replaced
