"""The compiled softmax regression against plain numpy and against River."""

from __future__ import annotations

import numpy as np
import pytest
from river import linear_model, optim, preprocessing

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn
from models.kernels.linear import CLIP, EPS
from models.links import softmax
from models.members.classes.logistic import SoftmaxModel, SoftmaxParams
from models.members.weights import WeightsError
from models.task import Classes

SCHEMA = FeatureSchema(("a", "b", "flat"), (HashedColumn("shop", 5), HashedColumn("kind", 3)))
TASK = Classes(["red", "green", "blue", "grey"])


def stream(n: int, seed: int = 0) -> tuple[FeatureBatch, F64, F64]:
    """Rows with a constant column and two hashed ones; the last class is one row in thirty."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32) * [1, 50, 0] + [0, 300, 7]
    hashed = np.stack([rng.integers(0, 5, n), rng.integers(0, 3, n)], 1).astype(np.uint32)
    truth = np.stack(
        [dense[:, 0], (dense[:, 1] - 300) / 50, hashed[:, 0] - 2.0, np.full(n, -2.0)], 1
    )
    y = (truth + rng.gumbel(size=(n, 4))).argmax(1).astype(float)
    return FeatureBatch(SCHEMA, dense.astype(np.float32), hashed), y, rng.uniform(0, 2, n)


def test_it_equals_the_formula_in_plain_numpy() -> None:
    """Every score of 500 rows is that of the formulas written out, to the last digits."""
    x, y, w = stream(500)
    scores = SoftmaxModel(SoftmaxParams(learning_rate=0.1), SCHEMA, 0, TASK).score_learn(x, y, w)
    weight, squares = np.zeros((12, 4)), np.zeros((12, 4))
    numbers = x.dense.astype(np.float64)

    def row(i: int, known: F64) -> F64:
        deviation = known.std(0) if len(known) else np.zeros(3)
        centred = numbers[i] - (known.mean(0) if len(known) else 0)
        z = np.divide(centred, deviation, where=deviation > 0, out=np.zeros(3))
        codes = [np.arange(c.buckets) == x.hashed[i, k] for k, c in enumerate(SCHEMA.hashed)]
        return np.concatenate([[1.0], z.clip(-CLIP, CLIP), *codes])

    for i in range(len(x)):
        assert scores[i] == pytest.approx(row(i, numbers[:i]) @ weight, abs=1e-9)
        f = row(i, numbers[: i + 1])
        error = (softmax(f @ weight) - (np.arange(4) == y[i])) * w[i]
        gradient = f[:, None] * error
        squares += gradient**2
        weight -= 0.1 * gradient / np.sqrt(squares + EPS)


def test_it_equals_rivers_scaler_and_softmax_regression() -> None:
    """With a bias and every class known, River's probabilities agree to 1e-9 over 2,000 rows."""
    x, y, _ = stream(2000, seed=1)
    model = SoftmaxModel(SoftmaxParams(learning_rate=0.1), SCHEMA, 0, TASK)
    said = softmax(model.score_learn(x, y, np.ones(len(x))))
    scaler = preprocessing.StandardScaler()
    river = linear_model.SoftmaxRegression(optimizer=optim.AdaGrad(0.1))
    for c in range(TASK.k):
        river.weights[c]["bias"] = 0.0

    def row(i: int) -> dict[str, float]:
        codes = {f"{k}={v}": 1.0 for k, v in enumerate(x.hashed[i])}
        return scaler.transform_one(numbers) | codes | {"bias": 1.0}

    for i in range(len(x)):
        numbers = {str(j): float(v) for j, v in enumerate(x.dense[i])}
        p = river.predict_proba_one(row(i))
        assert [p[c] for c in range(TASK.k)] == pytest.approx(said[i].tolist(), abs=1e-9)
        scaler.learn_one(numbers)
        river.learn_one(row(i), int(y[i]))


def test_a_weight_for_what_is_no_class_is_refused() -> None:
    """With the classes there are."""
    with pytest.raises(WeightsError, match="expected one of red, green, blue, grey; got 'rde'"):
        SoftmaxModel(SoftmaxParams(class_weights={"rde": 2.0}), SCHEMA, 0, TASK)
