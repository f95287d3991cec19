"""A forest in arenas: groups of its trees that score and learn side by side.

Trees of one arena share memory and randomness, so they learn in turn. Each arena is a forest of its
own over all rows, with its own bins; what they say together is the mean of their outputs, each
counted by its trees. The number of arenas is part of the model: in how many threads they run is
not, and moves no bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import F64, FeatureBatch, Model, Parameter, State, StateError
from models.task import Task


class Arenas(Model):
    """Models of one kind that say together what their outputs are on average.

    Parameters
    ----------
    parts : sequence of Model
    trees : sequence of int
        How much each counts.
    task : Task
    """

    apart = True

    def __init__(self, parts: Sequence[Model], trees: Sequence[int], task: Task) -> None:
        self._parts = tuple(parts)
        self._share = np.array(trees) / sum(trees)
        self._task = task
        self.unlocked_us = sum(part.unlocked_us for part in parts)

    def parts(self) -> Sequence[Model]:
        """See :meth:`models.base.Model.parts`: the arenas."""
        return self._parts

    def joined(self, links: Sequence[F64]) -> F64:
        """See :meth:`models.base.Model.joined`: the link of the mean output."""
        output = sum(
            (share * self._task.output(one) for share, one in zip(self._share, links, strict=True)),
            np.zeros_like(links[0]),
        )
        return self._task.link(output)

    def score(self, x: FeatureBatch) -> F64:
        """See :meth:`models.base.Model.score`."""
        return self.joined([part.score(x) for part in self._parts])

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """See :meth:`models.base.Model.learn`."""
        for part in self._parts:
            part.learn(x, y, w)

    def parameters(self) -> Sequence[Parameter]:
        """See :meth:`models.base.Learner.parameters`: those of each arena behind its number."""
        return [
            replace(row, path=f"{i}.{row.path}")
            for i, part in enumerate(self._parts)
            for row in part.parameters()
        ]

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """See :meth:`models.base.Learner.tensors`."""
        return {
            f"{i}.{path}": array
            for i, part in enumerate(self._parts)
            for path, array in part.tensors().items()
        }

    def replaced(self) -> int:
        """See :meth:`models.base.Learner.replaced`."""
        return sum(part.replaced() for part in self._parts)

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`."""
        return {"arenas": [part.state() for part in self._parts]}

    def _digested(self) -> State:
        return {"arenas": [part._digested() for part in self._parts]}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`."""
        for part, own in zip(self._parts, self._told(state), strict=True):
            part.restore(own)

    def view(self) -> State:
        """See :meth:`models.base.Learner.view`."""
        return {"arenas": [part.view() for part in self._parts]}

    def restore_view(self, view: State) -> None:
        """See :meth:`models.base.Learner.restore_view`."""
        for part, own in zip(self._parts, self._told(view), strict=True):
            part.restore_view(own)

    def _told(self, state: State) -> Sequence[State]:
        """The states of the arenas; raises :class:`StateError` where they are not as many."""
        told = state.get("arenas", [state])
        if len(told) != len(self._parts):
            raise StateError(
                f"arenas: expected a state of {len(self._parts)}, got one of {len(told)}; another "
                "number of arenas is another forest"
            )
        return told
