"""Adaptive random forest: Hoeffding trees on growing bins, each watched by two ADWINs.

The algorithm is that of Gomes et al. (2017, "Adaptive random forests for evolving data stream
classification"): online bagging by Poisson weights, a random subspace of columns at every leaf, and
per tree a warning detector that starts a background tree and a drift detector that puts it in the
old one's place. A hashed column is seen as the number of its code. Randomness comes from one seeded
counter that is part of the state.
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
from models.kernels.trees import Trees, find_leaf_node, find_leaf_nodes, grow, make_trees, plant
from models.kernels.votes import (
    CORRECTION,
    REACH,
    TRUST_LATEST,
    ask_for,
    leaf_odds,
    learn_leaf,
    try_split,
)
from models.members.bagged import BaggedModel, HoeffdingSettings
from models.members.compiled import signature
from models.task import BINARY, Task


class ForestParams(HoeffdingSettings):
    """Parameters of ``type = "forest"``."""

    negative_rate: float = Field(6.0, gt=0, le=20, description="mean weight of a genuine row")
    positive_rate: float = Field(
        6.0, gt=0, le=20, description="mean weight of a positive row; scores are corrected for it"
    )
    latest: bool = Field(
        False,
        description="let a leaf repeat its last label where that is right: for streams whose "
        "labels come at once and run in series",
    )


class ForestArrays(NamedTuple):
    """State, settings and scratch; ``t`` trees, then their ``t`` background trees."""

    root: I64  # (2t,): see forests.py
    events: I64  # (2,): warnings, drifts
    prior: F64  # (2,): class weights of everything learned
    adwin: Adwins  # 2t detectors
    trees: Trees
    bins: Bins
    hyper: F64  # (5,): see GRACE and the rest in votes.py
    deltas: F64  # (2,)
    rate: F64  # (2, k): cumulative Poisson probabilities by class
    x: F64  # (columns,): scratch
    at: I64  # (columns,): scratch, positions among the bins
    near: I64  # (columns, 2): scratch, see binning.py
    node: I64  # (t,): scratch
    odds: F64  # (t,): scratch
    said: F64  # (2t, 3): scratch, see leaf_odds


def make_arrays(columns: int, p: ForestParams, seed: int) -> ForestArrays:
    """A fresh bundle, before any tree is planted."""
    leaves = max(p.max_leaves, 4 * p.trees)
    trees = make_trees(columns, p.subspace, p.bins, leaves, seed)
    hyper = [p.grace, p.delta, p.tie, p.negative_rate / p.positive_rate, float(p.latest)]
    rates = [poisson_table(r) for r in (p.negative_rate, p.positive_rate)]
    rate = np.ones((2, max(len(r) for r in rates)))
    for row, r in zip(rate, rates, strict=True):
        row[: len(r)] = r
    return ForestArrays(
        root=np.full(2 * p.trees, -1),
        events=np.zeros(2, np.int64),
        prior=np.ones(2),
        adwin=make_adwins(2 * p.trees),
        trees=trees,
        bins=make_bins(columns, p.bins, YOUNG),
        hyper=np.array(hyper),
        deltas=np.array([p.warning, p.drift]),
        rate=rate,
        x=np.zeros(columns),
        at=np.zeros(columns, np.int64),
        near=np.zeros((columns, 2), np.int64),
        node=np.zeros(p.trees, np.int64),
        odds=np.zeros(p.trees),
        said=np.zeros((2 * p.trees, 3)),
    )


@njit(**HELPER)
def _vote(i: int, node: int, judged: bool, a: ForestArrays) -> None:
    """Cast the vote of tree ``i`` at this leaf node, to be judged or not."""
    prior = a.prior[1] / (a.prior[0] + a.prior[1])
    leaf, trust = a.trees.child[node], a.hyper[TRUST_LATEST]
    odds = leaf_odds(leaf, prior, a.near, a.trees, trust, a.said, i, judged)
    if i < len(a.node):
        a.odds[i] = odds


@njit(**RARE)
def _vote_out_of_turn(i: int, a: ForestArrays) -> int:
    node = find_leaf_node(a.root[i], a.x, a.trees)
    if i < len(a.node):
        a.node[i] = node
    _vote(i, node, True, a)
    return node


@njit(**HELPER)
def _link(a: ForestArrays) -> float:
    """The logit of the trees' mean probability, corrected for the rates of the classes."""
    total = 0.0
    for i in range(len(a.odds)):
        odds = a.odds[i] * a.hyper[CORRECTION]
        total += odds / (1.0 + odds)
    p = total / len(a.odds)
    return math.log(p / (1.0 - p))


@njit(**HELPER)
def _learn_tree(i: int, node: int, label: int, weight: float, a: ForestArrays) -> None:
    leaf = a.trees.child[node]
    learn_leaf(leaf, label, weight, a.at, a.bins, a.trees, a.said, i)
    try_split(node, a.bins, a.trees, a.hyper)


@njit(**RARE)
def _learn_background(i: int, label: int, weight: float, a: ForestArrays) -> None:
    _learn_tree(i, _vote_out_of_turn(i, a), label, weight, a)


@njit(**HELPER)
def _learn(y: float, w: float, a: ForestArrays) -> None:
    """Learn the prepared row, whose votes are cast."""
    t = len(a.node)
    label = 1 if y > 0.5 else 0
    for i in range(t):
        weight = w * poisson(a.trees.rng, label, a.rate)
        error = 0.0 if (a.odds[i] > 1.0) == (label == 1) else min(w, 1.0)
        if watch(i, error, True, a.deltas, a.root, a.events, a.adwin, a.trees):
            _vote_out_of_turn(i, a)
        if weight > 0.0:
            _learn_tree(i, a.node[i], label, weight, a)
            if a.root[t + i] >= 0:
                _learn_background(t + i, label, weight, a)
    a.prior[label] += w
    grow(a.x, a.at, a.bins, a.trees)


@entry(signature(make_arrays(1, ForestParams.model_validate({}), 0)))
def forest_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: ForestArrays
) -> None:
    """Walk the rows in order, see ``compiled.py``. The first call plants the trees."""
    plant(a.root[: len(a.node)], a.trees)
    for i in range(len(dense)):
        place(dense, hashed, i, a.bins.edge, a.x, a.at)
        look_around(a.at, a.bins.used, dense.shape[1], REACH, a.near)
        find_leaf_nodes(a.root, a.x, a.trees, a.node)
        if mode & LEARN:
            for tree in range(len(a.node)):
                ask_for(a.trees.child[a.node[tree]], a.near, a.trees)
        for tree in range(len(a.node)):
            _vote(tree, a.node[tree], mode & LEARN != 0, a)
        if mode & SCORE:
            out[i] = _link(a)
        if mode & LEARN:
            _learn(y[i], w[i], a)


class ForestModel(BaggedModel):
    """Adaptive random forest; scores are logits of the trees' mean probability.

    Parameters
    ----------
    params : ForestParams
    schema : FeatureSchema
    seed : int
        Of the bagging weights and the subspaces.
    """

    Params = ForestParams
    _kernel = forest_kernel
    _roles: ClassVar[dict[str, Role]] = {**BaggedModel._roles, "prior": "statistic"}

    def __init__(
        self, params: ForestParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        columns = len(schema.dense) + len(schema.hashed)
        super().__init__(schema, make_arrays(columns, params, seed))
