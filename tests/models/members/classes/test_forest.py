"""The forest for classes: against River's, against its formulas in numpy, and through a drift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river import forest
from river.datasets import synth

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn
from models.kernels.binning import SPREAD
from models.kernels.leaves.classes import EVEN
from models.kernels.trees import FREE_LEAVES, LEAVES, REFUSED
from models.members.classes.forest import ForestModel, ForestParams
from models.task import Classes

TASK = Classes(["red", "green", "blue"])


def batch(dense: Any) -> FeatureBatch:
    """Rows of numbers alone."""
    dense = np.asarray(dense, np.float32)
    schema = FeatureSchema(tuple(f"x{i}" for i in range(dense.shape[1])))
    return FeatureBatch(schema, dense, np.zeros((len(dense), 0), np.uint32))


def steps(n: int, seed: int = 0) -> tuple[FeatureBatch, F64]:
    """Three classes by steps in two of three columns; one row in twenty errs."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3))
    y = np.where(dense[:, 0] > 0.3, 2, dense[:, 1] > -0.2).astype(float)
    return batch(dense), np.where(rng.random(n) < 0.05, rng.integers(0, 3, n), y)


def member(x: FeatureBatch, seed: int = 1, **params: Any) -> ForestModel:
    """A new forest for the columns of ``x``."""
    return ForestModel(ForestParams.model_validate(params), x.schema, seed, TASK)


def right(model: ForestModel, x: FeatureBatch, y: F64) -> F64:
    """Whether each row's likeliest class was right, before the row was learned."""
    return model.score_learn(x, y, np.ones(len(y))).argmax(1) == y


def test_it_is_as_accurate_as_rivers_forest() -> None:
    """On moving clusters of three classes, at most half a point below River's ARF of 10."""
    stream = synth.RandomRBFDrift(
        *(7, 7), n_classes=3, n_centroids=20, change_speed=0.01, n_drift_centroids=10
    )
    rows = list(stream.take(1500))
    x, y = batch([list(row.values()) for row, _ in rows]), np.array([float(y) for _, y in rows])
    rivers, theirs = forest.ARFClassifier(n_models=10, seed=1), []
    for row, label in rows:
        theirs.append(rivers.predict_one(row) == label)
        rivers.learn_one(row, label)
    assert right(member(x), x, y).mean() > np.mean(theirs) - 0.005


def test_values_of_two_kinds_are_told_apart() -> None:
    """Of columns that are 0 or 1, naive Bayes knows which: no bins of other values are counted."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 2000).astype(float)
    codes = np.array([[0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 1, 1]])
    bits = codes[y.astype(int)] ^ (rng.random((2000, 6)) < 0.2)
    x = batch(bits)
    # A tree that never splits, with all columns: what is right then is naive Bayes.
    found = right(member(x, trees=1, subspace=1.0, grace=1e9), x, y)
    likelihood = np.where(bits[:, None] == codes, 0.8, 0.2).prod(2)
    best = likelihood.argmax(1) == y
    assert found[500:].mean() > best[500:].mean() - 0.01


def test_codes_beside_one_another_are_told_apart() -> None:
    """Of a hashed column naive Bayes counts a code's own bin alone: its neighbours know nothing."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (3000, 1)).astype(np.uint32)
    y = rng.integers(0, 3, 16)[codes[:, 0]].astype(float)
    schema = FeatureSchema((), (HashedColumn("shop", 64),))
    x = FeatureBatch(schema, np.zeros((3000, 0), np.float32), codes)
    # A tree that never splits: what is right then is naive Bayes.
    assert right(member(x, trees=1, grace=1e9), x, y)[1000:].mean() > 0.95


def test_a_leaf_votes_by_the_formula() -> None:
    """Of a tree that never splits: shares from its histogram as numpy makes them."""
    x, y = steps(900)
    model = member(x, trees=1, subspace=1.0, grace=1e9)
    model.learn(x, y, np.ones(len(y)))
    state, k = model.state(), TASK.k
    leaf = state["trees.child"][state["root"][0]]
    known, histogram = state["trees.known"][leaf], state["trees.histogram"][leaf].astype(float)
    prior = (known[:k] + state["prior"] / state["prior"].sum()) / (known[:k].sum() + 1)
    assert known[2 * k + 2] > known[2 * k + 1]  # naive Bayes is the better predictor here
    rows, _ = steps(40, seed=5)
    for row, link in zip(rows.dense.astype(float), model.score(rows), strict=True):
        share = prior.copy()
        for j, f in enumerate(state["trees.subspace"][leaf]):
            used = state["bins.used"][f]
            at, reach = int((state["bins.edge"][f] < row[f]).sum()), used // SPREAD
            near = slice(max(at - reach, 0), min(at + reach + 1, used))
            counted = histogram[j, near].sum(0) + EVEN * (near.stop - near.start) / used
            share *= counted / (known[k : 2 * k] + EVEN)
        assert np.exp(link) == pytest.approx(share / share.sum(), rel=1e-6, abs=1e-8)


def test_it_recovers_from_a_drift() -> None:
    """After the classes change places, trees are replaced and accuracy returns."""
    x, y = steps(6000)
    y[3000:] = (y[3000:] + 1) % 3
    model = member(x)
    found = right(model, x, y)
    assert found[2000:3000].mean() > 0.9
    assert found[3000:3100].mean() < 0.5
    assert found[4500:].mean() > 0.88
    assert model.replaced() >= 10


def test_no_tree_is_replaced_for_getting_better() -> None:
    """A young forest's error falls, which is a change, and none to begin anew for."""
    x, y = steps(6000)
    model = member(x)
    model.learn(x, y, np.ones(len(y)))
    assert model.replaced() == 0


def test_memory_is_bounded() -> None:
    """With the arena full, leaves stop splitting and are counted."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(20_000, 3))
    y = ((dense * 3).astype(int).sum(1) % 3).astype(float)
    y[10_000:] = (y[10_000:] + 1) % 3
    x = batch(dense)
    model = member(x, trees=4, max_leaves=64, delta=0.5, tie=0.5)
    model.learn(x, y, np.ones(len(y)))
    counter = model.state()["trees.counter"]
    assert counter[LEAVES] <= 64
    assert counter[REFUSED] > 0
    assert 0 <= counter[FREE_LEAVES] <= counter[LEAVES]


def test_many_columns_leave_finite_votes() -> None:
    """The product over 300 columns that agree stays within the range of numbers."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 600).astype(float)
    x = batch(np.repeat(y[:, None], 300, 1) + rng.normal(size=(600, 300)) * 0.1)
    scores = member(x, trees=2, subspace=1.0).score_learn(x, y, np.ones(len(y)))
    assert np.isfinite(scores).all()
    assert (scores.argmax(1) == y)[100:].mean() > 0.99
