"""The member that always gives the same score: what the service costs without any model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from models.base import F64, FeatureBatch, FeatureSchema, Model, Parameter, State
from models.settings import Settings
from models.task import BINARY, Task


class ConstantParams(Settings):
    """Parameters of ``type = "constant"``."""

    probability: float = Field(0.5, gt=0, lt=1, description="the probability it always gives")


class ConstantModel(Model):
    """Gives ``log(p / (1 - p))`` for every event and learns nothing."""

    Params = ConstantParams

    def __init__(
        self, params: ConstantParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        self._logit = math.log(params.probability / (1 - params.probability))

    def score(self, x: FeatureBatch) -> F64:
        """See :meth:`models.base.Model.score`."""
        return np.full((len(x), 1), self._logit)

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """Learns nothing."""

    def parameters(self) -> Sequence[Parameter]:
        """One hyper-parameter: the logit."""
        return [Parameter("logit", "hyper", (), "float64", 1, 8, trainable=False)]

    def state(self) -> State:
        """The logit, so that a checkpoint of another constant is refused by its digest."""
        return {"logit": self._logit}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        self._logit = float(state["logit"])
