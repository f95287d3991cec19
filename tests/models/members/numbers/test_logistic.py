"""The compiled linear regression against plain numpy, River's, and what its losses promise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from river import datasets, linear_model, optim, preprocessing

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn
from models.kernels.linear import CLIP, EPS
from models.kernels.losses import HUBER_UNITS, SLOWEST
from models.members.numbers.logistic import LinearModel, LinearParams
from models.task import Number

SCHEMA = FeatureSchema(("a", "b", "flat"), (HashedColumn("shop", 5),))


def stream(n: int, seed: int = 0) -> tuple[FeatureBatch, F64, F64]:
    """Rows with a constant column and a hashed one; the noise has heavy tails to one side."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32) * [1, 50, 0] + [0, 300, 7]
    hashed = rng.integers(0, 5, (n, 1)).astype(np.uint32)
    y = 40 + 3 * dense[:, 0] + (dense[:, 1] - 300) / 25 + hashed[:, 0] + rng.exponential(2, n)
    return FeatureBatch(SCHEMA, dense.astype(np.float32), hashed), y, rng.uniform(0, 2, n)


def linear(schema: FeatureSchema = SCHEMA, **params: Any) -> LinearModel:
    """A fresh member."""
    return LinearModel(LinearParams(**params), schema, 0, Number())


class PlainLinear:
    """The same algorithm in plain numpy."""

    def __init__(self, params: LinearParams) -> None:
        self.p = params
        self.weight, self.squares = np.zeros(9), np.zeros(9)
        self.rows: list[F64] = []
        self.truths: list[float] = []
        self.usual, self.run = 0.0, 0

    def features(self, dense: F64, code: int) -> F64:
        known = np.array(self.rows) if self.rows else np.zeros((1, 3))
        deviation = known.std(0)
        z = np.divide(dense - known.mean(0), deviation, where=deviation > 0, out=np.zeros(3))
        return np.concatenate([[1.0], z.clip(-CLIP, CLIP), np.arange(5) == code])

    def slope(self, error: float) -> float:
        if self.p.loss == "quantile":
            return (error > 0) - self.p.quantile
        return error if self.p.loss == "squared" else np.clip(error, -HUBER_UNITS, HUBER_UNITS)

    def learn(self, dense: F64, code: int, y: float, w: float) -> None:
        self.rows.append(dense)
        self.truths.append(y)
        if len(self.truths) <= 5:
            middle = sorted(self.truths)[len(self.truths) // 2]
            self.weight[0] = middle
            self.usual = float(np.median(np.abs(np.array(self.truths) - middle)))
            return
        f = self.features(dense, code)
        error = float(f @ self.weight - y)
        if error and not self.usual:
            self.usual = abs(error)
        elif error:
            side = 1 if abs(error) > self.usual else -1
            self.run = self.run + side if self.run * side > 0 else side
            share = max(1 / math.sqrt(len(self.truths)), SLOWEST)
            self.usual *= (1 + share * abs(self.run)) ** side
        unit = np.std(self.truths) if self.p.loss == "squared" else self.usual
        if unit > 0:
            gradient = f * self.slope(error / unit) * w
            self.squares += gradient**2
            self.weight -= self.p.learning_rate * unit * gradient / np.sqrt(self.squares + EPS)


@pytest.mark.parametrize("loss", ["squared", "huber", "quantile"])
def test_it_equals_the_formulas_in_plain_numpy(loss: str) -> None:
    """Every score of 500 rows is that of the formulas written out, to the last digits."""
    x, y, w = stream(500)
    params = LinearParams(learning_rate=0.2, loss=loss, quantile=0.7)  # type: ignore[arg-type]
    scores = LinearModel(params, SCHEMA, 0, Number()).score_learn(x, y, w)[:, 0]
    plain = PlainLinear(params)
    for i in range(len(x)):
        dense, code = x.dense[i].astype(np.float64), int(x.hashed[i, 0])
        said = plain.features(dense, code) @ plain.weight
        assert scores[i] == pytest.approx(said, rel=1e-9, abs=1e-9)
        plain.learn(dense, code, y[i], w[i])


@pytest.mark.parametrize("dataset", [datasets.TrumpApproval, datasets.ChickWeights])
def test_it_errs_no_more_than_rivers(dataset: Any) -> None:
    """Beside River's scaler and linear regression, by SGD and by AdaGrad: 1 % more at most."""
    rows = [
        ({k: float(v) for k, v in row.items() if not isinstance(v, str)}, float(truth))
        for row, truth in dataset()
    ]
    names = tuple(rows[0][0])
    x = FeatureBatch(
        FeatureSchema(names),
        np.array([[row[k] for k in names] for row, _ in rows], np.float32),
        np.zeros((len(rows), 0), np.uint32),
    )
    y = np.array([truth for _, truth in rows])
    ours = linear(x.schema).score_learn(x, y, np.ones(len(y)))[:, 0]
    for optimizer in (optim.SGD(0.01), optim.AdaGrad(0.5)):
        river = preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer)
        theirs = []
        for row, truth in rows:
            theirs.append(river.predict_one(row))
            river.learn_one(row, truth)
        assert np.abs(ours - y).mean() <= 1.01 * np.abs(np.array(theirs) - y).mean()


@pytest.mark.parametrize("loss", ["squared", "huber", "quantile"])
def test_the_unit_of_the_target_does_not_matter(loss: str) -> None:
    """Truths times 2 ** 20 give scores times 2 ** 20, to the bit."""
    x, y, w = stream(1000)
    one, other = (linear(loss=loss).score_learn(x, y * unit, w) for unit in (1.0, 2.0**20))
    assert np.array_equal(one * 2.0**20, other)


def test_each_loss_says_what_it_promises() -> None:
    """Squared loss the mean, a quantile its share of the truths below."""
    x, y, _ = stream(20_000)
    late = slice(5000, None)
    scores = linear().score_learn(x, y, np.ones(len(y)))[late, 0]
    assert scores.mean() == pytest.approx(y[late].mean(), rel=0.01)
    for q in (0.1, 0.5, 0.9):
        model = linear(loss="quantile", quantile=q)
        scores = model.score_learn(x, y, np.ones(len(y)))[late, 0]
        assert (y[late] < scores).mean() == pytest.approx(q, abs=0.01)


def test_outliers_move_hubers_loss_little() -> None:
    """With one truth in fifty a thousand times too large, the others are met nearly as well."""
    x, y, w = stream(5000)
    bad = np.arange(len(y)) % 50 == 0
    clean = linear(loss="huber").score_learn(x, y, w)[~bad, 0]
    spoiled = linear(loss="huber").score_learn(x, np.where(bad, 1000 * y, y), w)[~bad, 0]
    truth = y[~bad]
    assert np.median(np.abs(spoiled - truth)) < 1.2 * np.median(np.abs(clean - truth))


def test_a_target_that_stood_still_for_long_is_followed_when_it_moves() -> None:
    """After 20,000 equal truths, half of a step is made up within 800 rows."""
    x, _, _ = stream(21_000)
    y = np.where(np.arange(len(x)) < 20_000, 5.0, 6.0)
    for loss in ("squared", "huber", "quantile"):
        scores = linear(loss=loss).score_learn(x, y, np.ones(len(y)))[:, 0]
        assert scores[19_999] == pytest.approx(5.0)
        assert scores[20_800] > 5.5


def test_a_weight_of_zero_leaves_the_target_alone() -> None:
    """A row of weight 0 moves the statistics of columns, and nothing that comes of its truth."""
    x, y, _ = stream(100)
    model = linear()
    model.learn(x, y, np.zeros(len(x)))
    state = model.state()
    assert not state["weight"].any()
    assert not state["target"].any()
    assert state["seen"] == [100]
