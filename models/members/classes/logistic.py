"""Online softmax regression: standardised columns, AdaGrad; one weight for each column and class.

As the logistic regression of a yes or no, with a link for each class (multinomial logistic
regression): learning is River's ``StandardScaler | SoftmaxRegression``, with AdaGrad and a bias,
but that the statistics take a row in before it is learned. It never forgets and draws no
randomness.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from models.base import F32, F64, I64, U32, FeatureSchema, Role
from models.kernels.common import HELPER, LEARN, SCORE, softmax
from models.kernels.entry import entry
from models.kernels.linear import adagrad, bucket, observe_row, standardise, starts
from models.members.compiled import CompiledModel, WeightedSettings, signature
from models.task import Task


class SoftmaxParams(WeightedSettings):
    """Parameters of ``type = "logistic"`` for classes."""

    learning_rate: float = Field(
        0.3, gt=0, le=10, description="AdaGrad's step: how far one event moves a fresh weight"
    )


class SoftmaxArrays(NamedTuple):
    """State, settings and scratch; ``d`` dense columns, ``m`` buckets in all, ``c`` classes."""

    weight: F64  # (1 + d + m, c): bias, dense columns, buckets
    squares: F64  # (1 + d + m, c): sums of squared gradients
    mean: F64  # (d,)
    variance: F64  # (d,)
    seen: I64  # (1,)
    first: I64  # (k + 1,): where each hashed column's weights begin
    rate: F64  # (1,)
    z: F64  # (d,): scratch
    link: F64  # (c,): scratch
    error: F64  # (c,): scratch


def make_arrays(d: int, buckets: list[int], classes: int, rate: float) -> SoftmaxArrays:
    """A fresh bundle: zero weights, no statistics."""
    first = starts(d, buckets)
    n = int(first[-1])
    return SoftmaxArrays(
        weight=np.zeros((n, classes)),
        squares=np.zeros((n, classes)),
        mean=np.zeros(d),
        variance=np.zeros(d),
        seen=np.zeros(1, np.int64),
        first=first,
        rate=np.array([rate]),
        z=np.zeros(d),
        link=np.zeros(classes),
        error=np.zeros(classes),
    )


@njit(**HELPER)
def _links(hashed: U32, i: int, a: SoftmaxArrays) -> None:
    """Fill ``link`` of the row whose standardised values are in ``z``."""
    link, weight = a.link, a.weight
    for c in range(len(link)):
        link[c] = weight[0, c]
    for j in range(len(a.z)):
        for c in range(len(link)):
            link[c] += weight[1 + j, c] * a.z[j]
    for k in range(hashed.shape[1]):
        at = bucket(hashed, i, k, a.first)
        for c in range(len(link)):
            link[c] += weight[at, c]


@njit(**HELPER)
def _step(at: int, z: float, a: SoftmaxArrays) -> None:
    for c in range(len(a.error)):
        adagrad(c, a.error[c] * z, a.rate[0], a.weight[at], a.squares[at])


@njit(**HELPER)
def _learn(hashed: U32, i: int, y: float, w: float, a: SoftmaxArrays) -> None:
    error = a.error
    softmax(a.link, error)
    for c in range(len(error)):
        error[c] = (error[c] - (1.0 if c == y else 0.0)) * w
    _step(0, 1.0, a)
    for j in range(len(a.z)):
        _step(1 + j, a.z[j], a)
    for k in range(hashed.shape[1]):
        _step(bucket(hashed, i, k, a.first), 1.0, a)


@entry(signature(make_arrays(1, [2], 2, 0.1)))
def softmax_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: SoftmaxArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`."""
    classes = len(a.link)
    for i in range(len(dense)):
        if mode & SCORE:
            standardise(dense, i, a.mean, a.variance, a.z)
            _links(hashed, i, a)
            for c in range(classes):
                out[i * classes + c] = a.link[c]
        if mode & LEARN:
            a.seen[0] += 1
            observe_row(dense, i, a.seen[0], a.mean, a.variance)
            standardise(dense, i, a.mean, a.variance, a.z)
            _links(hashed, i, a)
            _learn(hashed, i, y[i], w[i], a)


class SoftmaxModel(CompiledModel):
    """Softmax regression on standardised and hashed columns; scores are a logit for each class.

    Parameters
    ----------
    params : SoftmaxParams
    schema : FeatureSchema
    seed : int
        Not used: nothing here is random.
    task : Classes
    """

    Params = SoftmaxParams
    _kernel = softmax_kernel
    _roles: ClassVar[dict[str, Role]] = {
        "weight": "learned",
        "squares": "optimizer",
        "mean": "statistic",
        "variance": "statistic",
        "seen": "statistic",
    }

    def __init__(self, params: SoftmaxParams, schema: FeatureSchema, seed: int, task: Task) -> None:
        buckets = [c.buckets for c in schema.hashed]
        arrays = make_arrays(len(schema.dense), buckets, task.k, params.learning_rate)
        super().__init__(schema, arrays, task, params.class_weights)
