"""The forest for a number: against River's, lines against least squares, through a drift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river import forest
from river.datasets import synth

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn
from models.kernels.common import numbers, poisson_table
from models.kernels.trees import FREE_LEAVES, LEAVES, REFUSED, SPLITS
from models.members.numbers.forest import ForestModel, ForestParams
from models.task import Number


def batch(dense: Any, codes: Any = None) -> FeatureBatch:
    """Rows of numbers, and of one column of codes below 100 if given."""
    dense = np.asarray(dense, np.float32)
    hashed = np.zeros((len(dense), 0)) if codes is None else np.asarray(codes)[:, None]
    names = tuple(f"x{i}" for i in range(dense.shape[1]))
    schema = FeatureSchema(names, (HashedColumn("code", 100),) * hashed.shape[1])
    return FeatureBatch(schema, dense, hashed.astype(np.uint32))


def member(x: FeatureBatch, seed: int = 1, **params: Any) -> ForestModel:
    """A new forest for the columns of ``x``."""
    return ForestModel(ForestParams.model_validate(params), x.schema, seed, Number())


def errors(model: ForestModel, x: FeatureBatch, y: F64) -> F64:
    """How far off each row's number was, before the row was learned."""
    found: F64 = np.abs(model.score_learn(x, y, np.ones(len(y)))[:, 0] - y)
    return found


def bent(n: int, seed: int = 0) -> tuple[FeatureBatch, F64]:
    """Another line on each side of a step in the first of three columns; a little noise."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3))
    y = np.where(dense[:, 0] > 0.2, 3 + dense[:, 1], 2 * dense[:, 2] - 4 * dense[:, 1])
    return batch(dense), 50 + 10 * y + rng.normal(size=n)


def test_it_errs_less_than_rivers_forest() -> None:
    """On Friedman's function with three drifts, from the first row on."""
    stream = synth.FriedmanDrift("lea", position=(300, 500, 700), seed=7)
    rows = list(stream.take(1000))
    x, y = batch([list(row.values()) for row, _ in rows]), np.array([y for _, y in rows])
    rivers, theirs = forest.ARFRegressor(n_models=10, seed=1), []
    for row, truth in rows:
        theirs.append(abs(rivers.predict_one(row) - truth))
        rivers.learn_one(row, truth)
    assert errors(member(x), x, y).mean() < np.mean(theirs)


def test_a_line_says_what_least_squares_say_though_a_column_moves_away() -> None:
    """One leaf of draws and weights: numpy's weighted regression of the same rows.

    A column goes up for ever, so that the line is rewritten several times on the way.
    """
    rng = np.random.default_rng(3)
    n = 400
    dense = rng.choice([-1.0, 1.0], (n, 3))
    dense[:2] = [[1, 1, 1], [-1, -1, -1]]
    dense[:, 2] += np.arange(n) / 10
    x, w = batch(dense), rng.integers(1, 3, n).astype(float)
    y = 5 + dense @ [3.0, -2.0, 0.5] + rng.normal(size=n)
    model = member(x, trees=1, grace=1e9, ridge=1e-9, warning=1e-300, drift=1e-300)
    model.learn(x, y, w)
    # The first draws chose the leaf's columns.
    draws = (numbers(1, n + 3)[3:] >> np.uint64(11)) / 2.0**53
    counted = w * np.searchsorted(poisson_table(6.0), draws, side="right")
    root = np.sqrt(counted)[:, None]
    design = np.column_stack([np.ones(n), x.dense.astype(float)])
    expected = np.linalg.lstsq(root * design, root[:, 0] * y, rcond=None)[0]
    state = model.state()
    leaf = state["trees.child"][state["root"][0]]
    standard = (design[:, 1:] - state["lines.centre"]) / state["lines.unit"]
    assert abs(state["lines.centre"][2]) > 5
    weight = state["lines.weight"][leaf]
    assert weight[0] + standard @ weight[1:] == pytest.approx(design @ expected, abs=1e-4)


def test_each_side_of_a_step_has_a_line_of_its_own() -> None:
    """Where a line must change with another column, the error nears that of the noise, 0.8."""
    x, y = bent(6000)
    model = member(x)
    found = errors(model, x, y)
    assert found[:200].mean() > 10
    assert found[5000:].mean() < 1.6
    assert model.state()["trees.counter"][SPLITS] >= 10


def test_a_leaf_of_one_number_does_not_split() -> None:
    """Two numbers, told apart by one column: a few splits while it learns, none for rounding."""
    x, _ = bent(4000)
    x.dense[:, 0] = np.sign(x.dense[:, 0])
    y = np.where(x.dense[:, 0] > 0, 5 / 3, 1.0)
    model = member(x)
    model.learn(x, y, np.ones(len(y)))
    assert model.state()["trees.counter"][SPLITS] < 30


def test_text_is_what_its_codes_come_to() -> None:
    """A hundred codes, each with a number of its own: learned by lines, as few splits could."""
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 100, 4000)
    dense = rng.normal(size=(4000, 2))
    y = rng.normal(0, 10, 100)[codes] + dense[:, 0] + rng.normal(size=4000)
    x = batch(dense, codes)
    assert errors(member(x), x, y)[3000:].mean() < 1.8


def test_it_recovers_from_a_drift() -> None:
    """After the sides change places trees are replaced, and the error returns."""
    x, y = bent(8000)
    y[4000:] = 100 - y[4000:]
    model = member(x)
    found = errors(model, x, y)
    assert found[3000:4000].mean() < 2
    assert found[4000:4100].mean() > 20
    assert found[7000:].mean() < 3
    assert model.replaced() >= 5


def test_no_tree_is_replaced_for_getting_better() -> None:
    """A young forest's error falls, which is a change, and none to begin anew for."""
    x, y = bent(6000)
    model = member(x)
    model.learn(x, y, np.ones(len(y)))
    assert model.replaced() == 0


def test_no_unit_matters() -> None:
    """Truths of thousands or of millionths: the same numbers in their unit, but for rounding."""
    x, y = bent(1500)
    said = [member(x).score_learn(x, y * u, np.ones(len(y)))[:, 0] / u for u in (2.0**-20, 2.0**10)]
    np.testing.assert_allclose(said[0], said[1], rtol=1e-9)


def test_a_number_out_of_all_bounds_spoils_no_line() -> None:
    """One value of 1e30 in a column: what was said of the other columns is said on."""
    x, y = bent(4000)
    x.dense[3000, 2] = 1e30
    found = errors(member(x), x, y)
    assert np.delete(found, 3000)[3000:].mean() < 40  # the target's mean errs by 26


def test_memory_is_bounded() -> None:
    """With the arena full, leaves stop splitting and are counted."""
    x, y = bent(8000)
    y[4000:] = 100 - y[4000:]
    model = member(x, trees=4, max_leaves=64, grace=5)
    model.learn(x, y, np.ones(len(y)))
    counter = model.state()["trees.counter"]
    assert counter[LEAVES] <= 64
    assert counter[REFUSED] > 0
    assert 0 <= counter[FREE_LEAVES] <= counter[LEAVES]
