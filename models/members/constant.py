"""The member that always says the same: what the service costs without any model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from models.base import F64, FeatureBatch, FeatureSchema, Model, Parameter, State
from models.carry import fill
from models.members.weights import by_class
from models.settings import Settings
from models.task import BINARY, Task


class _Constant(Model):
    """Gives the same link for every event and learns nothing."""

    apart = True

    def __init__(self, link: Callable[[], F64]) -> None:
        self._link = link

    def score(self, x: FeatureBatch) -> F64:
        """See :meth:`models.base.Model.score`."""
        return np.tile(self._link(), (len(x), 1))

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """Learns nothing."""

    def parameters(self) -> Sequence[Parameter]:
        """The link: hyper-parameters."""
        k = len(self._link())
        return [Parameter("link", "hyper", (k,), "float64", k, 8 * k, trainable=False)]

    def state(self) -> State:
        """The link, so that a checkpoint of another constant is refused by its digest."""
        return {"link": self._link()}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        fill({"link": self._link()}, state, type(self).__name__)


class ConstantParams(Settings):
    """Parameters of ``type = "constant"``."""

    probability: float = Field(0.5, gt=0, lt=1, description="the probability it always gives")


class ConstantModel(_Constant):
    """Gives ``log(p / (1 - p))`` for every event and learns nothing."""

    Params = ConstantParams

    def __init__(
        self, params: ConstantParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        link = math.log(params.probability / (1 - params.probability))
        super().__init__(lambda: np.array([link]))


class ConstantClassesParams(Settings):
    """Parameters of ``type = "constant"`` for classes."""

    shares: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(
        {},
        description="how many rows it expects of each class, by the label's value, for one of "
        "each of the others",
    )


class ConstantClassesModel(_Constant):
    """Gives the same probability of each class for every event and learns nothing."""

    Params = ConstantClassesParams

    def __init__(
        self, params: ConstantClassesParams, schema: FeatureSchema, seed: int, task: Task
    ) -> None:
        def link() -> F64:
            shares = by_class("shares", params.shares, task)  # a class's once it has entered
            return np.log(shares / shares.sum())

        link()  # whether all names are of classes
        super().__init__(link)


class ConstantNumberParams(Settings):
    """Parameters of ``type = "constant"`` for numbers."""

    value: float = Field(0.0, allow_inf_nan=False, description="the number it always gives")


class ConstantNumberModel(_Constant):
    """Gives the same number for every event and learns nothing."""

    Params = ConstantNumberParams

    def __init__(
        self, params: ConstantNumberParams, schema: FeatureSchema, seed: int, task: Task
    ) -> None:
        super().__init__(lambda: np.array([params.value]))
