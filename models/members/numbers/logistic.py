"""Online linear regression: standardised columns, AdaGrad; squared, Huber or quantile loss.

Columns are those of the logistic regression of a yes or no. Weights are in the target's unit. The
bias begins at the median of the first truths, and AdaGrad steps by shares of a size that the target
itself gives (:mod:`models.kernels.losses`), so that one rate serves minutes and millions. It never
forgets and draws no randomness.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from models.base import F32, F64, I64, U32, FeatureSchema, Role
from models.kernels.common import HELPER, LEARN, SCORE
from models.kernels.entry import entry
from models.kernels.linear import adagrad, bucket, observe_row, standardise, starts
from models.kernels.losses import (
    KNOWN,
    LOSSES,
    SEEN,
    START,
    Loss,
    begin,
    clipped,
    observe_error,
    observe_truth,
    slope,
    unit,
)
from models.members.compiled import CompiledModel, signature
from models.settings import Settings
from models.task import Task


class LinearParams(Settings):
    """Parameters of ``type = "logistic"`` for numbers."""

    loss: Loss = Field(
        "squared",
        description="`squared` says the mean; `huber` nearly the mean, whatever outliers there "
        "are; `quantile` the number below which `quantile` of the truths are",
    )
    quantile: float = Field(0.5, gt=0, lt=1, description="of `quantile` loss; 0.5: the median")
    learning_rate: float = Field(
        0.3, gt=0, le=10, description="AdaGrad's step: how far one event moves a fresh weight"
    )


class LinearArrays(NamedTuple):
    """State, settings and scratch; ``d`` dense columns, ``m`` buckets in all."""

    weight: F64  # (1 + d + m,): bias, dense columns, buckets
    squares: F64  # (1 + d + m,): sums of squared gradients
    mean: F64  # (d,)
    variance: F64  # (d,)
    seen: I64  # (1,)
    target: F64  # (KNOWN,): see SEEN and the rest in losses.py
    first: I64  # (k + 1,): where each hashed column's weights begin
    hyper: F64  # (3,): learning rate, loss, quantile
    z: F64  # (d,): scratch


def make_arrays(d: int, buckets: list[int], p: LinearParams) -> LinearArrays:
    """A fresh bundle: zero weights, no statistics."""
    first = starts(d, buckets)
    n = int(first[-1])
    return LinearArrays(
        weight=np.zeros(n),
        squares=np.zeros(n),
        mean=np.zeros(d),
        variance=np.zeros(d),
        seen=np.zeros(1, np.int64),
        target=np.zeros(KNOWN),
        first=first,
        hyper=np.array([p.learning_rate, LOSSES.index(p.loss), p.quantile]),
        z=np.zeros(d),
    )


@njit(**HELPER)
def _link(hashed: U32, i: int, a: LinearArrays) -> float:
    total = a.weight[0]
    for j in range(len(a.z)):
        total += a.weight[1 + j] * a.z[j]
    for k in range(hashed.shape[1]):
        total += a.weight[bucket(hashed, i, k, a.first)]
    return total


@njit(**HELPER)
def _learn(hashed: U32, i: int, y: float, w: float, a: LinearArrays) -> None:
    """Learn a row of some weight, whose standardised values are in ``z``."""
    weight, squares = a.weight, a.squares
    observe_truth(y, a.target)
    if a.target[SEEN] <= START:
        weight[0] = begin(y, a.target)
        return
    error = _link(hashed, i, a) - y
    observe_error(error, a.target)
    size = unit(a.hyper[1], a.target)
    if size == 0.0:
        return
    gradient = slope(a.hyper[1], a.hyper[2], error / size) * w
    rate = a.hyper[0] * size
    adagrad(0, gradient, rate, weight, squares)
    for j in range(len(a.z)):
        adagrad(1 + j, gradient * a.z[j], rate, weight, squares)
    for k in range(hashed.shape[1]):
        adagrad(bucket(hashed, i, k, a.first), gradient, rate, weight, squares)


@entry(signature(make_arrays(1, [2], LinearParams.model_validate({}))))
def linear_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: LinearArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`."""
    for i in range(len(dense)):
        if mode & SCORE:
            standardise(dense, i, a.mean, a.variance, a.z)
            out[i] = _link(hashed, i, a)
        if mode & LEARN:
            a.seen[0] += 1
            observe_row(dense, i, a.seen[0], a.mean, a.variance)
            if w[i] > 0.0:
                standardise(dense, i, a.mean, a.variance, a.z)
                _learn(hashed, i, clipped(y[i]), w[i], a)


class LinearModel(CompiledModel):
    """Linear regression on standardised and hashed columns; scores are in the target's unit.

    Parameters
    ----------
    params : LinearParams
    schema : FeatureSchema
    seed : int
        Not used: nothing here is random.
    task : Number
    """

    Params = LinearParams
    _kernel = linear_kernel
    _roles: ClassVar[dict[str, Role]] = {
        "weight": "learned",
        "squares": "optimizer",
        "mean": "statistic",
        "variance": "statistic",
        "seen": "statistic",
        "target": "statistic",
    }

    def __init__(self, params: LinearParams, schema: FeatureSchema, seed: int, task: Task) -> None:
        buckets = [c.buckets for c in schema.hashed]
        super().__init__(schema, make_arrays(len(schema.dense), buckets, params), task)
