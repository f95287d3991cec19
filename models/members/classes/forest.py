"""Adaptive random forest for classes: what ``models/members/forest.py`` is for yes and no.

Gomes et al. (2017): online bagging by Poisson weights, a random subspace of columns at every leaf,
and per tree a warning and a drift detector (``models/kernels/forests.py``). A hashed column is seen
as the number of its code. Randomness comes from one seeded counter that is part of the state.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from models.base import F32, F64, I64, U32, FeatureSchema, Role
from models.kernels.adwin import Adwins, make_adwins
from models.kernels.binning import YOUNG, Bins, look_around, make_bins, place
from models.kernels.common import HELPER, LEARN, RARE, SCORE, poisson, poisson_table
from models.kernels.entry import entry
from models.kernels.forests import watch
from models.kernels.leaves.classes import (
    REACH,
    known_of,
    leaf_vote,
    learn_leaf,
    likeliest,
    to_one,
    try_split,
)
from models.kernels.trees import Trees, find_leaf_node, find_leaf_nodes, grow, make_trees, plant
from models.members.bagged import BaggedModel, HoeffdingSettings
from models.members.compiled import WeightedSettings, signature
from models.task import Task


class ForestParams(HoeffdingSettings, WeightedSettings):
    """Parameters of ``type = "forest"`` for classes."""

    subspace: float = Field(0.4, gt=0, le=1, description="share of the columns a leaf looks at")
    rate: float = Field(6.0, gt=0, le=20, description="mean weight of a row in a tree")


class ForestArrays(NamedTuple):
    """State, settings and scratch; ``t`` trees and their background trees; ``k`` classes."""

    root: I64  # (2t,): see forests.py
    events: I64  # (2,): warnings, drifts
    prior: F64  # (k,): class weights of everything learned
    adwin: Adwins  # 2t detectors
    trees: Trees
    bins: Bins
    hyper: F64  # (3,): see GRACE and the rest in leaves/classes.py
    deltas: F64  # (2,)
    rate: F64  # (1, n): cumulative Poisson probabilities
    weight: F64  # (k,): what a row of each class counts for
    x: F64  # (columns,): scratch
    at: I64  # (columns,): scratch, positions among the bins
    near: I64  # (columns, 2): scratch, see binning.py
    node: I64  # (t,): scratch
    share: F64  # (2t, k): scratch, the trees' votes
    said: I64  # (2t, 2): scratch, see leaf_vote
    mean: F64  # (k,): scratch, the prior's shares
    true: F64  # (k,): scratch
    total: F64  # (k,): scratch
    sides: F64  # (2, k): scratch


def make_arrays(columns: int, k: int, p: ForestParams, seed: int) -> ForestArrays:
    """A fresh bundle, before any tree is planted."""
    leaves = max(p.max_leaves, 4 * p.trees)
    return ForestArrays(
        root=np.full(2 * p.trees, -1),
        events=np.zeros(2, np.int64),
        prior=np.ones(k),
        adwin=make_adwins(2 * p.trees),
        trees=make_trees(columns, p.subspace, p.bins, leaves, seed, k, known_of(k)),
        bins=make_bins(columns, p.bins, YOUNG),
        hyper=np.array([p.grace, p.delta, p.tie]),
        deltas=np.array([p.warning, p.drift]),
        rate=poisson_table(p.rate)[None, :],
        weight=np.ones(k),
        x=np.zeros(columns),
        at=np.zeros(columns, np.int64),
        near=np.zeros((columns, 2), np.int64),
        node=np.zeros(p.trees, np.int64),
        share=np.zeros((2 * p.trees, k)),
        said=np.zeros((2 * p.trees, 2), np.int64),
        mean=np.zeros(k),
        true=np.zeros(k),
        total=np.zeros(k),
        sides=np.zeros((2, k)),
    )


@njit(**HELPER)
def _vote(i: int, node: int, judged: bool, a: ForestArrays) -> None:
    """Cast the vote of tree ``i`` at this leaf node, to be judged or not."""
    leaf = a.trees.child[node]
    said, share = a.said[i], a.share[i]
    leaf_vote(leaf, a.mean, a.near, a.bins, a.trees, a.total, share, said, judged)


@njit(**RARE)
def _vote_out_of_turn(i: int, a: ForestArrays) -> int:
    node = find_leaf_node(a.root[i], a.x, a.trees)
    if i < len(a.node):
        a.node[i] = node
    _vote(i, node, True, a)
    return node


@njit(**HELPER)
def _links(i: int, out: F64, a: ForestArrays) -> None:
    """The logarithms of the trees' mean probabilities, still with what classes count for in them.

    That is taken out of each tree's vote before the mean: out of the mean alone, it bent a class
    of weight 5 by a sixth. The mean gets it back, for ``models/members/compiled.py`` to
    take it off.
    """
    k, t = len(a.prior), len(a.node)
    for c in range(k):
        a.total[c] = 0.0
    for tree in range(t):
        for c in range(k):
            a.true[c] = a.share[tree, c] / a.weight[c]
        to_one(a.true, a.true)
        for c in range(k):
            a.total[c] += a.true[c]
    for c in range(k):
        out[i * k + c] = math.log(a.total[c] * a.weight[c] / t)


@njit(**HELPER)
def _learn_tree(i: int, node: int, label: int, weight: float, a: ForestArrays) -> None:
    learn_leaf(a.trees.child[node], label, weight, a.at, len(a.prior), a.trees, a.said[i])
    try_split(node, a.bins, a.trees, a.hyper, a.sides)


@njit(**RARE)
def _learn_background(i: int, label: int, weight: float, a: ForestArrays) -> None:
    _learn_tree(i, _vote_out_of_turn(i, a), label, weight, a)


@njit(**HELPER)
def _learn(label: int, w: float, a: ForestArrays) -> None:
    """Learn the prepared row, whose votes are cast."""
    t = len(a.node)
    for i in range(t):
        weight = w * poisson(a.trees.rng, 0, a.rate)
        error = 0.0 if likeliest(a.share[i]) == label else min(w, 1.0)
        if watch(i, error, False, a.deltas, a.root, a.events, a.adwin, a.trees):
            _vote_out_of_turn(i, a)
        if weight > 0.0:
            _learn_tree(i, a.node[i], label, weight, a)
            if a.root[t + i] >= 0:
                _learn_background(t + i, label, weight, a)
    a.prior[label] += w
    grow(a.x, a.at, a.bins, a.trees)


@entry(signature(make_arrays(1, 2, ForestParams.model_validate({}), 0)))
def forest_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: ForestArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`. The first call plants trees."""
    plant(a.root[: len(a.node)], a.trees)
    for i in range(len(dense)):
        place(dense, hashed, i, a.bins.edge, a.x, a.at)
        look_around(a.at, a.bins.used, dense.shape[1], REACH, a.near)
        to_one(a.prior, a.mean)
        find_leaf_nodes(a.root, a.x, a.trees, a.node)
        for tree in range(len(a.node)):
            _vote(tree, a.node[tree], mode & LEARN != 0, a)
        if mode & SCORE:
            _links(i, out, a)
        if mode & LEARN:
            _learn(int(y[i]), w[i], a)


class ForestModel(BaggedModel):
    """Adaptive random forest; scores are logarithms of the trees' mean probabilities.

    Parameters
    ----------
    params : ForestParams
    schema : FeatureSchema
    seed : int
        Of the bagging weights and the subspaces.
    task : Classes
    """

    Params = ForestParams
    _kernel = forest_kernel
    _roles: ClassVar[dict[str, Role]] = {**BaggedModel._roles, "prior": "statistic"}

    def __init__(self, params: ForestParams, schema: FeatureSchema, seed: int, task: Task) -> None:
        columns = len(schema.dense) + len(schema.hashed)
        arrays = make_arrays(columns, task.k, params, seed)
        super().__init__(schema, arrays, task, params.class_weights)
        if self._class_weights is not None:
            self._arrays = arrays._replace(weight=self._class_weights)  # one array: it may change
