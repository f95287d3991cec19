"""The step of a scorer: events are scored and wait for their labels; what these tell is handed on.

It learns nothing itself: its members are those of the newest version of the learner that it has
taken over, by a record like any other, so that a replay takes it over at the same place.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from models.base import State, StateError
from stream.contract.commands import Checkpoint, SetThreshold
from stream.contract.letters import DeadLetter
from stream.contract.records import Slice
from stream.decode.codec import Events, Labels
from stream.step.engine import Handed, Made
from stream.step.roles.examples import Foreign, Handing, meaning
from stream.step.roles.risk import Sharing
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
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        config, meant = self.config, meaning(self.config)
        self.versions = Incoming(meant, self.ensemble.crew)
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
        self.sharing: Sharing | None = None
        if config.shared_entities:
            others = [i for i in range(config.shard.count) if i != config.shard.index]
            self.sharing = Sharing(self.features, meant, others)
            self._handing.tell_known = self.sharing.known
            self._handlers[config.risk_topic] = partial(self._risk, self.sharing)
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

    def _risk(self, sharing: Sharing, piece: Slice, out: Made) -> None:
        """Take in what another scorer tells of entities that it sees too."""
        for record in piece.records:
            try:
                sharing.read(record.partition, record.value)
            except Foreign as error:
                out.letters.append(DeadLetter(record, "foreign", str(error)))

    def _score(self, events: Events, out: Made) -> None:
        """See :meth:`ScoringEngine._score`; others are told of the events' entities."""
        if (sharing := self.sharing) is not None:
            columns = events.columns
            lacking = sharing.lack(columns.event_time_ms)
            self.counts["risk.lacking"] += int(lacking.sum())
            if (now := bool(lacking[-1])) != sharing.lacking:
                sharing.lacking = now
                told = {str(p): at_ms for p, at_ms in sorted(sharing.told_ms.items())}
                detail = {"lacking": now, "told_ms": told, "at_ms": int(columns.event_time_ms[-1])}
                self.auditor.record("risk_lacking", "scorer", "ensemble", detail)
            keys = [columns.entities[entity] for entity in self.features.shared]
            sharing.scored(np.column_stack(keys), columns.event_time_ms)
        super()._score(events, out)
        self.features.note(events.columns, events.records[0].partition)

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
        version = coming.version
        self.ensemble.restore_view(coming.state)
        if (got := self.ensemble.view_digest(coming.view, coming.roots)) != version.digest:
            raise StateError(
                f"version {version.number}: expected digest {version.digest}, got {got}; run all"
                " processes of the service by the same version of Millrace and its libraries"
            )
        self._handing.version = version.number
        self.counts["versions"] += 1
        detail = {"number": version.number, "digest": version.digest, "at_ms": version.at_ms}
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
        return handed, covered

    def _keep_all(self) -> None:
        """Nothing: the learner keeps versions of the members."""

    def _parts(self) -> dict[str, Any]:
        own = {"versions": self.versions}
        return super()._parts() | own | ({} if self.sharing is None else {"risk": self.sharing})

    def restore(self, state: State, segments: Any = None) -> None:
        """See :meth:`Engine.restore`."""
        super().restore(state, segments)
        self._handing.version = self.versions.current.number
