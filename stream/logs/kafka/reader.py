"""Reads Kafka: the live input in shares (:class:`Poller`), and given offsets (:class:`Reader`).

Every blocking call runs in a worker thread with a deadline. Never subscribes: partitions are
assigned, and offsets are the caller's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from kafka import TopicPartition

from stream.contract.log import LogError, LogUnavailable, OutOfRetention, same_records
from stream.contract.records import Headers, Range, Record, Slice, range_of
from stream.contract.routing import shares
from stream.logs.kafka.calls import Seat
from stream.logs.kafka.codec import Unreadable
from stream.logs.kafka.io import Clients, leave_consumer

T = TypeVar("T")
Key = tuple[str, int]

_WAIT_S = 0.1
"""The longest single wait inside a poll: how long a wake may take."""
_STALE_S = 1.0
"""A partition that gave nothing for so long reserves no share: its rest may never come."""
_BUFFER = 20_000
"""Records held back at most, beyond one fetch, while another partition's share is under way."""
_PROBE_S = 2.0
"""How often an idle poll asks whether the broker is still there; kafka-python does not say. With
the two seconds that an answer may take before the service is not ready, that is told within 5 s."""


def _records(raws: Iterable[Any]) -> list[Record]:
    return [
        Record(
            raw.topic,
            raw.partition,
            raw.offset,
            raw.key,
            raw.value,
            raw.timestamp,
            *(_headers(raw.headers) if raw.headers else ()),
        )
        for raw in raws
    ]


def _headers(pairs: Sequence[tuple[str, bytes | None]]) -> tuple[Headers, str]:
    """A record's headers, and why it could not be read if it could not."""
    name = pairs[0][0]
    if isinstance(name, Unreadable):
        return (), str(name)
    return tuple((k, v or b"") for k, v in pairs), ""


class Reader:
    """A consumer for given offsets: replay, the journal, tails, first and last offsets."""

    def __init__(self, clients: Clients, group: str) -> None:
        self._clients = clients
        self._seat = Seat("millrace-kafka-read", lambda: clients.consumer(group), leave_consumer)

    def bounds(self, keys: Iterable[Key]) -> tuple[dict[Key, int], dict[Key, int]]:
        """The oldest retained and the next committed offset of each partition."""
        tps = [TopicPartition(*key) for key in keys]

        def ask(consumer: Any) -> tuple[dict[Key, int], dict[Key, int]]:
            limit = self._clients.timeout_s * 1000
            first = consumer.beginning_offsets(tps, timeout_ms=limit)
            last = consumer.end_offsets(tps, timeout_ms=limit)
            return ({(*tp,): first[tp] for tp in tps}, {(*tp,): last[tp] for tp in tps})

        return self._call("offsets of partitions", ask)

    def committed(self, keys: Iterable[Key]) -> dict[Key, int]:
        """The offsets that the shard's consumer group committed."""

        def ask(consumer: Any) -> dict[Key, int]:
            limit = self._clients.timeout_s * 1000
            found = {k: consumer.committed(TopicPartition(*k), timeout_ms=limit) for k in keys}
            return {k: v for k, v in found.items() if v is not None}

        return self._call("committed offsets", ask)

    def commit(self, offsets: Mapping[TopicPartition, Any]) -> None:
        """Commit the group's offsets outside a transaction."""
        limit = self._clients.timeout_s * 1000
        self._call("commit of offsets", lambda c: c.commit(dict(offsets), timeout_ms=limit))

    def fetch(self, key: Key, first: int, end: int, limit: int | None = None) -> list[Record]:
        """Committed records with ``first <= offset < end``, at most ``limit`` of them."""

        def work(consumer: Any) -> list[Record]:
            tp = TopicPartition(*key)
            deadline = time.monotonic() + self._clients.timeout_s
            consumer.assign([tp])
            consumer.seek(tp, first)
            found: list[Record] = []
            # Markers of transactions use offsets and give no record: the position tells the end.
            while consumer.position(tp) < end and (limit is None or len(found) < limit):
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"Kafka: {key[0]}/{key[1]}: no record at offset {first}")
                raws = consumer.poll(timeout_ms=200, max_records=limit or 10_000).get(tp, ())
                found += _records(raw for raw in raws if raw.offset < end)
            return found

        return self._call(f"read of {key[0]}/{key[1]} at offset {first}", work)

    def _call(self, what: str, work: Callable[[Any], T]) -> T:
        # A little longer than the client's own timeouts, whose errors say more.
        return self._seat.call(what, self._clients.timeout_s + 0.5, work)

    def close(self) -> None:
        """Close the consumer and end the thread."""
        self._seat.close(lambda consumer: consumer.close(timeout_ms=1000))


class Poller:
    """The live input: buffers what the consumer fetched and hands it out in fair shares."""

    def __init__(self, clients: Clients, reader: Reader, control: str) -> None:
        self._clients = clients
        self._reader = reader
        self._control = control
        self._seat = Seat("millrace-kafka-poll", self._start, leave_consumer)
        self._buffers: dict[Key, list[Any]] = {}
        self._next: dict[Key, int] = {}
        self._fetched: dict[Key, int] = {}
        self._ends: dict[Key, int] = {}
        self._seen: dict[Key, float] = {}
        self._alive = time.monotonic()
        self._woken = threading.Event()

    def seek(self, positions: Mapping[Key, int], ends: Mapping[Key, int]) -> None:
        """Start at the positions; ``ends`` are the next offsets of the partitions now."""
        self._next = dict(positions)
        self._ends = dict(ends)
        self._restart()

    def lag(self) -> dict[Key, int] | None:
        """Records not handed out yet, as of the last fetch; ``None`` before :meth:`seek`.

        Counts transaction markers until the consumer has passed them.
        """
        if not self._next:
            return None
        return {
            key: len(self._buffers[key]) + max(0, self._ends[key] - at)
            for key, at in self._fetched.items()
        }

    def wake(self) -> None:
        """End a waiting poll."""
        self._woken.set()

    def poll(self, max_records: int, timeout_s: float) -> list[Slice]:
        """See :meth:`stream.contract.log.Log.poll`."""
        if not self._next:
            raise LogError("Kafka: no positions; call seek() before poll()")
        deadline = time.monotonic() + timeout_s
        while True:
            self._fill(max_records, deadline)
            slices = self._take(max_records)
            if slices:
                return slices
            if self._woken.is_set():
                self._woken.clear()
                return []
            if time.monotonic() >= deadline:
                self._probe()
                return []

    def _fill(self, max_records: int, deadline: float) -> None:
        """Fetch until each partition has its share or nothing more is there."""
        idle = not any(self._buffers.values())
        wait_s = max(0.0, min(_WAIT_S, deadline - time.monotonic())) if idle else 0.0
        while not self._satisfied(max_records) and not self._full():
            limit_s = self._clients.timeout_s + 0.5
            try:
                fetch = partial(self._fetch, max_records, wait_s)
                got, ends, passed = self._seat.call("poll", limit_s, fetch)
            except LogError:
                # After any exception kafka-python's consumer spins: only a new one is sound.
                self._restart()
                raise
            now = time.monotonic()
            for key, raws in got.items():
                self._buffers[key] += raws
                self._fetched[key] = raws[-1].offset + 1
                self._seen[key] = self._alive = now
            self._fetched |= passed
            self._ends |= {k: max(end, self._fetched[k]) for k, end in ends.items()}
            if not got:
                return
            wait_s = 0.0

    def _fetch(
        self, max_records: int, wait_s: float, consumer: Any
    ) -> tuple[dict[Key, list[Any]], dict[Key, int], dict[Key, int]]:
        """Records, the ends of their partitions, and positions past markers.

        Changes nothing of ours: a call past its deadline may still return, to nobody.
        """
        got = consumer.poll(timeout_ms=wait_s * 1000, max_records=max_records)
        if got:
            ends = {(*tp,): consumer.highwater(tp) or 0 for tp in got}
            return {(*tp,): raws for tp, raws in got.items()}, ends, {}
        # Markers and aborted records give no record to count by: the position has passed them.
        behind = [key for key, at in self._fetched.items() if at < self._ends[key]]
        at = {key: consumer.position(TopicPartition(*key)) or 0 for key in behind}
        return {}, {}, {key: max(self._fetched[key], offset) for key, offset in at.items()}

    def _start(self) -> Any:
        consumer = self._clients.consumer()
        consumer.assign([TopicPartition(*key) for key in self._next])
        for key, offset in self._next.items():
            consumer.seek(TopicPartition(*key), offset)
        return consumer

    def _restart(self) -> None:
        """Forget what was fetched; a new consumer resumes after what was handed out."""
        self._seat.drop()
        self._buffers = {key: [] for key in self._next}
        self._fetched = dict(self._next)
        self._seen = dict.fromkeys(self._next, time.monotonic())

    def _full(self) -> bool:
        # Not by pause(): kafka-python may forget what it had fetched of a paused partition.
        return sum(map(len, self._buffers.values())) >= _BUFFER

    def _plan(self, max_records: int) -> dict[Key, int]:
        """How many records of each partition the next poll should hand out."""
        now = time.monotonic()
        urgent, waiting = [], []
        for key, buffer in self._buffers.items():
            if key[0] == self._control:
                urgent.append((key, len(buffer)))
                continue
            fresh = now - self._seen[key] < _STALE_S
            rest = self._ends[key] - self._fetched[key] if fresh else 0
            waiting.append((key, len(buffer) + max(0, rest)))
        return shares(urgent, waiting, max_records)

    def _satisfied(self, max_records: int) -> bool:
        plan = self._plan(max_records)
        return bool(plan) and all(len(self._buffers[k]) >= n for k, n in plan.items())

    def _take(self, max_records: int) -> list[Slice]:
        plan = self._plan(max_records)
        if not any(self._buffers[key] for key in plan):  # the shares wait for what is under way
            plan = shares([], [(k, len(b)) for k, b in self._buffers.items()], max_records)
        slices = []
        for key, count in plan.items():
            taken = self._buffers[key][:count]
            if taken:
                del self._buffers[key][:count]
                records = _records(taken)
                span = range_of(records)
                self._next[key] = span.next_offset
                slices.append(Slice(span, records))
        return slices

    def _probe(self) -> None:
        """Ask an idle broker for a sign of life: kafka-python does not say when there is none."""
        if time.monotonic() - self._alive < _PROBE_S or any(self._buffers.values()):
            return
        _, self._ends = self._reader.bounds(self._next)
        self._alive = time.monotonic()

    def close(self) -> None:
        """Close the consumer and end the thread."""
        self._seat.close(lambda consumer: consumer.close(timeout_ms=1000))


def newest(reader: Reader, key: Key, count: int) -> list[Record]:
    """The newest ``count`` committed records of a partition, oldest first.

    Reads back in growing windows, because transaction markers and aborted records fill offsets.
    """
    firsts, ends = reader.bounds([key])
    first, end = firsts[key], ends[key]
    window = 2 * count + 16
    while True:
        start = max(first, end - window)
        found = reader.fetch(key, start, end) if start < end else []
        if len(found) >= count or start <= first:
            return found[-count:]
        window *= 4


def check_read(wanted: Range, found: Sequence[Record]) -> Slice:
    """The slice, if the records are those that the range names."""
    where = f"{wanted.topic}/{wanted.partition} offsets {wanted.first}..{wanted.last}"
    if not found or (found[0].offset > wanted.first and len(found) < wanted.count):
        raise OutOfRetention(f"Kafka: {where}: expected {wanted.count} records, got {len(found)}")
    if len(found) != wanted.count or found[-1].offset != wanted.last:
        raise LogError(
            f"Kafka: {where}: expected {wanted.count} records, got {len(found)}; the topic was"
            " compacted, or is not the one the journal was written beside"
        )
    return same_records(wanted, found)
