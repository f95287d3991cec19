"""Writes a step's outputs to Kafka: in one transaction, or at least once.

Keeps no outputs: whoever got :class:`LogUnavailable` calls again with the same ones. A producer
whose last call failed is never used again: a late answer to it could end a later transaction
(KAFKA-17754), and only the epoch of a new one shuts it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from stream.contract.failpoint import failpoint
from stream.contract.log import Fenced, LogError, LogUnavailable, check_succession
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, NewRecord, decode_journal, encode_journal
from stream.contract.routing import places
from stream.logs.kafka.calls import Seat
from stream.logs.kafka.io import Clients, leave_producer
from stream.logs.kafka.reader import Reader, newest
from stream.settings import schema as settings

POSITION_HEADER = "millrace-position"
"""``NAME/seq/index`` of an output in ``at_least_once``: the same after a repeat."""
_SLOW_S = 1.0
_PAUSE_S = 0.1


class Writer:
    """Commits steps, one after another, each exactly once.

    Parameters
    ----------
    partitions
        Partitions of each topic, known from :meth:`open` on.
    """

    def __init__(self, config: settings.Config, clients: Clients, reader: Reader) -> None:
        self._config = config
        self._clients = clients
        self._reader = reader
        self._seat = Seat("millrace-kafka-commit", self._start, leave_producer)
        self._tail: JournalRecord | None = None
        self._opened = False
        self._fenced: Fenced | None = None
        self._partitions: dict[str, int] = {}

    def open(self, partitions: dict[str, int]) -> None:
        """Fence older owners of the transactional id; learn the journal's tail."""
        self._partitions = partitions
        self._connect()
        self._tail = self.read_tail()
        self._opened = True

    def read_tail(self) -> JournalRecord | None:
        """The newest committed journal record."""
        found = newest(self._reader, (self._config.journal_topic, 0), 1)
        return decode_journal(found[0].value or b"") if found else None

    def commit(self, outputs: Outputs) -> None:
        """Make a step visible, exactly once, whatever became of an earlier attempt.

        1. After any failure: make a new producer, which ends or aborts what was under way.
        2. Ask the journal whether this step stands already.
        3. Send everything in one transaction.
        """
        if not self._opened:
            raise LogError("Kafka: not open; call open() before commit()")
        deadline = time.monotonic() + self._clients.timeout_s
        while True:
            if self._fenced is not None:
                raise self._fenced
            try:
                if not self._seat.taken:
                    self._renew(outputs.journal)
                if check_succession(outputs.journal, self._tail):
                    return
                self._attempt(outputs, deadline)
                self._tail = outputs.journal
                return
            except Fenced as error:
                self._fenced = error
            except LogUnavailable:
                if time.monotonic() + _PAUSE_S >= deadline:
                    raise
                time.sleep(_PAUSE_S)

    def _renew(self, entry: JournalRecord) -> None:
        """A new producer, unless the journal shows that somebody else has taken over."""
        tail = self.read_tail()
        last = self._tail.seq if self._tail else 0
        # A tail before ours is ours, still without its marker.
        if tail is not None and tail.seq >= last:
            own = [encode_journal(r) for r in (self._tail, entry) if r is not None]
            if encode_journal(tail) not in own:
                raise Fenced(
                    f"shard {self._config.name!r}: another process wrote journal record {tail.seq};"
                    " end this process"
                )
        self._connect()
        # The transaction in doubt is over now, one way or the other.
        self._tail = self.read_tail()

    def _connect(self) -> None:
        self._seat.call("init_transactions", self._clients.timeout_s + 0.5, lambda producer: None)

    def _start(self) -> Any:
        """A producer with the shard's transactional id; fences the one before it."""
        producer = self._clients.producer(transactional=True)
        try:
            producer.init_transactions()
        except BaseException:
            leave_producer(producer)
            raise
        return producer

    def _attempt(self, outputs: Outputs, deadline: float) -> None:
        start = time.monotonic()
        self._seat.call("commit", max(0.0, deadline - start), lambda p: self._transact(p, outputs))
        if time.monotonic() - start > _SLOW_S:
            # The client repeats a lost EndTxn by itself; a first copy may still be on its way.
            self._seat.drop()

    def _transact(self, producer: Any, outputs: Outputs) -> None:
        limit = self._clients.timeout_s
        producer.begin_transaction()
        futures = self._send(producer, outputs, headers=None)
        futures.append(send_journal(producer, self._config.journal_topic, outputs.journal))
        offsets = _offsets(outputs.journal)
        if offsets:
            producer.send_offsets_to_transaction(offsets, self._config.name)
        # commit_transaction() alone is not to be believed: after a batch out of sequence
        # kafka-python begins a new epoch, forgets the transaction, and reports it as committed.
        producer.flush(limit)
        wait_for(futures, limit)
        failpoint("commit.middle")
        producer.commit_transaction()

    def _send(
        self,
        producer: Any,
        outputs: Outputs,
        headers: Callable[[NewRecord, int], list[tuple[str, bytes]]] | None,
    ) -> list[Any]:
        """Hand scores, dead letters and audit records to the producer; their futures."""
        topics = self._config.topics
        at = outputs.journal.clock_ms
        futures: list[Any] = []
        for topic, records in (
            (topics.scores, outputs.scores),
            (topics.dead_letters, outputs.letters()),
            (topics.audit, outputs.audit),
        ):
            count = self._partitions[topic]
            for r, where in zip(records, places(topic, records, count), strict=True):
                own = headers(r, len(futures)) if headers else list(r.headers) or None
                stamp = at if r.timestamp_ms is None else r.timestamp_ms
                futures.append(producer.send(topic, r.value, r.key, own, where, stamp))
        return futures

    def close(self) -> None:
        """Close the producer and end the thread."""
        self._seat.close(lambda producer: producer.close(timeout=1.0))


class AtLeastOnceWriter(Writer):
    """Commits without a transaction: outputs first, then the journal, then the offsets.

    A crash between the three repeats outputs, never loses any; each carries
    :data:`POSITION_HEADER`. No transactional id fences a second process here: only the lock on the
    state directory does, and a foreign record in the journal is noticed after a failure.
    """

    def _start(self) -> Any:
        return self._clients.producer(transactional=False)

    def _transact(self, producer: Any, outputs: Outputs) -> None:
        limit = self._clients.timeout_s
        stem = f"{self._config.name}/{outputs.journal.seq}/"

        def headers(record: NewRecord, index: int) -> list[tuple[str, bytes]]:
            return [*record.headers, (POSITION_HEADER, f"{stem}{index}".encode())]

        futures = self._send(producer, outputs, headers)
        producer.flush(limit)
        wait_for(futures, limit)
        failpoint("commit.middle")
        entry = send_journal(producer, self._config.journal_topic, outputs.journal)
        wait_for([entry], limit)
        offsets = _offsets(outputs.journal)
        if offsets:
            self._reader.commit(offsets)


def send_journal(producer: Any, topic: str, journal: JournalRecord) -> Any:
    """Hand the journal record to the producer; its future."""
    value = encode_journal(journal)
    return producer.send(topic, value, partition=0, timestamp_ms=journal.clock_ms)


def wait_for(futures: Sequence[Any], timeout_s: float) -> list[Any]:
    """What became of each record; raises the first failure. The deadline is for all of them."""
    deadline = time.monotonic() + timeout_s
    return [f.get(timeout=max(0.0, deadline - time.monotonic())) for f in futures]


def _offsets(journal: JournalRecord) -> dict[TopicPartition, OffsetAndMetadata]:
    return {
        TopicPartition(r.topic, r.partition): OffsetAndMetadata(r.next_offset, "", -1)
        for r in journal.ranges
    }
