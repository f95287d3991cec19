"""Online gradient boosted trees: every row walks all trees, each learning what those before left.

In the manner of streaming gradient boosted trees (Gunasekara et al. 2024, "Gradient boosted trees
for evolving data streams") for the logistic loss: tree ``s`` learns gradient and curvature at the
sum of the trees before it. Its leaves fade, and an ADWIN on the error of the trees before it
replaces a tree when that error rises. A hashed column is seen as the number of its code. Randomness
comes from one seeded counter that is part of the state.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from models.base import F32, F64, I64, U32, FeatureSchema, Role
from models.kernels.adwin import ROLES as ADWIN_ROLES
from models.kernels.adwin import Adwins, adwin_update, make_adwins
from models.kernels.binning import ROLES, Bins, make_bins, place
from models.kernels.common import HELPER, LEARN, SCORE, sigmoid
from models.kernels.entry import entry
from models.kernels.gradients import leaf_value, learn_leaf, try_split
from models.kernels.trees import ROLES as TREE_ROLES
from models.kernels.trees import (
    Trees,
    find_leaf_node,
    free_tree,
    grow,
    make_trees,
    new_tree,
)
from models.members.compiled import TreeModel, signature
from models.settings import Settings
from models.task import BINARY, Task

LEAST_CURVATURE = 1e-6
"""Where a probability is next to 0 or 1 a row must not count for nothing."""


class BoostingParams(Settings):
    """Parameters of ``type = "boosting"``."""

    trees: int = Field(50, ge=1, le=1000, description="trees in the sum")
    learning_rate: float = Field(0.2, gt=0, le=1, description="share of its step each tree takes")
    subspace: float = Field(0.6, gt=0, le=1, description="share of the columns a leaf looks at")
    grace: float = Field(100.0, ge=1, description="rows a leaf learns between looks for a split")
    delta: float = Field(0.1, gt=0, lt=1, description="chance of a split that means nothing")
    ridge: float = Field(1.0, gt=0, description="added to every curvature: holds young leaves back")
    memory: float = Field(
        100_000.0, ge=10, description="rows after which a leaf has mostly forgotten"
    )
    drift: float = Field(0.001, gt=0, lt=1, description="ADWIN's delta for replacing a tree")
    bins: int = Field(64, ge=4, le=256, description="most bins of one column")
    max_leaves: int = Field(4096, ge=64, le=1 << 20, description="leaves of all trees together")


class BoostingArrays(NamedTuple):
    """State, settings and scratch; ``t`` trees."""

    root: I64  # (t,)
    drifts: I64  # (1,): trees replaced
    adwin: Adwins  # t detectors
    trees: Trees
    bins: Bins
    hyper: F64  # (4,): see GRACE and the rest in gradients.py
    rate: F64  # (2,): learning rate, ADWIN's delta
    x: F64  # (columns,): scratch
    at: I64  # (columns,): scratch, positions among the bins


def make_arrays(columns: int, p: BoostingParams, seed: int) -> BoostingArrays:
    """A fresh bundle, before any tree is planted."""
    trees = make_trees(columns, p.subspace, p.bins, max(p.max_leaves, 2 * p.trees), seed)
    return BoostingArrays(
        root=np.full(p.trees, -1),
        drifts=np.zeros(1, np.int64),
        adwin=make_adwins(p.trees),
        trees=trees,
        bins=make_bins(columns, p.bins),
        hyper=np.array([p.grace, -math.log(p.delta), p.ridge, 1.0 - 1.0 / p.memory]),
        rate=np.array([p.learning_rate, p.drift]),
        x=np.zeros(columns),
        at=np.zeros(columns, np.int64),
    )


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
        if adwin_update(s, abs(y - p), a.rate[1], a.adwin) > 0:
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
    grow(a.x, a.bins, a.trees)


@entry(signature(make_arrays(1, BoostingParams.model_validate({}), 0)))
def boosting_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: BoostingArrays
) -> None:
    """Walk the rows in order, see ``compiled.py``. The first call plants the trees."""
    if a.root[0] < 0:
        for s in range(len(a.root)):
            a.root[s] = new_tree(a.trees)
    for i in range(len(dense)):
        place(dense, hashed, i, a.bins.edge, a.x, a.at)
        if mode & SCORE:
            out[i] = _link(a)
        if mode & LEARN:
            _learn(y[i], w[i], a)


class BoostingModel(TreeModel):
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
    _roles: ClassVar[dict[str, Role]] = {
        "root": "control",
        **{f"trees.{name}": role for name, role in TREE_ROLES.items()},
        "drifts": "statistic",
        **{f"adwin.{name}": role for name, role in ADWIN_ROLES.items()},
        **{f"bins.{name}": role for name, role in ROLES.items()},
    }

    def __init__(
        self, params: BoostingParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        columns = len(schema.dense) + len(schema.hashed)
        super().__init__(schema, make_arrays(columns, params, seed))

    def replaced(self) -> int:
        """See :meth:`models.base.Model.replaced`: trees put in another's place."""
        return int(self._arrays.drifts[0])
