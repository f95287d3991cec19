"""Writes a step's outputs to Kafka: in one transaction, or at least once.

Keeps no outputs: whoever got :class:`LogUnavailable` calls again with the same ones. A producer
whose last call failed is never used again: a late answer to it could end a later transaction
(KAFKA-17754), and only the epoch of a new one shuts it out.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence

import msgspec

from stream.contract.failpoint import failpoint
from stream.contract.log import Fenced, LogError, LogUnavailable, check_succession
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, NewRecord, decode_journal, encode_journal
from stream.contract.routing import places
from stream.logs.kafka.calls import Seat
from stream.logs.kafka.clients.base import Client, Key, Placed, Producer
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

    def __init__(
        self,
        config: settings.Config,
        log: settings.KafkaLogSettings,
        client: Client,
        reader: Reader,
    ) -> None:
        self._config = config
        self._client = client
        self._reader = reader
        self._seat = Seat("millrace-kafka-commit", self._start, client.translated)
        self._claim = f"transactional id {log.transactions_of(config.name)}"
        self._transaction_s = log.transaction_timeout / 1000
        self._tail: JournalRecord | None = None
        self._opened = False
        self._closed = False
        self._fenced: Fenced | None = None
        self._in_doubt = False
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
        deadline = time.monotonic() + self._client.timeout_s
        while True:
            if self._fenced is not None:
                raise self._fenced
            if self._closed:
                # A commit that was given up must not make a producer: it would fence the successor.
                raise LogUnavailable("Kafka: commit: the log was closed")
            try:
                if not self._seat.taken:
                    self._renew(outputs.journal)
                if check_succession(outputs.journal, self._tail):
                    return
                self._attempt(outputs, deadline)
                self._tail = outputs.journal
                self._in_doubt = False
                return
            except Fenced as error:
                self._fenced = error
            except LogUnavailable:
                if time.monotonic() + _PAUSE_S >= deadline:
                    raise
                time.sleep(_PAUSE_S)

    def _renew(self, entry: JournalRecord) -> None:
        """A new producer, unless the journal shows that somebody else has taken over."""
        self._own(self.read_tail(), entry)
        self._connect()
        # The transaction in doubt is over now, one way or the other; and whoever wrote between the
        # look and the claim is somebody else.
        self._tail = self._own(self.read_tail(), entry)

    def _own(self, tail: JournalRecord | None, entry: JournalRecord) -> JournalRecord | None:
        """The journal's tail; raises :class:`Fenced` where it is none of ours."""
        last = self._tail.seq if self._tail else 0
        # A tail before ours is ours, still without its marker.
        if tail is not None and tail.seq >= last:
            own = [encode_journal(r) for r in (self._tail, entry) if r is not None]
            if encode_journal(tail) not in own:
                raise Fenced(
                    f"shard {self._config.name!r}: another process wrote journal record {tail.seq};"
                    " end this process"
                )
        return tail

    def _connect(self) -> None:
        limit_s = self._client.timeout_s + 0.5
        with self._perhaps_by_ourselves(limit_s):
            self._seat.call(self._claim, limit_s, lambda producer: None)

    def _start(self) -> Producer:
        return self._client.producer(transactional=True)

    def _attempt(self, outputs: Outputs, deadline: float) -> None:
        start = time.monotonic()
        limit_s = max(0.0, deadline - start)
        with self._perhaps_by_ourselves(self._transaction_s):
            self._seat.call("commit", limit_s, lambda p: self._transact(p, outputs))
        if time.monotonic() - start > _SLOW_S:
            # The client repeats a lost EndTxn by itself; a first copy may still be on its way.
            self._seat.drop()

    @contextlib.contextmanager
    def _perhaps_by_ourselves(self, patience_s: float) -> Iterator[None]:
        """Raise a fence as :class:`LogUnavailable` where nobody need have taken over.

        The broker fences a transaction that outlived its time, as after a freeze of this process
        (``patience_s``); and a claim of ours that had no answer may still lie in the socket of a
        frozen broker, and fences the next producer when it is read. Whether somebody has taken
        over the journal tells, when the producer is renewed.
        """
        start = time.monotonic()
        try:
            yield
        except LogUnavailable:
            self._in_doubt = True
            raise
        except Fenced as error:
            if not self._in_doubt and time.monotonic() - start < patience_s:
                raise
            raise LogUnavailable(f"Kafka: fenced, perhaps by ourselves: {error}") from error

    def _transact(self, producer: Producer, outputs: Outputs) -> None:
        limit = self._client.timeout_s
        producer.begin()
        self._send(producer, outputs)
        send_journal(producer, self._config.journal_topic, outputs.journal)
        offsets = _offsets(outputs.journal)
        if offsets:
            producer.add_offsets(offsets, self._config.name, limit)
        producer.settle(limit)
        failpoint("commit.middle")
        producer.commit(limit)

    def _send(self, producer: Producer, outputs: Outputs) -> None:
        """Hand all but the journal record to the producer."""
        at = outputs.journal.clock_ms
        for topic, records in self._outputs(outputs):
            producer.send(topic, placed(topic, records, self._partitions[topic]), at)

    def _outputs(self, outputs: Outputs) -> list[tuple[str, Sequence[NewRecord]]]:
        found = outputs.by_topic(self._config.topics)
        found += outputs.handed.items()
        return [(topic, records) for topic, records in found if records]

    def hurry(self) -> None:
        """Wait no longer for what :meth:`open` waits for; a commit has its time."""
        if not self._opened:
            self._seat.hurry()

    def close(self) -> None:
        """Close the producer and end the thread."""
        self._closed = True
        self._seat.close()


class AtLeastOnceWriter(Writer):
    """Commits without a transaction: outputs first, then the journal, then the offsets.

    A crash between the three repeats outputs, never loses any; each carries
    :data:`POSITION_HEADER`. No transactional id fences a second process here: only the lock on the
    state directory does, and a foreign record in the journal is noticed after a failure.
    """

    def _start(self) -> Producer:
        return self._client.producer(transactional=False)

    def _transact(self, producer: Producer, outputs: Outputs) -> None:
        limit = self._client.timeout_s
        self._send(producer, outputs)
        producer.settle(limit)
        failpoint("commit.middle")
        send_journal(producer, self._config.journal_topic, outputs.journal)
        producer.settle(limit)
        offsets = _offsets(outputs.journal)
        if offsets:
            self._reader.commit(offsets)

    def _outputs(self, outputs: Outputs) -> list[tuple[str, Sequence[NewRecord]]]:
        """The same, each with its position."""
        count = itertools.count()
        stem = f"{self._config.name}/{outputs.journal.seq}/"
        return [
            (topic, [_marked(r, f"{stem}{next(count)}") for r in records])
            for topic, records in super()._outputs(outputs)
        ]


def _marked(record: NewRecord, position: str) -> NewRecord:
    headers = (*record.headers, (POSITION_HEADER, position.encode()))
    return msgspec.structs.replace(record, headers=headers)


def placed(topic: str, records: Sequence[NewRecord], partitions: int) -> list[Placed]:
    """Each record with its partition; raises :class:`LogError` for one that does not exist."""
    return list(zip(places(topic, records, partitions), records, strict=True))


def send_journal(producer: Producer, topic: str, journal: JournalRecord) -> None:
    """Hand the journal record to the producer."""
    entry = NewRecord(None, encode_journal(journal), 0)
    producer.send(topic, [(0, entry)], journal.clock_ms)


def _offsets(journal: JournalRecord) -> dict[Key, int]:
    return {(r.topic, r.partition): r.next_offset for r in journal.ranges}
