"""The parameter auditor: watches every member, records what changed, undoes what passes a budget.

The engine calls it within its step (:meth:`Auditor.before` and :meth:`Auditor.after` around each
update) and sends what :meth:`Auditor.take` gives out with the step; ``stream/step/reconfigure.py``
calls it for a changed configuration. It is engine state: no clock but the step's, no I/O, no
randomness. A record names inputs by topic, partition and offset; it holds no feature, label or
entity key.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from models.base import Learner, State
from models.ensemble.ensemble import MemberError
from models.ensemble.group import Group
from monitoring.audit.audited import (
    AuditedMember,
    Size,
    event_of,
    layers_of,
    size_up,
    tensors_of,
    totals_of,
)
from monitoring.audit.budgets import (
    RULES,
    STRUCTURAL,
    Action,
    AuditEvent,
    AuditSettings,
    Budget,
    Rule,
    UpdateBudget,
)
from monitoring.audit.trail import Trail
from monitoring.audit.weights import nonfinite, update_norm
from monitoring.histogram import UPDATE_NORM_BOUNDS, Histogram

LABELS_A_LOOK = 256
SCALARS_A_LABEL = 256
"""A member's arrays are looked at (their shapes, and for NaN) once it learned so many labels, and a
label for so many of its scalars: a few tenths of a percent of what learning them costs."""
BYTES_A_LABEL = 1_000
"""A summary digests all that the member holds: it waits for a label for so many of its bytes. A
forest of 30 MB with a summary each 10,000 labels spent a seventh of its step on digests."""

_UNSET = Budget(limit=0, action="quarantine")
_EVENTS: dict[Action, AuditEvent] = {
    "warn": "warned",
    "reject": "rejected",
    "quarantine": "quarantined",
}
_WORST: tuple[Action, ...] = ("quarantine", "reject", "warn")


class Breach(NamedTuple):
    """A budget that a member passed."""

    rule: Rule
    got: float
    limit: float
    action: Action

    @classmethod
    def of(cls, rule: Rule, got: float, budget: Budget) -> Breach:
        """The measure beside the budget's own limit; a breach where it is above."""
        return cls(rule, got, budget.limit, budget.action)


class Auditor:
    """Keeps the trail of one group of learners and enforces its budgets.

    Parameters
    ----------
    settings : AuditSettings
    ensemble : Group
    trail : Trail

    Attributes
    ----------
    written : Counter
        Records by event.
    violations : Counter
        Passed budgets by ``"member/rule"``.
    step : int
        The one under way.
    update_norms : dict of str to Histogram
        Relative update norms by member, as far as they were measured.
    """

    def __init__(self, settings: AuditSettings, ensemble: Group[Any], trail: Trail) -> None:
        self.trail = trail
        self.written: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.update_norms = {name: Histogram(UPDATE_NORM_BOUNDS) for name in ensemble.names}
        self._settings = settings
        self._ensemble = ensemble
        self._expected = frozenset(settings.expected_events)
        self._rules = {name: settings.rules_of(name) for name in ensemble.names}
        self._total = settings.total_rules()
        self._guarded = {name for name in ensemble.names if self._can_undo(name, RULES)}
        self._sized = {name for name in ensemble.names if self._can_undo(name, STRUCTURAL)}
        self._watched = {name: AuditedMember() for name in ensemble.names}
        self._seen: dict[str, list[int]] = {}
        self._learned = 0
        self.step = self._at_ms = 0
        self._cause: list[list[Any]] = []
        self._records: list[bytes] = []
        self._learners: list[str] = []
        self._saved: dict[str, State] = {}
        self._before: dict[str, dict[str, Any]] = {}
        self._norms: dict[str, tuple[float, float]] = {}
        self._roots: dict[str, str] = {}

    # ------------------------------------------------------------------ the step

    def begin(self, step: int, at_ms: int) -> None:
        """A step begins; the first one puts every member on record as it was made."""
        self.step, self._at_ms = step, at_ms
        self._cause = []
        if step == 1:
            for name in self._ensemble.names:
                self._tell(name, "created", "configuration")

    def taking(self, topic: str, partition: int, first: int, last: int) -> None:
        """What is learned from here on comes from these records."""
        self._cause = [[topic, partition, first, last]]
        self._seen.setdefault(f"{topic}/{partition}", [first, last])[1] = last

    def joined(self, topic: str, partition: int, offset: int) -> None:
        """The partition is read from this offset on, whatever was taken of an older one."""
        key = f"{topic}/{partition}"
        self._seen[key] = [offset, offset - 1]
        for watched in self._watched.values():
            watched.told.pop(key, None)

    def moved(self, positions: Sequence[tuple[str, int, int]]) -> None:
        """Partitions moved here and away: these are read from here on, no others."""
        now = {f"{topic}/{partition}": offset for topic, partition, offset in positions}
        self._seen = {k: v for k, v in self._seen.items() if k in now}
        for topic, partition, offset in positions:
            if self._seen.get(f"{topic}/{partition}", [0, -2])[1] + 1 != offset:
                self.joined(topic, partition, offset)

    def forget(self, topic: str) -> None:
        """The topic was made anew: what was taken of the old one is no position in the new one."""
        self._seen = {k: v for k, v in self._seen.items() if k.rpartition("/")[0] != topic}

    def positions(self) -> list[tuple[str, int, int]]:
        """Topic, partition and next offset of everything that is taken, sorted."""
        keys = [(*key.rpartition("/")[::2], last) for key, (_, last) in self._seen.items()]
        return sorted((topic, int(partition), last + 1) for topic, partition, last in keys)

    def refused(self) -> dict[str, int]:
        """Updates undone since the last one that was kept, by member."""
        return {name: watched.refused for name, watched in self._watched.items()}

    def versions(self) -> dict[str, int]:
        """Updates that were kept, by member."""
        return {name: watched.version for name, watched in self._watched.items()}

    def take(self) -> list[bytes]:
        """The records since the last call, in order."""
        records, self._records = self._records, []
        return records

    def record(
        self,
        event: AuditEvent,
        cause: str,
        target: str,
        detail: Mapping[str, Any],
        actor: str = "engine",
    ) -> None:
        """Append one record; a member's also says which version of it is meant."""
        self._append(event, cause, target, detail, actor)
        self.written[event] += 1

    def _append(
        self,
        event: AuditEvent,
        cause: str,
        target: str,
        detail: Mapping[str, Any],
        actor: str = "engine",
    ) -> None:
        watched = self._watched.get(target)
        raw = self.trail.record(
            event,
            at_ms=self._at_ms,
            cause=cause,
            actor=actor,
            model=target,
            detail={"step": self.step, "updates": self._learned, "inside": event in self._expected}
            | ({} if watched is None else {"version_to": watched.version})
            | dict(detail),
        )
        self._records.append(raw)

    def checkpointed(self, contents: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Put on record what a checkpoint of this step holds, this record counted; gives that."""
        self.written["checkpointed"] += 1
        found = contents()
        self._append("checkpointed", "checkpoint", "service", found)
        return found

    def members(self) -> dict[str, Any]:
        """Digest and size of every member."""
        members = self._ensemble.members
        held = {name: size_up(member, name).totals.held for name, member in members.items()}
        return {"roots": self._ensemble.roots(), "held": held}

    # ------------------------------------------------------------------ around an update

    def before(self, n: int, members: Sequence[str]) -> dict[str, Callable[[], None]]:
        """These members are about to learn ``n`` labels: keep what undoing and measuring need.

        Gives what may be done for :meth:`after` as soon as a member has learned, in any thread:
        the digest of one whose summary will be due. What is not done by then is done there.
        """
        self._saved, self._before, self._norms, self._roots = {}, {}, {}, {}
        early: dict[str, Callable[[], None]] = {}
        out = self._ensemble.frozen | self._ensemble.quarantined
        self._learners = [name for name in members if name not in out]
        for name in self._learners:
            member = self._ensemble.members[name]
            if name in self._guarded:
                self._saved[name] = member.state()
            due = self._due(self._watched[name], n)
            if due:
                early[name] = partial(self._digest, name, member)
            measured = "update_norm" in self._rules[name] or due
            if measured and (tensors := member.tensors()):
                self._before[name] = {path: a.copy() for path, a in tensors.items()}
        return early

    def _digest(self, name: str, member: Learner) -> None:
        self._roots[name] = member.digest()

    def after(self, n: int, errors: Sequence[MemberError]) -> list[str]:
        """They have learned, some with errors; gives the names of those whose update holds.

        1. A member that failed is undone if it can be, and put into quarantine.
        2. One that passed a budget is dealt with as the budget says.
        3. Of the others, those whose parts were replaced, whose shape changed or whose summary is
           due are put on record.
        """
        failed = {error.member: error for error in errors}
        self._learned += n
        kept = []
        for name in self._learners:
            if name in failed:
                self.failed(failed[name], {"undone": self._undo(name), "ranges": self._cause})
                continue
            watched = self._watched[name]
            watched.unchecked += n
            tensors = self._tensors(name)
            breaches = self._breaches(name, n, tensors)
            if breaches and self._enforce(name, n, breaches):
                continue
            kept.append(name)
            watched.kept(n, self._norms[name][1] if name in self._norms else None)
            if name not in self._ensemble.quarantined:
                self._look(name, tensors)
        self._saved, self._before, self._roots = {}, {}, {}
        return kept

    def failed(self, error: MemberError, detail: Mapping[str, Any]) -> None:
        """A member failed: it leaves the ensemble."""
        self._ensemble.quarantine(error.member)
        text = {"error": str(error)[:500]}
        self.record("quarantined", "error", error.member, text | dict(detail))

    def _can_undo(self, name: str, rules: Sequence[Rule]) -> bool:
        """Whether a budget of these rules may undo an update of the member."""
        budgets = [*self._rules[name].items(), *self._total.items()]
        return any(rule in rules and budget.action != "warn" for rule, budget in budgets)

    def _tensors(self, name: str) -> Mapping[str, Any] | None:
        """The member's arrays, if it is time to look at them: always where that can undo it."""
        watched = self._watched[name]
        always = name in self._saved or "nonfinite" in self._rules[name]
        if not (always or name in self._before or watched.unchecked >= LABELS_A_LOOK):
            return None
        tensors = self._ensemble.members[name].tensors()
        scalars = sum(a.size for a in tensors.values())
        if not (always or watched.unchecked * SCALARS_A_LABEL >= scalars):
            return tensors if name in self._before else None
        watched.unchecked = 0
        return tensors

    def _due(self, watched: AuditedMember, n: int) -> bool:
        learned = watched.learned + n - watched.told_learned
        return learned >= max(self._settings.summary_every, watched.bytes // BYTES_A_LABEL)

    def _undo(self, name: str) -> bool:
        """Become what the member was before this update, if that was kept."""
        saved = self._saved.get(name)
        if saved is not None:
            self._ensemble.members[name].restore(saved)
        return saved is not None

    def _breaches(self, name: str, n: int, tensors: Mapping[str, Any] | None) -> list[Breach]:
        """The budgets that this update passed; counts are judged here only if they can undo it."""
        rules = self._rules[name]
        found: list[Breach] = []
        if tensors is not None and name in self._before:
            norms = self._norms[name] = update_norm(self._before[name], tensors)
            if math.isfinite(norms[1]):
                self.update_norms[name].observe(norms[1])
            budget = rules.get("update_norm")
            if isinstance(budget, UpdateBudget) and self._watched[name].age >= budget.after:
                limit = max(budget.limit, budget.times * self._watched[name].usual(n))
                found.append(Breach("update_norm", norms[1], limit, budget.action))
        if tensors is not None and self._watched[name].unchecked == 0:
            bad = sum(nonfinite(a) for a in tensors.values())
            found.append(Breach.of("nonfinite", bad, rules.get("nonfinite", _UNSET)))
        if name in self._sized:
            found += self._counts(name, size_up(self._ensemble.members[name], name))
        return [one for one in found if one.got > one.limit]

    def _counts(self, name: str, size: Size) -> list[Breach]:
        """What a count measures, beside the member's budgets and those of all together."""
        watched, at_ms = self._watched[name], self._at_ms
        own = (size.totals.held, size.totals.bytes, watched.growth(size.totals.held, at_ms))
        others = [w for other, w in self._watched.items() if other != name]
        sums = (
            own[0] + sum(w.held for w in others),
            own[1] + sum(w.bytes for w in others),
            own[2] + sum(w.growth(w.held, at_ms) for w in others),
        )
        return [
            Breach.of(rule, got, rules[rule])
            for rules, measures in ((self._rules[name], own), (self._total, sums))
            for rule, got in zip(STRUCTURAL, measures, strict=True)
            if rule in rules
        ]

    def _enforce(self, name: str, n: int, breaches: Sequence[Breach]) -> bool:
        """Do what the gravest of the passed budgets says; returns whether the update is undone."""
        action = next(a for a in _WORST if any(b.action == a for b in breaches))
        undone = action != "warn" and self._undo(name)
        if action == "quarantine":
            self._ensemble.quarantine(name)
        self._watched[name].refused += undone
        for breach in breaches:
            self.violations[f"{name}/{breach.rule}"] += 1
        passed = [
            {"rule": b.rule, "limit": b.limit, "got": b.got, "action": b.action} for b in breaches
        ]
        detail = {"breaches": passed, "rows": n, "undone": undone, "ranges": self._cause}
        self.record(_EVENTS[action], "budget", name, detail)
        return undone

    # ------------------------------------------------------------------ records of a member

    def _look(self, name: str, tensors: Mapping[str, Any] | None) -> None:
        """Record what is visible at little cost; a full record when one is due."""
        watched, member = self._watched[name], self._ensemble.members[name]
        replaced = member.replaced()
        if replaced != watched.replaced:
            detail = {"replaced": replaced - watched.replaced, "ranges": self._cause}
            watched.replaced = replaced
            self.record("swapped", "drift", name, detail)
        reshaped = tensors is not None and _shapes(tensors) != watched.shapes
        if reshaped or self._due(watched, 0):
            self._tell(name, None, "update")

    def _tell(
        self,
        name: str,
        event: AuditEvent | None,
        cause: str,
        extra: Mapping[str, Any] | None = None,
        root: str | None = None,
    ) -> None:
        """The full record of a member; ``None``: the event that the count shows, its digest."""
        watched, member = self._watched[name], self._ensemble.members[name]
        tensors = member.tensors()
        size = size_up(member, name)
        shown = event or event_of(watched, size)
        counts = self._counts(name, size)
        detail = watched.since(self._seen, self.step) | totals_of(size) | dict(extra or {})
        if shown != "summary":
            detail |= layers_of(size)
        if name in self._norms:
            moved, relative = self._norms[name]
            detail["update_norm"] = {"absolute": moved, "relative": relative}
        detail |= tensors_of(watched.weights.measure(tensors))
        detail["root"] = root or self._roots.get(name) or member.digest()
        detail["budgets"] = [
            {"rule": b.rule, "limit": b.limit, "got": b.got, "ok": b.got <= b.limit} for b in counts
        ]
        watched.counted(size, self._at_ms)
        watched.shapes = _shapes(tensors)
        self.record(shown, cause, name, detail)
        if warned := [b for b in counts if b.got > b.limit and b.action == "warn"]:
            self._enforce(name, 0, warned)

    def renewed(
        self,
        name: str,
        event: AuditEvent,
        cause: str,
        detail: Mapping[str, Any],
        root: str | None = None,
    ) -> None:
        """Another model stands in the member's place: record it whole, and measure from there.

        ``root``: its digest, where that is known: of a large model that takes longest.
        The jump itself passes no budget: growth and change of the arrays begin with the new model.
        """
        member = self._ensemble.members[name]
        self._watched[name].renew(size_up(member, name), member.replaced(), self._at_ms)
        self._norms.pop(name, None)
        self._tell(name, event, cause, detail, root)

    # ------------------------------------------------------------------ another configuration

    def reconfigured(
        self,
        told: Mapping[str, Any],
        added: Sequence[str],
        removed: Sequence[str],
        changed: Mapping[str, Sequence[str]],
        taught: Mapping[str, Mapping[str, Any]],
        cause: str = "configuration",
        actor: str = "engine",
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a new configuration, ``told`` of it, and each member that it changed.

        ``changed``: member to the names of the parameters that are others now. ``taught``: by what
        a member had learned before it came (``backfill``, ``history``), and what. ``asked``: where
        the command stands that asked for it, by whom (``actor``) and why.
        """
        self.record("reconfigured", cause, "service", {**told, **(asked or {})}, actor)
        for name in removed:
            self.record("member_removed", "configuration", name, {})
        members: list[tuple[str, AuditEvent, dict[str, Any]]] = [
            *((name, "hyper_changed", {"changed": list(keys)}) for name, keys in changed.items()),
            *((name, "member_added", {}) for name in added),
        ]
        for name, event, detail in members:
            if name in taught:
                [by] = taught[name]
                self.renewed(name, event, by, {**detail, **taught[name]})
            else:
                self._tell(name, event, "configuration", detail)

    # ------------------------------------------------------------------ state

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; the trail has a state of its own."""
        return {
            "seen": {key: list(span) for key, span in self._seen.items()},
            "learned": self._learned,
            "written": dict(self.written),
            "violations": dict(self.violations),
            "update_norms": {name: h.state() for name, h in self.update_norms.items()},
            "watched": {name: w.state() for name, w in self._watched.items()},
        }

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these members, by name; the others start new."""
        self._seen = {key: list(span) for key, span in state["seen"].items()}
        self._learned = int(state["learned"])
        self.written = Counter(state["written"])
        self.violations = Counter(state["violations"])
        for ours, theirs in (
            (self.update_norms, state["update_norms"]),
            (self._watched, state["watched"]),
        ):
            for name in [n for n in ours if n in theirs]:
                ours[name].restore(theirs[name])


def _shapes(tensors: Mapping[str, Any]) -> str:
    """Names, shapes and types of learned arrays as text: cheap to make at every update."""
    return ";".join([f"{path}{a.shape}{a.dtype}" for path, a in tensors.items()])
