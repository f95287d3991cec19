"""FTRL-Proximal over crosses: where a row's weights are in a hashed table, their sum, their step.

The learner is FTRL-Proximal (McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches",
algorithm 1). A slot of the table holds z and n of each link side by side. Nothing here is allocated
while it runs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.base import F32, F64, I64, U32, U64
from models.kernels.binning import U8, Bins, observe, position
from models.kernels.common import HELPER, RARE

_ODD = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)

LANES = 4
"""Rows that are scored at a time."""


@njit(**HELPER)
def _code_key(salt: np.uint64, code: int) -> np.uint64:
    """A random number for a code: two rounds of multiply and fold."""
    h = (np.uint64(code) + salt) * _ODD
    h = (h ^ (h >> _HALF)) * _ODD
    return h ^ (h >> _HALF)


@njit(**HELPER)
def find(hashed: U32, i: int, ids: I64, salt: U64, key: U64, slot: I64, shift: int) -> None:
    """Fill ``slot``: the bias at 0, every column, every pair; sums of random keys are random."""
    d, f = len(ids), len(key)
    for a in range(d):
        key[a] = salt[a, ids[a]]
    for a in range(d, f):
        key[a] = _code_key(salt[a, 0], hashed[i, a - d])
    s = 1
    for a in range(f):
        slot[s] = np.int64(key[a] >> np.uint64(shift))
        s += 1
    for a in range(1, f):
        for b in range(a):
            slot[s] = np.int64((key[a] + key[b]) >> np.uint64(shift))
            s += 1


@njit(**HELPER)
def weights(table: F64, slot: I64, at: int, z: F64, root: F64, weight: F64, hyper: F64) -> float:
    """Fill ``z``, ``root`` (of n) and ``weight`` from column ``at`` of the slots; their sum."""
    for s in range(len(slot)):
        z[s] = table[slot[s], at]
        root[s] = table[slot[s], at + 1]
    per_alpha, l1 = 1.0 / hyper[0], hyper[2]
    flat = hyper[1] * per_alpha + hyper[3]
    # Apart from gathering and adding up, so that square roots and divisions go four at a time.
    for s in range(len(slot)):
        root[s] = math.sqrt(root[s])
        excess = max(abs(z[s]) - l1, 0.0)
        weight[s] = -math.copysign(excess, z[s]) / (flat + root[s] * per_alpha)
    total = 0.0
    for s in range(len(slot)):
        total += weight[s]
    return total


@njit(**HELPER)
def all_weights(table: F64, z: int, hyper: F64, weight: F64) -> None:
    """Fill ``weight`` ``(t,)`` from columns ``z`` and ``z + 1``, as :func:`weights` has them."""
    per_alpha, l1 = 1.0 / hyper[0], hyper[2]
    flat = hyper[1] * per_alpha + hyper[3]
    for s in range(len(table)):
        root = math.sqrt(table[s, z + 1])
        excess = max(abs(table[s, z]) - l1, 0.0)
        weight[s] = -math.copysign(excess, table[s, z]) / (flat + root * per_alpha)


@njit(**HELPER)
def keys_of(
    dense: F32, hashed: U32, i: int, edge: F64, order: U8, salt: U64, key: U64, lane: int
) -> None:
    """Fill a lane of ``key`` ``(f, LANES)`` with the random numbers of row ``i``."""
    d = dense.shape[1]
    for a in range(d):
        key[a, lane] = salt[a, order[a, position(a, np.float64(dense[i, a]), edge)]]
    for a in range(d, len(key)):
        key[a, lane] = _code_key(salt[a, 0], hashed[i, a - d])


@njit(**HELPER)
def sums(weight: F64, key: U64, shift: int, total: F64) -> None:
    """Fill ``total`` ``(LANES,)`` with each lane's sum, its weights in the order of :func:`find`.

    A sum waits for the one before it; those of several rows do not wait for one another.
    """
    s = np.uint64(shift)
    for lane in range(LANES):
        total[lane] = 0.0 + weight[0]
    for a in range(len(key)):
        for lane in range(LANES):
            total[lane] += weight[np.int64(key[a, lane] >> s)]
    for a in range(1, len(key)):
        for b in range(a):
            for lane in range(LANES):
                total[lane] += weight[np.int64((key[a, lane] + key[b, lane]) >> s)]


@njit(**HELPER)
def update(
    gradient: float,
    table: F64,
    slot: I64,
    at: int,
    z: F64,
    root: F64,
    weight: F64,
    alpha: float,
) -> None:
    """Algorithm 1's last lines; of two columns in one slot the later wins."""
    square, per_alpha = gradient * gradient, 1.0 / alpha
    for s in range(len(slot)):
        n = root[s] * root[s] + square
        z[s] += gradient - (math.sqrt(n) - root[s]) * per_alpha * weight[s]
        root[s] = n
    for s in range(len(slot)):
        table[slot[s], at] = z[s]
        table[slot[s], at + 1] = root[s]


@njit(**HELPER)
def _copy(source: int, target: int, table: F64) -> None:
    for c in range(table.shape[1]):
        table[target, c] = table[source, c]


@njit(**HELPER)
def shift_of(table: F64) -> int:
    """How far a key is shifted to the right to be a slot of the table."""
    shift = 64
    while (1 << (64 - shift)) < len(table):
        shift -= 1
    return shift


@njit(**RARE)
def _inherit(f: int, old: int, new: int, count: I64, salt: U64, table: F64, shift: int) -> None:
    """Copy what the old half of a split bin knows to the new: alone and with every other bin."""
    s = np.uint64(shift)
    _copy(np.int64(salt[f, old] >> s), np.int64(salt[f, new] >> s), table)
    for g in range(len(count)):
        for b in range(count[g] if g != f else 0):
            source = np.int64((salt[f, old] + salt[g, b]) >> s)
            _copy(source, np.int64((salt[f, new] + salt[g, b]) >> s), table)


@njit(**HELPER)
def grow_crosses(
    dense: F32, i: int, at: I64, bins: Bins, salt: U64, table: F64, shift: int
) -> None:
    """Count the values of row ``i``; where a bin splits, the new half inherits its weights.

    ``at`` are the positions that ``locate`` found.
    """
    for f in range(dense.shape[1]):
        p = observe(f, np.float64(dense[i, f]), at[f], bins)
        if p >= 0:
            old, new = np.int64(bins.order[f, p]), np.int64(bins.order[f, p + 1])
            _inherit(f, old, new, bins.used, salt, table, shift)
