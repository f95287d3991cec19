"""The step that scores: events are scored, held for their labels, and learned once these are told.

Here stands the order of things; ``join.py`` finds the event of a label, ``outcomes.py`` takes it
through its truth, ``learn.py`` learns it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models.base import F64, FeatureBatch, Learner, MillraceError, Model, State
from models.ensemble.ensemble import Ensemble, MemberError
from models.features.stage import FeatureStage
from monitoring.audit.trail import Trail
from monitoring.drift.monitor import DriftMonitor
from monitoring.quality.tasks import Judge
from stream.contract.commands import WHOLE, CommandRefused
from stream.contract.hashing import hash_text
from stream.contract.letters import DeadLetter
from stream.contract.outputs import Outputs, Scored
from stream.contract.records import JournalRecord, Record, Slice
from stream.decode.codec import Codec, Events, Labels
from stream.settings.schema import Config
from stream.step.early import EarlyLabels
from stream.step.engine import Engine, Made, Store
from stream.step.join import Join, Labelled, Left
from stream.step.learn import Learning
from stream.step.lifecycle.challengers import Challengers
from stream.step.lifecycle.corrections import Corrections, NotHeld
from stream.step.lifecycle.guard import Guard
from stream.step.lifecycle.history import History
from stream.step.lifecycle.ledger import Cause, Version, beside
from stream.step.lifecycle.reactions import Reactions
from stream.step.lifecycle.rebuilds import Rebuilds
from stream.step.lifecycle.refits import Refits
from stream.step.lifecycle.second import Whole, of
from stream.step.maturity import Maturity
from stream.step.outcomes import Outcomes, Settle
from stream.step.pending.store import Pending
from stream.step.reasons import Reasons
from stream.step.scores import PLACE, Shared, Why, Write, carrying, score_encoder
from stream.step.tallies import Tallies

EARLY_BYTES_EACH = 512
"""Raw bytes allowed for waiting labels, for each of ``limits.early_labels``."""


class OtherEngine(MillraceError):
    """What was asked for is about events that are scored, and this shard scores none."""


class _Said(NamedTuple):
    """What is said of events: as columns, what is kept with them for labels, and what writes the
    records, now or later."""

    scored: Scored
    write: Write
    keep: tuple[F64, F64, F64]


class ScoringEngine(Engine):
    """The engine of binary targets, classes and numbers.

    Whether a record is scored, joined, late or a dead letter follows from the order of the
    records and the clock, never from where batches are cut; what members know when they score does
    too, but for labels that come in or before their event: those are learned when its run is over.
    """

    ensemble: Ensemble
    quality: Judge

    def __init__(
        self,
        config: Config,
        features: FeatureStage,
        ensemble: Ensemble,
        pending: Pending,
        quality: Judge,
        matured: Judge,
        drift: DriftMonitor,
        trail: Trail,
        history: History,
    ) -> None:
        super().__init__(config, Codec(config), ensemble, pending, trail)
        self.features = features
        self.quality = quality
        self.matured = matured
        self.drift = drift
        self.history = history
        self.challengers = Challengers(
            config.challengers, ensemble, self.auditor, pending, self._promoted
        )
        self.guard = Guard(
            *(config.guard, config.challengers, ensemble, self.auditor, pending, self.ledger),
            *(self.counts, self._put_back),
        )
        self.reasons = (
            None
            if config.reasons is None
            else Reasons(config.reasons, config.features, features.schema, ensemble)
        )
        self.reactions = Reactions(
            *(config.drift, ensemble, self.auditor, self.challengers),
            None if self.reasons is None else self.reasons.replaced,
        )
        self.refits = Refits(config, ensemble, self.auditor)
        self.early = EarlyLabels(
            config.limits.early_labels, config.limits.early_labels * EARLY_BYTES_EACH
        )
        self.task = ensemble.task
        self.tallies = Tallies(self.task)
        self.maturity = Maturity(config.label, self.task, pending)
        self.join = Join(pending, self.early, config.label.horizon, self.counts, self.task)
        learning = Learning(
            *(features, ensemble, quality, drift, self.auditor, self.reactions, self.challengers),
            *(self.guard, history, self.counts, self.task),
        )
        self.outcomes = Outcomes(
            *(pending, ensemble, learning, self.maturity, self.tallies, matured)
        )
        self.corrections = Corrections(
            *(pending, history, self.maturity, features, learning, quality, matured),
            *(self.auditor, self.counts, self.task),
        )
        self.rebuilds = Rebuilds(
            *(ensemble, features.schema, history, self.corrections, self.refits, self.auditor)
        )
        self._encode = score_encoder(self.task, ensemble.names)
        self.threshold = self.task.alert_at
        self._handlers |= {config.topics.events: self._events, config.topics.labels: self._labels}

    @property
    def learning(self) -> Learning:
        """What judges and teaches."""
        return self.outcomes.learning

    @property
    def threshold(self) -> float:
        """A score at or above it is an alert, and members are judged by it."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        self._threshold = threshold
        self.quality.set_threshold(threshold)
        self.matured.set_threshold(threshold)

    @property
    def promotes(self) -> bool:
        """See :attr:`Engine.promotes`."""
        return self.challengers.won

    @property
    def watermark_ms(self) -> int:
        """Newest event time scored: the clock of time-outs."""
        return self.join.watermark_ms

    # ------------------------------------------------------------------ events

    def _events(self, piece: Slice, out: Made) -> None:
        """Score events, hold them for their labels, let time pass.

        In runs: one ends with the event that lets others pass their horizon.
        """
        events, bad = self.codec.decoded(piece, self.codec.events)
        out.letters += bad
        events = self._not_ahead(self.join.named(events), self.clock_ms, out)
        while events.records:
            looking = self.maturity.looking
            run, events = events.split(self.join.run(events.columns.event_time_ms, looking))
            run = self.join.unseen(run)
            out.letters += self.join.take_letters()
            if run.records:
                before_ms = self.watermark_ms
                self._score(run, out)
                self._left(self.join.time_out(), out)
                if looking and self.join.ticked(before_ms):
                    self.outcomes.looked(self.watermark_ms)
                out.letters += self.join.take_letters()
        out.letters += self.join.take_letters()
        self._time_passed()
        self._classes_added()  # not before: what labels say of these events no score may know

    def _time_passed(self) -> None:
        """Members that are trained fall due, where the members learn."""
        if self.refits.on and self.refits.passed(self.watermark_ms, self.seq + 1):
            self.checkpoint_wanted = True  # what trains reads a generation

    def _not_ahead(self, events: Events, clock_ms: int, out: Made) -> Events:
        """Leave out events from the future."""
        latest = clock_ms + self.config.limits.ahead
        ahead = events.columns.event_time_ms > latest
        if not ahead.any():
            return events
        for i in np.flatnonzero(ahead).tolist():
            error = (
                f"expected an event time up to limits.ahead after {clock_ms} ms, got "
                f"{events.columns.event_time_ms[i]} ms"
            )
            out.letters.append(DeadLetter(events.records[i], "event_time_ahead", error))
        return events.take(np.flatnonzero(~ahead))

    def _score(self, events: Events, out: Made) -> None:
        """Score new events, hold them, learn those whose label is known."""
        n = len(events.records)
        self._left(self.join.make_room(n), out)
        x = self.features.transform(events.columns)
        told: dict[str, F64] | None = {} if self.reasons and self.reasons.tells_all else None
        said = self._say(events, self.learning.score(x, told), self.clock_ms, self.seq + 1)
        scored = said.scored
        self.ensemble.crew.put_off(partial(self._write, said, self._reasons(said, x, told), out))
        if self.reasons is not None:
            self.reasons.scored(x, said.keep[0][:, :, 0], self.counts["scored"], told)
        out.scored.append(scored)
        score, alert, cold = scored.score, scored.alert, scored.cold
        self.counts["scored"] += n
        self.counts["alerts"] += int(alert.sum())
        self.counts["cold"] += n if cold else 0
        self.drift.observe(score[:0] if cold else score, x.dense)
        warm = slice(0, 0) if cold else slice(None)
        confidence = self.task.confidence(scored.output[warm], alert[warm])
        self.tallies.scored(score, confidence, (self.clock_ms - scored.event_time_ms) / 1000)
        fields = self.features.entity_fields
        rows = self.join.hold(events, x, said.keep, alert, cold, fields)
        links, link, _ = said.keep
        self.challengers.score(x, links, link, rows, self.threshold, self.watermark_ms)
        self.guard.score(x, said.keep[0], rows)
        self._labelled(self.join.known(events, rows, self.clock_ms), self.maturity.labelled, out)

    def _say(self, events: Events, made: tuple[F64, F64], clock_ms: int, seq: int) -> _Said:
        """What is said of events with these links, and written of them; changes nothing."""
        n, (links, link) = len(events.records), made
        cold, task = self.ensemble.cold, self.task
        # The prior itself, not through its link: one at the threshold alerts.
        output = np.tile(self.ensemble.prior.output(), (n, 1)) if cold else task.output(link)
        # What nothing was learned for alerts nobody, unless somebody configured it.
        alert = task.alert(output, self.threshold)
        alert &= not cold or self.config.ensemble.prior is not None
        times, score = events.columns.event_time_ms, task.score(output)
        members, left_out = task.output(links), self.ensemble.quarantined
        promise, said = self.learning.promise(output)
        scored = Scored(
            *(events.records, events.ids, times, score, output, members, alert, cold, left_out),
            *(self.auditor.versions(), said),
        )
        shared = Shared(clock_ms, self.config.name, seq, cold)
        return _Said(scored, self._encode(scored, shared), (links, link, promise))

    def _reasons(
        self, said: _Said, x: FeatureBatch, told: dict[str, F64] | None
    ) -> Callable[[], Why]:
        """What writes the reasons that are told with scores; of a cold score there are none.

        Those of the members as they scored. ``told``: what these told while they did.
        """
        if self.reasons is None or said.scored.cold:
            return partial(repeat, msgspec.UNSET, len(x))
        links, link, _ = said.keep
        found = self.reasons.weighed(x, links[:, :, 0], link[:, 0], said.scored.alert, told)
        return partial(self.reasons.written, found, len(x))

    def spare(self, job: Callable[[], None]) -> bool:
        """See :meth:`Engine.spare`: while the members learn."""
        self.ensemble.crew.spare(job)
        return True

    def _write(self, said: _Said, reasons: Callable[[], Why], out: Made) -> None:
        """Write the score records."""
        made = said.write(reasons())
        out.scores += carrying(made, said.scored, self.config.scores, self.clock_ms)

    def _finish(self, journal: JournalRecord, out: Made, cause: bytes = b"") -> Outputs:
        self.ensemble.crew.finish()
        return super()._finish(journal, out, cause)

    def _why(self, x: FeatureBatch, made: tuple[F64, F64]) -> dict[str, Any] | None:
        """All reasons of one event with these links, exactly; ``None`` where none are told."""
        if self.reasons is None or self.ensemble.cold:
            return None
        links, link = made
        return self.reasons.whole(self.reasons.of(x, links[:, :, 0], link[:, 0], exact=True))

    def why(self, event_id: str) -> dict[str, Any] | None:
        """Why an event that is held would have its score now, with the features it was scored by.

        ``None`` where it is not held. Changes nothing.
        """
        rows = self.pending.find(np.array([hash_text(event_id)], np.uint64))
        if rows[0] < 0:
            return None
        row = self.pending.take(rows)
        dense, hashed = (np.ascontiguousarray(row[name]) for name in ("dense", "hashed"))
        x = FeatureBatch(self.features.schema, dense, hashed)
        with self.ensemble.as_it_is():
            made = self._foreseen(x)
            why = self._why(x, made)
        score = float(self.task.score(self.task.output(made[1]))[0])
        told = {"id": event_id, "score": score, "seq": self.seq, "digest": self.digest}
        return told | {"reasons": why}

    def what_if(self, record: Record, clock_ms: int) -> dict[str, Any] | DeadLetter:
        """What the next step would say of an event, by that clock; changes nothing.

        The fields of its score, but for its place in the log; ``seq`` and ``digest`` are those of
        the newest step. A label that the event carries is not read.
        """
        clock_ms, out = max(self.clock_ms, clock_ms), Made()
        events, out.letters = self.codec.events([record])
        events = self.join.unseen(self._not_ahead(events, clock_ms, out))
        if letters := [*out.letters, *self.join.take_letters()]:
            return letters[0]
        x = self.features.foresee(events.columns)
        with self.ensemble.as_it_is():
            made = self._foreseen(x)
            said = self._say(events, made, clock_ms, self.seq)
            why = self._why(x, made)
        answer: dict[str, Any] = msgspec.json.decode(said.write([msgspec.UNSET])[0].value or b"")
        answer = {k: v for k, v in answer.items() if k not in PLACE} | {"digest": self.digest}
        return answer if why is None else answer | {"reasons": why}

    def _foreseen(self, x: FeatureBatch) -> tuple[F64, F64]:
        """Links as :meth:`Learning.score` would give them, on nobody's record."""
        while True:
            try:
                return self.ensemble.score(x)
            except MemberError as error:
                self.ensemble.quarantine(error.member)

    # ------------------------------------------------------------------ labels

    def _labels(self, piece: Slice, out: Made) -> None:
        """Join labels with their events by id; learn those that are the first for their event."""
        labels, bad = self.codec.decoded(piece, self.codec.labels)
        out.letters += bad
        if labels.records:
            self._told(labels, out)

    def _told(self, labels: Labels, out: Made) -> None:
        """Labels came, one or more."""
        self.corrections.look_for(labels.id_hash[labels.corrects])
        put_right = Counter[str]()
        for run in labels.runs():
            if run.corrects[0] and not self.join.waits(run):
                self._correct(run, put_right)
                continue
            found = self.join.labels(run, self.clock_ms)
            self._classes_added()
            self._labelled(found, self.maturity.labelled, out)
        out.letters += self.join.take_letters()
        if put_right:
            self.auditor.record("corrected", "label", "ensemble", put_right)

    def _correct(self, labels: Labels, put_right: Counter[str]) -> None:
        """One label takes the place of an older one, which has met its event or waits for it.

        In this order: what waits for an event that is known may be no more than a stray repeat.
        """
        labels = self.join.placed(labels)
        self._classes_added()
        if not labels.records:
            return
        record, id_hash, y = labels.records[0], int(labels.id_hash[0]), float(labels.y[0])
        try:
            before, learned = self.corrections.correct(id_hash, y)
        except NotHeld as error:
            if not self.join.instead(labels):
                self.join.refuse(record, "label_orphan", f"nothing to correct: {error}")
            return
        if before == y:
            self.join.repeat(record, y, before)
            return
        put_right["labels"] += 1
        put_right["learned"] += learned

    def rebuild(self, member: str, accept: bool) -> dict[str, Any]:
        """See :meth:`Engine.rebuild`; the members that are asked for."""
        asked = self.rebuilds.ask(member, accept, self.seq + 1)
        self.checkpoint_wanted = True  # what rebuilds reads a generation
        return {"members": asked, "accept": accept}

    def awaited(self, member: str) -> None:
        """See :meth:`Engine.awaited`."""
        if member not in self.refits.asked:
            raise CommandRefused(
                f"{member}: expected a member that waits for its training; another model was"
                " installed since it fell due"
            )

    def withdraw(self, member: str) -> None:
        """See :meth:`Engine.withdraw`."""
        self.rebuilds.withdraw(member)

    def install(
        self, digests: Mapping[str, str], cause: Cause, upto: int = 0
    ) -> dict[str, dict[str, Any]]:
        """See :meth:`Engine.install`."""
        since = self.rebuilds.since(upto, digests) if upto else []
        kept = self._kept_at(digests)
        made = super().install(digests, cause)
        self.rebuilds.went_back(kept)
        for name in digests if upto else ():
            made[name] |= self.rebuilds.catch_up(name, since, upto)
        return made

    def retract(self, event_id: str) -> dict[str, Any]:
        """See :meth:`Engine.retract`; tells whether members have learned the label."""
        id_hash = hash_text(event_id)
        try:
            _, learned = self.corrections.correct(id_hash, math.nan)
        except NotHeld as error:
            if not self.join.withdrawn(id_hash):
                raise CommandRefused(f"id: {error}") from error
            learned = False
        return {"learned": learned}

    def _classes_added(self) -> None:
        """Classes that labels named first have a probability from here on, and are on record."""
        for name in self.task.catch_up():
            detail = {"class": name, "column": self.task.names.index(name)}
            self.auditor.record("class_added", "label", "ensemble", detail)

    def _labelled(self, found: Labelled | None, settle: Settle, out: Made) -> None:
        if found is not None:
            out.alarms += self.outcomes.labelled(found, settle, self.watermark_ms)

    def _left(self, left: Left | None, out: Made) -> None:
        """Events left the pending store, the newest of them just before its head."""
        if left is not None:
            numbers = self.pending.head - len(left.y) + np.arange(len(left.y))
            out.alarms += self.outcomes.left(left, numbers, self.watermark_ms)

    # ------------------------------------------------------------------ state

    def _stores(self) -> dict[str, Store]:
        return super()._stores() | {"history": self.history}

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, by its key in :meth:`state`."""
        return {
            "features": self.features,
            "ensemble": self.ensemble,
            "early": self.early,
            "maturity": self.maturity,
            "quality": self.quality,
            "matured": self.matured,
            "drift": self.drift,
            "tallies": self.tallies,
            "trail": self.trail,
            "auditor": self.auditor,
            "reactions": self.reactions,
            "challengers": self.challengers,
            **({"guard": self.guard} if self.guard.on else {}),
            **({} if self.reasons is None else {"reasons": self.reasons}),
            **({"refits": self.refits} if self.refits.on else {}),
        }

    def _keep_all(self) -> None:
        super()._keep_all()
        self.guard.kept(self.watermark_ms)

    def _kept_at(self, digests: Mapping[str, str]) -> dict[str, int]:
        """The step after which each member was what has this digest, of those that are versions."""
        kept = self.ledger.versions()
        return {n: v.seq for n, digest in digests.items() for v in kept[n] if v.digest == digest}

    def _put_back(self, name: str, model: Model, digest: str) -> None:
        kept = self._kept_at({name: digest})
        spec, taught = self.ensemble.specs.get(name), self.ledger.taught(name, digest)
        put = partial(self.ensemble.replace, name, model, spec, taught)
        self._exchanged(name, "rolled_back", put, digest)
        self.rebuilds.went_back(kept)

    def blank(self, name: str, digest: str) -> Learner:
        """See :meth:`Engine.blank`: of the whole ensemble another one."""
        if name == WHOLE:
            return Whole(self.challengers.another(self.spec(name, digest)))
        return super().blank(name, digest)

    def keep_whole(self, before: ScoringEngine, cause: Cause) -> None:
        """Another ensemble stands here than in ``before``, which nobody changes any more.

        That is a version where a record can name it, digested beside the steps to come; each member
        is one with the next checkpoint.
        """
        if (spec := of(before.config)) is not None:
            was, updates = Whole(before.ensemble), before.ensemble.labelled
            quality = before.quality.snapshot().fading(WHOLE)
            at = before.seq, before.watermark_ms, ""
            version = Version(*at, "replaced", updates, quality, spec)
            self.ledger.keep(WHOLE, version, was.state, beside(was.digest))
        for name in self.ensemble.names:
            self.ledger.arrives(name, cause)
        self.ledger.replaced(WHOLE)

    def _promoted(self, name: str, number: int, taught: bool) -> str:
        put = partial(self.ensemble.promote, name, number, taught)
        return self._exchanged(name, "promoted", put)

    def _renewed(self, name: str, goes_on: bool) -> None:
        self.reactions.replaced(name)
        self.challengers.replaced(name)
        if not goes_on:  # else it is compared with what the member was, as if it had learned that
            self.guard.replaced(name)
        self.rebuilds.replaced(name)
        self.refits.answered(name)
        self.drift.renew(name)
        if self.reasons is not None:
            self.reasons.replaced(name)

    def reconfigured(self, combiner_is_new: bool) -> None:
        """See :meth:`Engine.reconfigured`: early labels leave."""
        self.reactions.reconfigured(combiner_is_new)
        self.join.reconfigured()

    def _left_over(self) -> list[DeadLetter]:
        return list(self.join.take_letters())

    def _marks(self) -> State:
        marks: State = {"watermark_ms": self.watermark_ms, "threshold": self.threshold}
        if self.corrections.newest:
            marks["corrections"] = self.corrections.state()
        if rebuilds := self.rebuilds.state():
            marks["rebuilds"] = rebuilds
        return marks | self.task.state()

    def _restore_marks(self, state: State) -> None:
        self.join.watermark_ms = int(state["watermark_ms"])
        self.threshold = float(state["threshold"])
        self.task.restore(state)
        if "corrections" in state:
            self.corrections.restore(state["corrections"])
        if "rebuilds" in state:
            self.rebuilds.restore(state["rebuilds"])


def scoring(engine: Engine) -> ScoringEngine:
    """The engine, as one that scores events; raises :class:`OtherEngine` where it does not."""
    if not isinstance(engine, ScoringEngine):
        raise other(engine.config)
    return engine


def other(config: Config) -> OtherEngine:
    """What to raise of a configuration that scores no events."""
    target = config.target.type
    return OtherEngine(f"target.type: expected one whose events are scored, got {target!r}")
