"""Online logistic regression: standardised columns, AdaGrad; the ensemble's cold-start anchor.

A dense column is standardised by its running mean and deviation (Welford), which learning updates
before the row is learned, as River's ``StandardScaler | LogisticRegression`` does. A hashed column
has one weight per bucket. Each weight has its own AdaGrad step (Duchi, Hazan and Singer 2011). It
never forgets and draws no randomness.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from models.base import F32, F64, I64, U32, FeatureSchema, Role
from models.kernels.common import HELPER, LEARN, SCORE, sigmoid
from models.kernels.entry import entry
from models.kernels.linear import adagrad, bucket, observe_row, standardise, starts
from models.members.compiled import CompiledModel, WeightedSettings, signature
from models.task import BINARY, Task


class LogisticParams(WeightedSettings):
    """Parameters of ``type = "logistic"``."""

    learning_rate: float = Field(
        0.5, gt=0, le=10, description="AdaGrad's step: how far one event moves a fresh weight"
    )


class LogisticArrays(NamedTuple):
    """State, settings and scratch of the kernel; ``d`` dense columns, ``m`` buckets in all."""

    weight: F64  # (1 + d + m,): bias, dense columns, buckets
    squares: F64  # (1 + d + m,): sums of squared gradients
    mean: F64  # (d,)
    variance: F64  # (d,)
    seen: I64  # (1,)
    first: I64  # (k + 1,): where each hashed column's weights begin
    rate: F64  # (1,)
    z: F64  # (d,): scratch


def make_arrays(d: int, buckets: list[int], rate: float) -> LogisticArrays:
    """A fresh bundle: zero weights, no statistics."""
    first = starts(d, buckets)
    n = int(first[-1])
    return LogisticArrays(
        weight=np.zeros(n),
        squares=np.zeros(n),
        mean=np.zeros(d),
        variance=np.zeros(d),
        seen=np.zeros(1, np.int64),
        first=first,
        rate=np.array([rate]),
        z=np.zeros(d),
    )


@njit(**HELPER)
def _link(z: F64, hashed: U32, i: int, first: I64, weight: F64) -> float:
    total = weight[0]
    for j in range(len(z)):
        total += weight[1 + j] * z[j]
    for k in range(hashed.shape[1]):
        total += weight[bucket(hashed, i, k, first)]
    return total


@entry(signature(make_arrays(1, [2], 0.1)))
def logistic_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: LogisticArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`."""
    weight, squares, mean, variance, z, first = (
        a.weight,
        a.squares,
        a.mean,
        a.variance,
        a.z,
        a.first,
    )
    rate = a.rate[0]
    for i in range(len(dense)):
        if mode & SCORE:
            standardise(dense, i, mean, variance, z)
            out[i] = _link(z, hashed, i, first, weight)
        if mode & LEARN:
            a.seen[0] += 1
            observe_row(dense, i, a.seen[0], mean, variance)
            standardise(dense, i, mean, variance, z)
            error = (sigmoid(_link(z, hashed, i, first, weight)) - y[i]) * w[i]
            adagrad(0, error, rate, weight, squares)
            for j in range(len(z)):
                adagrad(1 + j, error * z[j], rate, weight, squares)
            for k in range(hashed.shape[1]):
                adagrad(bucket(hashed, i, k, first), error, rate, weight, squares)


class LogisticModel(CompiledModel):
    """Logistic regression on standardised and hashed columns; scores are logits.

    Parameters
    ----------
    params : LogisticParams
    schema : FeatureSchema
    seed : int
        Not used: nothing here is random.
    """

    Params = LogisticParams
    _kernel = logistic_kernel
    _roles: ClassVar[dict[str, Role]] = {
        "weight": "learned",
        "squares": "optimizer",
        "mean": "statistic",
        "variance": "statistic",
        "seen": "statistic",
    }

    def __init__(
        self, params: LogisticParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        buckets = [c.buckets for c in schema.hashed]
        arrays = make_arrays(len(schema.dense), buckets, params.learning_rate)
        super().__init__(schema, arrays, task, params.class_weights)
