"""Online gradient boosting: steps against plain numbers, splits against chance and drift."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from models.base import F64, FeatureBatch, FeatureSchema
from models.kernels.gradients import LARGEST
from models.kernels.trees import LEAVES, REFUSED, SPLITS
from models.members.boosting import LEAST_CURVATURE, BoostingModel, BoostingParams

SCHEMA = FeatureSchema(("a", "b", "c"))


def batch(dense: F64) -> FeatureBatch:
    """These columns as a batch."""
    return FeatureBatch(SCHEMA, dense.astype(np.float32), np.zeros((len(dense), 0), np.uint32))


def boosting(**params: float) -> BoostingModel:
    """A fresh member."""
    return BoostingModel(BoostingParams.model_validate(params), SCHEMA, 1)


def steps(n: int, seed: int = 0) -> tuple[FeatureBatch, F64]:
    """Probabilities that step with two columns together."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3))
    p = np.where((dense[:, 0] > 0.3) ^ (dense[:, 1] > -0.5), 0.9, 0.2)
    return batch(dense), (rng.random(n) < p).astype(float)


def test_trees_of_one_leaf_take_newton_steps_one_after_the_other() -> None:
    """Where nothing may split, scores of 300 rows equal those of plain fading sums to 1e-12."""
    rng = np.random.default_rng(0)
    y, w = (rng.random(300) < 0.3).astype(float), rng.uniform(0, 2, 300)
    params = {"trees": 3, "learning_rate": 0.2, "memory": 50, "ridge": 0.7, "grace": 1e6}
    model = boosting(**params)
    scores = model.score_learn(batch(rng.normal(size=(300, 3))), y, w)[:, 0]
    g, h = [0.0] * 3, [0.0] * 3
    for i in range(300):
        link, before = 0.0, []
        for s in range(3):
            before.append(link)
            link += 0.2 * min(max(-g[s] / (h[s] + 0.7), -LARGEST), LARGEST)
        assert scores[i] == pytest.approx(link, abs=1e-12)
        for s in range(3):
            p = 1 / (1 + math.exp(-before[s]))
            g[s] = (1 - 1 / 50) * g[s] + (p - y[i]) * w[i]
            h[s] = (1 - 1 / 50) * h[s] + max(p * (1 - p), LEAST_CURVATURE) * w[i]


def test_noise_grows_hardly_any_split() -> None:
    """On labels that depend on nothing, 20 trees split fewer than 10 times in 5,000 rows."""
    rng = np.random.default_rng(1)
    x, y = batch(rng.normal(size=(5000, 3))), (rng.random(5000) < 0.5).astype(float)
    model = boosting(trees=20, delta=0.001, memory=5000)
    model.learn(x, y, np.ones(5000))
    assert model.state()["trees.counter"][SPLITS] < 10


def test_it_comes_near_batch_boosting_on_a_still_concept() -> None:
    """After 20,000 rows its log loss is within 0.02 of sklearn's, fitted on the same rows."""
    x, y = steps(24_000)
    head, tail = slice(0, 20_000), slice(20_000, None)
    model = boosting(memory=5000)
    model.learn(x.take(head), y[head], np.ones(20_000))
    ours = 1 / (1 + np.exp(-model.score(x.take(tail))[:, 0]))
    batch_model = HistGradientBoostingClassifier(random_state=0, max_iter=50)
    theirs = batch_model.fit(x.dense[head], y[head]).predict_proba(x.dense[tail])[:, 1]

    def log_loss(p: F64) -> float:
        return float(-np.log(np.where(y[tail] == 1, p, 1 - p)).mean())

    assert log_loss(ours) < log_loss(theirs) + 0.02


def test_it_recovers_from_a_drift() -> None:
    """After the labels swap, trees are replaced and accuracy returns within 2,000 rows."""
    x, y = steps(9000, seed=2)
    y[4500:] = 1 - y[4500:]
    model = boosting()
    right = (model.score_learn(x, y, np.ones(len(y)))[:, 0] > 0) == (y == 1)
    assert right[3500:4500].mean() > 0.8
    assert right[4500:4550].mean() < 0.4
    assert right[6500:].mean() > 0.8
    assert 10 < model.state()["drifts"][0] < 100


@pytest.mark.parametrize(("then", "replaced"), [(0.32, 0), (0.5, 10)])
def test_what_is_certain_and_small_topples_no_tree(then: float, replaced: int) -> None:
    """Noise that rises by a thirtieth is no drift; one that rises by a fifth replaces trees.

    Replaced for the first, every tree made those after it look worse, and 19 of 20 went.
    """
    rng, n = np.random.default_rng(0), 60_000
    y = (rng.random(2 * n) < np.repeat([0.3, then], n)).astype(float)
    model = boosting(trees=20)
    model.learn(batch(rng.random((2 * n, 3))), y, np.ones(2 * n))
    assert replaced <= model.replaced() <= 2 * replaced


def test_a_full_arena_refuses_and_counts() -> None:
    """Leaves never exceed their bound, however much there is to learn."""
    x, y = steps(20_000)
    model = boosting(trees=30, max_leaves=64)
    model.learn(x, y, np.ones(len(y)))
    counter = model.state()["trees.counter"]
    assert counter[LEAVES] <= 64
    assert counter[REFUSED] > 0
