"""Simulations as records and files: JSON, malformed records mixed in, played at a pace.

Payments are here, over the columns of ``simulator.py``; field names are those of
``examples/fraud.toml``. A :class:`Writing` tells the player how another stream is written,
:func:`writing` makes one of JSON columns.
Nothing here knows what is at the other end of ``append``.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import xxhash

from models.base import I64
from stream.contract.records import NewRecord
from stream.demo.simulator import (
    CATEGORIES,
    GENUINE,
    NEVER,
    Payments,
    Rows,
    Simulation,
    SimulatorError,
)

CHUNK_S = 0.05
"""A paced player appends this often."""
UNPACED_CHUNK = 4096
OVERSIZED_BYTES = 300_000
"""Size of an oversized record: above the default of ``limits.record_bytes``."""

BadKind = Literal["truncated", "wrong_type", "missing_field", "nan", "null", "oversized"]
BAD_KINDS: tuple[BadKind, ...] = BadKind.__args__  # type: ignore[attr-defined]
"""The ways in which a malformed record is malformed."""


class Payment(msgspec.Struct, gc=False):
    """One event as JSON: ``time`` in epoch milliseconds, ``amount`` with 2 decimals."""

    payment_id: str
    time: int
    amount: float
    customer: str
    terminal: str
    category: str
    online: bool


class LabelledPayment(Payment, gc=False):
    """A line of a file: the event, its truth, and when that is reported (``None``: never)."""

    fraud: bool
    reported_at: int | None


class Label(msgspec.Struct, gc=False):
    """The truth about one event as JSON; ``reported_at`` in epoch milliseconds."""

    payment_id: str
    fraud: bool
    reported_at: int


class Played(msgspec.Struct, frozen=True):
    """What a player appended. ``bad`` counts malformed records, which are not among ``events``."""

    events: int
    labels: int
    bad: dict[BadKind, int]


encode = msgspec.json.Encoder().encode


def _ids(payments: Payments, seed: int) -> list[str]:
    # The seed keeps the ids of two simulations on one topic apart.
    return [f"p{seed}-{i}" for i in payments["index"].tolist()]


def _fields(payments: Payments, seed: int) -> zip[tuple[str, int, float, str, str, str, bool]]:
    return zip(
        _ids(payments, seed),
        payments["event_time_ms"].tolist(),
        payments["amount"].tolist(),
        [f"c{i}" for i in payments["customer"].tolist()],
        [f"t{i}" for i in payments["terminal"].tolist()],
        [CATEGORIES[i] for i in payments["category"].tolist()],
        payments["online"].tolist(),
        strict=True,
    )


def event_records(payments: Payments, seed: int) -> list[NewRecord]:
    """The payments as records of the events topic.

    The key is the customer, so that all events of one customer stay in one partition, in order.
    """
    return [NewRecord(f[3].encode(), encode(Payment(*f))) for f in _fields(payments, seed)]


def label_records(payments: Payments, seed: int) -> list[NewRecord]:
    """The truth about the payments as records of the labels topic.

    The key is the payment's id: whoever reports a fraud knows the payment, not the partition.
    """
    truth = (payments["scenario"] != GENUINE).tolist()
    reported = payments["reported_at_ms"].tolist()
    return [
        NewRecord(i.encode(), encode(Label(i, y, at)))
        for i, y, at in zip(_ids(payments, seed), truth, reported, strict=True)
    ]


def lines(payments: Payments, seed: int) -> list[bytes]:
    """The payments with their truth as JSON objects, one :class:`LabelledPayment` each."""
    truth = (payments["scenario"] != GENUINE).tolist()
    reported = [None if at == NEVER else at for at in payments["reported_at_ms"].tolist()]
    return [
        encode(LabelledPayment(*f, y, at))
        for f, y, at in zip(_fields(payments, seed), truth, reported, strict=True)
    ]


Columns = Callable[[Rows, int], dict[str, list[Any]]]
"""From rows and the simulation's seed to JSON values by the name of their field."""


class Writing(NamedTuple):
    """How a stream is written: records of events and of labels, lines of a file.

    Each function takes rows and the simulation's seed. ``spoilt`` names the JSON fields that
    malformed records get wrong: a number, one that is required, a text.
    """

    events: Callable[[Rows, int], list[NewRecord]]
    labels: Callable[[Rows, int], list[NewRecord]]
    lines: Callable[[Rows, int], list[bytes]]
    spoilt: tuple[str, str, str]


def writing(
    event: Columns, truth: Columns, key: str, identifier: str, spoilt: tuple[str, str, str]
) -> Writing:
    """How a stream is written whose events and truths are such columns.

    Parameters
    ----------
    event, truth : callable
        From rows and the simulation's seed to the columns of an event, and of what a label says
        beside its event's id. The last column of a truth is the time of its report; in a line of a
        file it is null where nobody reports it.
    key, identifier : str
        Columns of ``event``: the key of an event's record, and the id, which is a label's key.
    spoilt
        See :class:`Writing`.
    """

    def events(rows: Rows, seed: int) -> list[NewRecord]:
        return [NewRecord(o[key].encode(), encode(o)) for o in _objects(event(rows, seed))]

    def labels(rows: Rows, seed: int) -> list[NewRecord]:
        told = {identifier: event(rows, seed)[identifier]} | truth(rows, seed)
        return [NewRecord(o[identifier].encode(), encode(o)) for o in _objects(told)]

    def lines(rows: Rows, seed: int) -> list[bytes]:
        told = truth(rows, seed)
        reported = list(told)[-1]
        silent = (rows["reported_at_ms"] == NEVER).tolist()
        told[reported] = [
            None if never else at for never, at in zip(silent, told[reported], strict=True)
        ]
        return [encode(o) for o in _objects(event(rows, seed) | told)]

    return Writing(events, labels, lines, spoilt)


def _objects(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def rfc3339(times_ms: I64) -> list[str]:
    """Times in RFC 3339, with milliseconds."""
    text: list[str] = np.datetime_as_string(
        times_ms.astype("datetime64[ms]"), unit="ms", timezone="UTC"
    ).tolist()
    return text


PAYMENTS = Writing(event_records, label_records, lines, ("amount", "customer", "category"))


def spread(writing: Writing, partitions: int) -> Writing:
    """The same payments: events, and their labels alike, in the partition of their customer."""

    def placed(make: Callable[[Payments, int], list[NewRecord]]) -> Callable[..., list[NewRecord]]:
        def made(payments: Payments, seed: int) -> list[NewRecord]:
            of = [partition(f"c{c}", partitions) for c in payments["customer"].tolist()]
            records = make(payments, seed)
            return [NewRecord(r.key, r.value, p) for r, p in zip(records, of, strict=True)]

        return made

    return writing._replace(events=placed(writing.events), labels=placed(writing.labels))


def partition(entity: str, partitions: int) -> int:
    """Where its events and labels go; any function will do that is the same for both."""
    return xxhash.xxh3_64_intdigest(entity.encode()) % partitions


def write_jsonl(
    path: Path,
    simulator: Simulation,
    progress: Callable[[int], object] | None = None,
    writing: Writing = PAYMENTS,
) -> None:
    """Write the whole simulation as JSON Lines; the same simulator writes the same bytes.

    ``progress`` is told how many events each written piece holds.
    """
    with path.open("wb") as file:
        for chunk in simulator.chunks(UNPACED_CHUNK):
            file.write(b"\n".join(writing.lines(chunk.events, simulator.seed)) + b"\n")
            if progress is not None:
                progress(len(chunk.events))


def spoil(record: NewRecord, kind: BadKind, writing: Writing = PAYMENTS) -> NewRecord:
    """A malformed record of the given kind, made from a good event."""
    number, required, text = writing.spoilt
    value = record.value or b"{}"
    fields = msgspec.json.decode(value)
    if kind == "truncated":
        return NewRecord(record.key, value[: len(value) // 2])
    if kind == "nan":
        # No JSON: how careless producers write a missing number.
        name = encode(number) + b":"
        good = name + encode(fields[number])
        return NewRecord(record.key, value.replace(good, name + b"NaN"))
    if kind == "null":
        return NewRecord(record.key, None)
    if kind == "wrong_type":
        fields[number] = f"{fields[number]} EUR"
    elif kind == "missing_field":
        del fields[required]
    else:
        fields[text] = "x" * OVERSIZED_BYTES
    return NewRecord(record.key, encode(fields))


class Player:
    """Appends a simulation's events, and labels as they become visible, at a given pace.

    A label is appended after every event that is not younger than its report. Event time runs
    ``rate / simulator.daily_rate`` days a second.

    Parameters
    ----------
    simulator : Simulation
    append : callable ``(topic, records)``
        Usually ``Log.append``; its errors end the run.
    rate : float or None
        Events a second, above 0; labels and malformed records come on top. ``None``: no pause.
    bad_share : float
        So many malformed records for each good event, 0..1, mixed in between them.
    events_topic, labels_topic : str
    writing : Writing
    clock : callable
        Monotonic seconds.
    now_ms : callable or None
        The wall clock's epoch milliseconds: no event is appended before its own time. ``None``:
        event time may be anything.
    sleep : callable or None
        Called with seconds to wait; by default the wait ends as soon as ``stop`` is set.
    """

    def __init__(
        self,
        simulator: Simulation,
        append: Callable[[str, Sequence[NewRecord]], object],
        *,
        rate: float | None,
        bad_share: float = 0.0,
        events_topic: str = "events",
        labels_topic: str = "labels",
        writing: Writing = PAYMENTS,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        if rate is not None and rate <= 0:
            raise SimulatorError(f"rate: expected more than 0 events a second, got {rate}")
        if not 0 <= bad_share <= 1:
            raise SimulatorError(f"bad_share: expected 0..1, got {bad_share}")
        self._simulator = simulator
        self._append = append
        self._rate = rate
        self._bad_share = bad_share
        self._topics = events_topic, labels_topic
        self._writing = writing
        self._clock = clock
        self._now_ms = now_ms
        self._sleep = sleep

    def run(self, stop: threading.Event) -> Played:
        """Play from the start to the last event, or until ``stop`` is set; returns the counts."""
        seed = self._simulator.seed
        size = UNPACED_CHUNK if self._rate is None else max(1, round(self._rate * CHUNK_S))
        rng = np.random.default_rng([seed, 2])
        sleep = self._sleep or stop.wait
        bad: Counter[BadKind] = Counter()
        events = labels = 0
        started = self._clock()
        for chunk in self._simulator.chunks(size):
            # 1. Wait until this chunk's last event is due, by its rate and by its own time.
            ahead_s = 0.0
            if self._rate is not None:
                ahead_s = started + (events + len(chunk.events)) / self._rate - self._clock()
            if self._now_ms is not None:
                last_ms = int(chunk.events["event_time_ms"][-1])
                ahead_s = max(ahead_s, (last_ms - self._now_ms()) / 1000)
            if ahead_s > 0:
                sleep(ahead_s)
            if stop.is_set():
                break
            # 2. Events first, so that no label of this chunk comes before its event.
            records = self._writing.events(chunk.events, seed)
            self._append(self._topics[0], self._mix(records, rng, bad))
            events += len(records)
            # 3. Labels that became visible by then.
            if len(chunk.labels):
                self._append(self._topics[1], self._writing.labels(chunk.labels, seed))
                labels += len(chunk.labels)
        return Played(events, labels, {kind: bad[kind] for kind in BAD_KINDS})

    def _mix(
        self, records: list[NewRecord], rng: np.random.Generator, bad: Counter[BadKind]
    ) -> list[NewRecord]:
        """The records with malformed ones in between, counted in ``bad``."""
        if not self._bad_share:
            return records
        mixed = []
        for record, spoiled in zip(records, rng.random(len(records)), strict=True):
            mixed.append(record)
            if spoiled < self._bad_share:
                kind = BAD_KINDS[bad.total() % len(BAD_KINDS)]
                mixed.append(spoil(record, kind, self._writing))
                bad[kind] += 1
        return mixed
