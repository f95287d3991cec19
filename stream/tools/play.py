"""A file played as its log would be: rows in, batches for the engine out, labels when they are due.

Events come in the file's order. A label comes between events, before the first one that finds the
course at or past its due time; a step may hold it back behind some events, for as long as that
changes no decision about any record (:meth:`Play._end`). So what is joined, over, orphaned or a
dead letter does not depend on how many events a step takes. Nothing here scores or judges.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from models.base import BOOL, F64, I64
from stream.contract.letters import DeadLetter
from stream.contract.records import Batch, Range, Record, Slice
from stream.decode.codec import Events
from stream.settings.schema import Config
from stream.step.scoring import ScoringEngine
from stream.tools.course import Course
from stream.tools.due import Due, Source, together

CHUNK = 8192
"""Rows that are decoded at once."""
DRAIN = 4096
"""Labels learned in one step once the events are over."""
SHARE = 32
"""A step holds a label back, and spans, for at most this part of the label's delay, and of the
horizon."""


class Waits(NamedTuple):
    """How long labels waited past the moment they were due while events were scored."""

    labels: int = 0
    late: int = 0  # of these, those that waited at all
    total_ms: int = 0
    longest_ms: int = 0

    def plus(self, waited_ms: I64) -> Waits:
        """With more labels."""
        return Waits(
            self.labels + len(waited_ms),
            self.late + int((waited_ms > 0).sum()),
            self.total_ms + int(waited_ms.sum()),
            max(self.longest_ms, int(waited_ms.max(initial=0))),
        )


class _Chunk(NamedTuple):
    """Decoded rows: every ``records``, the good ``events`` with their ``places`` among them."""

    records: list[Record]
    events: Events
    places: I64
    letters: list[DeadLetter]

    def part(self, start: int, end: int) -> tuple[Events, list[DeadLetter]]:
        """The events and the letters of these records."""
        good = slice(*np.searchsorted(self.places, [start, end]).tolist())
        first = self.records[0].offset
        bad = [bisect_left(self.letters, first + i, key=_offset) for i in (start, end)]
        return self.events.take(np.arange(len(self.places))[good]), self.letters[slice(*bad)]


class Play:
    """Plays one file into one engine.

    Parameters
    ----------
    config : Config
    engine : ScoringEngine
        Must have stepped each batch before the next one is asked for: where a step may end follows
        from what the engine holds.
    labels : Source
    batch : int
        Most events in one step; 1 is strictly prequential.

    Attributes
    ----------
    course : Course
    waits : Waits
    truth : list of float64 arrays
        Of each row so far, in equal parts: ``nan`` where it is not known.
    events_sent : int
    """

    def __init__(self, config: Config, engine: ScoringEngine, labels: Source, batch: int) -> None:
        self.course = Course(config.limits.ahead, config.label.horizon)
        self.waits = Waits()
        self.truth: list[F64] = []
        self.events_sent = 0
        self._config = config
        self._engine = engine
        self._source = labels
        self._most = min(batch, engine.pending.room)
        self._chunk = max(CHUNK, batch)
        self._span_ms = config.label.horizon // SHARE
        self._held = labels.first()
        self._labels_sent = 0
        self._label_firsts: list[int] = []
        self._label_rows: list[I64] = []

    def batches(self, rows: Iterable[list[bytes]]) -> Iterator[Batch]:
        """The steps of the whole file, and then of the labels that are due after its last event."""
        chunks = self._decoded(_regrouped(rows, self._chunk))
        coming = next(chunks, None)
        while coming is not None:
            now, coming = coming, next(chunks, None)
            yield from self._play(now, coming)
        self._held = together([self._held, self._source.last()]).in_order()
        while len(self._held.due_ms):
            now_due, self._held = _cut(self._held, DRAIN)
            clock = max(self.course.now_ms, int(now_due.due_ms[-1]), 0)
            yield self._batch(now_due, None, 0, 0, clock, self.course.now_ms)

    def row_of(self, record: Record) -> int:
        """The row in its file, from 0, of a record that was played."""
        if record.topic == self._config.topics.events:
            return record.offset
        part = bisect_right(self._label_firsts, record.offset) - 1
        return int(self._label_rows[part][record.offset - self._label_firsts[part]])

    def truth_of(self, row: int) -> float:
        """The truth of a row that was played, ``nan`` where it is not known."""
        return float(self.truth[row // self._chunk][row % self._chunk])

    def _decoded(self, chunks: Iterable[list[bytes]]) -> Iterator[_Chunk]:
        topic, offset = self._config.topics.events, 0
        for rows in chunks:
            records = [Record(topic, 0, offset + i, None, raw) for i, raw in enumerate(rows)]
            events, letters = self._engine.codec.events(records)
            places = np.array([r.offset - offset for r in events.records], dtype=np.int64)
            yield _Chunk(records, events, places, letters)
            offset += len(records)

    def _play(self, chunk: _Chunk, coming: _Chunk | None) -> Iterator[Batch]:
        """The steps of one chunk; labels that are not due by its end are held for the next."""
        n, first = len(chunk.records), chunk.records[0].offset
        before = self.course.now_ms
        course, future = self._clock(chunk, coming)
        labels = self._due_within(chunk, course, future)
        # A record of the chunk for each label: the first that it comes before.
        at = np.maximum(np.searchsorted(course, labels.due_ms), labels.after - first)
        start = sent = 0
        while start < n:
            ready = int(np.searchsorted(at, start, side="right"))
            end = self._end(chunk, course, future, labels, at, start)
            clock = max(int(course[end - 1]), 0)
            yield self._batch(_part(labels, sent, ready), chunk, start, end, clock, before)
            before = int(course[end - 1])
            start, sent = end, ready
        self._held = together([self._held, _part(labels, sent, len(at))])

    def _clock(self, chunk: _Chunk, coming: _Chunk | None) -> tuple[I64, I64]:
        """The course after each record, and the places of events from the future."""
        times = chunk.events.columns.event_time_ms
        later = coming.events.columns.event_time_ms if coming else times[:0]
        start = self.course.now_ms
        moved = np.array([start, *self.course.take(times, later)], dtype=np.int64)
        # A record that is no event leaves the course where it was.
        good_so_far = np.searchsorted(chunk.places, np.arange(len(chunk.records)), side="right")
        future = chunk.places[times > moved[1:] + self._config.limits.ahead]
        return moved[good_so_far], future

    def _due_within(self, chunk: _Chunk, course: I64, future: I64) -> Due:
        """The labels that may come before a record of this chunk, in order; the others are held."""
        taken = np.flatnonzero(~np.isin(chunk.places, future))
        places = chunk.places[taken]
        first = chunk.records[0].offset
        # The label of an event that is not taken goes with it: one row, one dead letter.
        met, truth = self._source.met(chunk.events.take(taken), places + first, course[places])
        of_rows = np.full(len(chunk.records), np.nan)
        of_rows[places] = truth
        self.truth.append(of_rows)
        all_held = together([self._held, met])
        soon = (all_held.due_ms <= course[-1]) & (all_held.after < first + len(course))
        self._held = all_held.take(~soon)
        return all_held.take(soon).in_order()

    def _end(
        self, chunk: _Chunk, course: I64, future: I64, labels: Due, at: I64, start: int
    ) -> int:
        """Where the step that begins at ``start`` ends.

        1. It takes at most ``batch`` events and spans at most a share of the horizon.
        2. It ends with an event from the future, which only its own clock tells from others.
        3. It ends before a label has waited for more than a share of its delay.
        4. It ends where a label is due whose event could leave, or come, before the step's end: any
           other one finds its event just the same a little later.
        """
        end = min(start + self._most, len(course))
        spanned = np.searchsorted(course, course[start] + self._span_ms, side="right")
        end = max(start + 1, min(end, int(spanned)))
        ahead = int(np.searchsorted(future, start))
        if ahead < len(future):
            end = min(end, int(future[ahead]) + 1)
        held = slice(*np.searchsorted(at, [start + 1, end]).tolist())
        if held.start == held.stop:
            return end
        some, at = labels.take(held), at[held]
        event_ms, must = self._events_of(chunk, some, at, start, end)
        must |= event_ms < course[end - 1] - self._config.label.horizon
        if not self._source.at_once:
            latest = some.due_ms + (some.due_ms - event_ms) // SHARE
            late = int(np.searchsorted(course, latest.min(), side="right"))
            end = min(end, max(late, start + 1))
        return min(end, int(at[must].min())) if must.any() else end

    def _events_of(
        self, chunk: _Chunk, labels: Due, at: I64, start: int, end: int
    ) -> tuple[I64, BOOL]:
        """Event times of labels, and which may find no event at the end of the step.

        Their events are held by the engine, or come within the step before them.
        """
        pending = self._engine.pending
        rows = pending.find(labels.id_hash)
        known = rows >= 0
        times = labels.due_ms.copy()
        times[known] = pending.times(rows[known])
        must = rows < pending.head + pending.overflow(end - start)
        within = slice(*np.searchsorted(chunk.places, [start, end]).tolist())
        ids = chunk.events.id_hash[within]
        if known.all() or not len(ids):
            return times, must
        order = np.argsort(ids, kind="stable")
        found = order[np.minimum(np.searchsorted(ids[order], labels.id_hash), len(ids) - 1)]
        here = ~known & (ids[found] == labels.id_hash) & (chunk.places[within][found] < at)
        times[here] = chunk.events.columns.event_time_ms[within][found[here]]
        return times, must & ~here

    def _batch(
        self, labels: Due, chunk: _Chunk | None, start: int, end: int, clock: int, before: int
    ) -> Batch:
        """Labels, then events; ``before`` is the course of the step before."""
        slices = []
        topic = self._config.topics.labels
        if len(labels.due_ms):
            first = self._labels_sent
            records = [Record(topic, 0, first + i, None, v) for i, v in enumerate(labels.value)]
            slices.append(_slice(records))
            self._labels_sent += len(records)
            self._label_firsts.append(first)
            self._label_rows.append(labels.row)
            self.waits = self.waits.plus(np.maximum(before - labels.due_ms, 0))
        if chunk is not None:
            slices.append(self._events(chunk, start, end))
            self.events_sent += end - start
        return Batch(self._engine.seq + 1, clock, slices)

    def _events(self, chunk: _Chunk, start: int, end: int) -> Slice:
        """The records with what the engine's own decoder made of them."""
        records = chunk.records[start:end]
        ahead = (self._engine.codec, chunk.part(start, end))
        return Slice(_slice(records).range, records, ahead)


def _offset(letter: DeadLetter) -> int:
    return letter.record.offset


def _slice(records: list[Record]) -> Slice:
    first, last = records[0], records[-1]
    return Slice(Range(first.topic, 0, first.offset, last.offset, len(records)), records)


def _part(labels: Due, start: int, end: int) -> Due:
    return labels.take(slice(start, end))


def _cut(labels: Due, n: int) -> tuple[Due, Due]:
    return _part(labels, 0, n), _part(labels, n, len(labels.due_ms))


def _regrouped(parts: Iterable[list[bytes]], n: int) -> Iterator[list[bytes]]:
    """The same rows in lists of ``n``, the last one shorter."""
    rows = chain.from_iterable(parts)
    while group := list(islice(rows, n)):
        yield group
