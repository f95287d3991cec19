"""FTRL-Proximal over bins, codes and their pairs, with a weight for each class.

Softmax regression on what the crossed member of a yes or no sees: a slot of the table holds z and n
of every class.
"""

from __future__ import annotations

from numba import njit

from models.base import F32, F64, U32, FeatureSchema
from models.kernels.binning import locate
from models.kernels.common import HELPER, LEARN, SCORE, softmax
from models.kernels.crosses import find, grow_crosses, shift_of, update, weights
from models.kernels.entry import entry
from models.members.compiled import WeightedSettings, signature
from models.members.hashed import CrossedArrays, CrossSettings, HashedModel, make_arrays
from models.task import Task


class CrossedClassesParams(CrossSettings, WeightedSettings):
    """Parameters of ``type = "crossed"`` for classes."""


@njit(**HELPER)
def _learn(y: float, w: float, a: CrossedArrays) -> None:
    """Learn the row whose slots, weights and links are in place."""
    softmax(a.link, a.gradient)
    for c in range(len(a.link)):
        gradient = (a.gradient[c] - (1.0 if c == y else 0.0)) * w
        update(gradient, a.table, a.slot, 2 * c, a.z[c], a.root[c], a.weight[c], a.hyper[0])


@entry(signature(make_arrays(1, 1, 2, CrossedClassesParams.model_validate({}), 0)))
def crossed_classes_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: CrossedArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`."""
    bins, classes = a.bins, len(a.link)
    shift = shift_of(a.table)
    for i in range(len(dense)):
        locate(dense, i, bins.edge, bins.order, a.at, a.ids)
        find(hashed, i, a.ids, a.salt, a.key, a.slot, shift)
        for c in range(classes):
            a.link[c] = weights(a.table, a.slot, 2 * c, a.z[c], a.root[c], a.weight[c], a.hyper)
            if mode & SCORE:
                out[i * classes + c] = a.link[c]
        if mode & LEARN:
            _learn(y[i], w[i], a)
            grow_crosses(dense, i, a.at, bins, a.salt, a.table, shift)


class CrossedClassesModel(HashedModel):
    """FTRL-Proximal on bins, codes and their pairs; scores are a logit for each class.

    Parameters
    ----------
    params : CrossedClassesParams
    schema : FeatureSchema
    seed : int
        Salts the hashes: members with other seeds collide elsewhere.
    task : Classes
    """

    Params = CrossedClassesParams
    _kernel = crossed_classes_kernel

    def __init__(
        self, params: CrossedClassesParams, schema: FeatureSchema, seed: int, task: Task
    ) -> None:
        arrays = make_arrays(len(schema.dense), len(schema.hashed), task.k, params, seed)
        super().__init__(schema, arrays, task, params.class_weights)
