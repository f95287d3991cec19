"""Labels of a file, each with the moment from which it may be learned.

They stand in the events' own rows (:class:`RowLabels`) or in a file of their own
(:class:`FileLabels`). What a label says is the decoder's to judge: one that it refuses is sent all
the same, so that it becomes the dead letter that the service would make of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, U64
from stream.contract.records import Record
from stream.decode.codec import Codec, Events
from stream.decode.payload import Value, decoder, encoded
from stream.settings.paths import place
from stream.settings.schema import Config
from stream.step.pending.labels import WAITING


class Due(NamedTuple):
    """Labels as columns of ``n`` rows."""

    due_ms: I64  # the course from which it may be learned, not before its event's
    after: I64  # offset of the first event that it may precede: the one after its own
    row: I64  # its row in its file, from 0
    id_hash: U64  # of the event; 0 where it cannot be read
    value: NDArray[Any]  # the label's bytes, as objects

    def take(self, rows: Any) -> Due:
        """The given rows."""
        return Due(*(column[rows] for column in self))

    def in_order(self) -> Due:
        """By the moment they are due; those of one moment by their events, then by their rows."""
        return self.take(np.lexsort((self.row, self.after, self.due_ms)))


def due(due_ms: Any, after: Any, row: Any, id_hash: Any, values: Sequence[bytes]) -> Due:
    """Columns of what is given."""
    value = np.empty(len(values), dtype=object)
    value[:] = values
    at, first, place = (np.asarray(c, dtype=np.int64) for c in (due_ms, after, row))
    return Due(at, first, place, np.asarray(id_hash, dtype=np.uint64), value)


def none_due() -> Due:
    """No labels."""
    return due([], [], [], [], [])


def together(parts: Iterable[Due]) -> Due:
    """All of them in one."""
    return Due(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Source(Protocol):
    """Where labels come from.

    Attributes
    ----------
    at_once : bool
        Each label is due with its event.
    untimed : int
        Labels without a time where the configuration names one: nobody knows when they came, so
        they are not learned.
    newcomers : dict of float to str
        Names of classes by their provisional truths, as far as labels were read.
    """

    at_once: bool
    untimed: int
    newcomers: dict[float, str]

    def first(self) -> Due:
        """What is due whatever events come."""

    def met(self, events: Events, offsets: I64, course_ms: I64) -> tuple[Due, F64]:
        """The labels that these ``n`` events bring, and each event's truth, ``nan`` where unknown.

        ``course_ms`` int64 ``(n,)`` is the course after each event.
        """

    def last(self) -> Due:
        """What no event brought."""


class RowLabels:
    """Labels in the rows of the events: a row without one, or with null, has none (yet)."""

    def __init__(self, config: Config, codec: Codec, delay_ms: int | None) -> None:
        label = config.label
        self.untimed = 0
        self.newcomers: dict[float, str] = {}
        self._codec = codec
        self._delay_ms = delay_ms
        self._timed = delay_ms is None and label.time is not None
        self.at_once = not delay_ms and not self._timed
        self._inline = label.inline
        self._topic = config.topics.labels
        # Values stay as they are written: a label repeats its event's id, whatever its size.
        places = [("id", config.event.id), ("label", label.field)]
        if label.time is not None:
            places.append(("time", label.time))
        self._row = decoder("Row", [Value(n, place(p), msgspec.Raw, n == "id") for n, p in places])
        self._places = [(n, place(p)) for n, p in (("id", config.label_event_id), *places[1:])]

    def first(self) -> Due:
        """See :class:`Source`."""
        return none_due()

    def met(self, events: Events, offsets: I64, course_ms: I64) -> tuple[Due, F64]:
        """See :class:`Source`."""
        if self._inline:
            self.newcomers.update(events.newcomers)
            return none_due(), events.label
        truth = np.full(len(offsets), WAITING)
        at_ms = np.full(len(offsets), -1, dtype=np.int64)
        labels = self._labels(events)
        good, bad = self._codec.labels(labels)
        self.newcomers.update(good.newcomers)
        places = [r.offset for r in good.records]
        truth[places], at_ms[places] = good.y, good.labelled_at_ms
        chosen = np.array([r.offset for r in labels], dtype=np.int64)
        if self._timed:
            refused = np.isin(chosen, [letter.record.offset for letter in bad])
            untimed = (at_ms[chosen] < 0) & ~refused
            self.untimed += int(untimed.sum())
            labels = [label for label, out in zip(labels, untimed, strict=True) if not out]
            chosen = chosen[~untimed]
        else:
            at_ms = events.columns.event_time_ms + (self._delay_ms or 0)
        offset = offsets[chosen]
        values = [r.value or b"" for r in labels]
        at_ms = np.maximum(at_ms, course_ms)[chosen]
        return due(at_ms, offset + 1, offset, events.id_hash[chosen], values), truth

    def _labels(self, events: Events) -> list[Record]:
        """The rows' labels as a client would send them; ``offset`` is the place in ``events``."""
        found = []
        for i, record in enumerate(events.records):
            row = self._row(record.value or b"")
            if bytes(row.label) not in (b"null", b""):
                parts = ((where, getattr(row, name)) for name, where in self._places)
                label = encoded((where, value) for where, value in parts if bytes(value))
                found.append(Record(self._topic, 0, i, None, label))
        return found

    def last(self) -> Due:
        """See :class:`Source`."""
        return none_due()


class FileLabels:
    """Labels in a file of their own, in any order, as their rows stand.

    Each is due at its ``label.time``; with a delay, or where the configuration names no such field,
    it is due by its event.
    """

    def __init__(
        self, config: Config, codec: Codec, delay_ms: int | None, rows: Iterable[list[bytes]]
    ) -> None:
        values = [raw for some in rows for raw in some]
        topic = config.topics.labels
        good, bad = codec.labels([Record(topic, 0, i, None, raw) for i, raw in enumerate(values)])
        places = [r.offset for r in good.records]
        found = due(good.labelled_at_ms, [0] * len(places), places, good.id_hash,
                    [values[i] for i in places])  # fmt: skip
        wrong = [letter.record.offset for letter in bad]
        nought = [0] * len(wrong)
        self._first = due(nought, nought, wrong, nought, [values[i] for i in wrong])
        self.untimed = 0
        self.newcomers = dict(good.newcomers)
        self._inline = config.label.inline
        self._delay_ms = delay_ms or 0
        self._by_event = delay_ms is not None or config.label.time is None
        self.at_once = self._by_event and not delay_ms
        order = np.argsort(found.id_hash, kind="stable")
        if not self._by_event:
            timed = found.due_ms >= 0
            self.untimed = int((~timed).sum())
            self._first = together([self._first, found.take(timed)])
            order = np.lexsort((found.due_ms, found.id_hash))
        self._labels, self._y = found.take(order), good.y[order]
        self._met = np.zeros(len(places), dtype=np.bool_)

    def first(self) -> Due:
        """See :class:`Source`."""
        return self._first

    def met(self, events: Events, offsets: I64, course_ms: I64) -> tuple[Due, F64]:
        """See :class:`Source`."""
        known = self._labels.id_hash
        begin = np.searchsorted(known, events.id_hash)
        end = np.searchsorted(known, events.id_hash, side="right")
        truth = np.full(len(offsets), WAITING)
        truth[end > begin] = self._y[begin[end > begin]]
        if self._inline:
            self.newcomers.update(events.newcomers)
            truth = np.where(events.label == WAITING, truth, events.label)
        if not self._by_event:
            return none_due(), truth
        # Of each label the first event of its id.
        n = end - begin
        event = np.repeat(np.arange(len(offsets)), n)
        place = np.repeat(begin - np.cumsum(n) + n, n) + np.arange(int(n.sum()))
        place, first = np.unique(place, return_index=True)
        fresh = ~self._met[place]
        place, event = place[fresh], event[first[fresh]]
        self._met[place] = True
        at_ms = events.columns.event_time_ms[event] + self._delay_ms
        found = self._labels.take(place)
        return found._replace(
            due_ms=np.maximum(at_ms, course_ms[event]), after=offsets[event] + 1
        ), truth

    def last(self) -> Due:
        """See :class:`Source`."""
        return self._labels.take(~self._met) if self._by_event else none_due()
