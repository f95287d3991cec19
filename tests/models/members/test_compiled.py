"""What every compiled member promises, whatever it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn, StateError, state_digest
from models.members.catalogue import build
from models.task import BINARY, Classes, Number, Task

SCHEMA = FeatureSchema(("a", "b", "c", "flat"), (HashedColumn("shop", 20),))
CLASSES = Classes(["low", "middle", "high"])
NUMBER = Number()
MEMBERS: list[tuple[str, Task, dict[str, Any]]] = [
    ("logistic", BINARY, {"class_weights": {"true": 2.0}}),
    ("crossed", BINARY, {"bins": 32, "table_bits": 14}),
    ("forest", BINARY, {"trees": 3, "max_leaves": 64, "latest": True, "positive_rate": 3.0}),
    ("boosting", BINARY, {"trees": 8, "max_leaves": 64}),
    ("logistic", CLASSES, {"class_weights": {"high": 2.0}}),
    ("logistic", NUMBER, {"loss": "huber"}),
    ("crossed", CLASSES, {"bins": 32, "table_bits": 14}),
    ("crossed", NUMBER, {"bins": 32, "table_bits": 14}),
    ("boosting", CLASSES, {"trees": 4, "max_leaves": 64}),
    ("boosting", NUMBER, {"trees": 8, "max_leaves": 64}),
    ("forest", CLASSES, {"trees": 3, "max_leaves": 64, "class_weights": {"high": 2.0}}),
    ("forest", NUMBER, {"trees": 3, "max_leaves": 64}),
]
EACH = pytest.mark.parametrize(
    ("name", "task", "params"), MEMBERS, ids=[f"{m[0]}-{m[1].type}" for m in MEMBERS]
)


def stream(n: int, task: Task, seed: int = 0) -> tuple[FeatureBatch, F64, F64]:
    """Heavy-tailed, discrete, normal and constant columns; the concept turns around half-way."""
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=n), rng.exponential(size=n) ** 3, rng.integers(0, 4, n), np.ones(n)]
    dense = np.stack(columns, 1).astype(np.float32)
    hashed = rng.integers(0, 20, (n, 1)).astype(np.uint32)
    truth = 2 * dense[:, 0] + (dense[:, 1] > 4) * 3 + (hashed[:, 0] % 5 == 0) - 1
    truth[n // 2 :] *= -1
    y = truth + rng.logistic(size=n)
    if task.type != "number":
        y = np.digitize(y, [0] if task.k == 1 else [-1, 1]).astype(float)
    return FeatureBatch(SCHEMA, dense, hashed), y, rng.integers(0, 3, n).astype(float)


def member(name: str, task: Task, params: dict[str, Any], seed: int = 3) -> Any:
    """A fresh member of this type."""
    return build(name, params, SCHEMA, seed, task)


@EACH
def test_many_rows_at_once_equal_many_single_calls(
    name: str, task: Task, params: dict[str, Any]
) -> None:
    """Learning and scoring do not depend on how the stream was cut into batches."""
    x, y, w = stream(600, task)
    whole, single = member(name, task, params), member(name, task, params)
    whole.learn(x, y, w)
    for i in range(len(x)):
        single.learn(x.take(slice(i, i + 1)), y[i : i + 1], w[i : i + 1])
    assert whole.digest() == single.digest()
    rows = np.concatenate([single.score(x.take(slice(i, i + 7))) for i in range(0, len(x), 7)])
    assert np.array_equal(whole.score(x), rows)


@EACH
def test_score_learn_is_score_then_learn_row_by_row(
    name: str, task: Task, params: dict[str, Any]
) -> None:
    """The one-pass walk gives the scores and the state of the two calls taken in turn."""
    x, y, w = stream(600, task)
    both, turns = member(name, task, params), member(name, task, params)
    scores = both.score_learn(x, y, w)
    for i in range(len(x)):
        row = x.take(slice(i, i + 1))
        assert np.array_equal(turns.score(row)[0], scores[i])
        turns.learn(row, y[i : i + 1], w[i : i + 1])
    assert both.digest() == turns.digest()


@EACH
def test_scoring_changes_nothing(name: str, task: Task, params: dict[str, Any]) -> None:
    """The digest before and after scoring is the same, and so are repeated scores."""
    x, y, w = stream(500, task)
    model = member(name, task, params)
    model.learn(x, y, w)
    before = model.digest()
    assert np.array_equal(model.score(x), model.score(x))
    assert model.digest() == before


@EACH
@settings(max_examples=8)
@given(cut=st.integers(0, 3000))
def test_a_restored_member_goes_on_as_if_nothing_had_happened(
    name: str, task: Task, params: dict[str, Any], cut: int
) -> None:
    """Saved at any row and restored into a used member, both reach the same digest."""
    x, y, w = stream(3000, task)
    model, other = member(name, task, params), member(name, task, params, seed=9)
    other.learn(*stream(500, task, seed=4))
    head, tail = slice(0, cut), slice(cut, None)
    model.learn(x.take(head), y[head], w[head])
    saved = model.state()
    model.learn(x.take(tail), y[tail], w[tail])
    other.restore(saved)
    other.learn(x.take(tail), y[tail], w[tail])
    assert model.digest() == other.digest()


@EACH
def test_a_state_is_a_copy(name: str, task: Task, params: dict[str, Any]) -> None:
    """Learning on does not change a state that was handed out."""
    x, y, w = stream(800, task)
    model = member(name, task, params)
    model.learn(x, y, w)
    before, saved = model.digest(), model.state()
    assert state_digest(saved) == before
    model.learn(x, y[::-1].copy(), w + 1)
    assert model.digest() != before
    model.restore(saved)
    assert model.digest() == before


@EACH
def test_scores_are_finite_whatever_comes(name: str, task: Task, params: dict[str, Any]) -> None:
    """Huge, tiny and constant values, one class only, weights of 0: no score is nan or inf."""
    rng = np.random.default_rng(0)
    n = 3000
    dense = rng.normal(size=(n, 4)) * 10.0 ** rng.integers(-38, 38, (n, 4))
    dense[::7] = 1e30
    dense[::11] = -3.4e38
    dense[1000:1500] = 0
    x = FeatureBatch(SCHEMA, dense.astype(np.float32), np.full((n, 1), 19, np.uint32))
    y = (np.arange(n) >= 2900).astype(float)
    if task.type == "number":
        y *= 1e30
    model = member(name, task, params)
    w = np.where(np.arange(n) % 5, 1.0, 0.0) * np.where(np.arange(n) % 13, 1.0, 1e6)
    assert np.isfinite(model.score(x)).all()
    assert np.isfinite(model.score_learn(x, y, w)).all()
    assert np.isfinite(model.score(x)).all()


@EACH
def test_it_learns(name: str, task: Task, params: dict[str, Any]) -> None:
    """Within a concept, of two rows 4 times in 5 the one with the greater truth is said to have it.

    Of numbers, rows count whose truths differ by more than the noise.
    """
    x, y, _ = stream(8000, task)
    said = task.output(member(name, task, params).score_learn(x, y, np.ones(len(x))))
    expected = (said @ np.arange(task.k) if task.k > 1 else said[:, 0])[3000:4000]
    truth = y[3000:4000]
    above = truth[:, None] > truth + (2.0 if task.type == "number" else 0.0)
    gap = expected[:, None] - expected
    assert (gap[above] > 0).mean() > 0.8


@pytest.mark.parametrize(
    ("name", "task", "weights"),
    [
        ("logistic", BINARY, {"true": 5.0}),
        ("logistic", CLASSES, {"low": 5.0, "high": 0.5}),
        ("crossed", BINARY, {"true": 5.0}),
        ("crossed", CLASSES, {"low": 5.0, "high": 0.5}),
        ("boosting", BINARY, {"true": 5.0}),
        ("boosting", CLASSES, {"low": 5.0, "high": 0.5}),
        ("forest", CLASSES, {"low": 5.0, "high": 0.5}),
    ],
)
def test_probabilities_stay_true_under_class_weights(
    name: str, task: Task, weights: dict[str, float]
) -> None:
    """Whatever a class counts for, what is said of each sums to the rows it has."""
    x, y, _ = stream(16_000, task)
    x, y = x.take(slice(8000)), y[:8000]
    plain, weighted = (
        task.output(member(name, task, p).score_learn(x, y, np.ones(len(x))))[1000:]
        for p in ({}, {"class_weights": weights})
    )
    rows = np.bincount(y[1000:].astype(int))[-task.k :]
    assert plain.sum(0) == pytest.approx(rows, rel=0.05)
    assert weighted.sum(0) == pytest.approx(rows, rel=0.08)
    assert not np.array_equal(plain, weighted)


@EACH
def test_wrong_columns_are_refused(name: str, task: Task, params: dict[str, Any]) -> None:
    """A batch of another schema never reaches compiled code, which would read past its end."""
    wrong = FeatureBatch(SCHEMA, np.zeros((2, 3), np.float32), np.zeros((2, 1), np.uint32))
    with pytest.raises(ValueError, match="expected 4 dense and 1 hashed"):
        member(name, task, params).score(wrong)
    x, y, w = stream(10, task)
    with pytest.raises(ValueError, match=r"expected y and w of shape \(10,\)"):
        member(name, task, params).learn(x, y[:9], w)


@EACH
def test_a_state_of_other_columns_is_refused(name: str, task: Task, params: dict[str, Any]) -> None:
    """Restoring a member of another schema raises and says which array does not fit."""
    other = FeatureSchema(("a", "b"), (HashedColumn("shop", 9),))
    donor = build(name, params, other, 3, task)
    donor.learn(FeatureBatch(other, np.ones((1, 2), "f4"), np.ones((1, 1), "u4")), *np.ones((2, 1)))
    with pytest.raises(StateError, match="expected"):
        member(name, task, params).restore(donor.state())
    with pytest.raises(StateError, match="version"):
        member(name, task, params).restore({})


@EACH
def test_the_parameter_table_counts_the_state(
    name: str, task: Task, params: dict[str, Any]
) -> None:
    """Each array of the state is one row with its size; counting changes nothing."""
    model = member(name, task, params)
    model.learn(*stream(2000, task))
    before = model.digest()
    arrays = {k: v for k, v in model.state().items() if isinstance(v, np.ndarray)}
    rows = {p.path: p for p in model.parameters()}
    assert rows.keys() == arrays.keys()
    for path, p in rows.items():
        a = arrays[path]
        assert (p.count, p.shape, p.dtype, p.nbytes) == (a.size, a.shape, str(a.dtype), a.nbytes)
    assert model.digest() == before
