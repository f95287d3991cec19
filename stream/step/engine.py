"""The deterministic step: a batch in; scores, dead letters, audit and a journal record out.

``Engine.step`` is a pure function of (state, batch): no I/O, no wall clock, no unseeded randomness.
All that learns, counts, waits, drifts or audits is reachable from here and part of :meth:`state`.
Here stands the order of things; ``join.py`` finds the event of a label, ``learn.py`` learns it,
``stream/contract/commands.py`` says what operators' commands do.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, MillraceError, State, state_digest
from models.ensemble.ensemble import Ensemble
from models.features.stage import FeatureStage
from monitoring.audit.auditor import Auditor
from monitoring.audit.contents import contents_of, member_key
from monitoring.audit.trail import Trail
from monitoring.drift.monitor import Alarm, DriftMonitor
from monitoring.quality.tasks import Judge
from stream.contract.letters import DeadLetter
from stream.contract.outputs import Outputs, Scored
from stream.contract.records import Batch, JournalRecord, NewRecord, Slice
from stream.contract.schemas import Schema
from stream.decode.codec import Codec, Events
from stream.settings.schema import Config
from stream.settings.upgrade import digest, journaled
from stream.step.early import EarlyLabels
from stream.step.join import Join, Labelled, Left
from stream.step.learn import Learning, outputs
from stream.step.maturity import Maturity, Part
from stream.step.pending import Pending
from stream.step.reactions import Reactions
from stream.step.scores import carrying, score_encoder
from stream.step.tallies import Tallies

Settle = Callable[[I64, F64], I64]
"""Settles rows with their labels in the pending store; gives those that are learned now."""
GENESIS = "0" * 32
"""The digest before the first step."""

EARLY_BYTES_EACH = 512
"""Raw bytes allowed for waiting labels, for each of ``limits.early_labels``."""


class StepError(MillraceError):
    """A step was asked for out of order."""


class _Step:
    """What one step has produced so far."""

    def __init__(self) -> None:
        self.scores: list[NewRecord] = []
        self.scored: list[Scored] = []
        self.letters: list[DeadLetter] = []
        self.alarms: list[Alarm] = []


class Engine:
    """One shard's whole state and its step.

    An engine built from the same configuration and fed the same batches holds the same state, bit
    for bit. Whether a record is scored, joined, late or a dead letter follows from the order of the
    records and the clock, never from where batches are cut; what members know when they score does
    too, but for labels that come in or before their event: those are learned when its run is over.

    Attributes
    ----------
    tree : dict
        The configuration as the journal holds it, in whatever version's form.
    seq : int
        The last step done; 0 at the start.
    digest : str
        ``blake2b-128`` chain over the outputs of all steps, in hex: the journal's digest.
    clock_ms : int
        The latest step's clock.
    checkpoint_wanted : bool
        A command asked for a checkpoint after this step; the service resets it.
    """

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
    ) -> None:
        self.config = config
        self.tree = journaled(config)
        self.codec = Codec(config)
        self.features = features
        self.ensemble = ensemble
        self.pending = pending
        self.quality = quality
        self.matured = matured
        self.drift = drift
        self.trail = trail
        self.auditor = Auditor(config.audit, ensemble, trail)
        self.reactions = Reactions(config.drift, ensemble, self.auditor)
        self.early = EarlyLabels(
            config.limits.early_labels, config.limits.early_labels * EARLY_BYTES_EACH
        )
        self.counts: Counter[str] = Counter()
        self.task = config.task()
        self.tallies = Tallies(self.task)
        self.maturity = Maturity(config.label, self.task, pending)
        self.join = Join(pending, self.early, config.label.horizon, self.counts, self.task)
        self.learning = Learning(
            *(features, ensemble, quality, drift, self.auditor, self.reactions, self.counts),
            self.task,
        )
        self._encode = score_encoder(self.task, ensemble.names)
        self.threshold = self.task.alert_at
        self.seq = 0
        self.digest = GENESIS
        self.clock_ms = 0
        self.checkpoint_wanted = False
        topics = config.topics
        self._handlers = {
            topics.control: self._control,
            topics.events: self._events,
            topics.labels: self._labels,
        }

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
    def _prior(self) -> float:
        """What the parts of a label that comes late take for the score of a cold event."""
        return float(self.ensemble.prior.output()[0])

    @property
    def watermark_ms(self) -> int:
        """Newest event time scored: the clock of time-outs."""
        return self.join.watermark_ms

    # ------------------------------------------------------------------ the step

    def step(self, batch: Batch) -> Outputs:
        """Take one batch in.

        1. Slices in their journaled order, each by its topic: commands, events, labels.
        2. Where a checkpoint will be taken of this step, what it will hold goes on record.
        3. The outputs are chained into the digest.

        Raises :class:`StepError` if ``batch.seq`` is not the next one. Any other exception leaves
        the engine in an unknown state: the caller must restore it from a checkpoint.
        """
        if batch.seq != self.seq + 1:
            raise StepError(f"step: expected seq {self.seq + 1}, got {batch.seq}")
        out = _Step()
        self.clock_ms = max(self.clock_ms, batch.clock_ms)
        if batch.room:
            self.pending.tell(batch.room)
        self.auditor.begin(batch.seq, self.clock_ms)
        for piece in batch.slices:
            r = piece.range
            self.auditor.taking(r.topic, r.partition, r.first, r.last)
            self._handlers[r.topic](self._admit(piece, batch, out), out)
        self.codec.schemas.trim()
        taken = Counter[str]()
        for piece in batch.slices:
            taken[f"consumed.{piece.range.topic}"] += len(piece.records)
        taken.update(f"dead.{letter.reason}" for letter in out.letters)
        vouched: dict[str, Any] = {}
        if batch.checkpoint:
            held = self.auditor.checkpointed(lambda: self.contents(self.counts + taken))
            roots = {member_key(name): root for name, root in held["roots"].items()}
            vouched = {"config": held["config"], "contents": held["parts"] | roots}
        journal = JournalRecord(
            seq=batch.seq,
            clock_ms=batch.clock_ms,
            digest="",
            ranges=tuple(piece.range for piece in batch.slices),
            skipped=tuple(sorted(batch.skipped)),
            checkpoint=batch.checkpoint,
            room=batch.room,
            **vouched,
        )
        outputs = self._finish(journal, out)
        # Last of all: another thread that reads these finds the step done.
        self.counts.update(taken)
        return outputs

    def switched(self, body: dict[str, Any], cause: bytes) -> Outputs:
        """This engine has taken another one's state over: the switch is a step of its own.

        ``body`` is what the journal says of it, ``cause`` the bytes that the digest covers.
        """
        out = _Step()
        out.letters += self.join.take_letters()
        self.counts.update(f"dead.{letter.reason}" for letter in out.letters)
        journal = JournalRecord(self.seq + 1, self.clock_ms, "", kind="reconfigured", body=body)
        return self._finish(journal, out, cause)

    def adopt(self, schema: Schema, clock_ms: int) -> Outputs:
        """Records may be written by the schema from here on: a step of its own."""
        self.clock_ms = max(self.clock_ms, clock_ms)
        self.codec.schemas.adopt(schema)
        tree = msgspec.to_builtins(schema)
        journal = JournalRecord(self.seq + 1, clock_ms, "", kind="schema", body={"schema": tree})
        return self._finish(journal, _Step(), msgspec.json.encode(schema))

    def _admit(self, piece: Slice, batch: Batch, out: _Step) -> Slice:
        """The slice without those records that crashed the step before."""
        if not batch.skipped:
            return piece
        good = []
        for r in piece.records:
            if (r.topic, r.partition, r.offset) in batch.skipped:
                error = "this record stopped the service repeatedly"
                out.letters.append(DeadLetter(r, "poison", error))
            else:
                good.append(r)
        return Slice(piece.range, good)

    def _finish(self, journal: JournalRecord, out: _Step, cause: bytes = b"") -> Outputs:
        """Chain what the step made, and a cause that no records are, into the digest."""
        self.seq = journal.seq
        head = self.trail.head()
        h = hashlib.blake2b(bytes.fromhex(self.digest), digest_size=16)
        for values in ((r.value for r in out.scores), (d.value for d in out.letters)):
            _chain(h, values)
        # Of the audit records their hash: it covers everything in them but the signatures.
        h.update(bytes.fromhex(head.hash) + cause)
        self.digest = h.hexdigest()
        audit = self.audit_records()
        journal = msgspec.structs.replace(
            journal, digest=self.digest, head=tuple(head) if audit else None
        )
        return Outputs(out.scores, out.letters, audit, journal, out.scored, out.alarms, head)

    def audit_records(self) -> list[NewRecord]:
        """What the auditor wrote since the last call, on partition 0 to keep its order."""
        key = self.config.name.encode()
        return [NewRecord(key, raw, 0) for raw in self.auditor.take()]

    # ------------------------------------------------------------------ events

    def _events(self, piece: Slice, out: _Step) -> None:
        """Score events, hold them for their labels, let time pass.

        In runs: one ends with the event that lets others pass their horizon.
        """
        events, bad = self.codec.decoded(piece, self.codec.events)
        out.letters += bad
        events = self._not_ahead(events, out)
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
                    self._learn(self.maturity.look(self.watermark_ms, self._prior))
                out.letters += self.join.take_letters()

    def _not_ahead(self, events: Events, out: _Step) -> Events:
        """Leave out events from the future."""
        latest = self.clock_ms + self.config.limits.ahead
        ahead = events.columns.event_time_ms > latest
        if not ahead.any():
            return events
        for i in np.flatnonzero(ahead).tolist():
            error = (
                f"expected an event time up to limits.ahead after {self.clock_ms} ms, got "
                f"{events.columns.event_time_ms[i]} ms"
            )
            out.letters.append(DeadLetter(events.records[i], "event_time_ahead", error))
        return events.take(np.flatnonzero(~ahead))

    def _score(self, events: Events, out: _Step) -> None:
        """Score new events, hold them, learn those whose label is known."""
        n = len(events.records)
        self._left(self.join.make_room(n), out)
        x = self.features.transform(events.columns)
        links, link = self.learning.score(x)
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
        tail = f',"scored_at":{self.clock_ms},"model":"{self.config.name}","seq":{self.seq + 1}'
        tail += ',"cold":true' if cold else ""
        made = self._encode(scored, tail)
        out.scores += carrying(made, scored, self.config.scores, self.clock_ms)
        out.scored.append(scored)
        self.counts["scored"] += n
        self.counts["alerts"] += int(alert.sum())
        self.counts["cold"] += n if cold else 0
        self.drift.observe(score[:0] if cold else score, x.dense)
        confidence = task.confidence(output[:0] if cold else output, alert[:0] if cold else alert)
        self.tallies.scored(score, confidence, (self.clock_ms - times) / 1000)
        keep = links, link, promise
        rows = self.join.hold(events, x, keep, alert, cold, self.features.entity_fields)
        self._labelled(self.join.known(events, rows, self.clock_ms), self.maturity.joined, out)

    # ------------------------------------------------------------------ labels

    def _labels(self, piece: Slice, out: _Step) -> None:
        """Join labels with their events by id; learn those that are the first for their event."""
        labels, bad = self.codec.decoded(piece, self.codec.labels)
        out.letters += bad
        if labels.records:
            found = self.join.labels(labels, self.clock_ms)
            self._labelled(found, self.maturity.labelled, out)
            out.letters += self.join.take_letters()

    def _labelled(self, found: Labelled | None, settle: Settle, out: _Step) -> None:
        """The truth of events came: windows of risk take it, and what is mature is learned."""
        if found is None:
            return
        numbers, rows, y, at_ms = found
        delay_s = (at_ms - rows["event_time_ms"]) / 1000
        self.tallies.labelled(self.task.output(rows["score"]), y, delay_s)
        self.learning.told(rows, y)
        ripe = settle(numbers, y)
        if len(ripe):
            taken = rows if np.array_equal(ripe, numbers) else self.pending.take(ripe)
            self._ripe(ripe, taken, self.pending.truth(ripe), self.pending.early(ripe), out)

    def _ripe(self, numbers: I64, rows: NDArray[Any], y: F64, early: BOOL, out: _Step) -> None:
        """Judge rows whose truth is settled, and learn what is left to learn of them."""
        out.alarms += self.learning.judge(rows, y, self.watermark_ms)
        self._learn(self.maturity.rest(numbers, rows, y, early, self._prior))

    def _learn(self, part: Part) -> None:
        if len(part.rows):
            self.learning.learn(*part, self.watermark_ms, not self.maturity.at_once)

    def _left(self, left: Left | None, out: _Step) -> None:
        """Events left the pending store: judge cohorts, learn what has waited until now.

        By configuration silence is learned as a truth. An event that made room for others before
        its horizon teaches nothing: only who was told would be learned.
        """
        if left is None or not len(left.rows):
            return
        y = left.y.copy()
        if left.over:
            y[np.isnan(y)] = self.task.silence
        final = ~np.isnan(y)
        ripe = final & ~left.learned & left.over
        if left.over:
            numbers = self.pending.head - len(y) + np.arange(len(y))
            self.maturity.matured(numbers, y, left.early)
        if ripe.any():
            self._ripe(numbers[ripe], left.rows[ripe], y[ripe], left.early[ripe], out)
        if final.any():
            rows = left.rows[final]
            output = outputs(self.task, rows)
            said = self.learning.said(output, rows)
            self.matured.update(output, y[final], rows["alert"], said)

    # ------------------------------------------------------------------ commands

    def _control(self, piece: Slice, out: _Step) -> None:
        for record in piece.records:
            command = self.codec.command(record)
            if isinstance(command, DeadLetter):
                out.letters.append(command)
                continue
            done = command.apply(self)
            self.counts["commands"] += 1
            where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            actor = command.actor or "engine"
            detail = done.detail | command.grounds() | where
            self.auditor.record(command.event, "command", done.target, detail, actor)

    # ------------------------------------------------------------------ state

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
        }

    def state(self) -> State:
        """Everything but the pending rows themselves, which are taken along as files."""
        return self._beside_members() | {"ensemble": self.ensemble.state()}

    def _beside_members(self) -> State:
        return {
            "seq": self.seq,
            "digest": self.digest,
            "clock_ms": self.clock_ms,
            "watermark_ms": self.watermark_ms,
            "threshold": self.threshold,
            "counts": dict(self.counts),
            "pending": self.pending.state(),
            "schemas": self.codec.schemas.state(),
            **{name: part.state() for name, part in self._parts().items() if name != "ensemble"},
        }

    def restore(self, state: State, segments: Any = None) -> None:
        """Take over what ``state`` tells of these parts; ``segments`` are the pending rows.

        The rest goes by the configuration. See :data:`models.base.State`.
        """
        self.seq = int(state["seq"])
        self.digest = state["digest"]
        self.clock_ms = int(state["clock_ms"])
        self.join.watermark_ms = int(state["watermark_ms"])
        self.threshold = float(state["threshold"])
        self.counts.clear()
        self.counts.update(state["counts"])
        self.codec.schemas.restore(state.get("schemas", ()))
        if "pending" in state:
            self.pending.restore(state["pending"], segments or {})
        for name, part in self._parts().items():
            part.restore(state[name])

    def state_digest(self) -> str:
        """SHA-256 of the whole state, pending rows included; equal for equal engines."""
        state = self.state()
        state["ensemble"] = self.ensemble.digest()  # members may hold what only they can digest
        state["pending"] = self.pending.digest_state()
        return state_digest(state)

    def contents(self, counts: Counter[str]) -> dict[str, Any]:
        """What a checkpoint of this state holds once it has these ``counts``."""
        rows = [file.sha256() for file in self.pending.files()]
        state = self._beside_members() | {"counts": dict(counts)}
        return contents_of(digest(self.tree), state, rows, self.auditor.members())


def _chain(h: Any, values: Iterable[bytes | None]) -> None:
    """Hash records' values with their number."""
    raw = [value or b"" for value in values]
    h.update(b"%d;" % len(raw))
    h.update(b"\0".join(raw))
