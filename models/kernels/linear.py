"""What linear members share: standardised columns, buckets of hashed columns, AdaGrad's step.

A dense column is standardised by its running mean and deviation (Welford). Nothing here is
allocated while it runs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.base import F32, F64, I64, U32
from models.kernels.common import HELPER

CLIP = 10.0
"""Standardised values are clipped to ``[-CLIP, CLIP]``: one absurd amount must not own a score."""

EPS = 1e-8


@njit(**HELPER)
def standardise(dense: F32, i: int, mean: F64, variance: F64, z: F64) -> None:
    """Fill ``z`` with the values of row ``i``; 0 for a column that was constant so far."""
    for j in range(len(z)):
        v = variance[j]
        scaled = (np.float64(dense[i, j]) - mean[j]) / math.sqrt(v) if v > 0.0 else 0.0
        z[j] = min(max(scaled, -CLIP), CLIP)


@njit(**HELPER)
def observe_row(dense: F32, i: int, seen: int, mean: F64, variance: F64) -> None:
    """Welford's update of mean and population variance by the ``seen``-th row."""
    share = 1.0 / seen
    for j in range(len(mean)):
        x = np.float64(dense[i, j])
        before = x - mean[j]
        centre = mean[j] + before * share
        mean[j] = centre
        variance[j] += (before * (x - centre) - variance[j]) * share


@njit(**HELPER)
def bucket(hashed: U32, i: int, k: int, first: I64) -> int:
    """Where the weight of row ``i``'s code of hashed column ``k`` is."""
    # A code past its column would write into another's weights.
    return min(first[k] + np.int64(hashed[i, k]), first[k + 1] - 1)


@njit(**HELPER)
def adagrad(at: int, gradient: float, rate: float, weight: F64, squares: F64) -> None:
    """One weight's step (Duchi, Hazan and Singer 2011)."""
    total = squares[at] + gradient * gradient
    squares[at] = total
    weight[at] -= rate * gradient / math.sqrt(total + EPS)


def starts(d: int, buckets: list[int]) -> I64:
    """Where each hashed column's weights begin, after the bias and ``d`` dense columns; their end.

    >>> starts(2, [10, 5]).tolist()
    [3, 13, 18]
    """
    return 1 + d + np.cumsum([0, *buckets], dtype=np.int64)
