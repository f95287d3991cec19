"""What columns do to a member's link: sums, Shapley values by brute force and by a library."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import shap

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn, Model
from models.ensemble.combine import combiner
from models.kernels.gradients import leaf_value
from models.kernels.reasons import LEAST
from models.kernels.trees import SECOND
from models.links import sigmoid
from models.members.boosting import BoostingModel, BoostingParams
from models.members.crossed import CrossedModel, CrossedParams
from models.members.forest import ForestModel, ForestParams
from models.members.logistic import LogisticModel, LogisticParams
from models.members.narrow import Narrow
from models.task import BINARY

SCHEMA = FeatureSchema(("a", "b", "c"), (HashedColumn("k", 6),))
MEMBERS: dict[str, Any] = {
    "logistic": (LogisticModel, LogisticParams),
    "crossed": (CrossedModel, CrossedParams),
    "boosting": (BoostingModel, BoostingParams),
}


def rows(n: int, seed: int = 0) -> FeatureBatch:
    """Three columns and a code."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    return FeatureBatch(SCHEMA, dense, rng.integers(0, 6, (n, 1)).astype(np.uint32))


def taught(name: str, **params: Any) -> Model:
    """A member that learned what depends on all columns, two of them together."""
    model, settings = MEMBERS[name]
    made: Model = model(settings.model_validate(params), SCHEMA, 1)
    x = rows(6000)
    link = 2.0 * x.dense[:, 0] * (x.dense[:, 1] > 0) + (x.hashed[:, 0] > 3) - x.dense[:, 2]
    rng = np.random.default_rng(5)
    y = (rng.random(6000) < 1 / (1 + np.exp(-link))).astype(float)
    made.learn(x, y, np.ones(6000))
    return made


@pytest.mark.parametrize("name", ["logistic", "crossed", "boosting"])
def test_a_member_that_tells_while_it_scores_says_the_same(name: str) -> None:
    """Links and contributions, bit for bit; also one that weighs classes, and sees few columns."""
    own = FeatureSchema(("c", "a"), SCHEMA.hashed)
    kind, settings = MEMBERS[name]
    inner = kind(settings.model_validate({"class_weights": {"true": 3.0}}), own, 1)
    narrow, x = Narrow(inner, own, SCHEMA), rows(300)
    narrow.learn(x, (x.dense[:, 2] > 0).astype(float), np.ones(300))
    for model in (taught(name), narrow):
        links, told = model.telling(x)
        expected = model.contributions(x, exact=False)
        assert told is not None
        assert expected is not None
        assert links.tolist() == model.score(x).tolist()
        assert told.tolist() == expected.tolist()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", ["crossed", "boosting"])
def test_contributions_and_a_constant_are_the_link(name: str, exact: bool) -> None:
    """What is left of a link is the same for all rows; telling it changes nothing."""
    model, x = taught(name), rows(200, 9)
    before = model.digest()
    told = model.contributions(x, exact)
    assert told is not None
    left = model.score(x)[:, 0] - told.sum(axis=1)
    assert np.ptp(left) < 1e-9
    assert model.digest() == before
    alone = model.contributions(x.take(slice(7, 8)), exact)
    assert alone is not None
    assert alone[0].tolist() == told[7].tolist()


def test_those_of_one_regression_are_its_terms() -> None:
    """Mixed by shares, they move with the mix: all that is left is what the biases say."""
    model, x = taught("logistic"), rows(200, 9)
    told = model.contributions(x, exact=True)
    assert told is not None
    left = model.score(x)[:, 0] - told.sum(axis=1)
    assert np.ptp(left) < 1e-3


def trees_of(model: BoostingModel) -> list[dict[str, Any]]:
    """The trees as the shap library takes them: a leaf's cover is its curvature."""
    a = model._arrays
    found = []
    for root in a.root.tolist():
        order, stack = [], [root]
        while stack:
            node = stack.pop()
            order.append(node)
            if a.trees.column[node] >= 0:
                stack += [int(a.trees.child[node]), int(a.trees.child[node]) + 1]
        at = {node: i for i, node in enumerate(order)}
        inner = [bool(a.trees.column[node] >= 0) for node in order]
        covers, values = np.zeros(len(order)), np.zeros(len(order))
        for i in reversed(range(len(order))):
            child = int(a.trees.child[order[i]])
            if inner[i]:
                pair = [at[child], at[child + 1]]
                covers[i] = covers[pair].sum()
                values[i] = (covers[pair] * values[pair]).sum() / covers[i]
            else:
                covers[i] = max(a.trees.known[child, SECOND], LEAST)
                values[i] = a.rate[0] * leaf_value(child, a.trees, a.hyper)
        child_of = [int(a.trees.child[n]) for n in order]
        sides = [
            [
                at[child + side] if split else -1
                for child, split in zip(child_of, inner, strict=True)
            ]
            for side in (0, 1)
        ]
        columns = a.trees.column[order]
        found.append(
            {
                "children_left": np.array(sides[0]),
                "children_right": np.array(sides[1]),
                "children_default": np.array(sides[0]),
                "features": np.where(inner, columns, -2),
                "thresholds": a.trees.threshold[order],
                "values": values.reshape(-1, 1),
                "node_sample_weight": covers,
            }
        )
    return found


def columns(x: FeatureBatch) -> F64:
    return np.hstack([x.dense.astype(float), x.hashed.astype(float)])


def conditional(tree: dict[str, Any], x: F64, known: frozenset[int], node: int = 0) -> float:
    """What a tree says where only some columns are known; of the others both ways, by cover."""
    if tree["children_left"][node] < 0:
        return float(tree["values"][node, 0])
    left, right = tree["children_left"][node], tree["children_right"][node]
    f = tree["features"][node]
    if f in known:
        return conditional(tree, x, known, left if x[f] <= tree["thresholds"][node] else right)
    weights = tree["node_sample_weight"]
    said = (conditional(tree, x, known, left), conditional(tree, x, known, right))
    return float((weights[left] * said[0] + weights[right] * said[1]) / weights[node])


def shapley(game: Any, players: int) -> list[float]:
    """Shapley values of a game, by all coalitions."""
    values = []
    for i in range(players):
        others, total = [j for j in range(players) if j != i], 0.0
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - 1 - size)
            for some in map(frozenset, itertools.combinations(others, size)):
                total += weight * (game(some | {i}) - game(some))
        values.append(total / math.factorial(players))
    return values


def test_boosting_gives_the_shapley_values_of_its_trees() -> None:
    """By brute force over all coalitions, to 1e-12."""
    model, x = taught("boosting", trees=6), rows(12, 9)
    assert isinstance(model, BoostingModel)
    told, trees = model.contributions(x, exact=True), trees_of(model)
    assert max(len(tree["features"]) for tree in trees) > 8
    for got, row in zip(told, columns(x), strict=True):
        game = lambda known, row=row: sum(conditional(t, row, known) for t in trees)  # noqa: E731
        assert got == pytest.approx(shapley(game, 4), abs=1e-12)


def test_boosting_agrees_with_the_shap_library() -> None:
    """Path-dependent TreeSHAP of the same trees, to 1e-12."""
    model, x = taught("boosting", trees=20), rows(50, 9)
    assert isinstance(model, BoostingModel)
    explainer = shap.TreeExplainer({"trees": trees_of(model)})
    expected = np.asarray(explainer.shap_values(columns(x), check_additivity=False))
    assert model.contributions(x, exact=True) == pytest.approx(
        expected.reshape(len(x), 4), abs=1e-12
    )


def test_the_way_of_a_row_is_its_steps() -> None:
    """Each split moves what the nodes say on average, and its column gets that."""
    model, x = taught("boosting", trees=6), rows(20, 9)
    assert isinstance(model, BoostingModel)
    expected = np.zeros((20, 4))
    for tree in trees_of(model):
        for i, row in enumerate(columns(x)):
            node = 0
            while tree["children_left"][node] >= 0:
                f = tree["features"][node]
                side = "children_left" if row[f] <= tree["thresholds"][node] else "children_right"
                child = tree[side][node]
                expected[i, f] += tree["values"][child, 0] - tree["values"][node, 0]
                node = child
    assert model.contributions(x, exact=False) == pytest.approx(expected, abs=1e-12)


def test_a_member_that_sees_some_columns_says_nothing_of_the_others() -> None:
    """Its contributions stand at the columns of the whole."""
    own = FeatureSchema(("c",), SCHEMA.hashed)
    inner, x = CrossedModel(CrossedParams(), own, 1), rows(300)
    model = Narrow(inner, own, SCHEMA)
    model.learn(x, (x.dense[:, 2] > 0).astype(float), np.ones(300))
    told = model.contributions(x, exact=False)
    seen = inner.contributions(FeatureBatch(own, x.dense[:, 2:].copy(), x.hashed), exact=False)
    assert told is not None
    assert seen is not None
    assert not told[:, :2].any()
    assert told[:, 2:].tolist() == seen.tolist()


def test_a_member_that_cannot_tell_says_so() -> None:
    """A forest's votes are no sum."""
    assert ForestModel(ForestParams(), SCHEMA, 1).contributions(rows(3), exact=True) is None


@pytest.mark.parametrize(
    "name", ["mean_logit", "mean_probability", "bagging", "weighted_vote", "stacking", "stack"]
)
def test_slopes_along_a_line_add_up_to_what_the_link_moved(name: str) -> None:
    """By the fundamental theorem: to 1e-4, where no bent logit has its kink."""
    rng = np.random.default_rng(3)
    made = combiner(name, 3, 1, BINARY)
    links = rng.normal(size=(500, 3, 1))
    made.update(links, (rng.random(500) < sigmoid(links[:, 0, 0])).astype(float), np.ones(500))
    start, end = rng.uniform(0.5, 3, (40, 3)), rng.uniform(0.5, 3, (40, 3))
    slopes = made.slopes(start, end)
    assert slopes is not None
    moved = made.combine(end[:, :, None]) - made.combine(start[:, :, None])
    assert (slopes * (end - start)).sum(axis=1) == pytest.approx(moved[:, 0], abs=1e-4)
