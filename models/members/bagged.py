"""What the forests share: their parameters and the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from models.base import FeatureSchema, Model, Role
from models.kernels.adwin import ROLES as ADWIN_ROLES
from models.kernels.binning import ROLES
from models.kernels.forests import DRIFTS
from models.kernels.trees import ROLES as TREE_ROLES
from models.members.arenas import Arenas
from models.members.compiled import TreeModel
from models.settings import Settings
from models.task import Task

SEED_BITS = 31
"""Seeds of members are below 2 to this; what stands above tells arenas of one member apart."""


class BagSettings(Settings):
    """Parameters of every forest."""

    trees: int = Field(10, ge=1, le=1000, description="trees that vote")
    subspace: float = Field(0.6, gt=0, le=1, description="share of the columns a leaf looks at")
    grace: float = Field(50.0, gt=0, description="weight a leaf learns between looks for a split")
    warning: float = Field(0.01, gt=0, lt=1, description="ADWIN's delta for a background tree")
    drift: float = Field(0.001, gt=0, lt=1, description="ADWIN's delta for replacing a tree")
    bins: int = Field(64, ge=4, le=256, description="most bins of one column")
    max_leaves: int = Field(4096, ge=64, le=1 << 20, description="leaves of all trees together")
    arenas: int = Field(
        1,
        ge=1,
        le=64,
        description="groups of trees that score and learn in threads of their own: another forest "
        "for each number of them, the same one on every machine",
    )

    @model_validator(mode="after")
    def _a_tree_each(self) -> Self:
        if self.arenas > self.trees:
            raise ValueError(f"arenas: expected at most trees = {self.trees}, got {self.arenas}")
        return self


class HoeffdingSettings(BagSettings):
    """Parameters of a forest that votes among classes."""

    delta: float = Field(0.01, gt=0, lt=1, description="Hoeffding's chance of a wrong split")
    tie: float = Field(0.05, ge=0, le=1, description="bound below which near-equal columns split")


class BaggedModel(TreeModel):
    """Trees that vote, each on rows of its own weights and under watch."""

    unlocked_us = 7.0
    _roles: ClassVar[dict[str, Role]] = {
        "root": "control",
        **{f"trees.{name}": role for name, role in TREE_ROLES.items()},
        "events": "statistic",
        **{f"adwin.{name}": role for name, role in ADWIN_ROLES.items()},
        **{f"bins.{name}": role for name, role in ROLES.items()},
    }
    _learning: ClassVar[tuple[str, ...]] = (
        *(f"adwin.{name}" for name in ADWIN_ROLES),
        "bins.known",
    )

    @classmethod
    def in_arenas(cls, params: Any, schema: FeatureSchema, seed: int, task: Task) -> Model:
        """The forest in as many arenas as its parameters say, each with a seed of its own.

        Trees and leaves are dealt out as evenly as whole ones can be.
        """
        make: Callable[..., Model] = cls
        n = params.arenas
        if n == 1:
            return make(params, schema, seed, task)
        parts, trees = [], []
        for i in range(n):
            trees.append((params.trees + n - 1 - i) // n)
            own = {"trees": trees[i], "max_leaves": -(-params.max_leaves // n), "arenas": 1}
            share = params.model_copy(update=own)
            parts.append(make(share, schema, seed | i << SEED_BITS, task))
            parts[i].unlocked_us = cls.unlocked_us * trees[i] / params.trees
        return Arenas(parts, trees, task)

    def replaced(self) -> int:
        """See :meth:`models.base.Model.replaced`: trees put in another's place."""
        return int(self._arrays.events[DRIFTS])
