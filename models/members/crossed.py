"""FTRL-Proximal over binned columns and all their pair crosses, in one hashed table.

Each dense column becomes a bin id (:mod:`models.kernels.binning`), each hashed column is one
already; every id and every pair of ids of two columns has a weight, found by hashing. The learner
is FTRL-Proximal (:mod:`models.kernels.crosses`). When a bin splits, the new half inherits the
weights of the old, so nothing is forgotten. It draws no randomness while it runs: the seed salts
the hashes once.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import float32, float64, uint32, uint64, void

from models.base import F32, F64, U32, U64, FeatureBatch, FeatureSchema
from models.kernels.binning import locate
from models.kernels.common import LEARN, SCORE, sigmoid
from models.kernels.crosses import (
    LANES,
    all_weights,
    find,
    grow_crosses,
    keys_of,
    shift_of,
    sums,
    update,
    weights,
)
from models.kernels.entry import entry
from models.members.compiled import WeightedSettings, explaining, signature
from models.members.hashed import CrossedArrays, CrossSettings, HashedModel, make_arrays
from models.task import BINARY, Task


class CrossedParams(CrossSettings, WeightedSettings):
    """Parameters of ``type = "crossed"``."""


_BUNDLE = make_arrays(1, 1, 1, CrossedParams.model_validate({}), 0)


@entry(signature(_BUNDLE))
def crossed_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: CrossedArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`."""
    table, slot, bins = a.table, a.slot, a.bins
    z, root, weight = a.z[0], a.root[0], a.weight[0]
    shift = shift_of(table)
    for i in range(len(dense)):
        locate(dense, i, bins.edge, bins.order, a.at, a.ids)
        find(hashed, i, a.ids, a.salt, a.key, slot, shift)
        link = weights(table, slot, 0, z, root, weight, a.hyper)
        if mode & SCORE:
            out[i] = link
        if mode & LEARN:
            gradient = (sigmoid(link) - y[i]) * w[i]
            update(gradient, table, slot, 0, z, root, weight, a.hyper[0])
            # Bins grow after the row is learned: score and learn see the same ids.
            grow_crosses(dense, i, a.at, bins, a.salt, table, shift)


@entry(
    void(
        *(float32[:, ::1], uint32[:, ::1], float64[::1], float64[::1], uint64[:, ::1]),
        numba.typeof(_BUNDLE),
    )
)
def crossed_scores(
    dense: F32, hashed: U32, out: F64, weight: F64, key: U64, a: CrossedArrays
) -> None:
    """What :func:`crossed_kernel` scores, by the weights of all slots and some rows at a time.

    ``weight`` ``(t,)`` and ``key`` ``(f, LANES)`` are scratch, and ``out`` is for whole lanes.
    """
    all_weights(a.table, 0, a.hyper, weight)
    shift, n = shift_of(a.table), len(dense)
    for first in range(0, n, LANES):
        for lane in range(LANES):
            row = min(first + lane, n - 1)
            keys_of(dense, hashed, row, a.bins.edge, a.bins.order, a.salt, key, lane)
        sums(weight, key, shift, out[first : first + LANES])


@entry(explaining(_BUNDLE))
def crossed_reasons(
    dense: F32, hashed: U32, exact: bool, a: CrossedArrays, out: F64, told: F64
) -> None:
    """Each column's own weight and half of those of its pairs: the Shapley values of such a sum."""
    f = len(a.key)
    shift = shift_of(a.table)
    for i in range(len(dense)):
        locate(dense, i, a.bins.edge, a.bins.order, a.at, a.ids)
        find(hashed, i, a.ids, a.salt, a.key, a.slot, shift)
        w = a.weight[0]
        out[i] = weights(a.table, a.slot, 0, a.z[0], a.root[0], w, a.hyper)
        pair = 1 + f
        for c in range(f):
            even, odd, last = 0.0, 0.0, c & ~1  # two sums: neither waits for the other
            for b in range(0, last, 2):
                even += w[pair + b]
                odd += w[pair + b + 1]
            if last < c:
                even += w[pair + last]
            told[i, c] += w[1 + c] + 0.5 * (even + odd)
            for b in range(c):
                told[i, b] += 0.5 * w[pair + b]
            pair += c


class CrossedModel(HashedModel):
    """FTRL-Proximal on bins, codes and their pairs; scores are logits.

    Parameters
    ----------
    params : CrossedParams
    schema : FeatureSchema
    seed : int
        Salts the hashes: members with other seeds collide elsewhere.
    """

    Params = CrossedParams
    _kernel = crossed_kernel
    _explain = crossed_reasons

    def __init__(
        self, params: CrossedParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        arrays = make_arrays(len(schema.dense), len(schema.hashed), task.k, params, seed)
        super().__init__(schema, arrays, task, params.class_weights)

    def score(self, x: FeatureBatch) -> F64:
        """See :meth:`models.base.Model.score`; many rows by another way to the same bits."""
        n, a = len(x), self._arrays
        if n * len(a.slot) < 2 * len(a.table):
            return super().score(x)
        key = np.empty((len(a.key), LANES), np.uint64)
        out = np.empty(-(-n // LANES) * LANES)
        crossed_scores(*self._rows(x), out, np.empty(len(a.table)), key, a)
        return self._corrected(out[:n].reshape(-1, 1))
