"""The log on Apache Kafka: one transactional producer and a static set of partitions for a shard.

The log of ``log.type = "kafka"``. Never subscribes to a consumer group's rebalancing and never
calls the engine.

Why things are as they are: every trap of a client that was found by running it has its comment
where it is avoided: in ``clients/`` those of each library, in ``calls.py`` (deadlines),
``reader.py`` (polling) and ``writer.py`` (transactions) those of all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import structlog

from stream.contract.log import LogError, LogUnavailable, OutOfRetention, Positions, Topic
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, NewRecord, Range, Record, Slice, decode_journal
from stream.logs.kafka.calls import Seat
from stream.logs.kafka.claims import client_of, mover, shut_out
from stream.logs.kafka.clients.base import Key
from stream.logs.kafka.clients.kafka_python import KafkaPython
from stream.logs.kafka.reader import Poller, Reader, check_read, newest
from stream.logs.kafka.rights import check_rights, check_sizes, told_rights
from stream.logs.kafka.sharing import writers
from stream.logs.kafka.topology import (
    FOREVER,
    LATEST,
    Cluster,
    NewTopic,
    check_layout,
    check_ways,
    lacking,
)
from stream.logs.kafka.writer import AtLeastOnceWriter, Writer, placed
from stream.settings import schema as settings

logger = structlog.get_logger()

_CHUNK = 4_096
_NEWS_S = 0.05
_LATELY_MS = 300_000
"""Who wrote nothing for so long has stopped."""
_UNKNOWN = (
    "whether another service writes there, too, was not checked: it takes the right to Read the"
    " topic, Kafka from 2.8 on, and log.delivery exactly_once"
)


class KafkaLog:
    """See :class:`stream.contract.log.Log`.

    Parameters
    ----------
    config
        Names the shard, the topics and, in ``config.log``, the cluster.
    clock_ms
        Gives appended records their timestamp, in UTC milliseconds.
    """

    def __init__(self, config: settings.Config, clock_ms: Callable[[], int]) -> None:
        if not isinstance(config.log, settings.KafkaLogSettings):
            raise LogError(f"log.type: expected 'kafka', got {config.log.type!r}")
        self._config = config
        self._log = config.log
        self._clock_ms = clock_ms
        self._journal: Key = (config.journal_topic, 0)
        names = config.topics
        self._inputs, self._outputs = config.inputs, config.outputs
        python = KafkaPython(config.log, config.name)
        self._cluster = Cluster(python)
        self._client = client_of(config.log, config.name)
        self._reader = Reader(self._client, config.name)
        self._poller = Poller(self._client, self._reader, names.control)
        exactly = config.log.delivery == "exactly_once"
        self._writer = (Writer if exactly else AtLeastOnceWriter)(
            config, config.log, self._client, self._reader
        )
        many, one, kept = NewTopic(names.partitions), NewTopic(1), NewTopic(1, FOREVER)
        kinds = {
            names.control: one,
            names.events: many,
            names.labels: many,
            names.scores: NewTopic(names.partitions, like=names.events, whole=False),
            names.dead_letters: one,
            config.examples_topic: NewTopic(config.shard.count),
            config.models_topic: NewTopic(1, LATEST),
            config.risk_topic: NewTopic(config.shard.count),
            config.routes_topic: NewTopic(config.shard.count),
        }
        needed = (*self._inputs, *self._outputs, config.journal_topic)
        self._wanted = {topic: kinds.get(topic, kept) for topic in needed}
        self._lock = threading.Lock()
        self._appender = Seat(
            "millrace-kafka-append",
            lambda: self._client.producer(transactional=False),
            self._client.translated,
        )
        self._partitions: dict[str, int] | None = None
        self._told_unknown = False

    # -- start ------------------------------------------------------------------------------------

    def open(self) -> None:
        """See :meth:`stream.contract.log.Log.open`.

        What the service may not do, or a topic will not take, is told here, not at the first event.
        """
        if self._log.security_protocol.endswith("SSL") and not self._log.ssl_check_hostname:
            logger.warning(
                "host_name_unchecked",
                reason="log.ssl_check_hostname is false: whoever holds a certificate of"
                " log.ssl_cafile can pass for a broker",
            )
        config = self._config
        rights = {topic: ["Read"] for topic in self._inputs}
        rights |= {topic: ["Write"] for topic in self._outputs}
        rights[config.journal_topic] = ["Read", "Write"]
        if config.trains:
            rights[config.topics.control] = ["Read", "Write"]
        self._cluster.ask("rights", lambda admin: check_rights(admin, rights, config.name))
        if appended := {topic: ["Write"] for topic in _appended(config)}:
            self._cluster.ask("rights", lambda admin: told_rights(admin, appended))
        if config.shard.role == "scorer":
            shut_out(self._log, mover(config))
        partitions = self._all_topics()
        self._cluster.ask("sizes", lambda admin: check_sizes(admin, config))
        self._writer.open(partitions)

    def create_topics(self) -> None:
        """See :meth:`stream.contract.log.Log.create_topics`."""
        self._all_topics()

    def topics(self) -> dict[str, Topic]:
        """See :meth:`stream.contract.log.Log.topics`."""
        found = self._cluster.find(self._wanted)
        check_layout(self._config, found, begun=True)
        check_ways(self._config, self._cluster.there)
        with self._lock:
            if self._partitions is not None:
                self._partitions |= {name: topic.partitions for name, topic in found.items()}
        return found

    def _all_topics(self) -> dict[str, int]:
        """Partitions of each topic of the configuration; makes missing ones, if it may."""
        with self._lock:
            if self._partitions is None:
                create, replication = self._config.topics.create, self._log.replication_factor
                found = self._cluster.make(self._wanted, create, replication)
                journal = self._config.journal_topic
                if self._config.shard.role != "all":
                    found = self._laid_out(found)
                if found[journal].partitions != 1:
                    raise LogError(
                        f"Kafka: topic {journal}: expected 1 partition, got"
                        f" {found[journal].partitions}; the journal is one sequence"
                    )
                self._partitions = {name: topic.partitions for name, topic in found.items()}
            return self._partitions

    def _laid_out(self, found: dict[str, Topic]) -> dict[str, Topic]:
        """The topics of one of many processes, checked.

        After a move to more scorers the first that starts makes the partitions that lack.
        """
        tail = newest(self._reader, self._journal, 1)
        moved = bool(tail) and decode_journal(tail[0].value or b"").kind == "moved"
        if moved and (short := lacking(self._config, found)):
            self._cluster.grow(short)
            while lacking(self._config, found := self._cluster.find(self._wanted)):
                time.sleep(_NEWS_S)  # one broker knew them, the one asked now does not yet
        check_layout(self._config, found, begun=bool(tail))
        check_ways(self._config, self._cluster.there)
        return found

    def _found_topics(self) -> dict[str, int]:
        """Partitions of those topics of the configuration that exist; makes none."""
        with self._lock:
            if self._partitions is None:
                found = self._cluster.find(self._wanted)
                partitions = {name: topic.partitions for name, topic in found.items()}
                if len(found) < len(self._wanted):
                    return partitions
                self._partitions = partitions
            return self._partitions

    def _input_keys(self) -> list[Key]:
        topics = self._found_topics()
        return [
            (topic, i)
            for topic in self._inputs
            for i in range(topics.get(topic, 0))
            if self._config.reads(topic, i)
        ]

    # -- journal ----------------------------------------------------------------------------------

    def journal(self, after_seq: int = 0) -> Iterator[JournalRecord]:
        """See :meth:`stream.contract.log.Log.journal`.

        Raises :class:`LogError` where a record is missing: the journal is gapless.
        """
        at, end = self._journal_start(after_seq)
        before: JournalRecord | None = None
        while at < end:
            rows = self._reader.fetch(self._journal, at, end, _CHUNK)
            if not rows:
                return
            at = rows[-1].offset + 1
            for row in rows:
                record = decode_journal(row.value or b"")
                if record.seq > after_seq and record != before:
                    _check_gapless(before, record)
                    before = record
                    yield record

    def _journal_start(self, after_seq: int) -> tuple[int, int]:
        """Offsets between which the records after ``after_seq`` lie; looks back from the end."""
        tail = self.journal_tail()
        if tail is None or tail.seq <= after_seq:
            return 0, 0
        firsts, ends = self._reader.bounds([self._journal])
        first, end = firsts[self._journal], ends[self._journal]
        window = 2 * (tail.seq - after_seq) + 64  # a step takes two offsets: record and marker
        while end - window > first:
            found = self._reader.fetch(self._journal, end - window, end, 1)
            if found and decode_journal(found[0].value or b"").seq <= after_seq:
                return end - window, end
            window *= 2
        return first, end

    def journal_tail(self) -> JournalRecord | None:
        """See :meth:`stream.contract.log.Log.journal_tail`."""
        return self._writer.read_tail() if self._journal[0] in self._found_topics() else None

    def journal_head(self) -> JournalRecord | None:
        """See :meth:`stream.contract.log.Log.journal_head`."""
        if self._journal[0] not in self._found_topics():
            return None
        firsts, ends = self._reader.bounds([self._journal])
        found = self._reader.fetch(self._journal, firsts[self._journal], ends[self._journal], 1)
        return decode_journal(found[0].value or b"") if found else None

    # -- input ------------------------------------------------------------------------------------

    def seek(self, positions: Positions) -> None:
        """See :meth:`stream.contract.log.Log.seek`."""
        firsts, ends = self._reader.bounds(self._input_keys())
        strange = sorted(set(positions) - set(firsts))
        if strange:
            raise LogError(f"Kafka: no such input partitions: {strange}")
        for (topic, partition), offset in positions.items():
            first, end = firsts[topic, partition], ends[topic, partition]
            if offset < first:
                raise OutOfRetention(
                    f"Kafka: {topic}/{partition}: offset {offset} was deleted, the oldest retained"
                    f" is {first}; lengthen retention.ms"
                )
            if offset > end:
                raise LogError(
                    f"Kafka: {topic}/{partition}: offset {offset} is past the end ({end}); the"
                    " topic is not the one this state was made with"
                )
        self._poller.seek(firsts | dict(positions), ends)

    def poll(self, max_records: int, timeout_s: float) -> list[Slice]:
        """See :meth:`stream.contract.log.Log.poll`."""
        return self._poller.poll(max_records, timeout_s)

    def read(self, ranges: Sequence[Range]) -> list[Slice]:
        """See :meth:`stream.contract.log.Log.read`."""
        return [
            check_read(r, self._reader.fetch((r.topic, r.partition), r.first, r.next_offset))
            for r in ranges
        ]

    # -- output -----------------------------------------------------------------------------------

    def commit(self, outputs: Outputs) -> None:
        """See :meth:`stream.contract.log.Log.commit`."""
        self._writer.commit(outputs)

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """See :meth:`stream.contract.log.Log.append`.

        After :class:`LogUnavailable` some of the records may stand in the topic.
        """
        count = self._all_topics().get(topic)
        if count is None:
            raise LogError(f"topic {topic!r}: is not in the configuration; names are in [topics]")
        at = self._clock_ms()
        limit_s = self._client.timeout_s
        # Any number of threads share one producer: only making it takes turns.
        producer = self._appender.call("connect", limit_s + 0.5, lambda made: made)
        try:
            with self._client.translated(f"append to {topic}"):
                return producer.append(topic, placed(topic, records, count), at, limit_s)
        except LogUnavailable:
            self._appender.drop()
            raise

    # -- for people and metrics -------------------------------------------------------------------

    def tail(self, topic: str, limit: int) -> list[Record]:
        """See :meth:`stream.contract.log.Log.tail`."""
        return next(self.back(topic, limit), [])[-limit:] if limit > 0 else []

    def back(self, topic: str, limit: int) -> Iterator[list[Record]]:
        """See :meth:`stream.contract.log.Log.back`."""
        count = self._found_topics().get(topic, 0)
        ends: dict[Key, int | None] = dict.fromkeys((topic, i) for i in range(count))
        while ends:
            found = {key: newest(self._reader, key, limit, end) for key, end in ends.items()}
            ends = {key: rows[0].offset for key, rows in found.items() if rows}
            piece = [row for rows in found.values() for row in rows]
            piece.sort(key=lambda row: row.timestamp_ms)
            if piece:
                yield piece

    def lag(self) -> dict[tuple[str, int], int]:
        """See :meth:`stream.contract.log.Log.lag`; before ``seek`` from the group's offsets."""
        known = self._poller.lag()
        if known is not None:
            return known
        keys = self._input_keys()
        firsts, ends = self._reader.bounds(keys)
        done = firsts | self._reader.committed(keys)
        return {key: ends[key] - done[key] for key in keys}

    def unread(self, positions: Positions) -> dict[tuple[str, int], int]:
        """See :meth:`stream.contract.log.Log.unread`."""
        there = self._cluster.find({topic: NewTopic(1, whole=False) for topic, _ in positions})
        keys = [(t, p) for t, p in positions if t in there and p < there[t].partitions]
        firsts, ends = self._reader.bounds(keys)
        found = {}
        for key in keys:
            start = max(positions[key], firsts[key])
            # Markers of transactions use offsets, too.
            if start < ends[key] and self._reader.fetch(key, start, ends[key], 1):
                found[key] = ends[key] - positions[key]
        return found

    def earliest(self) -> dict[tuple[str, int], int]:
        """See :meth:`stream.contract.log.Log.earliest`."""
        return self._reader.bounds(self._input_keys())[0]

    def done(self, partitions: Collection[Key]) -> dict[Key, int]:
        """See :meth:`stream.contract.log.Log.done`; markers of transactions are no records."""
        return self._reader.committed(partitions)

    def others(self) -> list[str] | None:
        """See :meth:`stream.contract.log.Log.others`."""
        topic = self._config.topics.scores
        found: set[str] | None = None
        if self._log.delivery == "exactly_once":  # else no name tells our own producer from others
            partitions = range(self._found_topics().get(topic, 0))
            since_ms = self._clock_ms() - _LATELY_MS
            found = self._cluster.ask(
                "producers", lambda a: writers(a, topic, partitions, since_ms)
            )
        if found is None:
            if not self._told_unknown:
                self._told_unknown = True
                logger.info("scores_writers_unknown", topic=topic, reason=_UNKNOWN)
            return None
        return sorted(found.difference(map(self._log.transactions_of, self._config.processes)))

    # -- end --------------------------------------------------------------------------------------

    def truncate(self, positions: Positions, journal_seq: int) -> None:
        """Does nothing: the topics' own retention deletes."""

    def wake(self) -> None:
        """See :meth:`stream.contract.log.Log.wake`."""
        for part in (self._cluster, self._reader, self._writer):
            part.hurry()
        self._poller.wake()

    def close(self) -> None:
        """See :meth:`stream.contract.log.Log.close`."""
        self.wake()
        self._writer.close()
        self._poller.close()
        self._appender.close()
        self._cluster.close()
        self._reader.close()


def _appended(config: settings.Config) -> list[str]:
    """Topics that somebody may append to over HTTP."""
    if not config.http.enabled:
        return []
    scopes = {scope for token in config.http.tokens for scope in token.scopes} or {"admin"}
    names, every = config.topics, "admin" in scopes
    topics = {"score": names.events, "label": names.labels, "admin": names.control}
    if config.shard.role != "all":
        del topics["label"]
        if not config.answers_anyone:
            del topics["score"]
    return [topic for scope, topic in topics.items() if every or scope in scopes]


def _check_gapless(before: JournalRecord | None, record: JournalRecord) -> None:
    if before is not None and record.seq != before.seq + 1:
        raise LogError(
            f"journal: after seq {before.seq} expected {before.seq + 1}, got {record.seq}; part of"
            " the journal is missing or two processes wrote it"
        )
