"""The guard: each member beside its last good version, and the ensemble beside all of these.

Such a version is the member as it was when a regular version was kept (``ledger.py``). It scores on
what the member scores and learns nothing; whether the member has become worse,
``monitoring/drift/evidence.py`` says, by scores as made. Then going back is proposed, or done. The
engine calls :meth:`Guard.score` for events, :meth:`judge` for truths, :meth:`kept` when regular
versions were kept. Part of the engine's state: no clock, no I/O; ``docs/lifecycle.md`` says what
comes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, FeatureBatch, Model, State
from models.ensemble.ensemble import Ensemble, MemberError
from models.task import Task
from monitoring.audit.auditor import Auditor
from monitoring.drift.evidence import LEAST, Guarded
from monitoring.drift.settings import ChallengersSettings, GuardSettings
from stream.step.lifecycle.beside import Beside
from stream.step.lifecycle.ledger import Ledger
from stream.step.pending.store import Pending

RIPE = 4
"""Blocks whose labels a member has learned before a version of it is one to compare with."""
_ALL = "ensemble"


class _Watch(Beside):
    """How a member, or the ensemble, compares with what it was."""

    def __init__(self, digest: str, due_ms: int, settings: ChallengersSettings, task: Task) -> None:
        # What comes to be worse looks like blocks that depend on each other: these stay short.
        super().__init__(settings.block, settings.rows, task, lengthen=False)
        self.digest = digest
        self.due_ms = due_ms
        """Event time from which a newer version may take the place of this one."""
        self.proposed = False

    @property
    def ahead(self) -> bool:
        """Whether what it was has been better lately, or nothing can be said yet."""
        return len(self.blocks.sums) < LEAST or sum(self.blocks.sums[-LEAST:]) > 0

    def state(self) -> State:
        own = {"digest": self.digest, "due_ms": self.due_ms, "proposed": self.proposed}
        return super().state() | own

    def restore(self, state: State) -> None:
        super().restore(state)
        self.digest, self.due_ms = state["digest"], int(state["due_ms"])
        self.proposed = bool(state["proposed"])


class Guard:
    """Watches the members of one engine, unless ``settings`` say ``none``.

    Parameters
    ----------
    settings : GuardSettings
    blocks : ChallengersSettings
        What a block is.
    ensemble : Ensemble
        Holds the versions themselves.
    auditor : Auditor
    pending : Pending
        Where the rows wait whose links wait here.
    ledger : Ledger
        Learns which versions must stay, and which members have become worse.
    counts : Counter
        The engine's: labels that each member has learned.
    put_back : callable
        ``(name, model, digest)``: the model takes the member's place.
    """

    def __init__(
        self,
        settings: GuardSettings,
        blocks: ChallengersSettings,
        ensemble: Ensemble,
        auditor: Auditor,
        pending: Pending,
        ledger: Ledger,
        counts: Counter[str],
        put_back: Callable[[str, Model, str], None],
    ) -> None:
        self._settings = settings
        self._blocks = blocks
        self._ensemble = ensemble
        self._auditor = auditor
        self._pending = pending
        self._ledger = ledger
        self._counts = counts
        self._put_back = put_back
        self._running: dict[str, _Watch] = {}

    def _watched(self) -> list[str]:
        """What is watched: members in their order, then the ensemble.

        In the order in which they came a restored guard would go another way.
        """
        return [name for name in (*self._ensemble.voters, _ALL) if name in self._running]

    @property
    def on(self) -> bool:
        """Whether anything is watched."""
        return self._settings.on_worse != "none"

    # ------------------------------------------------------------------ begin and end

    def kept(self, at_ms: int) -> None:
        """Regular versions were kept: each is what its member is compared with, if it is time.

        At first once the member has learned enough; then ``guard.renew`` after the one before, or
        after the last alarm, unless that one has been better lately, of the member or of all.
        """
        if not self.on:
            return
        whole = self._running.get(_ALL)
        ahead = whole is not None and whole.ahead
        for name in self._ensemble.voters:
            running = self._running.get(name)
            over = running is None or not (at_ms < running.due_ms or running.ahead or ahead)
            learned = self._counts[f"updates.{name}"] >= RIPE * self._blocks.rows
            out = name in self._ensemble.quarantined or self._ledger.alarming(name)
            if over and learned and not out:
                self._begin(name, at_ms)

    def _begin(self, name: str, at_ms: int) -> None:
        before = self._running.get(name)
        version = self._ledger.versions()[name][-1]
        self._ensemble.remember(name)
        self._running[name] = self._watch(version.digest, at_ms)
        detail = {"version": version.digest, "kept_at_step": version.seq}
        if before is not None and before.proposed:
            detail["withdrawn"] = before.digest
        self._auditor.record("guarded", "guard", name, detail)
        self._begin_whole()

    def _begin_whole(self) -> None:
        """What all were is another thing now."""
        before = self._running.pop(_ALL, None)
        if before is not None and before.proposed:
            detail = {"reason": "a member is compared with another version, or with none"}
            self._auditor.record("guard_ended", "guard", _ALL, detail)
        if self._ensemble.last_good:
            self._running[_ALL] = self._watch("", 0)
        self._tell_ledger()

    def _watch(self, digest: str, at_ms: int) -> _Watch:
        due_ms = at_ms + self._settings.renew
        return _Watch(digest, due_ms, self._blocks, self._ensemble.task)

    def replaced(self, name: str) -> None:
        """Another model stands in the member's place: that one is to be known first."""
        if name in self._running:
            self._end(name, "another model took the member's place")

    def _end(self, name: str, reason: str) -> None:
        digest = self._running[name].digest
        self._forget(name)
        self._auditor.record("guard_ended", "guard", name, {"version": digest, "reason": reason})

    def _forget(self, name: str) -> Model:
        """It is compared no more; gives the version."""
        del self._running[name]
        model = self._ensemble.last_good.pop(name)
        self._begin_whole()
        return model

    def _tell_ledger(self) -> None:
        running = self._running
        all_of_them = bool(self._ensemble.last_good) and running[_ALL].proposed
        self._ledger.guarded = {n: running[n].digest for n in self._watched() if n != _ALL}
        self._ledger.worse = {n for n in self._ledger.guarded if all_of_them or running[n].proposed}

    def alarmed(self, signal: str, at_ms: int) -> None:
        """The error of a member, or of the ensemble, has risen: no newer version is good soon."""
        for name, running in self._running.items():
            if signal in (_ALL, name):
                running.due_ms = max(running.due_ms, at_ms + self._settings.renew)

    # ------------------------------------------------------------------ the step

    def score(self, x: FeatureBatch, links: F64, numbers: I64) -> None:
        """What was scores ``n`` events, of which the members said ``links`` ``(n, m, k)``.

        ``numbers`` are theirs in the pending store.
        """
        if not self._running:
            return
        first, head = int(numbers[0]), self._pending.head
        beside = links.copy()
        for name in self._watched():
            if name == _ALL:
                continue
            if name in self._ensemble.quarantined:
                # The member says nothing to compare with.
                said = np.full_like(links[:, 0], np.nan)
            else:
                try:
                    said = self._ensemble.score_last_good(name, x)
                except MemberError as error:
                    self._end(name, str(error)[:500])
                    continue
                beside[:, self._ensemble.voters.index(name)] = said
            self._running[name].hold(said, first, head)
        if _ALL in self._running:
            self._running[_ALL].hold(self._ensemble.combined(beside), first, head)

    def judge(self, numbers: I64, rows: NDArray[Any], y: F64) -> None:
        """The truths of ``n`` rows came: what was said is compared with what would have been."""
        begun = dict(self._running)
        for name in self._watched():
            running = begun[name]
            if self._running.get(name) is not running:
                continue  # went back with others
            known = running.holds(numbers) & ~rows["cold"]
            if known.any():
                ours = (
                    rows["score"][known]
                    if name == _ALL
                    else rows["links"][known, self._ensemble.voters.index(name)]
                )
                at_ms, over = rows["event_time_ms"][known], partial(self._decided, name)
                running.judge(at_ms, ours, running.of(numbers[known]), y[known], over)

    def _decided(self, name: str) -> bool:
        """A block is over: propose, or go back; whether the comparison is over too."""
        running = self._running[name]
        if running.proposed or running.blocks.changed() < self._settings.false_every:
            return False
        detail = self._detail(name)
        if self._settings.on_worse == "rollback":
            self._go_back(name, detail)
            return True
        running.proposed = True
        self._tell_ledger()
        self._auditor.record("rollback_proposed", "guard", name, detail)
        return False

    def _go_back(self, name: str, detail: Mapping[str, Any]) -> None:
        names = [n for n in self._watched() if n != _ALL] if name == _ALL else [name]
        if name == _ALL:
            self._auditor.record("rolled_back", "guard", name, {"members": names, **detail})
        for member in names:
            digest = self._running[member].digest
            self._put_back(member, self._forget(member), digest)
            told = {"to": digest} if name == _ALL else detail
            self._auditor.renewed(member, "rolled_back", "guard", told, digest)

    def _detail(self, name: str) -> dict[str, Any]:
        """What the trail tells of a member that has become worse."""
        at = self._standing(name)
        to = {"to": at.version} if at.version else {"to": dict(self._ledger.guarded)}
        return to | {
            "labels": at.labels,
            "loss": at.loss,
            "last_good_loss": at.last_good_loss,
            "blocks": at.blocks,
            "evidence": at.evidence,
            "evidence_needed": at.needed,
        }

    # ------------------------------------------------------------------ state

    def standings(self) -> list[Guarded]:
        """How each compares with what it was: the ensemble, then members in their order."""
        names = (_ALL, *self._ensemble.voters)
        return [self._standing(name) for name in names if name in self._running]

    def _standing(self, name: str) -> Guarded:
        running = self._running[name]
        loss, then = running.losses
        return Guarded(
            member=name,
            version=running.digest,
            labels=int(running.judged[0]),
            loss=loss,
            last_good_loss=then,
            blocks=len(running.blocks.sums),
            block_ms=running.blocks.length_ms,
            evidence=running.blocks.changed(),
            needed=float(self._settings.false_every),
            proposed=running.proposed,
        )

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; the models are part of the ensemble's."""
        return {"running": {name: one.state() for name, one in self._running.items()}}

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these members; call after the ensemble's."""
        self._running = {}
        if self._ensemble.last_good:
            self._begin_whole()
        for name in (*self._ensemble.last_good, _ALL):
            if name in state["running"]:
                found = self._running[name] = self._watch("", 0)
                found.restore(state["running"][name])
        self._tell_ledger()


def carried(state: State, on: bool, whole: bool) -> State:
    """The state of an engine, for one of which the guard is ``on`` or not.

    ``whole``: its ensemble is the same.
    """
    if not on:
        ensemble = {key: part for key, part in state["ensemble"].items() if key != "last_good"}
        return {key: part for key, part in state.items() if key != "guard"} | {"ensemble": ensemble}
    running = state.get("guard", {"running": {}})["running"].items()
    return state | {"guard": {"running": {n: one for n, one in running if whole or n != _ALL}}}
