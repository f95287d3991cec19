"""Trees as arrays, and the walk that scores them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from numba import float32, float64, uint32, void
from numpy.typing import NDArray

from models.base import F32, F64, U32, FeatureBatch, FeatureSchema, Role, State
from models.kernels.entry import entry

I32 = NDArray[np.int32]


class Trees(NamedTuple):
    """A sum of trees. A child from 0 on is a node, below 0 the leaf ``~child``.

    A dense column goes left where it is at most ``threshold``, which is then a float; a hashed one,
    numbered after the dense, where its code is among the bits of the set ``int(threshold)``: words
    ``bounds[set]`` to ``bounds[set + 1]``.
    """

    root: I32  # (trees,)
    column: I32  # (nodes,)
    threshold: F64  # (nodes,)
    left: I32  # (nodes,)
    right: I32  # (nodes,)
    value: F64  # (leaves,)
    bounds: I32  # (sets + 1,)
    words: U32


NOTHING = Trees(
    *(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)),
    *(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)),
    *(np.zeros(1, np.int32), np.zeros(0, np.uint32)),
)
ROLES: dict[str, Role] = {
    "root": "control",
    "column": "control",
    "threshold": "learned",
    "left": "control",
    "right": "control",
    "value": "learned",
    "bounds": "control",
    "words": "learned",
}
VERSION = 1


@entry(void(float32[:, ::1], uint32[:, ::1], numba.typeof(NOTHING), float64[::1]))
def walk(dense: F32, hashed: U32, trees: Trees, out: F64) -> None:
    """Links of rows, summed in the trees' order, as LightGBM sums them."""
    columns = dense.shape[1]
    for i in range(len(dense)):
        total = 0.0
        for t in range(len(trees.root)):
            node = trees.root[t]
            while node >= 0:
                column = trees.column[node]
                if column < columns:
                    left = float64(dense[i, column]) <= trees.threshold[node]
                else:
                    code, which = hashed[i, column - columns], int(trees.threshold[node])
                    at = trees.bounds[which] + (code >> 5)
                    left = at < trees.bounds[which + 1] and (trees.words[at] >> (code & 31)) & 1 > 0
                node = trees.left[node] if left else trees.right[node]
            total += trees.value[~node]
        out[i] = total


def links(trees: Trees, x: FeatureBatch) -> F64:
    """Links ``(n,)`` of rows."""
    out = np.zeros(len(x))
    walk(np.ascontiguousarray(x.dense), np.ascontiguousarray(x.hashed), trees, out)
    return out


def state_of(trees: Trees, seen: F64) -> State:
    """A member's state: the trees, and the weights of negatives and positives before any."""
    arrays = {name: array.copy() for name, array in trees._asdict().items()}
    return {"version": VERSION, "seen": seen.copy(), **arrays}


def sound(trees: Trees, schema: FeatureSchema) -> dict[str, Callable[[], bool]]:
    """By array, whether a walk stays within bounds and ends; each holds if those before it do."""
    nodes, leaves, dense = len(trees.column), len(trees.value), len(schema.dense)
    own = np.arange(nodes)
    numeric = trees.column < dense

    def below(child: I32) -> bool:
        return bool(((child > own) | (child < 0)).all() and within(child))

    def within(child: I32) -> bool:
        return bool(((child < nodes) & (~child < leaves)).all())

    def sets() -> bool:
        of = trees.threshold[~numeric]
        return bool(((of >= 0) & (of < len(trees.bounds) - 1)).all())

    return {
        "column": lambda: bool(
            ((trees.column >= 0) & (trees.column < dense + len(schema.hashed))).all()
        ),
        "threshold": lambda: (
            len(trees.threshold) == nodes and bool(np.isfinite(trees.threshold).all())
        ),
        "left": lambda: len(trees.left) == nodes and below(trees.left),
        "right": lambda: len(trees.right) == nodes and below(trees.right),
        "root": lambda: within(trees.root),
        "value": lambda: bool(np.isfinite(trees.value).all()),
        "bounds": lambda: (
            bool(
                len(trees.bounds) > 0
                and trees.bounds[0] == 0
                and trees.bounds[-1] == len(trees.words)
                and (np.diff(trees.bounds) >= 0).all()
            )
            and sets()
        ),
    }
