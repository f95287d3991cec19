"""What exactly-once on Kafka costs: the service beside a bare consume-score-produce loop.

Run ``python -m benchmarks.service.kafka_path [--json] [--quick]``. Both sides drain the same
backlog from the same broker on this machine, with the same client library, one transaction a batch
of the same size. The bare loop polls, decodes, produces a constant score for each event, sends its
offsets and commits; nothing else. The service does all it does, with one number as feature and a
constant member. Producing the backlog, connecting and closing are not timed.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import OffsetAndMetadata

from benchmarks import traffic
from benchmarks.common import arguments, compare, rates, show, target
from benchmarks.service.drain import drain
from models.base import MillraceError
from stream.settings.schema import Config
from tests.support.broker import bootstrap, unique

BATCHES = (2_000, 4_096)
"""The batch of the project's first measurements, and the service's default."""


class Amount(msgspec.Struct):
    """What the bare loop decodes of an event."""

    payment_id: str
    amount: float


def kafka_config(directory: Path, server: str, events: str, batch: int) -> Config:
    """A new shard on the given topic of events, with output topics of its own."""
    others = ("labels", "control", "scores", "dead_letters", "audit")
    return traffic.minimal(
        directory,
        [traffic.CONSTANT],
        name=unique("bench"),
        log={"type": "kafka", "bootstrap": server},
        topics={t: unique(t) for t in others} | {"events": events},
        limits={"batch": batch},
    )


def service(server: str, topic: str, events: int, batch: int) -> dict[str, Any]:
    """The service over the whole backlog."""
    with tempfile.TemporaryDirectory() as directory:
        return drain(kafka_config(Path(directory), server, topic, batch), events, events)


def bare(server: str, topic: str, scores: str, events: int, batch: int) -> dict[str, Any]:
    """The loop that anybody would write with kafka-python, over the whole backlog."""
    group = unique("bare")
    consumer = KafkaConsumer(
        bootstrap_servers=server,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=1 << 20,
        fetch_max_bytes=16 << 20,
    )
    producer = KafkaProducer(
        bootstrap_servers=server,
        transactional_id=group,
        batch_size=256 << 10,
        retry_backoff_ms=5,
    )
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    producer.init_transactions()
    try:
        started, cpu = time.perf_counter(), time.process_time()
        # The service puts its own batches into this process; whoever has no service has not.
        with patch.object(memory_records, "DefaultRecordBatch", DefaultRecordBatch):
            _bare_loop(consumer, producer, partition, (group, scores), events, batch)
        return rates(events, time.perf_counter() - started, time.process_time() - cpu)
    finally:
        consumer.close()
        producer.close()


def _bare_loop(
    consumer: Any,
    producer: Any,
    tp: TopicPartition,
    names: tuple[str, str],
    events: int,
    batch: int,
) -> None:
    group, scores = names
    decode = msgspec.json.Decoder(Amount).decode
    encode = msgspec.json.encode
    done = 0
    held: list[Any] = []
    while done < events:
        held += consumer.poll(timeout_ms=1000, max_records=batch - len(held)).get(tp, [])
        if len(held) < min(batch, events - done):
            continue
        producer.begin_transaction()
        for record in held:
            event = decode(record.value)
            score = {"id": event.payment_id, "score": 0.01}
            producer.send(scores, encode(score), event.payment_id.encode(), partition=0)
        offsets = {tp: OffsetAndMetadata(held[-1].offset + 1, "", -1)}
        producer.send_offsets_to_transaction(offsets, group)
        producer.commit_transaction()
        done += len(held)
        held = []


def fill(directory: Path, server: str, events: int) -> tuple[str, str]:
    """A backlog on a new topic, and a topic for the bare loop's scores."""
    config = kafka_config(directory, server, unique("backlog"), 4096)
    made = traffic.append(config, traffic.pieces(traffic.simulator(events), 4096, labels=False))
    if made != events:
        raise MillraceError(f"benchmark: expected a backlog of {events} events, got {made}")
    return config.topics.events, config.topics.scores


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__)
    rounds = 1 if options.quick else 3
    events = 20_000 if options.quick else 200_000
    found: dict[str, Any] = {}
    with bootstrap() as server, tempfile.TemporaryDirectory() as directory:
        topic, scores = fill(Path(directory), server, events)
        service(server, topic, min(events, 4096), 4096)  # compiles
        for batch in BATCHES:
            result = compare(
                lambda: service(server, topic, events, batch),  # noqa: B023
                lambda: bare(server, topic, scores, events, batch),  # noqa: B023
                rounds,
            )
            found[f"batch_{batch}"] = {
                "service": result.pop("ours"), "bare_loop": result.pop("theirs")
            } | result  # fmt: skip
    found["targets"] = {
        f"batch_{b}": target(found[f"batch_{b}"]["ratio"]["median"], 0.75, True) for b in BATCHES
    }
    show("kafka_path", found, options.json)


if __name__ == "__main__":
    main()
