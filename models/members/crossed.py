"""FTRL-Proximal over binned columns and all their pair crosses, in one hashed table.

Each dense column becomes a bin id (:mod:`models.kernels.binning`), each hashed column is one
already; every id and every pair of ids of two columns has a weight, found by hashing. The learner
is FTRL-Proximal (McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches", algorithm
1). When a bin splits, the new half inherits the weights of the old, so nothing is forgotten. It
draws no randomness while it runs: the seed salts the hashes once.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import Field

from models.base import F32, F64, I64, U32, U64, FeatureSchema, Role, State, StateError
from models.kernels.binning import ROLES, Bins, locate, make_bins, observe
from models.kernels.common import HELPER, LEARN, RARE, SCORE, numbers, sigmoid
from models.kernels.entry import entry
from models.members.compiled import CompiledModel, copy_prefix, signature
from models.settings import Settings
from models.task import BINARY, Task


class CrossedParams(Settings):
    """Parameters of ``type = "crossed"``."""

    learning_rate: float = Field(0.1, gt=0, le=10, description="FTRL's alpha")
    beta: float = Field(1.0, gt=0, description="FTRL's beta: holds back the first steps")
    l1: float = Field(0.0, ge=0, description="gradient sum below which a weight stays 0")
    l2: float = Field(0.0, ge=0, description="pull of every weight towards 0")
    bins: int = Field(32, ge=4, le=256, description="most bins of one dense column")
    table_bits: int = Field(20, ge=8, le=28, description="the table has 2 to this power weights")


class CrossedArrays(NamedTuple):
    """State, settings and scratch; ``d`` dense and ``k`` hashed columns, ``t`` slots."""

    table: F64  # (t, 2): z and n of each slot side by side, to share a cache line
    salt: U64  # (d + k, b): of each bin's id; of a hashed column only the first counts
    hyper: F64  # (4,): alpha, beta, l1, l2
    ids: I64  # (d,): scratch
    key: U64  # (d + k,): scratch, one random number for each column's value
    slot: I64  # (1 + f + f(f-1)/2,): scratch, where the row's weights are; f = d + k
    z: F64  # the same length, as are the next two: scratch
    root: F64
    weight: F64
    bins: Bins


def make_arrays(d: int, k: int, params: CrossedParams, seed: int) -> CrossedArrays:
    """A fresh bundle: an empty table and one bin for each column."""
    f = d + k
    active = 1 + f + f * (f - 1) // 2
    return CrossedArrays(
        table=np.zeros((1 << params.table_bits, 2)),
        salt=numbers(seed, f * params.bins).reshape(f, params.bins),
        hyper=np.array([params.learning_rate, params.beta, params.l1, params.l2]),
        ids=np.zeros(d, np.int64),
        key=np.zeros(f, np.uint64),
        slot=np.zeros(active, np.int64),
        z=np.zeros(active),
        root=np.zeros(active),
        weight=np.zeros(active),
        bins=make_bins(d, params.bins),
    )


_ODD = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


@njit(**HELPER)
def _code_key(salt: np.uint64, code: int) -> np.uint64:
    """A random number for a code: two rounds of multiply and fold."""
    h = (np.uint64(code) + salt) * _ODD
    h = (h ^ (h >> _HALF)) * _ODD
    return h ^ (h >> _HALF)


@njit(**HELPER)
def _find(hashed: U32, i: int, ids: I64, salt: U64, key: U64, slot: I64, shift: int) -> None:
    """Fill ``slot``: the bias at 0, every column, every pair; sums of random keys are random."""
    d, f = len(ids), len(key)
    for a in range(d):
        key[a] = salt[a, ids[a]]
    for a in range(d, f):
        key[a] = _code_key(salt[a, 0], hashed[i, a - d])
    s = 1
    for a in range(f):
        slot[s] = np.int64(key[a] >> np.uint64(shift))
        s += 1
    for a in range(1, f):
        for b in range(a):
            slot[s] = np.int64((key[a] + key[b]) >> np.uint64(shift))
            s += 1


@njit(**HELPER)
def _weights(table: F64, slot: I64, z: F64, root: F64, weight: F64, hyper: F64) -> float:
    """Fill ``z``, ``root`` (of n) and ``weight`` from the slots; return the sum, a logit."""
    for s in range(len(slot)):
        z[s] = table[slot[s], 0]
        root[s] = table[slot[s], 1]
    per_alpha, l1 = 1.0 / hyper[0], hyper[2]
    flat = hyper[1] * per_alpha + hyper[3]
    # Apart from gathering and adding up, so that square roots and divisions go four at a time.
    for s in range(len(slot)):
        root[s] = math.sqrt(root[s])
        excess = max(abs(z[s]) - l1, 0.0)
        weight[s] = -math.copysign(excess, z[s]) / (flat + root[s] * per_alpha)
    total = 0.0
    for s in range(len(slot)):
        total += weight[s]
    return total


@njit(**HELPER)
def _update(
    gradient: float, table: F64, slot: I64, z: F64, root: F64, weight: F64, alpha: float
) -> None:
    """Algorithm 1's last lines; of two columns in one slot the later wins."""
    square, per_alpha = gradient * gradient, 1.0 / alpha
    for s in range(len(slot)):
        n = root[s] * root[s] + square
        z[s] += gradient - (math.sqrt(n) - root[s]) * per_alpha * weight[s]
        root[s] = n
    for s in range(len(slot)):
        table[slot[s], 0] = z[s]
        table[slot[s], 1] = root[s]


@njit(**HELPER)
def _copy(source: int, target: int, table: F64) -> None:
    table[target, 0] = table[source, 0]
    table[target, 1] = table[source, 1]


@njit(**RARE)
def _inherit(f: int, old: int, new: int, count: I64, salt: U64, table: F64, shift: int) -> None:
    """Copy what the old half of a split bin knows to the new: alone and with every other bin."""
    s = np.uint64(shift)
    _copy(np.int64(salt[f, old] >> s), np.int64(salt[f, new] >> s), table)
    for g in range(len(count)):
        for b in range(count[g] if g != f else 0):
            source = np.int64((salt[f, old] + salt[g, b]) >> s)
            _copy(source, np.int64((salt[f, new] + salt[g, b]) >> s), table)


@entry(signature(make_arrays(1, 1, CrossedParams.model_validate({}), 0)))
def crossed_kernel(
    dense: F32, hashed: U32, y: F64, w: F64, out: F64, mode: int, a: CrossedArrays
) -> None:
    """Walk the rows in order; see :mod:`models.members.compiled`."""
    table, salt, ids, slot, bins = a.table, a.salt, a.ids, a.slot, a.bins
    shift = 64
    while (1 << (64 - shift)) < len(table):
        shift -= 1
    for i in range(len(dense)):
        locate(dense, i, bins.edge, bins.order, ids)
        _find(hashed, i, ids, salt, a.key, slot, shift)
        link = _weights(table, slot, a.z, a.root, a.weight, a.hyper)
        if mode & SCORE:
            out[i] = link
        if mode & LEARN:
            gradient = (sigmoid(link) - y[i]) * w[i]
            _update(gradient, table, slot, a.z, a.root, a.weight, a.hyper[0])
            # Bins grow after the row is learned: score and learn see the same ids.
            for f in range(len(ids)):
                p = observe(f, np.float64(dense[i, f]), bins)
                if p >= 0:
                    old, new = np.int64(bins.order[f, p]), np.int64(bins.order[f, p + 1])
                    _inherit(f, old, new, bins.used, salt, table, shift)


class CrossedModel(CompiledModel):
    """FTRL-Proximal on bins, codes and their pairs; scores are logits.

    The state holds the slots in use alone, so a checkpoint grows with what was seen.

    Parameters
    ----------
    params : CrossedParams
    schema : FeatureSchema
    seed : int
        Salts the hashes: members with other seeds collide elsewhere.
    """

    Params = CrossedParams
    _kernel = crossed_kernel
    _roles: ClassVar[dict[str, Role]] = {
        "slots": "control",
        "table": "learned",
        "salt": "rng",
        **{f"bins.{name}": role for name, role in ROLES.items()},
    }

    def __init__(
        self, params: CrossedParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        d, k = len(schema.dense), len(schema.hashed)
        super().__init__(schema, make_arrays(d, k, params, seed))

    def _held(self, name: str) -> NDArray[Any]:
        if name == "slots":
            return np.flatnonzero(self._arrays.table[:, 1])
        return super()._held(name)

    def _used(self) -> dict[str, NDArray[Any]]:
        used = super()._used()
        return {**used, "table": used["table"][used["slots"]]}

    def _fits(self, name: str, got: tuple[int, ...], have: tuple[int, ...]) -> bool:
        if name == "slots":
            return len(got) == 1
        return got[1:] == have[1:] if name == "table" else got == have

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        self._check(state)
        slots, rows, table = state["slots"], state["table"], self._arrays.table
        if len(slots) != len(rows) or (
            len(slots) and not 0 <= min(slots) <= max(slots) < len(table)
        ):
            raise StateError(
                f"CrossedModel.slots: expected {len(rows)} slots below {len(table)}; "
                "the state is of a member with another table_bits"
            )
        table[:] = 0
        table[slots] = rows
        for name in self._roles.keys() - {"slots", "table"}:
            copy_prefix(self._held(name), state[name])
