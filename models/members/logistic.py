"""Online logistic regression: standardised columns, AdaGrad; the ensemble's cold-start anchor.

A dense column is standardised by its running mean and deviation (Welford), which learning updates
before the row is learned, as River's ``StandardScaler | LogisticRegression`` does. A hashed column
has one weight per bucket. Each weight has its own AdaGrad step (Duchi, Hazan and Singer 2011).
Four regressions learn side by side, each with half the rate of the one before, and mix their
probabilities by Fixed-Share (Herbster and Warmuth 1998): no one rate is right for the first hundred
rows, for a noisy stream that stands still, and for one that drifts. It never forgets and draws no
randomness.
"""

from __future__ import annotations

import math
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

RATES = 4
"""Regressions side by side. On three columns with 10 % of the labels wrong, four reach an accuracy
of .886 where one at the first rate stays at .880, and lose nothing where labels run in series."""

ALPHA = 0.01
"""Of the shares, what a row deals out evenly: a rate that was poor can come back within a hundred
rows."""

LIMIT = 30.0
"""Links are clipped to this: beyond it a probability is 0 or 1 in float64."""

MOST = 10.0
"""Rows that one row counts for in the shares, at most: with 30 all likelihoods could be 0."""


class LogisticParams(WeightedSettings):
    """Parameters of ``type = "logistic"``."""

    learning_rate: float = Field(
        0.5,
        gt=0,
        le=10,
        description="AdaGrad's step: how far one event moves a fresh weight, at most; "
        "three more regressions learn with halves of it, and share by what they got right",
    )


class LogisticArrays(NamedTuple):
    """State, settings and scratch of the kernel; ``d`` dense columns, ``m`` buckets in all."""

    weight: F64  # (RATES, 1 + d + m): bias, dense columns, buckets
    squares: F64  # (RATES, 1 + d + m): sums of squared gradients
    share: F64  # (RATES,): sum to 1
    mean: F64  # (d,)
    variance: F64  # (d,)
    seen: I64  # (1,)
    first: I64  # (k + 1,): where each hashed column's weights begin
    rate: F64  # (RATES,)
    z: F64  # (d,): scratch
    links: F64  # (RATES,): scratch
    error: F64  # (RATES,): scratch


def make_arrays(d: int, buckets: list[int], rate: float) -> LogisticArrays:
    """A fresh bundle: zero weights, no statistics."""
    first = starts(d, buckets)
    n = int(first[-1])
    return LogisticArrays(
        weight=np.zeros((RATES, n)),
        squares=np.zeros((RATES, n)),
        share=np.full(RATES, 1 / RATES),
        mean=np.zeros(d),
        variance=np.zeros(d),
        seen=np.zeros(1, np.int64),
        first=first,
        rate=np.array([rate / 2**r for r in range(RATES)]),
        z=np.zeros(d),
        links=np.zeros(RATES),
        error=np.zeros(RATES),
    )


@njit(**HELPER)
def _links(z: F64, hashed: U32, i: int, first: I64, weight: F64, links: F64) -> None:
    for r in range(RATES):
        total = weight[r, 0]
        for j in range(len(z)):
            total += weight[r, 1 + j] * z[j]
        for k in range(hashed.shape[1]):
            total += weight[r, bucket(hashed, i, k, first)]
        links[r] = min(max(total, -LIMIT), LIMIT)


@njit(**HELPER)
def _mixed(links: F64, share: F64) -> float:
    """The logit of the regressions' probabilities, mixed by their shares."""
    p, q = 0.0, 0.0
    for r in range(RATES):
        e = math.exp(-links[r])
        p += share[r] / (1.0 + e)
        q += share[r] * e / (1.0 + e)
    return math.log(p / q)


@njit(**HELPER)
def _judge(y: float, w: float, links: F64, share: F64, error: F64) -> None:
    """Each regression's error, and one step of Fixed-Share by its likelihood."""
    total = 0.0
    for r in range(RATES):
        p = sigmoid(links[r])
        error[r] = (p - y) * w
        likelihood = p if y > 0.5 else 1.0 - p
        share[r] *= likelihood if w == 1.0 else likelihood ** min(w, MOST)
        total += share[r]
    for r in range(RATES):
        share[r] = (1.0 - ALPHA) * share[r] / total + ALPHA / RATES


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
    for i in range(len(dense)):
        if mode & SCORE:
            standardise(dense, i, mean, variance, z)
            _links(z, hashed, i, first, weight, a.links)
            out[i] = _mixed(a.links, a.share)
        if mode & LEARN:
            a.seen[0] += 1
            observe_row(dense, i, a.seen[0], mean, variance)
            standardise(dense, i, mean, variance, z)
            _links(z, hashed, i, first, weight, a.links)
            _judge(y[i], w[i], a.links, a.share, a.error)
            for r in range(RATES):
                error, rate, theirs, sums = a.error[r], a.rate[r], weight[r], squares[r]
                adagrad(0, error, rate, theirs, sums)
                for j in range(len(z)):
                    adagrad(1 + j, error * z[j], rate, theirs, sums)
                for k in range(hashed.shape[1]):
                    adagrad(bucket(hashed, i, k, first), error, rate, theirs, sums)


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
    _version = 2  # 1: one regression
    _roles: ClassVar[dict[str, Role]] = {
        "weight": "learned",
        "squares": "optimizer",
        "share": "statistic",
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
