"""Networks that learn one of several classes, or a number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import F64, FeatureSchema, Parameter, State
from models.members.torch.model import TorchModel, TorchParams
from models.task import BINARY, MeanPrior, Task


class TorchClassModel(TorchModel):
    """One network of ``k`` logits: each step minimises the mean of ``w * cross_entropy``."""

    def _loss(self, outputs: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(outputs, truth.to(torch.int64), reduction="none")
        return (weight * losses).mean()


class TorchNumberModel(TorchModel):
    """One network of a number: each step minimises the mean of ``w * (z - t)^2``.

    ``t`` is the truth less the mean of those so far, over their deviation, and so is what the
    network gives: one learning rate does for minutes and for millions.
    """

    def __init__(
        self, params: TorchParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        self._truths = MeanPrior()
        super().__init__(params, schema, seed, task)

    def _observe(self, y: F64, w: F64) -> None:
        self._truths.learn(y, w)

    def _links(self, outputs: F64) -> F64:
        return self._truths.output() + self._truths.scale * outputs

    def _loss(self, outputs: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        return (weight * (outputs - truth).square()).mean()

    def _wanted(self, y: F64) -> F64:
        return (y - self._truths.output()) / self._truths.scale

    def parameters(self) -> list[Parameter]:
        """Those of the network, and what is known of the truths."""
        known = self._truths.state()
        return [
            *super().parameters(),
            *(
                Parameter(f"truths.{name}", "statistic", a.shape, "float64", a.size, a.nbytes)
                for name, a in known.items()
            ),
        ]

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return super().state() | {"truths": self._truths.state()}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        super().restore(state)
        self._truths.restore(state["truths"])
