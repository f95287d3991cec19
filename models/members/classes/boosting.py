"""Online gradient boosted trees for classes: rounds of one tree for each class, softmax.

As the boosting of a yes or no: every row walks all rounds, each learning what those before it left.
A round's trees learn gradients and curvatures at one and the same sum (Friedman 2001, algorithm 6);
an ADWIN on the probability that the sum does not give the true class replaces them together when it
rises by a tenth.
"""

from __future__ import annotations

from numba import njit
from pydantic import Field

from models.base import F32, F64, U32, FeatureSchema
from models.kernels.adwin import adwin_update
from models.kernels.binning import place
from models.kernels.common import HELPER, LEARN, RARE, SCORE, softmax
from models.kernels.entry import entry
from models.kernels.gradients import (
    LEAST_CURVATURE,
    LEAST_RISE,
    leaf_value,
    learn_leaf,
    try_split,
)
from models.kernels.trees import find_leaf_node, free_tree, grow, new_tree, plant
from models.members.boosted import BoostedModel, BoostingArrays, BoostSettings, make_arrays
from models.members.compiled import WeightedSettings, signature
from models.task import Task


class BoostingClassesParams(BoostSettings, WeightedSettings):
    """Parameters of ``type = "boosting"`` for classes."""

    trees: int = Field(20, ge=1, le=1000, description="trees in the sum of each class")


@njit(**HELPER)
def _add(tree: int, c: int, a: BoostingArrays) -> int:
    """Add a tree's step to the link of its class; returns the leaf node."""
    node = find_leaf_node(a.root[tree], a.x, a.trees)
    a.link[c] += a.rate[0] * leaf_value(a.trees.child[node], a.trees, a.hyper)
    return node


@njit(**RARE)
def _replace(first: int, a: BoostingArrays) -> None:
    a.drifts[0] += 1
    for tree in range(first, first + len(a.link)):
        free_tree(a.root[tree], a.trees)
        a.root[tree] = new_tree(a.trees)


@njit(**HELPER)
def _learn(label: int, w: float, a: BoostingArrays) -> None:
    """Let every round learn the prepared row at the sum of those before it."""
    classes = len(a.link)
    for c in range(classes):
        a.link[c] = 0.0
    for s in range(len(a.root) // classes):
        softmax(a.link, a.p)
        if adwin_update(s, 1.0 - a.p[label], a.rate[1], LEAST_RISE, a.adwin) > 0:
            _replace(s * classes, a)
        for c in range(classes):
            node = _add(s * classes + c, c, a)
            if w > 0.0:
                p = a.p[c]
                gradient = (p - (c == label)) * w
                curvature = max(p * (1.0 - p), LEAST_CURVATURE) * w
                leaf = a.trees.child[node]
                learn_leaf(leaf, gradient, curvature, a.at, a.bins, a.trees, a.hyper)
                try_split(node, a.bins, a.trees, a.hyper)
    grow(a.x, a.at, a.bins, a.trees)


@entry(signature(make_arrays(1, 2, BoostingClassesParams.model_validate({}), 0)))
def boosting_classes_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: BoostingArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`. The first call plants trees."""
    classes = len(a.link)
    plant(a.root, a.trees)
    for i in range(len(dense)):
        place(dense, hashed, i, a.bins.edge, a.x, a.at)
        if mode & SCORE:
            for c in range(classes):
                a.link[c] = 0.0
                for tree in range(c, len(a.root), classes):
                    _add(tree, c, a)
                out[i * classes + c] = a.link[c]
        if mode & LEARN:
            _learn(int(y[i]), w[i], a)


class BoostingClassesModel(BoostedModel):
    """Online gradient boosted trees; scores are a logit for each class.

    Parameters
    ----------
    params : BoostingClassesParams
    schema : FeatureSchema
    seed : int
        Of the subspaces.
    task : Classes
    """

    Params = BoostingClassesParams
    _kernel = boosting_classes_kernel

    def __init__(
        self, params: BoostingClassesParams, schema: FeatureSchema, seed: int, task: Task
    ) -> None:
        columns = len(schema.dense) + len(schema.hashed)
        arrays = make_arrays(columns, task.k, params, seed)
        super().__init__(schema, arrays, task, params.class_weights)
