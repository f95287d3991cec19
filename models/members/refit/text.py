"""Reads the text that LightGBM writes of a model: trees that our walk scores to the same bits.

What it would not score so is refused: several classes, averaged or linear trees, zeros that stand
for missing values. Features are finite always (``models/base.py``), so where a missing value would
go does not matter. The text's fields are those of LightGBM's ``src/io/tree.cpp``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.base import MillraceError
from models.members.refit.trees import Trees

_CATEGORICAL = 1
_MISSING = 0b1100
_ZERO = 0b0100


class UnreadableModel(MillraceError):
    """A model's text tells of something that our walk would score otherwise."""


def trees_of(text: str, dense: int, hashed: int) -> Trees:
    """The trees of a binary model over ``dense`` numeric and then ``hashed`` categorical columns.

    Raises :class:`UnreadableModel`.
    """
    header, *blocks = list(_blocks(text))
    expected = {
        "num_class": "1",
        "num_tree_per_iteration": "1",
        "max_feature_idx": str(dense + hashed - 1),
        "objective": "binary sigmoid:1",
    }
    for name, value in expected.items():
        if header.get(name) != value:
            raise UnreadableModel(f"{name}: expected {value}, got {header.get(name)!r}")
    if "average_output" in header:
        raise UnreadableModel("average_output: expected a sum of trees, got their mean")
    parts: list[dict[str, np.ndarray]] = []
    nodes = leaves = sets = words = 0
    roots = []
    for number, block in enumerate(blocks):
        part = _tree(block, dense, f"Tree={number}")
        for side in ("left", "right"):
            child = part[side]
            part[side] = np.where(child >= 0, child + nodes, child - leaves)
        categorical = part["column"] >= dense
        part["threshold"] = np.where(categorical, part["threshold"] + sets, part["threshold"])
        roots.append(nodes if len(part["column"]) else ~leaves)
        nodes, leaves = nodes + len(part["column"]), leaves + len(part["value"])
        part["bounds"] = part["bounds"] + words
        sets, words = sets + len(part["bounds"]), words + len(part["words"])
        parts.append(part)

    def joined(name: str, dtype: str) -> np.ndarray:
        return np.concatenate([np.zeros(0), *(part[name] for part in parts)]).astype(dtype)

    return Trees(
        root=np.array(roots, np.int32),
        column=joined("column", "i4"),
        threshold=joined("threshold", "f8"),
        left=joined("left", "i4"),
        right=joined("right", "i4"),
        value=joined("value", "f8"),
        bounds=np.append(np.int32(0), joined("bounds", "i4")).astype(np.int32),
        words=joined("words", "u4"),
    )


def _blocks(text: str) -> Iterator[dict[str, str]]:
    """The header and each tree, as names and values."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "end of trees":
            break
        if name == "Tree":
            yield found
            found = {}
        found[name] = value
    yield found


def _tree(block: dict[str, str], dense: int, where: str) -> dict[str, np.ndarray]:
    """One tree's arrays, numbered from 0."""

    def row(name: str, dtype: type) -> np.ndarray:
        return np.array([dtype(text) for text in block.get(name, "").split()], dtype)

    if block.get("is_linear", "0") != "0":
        raise UnreadableModel(f"{where}: expected constant leaves, got linear ones")
    value = row("leaf_value", float)
    if block.get("num_leaves") != str(len(value)):
        raise UnreadableModel(
            f"{where}: expected {block.get('num_leaves')} leaves, got {len(value)}"
        )
    single = len(value) == 1
    column = row("split_feature", int)[: 0 if single else None]
    kind = row("decision_type", int)[: len(column)]
    if ((kind & _CATEGORICAL > 0) != (column >= dense)).any():
        raise UnreadableModel(
            f"{where}: expected sets of hashed columns and thresholds of the rest"
        )
    if (kind & _MISSING == _ZERO).any():
        raise UnreadableModel(f"{where}: expected zeros that are numbers, got missing values")
    return {
        "column": column,
        "threshold": row("threshold", float)[: len(column)],
        "left": row("left_child", int)[: len(column)],
        "right": row("right_child", int)[: len(column)],
        "value": value,
        "bounds": row("cat_boundaries", int)[1:],
        "words": row("cat_threshold", int),
    }
