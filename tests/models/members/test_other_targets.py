"""River's and torch's members of classes and of numbers: learning, restores, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn, Model
from models.members.catalogue import build
from models.task import Classes, Number, Task

SCHEMA = FeatureSchema(("a", "b"), (HashedColumn("shop", 4),))
TASKS: dict[str, Task] = {"classes": Classes(["low", "mid", "high"]), "number": Number()}
SCALED = {"model": "river.preprocessing.StandardScaler"}
MEMBERS: list[tuple[str, str, dict[str, Any]]] = [
    ("classes", "river", {"model": "river.naive_bayes.GaussianNB"}),
    ("classes", "river", {"model": "river.tree.HoeffdingTreeClassifier"}),
    (
        "classes",
        "river",
        {
            "model": "river.compose.Pipeline",
            "steps": [SCALED, {"model": "river.linear_model.SoftmaxRegression"}],
        },
    ),
    ("classes", "torch", {"hidden": [8], "learning_rate": 0.05}),
    ("number", "river", {"model": "river.tree.HoeffdingTreeRegressor"}),
    (
        "number",
        "river",
        {
            "model": "river.compose.Pipeline",
            "steps": [SCALED, {"model": "river.linear_model.LinearRegression"}],
        },
    ),
    ("number", "torch", {"hidden": [8], "learning_rate": 0.05}),
]
EACH = pytest.mark.parametrize(
    ("task", "kind", "params"), MEMBERS, ids=[f"{k}-{t}-{i}" for i, (t, k, _) in enumerate(MEMBERS)]
)


def rows(task: str, n: int, seed: int) -> tuple[FeatureBatch, F64, F64]:
    """Rows whose truth follows from the columns, weights of 1 and of 2."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 2)).astype(np.float32)
    hashed = rng.integers(0, 4, (n, 1)).astype(np.uint32)
    score = dense[:, 0] + (hashed[:, 0] == 1) + 0.1 * rng.normal(size=n)
    y = np.digitize(score, [-0.3, 0.8]) * 1.0 if task == "classes" else 200 + 30.0 * score
    return FeatureBatch(SCHEMA, dense, hashed), y, rng.integers(1, 3, n) * 1.0


def member(task: str, kind: str, params: dict[str, Any]) -> Model:
    return build(kind, params, SCHEMA, 3, TASKS[task])


@EACH
def test_it_learns_the_target(task: str, kind: str, params: dict[str, Any]) -> None:
    """After 3,000 rows it is far better than the likeliest class, or the mean."""
    made = member(task, kind, params)
    x, y, w = rows(task, 3000, 0)
    for start in range(0, 3000, 100):
        part = slice(start, start + 100)
        made.learn(x.take(part), y[part], w[part])
    x, y, _ = rows(task, 500, 1)
    links = made.score(x)
    assert links.shape == (500, TASKS[task].k)
    if task == "classes":
        assert (links.argmax(axis=1) == y).mean() > 0.55
    else:
        assert np.abs(links[:, 0] - y).mean() < 0.6 * np.abs(y - y.mean()).mean()


@EACH
def test_a_restored_member_goes_on_bit_for_bit(
    task: str, kind: str, params: dict[str, Any]
) -> None:
    """Saved in the middle of the stream: the same scores and the same digest."""
    straight, saved, again = (member(task, kind, params) for _ in range(3))
    x, y, w = rows(task, 400, 2)
    for made in (straight, saved):
        made.learn(x.take(slice(0, 200)), y[:200], w[:200])
    again.restore(saved.state())
    for made in (straight, again):
        made.learn(x.take(slice(200, 400)), y[200:], w[200:])
    assert straight.digest() == again.digest()
    assert (straight.score(x) == again.score(x)).all()


@EACH
def test_scoring_changes_nothing(task: str, kind: str, params: dict[str, Any]) -> None:
    """Before and after learning; a fresh one scores finite links."""
    made = member(task, kind, params)
    x, y, w = rows(task, 50, 3)
    for _ in range(2):
        before = made.digest()
        assert np.isfinite(made.score(x)).all()
        assert made.digest() == before
        made.learn(x, y, w)


def test_a_classifier_is_no_regressor() -> None:
    """Nor the other way: each is refused where the other is needed, with its name."""
    with pytest.raises(ValueError, match=r"expected a regressor.*GaussianNB is none"):
        member("number", "river", {"model": "river.naive_bayes.GaussianNB"})
    with pytest.raises(ValueError, match=r"expected a classifier.*LinearRegression is none"):
        member("classes", "river", {"model": "river.linear_model.LinearRegression"})


def test_a_network_of_numbers_minds_no_unit() -> None:
    """Truths of thousands or of millionths: the same scores in their unit, but for rounding."""
    x, y, w = rows("number", 600, 4)
    said = []
    for unit in (1e-6, 1e3):
        made = member("number", "torch", {"hidden": [8], "learning_rate": 0.05})
        made.learn(x, y * unit, w)
        said.append(made.score(x)[:, 0] / unit)
    np.testing.assert_allclose(said[0], said[1], rtol=1e-3)
