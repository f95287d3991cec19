"""Online gradient boosted trees: every row walks all trees, each learning what those before left.

In the manner of streaming gradient boosted trees (Gunasekara et al. 2024, "Gradient boosted trees
for evolving data streams") for the logistic loss: tree ``s`` learns gradient and curvature at the
sum of the trees before it. Its leaves fade, and an ADWIN on the error of the trees before it
replaces a tree when that error rises by a tenth. A hashed column is seen as the number of its code.
Randomness comes from one seeded counter that is part of the state.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import boolean, float32, float64, njit, uint32, void

from models.base import F32, F64, U32, FeatureBatch, FeatureSchema
from models.kernels.adwin import adwin_update
from models.kernels.binning import place
from models.kernels.common import HELPER, LEARN, SCORE, sigmoid
from models.kernels.entry import entry
from models.kernels.gradients import (
    LEAST_CURVATURE,
    LEAST_RISE,
    leaf_value,
    learn_leaf,
    try_split,
)
from models.kernels.reasons import Walks, follow, make_walks, shapley, survey
from models.kernels.trees import find_leaf_node, free_tree, grow, new_tree, plant
from models.members.boosted import BoostedModel, BoostingArrays, BoostSettings, make_arrays
from models.members.compiled import WeightedSettings, signature
from models.task import BINARY, Task


class BoostingParams(BoostSettings, WeightedSettings):
    """Parameters of ``type = "boosting"``."""


@njit(**HELPER)
def _link(a: BoostingArrays) -> float:
    total = 0.0
    for s in range(len(a.root)):
        node = find_leaf_node(a.root[s], a.x, a.trees)
        total += a.rate[0] * leaf_value(a.trees.child[node], a.trees, a.hyper)
    return total


@njit(**HELPER)
def _learn(y: float, w: float, a: BoostingArrays) -> None:
    """Let every tree learn the prepared row at the sum of those before it."""
    link = 0.0
    for s in range(len(a.root)):
        p = sigmoid(link)
        if adwin_update(s, abs(y - p), a.rate[1], LEAST_RISE, a.adwin) > 0:
            a.drifts[0] += 1
            free_tree(a.root[s], a.trees)
            a.root[s] = new_tree(a.trees)
        node = find_leaf_node(a.root[s], a.x, a.trees)
        leaf = a.trees.child[node]
        link += a.rate[0] * leaf_value(leaf, a.trees, a.hyper)
        if w > 0.0:
            curvature = max(p * (1.0 - p), LEAST_CURVATURE) * w
            learn_leaf(leaf, (p - y) * w, curvature, a.at, a.bins, a.trees, a.hyper)
            try_split(node, a.bins, a.trees, a.hyper)
    grow(a.x, a.at, a.bins, a.trees)


@entry(signature(make_arrays(1, 1, BoostingParams.model_validate({}), 0)))
def boosting_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: BoostingArrays
) -> None:
    """Walk the rows in order, see ``compiled.py``. The first call plants the trees."""
    plant(a.root, a.trees)
    for i in range(len(dense)):
        place(dense, hashed, i, a.bins.edge, a.x, a.at)
        if mode & SCORE:
            out[i] = _link(a)
        if mode & LEARN:
            _learn(y[i], w[i], a)


_SHAPE = make_arrays(1, 1, BoostingParams.model_validate({}), 0)


@entry(
    void(
        *(float32[:, ::1], uint32[:, ::1], boolean, numba.typeof(_SHAPE)),
        *(numba.typeof(make_walks(1, 1)), float64[::1], float64[:, ::1]),
    )
)
def boosting_reasons(
    dense: F32, hashed: U32, exact: bool, a: BoostingArrays, w: Walks, out: F64, told: F64
) -> None:
    """See :mod:`models.kernels.reasons`: Shapley values if ``exact``, else links and ways."""
    n = survey(a.root, a.trees, a.hyper, w)
    for i in range(len(dense)):
        place(dense, hashed, i, a.bins.edge, a.x, a.at)
        if exact:
            shapley(n, a.rate[0], a.x, a.trees, w, told[i])
        else:
            out[i] = follow(a.root, a.rate[0], a.x, a.trees, w, told[i])


class BoostingModel(BoostedModel):
    """Online gradient boosted trees; scores are logits.

    Parameters
    ----------
    params : BoostingParams
    schema : FeatureSchema
    seed : int
        Of the subspaces.
    """

    Params = BoostingParams
    _kernel = boosting_kernel
    _explain = boosting_reasons

    def __init__(
        self, params: BoostingParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        columns = len(schema.dense) + len(schema.hashed)
        arrays = make_arrays(columns, task.k, params, seed)
        super().__init__(schema, arrays, task, params.class_weights)
        self._walks: Walks | None = None

    def _told(self, x: FeatureBatch, exact: bool) -> tuple[F64, F64]:
        columns = self._dense + self._hashed
        if self._walks is None:
            self._walks = make_walks(len(self._arrays.trees.column), columns)
        links, told = np.zeros((len(x), 1)), np.zeros((len(x), columns))
        given = (*self._rows(x), exact, self._arrays, self._walks)
        boosting_reasons(*given, links.reshape(-1), told)
        return links, told
