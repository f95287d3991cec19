"""Which label belongs to which event: what waits, what came too early, what is over.

Decisions follow from the order of the records alone, never from where batches are cut. Time is
event time: the watermark is the newest one scored. A row leaves once the watermark is past its
horizon by one part in :data:`PARTS`, so that rows leave in groups and not one by one; the event
that moves the watermark so far ends a run, and time passes before the next one is looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, U64, FeatureBatch
from models.task import Task
from stream.contract.letters import DeadLetter, Reason
from stream.contract.records import Record
from stream.decode.codec import Events, Labels
from stream.step.early import NEVER, EarlyLabel, EarlyLabels
from stream.step.pending.store import Pending

PARTS = 256
"""An event may overstay its horizon by a 256th of it."""

SHOWN = 20
"""Classes that a dead letter names."""


class Labelled(NamedTuple):
    """Scored events and their truth, in label order."""

    numbers: I64  # (n,): the rows' in the pending store
    rows: NDArray[Any]  # (n,) of the store's dtype, as they were scored
    y: F64  # (n,): truths of the task
    at_ms: I64  # (n,): when each label was made


class Left(NamedTuple):
    """Rows that left the pending store; ``y`` is ``nan`` where no label came.

    ``learned``: which were learned before; ``early``: which had a label at their look. ``over``:
    their horizon is over; else they made room for others.
    """

    rows: NDArray[Any]
    y: F64
    learned: BOOL
    early: BOOL
    over: bool


class Join:
    """The pending store, the labels that wait for their event, and the watermark between them.

    Parameters
    ----------
    pending : Pending
    early : EarlyLabels
    horizon_ms : int
    counts : Counter
        The engine's; ``labels.*``, ``pending.evicted`` and ``horizon.passed`` are counted here.

    Attributes
    ----------
    watermark_ms : int
        Newest event time scored.
    heard_ms : int or None
        Newest event time that any scorer of a service is past, 0 before it is known: since then a
        label waits that comes now, for anybody's event; ``None``: here all are scored.
    letters : list of DeadLetter
        Labels and events that were turned away, since somebody last took them.
    """

    def __init__(
        self,
        pending: Pending,
        early: EarlyLabels,
        horizon_ms: int,
        counts: Counter[str],
        task: Task,
    ) -> None:
        self._task = task
        self.pending = pending
        self.early = early
        self.watermark_ms = 0
        self.heard_ms: int | None = None
        self.letters: list[DeadLetter] = []
        self._horizon_ms = horizon_ms
        self._slack_ms = max(1, horizon_ms // PARTS)
        self._counts = counts

    # ------------------------------------------------------------------ classes

    def named(self, events: Events) -> Events:
        """The events with the truths of classes that enter by their labels, in order."""
        if not events.newcomers:
            return events
        y, placed = self._entered(events.records, events.label, events.newcomers)
        return msgspec.structs.replace(events, label=y).take(placed)

    def placed(self, labels: Labels) -> Labels:
        """The labels with the truths of classes that enter by them, in order."""
        if not labels.newcomers:
            return labels
        y, placed = self._entered(labels.records, labels.y, labels.newcomers)
        return msgspec.structs.replace(labels, y=y, newcomers={}).take(placed)

    def _entered(
        self, records: Sequence[Record], y: F64, newcomers: Mapping[float, str]
    ) -> tuple[F64, I64]:
        """The truths with those of newcomers, and the rows that have one; others are refused."""
        y, placed = y.copy(), np.ones(len(y), np.bool_)
        for i in np.flatnonzero(y < 0).tolist():
            name = newcomers[y[i]]
            y[i] = self._task.enter(name)
            if math.isnan(y[i]):
                placed[i] = False
                known = ", ".join(self._task.names[:SHOWN])
                known += ", ..." if len(self._task.names) > SHOWN else ""
                error = (
                    f"expected one of {known}: with these there are as many as target.max_classes"
                    f" = {self._task.k} allows; got {name!r}"
                )
                self.refuse(records[i], "label_class", error)
        return y, np.flatnonzero(placed)

    # ------------------------------------------------------------------ events

    def run(self, times_ms: I64, ticks: bool) -> int:
        """How many of the coming events may be taken at once, at least 1.

        Up to the first one that lets time pass for a row or a label that is held, or will be by
        then; with ``ticks`` also to one that moves the watermark past a multiple of a horizon's
        256th. ``times_ms`` int64 ``(n,)``, ``n`` at least 1.
        """
        oldest = min(self._oldest_ms(len(times_ms)), int(times_ms[0]), self._oldest_label_ms)
        over = oldest + self._horizon_ms + self._slack_ms
        past = np.maximum(times_ms, self.watermark_ms) >= over
        if ticks:
            past |= times_ms // self._slack_ms > self.watermark_ms // self._slack_ms
        return int(past.argmax()) + 1 if past.any() else len(times_ms)

    def _oldest_ms(self, n: int) -> int:
        """The oldest time of a row that may stand at the store's head while ``n`` events come."""
        heads = min(1 + self.pending.overflow(n), len(self.pending))
        return int(self.pending.oldest_times(heads).min(initial=NEVER))

    @property
    def _oldest_label_ms(self) -> int:
        """Since when the oldest label waits, of those that the watermark is the clock of."""
        return self.early.oldest_ms if self.heard_ms is None else NEVER

    @property
    def _since_ms(self) -> int:
        return self.watermark_ms if self.heard_ms is None else self.heard_ms

    def unseen(self, events: Events) -> Events:
        """The events whose ids are not held, each id once; the others become dead letters."""
        repeated = self._repeated(events.id_hash)
        if not repeated.any():
            return events
        for i in np.flatnonzero(repeated).tolist():
            error = "an event with this id was scored within the horizon"
            self.refuse(events.records[i], "duplicate_event", error)
        return events.take(np.flatnonzero(~repeated))

    def _repeated(self, ids: U64) -> BOOL:
        """Which ids are held when their turn comes, or came before in ``ids``."""
        rows = self.pending.find(ids)
        leaving = self.pending.overflow(len(ids))
        if not ((rows >= 0) & (rows < self.pending.head + leaving)).any():
            return ~_firsts(ids) | (rows >= 0)
        # Some row will have made room for others when an event with its id comes: one by one.
        repeated = np.zeros(len(ids), dtype=np.bool_)
        taken: set[int] = set()
        for i, (identifier, row) in enumerate(zip(ids.tolist(), rows.tolist(), strict=True)):
            gone = self.pending.head + self.pending.overflow(len(taken))
            repeated[i] = identifier in taken or row >= gone
            if not repeated[i]:
                taken.add(identifier)
        return repeated

    def make_room(self, n: int) -> Left:
        """Let the oldest rows go, so that ``n`` more fit."""
        left = Left(*self.pending.expire(self.pending.overflow(n)), over=False)
        self._counts["pending.evicted"] += int((~left.learned).sum())
        return left

    def hold(
        self,
        events: Events,
        x: FeatureBatch,
        made: tuple[F64, F64, F64],
        alert: BOOL,
        cold: bool,
        keys: Sequence[str],
    ) -> I64:
        """Keep events as they were scored until their label comes; returns their row numbers.

        ``made``: the members' links, the ensemble's, and its promises. ``keys`` are the entity
        fields whose keys the label will need.
        """
        rows = np.zeros(len(x), dtype=self.pending.dtype)
        rows["id"] = events.id_hash
        rows["event_time_ms"] = events.columns.event_time_ms
        rows["links"], rows["score"], rows["promise"] = made
        rows["dense"] = x.dense
        rows["hashed"] = x.hashed
        rows["alert"] = alert
        rows["cold"] = cold
        if "partition" in (rows.dtype.names or ()):  # a run is of one partition
            rows["partition"] = events.records[0].partition
        for i, field in enumerate(keys):
            rows["keys"][:, i] = events.columns.entities[field]
        newest_ms = int(events.columns.event_time_ms.max())
        if not self.watermark_ms and self.heard_ms is None:
            self.early.begin(newest_ms)
        self.watermark_ms = max(self.watermark_ms, newest_ms)
        return self.pending.hold(rows)

    def known(self, events: Events, rows: I64, clock_ms: int) -> Labelled | None:
        """The labels that the events carry, or that came before them; the caller settles them."""
        y, at = events.label.copy(), np.full(len(rows), clock_ms, dtype=np.int64)
        for i, label in self.early.claim(events.id_hash.tolist()):
            if math.isnan(y[i]):
                y[i], at[i] = label.y, label.labelled_at_ms
            else:
                reason: Reason = "label_duplicate" if label.y == y[i] else "label_conflict"
                self.refuse(label.record, reason, "the event itself carried a label")
        found = np.flatnonzero(~np.isnan(y))
        return self._found(rows[found], y[found], at[found], clock_ms) if len(found) else None

    # ------------------------------------------------------------------ labels

    def labels(self, labels: Labels, clock_ms: int) -> Labelled | None:
        """Join labels with their events by id: those that are the first for their event.

        Further ones become dead letters, and those of a class that has no place; those without an
        event wait for it. The caller settles what is returned in the pending store.
        """
        labels = self.placed(labels)
        rows = self.pending.find(labels.id_hash)
        known = rows >= 0
        fresh = _firsts(labels.id_hash) & known
        fresh[fresh] = np.isnan(self.pending.truth(rows[fresh]))
        first = {} if fresh.all() else dict(zip(rows[fresh], labels.y[fresh], strict=True))
        for i in np.flatnonzero(~fresh).tolist():
            record, y = labels.records[i], float(labels.y[i])
            if known[i]:
                before = first.get(rows[i], self.pending.truth(rows[i : i + 1])[0])
                self.repeat(record, y, float(before))
            else:
                label_ms = int(labels.labelled_at_ms[i])
                self._wait(EarlyLabel(int(labels.id_hash[i]), y, label_ms, self._since_ms, record))
        if not fresh.any():
            return None
        return self._found(rows[fresh], labels.y[fresh], labels.labelled_at_ms[fresh], clock_ms)

    def waits(self, label: Labels) -> bool:
        """Whether the event of this one label is held, and has none yet."""
        row = self.pending.find(label.id_hash)
        return bool(row[0] >= 0 and np.isnan(self.pending.truth(row)[0]))

    def instead(self, label: Labels) -> bool:
        """This one label takes the place of one that waits for its event, if any does."""
        held = self.early.get(int(label.id_hash[0]))
        if held is None:
            return False
        record, y, label_ms = label.records[0], float(label.y[0]), int(label.labelled_at_ms[0])
        if held.y == y:
            self.repeat(record, y, y)
            return True
        [_] = self.early.claim([held.id_hash])
        self._counts["labels.corrected"] += 1
        self._orphans(self.early.add(EarlyLabel(held.id_hash, y, label_ms, self._since_ms, record)))
        return True

    def withdrawn(self, id_hash: int) -> bool:
        """Whether a label waited for this event; it does not any more."""
        gone = [*self.early.claim([id_hash])]
        self._counts["labels.retracted"] += len(gone)
        return bool(gone)

    def _found(self, rows: I64, y: F64, at_ms: I64, clock_ms: int) -> Labelled:
        self._counts["labels.joined"] += len(rows)
        at_ms = np.where(at_ms < 0, clock_ms, at_ms)
        return Labelled(rows, self.pending.take(rows), y, at_ms)

    def repeat(self, record: Record, y: float, before: float) -> None:
        """A second label for an event: the first one holds."""
        reason: Reason = "label_duplicate" if y == before else "label_conflict"
        was, got = self._task.named(before), self._task.named(y)
        self.refuse(record, reason, f"the event was labelled {was} before; got {got}")

    def _wait(self, label: EarlyLabel) -> None:
        held = self.early.get(label.id_hash)
        if held is not None:
            self.repeat(label.record, label.y, held.y)
            return
        self._counts["labels.early"] += 1
        self._orphans(self.early.add(label))

    def reconfigured(self) -> None:
        """The bounds are others since this state was made: early labels over them leave."""
        self._orphans(self.early.over())

    # ------------------------------------------------------------------ time

    def ticked(self, before_ms: int) -> bool:
        """Whether the watermark has passed a multiple of a horizon's 256th since ``before_ms``."""
        return self.watermark_ms // self._slack_ms > before_ms // self._slack_ms

    def time_out(self) -> Left | None:
        """The rows past their horizon leave, if any is past its slack too."""
        if self.watermark_ms < self._horizon_ms + self._slack_ms + min(
            self._oldest_ms(0), self._oldest_label_ms
        ):
            return None
        before = self.watermark_ms - self._horizon_ms
        left = Left(*self.pending.expire(self.pending.due(before)), over=True)
        self._counts["labels.timed_out"] += int(np.isnan(left.y).sum())
        self._counts["horizon.passed"] += len(left.rows)
        if self.heard_ms is None:
            self._orphans(self.early.stale(before))
        return left

    def heard(self, newest_ms: int) -> None:
        """Some scorer is past this event time."""
        if not self.heard_ms and newest_ms:
            self.early.begin(newest_ms)
        self.heard_ms = newest_ms

    def past(self, ms: int) -> None:
        """All scorers are past this: labels that have waited for a horizon by then are orphans."""
        if ms >= self._horizon_ms + self._slack_ms + self.early.oldest_ms:
            self._orphans(self.early.stale(ms - self._horizon_ms))

    def _orphans(self, labels: Iterable[EarlyLabel]) -> None:
        for label in labels:
            error = "no event with this id within the horizon, or its horizon had passed"
            self.refuse(label.record, "label_orphan", error)

    def refuse(self, record: Record, reason: Reason, error: str) -> None:
        """The record becomes a dead letter."""
        self.letters.append(DeadLetter(record, reason, error))

    def take_letters(self) -> Sequence[DeadLetter]:
        """The dead letters since the last call, in order."""
        letters, self.letters = self.letters, []
        return letters


def _firsts(ids: U64) -> BOOL:
    """Which of these are the first of their kind."""
    order = np.sort(ids)
    if not (order[1:] == order[:-1]).any():  # found out in a seventh of the time of where they are
        return np.ones(len(ids), dtype=np.bool_)
    first = np.zeros(len(ids), dtype=np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    return first
