"""FTRL-Proximal over bins, codes and their pairs, for a number: squared loss.

It sees what the crossed member of a yes or no sees, and learns how many running deviations a truth
is from the running mean, so that one rate serves minutes and millions.
"""

from __future__ import annotations

from typing import ClassVar

from numba import njit

from models.base import F32, F64, U32, FeatureSchema, Role
from models.kernels.binning import locate
from models.kernels.common import HELPER, LEARN, SCORE
from models.kernels.crosses import find, grow_crosses, shift_of, update, weights
from models.kernels.entry import entry
from models.kernels.losses import MEAN, SQUARED, clipped, observe_truth, unit
from models.members.compiled import signature
from models.members.hashed import CrossedArrays, CrossSettings, HashedModel, make_arrays
from models.task import Task


class CrossedNumberParams(CrossSettings):
    """Parameters of ``type = "crossed"`` for numbers."""


@njit(**HELPER)
def _learn(y: float, w: float, a: CrossedArrays) -> None:
    """Learn the row whose slots and weights are in place, and the sum of these in ``link``."""
    observe_truth(y, a.target)
    size = unit(SQUARED, a.target)
    if size > 0.0:
        gradient = (a.link[0] - (y - a.target[MEAN]) / size) * w
        update(gradient, a.table, a.slot, 0, a.z[0], a.root[0], a.weight[0], a.hyper[0])


@entry(signature(make_arrays(1, 1, 1, CrossedNumberParams.model_validate({}), 0)))
def crossed_number_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: CrossedArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`."""
    bins = a.bins
    shift = shift_of(a.table)
    for i in range(len(dense)):
        locate(dense, i, bins.edge, bins.order, a.at, a.ids)
        find(hashed, i, a.ids, a.salt, a.key, a.slot, shift)
        a.link[0] = weights(a.table, a.slot, 0, a.z[0], a.root[0], a.weight[0], a.hyper)
        if mode & SCORE:
            out[i] = a.target[MEAN] + unit(SQUARED, a.target) * a.link[0]
        if mode & LEARN:
            if w[i] > 0.0:
                _learn(clipped(y[i]), w[i], a)
            grow_crosses(dense, i, a.at, bins, a.salt, a.table, shift)


class CrossedNumberModel(HashedModel):
    """FTRL-Proximal on bins, codes and their pairs; scores are in the target's unit.

    Parameters
    ----------
    params : CrossedNumberParams
    schema : FeatureSchema
    seed : int
        Salts the hashes: members with other seeds collide elsewhere.
    task : Number
    """

    Params = CrossedNumberParams
    _kernel = crossed_number_kernel
    _roles: ClassVar[dict[str, Role]] = {**HashedModel._roles, "target": "statistic"}

    def __init__(
        self, params: CrossedNumberParams, schema: FeatureSchema, seed: int, task: Task
    ) -> None:
        arrays = make_arrays(len(schema.dense), len(schema.hashed), 1, params, seed)
        super().__init__(schema, arrays, task)
