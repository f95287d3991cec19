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
from models.kernels.common import (
    AT,
    HELPER,
    LEARN,
    NODES,
    QUICK_NODES,
    SCORE,
    WEIGHT,
    both_ways,
    sigmoid,
)
from models.kernels.entry import entry
from models.kernels.linear import EPS, bucket, observe_row, standardise, starts
from models.members.compiled import CompiledModel, WeightedSettings, explaining, signature
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

    weight: F64  # (1 + d + m, RATES): bias, dense columns, buckets
    squares: F64  # (1 + d + m, RATES): sums of squared gradients
    share: F64  # (RATES,): sum to 1
    mean: F64  # (d,)
    variance: F64  # (d,)
    seen: I64  # (1,)
    first: I64  # (k + 1,): where each hashed column's weights begin
    rate: F64  # (RATES * (1 + d),): of each weight of the bias and the dense columns
    z: F64  # (d,): scratch
    links: F64  # (RATES,): scratch
    error: F64  # (RATES,): scratch
    gradient: F64  # (RATES * (1 + d),): scratch


def make_arrays(d: int, buckets: list[int], rate: float) -> LogisticArrays:
    """A fresh bundle: zero weights, no statistics."""
    first = starts(d, buckets)
    n = int(first[-1])
    return LogisticArrays(
        weight=np.zeros((n, RATES)),
        squares=np.zeros((n, RATES)),
        share=np.full(RATES, 1 / RATES),
        mean=np.zeros(d),
        variance=np.zeros(d),
        seen=np.zeros(1, np.int64),
        first=first,
        rate=np.tile([rate / 2**r for r in range(RATES)], 1 + d),
        z=np.zeros(d),
        links=np.zeros(RATES),
        error=np.zeros(RATES),
        gradient=np.zeros(RATES * (1 + d)),
    )


@njit(**HELPER)
def _links(z: F64, hashed: U32, i: int, first: I64, weight: F64, links: F64) -> None:
    for r in range(RATES):
        total = weight[0, r]
        for j in range(len(z)):
            total += weight[1 + j, r] * z[j]
        for k in range(hashed.shape[1]):
            total += weight[bucket(hashed, i, k, first), r]
        links[r] = min(max(total, -LIMIT), LIMIT)


@njit(**HELPER)
def _gradients(z: F64, error: F64, gradient: F64) -> None:
    """Of the bias and the dense columns, for each regression."""
    for r in range(RATES):
        gradient[r] = error[r]
    for j in range(len(z)):
        for r in range(RATES):
            gradient[RATES * (1 + j) + r] = error[r] * z[j]


@njit(**HELPER)
def _step(first: int, gradient: F64, rate: F64, weight: F64, squares: F64) -> None:
    """AdaGrad's step (Duchi, Hazan and Singer 2011) of the weights from ``first`` on, in a row.

    In one loop over columns and rates it vectorises: a loop over the rates within one over the
    columns took three times as long.
    """
    for i in range(len(gradient)):
        total = squares[first + i] + gradient[i] * gradient[i]
        squares[first + i] = total
        weight[first + i] -= rate[i] * gradient[i] / math.sqrt(total + EPS)


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
    weight, mean, variance, z, first = a.weight, a.mean, a.variance, a.z, a.first
    weights, squares = weight.reshape(weight.size), a.squares.reshape(weight.size)
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
            _gradients(z, a.error, a.gradient)
            _step(0, a.gradient, a.rate, weights, squares)
            for k in range(hashed.shape[1]):
                at = RATES * bucket(hashed, i, k, first)
                _step(at, a.error, a.rate, weights, squares)


@njit(**HELPER)
def _slopes(nodes: int, a: LogisticArrays) -> None:
    """Fill ``error``: by how much the mix moves with each regression's link, on average.

    Along the straight line from the biases to the links of the row, at so many places of it.
    """
    for r in range(RATES):
        a.error[r] = 0.0
    for q in range(nodes):
        p, n = 0.0, 0.0
        for r in range(RATES):
            bias = a.weight[0, r]
            yes, no = both_ways(bias + AT[nodes, q] * (a.links[r] - bias))
            p += a.share[r] * yes
            n += a.share[r] * no
            a.gradient[r] = a.share[r] * yes * no
        for r in range(RATES):
            a.error[r] += WEIGHT[nodes, q] * a.gradient[r] / (p * n)


@entry(explaining(make_arrays(1, [2], 0.1)))
def logistic_reasons(
    dense: F32, hashed: U32, exact: bool, a: LogisticArrays, out: F64, told: F64
) -> None:
    """What each column adds to the regressions' links, by how much the mix moves with these."""
    d = len(a.z)
    for i in range(len(dense)):
        standardise(dense, i, a.mean, a.variance, a.z)
        _links(a.z, hashed, i, a.first, a.weight, a.links)
        out[i] = _mixed(a.links, a.share)
        _slopes(NODES if exact else QUICK_NODES, a)
        for j in range(d):
            weight = 0.0
            for r in range(RATES):
                weight += a.error[r] * a.weight[1 + j, r]
            told[i, j] += weight * a.z[j]
        for k in range(hashed.shape[1]):
            at = bucket(hashed, i, k, a.first)
            for r in range(RATES):
                told[i, d + k] += a.error[r] * a.weight[at, r]


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
    _explain = logistic_reasons
    _version = 3  # 2: rates first
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
