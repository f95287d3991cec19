"""The step of a scorer: events are scored and wait for their labels; what these tell is handed on.

It learns nothing itself: its members are those of the newest version of the learner that it has
taken over, by a record like any other, so that a replay takes it over at the same place.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from models.base import State, StateError
from stream.contract.commands import Checkpoint, SetThreshold
from stream.contract.letters import DeadLetter
from stream.contract.records import NewRecord, Slice
from stream.decode.codec import Labels
from stream.step.engine import Made
from stream.step.roles.examples import Foreign, Handing, meaning
from stream.step.roles.versions import Incoming, Version
from stream.step.scoring import ScoringEngine

OWN = (Checkpoint, SetThreshold)
"""Commands that a scorer follows; what the others do comes to it in versions."""


class ScorerEngine(ScoringEngine):
    """Takes events, labels and versions; gives scores and examples.

    Attributes
    ----------
    versions : Incoming
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        config, meant = self.config, meaning(self.config)
        self.versions = Incoming(meant)
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

    def _versions(self, piece: Slice, out: Made) -> None:
        """Take the newest version over that is whole."""
        newest: tuple[Version, State] | None = None
        for record in piece.records:
            try:
                newest = self.versions.take(record.value) or newest
            except Foreign as error:
                out.letters.append(DeadLetter(record, "foreign", str(error)))
        if newest is not None:
            self._take_over(*newest)

    def _take_over(self, version: Version, state: State) -> None:
        self.ensemble.restore(state)
        if (got := self.ensemble.digest()) != version.digest:
            raise StateError(
                f"version {version.number}: expected digest {version.digest}, got {got}; run all"
                " processes of the service by the same version of Millrace and its libraries"
            )
        self._handing.version = version.number
        self.counts["versions"] += 1
        detail = {"number": version.number, "digest": version.digest, "at_ms": version.at_ms}
        self.auditor.record("version_applied", "learner", "ensemble", detail)

    def _handed(self) -> tuple[list[NewRecord], bytes]:
        return self._handing.take(self.config.shard.index)

    def _keep_all(self) -> None:
        """Nothing: the learner keeps versions of the members."""

    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"versions": self.versions}

    def restore(self, state: State, segments: Any = None) -> None:
        """See :meth:`Engine.restore`."""
        super().restore(state, segments)
        self._handing.version = self.versions.current.number
