"""The member whose model is trained elsewhere and installed: a sum of trees that learns nothing.

``fit.py`` trains one, ``text.py`` reads the library's own text of it; scoring needs neither. Until
a model is installed it says how often rows were positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.base import F64, FeatureBatch, FeatureSchema, Model, Parameter, State, StateError
from models.members.compiled import table
from models.members.refit.trees import NOTHING, ROLES, VERSION, Trees, links, sound, state_of
from models.settings import Duration, Settings, parse_duration
from models.task import BINARY, Task


class RefitParams(Settings):
    """Parameters of ``type = "refit"``."""

    every: Duration = Field(
        parse_duration("7d"), gt=0, description="event time between two trainings"
    )
    trees: int = Field(400, ge=1, le=2000, description="trees in the sum at most; a hold-out says")
    leaves: int = Field(31, ge=2, le=256, description="leaves of a tree at most")
    learning_rate: float = Field(0.05, gt=0, le=1, description="share of its step each tree takes")
    least: int = Field(100, ge=1, description="rows in a leaf at least, as sampled")
    columns: float = Field(1.0, gt=0, le=1, description="share of the columns a tree looks at")
    ridge: float = Field(1.0, ge=0, description="added to every curvature")
    negatives: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the negatives that is taken, with so much more weight",
    )
    positives: int = Field(500, ge=1, description="positives that a training needs at least")


class RefitModel(Model):
    """A sum of trees; scores are logits.

    Parameters
    ----------
    params : RefitParams
    schema : FeatureSchema
    seed : int
        Of trainings.

    Attributes
    ----------
    params, schema, seed
        What a training goes by.
    trees : Trees
        None until a model is installed.
    """

    Params = RefitParams
    apart = True
    trained = True

    def __init__(
        self, params: RefitParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        self.params, self.schema, self.seed = params, schema, seed
        self.trees = NOTHING
        self._seen = np.zeros(2)  # weight of negatives and of positives while there are no trees

    def score(self, x: FeatureBatch) -> F64:
        """See :meth:`models.base.Model.score`."""
        if not len(self.trees.root):
            negative, positive = self._seen.tolist()
            return np.full((len(x), 1), np.log((positive + 0.5) / (negative + 0.5)))
        return links(self.trees, x)[:, None]

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """Nothing, once there are trees."""
        if not len(self.trees.root):
            for group in (0, 1):
                total = np.append(self._seen[group], w[y == group])
                self._seen[group] = np.add.accumulate(total)[-1]

    def parameters(self) -> Sequence[Parameter]:
        """The trees' arrays."""
        return list(table(ROLES, self.trees._asdict()))

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """None that learning moves."""
        return {}

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return state_of(self.trees, self._seen)

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`: what a walk could not end in is refused."""
        if state.get("version") != VERSION:
            got = state.get("version")
            raise StateError(f"RefitModel: expected state version {VERSION}, got {got!r}")
        found: dict[str, Any] = {name: state.get(name) for name in ("seen", *Trees._fields)}
        for name, array in found.items():
            have = self._seen if name == "seen" else getattr(NOTHING, name)
            if not isinstance(array, np.ndarray) or (array.dtype, array.ndim) != (have.dtype, 1):
                raise StateError(
                    f"RefitModel.{name}: expected a row of {have.dtype}, got {array!r:.60}"
                )
        seen = found.pop("seen")
        trees = Trees(**{name: np.ascontiguousarray(array) for name, array in found.items()})
        if seen.shape != (2,):
            raise StateError(f"RefitModel.seen: expected 2 numbers, got {seen.shape}")
        for name, ok in sound(trees, self.schema).items():
            if not ok():
                raise StateError(
                    f"RefitModel.{name}: expected trees over {len(self.schema.dense)} dense and "
                    f"{len(self.schema.hashed)} hashed columns, got something else; the state is "
                    "of a member with other columns, or damaged"
                )
        self.trees, self._seen = trees, seen.copy()
