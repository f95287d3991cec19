"""From an event to its committed score: on Kafka exactly once, and over HTTP on the embedded log.

Run ``python -m benchmarks.service.latency [--json] [--quick]``. The service is a process of its own
with the compiled members; labels come too, as many as events. On Kafka the time runs from just
before ``send`` to the moment a ``read_committed`` consumer of this process has the score; producer,
broker, service and consumer share this machine. On the embedded log it is a whole request to ``POST
/v1/score``, one after another on one connection, beside a stream of events appended by this
process. Paces are kept by a clock, so a late send does not slow the following ones; the first
seconds are not counted.
"""

from __future__ import annotations

import http.client
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from benchmarks import traffic
from benchmarks.common import arguments, quantiles_ms, show, target
from benchmarks.service.daemon import Daemon
from models.base import MillraceError
from stream.demo.player import event_records
from stream.run.assemble import open_log, wall_clock_ms
from stream.run.daemon import SWITCH_S
from tests.support.broker import bootstrap, unique

KAFKA_RATE = 1_000
STREAM_RATE = 2_000
REQUEST_EVERY_S = 0.02
WARM_S = 5.0
BROKER_WARM_S = 25.0
"""A broker that has just started spends half a core on compiling itself."""
LAG = 2_000
TICK_S = 0.005
"""The Kafka producer wakes this often: 5 events at a time at 1,000 a second."""
APPEND_S = 0.02
"""The other process appends to the embedded log this often: 40 events, 40 labels, both durable."""


class ScoreId(msgspec.Struct):
    """What is read of a score here."""

    id: str


def traffic_records(seconds: float, rate: int, size: int) -> list[traffic.Piece]:
    """So many seconds of events in pieces of ``size``, labels behind them."""
    sim = traffic.simulator(int(seconds * rate))
    return list(traffic.pieces(sim, size, lag=LAG))[:-1]


def paced(
    made: Sequence[traffic.Piece],
    every_s: float,
    send: Callable[[traffic.Piece], object],
    stop: threading.Event,
) -> None:
    """Hand over one piece each ``every_s``, by the clock."""
    begin = time.perf_counter()
    for i, piece in enumerate(made):
        ahead = begin + i * every_s - time.perf_counter()
        if ahead > 0:
            stop.wait(ahead)
        if stop.is_set():
            return
        send(piece)


def on_kafka(seconds: float) -> dict[str, Any]:
    """Produce at a steady rate and read the scores back."""
    with bootstrap() as server, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        topics = {t: unique(t) for t in
                  ("events", "labels", "control", "scores", "dead_letters", "audit")}  # fmt: skip
        changes = traffic.changes(
            directory, name=unique("bench"), log={"type": "kafka", "bootstrap": server},
            topics=topics,
        )  # fmt: skip
        made = traffic_records(seconds + BROKER_WARM_S, KAFKA_RATE, int(KAFKA_RATE * TICK_S))
        with Daemon(changes, directory) as daemon:
            daemon.wait_for(daemon.ready)
            sent, received = _produce_and_consume(server, topics, made)
    missing = len(sent) - len(set(sent) & set(received))
    if missing:
        raise MillraceError(f"benchmark: expected a score for every event, {missing} have none")
    first = min(sent.values()) + BROKER_WARM_S
    waits = [received[i] - at for i, at in sent.items() if at >= first]
    return {"events_per_s": KAFKA_RATE} | quantiles_ms(waits)


def _produce_and_consume(
    server: str, topics: dict[str, str], made: Sequence[traffic.Piece]
) -> tuple[dict[str, float], dict[str, float]]:
    """When each event was sent, and when its score was read, by id."""
    sent: dict[str, float] = {}
    received: dict[str, float] = {}
    stop = threading.Event()
    expected = sum(len(events) for events, _ in made)
    producer = KafkaProducer(bootstrap_servers=server, linger_ms=0)
    decode = msgspec.json.Decoder(Id).decode
    ids = [[decode(r.value or b"").payment_id for r in events] for events, _ in made]
    names = iter(ids)

    def send(piece: traffic.Piece) -> None:
        events, labels = piece
        for record, event_id in zip(events, next(names), strict=True):
            sent[event_id] = time.perf_counter()
            producer.send(topics["events"], record.value, record.key, partition=0)
        for record in labels:
            producer.send(topics["labels"], record.value, record.key, partition=0)

    reader = threading.Thread(
        target=_consume, args=(server, topics["scores"], expected, received, stop)
    )
    reader.start()
    paced(made, TICK_S, send, stop)
    producer.flush(30)
    reader.join(30)
    stop.set()
    reader.join()
    producer.close()
    return sent, received


class Id(msgspec.Struct):
    """What is read of an event here."""

    payment_id: str


def _consume(
    server: str, topic: str, expected: int, received: dict[str, float], stop: threading.Event
) -> None:
    consumer = KafkaConsumer(
        bootstrap_servers=server,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=100,
    )
    consumer.assign([TopicPartition(topic, 0)])
    decode = msgspec.json.Decoder(ScoreId).decode
    while len(received) < expected and not stop.is_set():
        for records in consumer.poll(timeout_ms=200).values():
            now = time.perf_counter()
            for record in records:
                received.setdefault(decode(record.value).id, now)
    consumer.close()


def on_embedded_log(seconds: float) -> dict[str, Any]:
    """Requests to ``/v1/score`` beside a stream."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = traffic.config(directory)
        size = int(STREAM_RATE * APPEND_S)
        made = traffic_records(seconds + 2 * WARM_S, STREAM_RATE, size)
        log = open_log(config, wall_clock_ms)
        send = traffic.sender(log, config)
        stop = threading.Event()
        stream = threading.Thread(target=paced, args=(made, APPEND_S, send, stop))
        requests = iter(traffic.simulator(100_000, seed=12).chunks(100))
        with Daemon(traffic.changes(directory), directory) as daemon:
            daemon.wait_for(daemon.ready)
            stream.start()
            waits = _requests(daemon.port, requests, seconds)
            stop.set()
            stream.join()
        log.close()
    return {"stream_events_per_s": STREAM_RATE} | quantiles_ms(waits)


def _requests(port: int, chunks: Any, seconds: float) -> list[float]:
    """Seconds of each request after the warm-up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    waits: list[float] = []
    begin = time.perf_counter()
    bodies = (r.value for chunk in chunks for r in event_records(chunk.events, 12))
    i = 0
    while (now := time.perf_counter() - begin) < WARM_S + seconds:
        with suppress(ValueError):  # late already: go on at once
            time.sleep(i * REQUEST_EVERY_S - now)
        i += 1
        started = time.perf_counter()
        connection.request("POST", "/v1/score", next(bodies), {"content-type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 504):  # 504: late, which is what is measured here
            raise MillraceError(
                f"benchmark: /v1/score: expected 200, got {answer.status}: {body!r}"
            )
        if started - begin >= WARM_S:
            waits.append(time.perf_counter() - started)
    connection.close()
    return waits


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__)
    sys.setswitchinterval(SWITCH_S)  # or this process's own threads wait for one another
    seconds = 5.0 if options.quick else 30.0
    kafka, http_score = on_kafka(seconds), on_embedded_log(seconds)
    found = {
        "kafka_exactly_once": kafka,
        "http_score_on_embedded_log": http_score,
        "targets": {
            "kafka_p50_ms": target(kafka["p50_ms"], 20, False),
            "kafka_p99_ms": target(kafka["p99_ms"], 60, False),
            "http_p50_ms": target(http_score["p50_ms"], 10, False),
            "http_p99_ms": target(http_score["p99_ms"], 40, False),
        },
    }
    show("latency", found, options.json)


if __name__ == "__main__":
    main()
