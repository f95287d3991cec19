"""What kernels share: how they are compiled, the logistic function, softmax, seeded randomness.

Nothing here keeps state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.cgutils import get_or_insert_function, int32_t, ir, voidptr_t
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from models.base import F64, U64

RARE = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""Options of a compiled helper that few rows need. Division by zero gives inf, so that loops of
divisions vectorise. Without Numba's runtime (``_nrt``) no kernel can allocate, and handing a bundle
of arrays to a helper counts no references: learning is twice as fast."""

HELPER = {**RARE, "forceinline": True}
"""Options of a compiled helper that every row needs. A call hands a bundle over by value, kilobytes
of it: put in place, a forest learns in two thirds of the time."""

F32_MAX = float(np.finfo(np.float32).max)

SCORE = 1
LEARN = 2
"""Switches of a member's walk; ``SCORE | LEARN`` scores each row, then learns it."""

MOST_NODES = 16
AT, WEIGHT = np.zeros((2, MOST_NODES + 1, MOST_NODES))
for _n in range(1, MOST_NODES + 1):
    _x, _w = np.polynomial.legendre.leggauss(_n)
    AT[_n, :_n], WEIGHT[_n, :_n] = (_x + 1.0) / 2.0, _w / 2.0
"""Gauss-Legendre sums for integrals from 0 to 1: with ``n`` nodes, those of row ``n``, exact of
polynomials of degree ``2 n - 1``."""

LANES = 16
"""Numbers that :func:`matching` compares at once: 64 bytes, a line of the cache."""

NODES = 8
"""Nodes for the mean slope of a sigmoid along a path."""

QUICK_NODES = 4
"""Where it is asked for of every score. What is missed the parts of a sum share."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2 ** 64 over the golden ratio, odd: steps of it spread over all 64 bits."""

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_UNIT = 1.0 / (1 << 53)


def ask_for(builder: Any, place: Any) -> None:
    """In an intrinsic: ask for the cache line of a pointer."""
    kind = ir.FunctionType(ir.VoidType(), [voidptr_t, int32_t, int32_t, int32_t])
    ask = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # To read it, to keep it, as data.
    builder.call(ask, [builder.bitcast(place, voidptr_t), int32_t(0), int32_t(3), int32_t(1)])


@intrinsic
def prefetch(_: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of a contiguous array's item, counted over the flattened array."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, value=given[0]).data
        ask_for(builder, builder.gep(data, [given[1]]))
        return context.get_dummy_value()

    return types.void(array, at), generate


@intrinsic
def matching(_: Any, array: Any, at: Any, value: Any) -> Any:
    """Which of the 16 numbers from ``at`` on of a contiguous uint32 array are ``value``, bit by
    bit."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, value=given[0]).data
        lane, lanes = ir.IntType(32), ir.VectorType(ir.IntType(32), LANES)
        place = builder.bitcast(builder.gep(data, [given[1]]), lanes.as_pointer())
        held = builder.load(place, align=4)
        one = builder.insert_element(ir.Constant(lanes, ir.Undefined), given[2], int32_t(0))
        same = ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)
        every = builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), same)
        bits = builder.bitcast(builder.icmp_unsigned("==", held, every), ir.IntType(LANES))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(array, at, types.uint32), generate


@intrinsic
def least_of(_: Any, array: Any, at: Any) -> Any:
    """The place, from 0 to 15, of the least of the 16 numbers from ``at`` on of a contiguous uint32
    array, below 2 ** 28 each; of those alike the first."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, value=given[0]).data
        lane, lanes = ir.IntType(32), ir.VectorType(ir.IntType(32), LANES)
        place = builder.bitcast(builder.gep(data, [given[1]]), lanes.as_pointer())
        # Number and place in one, so that the least tells where it stands.
        large = builder.shl(builder.load(place, align=4), ir.Constant(lanes, [4] * LANES))
        both = builder.or_(large, ir.Constant(lanes, list(range(LANES))))
        kind = ir.FunctionType(lane, [lanes])
        least = get_or_insert_function(builder.module, kind, "llvm.vector.reduce.umin.v16i32")
        where = builder.and_(builder.call(least, [both]), lane(LANES - 1))
        return builder.zext(where, ir.IntType(64))

    return types.int64(array, at), generate


@intrinsic
def lowest(_: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set; of none at all, 64."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), generate


@njit(**HELPER)
def sigmoid(z: float) -> float:
    """``1 / (1 + exp(-z))`` without overflow."""
    if z >= 0.0:
        return 1.0 / (1.0 + math.exp(-z))
    e = math.exp(z)
    return e / (1.0 + e)


@njit(**HELPER)
def both_ways(z: float) -> tuple[float, float]:
    """``sigmoid(z)`` and ``sigmoid(-z)``, by one exponential."""
    e = math.exp(-abs(z))
    less, more = e / (1.0 + e), 1.0 / (1.0 + e)
    return (more, less) if z >= 0.0 else (less, more)


@njit(**HELPER)
def softmax(links: F64, p: F64) -> None:
    """Fill ``p`` with ``exp(z_c) / sum_c exp(z_c)`` of the links ``z``, without overflow."""
    largest = links[0]
    for c in range(1, len(links)):
        largest = max(largest, links[c])
    total = 0.0
    for c in range(len(links)):
        p[c] = math.exp(links[c] - largest)
        total += p[c]
    for c in range(len(links)):
        p[c] /= total


@njit(**HELPER)
def mix(z: Any) -> Any:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014): 64 mixed bits of a uint64."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


mix_all: Callable[[U64], U64] = mix.py_func
""":func:`mix` of each number of an array, not compiled."""


@njit(**HELPER)
def next_u64(rng: U64) -> int:
    """The next number of SplitMix64; ``rng`` is its one counter."""
    rng[0] += GOLDEN
    return mix(rng[0])


def numbers(seed: int, n: int) -> U64:
    """The first ``n`` numbers of :func:`next_u64` from this seed, without compiling it."""
    return mix_all(np.uint64(seed) + GOLDEN * np.arange(1, n + 1, dtype=np.uint64))


@njit(**HELPER)
def uniform(rng: U64) -> float:
    """A float64 in ``[0, 1)``."""
    return (next_u64(rng) >> np.uint64(11)) * _UNIT


@njit(**HELPER)
def below(rng: U64, n: int) -> int:
    """An integer in ``[0, n)``; the bias for ``n`` far below 2**53 is of no consequence."""
    return int(uniform(rng) * n)


@njit(**HELPER)
def poisson(rng: U64, row: int, cumulative: F64) -> int:
    """A draw by inversion from a row of cumulative probabilities (:func:`poisson_table`)."""
    u = uniform(rng)
    k = 0
    while k < cumulative.shape[1] and u >= cumulative[row, k]:
        k += 1
    return k


def poisson_table(rate: float) -> F64:
    """Cumulative Poisson probabilities up to where a float64 uniform can no longer tell.

    >>> poisson_table(1.0)[:2].round(3).tolist()
    [0.368, 0.736]
    """
    size = int(rate + 12 * math.sqrt(rate) + 12)
    terms = [math.exp(-rate)]
    for k in range(1, size):
        terms.append(terms[-1] * rate / k)
    return np.cumsum(terms)
