"""What a count says: one row per layer, totals over the rows, and the verdicts.

Nothing here counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models.base import MillraceError, Role
from monitoring.parameters.formula import Formula

Verdict = Literal["match", "mismatch", "no_formula", "undetermined", "stale_attr"]
"""What comparing a row's formula with what it holds gave.

``match``: equal. ``mismatch``: not. ``no_formula``: a layer of no known family holds scalars.
``undetermined``: a lazy layer that has not seen its input's size. ``stale_attr``: the formula holds
for the tensors' shapes, but the layer's own attributes (``out_features``) say another size.
"""

Kind = Literal[
    "torch", "river", "sklearn", "xgboost", "lightgbm", "onnx", "member", "estimate", "object"
]

_WORST_FIRST: tuple[Verdict, ...] = (
    "mismatch",
    "stale_attr",
    "undetermined",
    "no_formula",
    "match",
)
COUNTED_ROLES: frozenset[Role] = frozenset({"learned", "statistic"})
"""Roles that `held` adds up: scalars that ``learn`` writes and ``score`` reads."""


class ParameterError(MillraceError):
    """A target, a description or a model that cannot be counted; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One layer, or one table of a River estimator or member.

    Parameters
    ----------
    path : str
        Where in the model, dotted; ``""`` is the model itself.
    type : str
        The layer's class, or the family of a description.
    config : str
        The sizes that enter the formula, as text.
    output : str
        The shape that leaves a described layer, batch left out, where it is known.
    held : int
        Scalars there, aliased ones included.
    formula : Formula, optional
        What should be there.
    verdict : Verdict
    role : Role
        What the scalars are for; torch parameters are ``learned``.
    unit : str
        ``scalar`` except in trees (``node``, ``threshold``, ``leaf_statistic``) and stored samples.
    trainable, frozen : int
        ``held`` split by whether learning may change the scalars.
    buffers : int
        Scalars that are state but no parameters (running statistics, masks).
    buffers_formula : Formula, optional
    optimizer : int
        Scalars the optimizer keeps for this row.
    bytes : int
        Bytes of ``held`` and ``buffers``, aliased ones not counted again.
    aliased : int
        How many of ``held`` were counted at an earlier row.
    unregistered : int
        Scalars reachable only through plain attributes, lists or dicts; not in ``held``.
    alias_of : tuple of str
        Where the aliased scalars were counted.
    expected_active : float, optional
        Scalars expected active in a training step under dropout.
    keras : Formula, optional
        The count by Keras' convention, where it differs.
    subtotal : bool
        A check over rows that follow; adds nothing to the totals.
    """

    path: str
    type: str
    config: str = ""
    output: str = ""
    held: int = 0
    formula: Formula | None = None
    verdict: Verdict = "match"
    role: Role = "learned"
    unit: str = "scalar"
    trainable: int = 0
    frozen: int = 0
    buffers: int = 0
    buffers_formula: Formula | None = None
    optimizer: int = 0
    bytes: int = 0
    dtype: str = ""
    aliased: int = 0
    aliased_trainable: int = 0
    aliased_buffers: int = 0
    unregistered: int = 0
    alias_of: tuple[str, ...] = ()
    expected_active: float | None = None
    keras: Formula | None = None
    subtotal: bool = False
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON-able values; fields that say nothing are left out."""
        out: dict[str, Any] = {
            "path": self.path,
            "type": self.type,
            "config": self.config,
            "held": self.held,
            "formula": None if self.formula is None else self.formula.value,
            "verdict": self.verdict,
            "trainable": self.trainable,
            "frozen": self.frozen,
            "buffers": self.buffers,
            "optimizer": self.optimizer,
            "bytes": self.bytes,
            "dtype": self.dtype,
            "alias_of": list(self.alias_of),
        }
        for name, formula in (
            ("formula", self.formula),
            ("buffers_formula", self.buffers_formula),
            ("keras", self.keras),
        ):
            if formula is not None:
                out[name] = formula.value
                out[f"{name}_text"] = formula.text
                out[f"{name}_numbers"] = formula.numbers
        for name in ("aliased", "unregistered", "expected_active", "subtotal", "note", "output"):
            if getattr(self, name):
                out[name] = getattr(self, name)
        if self.role != "learned":
            out["role"] = self.role
        if self.unit != "scalar":
            out["unit"] = self.unit
        return out


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the rows, each scalar once however many paths lead to it."""

    held: int
    trainable: int
    frozen: int
    buffers: int
    optimizer: int
    unregistered: int
    bytes: int
    verdict: Verdict
    exact: bool
    roles: dict[str, int]
    units: dict[str, int]
    formula: int | None
    expected_active: float | None
    keras: int | None


@dataclass(frozen=True, slots=True)
class Counted:
    """What ``monitoring.parameters.count`` and ``estimate`` return."""

    target: str
    kind: Kind
    rows: Sequence[Row]
    aliases: dict[str, str] = field(default_factory=dict)
    exact: bool = True
    notes: tuple[str, ...] = ()

    @property
    def totals(self) -> Totals:
        """Sums over the rows, subtotals left out."""
        return _sum_up(self.rows, self.exact)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able values; the rows are ``layers``."""
        totals = self.totals
        return {
            "target": self.target,
            "kind": self.kind,
            "totals": {name: getattr(totals, name) for name in Totals.__slots__},
            "layers": [row.to_dict() for row in self.rows],
            "aliases": dict(self.aliases),
            "notes": list(self.notes),
        }


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest of some verdicts; ``match`` of none.

    >>> worst(["match", "no_formula", "stale_attr"])
    'stale_attr'
    """
    return min(verdicts, key=_WORST_FIRST.index, default="match")


def _sum_up(rows: Sequence[Row], exact: bool) -> Totals:
    layers = [row for row in rows if not row.subtotal]
    counted = [row for row in layers if row.role in COUNTED_ROLES and row.unit != "node"]
    roles: dict[str, int] = {}
    units: dict[str, int] = {}
    for row in layers:
        new = row.held - row.aliased
        roles[row.role] = roles.get(row.role, 0) + new
        units[row.unit] = units.get(row.unit, 0) + new
    known = all(row.formula is not None for row in counted)
    return Totals(
        held=sum(row.held - row.aliased for row in counted),
        trainable=sum(row.trainable - row.aliased_trainable for row in counted),
        frozen=sum(row.frozen - (row.aliased - row.aliased_trainable) for row in counted),
        buffers=sum(row.buffers - row.aliased_buffers for row in layers),
        optimizer=sum(row.optimizer for row in layers) + roles.get("optimizer", 0),
        unregistered=sum(row.unregistered for row in layers),
        bytes=sum(row.bytes for row in layers),
        verdict=worst(row.verdict for row in rows),
        exact=exact,
        roles={k: v for k, v in roles.items() if v},
        units={k: v for k, v in units.items() if v},
        formula=sum(row.formula.value - row.aliased for row in counted if row.formula)
        if known
        else None,
        expected_active=_expected_active(counted),
        keras=_keras(counted),
    )


def _expected_active(rows: Sequence[Row]) -> float | None:
    if all(row.expected_active is None for row in rows):
        return None
    return sum(
        row.held - row.aliased if row.expected_active is None else row.expected_active
        for row in rows
    )


def _keras(rows: Sequence[Row]) -> int | None:
    # Keras counts a normalisation's moving statistics as parameters; rows that do not differ there
    # count as they do here.
    if all(row.keras is None for row in rows):
        return None
    return sum(row.held - row.aliased if row.keras is None else row.keras.value for row in rows)
