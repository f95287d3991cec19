"""A model that fails when it is told to."""

from __future__ import annotations

import numpy as np

from models.base import F64, FeatureBatch
from models.members.constant import ConstantModel


class Failing(ConstantModel):
    """A member that fails at one of its methods."""

    def __init__(self, fails: str) -> None:
        super().__init__(ConstantModel.Params(probability=0.5), None, 0)  # type: ignore[arg-type]
        self.fails = fails

    def score(self, x: FeatureBatch) -> F64:
        return super().score(x) * (np.nan if self.fails == "score" else 1.0)

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        if self.fails == "learn":
            raise ValueError("not today")
