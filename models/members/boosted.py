"""What the boosting members share: their parameters, the bundle of arrays, the state."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from models.base import F64, I64, Role
from models.kernels.adwin import ROLES as ADWIN_ROLES
from models.kernels.adwin import Adwins, make_adwins
from models.kernels.binning import ROLES, Bins, make_bins
from models.kernels.losses import FIRST
from models.kernels.trees import ROLES as TREE_ROLES
from models.kernels.trees import Trees, make_trees
from models.members.compiled import TreeModel
from models.settings import Settings


class BoostSettings(Settings):
    """Parameters of every boosting member."""

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
    """State, settings and scratch; ``t`` rounds of ``c`` trees, one for each link."""

    root: I64  # (t c,): the trees of a round side by side
    drifts: I64  # (1,): rounds replaced
    adwin: Adwins  # t detectors
    trees: Trees
    bins: Bins
    hyper: F64  # (4,): see GRACE and the rest in gradients.py
    rate: F64  # (2,): learning rate, ADWIN's delta
    target: F64  # (3,): rows, mean and squared distances of a number; see losses.py
    size: F64  # (t,): of a number's usual error before each round, in deviations
    link: F64  # (c,): scratch
    p: F64  # (c,): scratch
    x: F64  # (columns,): scratch
    at: I64  # (columns,): scratch, positions among the bins


def make_arrays(columns: int, links: int, p: BoostSettings, seed: int) -> BoostingArrays:
    """A fresh bundle, before any tree is planted."""
    trees = make_trees(columns, p.subspace, p.bins, max(p.max_leaves, 2 * links * p.trees), seed)
    return BoostingArrays(
        root=np.full(links * p.trees, -1),
        drifts=np.zeros(1, np.int64),
        adwin=make_adwins(p.trees),
        trees=trees,
        bins=make_bins(columns, p.bins),
        hyper=np.array([p.grace, -math.log(p.delta), p.ridge, 1.0 - 1.0 / p.memory]),
        rate=np.array([p.learning_rate, p.drift]),
        target=np.zeros(FIRST),
        size=np.ones(p.trees),
        link=np.zeros(links),
        p=np.zeros(links),
        x=np.zeros(columns),
        at=np.zeros(columns, np.int64),
    )


class BoostedModel(TreeModel):
    """A sum of trees, each learning what those before it left."""

    unlocked_us = 5.0
    _roles: ClassVar[dict[str, Role]] = {
        "root": "control",
        **{f"trees.{name}": role for name, role in TREE_ROLES.items()},
        "drifts": "statistic",
        **{f"adwin.{name}": role for name, role in ADWIN_ROLES.items()},
        **{f"bins.{name}": role for name, role in ROLES.items()},
    }
    _learning: ClassVar[tuple[str, ...]] = (
        "trees.histogram",
        *(f"adwin.{name}" for name in ADWIN_ROLES),
        "bins.known",
    )

    def replaced(self) -> int:
        """See :meth:`models.base.Model.replaced`: trees put in another's place."""
        return int(self._arrays.drifts[0])
