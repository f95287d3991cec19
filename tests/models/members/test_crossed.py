"""FTRL-Proximal over crosses against a dictionary of plain numbers."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn, StateError
from models.kernels.binning import locate
from models.links import sigmoid, softmax
from models.members.catalogue import build
from models.members.crossed import CrossedModel, CrossedParams
from models.members.hashed import HashedModel
from models.task import BINARY, Classes, Number, Task

SCHEMA = FeatureSchema(("a", "b"), (HashedColumn("shop", 50), HashedColumn("kind", 3)))
PARAMS = CrossedParams(learning_rate=0.1, beta=1.5, l1=0.05, l2=0.2, bins=16)


def stream(n: int) -> tuple[FeatureBatch, np.ndarray, np.ndarray]:
    """Rows whose label depends on a cross: the sign of a product."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(n, 2)).astype(np.float32)
    hashed = np.stack([rng.integers(0, 50, n), rng.integers(0, 3, n)], 1).astype(np.uint32)
    y = (dense[:, 0] * dense[:, 1] > 0).astype(float)
    return FeatureBatch(SCHEMA, dense, hashed), y, rng.uniform(0.5, 2, n)


class PlainFtrl:
    """Algorithm 1 of McMahan et al. (2013) over named features; new bins inherit the old's."""

    def __init__(self, p: CrossedParams) -> None:
        self.p = p
        self.z: dict[tuple[str, ...], float] = {}
        self.n: dict[tuple[str, ...], float] = {}

    def weight(self, key: tuple[str, ...]) -> float:
        z, n, p = self.z.get(key, 0.0), self.n.get(key, 0.0), self.p
        if abs(z) <= p.l1:
            return 0.0
        return -(z - math.copysign(p.l1, z)) / ((p.beta + math.sqrt(n)) / p.learning_rate + p.l2)

    def link(self, keys: list[tuple[str, ...]]) -> float:
        return sum(self.weight(k) for k in keys)

    def learn(self, keys: list[tuple[str, ...]], g: float) -> None:
        for k in keys:
            n = self.n.get(k, 0.0)
            sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / self.p.learning_rate
            self.z[k] = self.z.get(k, 0.0) + g - sigma * self.weight(k)
            self.n[k] = n + g * g

    def inherit(self, column: int, old: int, new: int) -> None:
        for store in (self.z, self.n):
            for key in list(store):
                if f"{column}={old}" in key:
                    twin = tuple(f"{column}={new}" if c == f"{column}={old}" else c for c in key)
                    if all(int(c[0]) < 2 for c in key):
                        store[twin] = store[key]


def keys_of(model: HashedModel, x: FeatureBatch, i: int) -> list[tuple[str, ...]]:
    """The names of row ``i``'s features under the model's present bins."""
    bins, (at, ids) = model._arrays.bins, np.zeros((2, 2), np.int64)
    locate(x.dense, i, bins.edge, bins.order, at, ids)
    names = [f"{c}={v}" for c, v in enumerate([*ids, *x.hashed[i]])]
    return [("bias",), *((c,) for c in names), *combinations(names, 2)]


def gradients(task: Task, links: F64, y: float, truths: F64) -> F64:
    """The loss's derivatives by the links; of a number, by deviations from the mean."""
    if task.type == "binary":
        return sigmoid(links) - y
    if task.type == "classes":
        return softmax(links) - (np.arange(task.k) == y)
    deviation = np.std(truths)
    return links - (y - np.mean(truths)) / deviation if deviation > 0 else 0 * links


@pytest.mark.parametrize("task", [BINARY, Classes(["a", "b", "c"]), Number()], ids=lambda t: t.type)
def test_it_equals_algorithm_1_with_a_dictionary_for_a_table(task: Task) -> None:
    """Scores of 1,500 rows agree to 1e-9, through every split of a bin."""
    x, y, w = stream(1500)
    if task.type != "binary":
        y = y + (x.hashed[:, 1] == 0)
    params = PARAMS.model_dump(exclude={"class_weights"})
    model: Any = build("crossed", params, SCHEMA, 1, task)
    plain = [PlainFtrl(PARAMS) for _ in range(task.k)]
    splits = 0
    for i in range(len(x)):
        keys = keys_of(model, x, i)
        before = model._arrays.bins.used.copy()
        row = slice(i, i + 1)
        score = model.score_learn(x.take(row), y[row], w[row])[0]
        links = np.array([one.link(keys) for one in plain])
        if task.type == "number" and i:
            assert score == pytest.approx(y[:i].mean() + y[:i].std() * links, abs=1e-9)
        elif i:
            assert score == pytest.approx(links, abs=1e-9)
        for one, g in zip(plain, gradients(task, links, y[i], y[: i + 1]) * w[i], strict=True):
            if g:
                one.learn(keys, g)
        for f in np.flatnonzero(model._arrays.bins.used != before):
            order = model._arrays.bins.order[f]
            p = int(np.flatnonzero(order == before[f])[0])
            for one in plain:
                one.inherit(int(f), int(order[p - 1]), int(before[f]))
            splits += 1
    assert splits > 10


def test_it_learns_a_cross_that_no_single_column_shows() -> None:
    """The sign of a product is learned from the pair of bins."""
    x, y, _ = stream(8000)
    model = CrossedModel(CrossedParams(learning_rate=0.1), SCHEMA, 0)
    scores = model.score_learn(x, y, np.ones(len(x)))[4000:, 0]
    assert ((scores > 0) == (y[4000:] == 1)).mean() > 0.85


def test_l1_leaves_rare_features_at_zero() -> None:
    """With a large l1, few of the slots that were touched have a weight."""
    x, y, w = stream(2000)
    model = CrossedModel(CrossedParams(l1=20.0), SCHEMA, 0)
    model.learn(x, y, w)
    z = model.state()["table"][:, 0]
    assert (abs(z) > 20).mean() < 0.1


def test_a_checkpoint_holds_the_slots_in_use_alone() -> None:
    """A fresh member's state is small however large its table is, and grows with the stream."""
    x, y, w = stream(500)
    model = CrossedModel(CrossedParams(table_bits=22), SCHEMA, 0)
    assert model.state()["table"].shape == (0, 2)
    model.learn(x, y, w)
    assert 100 < len(model.state()["table"]) < 11 * 500


def test_the_state_of_a_larger_table_is_refused() -> None:
    """Slots beyond the table's end raise before anything is written."""
    x, y, w = stream(500)
    large, small = (CrossedModel(CrossedParams(table_bits=b), SCHEMA, 0) for b in (18, 10))
    large.learn(x, y, w)
    before = small.digest()
    with pytest.raises(StateError, match="table_bits"):
        small.restore(large.state())
    assert small.digest() == before


@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_many_rows_are_scored_in_the_bits_of_each_alone(l1: float) -> None:
    """Those that go by the weights of all slots at once, whatever number of rows that is."""
    p = CrossedParams(l1=l1, bins=16, table_bits=8)
    member = CrossedModel(p, SCHEMA, seed=3)
    x, y, w = stream(400)
    member.learn(x, y, w)
    x.dense[:3] = [[0.0, -0.0], [-3e38, 3e38], [1e-40, -1e-40]]
    each = b"".join(member.score(x.take(np.array([i]))).tobytes() for i in range(400))
    many = len(x) * len(member._arrays.slot) // (2 * len(member._arrays.table))
    assert many > 1
    for n in (397, 398, 399, 400):
        assert member.score(x.take(np.arange(n))).tobytes() == each[: 8 * n]
