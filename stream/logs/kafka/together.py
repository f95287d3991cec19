"""Commits one step of each of several shards in one transaction, all or none.

For who moves partitions between the scorers of a service while these are stopped: their journals
must say so together. A scorer that starts ends a move that is under way
(:meth:`stream.logs.kafka.log.KafkaLog.open`), whose open transaction would hide the newest records
of its journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stream.contract.failpoint import failpoint
from stream.contract.log import Fenced, LogError, LogUnavailable
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, Record, decode_journal, encode_journal
from stream.logs.kafka.calls import Seat
from stream.logs.kafka.claims import client_of, mover, shut_out
from stream.logs.kafka.clients.base import Key, Producer
from stream.logs.kafka.clients.kafka_python import KafkaPython
from stream.logs.kafka.reader import Reader, newest
from stream.logs.kafka.topology import FOREVER, Cluster, NewTopic, lacking
from stream.logs.kafka.writer import placed, send_journal
from stream.settings.schema import Config, KafkaLogSettings

_CHUNK = 4_096


class Together:
    """The topics of one service, for who moves partitions between its scorers.

    Parameters
    ----------
    config : Config
        Of any of its processes.
    """

    def __init__(self, config: Config) -> None:
        if not isinstance(config.log, KafkaLogSettings):
            raise LogError(f"log.type: expected 'kafka', got {config.log.type!r}")
        name = mover(config)
        self._config, self._log = config, config.log
        self._client = client_of(config.log, name)
        self._cluster = Cluster(KafkaPython(config.log, name))
        self._reader = Reader(self._client, name)
        self._seat: Seat[Producer] = Seat(
            "millrace-kafka-move",
            lambda: self._client.producer(transactional=True),
            self._client.translated,
        )

    def make_journals(self, configs: Sequence[Config]) -> None:
        """Make the journals of these processes where they are missing."""
        wanted = {config.journal_topic: NewTopic(1, FOREVER) for config in configs}
        self._cluster.make(wanted, self._config.topics.create, self._log.replication_factor)

    def tail(self, config: Config) -> JournalRecord | None:
        """The newest record of a process's journal, which is there."""
        found = newest(self._reader, (config.journal_topic, 0), 1)
        return decode_journal(found[0].value or b"") if found else None

    def ends(self, topic: str) -> dict[Key, int]:
        """The next offset of each partition there is."""
        found = self._cluster.find({topic: NewTopic(1)})
        keys = [(topic, i) for i in range(found[topic].partitions)] if topic in found else []
        return self._reader.bounds(keys)[1]

    def between(self, key: Key, first: int, end: int) -> Iterator[Record]:
        """Committed records with ``first <= offset < end``."""
        while first < end:
            rows = self._reader.fetch(key, first, end, _CHUNK)
            yield from rows
            if not rows:
                return
            first = rows[-1].offset + 1

    def claim(self) -> None:
        """Begin: an older move ends here, and this one where a scorer starts meanwhile."""
        limit_s = self._client.timeout_s + 0.5
        self._seat.call("transactional id of the move", limit_s, lambda producer: None)

    def shut_out(self, config: Config) -> None:
        """An older process of this name can commit no more."""
        shut_out(self._log, config.name)

    def commit(self, parts: Sequence[tuple[Config, Outputs]]) -> None:
        """Make all these steps visible in one transaction, or none.

        Raises :class:`~stream.contract.log.Fenced` where a scorer has started since
        :meth:`claim`, or has written to its journal. Where the outcome is in doubt the journals
        are asked: after :class:`LogUnavailable` nothing of it is visible, nor will be.
        """
        for config, outputs in parts:
            tail = self.tail(config)
            if (got := tail.seq if tail else 0) != outputs.journal.seq - 1:
                raise Fenced(
                    f"{config.journal_topic}: expected step {outputs.journal.seq - 1} to be the"
                    f" newest, got {got}: a process of this name runs. Stop it, and move again"
                )
        limit_s = self._client.timeout_s + 0.5
        try:
            self._seat.call("commit", limit_s, lambda p: self._transact(p, parts))
        except Fenced as error:
            raise Fenced(
                f"{self._config.service}: a scorer, or another move, was started meanwhile; nothing"
                f" has changed. Stop it, and move again ({error})"
            ) from error
        except LogUnavailable:
            self.claim()  # ends the transaction in doubt, one way or the other
            if not all(self._stands(*part) for part in parts):
                raise

    def _stands(self, config: Config, outputs: Outputs) -> bool:
        tail = self.tail(config)
        return tail is not None and encode_journal(tail) == encode_journal(outputs.journal)

    def _transact(self, producer: Producer, parts: Sequence[tuple[Config, Outputs]]) -> None:
        producer.begin()
        for config, outputs in parts:
            at = outputs.journal.clock_ms
            for topic, records in outputs.by_topic(config.topics):
                if records:  # a trail, and letters, which have one partition each
                    producer.send(topic, placed(topic, records, 1), at)
            for topic, records in outputs.handed.items():
                producer.send(topic, placed(topic, records, config.shard.count), at)
            send_journal(producer, config.journal_topic, outputs.journal)
        producer.settle(self._client.timeout_s)
        failpoint("move.middle")
        producer.commit(self._client.timeout_s)

    def grow(self, config: Config) -> None:
        """Let scorers have a partition each to hand over by; they do so themselves else."""
        topics: Mapping[str, NewTopic] = {
            topic: NewTopic(1)
            for topic in (config.examples_topic, config.risk_topic, config.routes_topic)
        }
        if short := lacking(config, self._cluster.find(topics)):
            self._cluster.grow(short)

    def close(self) -> None:
        """Release everything."""
        self._seat.close()
        self._reader.close()
        self._cluster.close()
