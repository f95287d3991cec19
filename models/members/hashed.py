"""What the crossed members share: their parameters, the bundle of arrays, the state.

The state holds the slots in use alone, so a checkpoint grows with what was seen.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.base import F64, I64, U64, Role, State, StateError
from models.kernels.binning import ROLES, Bins, make_bins
from models.kernels.common import numbers
from models.kernels.losses import FIRST
from models.members.compiled import CompiledModel, copy_prefix
from models.settings import Settings


class CrossSettings(Settings):
    """Parameters of every crossed member."""

    learning_rate: float = Field(0.1, gt=0, le=10, description="FTRL's alpha")
    beta: float = Field(1.0, gt=0, description="FTRL's beta: holds back the first steps")
    l1: float = Field(0.0, ge=0, description="gradient sum below which a weight stays 0")
    l2: float = Field(0.0, ge=0, description="pull of every weight towards 0")
    bins: int = Field(32, ge=4, le=256, description="most bins of one dense column")
    table_bits: int = Field(20, ge=8, le=28, description="the table has 2 to this power weights")


class CrossedArrays(NamedTuple):
    """State, settings and scratch; ``d`` dense and ``k`` hashed columns, ``t`` slots;
    ``c`` links."""

    table: F64  # (t, 2 c): z and n of each link side by side, to share a cache line
    target: F64  # (3,): rows, mean and squared distances of a number; see losses.py
    salt: U64  # (d + k, b): of each bin's id; of a hashed column only the first counts
    hyper: F64  # (4,): alpha, beta, l1, l2
    at: I64  # (d,): scratch
    ids: I64  # (d,): scratch
    key: U64  # (d + k,): scratch, one random number for each column's value
    slot: I64  # (1 + f + f(f-1)/2,): scratch, where the row's weights are; f = d + k
    z: F64  # (c, as many), as are the next two: scratch
    root: F64
    weight: F64
    link: F64  # (c,): scratch
    gradient: F64  # (c,): scratch
    bins: Bins


def make_arrays(d: int, k: int, links: int, params: CrossSettings, seed: int) -> CrossedArrays:
    """A fresh bundle: an empty table and one bin for each column."""
    f = d + k
    active = 1 + f + f * (f - 1) // 2
    return CrossedArrays(
        table=np.zeros((1 << params.table_bits, 2 * links)),
        target=np.zeros(FIRST),
        salt=numbers(seed, f * params.bins).reshape(f, params.bins),
        hyper=np.array([params.learning_rate, params.beta, params.l1, params.l2]),
        at=np.zeros(d, np.int64),
        ids=np.zeros(d, np.int64),
        key=np.zeros(f, np.uint64),
        slot=np.zeros(active, np.int64),
        z=np.zeros((links, active)),
        root=np.zeros((links, active)),
        weight=np.zeros((links, active)),
        link=np.zeros(links),
        gradient=np.zeros(links),
        bins=make_bins(d, params.bins),
    )


class HashedModel(CompiledModel):
    """A member whose weights are slots of a hashed table; see the module."""

    unlocked_us = 2.0
    _roles: ClassVar[dict[str, Role]] = {
        "slots": "control",
        "table": "learned",
        "salt": "rng",
        **{f"bins.{name}": role for name, role in ROLES.items()},
    }
    _learning: ClassVar[tuple[str, ...]] = ("bins.known",)

    def _held(self, name: str) -> NDArray[Any]:
        if name == "slots":
            n = self._arrays.table[:, 1::2]
            return np.flatnonzero(n.any(axis=1) if n.shape[1] > 1 else n)
        return super()._held(name)

    def _used(self) -> dict[str, NDArray[Any]]:
        used = super()._used()
        return {**used, "table": used["table"][used["slots"]]}

    def _fits(self, name: str, got: tuple[int, ...], have: tuple[int, ...]) -> bool:
        if name == "slots":
            return len(got) == 1
        return got[1:] == have[1:] if name == "table" else got == have

    def _take(self, state: State, names: tuple[str, ...]) -> None:
        self._check(state, names)
        slots, rows, table = state["slots"], state["table"], self._arrays.table
        if len(slots) != len(rows) or (
            len(slots) and not 0 <= slots.min() <= slots.max() < len(table)
        ):
            raise StateError(
                f"{type(self).__name__}.slots: expected {len(rows)} slots below {len(table)}; "
                "the state is of a member with another table_bits"
            )
        table[:] = 0
        table[slots] = rows
        for name in set(names) - {"slots", "table"}:
            copy_prefix(self._held(name), state[name])
