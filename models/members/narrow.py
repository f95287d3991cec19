"""A member that sees some of the columns: whatever is added beside them, it goes on as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import F64, FeatureBatch, FeatureSchema, Model, Parameter, State


class Narrow(Model):
    """``model`` over the columns of its own schema, taken out of those of a wider one.

    Its state, parameters and digest are the model's.

    Parameters
    ----------
    model : Model
    own, whole : FeatureSchema
        Every column of ``own`` is one of ``whole``.
    """

    def __init__(self, model: Model, own: FeatureSchema, whole: FeatureSchema) -> None:
        self._model = model
        self._own, self._whole = own, whole
        self._dense = np.array([whole.dense.index(name) for name in own.dense], np.intp)
        self._hashed = np.array([whole.hashed.index(column) for column in own.hashed], np.intp)

    def _seen(self, x: FeatureBatch) -> FeatureBatch:
        # Not x.dense[:, columns], which numpy lays out by columns: kernels walk rows.
        dense, hashed = x.dense.take(self._dense, axis=1), x.hashed.take(self._hashed, axis=1)
        return FeatureBatch(self._own, dense, hashed)

    @property
    def skipped(self) -> int:  # type: ignore[override]
        """See :class:`Model`."""
        return self._model.skipped

    @property
    def apart(self) -> bool:  # type: ignore[override]
        """See :class:`Model`."""
        return self._model.apart

    @property
    def trained(self) -> bool:  # type: ignore[override]
        """See :class:`Model`."""
        return self._model.trained

    @property
    def unlocked_us(self) -> float:  # type: ignore[override]
        """See :class:`Model`."""
        return self._model.unlocked_us

    def parts(self) -> Sequence[Model]:
        """See :meth:`Model.parts`."""
        parts, own, whole = self._model.parts(), self._own, self._whole
        return (self,) if len(parts) == 1 else [Narrow(part, own, whole) for part in parts]

    def joined(self, links: Sequence[F64]) -> F64:
        """See :meth:`Model.joined`."""
        return self._model.joined(links)

    def score(self, x: FeatureBatch) -> F64:
        """See :meth:`Model.score`."""
        return self._model.score(self._seen(x))

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """See :meth:`Model.learn`."""
        self._model.learn(self._seen(x), y, w)

    def contributions(self, x: FeatureBatch, exact: bool) -> F64 | None:
        """See :meth:`Model.contributions`: 0 of columns that it does not see."""
        return self._wide(x, self._model.contributions(self._seen(x), exact))

    def telling(self, x: FeatureBatch) -> tuple[F64, F64 | None]:
        """See :meth:`Model.telling`."""
        links, told = self._model.telling(self._seen(x))
        return links, self._wide(x, told)

    def _wide(self, x: FeatureBatch, told: F64 | None) -> F64 | None:
        if told is None:
            return None
        d = x.dense.shape[1]
        whole = np.zeros((len(x), d + x.hashed.shape[1]))
        whole[:, np.concatenate([self._dense, d + self._hashed])] = told
        return whole

    def parameters(self) -> Sequence[Parameter]:
        """See :meth:`Model.parameters`."""
        return self._model.parameters()

    def state(self) -> State:
        """See :meth:`Model.state`."""
        return self._model.state()

    def restore(self, state: State) -> None:
        """See :meth:`Model.restore`."""
        self._model.restore(state)

    def view(self) -> State:
        """See :meth:`Model.view`."""
        return self._model.view()

    def restore_view(self, view: State) -> None:
        """See :meth:`Model.restore_view`."""
        self._model.restore_view(view)

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """See :meth:`Model.tensors`."""
        return self._model.tensors()

    def replaced(self) -> int:
        """See :meth:`Model.replaced`."""
        return self._model.replaced()

    def counted(self) -> Any:
        """See :meth:`Model.counted`."""
        return self._model.counted()

    def digest(self) -> str:
        """See :meth:`Model.digest`."""
        return self._model.digest()

    def digests_state(self) -> bool:
        """See :meth:`Model.digests_state`."""
        return self._model.digests_state()
