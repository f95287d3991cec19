"""Online gradient boosted trees for a number: squared or quantile loss.

As the boosting of a yes or no: every row walks all trees, each learning what those before it left.
They learn how many running deviations a truth is from the running mean. What a tree learns is
measured by the size of the errors before it, so that its test for a split is one of log likelihood,
as that of probabilities is:

- squared loss: a normal error of the running mean square; gradient ``e / v``, curvature ``1 / v``;
- quantile loss (Koenker and Bassett 1978): in units ``s`` of the running mean error the gradient is
  ``1 - q`` above the truth and ``-q`` below, over ``s``; its variance ``q (1 - q) / s ** 2`` is the
  curvature, as the loss itself has none.

An ADWIN on ``e / (1 + e)`` replaces a tree when the error before it rises by a tenth.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from numba import njit
from pydantic import Field

from models.base import F32, F64, U32, FeatureSchema, Role
from models.kernels.adwin import adwin_update
from models.kernels.binning import place
from models.kernels.common import HELPER, LEARN, RARE, SCORE
from models.kernels.entry import entry
from models.kernels.gradients import LEAST_RISE, leaf_value, learn_leaf, try_split
from models.kernels.losses import MEAN, QUANTILE, SEEN, SQUARED, clipped, observe_truth, slope, unit
from models.kernels.trees import find_leaf_node, free_tree, grow, new_tree, plant
from models.members.boosted import BoostedModel, BoostingArrays, BoostSettings, make_arrays
from models.members.compiled import signature
from models.task import Task

LONGEST = 1000.0
"""Rows over which the size of errors is averaged."""

LEAST_SIZE = 1e-3
"""Errors are never taken for smaller, in deviations: of a target without noise a single row would
outweigh all before it."""

LOSS, SHARE = 2, 3
"""Settings in ``rate`` beside the learning rate and ADWIN's delta: the loss and its quantile."""


class BoostingNumberParams(BoostSettings):
    """Parameters of ``type = "boosting"`` for numbers."""

    loss: Literal["squared", "quantile"] = Field(
        "squared",
        description="`squared` says the mean; `quantile` the number below which `quantile` of the "
        "truths are",
    )
    quantile: float = Field(0.5, gt=0, lt=1, description="of `quantile` loss; 0.5: the median")


def _make_arrays(columns: int, p: BoostingNumberParams, seed: int) -> BoostingArrays:
    arrays = make_arrays(columns, 1, p, seed)
    loss = SQUARED if p.loss == "squared" else QUANTILE
    return arrays._replace(rate=np.array([*arrays.rate, loss, p.quantile]))


@njit(**HELPER)
def _step(s: int, a: BoostingArrays) -> int:
    """Add a tree's step to the link; returns the leaf node."""
    node = find_leaf_node(a.root[s], a.x, a.trees)
    a.link[0] += a.rate[0] * leaf_value(a.trees.child[node], a.trees, a.hyper)
    return node


@njit(**RARE)
def _replace(s: int, a: BoostingArrays) -> None:
    a.drifts[0] += 1
    free_tree(a.root[s], a.trees)
    a.root[s] = new_tree(a.trees)


@njit(**HELPER)
def _observe_size(s: int, error: float, a: BoostingArrays) -> float:
    """Average the size of errors before tree ``s``; returns it."""
    share = 1.0 / min(a.target[SEEN], LONGEST)
    if a.rate[LOSS] == SQUARED:
        square = a.size[s] * a.size[s]
        a.size[s] = math.sqrt(square + (error * error - square) * share)
    else:
        a.size[s] += (abs(error) - a.size[s]) * share
    return max(a.size[s], LEAST_SIZE)


@njit(**HELPER)
def _learn(y: float, w: float, a: BoostingArrays) -> None:
    """Let every tree learn the prepared row of some weight at the sum of those before it."""
    observe_truth(y, a.target)
    deviation = unit(SQUARED, a.target)
    if deviation == 0.0:
        return
    truth = (y - a.target[MEAN]) / deviation
    q = a.rate[SHARE]
    flat = 1.0 if a.rate[LOSS] == SQUARED else q * (1.0 - q)
    a.link[0] = 0.0
    for s in range(len(a.root)):
        error = a.link[0] - truth
        if adwin_update(s, abs(error) / (1.0 + abs(error)), a.rate[1], LEAST_RISE, a.adwin) > 0:
            _replace(s, a)
        size = _observe_size(s, error, a)
        node = _step(s, a)
        leaf = a.trees.child[node]
        gradient = slope(a.rate[LOSS], q, error / size) / size * w
        curvature = flat / (size * size) * w
        learn_leaf(leaf, gradient, curvature, a.at, a.bins, a.trees, a.hyper)
        try_split(node, a.bins, a.trees, a.hyper)


@entry(signature(_make_arrays(1, BoostingNumberParams.model_validate({}), 0)))
def boosting_number_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: BoostingArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`. The first call plants trees."""
    plant(a.root, a.trees)
    for i in range(len(dense)):
        place(dense, hashed, i, a.bins.edge, a.x, a.at)
        if mode & SCORE:
            a.link[0] = 0.0
            for s in range(len(a.root)):
                _step(s, a)
            out[i] = a.target[MEAN] + unit(SQUARED, a.target) * a.link[0]
        if mode & LEARN:
            if w[i] > 0.0:
                _learn(clipped(y[i]), w[i], a)
            grow(a.x, a.at, a.bins, a.trees)


class BoostingNumberModel(BoostedModel):
    """Online gradient boosted trees; scores are in the target's unit.

    Parameters
    ----------
    params : BoostingNumberParams
    schema : FeatureSchema
    seed : int
        Of the subspaces.
    task : Number
    """

    Params = BoostingNumberParams
    _kernel = boosting_number_kernel
    _roles: ClassVar[dict[str, Role]] = {
        **BoostedModel._roles,
        "target": "statistic",
        "size": "statistic",
    }

    def __init__(
        self, params: BoostingNumberParams, schema: FeatureSchema, seed: int, task: Task
    ) -> None:
        columns = len(schema.dense) + len(schema.hashed)
        super().__init__(schema, _make_arrays(columns, params, seed), task)
