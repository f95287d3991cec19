"""Adaptive random forest for a number: trees whose leaves hold lines, each under watch.

The forest is that of Gomes et al. (2018, "Adaptive random forests for data stream regression"):
online bagging by Poisson weights, a random subspace of columns at every leaf, and per tree a
warning and a drift detector (``models/kernels/forests.py``) on its error. The leaves are those of
``models/kernels/leaves/numbers.py``. The forest says the mean of its trees, each the less the
larger its error was of late. Splits see a hashed column as the number of its code, lines as what
the code comes to. Randomness comes from one seeded counter that is part of the state.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from models.base import F32, F64, I64, U32, FeatureSchema, Role
from models.kernels.adwin import Adwins, make_adwins
from models.kernels.binning import Bins, make_bins, place
from models.kernels.common import HELPER, LEARN, RARE, SCORE, poisson, poisson_table
from models.kernels.entry import entry
from models.kernels.forests import watch
from models.kernels.leaves.codes import ROLES as CODE_ROLES
from models.kernels.leaves.codes import Codes, learn_codes, make_codes, translate
from models.kernels.leaves.lines import ROLES as LINE_ROLES
from models.kernels.leaves.lines import Lines, make_lines, observe, standardise
from models.kernels.leaves.numbers import SAID, leaf_say, learn_leaf, try_split
from models.kernels.losses import FIRST, MEAN, SEEN, SQUARED, clipped, observe_truth, unit
from models.kernels.trees import (
    LEAVES,
    Trees,
    find_leaf_node,
    find_leaf_nodes,
    grow,
    make_trees,
    plant,
)
from models.members.bagged import BaggedModel, BagSettings
from models.members.compiled import signature
from models.task import Task

LONGEST = 100.0
"""Rows over which a tree's error is averaged."""


class ForestParams(BagSettings):
    """Parameters of ``type = "forest"`` for numbers."""

    grace: float = Field(25.0, gt=0, description="weight a leaf learns between looks for a split")
    delta: float = Field(0.1, gt=0, lt=1, description="chance of a split that means nothing")
    rate: float = Field(6.0, gt=0, le=20, description="mean draws of a row for a tree")
    ridge: float = Field(0.5, gt=0, description="rows that hold each weight of a fresh line at 0")
    max_leaves: int = Field(
        1024,
        ge=64,
        le=1 << 20,
        description="leaves of all trees together; each holds columns squared numbers",
    )


class ForestArrays(NamedTuple):
    """State, settings and scratch; ``t`` trees, then their ``t`` background trees."""

    root: I64  # (2t,): see forests.py
    events: I64  # (2,): warnings, drifts
    target: F64  # (FIRST,): see SEEN and the rest in losses.py
    usual: F64  # (t,): mean error of late of each tree
    adwin: Adwins  # 2t detectors
    trees: Trees
    lines: Lines
    codes: Codes
    bins: Bins
    hyper: F64  # (2,): see GRACE and the rest in leaves/numbers.py
    deltas: F64  # (2,)
    rate: F64  # (1, n): cumulative Poisson probabilities
    mean_rate: F64  # (1,)
    x: F64  # (columns,): scratch
    at: I64  # (columns,): scratch, positions among the bins
    v: F64  # (columns,): scratch, a row as lines see it
    node: I64  # (t,): scratch
    said: F64  # (2t, 4): scratch, see leaf_say


def make_arrays(d: int, buckets: list[int], p: ForestParams, seed: int) -> ForestArrays:
    """A fresh bundle, before any tree is planted."""
    columns = d + len(buckets)
    leaves = max(p.max_leaves, 4 * p.trees)
    return ForestArrays(
        root=np.full(2 * p.trees, -1),
        events=np.zeros(2, np.int64),
        target=np.zeros(FIRST),
        usual=np.zeros(p.trees),
        adwin=make_adwins(2 * p.trees),
        trees=make_trees(columns, p.subspace, p.bins, leaves, seed, 3),
        lines=make_lines(leaves, columns, p.ridge),
        codes=make_codes(buckets),
        bins=make_bins(columns, p.bins),
        hyper=np.array([p.grace, -math.log(p.delta)]),
        deltas=np.array([p.warning, p.drift]),
        rate=poisson_table(p.rate)[None, :],
        mean_rate=np.array([p.rate]),
        x=np.zeros(columns),
        at=np.zeros(columns, np.int64),
        v=np.zeros(columns),
        node=np.zeros(p.trees, np.int64),
        said=np.zeros((2 * p.trees, SAID + 1)),
    )


@njit(**HELPER)
def _vote(i: int, node: int, a: ForestArrays) -> None:
    """Let tree ``i`` say its number at this leaf node."""
    leaf_say(a.trees.child[node], a.target[MEAN], a.trees, a.lines, a.said[i])


@njit(**RARE)
def _vote_out_of_turn(i: int, a: ForestArrays) -> int:
    node = find_leaf_node(a.root[i], a.x, a.trees)
    if i < len(a.node):
        a.node[i] = node
    _vote(i, node, a)
    return node


@njit(**HELPER)
def _votes(a: ForestArrays) -> None:
    standardise(a.v, a.lines)
    find_leaf_nodes(a.root, a.x, a.trees, a.node)
    for i in range(len(a.node)):
        _vote(i, a.node[i], a)


@njit(**HELPER)
def _link(a: ForestArrays) -> float:
    """The mean of the trees, each by the inverse of its error's fourth power."""
    least = a.usual[0]
    for i in range(1, len(a.usual)):
        least = min(least, a.usual[i])
    total, weights = 0.0, 0.0
    for i in range(len(a.usual)):
        share = least / a.usual[i] if a.usual[i] > 0.0 else 1.0
        weight = share * share * share * share
        total += weight * a.said[i, SAID]
        weights += weight
    return total / weights


@njit(**HELPER)
def _learn_tree(i: int, node: int, y: float, w: float, size: float, a: ForestArrays) -> None:
    leaf, mean = a.trees.child[node], a.target[MEAN]
    learn_leaf(leaf, y, w, mean, size, a.at, a.trees, a.lines, a.said[i])
    try_split(node, size, a.bins, a.trees, a.lines, a.hyper)


@njit(**RARE)
def _learn_background(i: int, y: float, w: float, size: float, a: ForestArrays) -> None:
    _learn_tree(i, _vote_out_of_turn(i, a), y, w, size, a)


@njit(**HELPER)
def _learn(y: float, w: float, a: ForestArrays) -> None:
    """Learn the prepared row of some weight, of which the trees have said their numbers."""
    observe_truth(y, a.target)
    size = unit(SQUARED, a.target)
    size = size if size > 0.0 else 1.0
    t = len(a.node)
    for i in range(t):
        weight = w * poisson(a.trees.rng, 0, a.rate) / a.mean_rate[0]
        error = abs(y - a.said[i, SAID])
        a.usual[i] += (error - a.usual[i]) / min(a.target[SEEN], LONGEST)
        beside = error / (error + size) * min(w, 1.0)
        if watch(i, beside, False, a.deltas, a.root, a.events, a.adwin, a.trees):
            _vote_out_of_turn(i, a)
        if weight > 0.0:
            _learn_tree(i, a.node[i], y, weight, size, a)
            if a.root[t + i] >= 0:
                _learn_background(t + i, y, weight, size, a)


@entry(signature(make_arrays(1, [2], ForestParams.model_validate({}), 0)))
def forest_number_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: ForestArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`. The first call plants trees."""
    plant(a.root[: len(a.node)], a.trees)
    for i in range(len(dense)):
        place(dense, hashed, i, a.bins.edge, a.x, a.at)
        translate(dense, hashed, i, a.v, a.codes)
        if mode & SCORE:
            _votes(a)
            out[i] = _link(a)
        if mode & LEARN:
            if observe(a.v, a.trees.counter[LEAVES], a.lines) or mode & SCORE == 0:
                _votes(a)
            if w[i] > 0.0:
                truth = clipped(y[i])
                _learn(truth, w[i], a)
                learn_codes(hashed, i, truth - a.target[MEAN], w[i], a.codes)
            grow(a.x, a.at, a.bins, a.trees)


class ForestModel(BaggedModel):
    """Adaptive random forest; scores are in the target's unit.

    Parameters
    ----------
    params : ForestParams
    schema : FeatureSchema
    seed : int
        Of the bagging weights and the subspaces.
    task : Number
    """

    Params = ForestParams
    _kernel = forest_number_kernel
    _roles: ClassVar[dict[str, Role]] = {
        **BaggedModel._roles,
        "target": "statistic",
        "usual": "statistic",
        **{f"lines.{name}": role for name, role in LINE_ROLES.items()},
        **{f"codes.{name}": role for name, role in CODE_ROLES.items()},
    }
    _by_leaf = ("lines.weight", "lines.inverse")

    def __init__(self, params: ForestParams, schema: FeatureSchema, seed: int, task: Task) -> None:
        buckets = [c.buckets for c in schema.hashed]
        super().__init__(schema, make_arrays(len(schema.dense), buckets, params, seed), task)
