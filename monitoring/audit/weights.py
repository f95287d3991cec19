"""Measures of a member's learned arrays: norms, change, what never trained, what is no number.

Sums go through ``np.add.reduce``, never through BLAS, whose bits depend on its threads; all of them
in float64. Nothing here changes an array it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import State
from monitoring.parameters.digests import content_digests

Tensors = Mapping[str, NDArray[Any]]

SAMPLES = 1 << 18
"""Scalars of one member that are remembered from one record to the next; of a larger member every
n-th scalar is."""


class Measured(NamedTuple):
    """One learned array.

    ``delta_norm`` and ``untrained`` come from every ``stride``-th scalar, scaled up by it.
    """

    path: str
    held: int
    bytes: int
    dtype: str
    norm: float
    delta_norm: float | None
    nonfinite: int
    untrained: int
    stride: int
    digest: str


def nonfinite(a: NDArray[Any]) -> int:
    """How many scalars are NaN or infinite.

    A sum screens the array; only where it is no number are scalars looked at one by one.

    >>> nonfinite(np.array([1.0, np.nan, np.inf])), nonfinite(np.full(3, 1e308))
    (2, 0)
    """
    if a.dtype.kind != "f" or not a.size:
        return 0
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.add.reduce(a, axis=None, dtype=np.float64))
    return 0 if math.isfinite(total) else int(a.size - np.count_nonzero(np.isfinite(a)))


def norm(a: NDArray[Any]) -> float:
    """L2 norm over the finite scalars; exact scaling where squares leave float64's range.

    >>> norm(np.array([3.0, 4.0])), norm(np.array([3e200, 4e200, np.nan]))
    (5.0, 5e+200)
    """
    x = np.ascontiguousarray(a, dtype=np.float64).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = float(np.add.reduce(x * x))
        if math.isfinite(squares) and squares > 1e-290:
            return math.sqrt(squares)
        x = x[np.isfinite(x)]
        largest = float(np.max(np.abs(x), initial=0.0))
        if largest == 0.0:
            return 0.0
        x = x / largest
        return largest * math.sqrt(float(np.add.reduce(x * x)))


def update_norm(before: Tensors, after: Tensors) -> tuple[float, float]:
    """L2 norm of the change, absolute and relative to ``max(norm before, 1)``.

    Infinite when a difference is no number. An array that is new or of another shape counts with
    all of its values.

    >>> update_norm({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 5.0])})
    (1.0, 0.2)
    """
    changes, sizes = [], [norm(a) for a in before.values()]
    with np.errstate(over="ignore", invalid="ignore"):
        for path, a in after.items():
            old = before.get(path)
            fits = old if old is not None and old.shape == a.shape else np.zeros(1)
            change = np.subtract(a, fits, dtype=np.float64)
            if nonfinite(change):
                return math.inf, math.inf
            changes.append(norm(change))
    moved = norm(np.array(changes))
    return moved, moved / max(norm(np.array(sizes)), 1.0)


class Weights:
    """What is remembered of one member's learned arrays since the last :meth:`measure`.

    At most :data:`SAMPLES` scalars as they were, and for each whether it ever changed.
    """

    def __init__(self) -> None:
        self._held: dict[str, NDArray[Any]] = {}
        self._trained: dict[str, NDArray[np.bool_]] = {}

    def measure(self, tensors: Tensors) -> list[Measured]:
        """Measure every array and remember it. ``delta_norm`` is ``None`` the first time."""
        stride = max(1, -(-sum(a.size for a in tensors.values()) // SAMPLES))
        stride |= 1  # odd: an even step would see one column of a table of pairs
        digests = content_digests(dict(tensors))
        rows = [self._row(path, a, stride, digests) for path, a in tensors.items()]
        for gone in self._held.keys() - tensors.keys():
            del self._held[gone], self._trained[gone]
        return rows

    def _row(self, path: str, a: NDArray[Any], stride: int, digests: dict[str, str]) -> Measured:
        sample = a.reshape(-1)[::stride].copy()
        held = self._held.get(path)
        delta = None
        if held is not None and held.shape == sample.shape:
            with np.errstate(invalid="ignore", over="ignore"):
                delta = norm(np.subtract(sample, held, dtype=np.float64)) * math.sqrt(stride)
            self._trained[path] |= sample != held
        else:
            self._trained[path] = np.zeros(len(sample), dtype=bool)
        self._held[path] = sample
        untrained = len(sample) - int(np.count_nonzero(self._trained[path]))
        return Measured(
            path,
            a.size,
            a.nbytes,
            str(a.dtype),
            norm(a),
            delta,
            nonfinite(a),
            min(untrained * stride, a.size),
            stride,
            digests[f"state:{path}"],
        )

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {
            "held": {path: a.copy() for path, a in self._held.items()},
            "trained": {path: np.packbits(a) for path, a in self._trained.items()},
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        self._held = {path: a.copy() for path, a in state["held"].items()}
        self._trained = {
            path: np.unpackbits(a, count=len(self._held[path])).astype(bool)
            for path, a in state["trained"].items()
        }
