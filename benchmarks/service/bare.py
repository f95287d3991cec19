"""The loops that anybody would write: read records, decode, score events with a constant, commit.

One transaction a batch, with the offsets in it. Each with the options that its client needs to be
fast, and nothing of the service.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from unittest.mock import patch

import confluent_kafka
import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import OffsetAndMetadata

from tests.support.broker import unique


class Payment(msgspec.Struct):
    """What the loop decodes, of an event or a label."""

    payment_id: str
    amount: float = 0.0


decode = msgspec.json.Decoder(Payment).decode


def score(payment: Payment) -> tuple[bytes, bytes]:
    """Key and value of its score."""
    identifier = payment.payment_id
    return identifier.encode(), msgspec.json.encode({"id": identifier, "score": 0.01})


class PythonLoop:
    """With kafka-python."""

    def __init__(self, server: str, topics: Sequence[str], scores: str) -> None:
        """``topics``: that of the events first."""
        self._group, self._scores = unique("bare"), scores
        self._events = TopicPartition(topics[0], 0)
        self._consumer = KafkaConsumer(
            bootstrap_servers=server,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=1 << 20,
            fetch_max_bytes=16 << 20,
        )
        self._producer = KafkaProducer(
            bootstrap_servers=server,
            transactional_id=self._group,
            batch_size=256 << 10,
            retry_backoff_ms=5,
        )
        self._consumer.assign([TopicPartition(topic, 0) for topic in topics])
        self._producer.init_transactions()

    def step(self, limit: int) -> int:
        """Up to ``limit`` records in one transaction; how many there were."""
        got = self._consumer.poll(timeout_ms=1000, max_records=limit)
        if not got:
            return 0
        self._producer.begin_transaction()
        for tp, records in got.items():
            for record in records:
                payment = decode(record.value)
                if tp == self._events:
                    key, value = score(payment)
                    self._producer.send(self._scores, value, key, partition=0)
        offsets = {tp: OffsetAndMetadata(r[-1].offset + 1, "", -1) for tp, r in got.items()}
        self._producer.send_offsets_to_transaction(offsets, self._group)
        self._producer.commit_transaction()
        return sum(map(len, got.values()))

    def close(self) -> None:
        """Close both clients."""
        self._consumer.close()
        self._producer.close()


class ConfluentLoop:
    """With confluent-kafka."""

    def __init__(self, server: str, topics: Sequence[str], scores: str) -> None:
        group, self._scores = unique("bare"), scores
        self._events = topics[0]
        self._consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": server,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
            }
        )
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": server,
                "transactional.id": group,
                "linger.ms": 0,
                "retry.backoff.ms": 1,
            }
        )
        self._consumer.assign([confluent_kafka.TopicPartition(t, 0, 0) for t in topics])
        self._producer.init_transactions()

    def step(self, limit: int) -> int:
        """Up to ``limit`` records in one transaction; how many there were."""
        messages = self._consumer.consume(limit, 0.5)
        if not messages:
            return 0
        self._producer.begin_transaction()
        ends: dict[str, int] = {}
        for message in messages:
            topic = message.topic()
            payment = decode(message.value())
            if topic == self._events:
                key, value = score(payment)
                self._producer.produce(self._scores, value, key, 0)
            ends[topic] = message.offset() + 1
        self._producer.send_offsets_to_transaction(
            [confluent_kafka.TopicPartition(t, 0, at) for t, at in ends.items()],
            self._consumer.consumer_group_metadata(),
        )
        self._producer.commit_transaction()
        return len(messages)

    def close(self) -> None:
        """Close both clients."""
        self._consumer.close()
        self._producer.flush()


LOOPS = {"kafka-python": PythonLoop, "confluent": ConfluentLoop}


def drained(loop: PythonLoop | ConfluentLoop, records: int, batch: int) -> tuple[float, float]:
    """Seconds and processor seconds that the loop takes over so many records; closes it."""
    try:
        # The service puts its own batches into kafka-python; whoever has no service has not.
        with patch.object(memory_records, "DefaultRecordBatch", DefaultRecordBatch):
            started, cpu = time.perf_counter(), time.process_time()
            while records > 0:
                records -= loop.step(min(batch, records))
            return time.perf_counter() - started, time.process_time() - cpu
    finally:
        loop.close()
