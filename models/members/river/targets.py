"""River's classifiers of several classes, and its regressors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from models.base import F64, FeatureSchema
from models.members.river.model import MIN_P, VOTE_LINK, RiverError, RiverModel
from models.members.river.spec import RiverNumberParams, RiverParams
from models.task import BINARY, Task


class RiverClassModel(RiverModel):
    """One River classifier of several classes.

    River gets the class's name as truth; a score is the logarithm of the probabilities, each at
    least 1e-6. An estimator that gives none (nothing learned yet) scores 0 for every class; one
    that has only ``predict_one`` scores the class it names as sure as 0.9 against any other.
    """

    def __init__(
        self, params: RiverParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        self._names = [str(task.named(i)) for i in range(task.k)]
        super().__init__(params, schema, seed, task)

    def _slots(self) -> int:
        return len(self._names)

    def _told(self, y: float) -> tuple[str, int]:
        return self._names[int(y)], int(y)

    def _link(self, row: dict[str, Any]) -> F64:
        proba = self._estimator.predict_proba_one(row)
        p = np.array([float(proba.get(name, 0.0)) for name in self._names])
        if np.isnan(p).any():
            raise RiverError(
                f"{self._params.model} predicted nan; its inputs may need a scaler before it"
            )
        return np.log(np.maximum(p, MIN_P)) if p.any() else p

    def _vote(self, row: dict[str, Any]) -> F64:
        label = self._estimator.predict_one(row)
        return np.array([VOTE_LINK * (name == label) for name in self._names])


class RiverNumberModel(RiverModel):
    """One River regressor: a score is what ``predict_one`` gives, 0 where that is nothing."""

    Params = RiverNumberParams

    def _slots(self) -> int:
        return 1

    def _told(self, y: float) -> tuple[float, int]:
        return y, 0

    def _link(self, row: dict[str, Any]) -> float:
        return self._vote(row)

    def _vote(self, row: dict[str, Any]) -> float:
        said = self._estimator.predict_one(row)
        number = 0.0 if said is None else float(said)
        if not math.isfinite(number):
            raise RiverError(
                f"{self._params.model} predicted {number}; its inputs may need a scaler before it"
            )
        return number
