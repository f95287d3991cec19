"""What each code of a hashed column comes to: the mean of a number where it was seen.

So a line in a leaf has one weight for a column of text, however many values that takes: "target
statistics", of rows before this one alone (Prokhorenkova et al. 2018, "CatBoost: unbiased boosting
with categorical features"). Nothing here is allocated while it runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from models.base import F32, F64, I64, U32, Role
from models.kernels.common import HELPER

ROWS, MEAN = range(2)
"""What is known of a code: rows, and the mean of the truths there less that of all."""

DOUBT = 10.0
"""Rows at the mean of all that each code is taken to have seen."""

LONGEST = 500.0
"""Rows over which a code's mean is taken."""

ROLES: dict[str, Role] = {"known": "statistic"}


class Codes(NamedTuple):
    """Codes of all hashed columns."""

    known: F64  # (codes, 2): see ROWS and MEAN
    first: I64  # (columns + 1,): where each column's codes begin


def make_codes(buckets: list[int]) -> Codes:
    """Codes that nothing is known of."""
    return Codes(known=np.zeros((sum(buckets), 2)), first=np.cumsum([0, *buckets], dtype=np.int64))


@njit(**HELPER)
def _code(hashed: U32, i: int, k: int, a: Codes) -> int:
    # A code past its column would be another's.
    return min(a.first[k] + np.int64(hashed[i, k]), a.first[k + 1] - 1)


@njit(**HELPER)
def translate(dense: F32, hashed: U32, i: int, v: F64, a: Codes) -> None:
    """Fill ``v`` with the numbers of row ``i``, dense first, then what its codes come to."""
    d = dense.shape[1]
    for j in range(d):
        v[j] = np.float64(dense[i, j])
    for k in range(hashed.shape[1]):
        known = a.known[_code(hashed, i, k, a)]
        v[d + k] = known[MEAN] * known[ROWS] / (known[ROWS] + DOUBT)


@njit(**HELPER)
def learn_codes(hashed: U32, i: int, y: float, weight: float, a: Codes) -> None:
    """Count a truth, less the mean of all, for the codes of row ``i``."""
    for k in range(hashed.shape[1]):
        known = a.known[_code(hashed, i, k, a)]
        known[ROWS] = min(known[ROWS] + weight, LONGEST)
        known[MEAN] += (y - known[MEAN]) * min(weight / known[ROWS], 1.0)
