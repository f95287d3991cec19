"""The adaptive random forest: detectors against River's, trees and memory against promises."""

from __future__ import annotations

import numpy as np
import pytest
from river import drift, forest

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn
from models.kernels.adwin import adwin_update, make_adwins
from models.kernels.common import poisson, poisson_table
from models.kernels.trees import (
    FREE_LEAVES,
    LEAVES,
    PAIRS,
    REFUSED,
    SPLITS,
    find_leaf_node,
    find_leaf_nodes,
)
from models.members.forest import ForestModel, ForestParams

SCHEMA = FeatureSchema(("a", "b", "c"))


def stream(n: int, seed: int = 0, turn: int = 0) -> tuple[FeatureBatch, F64, F64]:
    """A step in one column inside a step in another; after row ``turn`` the labels swap."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    y = ((dense[:, 0] > 0.3) ^ (dense[:, 1] > -0.5)).astype(float)
    y = np.where(rng.random(n) < 0.05, 1 - y, y)
    if turn:
        y[turn:] = 1 - y[turn:]
    return FeatureBatch(SCHEMA, dense, np.zeros((n, 0), np.uint32)), y, np.ones(n)


def trained(n: int = 6000, turn: int = 0, seed: int = 1, **params: float) -> ForestModel:
    """A forest after ``n`` rows."""
    model = ForestModel(ForestParams.model_validate(params), SCHEMA, seed)
    model.learn(*stream(n, turn=turn))
    return model


@pytest.mark.parametrize("delta", [0.001, 0.01, 0.1])
def test_adwin_signals_where_rivers_does(delta: float) -> None:
    """On 30 changes of rate, both signal at exactly the same rows."""
    rng = np.random.default_rng(0)
    rate = np.repeat(rng.random(30), rng.integers(50, 2000, 30))
    errors = (rng.random(len(rate)) < rate).astype(float)
    ours, rivers = make_adwins(2), drift.ADWIN(delta=delta)
    mine = [i for i, e in enumerate(errors) if adwin_update(1, e, delta, 0.0, ours)]
    theirs = [i for i, e in enumerate(errors) if rivers.update(e) or rivers.drift_detected]
    assert mine == theirs
    assert len(mine) > 10


@pytest.mark.parametrize(
    ("levels", "any_rise", "by_a_tenth"),
    [((0.4, 0.42), [1], []), ((0.4, 0.42, 0.6), [1, 1], [1]), ((0.4, 0.39), [-1], [-1])],
)
def test_adwin_waits_until_a_rise_is_large_and_tells_any_fall(
    levels: tuple[float, ...], any_rise: list[int], by_a_tenth: list[int]
) -> None:
    """Where all is certain after a few rows, a rise by a twentieth counts only if any does."""
    rng = np.random.default_rng(0)
    errors = np.repeat(levels, 4000) + rng.normal(0, 0.01, 4000 * len(levels))
    for least, told in ((0.0, any_rise), (0.1, by_a_tenth)):
        adwin = make_adwins(1)
        signals = [adwin_update(0, e, 0.001, least, adwin) for e in errors]
        assert [s for s in signals if s] == told


@pytest.mark.parametrize("rate", [0.5, 1.0, 6.0])
def test_bagging_weights_are_poisson(rate: float) -> None:
    """Mean and variance of 20,000 draws are the rate."""
    rng, rates = np.array([5], np.uint64), poisson_table(rate)[None, :]
    draws = np.array([poisson(rng, 0, rates) for _ in range(20_000)])
    assert draws.mean() == pytest.approx(rate, rel=0.05)
    assert draws.var() == pytest.approx(rate, rel=0.07)


def test_trees_walked_side_by_side_end_in_the_leaves_of_each() -> None:
    """For 50 rows the leaf of every tree is the one that it leads to alone."""
    model = trained(2000, trees=5)
    roots, trees, found = model._arrays.root, model._arrays.trees, np.zeros(5, np.int64)
    for x in stream(50, seed=1)[0].dense.astype(np.float64):
        find_leaf_nodes.py_func(roots, x, trees, found)
        assert found.tolist() == [find_leaf_node.py_func(root, x, trees) for root in roots[:5]]


def test_codes_beside_one_another_are_told_apart() -> None:
    """Of a hashed column naive Bayes counts a code's own bin alone: its neighbours know nothing."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (3000, 1)).astype(np.uint32)
    y = rng.integers(0, 2, 16)[codes[:, 0]].astype(float)
    schema = FeatureSchema((), (HashedColumn("shop", 64),))
    x = FeatureBatch(schema, np.zeros((3000, 0), np.float32), codes)
    # A tree that never splits: what is right then is naive Bayes.
    model = ForestModel(ForestParams(trees=1, grace=1e9), schema, 1)
    right = (model.score_learn(x, y, np.ones(3000))[:, 0] > 0) == (y > 0)
    assert right[1000:].mean() > 0.95


def test_rows_learned_in_parts_are_no_drift() -> None:
    """Blocks of silence, of small weight, and of what came of it: not one tree is replaced.

    With an error of silence as large as any other, five were.
    """
    rng, n, share = np.random.default_rng(0), 250, 0.5
    model = ForestModel(ForestParams.model_validate({}), SCHEMA, 1)
    for _ in range(40):
        dense = rng.normal(size=(n, 3)).astype(np.float32)
        x = FeatureBatch(SCHEMA, dense, np.zeros((n, 0), np.uint32))
        p = np.where(dense[:, 0] > 0, 0.6, 0.02)
        y = rng.random(n) < p
        early = y & (rng.random(n) < share)
        silent = 1 - p * share
        model.learn(x, early.astype(float), np.where(early, 1.0, share * (1 - p) / silent))
        late = np.flatnonzero(~early)
        w = np.where(y, 1.0, 1 - share) / silent
        model.learn(x.take(late), y[late].astype(float), w[late])
    assert model.replaced() == 0


def test_it_is_as_accurate_as_rivers_forest() -> None:
    """On nested steps, past the first 1,000 rows, at most half a point below River's ARF of 10."""
    x, y, w = stream(3000)
    rivers = forest.ARFClassifier(n_models=10, seed=1)
    right = []
    for row, label in zip(x.dense.tolist(), y, strict=True):
        features = dict(enumerate(row))
        right.append(rivers.predict_one(features) == bool(label))
        rivers.learn_one(features, bool(label))
    scores = ForestModel(ForestParams.model_validate({}), SCHEMA, 1).score_learn(x, y, w)[:, 0]
    assert ((scores > 0) == (y == 1))[1000:].mean() > np.mean(right[1000:]) - 0.005


def test_it_knows_something_after_fifty_rows() -> None:
    """Rows 50..200 of six plain streams with 10 % noise: right in .78 and more, .72 before bins
    were made of fewer rows while a column is young."""
    right = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        dense = rng.uniform(0, 10, (200, 3)).astype(np.float32)
        y = (dense[:, 0] + dense[:, 1] <= 8).astype(float)
        y = np.where(rng.random(200) < 0.1, 1 - y, y)
        x = FeatureBatch(SCHEMA, dense, np.zeros((200, 0), np.uint32))
        model = ForestModel(ForestParams.model_validate({}), SCHEMA, seed)
        right.append((model.score_learn(x, y, np.ones(200))[50:, 0] > 0) == (y[50:] == 1))
    assert np.mean(right) > 0.78


def test_it_recovers_from_a_drift() -> None:
    """After the labels swap, trees are replaced and accuracy returns within 1,500 rows."""
    x, y, w = stream(6000, turn=3000)
    model = ForestModel(ForestParams.model_validate({}), SCHEMA, 1)
    right = (model.score_learn(x, y, w)[:, 0] > 0) == (y == 1)
    assert right[2000:3000].mean() > 0.9
    assert right[3000:3100].mean() < 0.4
    assert right[4500:].mean() > 0.88
    warnings, drifts = model.state()["events"]
    assert warnings >= 10
    assert drifts >= 10


def test_a_calm_stream_replaces_hardly_any_tree() -> None:
    """The error of a young tree falls, which ADWIN may signal; once it is level, nothing is."""
    calm = trained(6000)
    later = ForestModel(ForestParams.model_validate({}), SCHEMA, 1)
    later.restore(calm.state())
    later.learn(*stream(6000, seed=9))
    assert later.state()["events"][1] - calm.state()["events"][1] <= 5


def test_memory_is_bounded_and_parts_are_used_again() -> None:
    """With the arena full, leaves stop splitting and are counted; what is free is never in use."""
    rng = np.random.default_rng(0)
    n = 30_000
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    y = ((dense * 4).astype(int).sum(1) % 2 == 0).astype(float)
    y[n // 2 :] = 1 - y[n // 2 :]
    x = FeatureBatch(SCHEMA, dense, np.zeros((n, 0), np.uint32))
    params = {"trees": 4, "max_leaves": 64, "delta": 0.5, "tie": 0.5}
    model = ForestModel(ForestParams.model_validate(params), SCHEMA, 1)
    model.learn(x, y, np.ones(n))
    state = model.state()
    counter = state["trees.counter"]
    assert counter[LEAVES] <= 64
    assert counter[REFUSED] > 0
    assert counter[SPLITS] > 40
    leaves, pairs = reachable(state)
    free = state["trees.free_leaf"].tolist()
    assert len(free) == counter[FREE_LEAVES]
    assert sorted(leaves + free) == list(range(counter[LEAVES]))
    assert sorted(pairs + state["trees.free_pair"].tolist()) == list(
        range(0, 2 * counter[PAIRS], 2)
    )


def reachable(state: dict[str, F64]) -> tuple[list[int], list[int]]:
    """The leaves and pairs of nodes that the trees reach from their roots."""
    leaves, pairs = [], []
    stack = [int(r) for r in state["root"] if r >= 0]
    pairs += stack
    while stack:
        node = stack.pop()
        child = int(state["trees.child"][node])
        if state["trees.column"][node] < 0:
            leaves.append(child)
        else:
            pairs.append(child)
            stack += [child, child + 1]
    return leaves, pairs


def test_rates_by_class_keep_probabilities_calibrated() -> None:
    """With 2% positives oversampled twelvefold, the mean score still is the base rate."""
    rng = np.random.default_rng(3)
    n = 40_000
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    p = np.where(dense[:, 0] > 1.5, 0.2, 0.006)
    y = (rng.random(n) < p).astype(float)
    x = FeatureBatch(SCHEMA, dense, np.zeros((n, 0), np.uint32))
    params = {"negative_rate": 0.5, "positive_rate": 6.0}
    model = ForestModel(ForestParams.model_validate(params), SCHEMA, 1)
    probability = 1 / (1 + np.exp(-model.score_learn(x, y, np.ones(n))[n // 2 :, 0]))
    assert probability.mean() == pytest.approx(y[n // 2 :].mean(), rel=0.35)


def test_the_last_label_wins_where_labels_run_in_series() -> None:
    """On labels that are noise but come in runs of 20, ``latest`` is right 4 times in 5."""
    rng = np.random.default_rng(4)
    y = np.repeat((rng.random(200) < 0.5).astype(float), 20)
    dense = rng.normal(size=(len(y), 3)).astype(np.float32)
    x = FeatureBatch(SCHEMA, dense, np.zeros((len(y), 0), np.uint32))
    model = ForestModel(ForestParams.model_validate({"latest": True}), SCHEMA, 1)
    scores = model.score_learn(x, y, np.ones(len(y)))[:, 0]
    assert ((scores > 0) == (y == 1)).mean() > 0.8


@pytest.mark.parametrize(("columns", "looked_at"), [(1, 1), (2, 2), (4, 3), (10, 6)])
def test_a_leaf_looks_at_three_columns_at_least(columns: int, looked_at: int) -> None:
    """A share of the columns is taken of many; of a few, three or all."""
    schema = FeatureSchema(tuple(f"c{i}" for i in range(columns)))
    model = ForestModel(ForestParams.model_validate({"max_leaves": 64}), schema, 1)
    assert model.state()["trees.subspace"].shape[1] == looked_at


def test_another_seed_grows_another_forest() -> None:
    """The seed decides subspaces and bagging weights, and nothing else does."""
    assert trained(2000).digest() == trained(2000).digest()
    assert trained(2000).digest() != trained(2000, seed=2).digest()
