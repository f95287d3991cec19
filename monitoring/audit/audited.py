"""What the auditor keeps about one member from one record to the next, and the rows it writes.

:class:`AuditedMember` is engine state; :func:`size_up` counts, the rest turns counts and measures
into plain values for a record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models.base import Learner, State
from monitoring.audit.budgets import AuditEvent
from monitoring.audit.weights import Measured, Weights
from monitoring.parameters.count import count
from monitoring.parameters.counted import Counted, ParameterError, Totals
from monitoring.parameters.digests import structure_digest
from monitoring.parameters.members import count_member

ROWS = 200
"""Rows of layers, and of tensors, in one record; a larger model is summed up by role alone."""

RANGES = 64
"""Input ranges in one record; past that the journal's records of its steps hold them."""

HOUR_MS = 3_600_000

RECENT = 64
"""Updates that a member's next one is compared with."""


class Size(NamedTuple):
    """A member counted."""

    report: Counted
    totals: Totals
    structure: str


def size_up(member: Learner, name: str) -> Size:
    """Count a member by its layers' formulas, or by its own table where that cannot be done."""
    try:
        report = count(member, target=name)
    except ParameterError:
        report = count_member(member, name)
    return Size(report, report.totals, structure_digest(report))


class AuditedMember:
    """One member, since its last record.

    Attributes
    ----------
    version : int
        Updates (calls of ``learn``) that were kept.
    learned : int
        Labels in them.
    held, bytes, structure
        From the last count.
    replaced : int
        The member's own count of parts replaced after drift.
    unchecked : int
        Labels learned since the arrays were last searched for values that are no numbers.
    age : int
        Labels that the model in this place learned.
    refused : int
        Updates that were undone since the last one that was kept.
    """

    _plain = (
        *("version", "learned", "told_version", "told_learned", "told_step", "held", "bytes"),
        *("structure", "hour_ms", "hour_held", "replaced", "unchecked", "shapes", "age", "refused"),
    )

    def __init__(self) -> None:
        self.version = self.learned = 0
        self.told_version = self.told_learned = self.told_step = 0
        self.told: dict[str, int] = {}
        self.held = self.bytes = 0
        self.structure = self.shapes = ""
        self.hour_ms = self.hour_held = 0
        self.replaced = self.unchecked = 0
        self.age = self.refused = 0
        self.weights = Weights()
        self._recent: list[tuple[int, float]] = []  # rows and norm of kept updates

    def kept(self, rows: int, norm: float | None) -> None:
        """An update of so many rows holds; ``norm`` its relative size, where it was measured."""
        self.version += 1
        self.learned += rows
        self.age += rows
        self.refused = 0
        if norm is not None and math.isfinite(norm):
            self._recent = [*self._recent[1 - RECENT :], (rows, norm)]

    def usual(self, rows: int) -> float:
        """What the largest of the recent updates would be with so many rows; 0 without any.

        By the triangle inequality no more than the largest by row times the rows; where rows of one
        update cancelled, fewer of them may move as far as all did.
        """
        return max((norm * max(1.0, rows / n) for n, norm in self._recent), default=0.0)

    def growth(self, held: int, at_ms: int) -> int:
        """Scalars gained since the running hour began, were ``held`` the count now."""
        return held - (self.held if self._hour_over(at_ms) else self.hour_held)

    def counted(self, size: Size, at_ms: int) -> None:
        """Take a count over."""
        if self._hour_over(at_ms):
            self.hour_ms, self.hour_held = at_ms, self.held if self.structure else size.totals.held
        self.held, self.bytes = size.totals.held, size.totals.bytes
        self.structure = size.structure

    def renew(self, size: Size, replaced: int, at_ms: int) -> None:
        """Another model stands in the member's place; versions and labels go on."""
        self.weights = Weights()
        self.held, self.bytes, self.structure = size.totals.held, size.totals.bytes, size.structure
        self.hour_ms, self.hour_held = at_ms, size.totals.held
        self.replaced, self.unchecked, self.shapes = replaced, 0, ""
        self.age, self.refused, self._recent = 0, 0, []

    def _hour_over(self, at_ms: int) -> bool:
        return at_ms - self.hour_ms >= HOUR_MS

    def since(self, seen: Mapping[str, Sequence[int]], step: int) -> dict[str, Any]:
        """Versions, labels, steps and input ranges since the last record; then it is told."""
        ranges = []
        for key, (first, last) in seen.items():
            start = self.told.get(key, first - 1) + 1
            if start <= last:
                topic, _, partition = key.rpartition("/")
                ranges.append([topic, int(partition), start, last])
        found = {
            "version_from": self.told_version,
            "version_to": self.version,
            "n_updates": self.learned - self.told_learned,
            "steps": [min(self.told_step + 1, step), step],
            "ranges": ranges[:RANGES],
        }
        if len(ranges) > RANGES:
            found["ranges_left_out"] = len(ranges) - RANGES
        self.told_version, self.told_learned, self.told_step = self.version, self.learned, step
        self.told = {key: last for key, (_, last) in seen.items()}
        return found

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`."""
        plain = {name: getattr(self, name) for name in self._plain}
        recent = [list(one) for one in self._recent]
        return plain | {
            "told": dict(self.told),
            "weights": self.weights.state(),
            "recent": recent,
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`."""
        for name in self._plain:
            setattr(self, name, state[name])
        self.told = dict(state["told"])
        self.weights.restore(state["weights"])
        self._recent = [(int(n), float(norm)) for n, norm in state["recent"]]


def event_of(before: AuditedMember, size: Size) -> AuditEvent:
    """Which change a count shows: ``summary`` where the structure is as it was."""
    if before.structure in ("", size.structure):
        return "summary"
    if size.totals.held == before.held:
        return "restructured"
    return "grown" if size.totals.held > before.held else "pruned"


def totals_of(size: Size) -> dict[str, Any]:
    """The counts as a record holds them."""
    totals = size.totals
    found: dict[str, Any] = {
        "held": totals.held,
        "formula": totals.formula,
        "verdict": totals.verdict,
        "exact": totals.exact,
        "trainable": totals.trainable,
        "frozen": totals.frozen,
        "buffers": totals.buffers,
        "bytes": totals.bytes,
        "roles": dict(totals.roles),
        "structure": size.structure,
    }
    if set(totals.units) - {"scalar"}:
        found["units"] = dict(totals.units)
    if totals.expected_active is not None:
        found["expected_active"] = totals.expected_active
    return found


def layers_of(size: Size) -> dict[str, Any]:
    """Rows of what holds scalars that are learned, and of whatever differs from its formula."""
    rows = [
        {
            "path": row.path,
            "type": row.type,
            "config": row.config,
            "held": row.held,
            "formula": None if row.formula is None else row.formula.value,
            "verdict": row.verdict,
            "trainable": row.trainable,
            "bytes": row.bytes,
        }
        | ({"alias_of": list(row.alias_of)} if row.alias_of else {})
        for row in size.report.rows
        if (row.held and row.role == "learned") or row.verdict not in ("match", "no_formula")
    ]
    return _bounded("layers", rows)


def tensors_of(measured: Sequence[Measured]) -> dict[str, Any]:
    """Rows of the learned arrays."""
    return _bounded("tensors", [row._asdict() for row in measured])


def _bounded(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: rows} if len(rows) <= ROWS else {f"{name}_left_out": len(rows)}
