"""What adapters of estimators are made of: rows with a formula, parts to descend into, counts."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import numpy as np

from models.base import Role
from monitoring.parameters.counted import Row
from monitoring.parameters.formula import Formula

STATISTICS: dict[str, int] = {
    "Mean": 2,
    "Var": 3,
    "Min": 1,
    "Max": 1,
    "AbsMax": 1,
    "Sum": 1,
    "Count": 1,
    "EWMean": 1,
    "EWVar": 2,
    "BayesianMean": 2,
    "Cov": 4,
}
"""Scalars that River's running statistics keep: a mean its count and value, a variance also S."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""How torch names a normalisation's buffers."""


class Part(NamedTuple):
    """An estimator inside another. ``role`` overrides what its scalars are for."""

    path: str
    model: Any
    role: Role | None = None


Adapter = Callable[[Any], Iterator[Row | Part]]


def table(
    path: str,
    held: int,
    formula: Formula,
    role: Role = "learned",
    unit: str = "scalar",
    note: str = "",
    config: str = "",
) -> Row:
    """A row of float64 scalars with the verdict of its formula; only learned scalars train."""
    return Row(
        path,
        "",
        config,
        held=held,
        formula=formula,
        verdict="match" if held == formula.value else "mismatch",
        role=role,
        unit=unit,
        trainable=held if role == "learned" and unit == "scalar" else 0,
        bytes=0 if unit in ("node", "splitter", "detector", "metric") else 8 * held,
        dtype="float64",
        note=note,
    )


def stored(value: Any) -> int:
    """Numbers that an array keeps: of a sparse one those that are not left out."""
    return int(value.nnz) if hasattr(value, "nnz") else int(np.size(value))


def array(
    path: str,
    value: Any,
    expected: Formula,
    role: Role = "learned",
    unit: str = "scalar",
    note: str = "",
) -> Row:
    """A row of one array, dense or of scipy's sparse ones, with its own bytes and dtype.

    A sparse array holds what it stores; its formula is that of the dense one without the zeros
    that are left out.
    """
    shape, held = np.shape(value), stored(value)
    if hasattr(value, "nnz"):
        dense = math.prod(shape)
        expected = expected.minus("zeros", zeros=dense - held)
        note = f"sparse: {held:,} stored of {dense:,}"
    dtype = getattr(value, "dtype", np.dtype(type(value)))
    row = table(path, held, expected, role, unit, note, config="x".join(map(str, shape)))
    return dataclasses.replace(row, bytes=held * dtype.itemsize, dtype=dtype.name)


def loose(
    path: str,
    kind: str,
    shape: tuple[int, ...],
    dtype: str,
    role: Role = "learned",
    buffer: bool = False,
) -> Row:
    """The row of an array that no layer holds: nothing says its size, or whether it trains.

    Named as torch names a buffer, it is one: in a mapping or a file nothing else tells.
    """
    size = math.prod(shape)
    bits = re.search(r"\d+", dtype)
    buffer = buffer or path.endswith(BUFFERS)
    held = 0 if buffer else size
    return Row(
        path,
        kind,
        config="x".join(map(str, shape)),
        held=held,
        verdict="no_formula",
        role=role,
        buffers=size - held,
        bytes=-(-size * (int(bits[0]) if bits else 8) // 8),
        dtype=dtype,
    )


def scalars(value: Any, follow: bool = False, _seen: set[int] | None = None) -> int:
    """Numbers in nested containers, arrays and running statistics.

    With ``follow`` the attributes of other objects are walked too, each object once; generators of
    random numbers, code and text hold no parameters.
    """
    if isinstance(value, bool | str | bytes) or value is None:
        return 0
    if isinstance(value, int | float | complex | np.generic):
        return 1
    if isinstance(value, np.ndarray):
        return value.size if value.dtype != object else scalars(value.tolist(), follow, _seen)
    seen = set() if _seen is None else _seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Mapping) or type(value).__name__ == "VectorDict":
        return sum(scalars(item, follow, seen) for _, item in value.items())
    if isinstance(value, list | tuple | deque | Set):
        return sum(scalars(item, follow, seen) for item in value)
    if _is_statistic(value):
        return STATISTICS[type(value).__name__]
    if type(value).__name__ == "Gaussian" and hasattr(value, "_var"):
        return STATISTICS["Var"]
    if not follow or isinstance(value, random.Random | type) or callable(value):
        return 0
    return scalars(getattr(value, "__dict__", None), follow, seen)


def _is_statistic(value: Any) -> bool:
    cls = type(value)
    return cls.__module__.startswith("river.stats") and cls.__name__ in STATISTICS
