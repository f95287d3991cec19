"""Reads Kafka: the live input in shares (:class:`Poller`), and given offsets (:class:`Reader`).

Every blocking call runs in a worker thread with a deadline. Never subscribes: partitions are
assigned, and offsets are the caller's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from stream.contract.log import LogError, LogUnavailable, OutOfRetention, same_records
from stream.contract.records import Range, Record, Slice, range_of
from stream.contract.routing import shares
from stream.logs.kafka.calls import Seat
from stream.logs.kafka.clients.base import Client, Consumer, Key

T = TypeVar("T")

_WAIT_S = 0.1
"""The longest single wait inside a poll: how long a wake may take."""
_STALE_S = 1.0
"""A partition that gave nothing for so long reserves no share: its rest may never come."""
_BUFFER = 20_000
"""Records held back at most, beyond one fetch, while another partition's share is under way."""
_PROBE_S = 2.0
"""How often an idle poll asks whether the broker is still there; no client says so by itself. With
the two seconds that an answer may take before the service is not ready, that is told within 5 s."""

_PROBE_LIMIT_S = 5.0


class Reader:
    """A consumer for given offsets: replay, the journal, tails, first and last offsets."""

    def __init__(self, client: Client, group: str) -> None:
        self._limit_s = client.timeout_s
        self._seat = Seat("millrace-kafka-read", lambda: client.consumer(group), client.translated)

    def bounds(
        self, keys: Iterable[Key], limit_s: float | None = None
    ) -> tuple[dict[Key, int], dict[Key, int]]:
        """The oldest retained and the next committed offset of each partition."""
        limit = self._limit_s if limit_s is None else min(limit_s, self._limit_s)
        return self._seat.call(
            "offsets of partitions", limit + 0.5, lambda c: c.bounds(keys, limit)
        )

    def committed(self, keys: Iterable[Key]) -> dict[Key, int]:
        """The offsets that the shard's consumer group committed."""
        return self._call("committed offsets", lambda c: c.committed(keys, self._limit_s))

    def commit(self, offsets: Mapping[Key, int]) -> None:
        """Commit the group's offsets outside a transaction."""
        self._call("commit of offsets", lambda c: c.commit(offsets, self._limit_s))

    def fetch(self, key: Key, first: int, end: int, limit: int | None = None) -> list[Record]:
        """Committed records with ``first <= offset < end``, at most ``limit`` of them."""

        def work(consumer: Consumer) -> list[Record]:
            deadline = time.monotonic() + self._limit_s
            consumer.assign({key: first})
            found: list[Record] = []
            # Markers of transactions use offsets and give no record: the position tells the end.
            while consumer.position(key) < end and (limit is None or len(found) < limit):
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"Kafka: {key[0]}/{key[1]}: no record at offset {first}")
                records = consumer.poll(limit or 10_000, 0.2).get(key, ())
                found += [r for r in records if r.offset < end]
            return found

        return self._call(f"read of {key[0]}/{key[1]} at offset {first}", work)

    def _call(self, what: str, work: Callable[[Consumer], T]) -> T:
        # A little longer than the client's own timeouts, whose errors say more.
        return self._seat.call(what, self._limit_s + 0.5, work)

    def hurry(self) -> None:
        """Wait for no answer long any more."""
        self._seat.hurry()

    def close(self) -> None:
        """Close the consumer and end the thread."""
        self._seat.close()


class Poller:
    """The live input: buffers what the consumer fetched and hands it out in fair shares."""

    def __init__(self, client: Client, reader: Reader, control: str) -> None:
        self._client = client
        self._reader = reader
        self._control = control
        self._seat = Seat("millrace-kafka-poll", self._start, client.translated)
        self._buffers: dict[Key, list[Record]] = {}
        self._next: dict[Key, int] = {}
        self._fetched: dict[Key, int] = {}
        self._ends: dict[Key, int] = {}
        self._seen: dict[Key, float] = {}
        self._told: dict[Key, int] = {}
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
        """End a waiting poll; what is asked now or later is not waited for long."""
        self._woken.set()
        self._seat.hurry()

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
            limit_s = self._client.timeout_s + 0.5
            try:
                fetch = partial(self._fetch, max_records, wait_s)
                got, ends, passed = self._seat.call("poll", limit_s, fetch)
            except LogError:
                # After any exception the client may be in any state: only a new one is sound.
                self._restart()
                raise
            now = time.monotonic()
            for key, records in got.items():
                self._buffers[key] += records
                self._fetched[key] = records[-1].offset + 1
                self._seen[key] = self._alive = now
            self._fetched |= passed
            self._ends |= {k: max(end, self._fetched[k]) for k, end in ends.items()}
            if not got:
                return
            wait_s = 0.0

    def _fetch(
        self, max_records: int, wait_s: float, consumer: Consumer
    ) -> tuple[dict[Key, list[Record]], dict[Key, int], dict[Key, int]]:
        """Records, the ends of their partitions, and positions past markers.

        Changes nothing of ours: a call past its deadline may still return, to nobody.
        """
        got = consumer.poll(max_records, wait_s)
        if got:
            return got, {key: consumer.end(key) for key in got}, {}
        # Markers and aborted records give no record to count by: the position has passed them.
        behind = [key for key, at in self._fetched.items() if at < self._ends[key]]
        return {}, {}, {key: max(self._fetched[key], consumer.position(key)) for key in behind}

    def _start(self) -> Consumer:
        consumer = self._client.consumer()
        consumer.assign(self._next)
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
            records = self._buffers[key][:count]
            if records:
                del self._buffers[key][:count]
                span = range_of(records)
                self._next[key] = span.next_offset
                slices.append(Slice(span, records))
        return slices

    def _probe(self) -> None:
        """Ask an idle broker for a sign of life: no client says when there is none."""
        if time.monotonic() - self._alive < _PROBE_S or any(self._buffers.values()):
            return
        # Of a topic that was deleted nobody ever knows: a probe must not wait for log.timeout.
        _, self._ends = self._reader.bounds(self._next, _PROBE_LIMIT_S)
        if self._fetched != self._told:
            # For tools that show the group's lag. Steps commit the offset after their last record:
            # not past the markers behind it, and nothing of partitions that have none.
            self._reader.commit(self._fetched)
            self._told = dict(self._fetched)
        self._alive = time.monotonic()

    def close(self) -> None:
        """Close the consumer and end the thread."""
        self._seat.close()


def newest(reader: Reader, key: Key, count: int, before: int | None = None) -> list[Record]:
    """The newest ``count`` committed records of a partition (``before`` an offset), oldest first.

    Reads back in growing windows, because transaction markers and aborted records fill offsets.
    """
    firsts, ends = reader.bounds([key])
    first, end = firsts[key], ends[key] if before is None else before
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
