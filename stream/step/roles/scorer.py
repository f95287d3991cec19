"""The step of a scorer: events are scored and wait for their labels; what these tell is handed on.

It learns nothing itself: its members are those of the newest version of the learner that it has
taken over, by a record like any other, so that a replay takes it over at the same place.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from models.base import I64, State, StateError
from stream.contract.commands import Checkpoint, SetThreshold
from stream.contract.letters import DeadLetter
from stream.contract.records import Slice
from stream.decode.codec import Events, Labels
from stream.settings import specs
from stream.step.engine import Handed, Made
from stream.step.join import Left
from stream.step.roles.examples import Foreign, Handing, meaning, told_meaning
from stream.step.roles.risk import Sharing, shared_by, take_in
from stream.step.roles.routes import Routes, Stage, together, waited
from stream.step.roles.versions import Coming, Incoming
from stream.step.scoring import ScoringEngine

OWN = (Checkpoint, SetThreshold)
"""Commands that a scorer follows; what the others do comes to it in versions."""


class ScorerEngine(ScoringEngine):
    """Takes events, labels and versions; gives scores and examples.

    Attributes
    ----------
    versions : Incoming
    sharing : Sharing or None
        What is told and learned of entities that other scorers see too; ``None`` without any.
    routes : Routes or None
        How labels that stand anywhere come to their events; ``None`` where they stand with these.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        config, meant = self.config, meaning(self.config)
        vouched = partial(specs.check, task=self.task.type, known=config.members)
        self.versions = Incoming(meant, self.ensemble.crew, vouched)
        self.challengers.follows = True
        self._handing = Handing(
            self.features,
            self.ensemble,
            self.quality,
            self.drift,
            self.auditor,
            self.reactions,
            None,
            None,
            None,
            self.counts,
            self.task,
        )
        self._handing.meaning = meant
        self._handing.beside = self.challengers.said
        self.sharing: Sharing | None = None
        if config.shared_entities:
            self.sharing = shared_by(config, self.features)
            self._handing.tell_known = self.sharing.known
            self._handlers[config.risk_topic] = partial(take_in, self.sharing)
        self.routes: Routes | None = None
        if config.routed:
            shard = config.shard
            self.routes = Routes(
                *(shard.index, shard.count, told_meaning(config)),
                *(config.label.horizon, self.task),
            )
            self.join.heard_ms = 0
            self._handlers[config.routes_topic] = partial(self._routed, self.routes)
        self.outcomes.learning = self._handing
        self._handlers[config.models_topic] = self._versions

    def _control(self, piece: Slice, out: Made) -> None:
        own = [r for r in piece.records if isinstance(self.codec.command(r), OWN)]
        super()._control(Slice(piece.range, own), out)

    def wanted(self, slices: Any) -> list[tuple[str, str]]:
        """Nothing: models come in versions."""
        return []

    def _correct(self, labels: Labels, put_right: Counter[str]) -> None:
        """No label takes the place of one that was handed over: members learned it elsewhere."""
        for record in labels.records:
            error = "expected the first label of its event: of many processes none corrects another"
            self.join.refuse(record, "label_conflict", error)

    def _score(self, events: Events, out: Made) -> None:
        """See :meth:`ScoringEngine._score`; others are told of the events' entities."""
        if self.sharing is not None:
            self.sharing.scoring(events.columns, self.counts, self.auditor)
        super()._score(events, out)
        self.features.note(events.columns, events.records[0].partition)
        if self.routes is not None:
            self.routes.hold(events.id_hash)

    # ------------------------------------------------------------------ labels of any partition

    def _events(self, piece: Slice, out: Made) -> None:
        super()._events(piece, out)
        if self.routes is not None:
            newest_ms, past_ms = self.routes.hear(self.watermark_ms)
            self.join.heard(newest_ms)
            self.join.past(past_ms)
            out.letters += self.join.take_letters()

    def _left(self, left: Left | None, out: Made) -> None:
        super()._left(left, out)
        if self.routes is not None and left is not None:
            self.routes.leave(left.rows["id"])

    def _told(self, labels: Labels, out: Made) -> None:
        """See :meth:`ScoringEngine._told`; ids of other owners go there."""
        if (routes := self.routes) is None:
            super()._told(labels, out)
            return
        mine = routes.mine(labels.id_hash)
        if not mine.all():
            to = np.where(mine, -1, routes.owner(labels.id_hash))
            self._hand(routes, labels, to, Stage.ASKED)
        if mine.any():
            self._find(routes, labels if mine.all() else labels.take(np.flatnonzero(mine)), -1, out)

    def _find(self, routes: Routes, labels: Labels, but: int, out: Made) -> None:
        """Labels whose ids this is the owner of go to the holder; not to one who says no."""
        at = routes.holders.find(labels.id_hash, but)
        at[self.pending.find(labels.id_hash) >= 0] = -1
        self._hand(routes, labels, at, Stage.FOUND)
        if (rest := at < 0).any():
            super()._told(labels if rest.all() else labels.take(np.flatnonzero(rest)), out)

    def _routed(self, routes: Routes, piece: Slice, out: Made) -> None:
        """Take in what other scorers tell of events, record by record, and then of labels."""
        found: dict[Stage, list[Labels]] = {Stage.FOUND: [], Stage.ASKED: []}
        for record in piece.records:
            try:
                told = routes.read(record.value)
            except Foreign as error:
                out.letters.append(DeadLetter(record, "foreign", str(error)))
                continue
            for stage, labels in told.labels:
                if stage is Stage.LEFT:  # before its sender holds an event of this id again
                    self._find(routes, labels, told.sender, out)
                else:
                    found[stage].append(labels)
            routes.holders.add(told.held, told.sender)
            if claimed := [label for _, label in self.early.claim(told.held.tolist())]:
                to = np.full(len(claimed), told.sender)
                self._hand(routes, waited(claimed), to, Stage.FOUND)
        newest_ms, past_ms = routes.hear(self.watermark_ms)
        self.join.heard(newest_ms)  # these labels came when their senders were so far
        if found[Stage.FOUND]:
            self._found(routes, together(found[Stage.FOUND]), out)
        if found[Stage.ASKED]:
            self._told(together(found[Stage.ASKED]), out)
        self.join.past(past_ms)
        out.letters += self.join.take_letters()

    def _found(self, routes: Routes, labels: Labels, out: Made) -> None:
        """Labels of events that were held here; what has left since goes back."""
        here = self.pending.find(labels.id_hash) >= 0
        if here.any():
            super()._told(labels if here.all() else labels.take(np.flatnonzero(here)), out)
        if here.all():
            return
        gone = labels.take(np.flatnonzero(~here))
        mine = routes.mine(gone.id_hash)
        self._hand(routes, gone, np.where(mine, -1, routes.owner(gone.id_hash)), Stage.LEFT)
        if mine.any():
            self._find(routes, gone.take(np.flatnonzero(mine)), -1, out)

    def _hand(self, routes: Routes, labels: Labels, to: I64, stage: Stage) -> None:
        self.counts["labels.handed"] += routes.hand(labels, to, stage)

    # ------------------------------------------------------------------ versions

    def _versions(self, piece: Slice, out: Made) -> None:
        """Take the newest version over that is whole."""
        newest: Coming | None = None
        for record in piece.records:
            try:
                newest = self.versions.take(record.value) or newest
            except Foreign as error:
                out.letters.append(DeadLetter(record, "foreign", str(error)))
        if newest is not None:
            self._take_over(newest)

    def _take_over(self, coming: Coming) -> None:
        version, before = coming.version, self.ensemble.specs
        self.ensemble.restore_view(coming.state)
        if (got := self.ensemble.view_digest(coming.view, coming.roots)) != version.digest:
            raise StateError(
                f"version {version.number}: expected digest {version.digest}, got {got}; run all"
                " processes of the service by the same version of Millrace and its libraries"
            )
        self.challengers.follow(coming.led)
        for name in self.ensemble.voters:
            if self.reasons is not None and self.ensemble.specs.get(name) != before.get(name):
                self.reasons.replaced(name)
        self._handing.version = version.number
        self.counts["versions"] += 1
        detail: dict[str, Any] = {
            "number": version.number,
            "digest": version.digest,
            "at_ms": version.at_ms,
        }
        if coming.led:
            detail["challengers"] = sorted(self.ensemble.challengers)
        self.auditor.record("version_applied", "learner", "ensemble", detail)

    def _handed(self) -> tuple[Handed, bytes]:
        config, sharing = self.config, self.sharing
        records, covered = self._handing.take(config.shard.index)
        handed = {config.examples_topic: records}
        if sharing is not None:
            if self._quiet:
                sharing.beat(self.watermark_ms)
            told, also = sharing.take(config.shard.index, self.watermark_ms)
            handed[config.risk_topic] = told
            covered += also
        if (routes := self.routes) is not None:
            if self._quiet:
                routes.beat(self.watermark_ms)
            waiting = self.pending.column("id") if routes.untold else np.empty(0, np.uint64)
            told, also = routes.take(self.watermark_ms, waiting)
            handed[config.routes_topic] = told
            covered += also
        return handed, covered

    def _time_passed(self) -> None:
        """Nothing: the learner trains members, by the history of what it has learned."""

    def _keep_all(self) -> None:
        """Nothing: the learner keeps versions of the members."""

    def _parts(self) -> dict[str, Any]:
        own = {"versions": self.versions, "risk": self.sharing, "routes": self.routes}
        return super()._parts() | {name: part for name, part in own.items() if part is not None}

    def restore(self, state: State, segments: Any = None) -> None:
        """See :meth:`Engine.restore`."""
        super().restore(state, segments)
        self._handing.version = self.versions.current.number
        if self.routes is not None:
            self.join.heard_ms = self.routes.heard_ms
