"""The deterministic step: a batch in; scores, dead letters, audit and a journal record out.

``Engine.step`` is a pure function of (state, batch): no I/O, no wall clock, no unseeded randomness.
All that learns, counts, waits, drifts or audits is reachable from here and part of :meth:`state`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, FeatureBatch, MillraceError, State, state_digest
from models.ensemble.ensemble import Ensemble, MemberError
from models.features.stage import FeatureStage
from monitoring.audit.auditor import Auditor
from monitoring.audit.budgets import AuditEvent
from monitoring.audit.trail import Trail
from monitoring.drift.monitor import DriftMonitor
from monitoring.quality.quality import Quality
from stream.contract.commands import Checkpoint, Command, Freeze, Release, SetThreshold
from stream.contract.records import Batch, JournalRecord, NewRecord, Outputs, Record, Slice
from stream.decode.codec import Codec, Events
from stream.decode.letters import Bad, Reason, dead_letter
from stream.settings.schema import Config
from stream.step.early import EarlyLabel, EarlyLabels
from stream.step.pending import NEGATIVE, WAITING, Pending
from stream.step.reactions import Reactions, fresh_member
from stream.step.scores import encode_scores
from stream.step.tallies import Tallies

GENESIS = "0" * 32
"""The digest before the first step."""

EARLY_BYTES_EACH = 512
"""Raw bytes allowed for waiting labels, for each of ``limits.early_labels``."""


class StepError(MillraceError):
    """A step was asked for out of order, or a command cannot be applied."""


class _Step:
    """What one step has produced so far."""

    def __init__(self) -> None:
        self.scores: list[NewRecord] = []
        self.bad: list[Bad] = []


class Engine:
    """One shard's whole state and its step.

    An engine built from the same configuration and fed
    the same batches holds the same state, bit for bit.

    Attributes
    ----------
    seq : int
        The last step done; 0 at the start.
    digest : str
        ``blake2b-128`` chain over the outputs of all steps, in hex: the journal's digest.
    watermark_ms : int
        Newest event time scored: the clock of time-outs.
    checkpoint_wanted : bool
        A command asked for a checkpoint after this step; the service resets it.
    """

    def __init__(
        self,
        config: Config,
        features: FeatureStage,
        ensemble: Ensemble,
        pending: Pending,
        quality: Quality,
        matured: Quality,
        drift: DriftMonitor,
        trail: Trail,
    ) -> None:
        self.config = config
        self.codec = Codec(config)
        self.features = features
        self.ensemble = ensemble
        self.pending = pending
        self.quality = quality
        self.matured = matured
        self.drift = drift
        self.trail = trail
        self.auditor = Auditor(config.audit, ensemble, trail)
        ensemble.fresh = fresh_member(config, features.schema)
        self.reactions = Reactions(config.drift, ensemble, self.auditor)
        self.early = EarlyLabels(
            config.limits.early_labels, config.limits.early_labels * EARLY_BYTES_EACH
        )
        self.counts: Counter[str] = Counter()
        self.tallies = Tallies()
        self.threshold = config.ensemble.threshold
        self.seq = 0
        self.digest = GENESIS
        self.clock_ms = 0
        self.watermark_ms = 0
        self.checkpoint_wanted = False
        topics = config.topics
        self._handlers = {
            topics.control: self._control,
            topics.events: self._events,
            topics.labels: self._labels,
        }

    # ------------------------------------------------------------------ the step

    def step(self, batch: Batch) -> Outputs:
        """Take one batch in.

        1. Slices in their journaled order, each by its topic: commands, events, labels.
        2. Events past their horizon leave the pending store.
        3. Where a checkpoint will be taken of this step, the members' digests go on record.
        4. The outputs are chained into the digest.

        Raises :class:`StepError` if ``batch.seq`` is not the next one. Any other exception leaves
        the engine in an unknown state: the caller must restore it from a checkpoint.
        """
        if batch.seq != self.seq + 1:
            raise StepError(f"step: expected seq {self.seq + 1}, got {batch.seq}")
        out = _Step()
        self.clock_ms = max(self.clock_ms, batch.clock_ms)
        self.auditor.begin(batch.seq, self.clock_ms)
        for piece in batch.slices:
            r = piece.range
            self.auditor.taking(r.topic, r.partition, r.first, r.last)
            self._handlers[piece.range.topic](self._admit(piece, batch, out), out)
        self.auditor.timing_out()
        self._time_out(out)
        if batch.checkpoint:
            self.auditor.checkpointed()
        return self._finish(batch, out)

    def _admit(self, piece: Slice, batch: Batch, out: _Step) -> Slice:
        """The slice without those records that crashed the step before."""
        if not batch.skipped:
            return piece
        good = []
        for r in piece.records:
            if (r.topic, r.partition, r.offset) in batch.skipped:
                out.bad.append(Bad(r, "poison", "this record stopped the service repeatedly"))
            else:
                good.append(r)
        return Slice(piece.range, good)

    def _finish(self, batch: Batch, out: _Step) -> Outputs:
        self.seq = batch.seq
        for piece in batch.slices:
            self.counts[f"consumed.{piece.range.topic}"] += len(piece.records)
        letters = [dead_letter(bad) for bad in out.bad]
        for bad in out.bad:
            self.counts[f"dead.{bad.reason}"] += 1
        h = hashlib.blake2b(bytes.fromhex(self.digest), digest_size=16)
        for produced in (out.scores, letters):
            h.update(b"%d;" % len(produced))
            h.update(b"\0".join([r.value or b"" for r in produced]))
        # Of the audit records their hash: it covers everything in them but the signatures.
        h.update(bytes.fromhex(self.trail.head().hash))
        self.digest = h.hexdigest()
        journal = JournalRecord(
            seq=self.seq,
            clock_ms=batch.clock_ms,
            digest=self.digest,
            ranges=tuple(piece.range for piece in batch.slices),
            skipped=tuple(sorted(batch.skipped)),
            checkpoint=batch.checkpoint,
        )
        return Outputs(out.scores, letters, self.audit_records(), journal)

    def audit_records(self) -> list[NewRecord]:
        """What the auditor wrote since the last call, on partition 0 to keep its order."""
        key = self.config.name.encode()
        return [NewRecord(key, raw, 0) for raw in self.auditor.take()]

    # ------------------------------------------------------------------ events

    def _events(self, piece: Slice, out: _Step) -> None:
        """Score events, hold them for their labels, apply labels that are already here."""
        events, bad = self.codec.decoded(piece, self.codec.events)
        out.bad += bad
        events = self._drop_unusable(events, out)
        n = len(events.records)
        if n == 0:
            return
        self._let_go(self.pending.overflow(n))
        x = self.features.transform(events.columns)
        links, logit = self._score(x)
        p = sigmoid(logit)
        alert = p >= self.threshold
        rows = self._hold(events, x, links, logit, alert)
        members = {
            name: column.tolist()
            for name, column in zip(self.ensemble.names, sigmoid(links).T, strict=True)
        }
        tail = f',"scored_at":{self.clock_ms},"model":"{self.config.name}","seq":{self.seq + 1}'
        out.scores += encode_scores(events, p, alert, members, tail)
        self.counts["scored"] += n
        self.counts["alerts"] += int(alert.sum())
        self.drift.observe(p, x.dense)
        self.tallies.scored(p, alert, (self.clock_ms - events.columns.event_time_ms) / 1000)
        self.watermark_ms = max(self.watermark_ms, int(events.columns.event_time_ms.max()))
        self._settle_at_once(events, rows, out)

    def _drop_unusable(self, events: Events, out: _Step) -> Events:
        """Leave out events from the future and ids that are held already or repeat in the batch."""
        latest = self.clock_ms + self.config.limits.ahead
        ahead = events.columns.event_time_ms > latest
        first = np.zeros(len(events.records), dtype=bool)
        first[np.unique(events.id_hash, return_index=True)[1]] = True
        repeated = ~first | (self.pending.find(events.id_hash) >= 0)
        if not (ahead | repeated).any():
            return events
        for i in np.flatnonzero(ahead | repeated).tolist():
            reason: Reason = "event_time_ahead" if ahead[i] else "duplicate_event"
            error = (
                f"expected an event time up to limits.ahead after {self.clock_ms} ms, "
                f"got {events.columns.event_time_ms[i]} ms"
                if ahead[i]
                else "an event with this id was scored within the horizon"
            )
            out.bad.append(Bad(events.records[i], reason, error))
        return events.take(np.flatnonzero(~(ahead | repeated)))

    def _score(self, x: FeatureBatch) -> tuple[F64, F64]:
        """Member and ensemble logits; a member that fails leaves the ensemble, the rest go on."""
        while True:
            try:
                return self.ensemble.score(x)
            except MemberError as error:
                self.counts[f"member_errors.{error.member}.{error.kind}"] += 1
                self.auditor.failed(error, {})

    def _hold(self, events: Events, x: FeatureBatch, links: F64, logit: F64, alert: Any) -> I64:
        rows = np.zeros(len(x), dtype=self.pending.dtype)
        rows["id"] = events.id_hash
        rows["event_time_ms"] = events.columns.event_time_ms
        rows["score"] = logit
        rows["links"] = links
        rows["dense"] = x.dense
        rows["hashed"] = x.hashed
        rows["alert"] = alert
        for i, field in enumerate(self.features.entity_fields):
            rows["keys"][:, i] = events.columns.entities[field]
        return self.pending.hold(rows)

    def _settle_at_once(self, events: Events, rows: I64, out: _Step) -> None:
        """Apply labels that the events carry, or that came before them."""
        y = events.label.astype(np.float64)
        at = np.full(len(rows), self.clock_ms, dtype=np.int64)
        for i, label in self.early.claim(events.id_hash.tolist()):
            if events.label[i] < 0:
                y[i], at[i] = label.y, label.labelled_at_ms
                continue
            same = label.y == events.label[i]
            reason: Reason = "label_duplicate" if same else "label_conflict"
            out.bad.append(Bad(label.record, reason, "the event itself carried a label"))
        known = np.flatnonzero(y >= 0)
        if len(known):
            self._settle(rows[known], y[known], at[known], out)

    # ------------------------------------------------------------------ labels

    def _labels(self, piece: Slice, out: _Step) -> None:
        """Join labels with their events by id; learn those that are the first for their event."""
        labels, bad = self.codec.decoded(piece, self.codec.labels)
        out.bad += bad
        if not labels.records:
            return
        rows = self.pending.find(labels.id_hash)
        first = np.zeros(len(rows), dtype=bool)
        first[np.unique(labels.id_hash, return_index=True)[1]] = True
        known = rows >= 0
        fresh = known & first
        fresh[fresh] = self.pending.status(rows[fresh]) == WAITING
        if fresh.any():
            self._settle(rows[fresh], labels.y[fresh], labels.labelled_at_ms[fresh], out)
        repeats = np.flatnonzero(known & ~fresh)
        for i, status in zip(
            repeats.tolist(), self.pending.status(rows[repeats]).tolist(), strict=True
        ):
            self._repeat(labels.records[i], int(labels.y[i]), status - NEGATIVE, out)
        for i in np.flatnonzero(~known).tolist():
            self._early(
                EarlyLabel(
                    int(labels.id_hash[i]),
                    int(labels.y[i]),
                    int(labels.labelled_at_ms[i]),
                    self.watermark_ms,
                    labels.records[i],
                ),
                out,
            )

    def _repeat(self, record: Record, y: int, before: int, out: _Step) -> None:
        """A second label for an event: the first one holds."""
        reason: Reason = "label_duplicate" if y == before else "label_conflict"
        out.bad.append(Bad(record, reason, f"the event was labelled {before} before; got {y}"))

    def _early(self, label: EarlyLabel, out: _Step) -> None:
        held = self.early.get(label.id_hash)
        if held is not None:
            self._repeat(label.record, label.y, held.y, out)
        else:
            self.early.add(label)
            self.counts["labels.early"] += 1

    def _settle(self, rows: I64, y: F64, labelled_at_ms: I64, out: _Step) -> None:
        self.pending.settle(rows, y)
        self.counts["labels.joined"] += len(rows)
        held = self.pending.take(rows)
        at = np.where(labelled_at_ms < 0, self.clock_ms, labelled_at_ms)
        self.tallies.labelled(sigmoid(held["score"]), y, (at - held["event_time_ms"]) / 1000)
        self._learn(held, y, out)

    def _time_out(self, out: _Step) -> None:
        """Let events past their horizon go; by configuration they count as genuine."""
        before = self.watermark_ms - self.config.label.horizon
        rows, status = self.pending.expire(self.pending.due(before))
        silent = status == WAITING
        self.counts["labels.timed_out"] += int(silent.sum())
        self.counts["horizon.passed"] += len(rows)
        negative = self.config.label.at_horizon == "negative"
        if negative and silent.any():
            self._learn(rows[silent], np.zeros(int(silent.sum())), out)
        final = np.ones(len(rows), dtype=bool) if negative else ~silent
        if final.any():
            y = np.where(status > NEGATIVE, 1.0, 0.0)[final]
            self.matured.update(self._probabilities(rows[final]), y, rows["alert"][final])
        for label in self.early.stale(before):
            error = "no event with this id within the horizon, or its horizon had passed"
            out.bad.append(Bad(label.record, "label_orphan", error))

    def _let_go(self, n: int) -> None:
        """Make room: the oldest pending events leave unlearned."""
        if n:
            _, status = self.pending.expire(n)
            self.counts["pending.evicted"] += int((status == WAITING).sum())

    # ------------------------------------------------------------------ learning

    def _learn(self, rows: NDArray[Any], y: F64, out: _Step) -> None:
        """Judge the scores that were made, then learn from the features as they were scored."""
        p = self._probabilities(rows)
        self.quality.update(p, y, rows["alert"])
        at_ms = np.ascontiguousarray(rows["event_time_ms"])
        for alarm in self.drift.update(log_loss(p, y), at_ms, self.watermark_ms):
            self.auditor.record("drift", alarm.detector, alarm.signal, alarm.detail())
            self.reactions.alarm(alarm, int(at_ms[alarm.row]))
        x = FeatureBatch(
            self.features.schema,
            np.ascontiguousarray(rows["dense"]),
            np.ascontiguousarray(rows["hashed"]),
        )
        links = np.ascontiguousarray(rows["links"])
        w = np.ones(len(y))
        self.reactions.judge(x, y)
        self.auditor.before(len(y))
        errors = self.ensemble.learn(x, links, y, w)
        for error in errors:
            self.counts[f"member_errors.{error.member}.{error.kind}"] += 1
        for name in self.auditor.after(len(y), errors):
            self.counts[f"updates.{name}"] += len(y)
        self.reactions.learned(x, y, w, self.watermark_ms)
        positive = y > 0
        if positive.any():
            self.features.label(
                np.ascontiguousarray(rows["keys"][positive]),
                np.ascontiguousarray(rows["event_time_ms"][positive]),
                np.ones(int(positive.sum()), dtype=np.int8),
            )
        self.counts["learned"] += len(y)

    def _probabilities(self, rows: NDArray[Any]) -> F64:
        """Probabilities as made, ``(n, 1 + members)``: the ensemble's first."""
        return sigmoid(np.column_stack([rows["score"], rows["links"]]))

    # ------------------------------------------------------------------ commands

    def _control(self, piece: Slice, out: _Step) -> None:
        for record in piece.records:
            command = self.codec.command(record)
            if isinstance(command, Bad):
                out.bad.append(command)
                continue
            try:
                event, target, detail = self._apply(command)
            except StepError as error:
                out.bad.append(Bad(record, "command", str(error)))
                continue
            self.counts["commands"] += 1
            detail |= {"topic": record.topic, "partition": record.partition}
            detail |= {"offset": record.offset}
            self.auditor.record(event, "command", target, detail, command.actor or "engine")

    def _apply(self, command: Command) -> tuple[AuditEvent, str, dict[str, Any]]:
        """Do what an operator asked; returns the audit record's event, target and details."""
        if isinstance(command, SetThreshold):
            before, self.threshold = self.threshold, command.threshold
            self.quality.set_threshold(command.threshold)
            self.matured.set_threshold(command.threshold)
            return "threshold_set", "ensemble", {"from": before, "to": command.threshold}
        if isinstance(command, Checkpoint):
            self.checkpoint_wanted = True
            return "checkpoint_requested", "service", {}
        if command.member not in self.ensemble.names:
            known = ", ".join(self.ensemble.names)
            raise StepError(f"member: expected one of {known}; got {command.member!r}")
        if isinstance(command, Freeze):
            self.ensemble.freeze(command.member)
            return "frozen", command.member, {}
        if isinstance(command, Release):
            self.ensemble.release(command.member)
            return "released", command.member, {}
        raise StepError(f"command: {type(command).__name__} is not known")

    # ------------------------------------------------------------------ state

    def state(self) -> State:
        """Everything but the pending rows themselves, which are taken along as files."""
        return {
            "format": 1,
            "seq": self.seq,
            "digest": self.digest,
            "clock_ms": self.clock_ms,
            "watermark_ms": self.watermark_ms,
            "threshold": self.threshold,
            "counts": dict(self.counts),
            "features": self.features.state(),
            "ensemble": self.ensemble.state(),
            "pending": self.pending.state(),
            "early": self.early.state(),
            "quality": self.quality.state(),
            "matured": self.matured.state(),
            "drift": self.drift.state(),
            "tallies": self.tallies.state(),
            "trail": self.trail.state(),
            "auditor": self.auditor.state(),
            "reactions": self.reactions.state(),
        }

    def restore(self, state: State, segments: Any = None) -> None:
        """Become the engine that gave ``state``; ``segments`` are the pending rows' files."""
        self.seq = int(state["seq"])
        self.digest = state["digest"]
        self.clock_ms = int(state["clock_ms"])
        self.watermark_ms = int(state["watermark_ms"])
        self.threshold = float(state["threshold"])
        self.counts = Counter(state["counts"])
        self.pending.restore(state["pending"], segments or {})
        for name in (
            "features",
            "ensemble",
            "early",
            "quality",
            "matured",
            "drift",
            "tallies",
            "trail",
            "auditor",
        ):
            getattr(self, name).restore(state[name])
        self.reactions.restore(state.get("reactions", {}))  # older generations have none

    def state_digest(self) -> str:
        """SHA-256 of the whole state, pending rows included; equal for equal engines."""
        state = self.state()
        state["ensemble"] = self.ensemble.digest()  # members may hold what only they can digest
        state["pending"] = self.pending.digest_state()
        return state_digest(state)


def sigmoid(z: F64) -> F64:
    """``1 / (1 + exp(-z))`` without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def log_loss(p: F64, y: F64) -> F64:
    """Log loss ``(n, k)`` of probabilities ``(n, k)`` for truths ``(n,)``, clipped at 1e-15."""
    right = np.where(y[:, None] > 0, p, 1.0 - p)
    return -np.log(np.maximum(right, 1e-15))
