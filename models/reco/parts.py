"""What holds of every bundle of arrays of a recommender: roles, growth, the used part, state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import Parameter, Role, State, StateError


class Column(NamedTuple):
    """How an array of a bundle is kept.

    ``by`` says what its rows stand for: ``"items"``, ``"users"``, ``"arena"``, or ``""`` for an
    array that never grows. ``role`` is ``None`` for settings and scratch, which are no state.
    ``filled`` names the array that counts what was ever written into each row, from its beginning
    on and round again: a state holds these entries alone, one row after another.
    """

    role: Role | None
    by: str = ""
    axis: int = 0
    filled: str = ""


Table = Mapping[str, Column]


class Sizes(NamedTuple):
    """Rows of the arrays by what they stand for: room, or how much of it is in use."""

    items: int
    users: int
    arena: int


def grown(bundle: Any, table: Table, room: Sizes) -> Any:
    """The bundle with room for more, zeros where it is new."""
    changed = {}
    for name, column in table.items():
        if column.by:
            old = getattr(bundle, name)
            shape = list(old.shape)
            shape[column.axis] = getattr(room, column.by)
            new = np.zeros(shape, old.dtype)
            new[tuple(map(slice, old.shape))] = old
            changed[name] = new
    return bundle._replace(**changed)


def used(bundle: Any, table: Table, sizes: Sizes) -> dict[str, NDArray[Any]]:
    """The state's arrays, cut to the rows in use; views."""
    found = {}
    for name, column in table.items():
        if column.role is not None:
            array = getattr(bundle, name)
            found[name] = array[: getattr(sizes, column.by)] if column.by else array
    return found


def take(bundle: Any, table: Table, sizes: Sizes, state: Any, part: str) -> None:
    """Copy a state's arrays into the bundle; raises :class:`StateError` where one does not fit."""
    arrays = used(bundle, table, sizes)
    for name in sorted(arrays, key=lambda name: bool(table[name].filled)):  # counts come first
        at, ours = _filled(arrays, table, name), arrays[name]
        shape = ours[at].shape
        got = state.get(name) if isinstance(state, dict) else None
        if not isinstance(got, np.ndarray) or (got.shape, got.dtype) != (shape, ours.dtype):
            told = f"{got.dtype} {got.shape}" if isinstance(got, np.ndarray) else f"{got!r:.60}"
            raise StateError(
                f"{part}.{name}: expected {ours.dtype} {shape}, got {told}; "
                "the state is of a part with other settings"
            )
        ours[at] = got


def copies(arrays: Mapping[str, NDArray[Any]], table: Table) -> State:
    """The arrays as a state holds them, copied."""
    return {name: array.copy() for name, array in views(arrays, table).items()}


def views(arrays: Mapping[str, NDArray[Any]], table: Table) -> dict[str, NDArray[Any]]:
    """The arrays as a state holds them."""
    return {name: array[_filled(arrays, table, name)] for name, array in arrays.items()}


def _filled(arrays: Mapping[str, NDArray[Any]], table: Table, name: str) -> Any:
    """Where an array holds something."""
    if not (counts := table[name].filled):
        return ...
    n = np.minimum(arrays[counts], arrays[name].shape[1])
    # Not by a mask of the whole, which takes longer than what is mostly empty is worth.
    return np.repeat(np.arange(len(n)), n), np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)


def rows(part: str, arrays: Mapping[str, NDArray[Any]], table: Table) -> Iterator[Parameter]:
    """A part's rows of the parameter table."""
    for name, a in arrays.items():
        role = table[name].role
        assert role is not None
        trainable = role not in ("hyper", "rng", "control", "raw_sample")
        path = f"{part}.{name}"
        yield Parameter(path, role, a.shape, str(a.dtype), a.size, a.nbytes, trainable)
