"""What the forests share: their parameters and the state."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from models.base import Role
from models.kernels.adwin import ROLES as ADWIN_ROLES
from models.kernels.binning import ROLES
from models.kernels.forests import DRIFTS
from models.kernels.trees import ROLES as TREE_ROLES
from models.members.compiled import TreeModel
from models.settings import Settings


class BagSettings(Settings):
    """Parameters of every forest."""

    trees: int = Field(10, ge=1, le=1000, description="trees that vote")
    subspace: float = Field(0.6, gt=0, le=1, description="share of the columns a leaf looks at")
    grace: float = Field(50.0, gt=0, description="weight a leaf learns between looks for a split")
    warning: float = Field(0.01, gt=0, lt=1, description="ADWIN's delta for a background tree")
    drift: float = Field(0.001, gt=0, lt=1, description="ADWIN's delta for replacing a tree")
    bins: int = Field(64, ge=4, le=256, description="most bins of one column")
    max_leaves: int = Field(4096, ge=64, le=1 << 20, description="leaves of all trees together")


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

    def replaced(self) -> int:
        """See :meth:`models.base.Model.replaced`: trees put in another's place."""
        return int(self._arrays.events[DRIFTS])
