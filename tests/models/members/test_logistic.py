"""The compiled logistic regression against plain Python and against River."""

from __future__ import annotations

import math

import numpy as np
import pytest
from river import linear_model, optim, preprocessing

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn
from models.kernels.linear import CLIP, EPS
from models.members.logistic import LogisticModel, LogisticParams

SCHEMA = FeatureSchema(("a", "b", "flat"), (HashedColumn("shop", 5), HashedColumn("kind", 3)))


def stream(n: int, seed: int = 0) -> tuple[FeatureBatch, F64, F64]:
    """Rows with a constant column, two hashed ones, and labels that depend on all the others."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32) * [1, 50, 0] + [0, 300, 7]
    hashed = np.stack([rng.integers(0, 5, n), rng.integers(0, 3, n)], 1).astype(np.uint32)
    truth = dense[:, 0] - (dense[:, 1] - 300) / 50 + hashed[:, 0] - 2
    y = (truth + rng.logistic(size=n) > 0).astype(float)
    return FeatureBatch(SCHEMA, dense.astype(np.float32), hashed), y, rng.uniform(0, 2, n)


class PlainLogistic:
    """The same algorithm with one number at a time, to be read beside its papers."""

    def __init__(self, d: int, buckets: int, rate: float) -> None:
        self.weight = [0.0] * (1 + d + buckets)
        self.squares = [0.0] * (1 + d + buckets)
        self.mean, self.variance, self.seen, self.rate = [0.0] * d, [0.0] * d, 0, rate

    def features(self, dense: list[float], at: list[int]) -> dict[int, float]:
        z = {0: 1.0}
        for j, (x, m, v) in enumerate(zip(dense, self.mean, self.variance, strict=True)):
            z[1 + j] = min(max((x - m) / math.sqrt(v) if v > 0 else 0.0, -CLIP), CLIP)
        return z | dict.fromkeys(at, 1.0)

    def link(self, dense: list[float], at: list[int]) -> float:
        return sum(self.weight[i] * z for i, z in self.features(dense, at).items())

    def learn(self, dense: list[float], at: list[int], y: float, w: float) -> None:
        self.seen += 1
        share = 1.0 / self.seen
        for j, x in enumerate(dense):
            before = x - self.mean[j]
            self.mean[j] += before * share
            self.variance[j] += (before * (x - self.mean[j]) - self.variance[j]) * share
        s = self.link(dense, at)
        p = 1 / (1 + math.exp(-s)) if s >= 0 else math.exp(s) / (1 + math.exp(s))
        error = (p - y) * w
        for i, z in self.features(dense, at).items():
            g = error * z
            self.squares[i] += g * g
            self.weight[i] -= self.rate * g / math.sqrt(self.squares[i] + EPS)


def test_it_equals_a_plain_reimplementation_bit_for_bit() -> None:
    """Every score of 500 rows is the same float64 as that of the one-number-at-a-time version."""
    x, y, w = stream(500)
    model = LogisticModel(LogisticParams(learning_rate=0.1), SCHEMA, 0)
    plain = PlainLogistic(3, 8, 0.1)
    scores = model.score_learn(x, y, w)[:, 0]
    for i in range(len(x)):
        dense = [float(v) for v in x.dense[i]]
        at = [4 + int(x.hashed[i, 0]), 9 + int(x.hashed[i, 1])]
        assert plain.link(dense, at) == scores[i]
        plain.learn(dense, at, y[i], w[i])


def test_it_equals_rivers_scaler_and_logistic_regression() -> None:
    """With River's bias as one more AdaGrad weight, scores agree to 1e-9 over 2,000 rows."""
    x, y, _ = stream(2000, seed=1)
    model = LogisticModel(LogisticParams(learning_rate=0.1), SCHEMA, 0)
    scaler = preprocessing.StandardScaler()
    linear = linear_model.LogisticRegression(optimizer=optim.AdaGrad(0.1), intercept_lr=0.0)
    scores = model.score_learn(x, y, np.ones(len(x)))[:, 0]

    def row(i: int) -> dict[str, float]:
        codes = {f"{k}={v}": 1.0 for k, v in enumerate(x.hashed[i])}
        return scaler.transform_one(numbers) | codes | {"bias": 1.0}

    for i in range(len(x)):
        numbers = {str(j): float(v) for j, v in enumerate(x.dense[i])}
        p = linear.predict_proba_one(row(i))[True]
        assert 1 / (1 + math.exp(-scores[i])) == pytest.approx(p, abs=1e-9)
        scaler.learn_one(numbers)
        linear.learn_one(row(i), bool(y[i]))


def test_a_weight_of_zero_leaves_every_weight_alone() -> None:
    """A row of weight 0 moves the running statistics, and nothing that was learned."""
    x, y, _ = stream(100)
    model = LogisticModel(LogisticParams(), SCHEMA, 0)
    model.learn(x, y, np.zeros(len(x)))
    state = model.state()
    assert not state["weight"].any()
    assert state["seen"] == [100]
    assert np.allclose(state["mean"], x.dense.mean(0, dtype=np.float64))


def test_a_constant_column_gets_no_weight() -> None:
    """A column without variance is standardised to 0 and never counts."""
    x, y, w = stream(300)
    model = LogisticModel(LogisticParams(), SCHEMA, 0)
    model.learn(x, y, w)
    assert model.state()["weight"][3] == 0
