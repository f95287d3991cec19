"""How a part takes a state over: by name, what it has in common with the part that gave it.

Parts call these in their ``restore``. The state may be that of a part with more, fewer or other
members, in another order; see :data:`models.base.State`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import State, StateError

Places = tuple[list[int], list[int]]
"""Columns of a part, and those of a state that they take over."""


def shared(ours: Sequence[str], theirs: Sequence[str]) -> Places:
    """Places of the names that both have, in ``ours`` and in ``theirs``.

    >>> shared(["a", "b", "c"], ["c", "x", "a"])
    ([0, 2], [2, 0])
    """
    both = [(i, theirs.index(name)) for i, name in enumerate(ours) if name in theirs]
    return [i for i, _ in both], [j for _, j in both]


def fill(
    arrays: Mapping[str, NDArray[Any]],
    state: State,
    part: str,
    axes: Mapping[str, int] | None = None,
    places: Places = ([], []),
) -> None:
    """Copy a state's arrays into ours, all or none; :class:`StateError` names one that differs.

    Of an array in ``axes`` only the columns of ``places`` are copied, along that axis, which may be
    longer or shorter than ours.
    """
    axes = axes or {}
    for name, ours in arrays.items():
        got = state.get(name)
        if not isinstance(got, np.ndarray):
            raise StateError(f"{part}.{name}: expected an array, got {got!r:.60}")
        expected = list(ours.shape)
        if name in axes and got.ndim == ours.ndim:
            expected[axes[name]] = got.shape[axes[name]]
        if got.shape != tuple(expected) or got.dtype != ours.dtype:
            raise StateError(
                f"{part}.{name}: expected {ours.dtype} {tuple(expected)}, got {got.dtype} "
                f"{got.shape}; the state is of a part with other settings"
            )
    here, there = places
    for name, ours in arrays.items():
        if name in axes:
            np.moveaxis(ours, axes[name], 0)[here] = np.moveaxis(state[name], axes[name], 0)[there]
        else:
            ours[...] = state[name]
