"""confluent-kafka (librdkafka) behind the log's calls, with the traps found by running 2.16.

Its errors are turned into kafka-python's, whose meaning ``faults.py`` says.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Consumer as RawConsumer
from confluent_kafka import Producer as RawProducer
from kafka import errors

from stream.contract.log import LogUnavailable
from stream.contract.records import Record
from stream.logs.kafka.clients import credentials
from stream.logs.kafka.clients.base import Consumer, Key, Placed, Producer
from stream.logs.kafka.clients.faults import translated
from stream.logs.kafka.clients.kafka_python import KafkaPython
from stream.settings import schema as settings

_LOCAL = {
    KafkaError._FENCED: errors.ProducerFencedError,
    KafkaError._AUTO_OFFSET_RESET: errors.OffsetOutOfRangeError,
    KafkaError._AUTHENTICATION: errors.SaslAuthenticationFailedError,
    KafkaError._TIMED_OUT: errors.KafkaTimeoutError,
    KafkaError._INVALID_ARG: errors.KafkaConfigurationError,
}
"""What the library's own errors are in kafka-python; any other is in doubt, as its base class."""

_SILENT = logging.Logger("confluent_kafka", logging.CRITICAL + 1)
"""The library tells of every refused connection; what follows from it is raised, and said once."""


class Confluent:
    """See :class:`stream.logs.kafka.clients.base.Client`."""

    def __init__(self, log: settings.KafkaLogSettings, name: str) -> None:
        self._log = log
        self._name = name
        self.timeout_s = log.timeout / 1000
        self._common: dict[str, Any] = {
            "bootstrap.servers": log.bootstrap,
            "client.id": f"millrace-{name}",
            "socket.timeout.ms": max(log.timeout, 1000),
            "reconnect.backoff.max.ms": 1000,
            "receive.message.max.bytes": 64 << 20,
            **credentials.for_confluent(log),
            "logger": _SILENT,
        }
        self._python = KafkaPython(log, name)
        self._in_doubt = False

    def consumer(self, group: str | None = None) -> Consumer:
        """See :meth:`stream.logs.kafka.clients.base.Client.consumer`."""
        self._come_in()
        return _Consumer(
            RawConsumer(
                {
                    **self._common,
                    "group.id": group or self._name,  # the library will not do without
                    "isolation.level": "read_committed",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "error",
                    "enable.partition.eof": True,
                    "check.crcs": True,
                    "fetch.max.bytes": 16 << 20,
                    "max.partition.fetch.bytes": 2 << 20,
                    "fetch.wait.max.ms": 50,
                    "fetch.error.backoff.ms": 50,
                    # What it reads ahead, of all partitions.
                    "queued.max.messages.kbytes": 32 << 10,
                }
            ),
            self._python,
        )

    def producer(self, transactional: bool) -> Producer:
        """See :meth:`stream.logs.kafka.clients.base.Client.producer`."""
        self._come_in()
        limit_ms = max(self._log.timeout, 1000)
        options: dict[str, Any] = {"message.timeout.ms": limit_ms}
        if transactional:
            options["transactional.id"] = self._log.transactions_of(self._name)
            options["transaction.timeout.ms"] = self._log.transaction_timeout
            # The library refuses longer ones.
            options["message.timeout.ms"] = min(limit_ms, self._log.transaction_timeout)
            options["socket.timeout.ms"] = options["message.timeout.ms"]
            options["delivery.report.only.error"] = True  # all that settle() asks for
        made = _Producer(
            RawProducer(
                {
                    **self._common,
                    **options,
                    "enable.idempotence": True,
                    # With the defaults of 5 and 100 a commit takes 44 to 88 ms.
                    "linger.ms": 0,
                    "retry.backoff.ms": 1,
                    "message.max.bytes": 8 << 20,
                    # A step's outputs are bounded by the step: a full queue would only cut it.
                    "queue.buffering.max.messages": 0,
                    "queue.buffering.max.kbytes": (1 << 31) - 1,
                }
            ),
            self._common,
        )
        if transactional:
            try:
                made.fence(self.timeout_s)
            except BaseException:
                made.leave()
                raise
        return made

    def _come_in(self) -> None:
        """Raise here why no broker lets us in: the library waits, and its calls only time out."""
        if self._in_doubt:
            self._python.knock()
            self._in_doubt = False
        if "oauth_cb" in self._common:
            self._common["oauth_cb"]()

    @contextlib.contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """See :meth:`stream.logs.kafka.clients.base.Client.translated`."""
        try:
            with translated(what), _renamed():
                yield
        except LogUnavailable:
            self._in_doubt = True
            raise


@contextlib.contextmanager
def _renamed() -> Iterator[None]:
    """Raise the library's errors as kafka-python's."""
    try:
        yield
    except KafkaException as raised:
        error = raised.args[0]
        code = error.code()
        kind = errors.for_code(code) if code > 0 else _LOCAL.get(code, errors.KafkaError)
        raise kind(f"{error.name()}: {error.str()}") from raised


_NOT_UNPACKED = {KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED}
"""The library tells of such a batch again and again, and never passes it."""


class _Consumer:
    def __init__(self, raw: Any, other: KafkaPython) -> None:
        self._raw = raw
        self._other = other
        self._at: dict[Key, int] = {}

    def assign(self, positions: Mapping[Key, int]) -> None:
        self._at = dict(positions)
        self._raw.assign([TopicPartition(*key, offset) for key, offset in positions.items()])

    def poll(self, limit: int, timeout_s: float) -> dict[Key, list[Record]]:
        # consume() waits until it has all that it was asked for.
        messages = self._raw.consume(limit, 0)
        if not messages and timeout_s > 0:
            messages = self._raw.consume(1, timeout_s)
            if messages and limit > 1:
                messages += self._raw.consume(limit - 1, 0)
        got: dict[Key, list[Record]] = {}
        stuck: set[Key] = set()
        for message in messages:
            key = message.topic(), message.partition()
            error = message.error()
            if error is None:
                record = _record(message, *key)
                got.setdefault(key, []).append(record)
                self._at[key] = record.offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at[key] = message.offset()
            elif error.code() in _NOT_UNPACKED:
                stuck.add(key)
            else:
                raise KafkaException(error)
        for key in stuck:
            got.setdefault(key, []).extend(self._pass(key, limit))
        return got

    def _pass(self, key: Key, limit: int) -> list[Record]:
        """The next records as kafka-python has them: null, with what is wrong with their batch."""
        deadline = time.monotonic() + self._other.timeout_s
        other = self._other.consumer()
        try:
            other.assign({key: self._at[key]})
            while not (records := other.poll(limit, 1.0).get(key)):
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"Kafka: {key[0]}/{key[1]}: no batch at {self._at[key]}")
        finally:
            other.close()
        self._at[key] = records[-1].offset + 1
        self._raw.seek(TopicPartition(*key, self._at[key]))
        return records

    def position(self, key: Key) -> int:
        # The library's own position does not pass markers; the end of a partition is told.
        return self._at[key]

    def end(self, key: Key) -> int:
        _, end = self._raw.get_watermark_offsets(TopicPartition(*key), cached=True)
        return max(0, end)

    def bounds(
        self, keys: Iterable[Key], timeout_s: float
    ) -> tuple[dict[Key, int], dict[Key, int]]:
        firsts = self._offsets(keys, OFFSET_BEGINNING, timeout_s)
        return firsts, self._offsets(keys, OFFSET_END, timeout_s)

    def _offsets(self, keys: Iterable[Key], which: int, timeout_s: float) -> dict[Key, int]:
        tps = [TopicPartition(*key, which) for key in keys]
        deadline = time.monotonic() + timeout_s
        while tps:
            try:
                tps = _sound(self._raw.offsets_for_times(tps, timeout=timeout_s))
                break
            except KafkaException as raised:
                # A partition just made has no leader for a moment; the library gives that back.
                new = raised.args[0].code() == KafkaError.NOT_LEADER_FOR_PARTITION
                if not new or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        return {(tp.topic, tp.partition): tp.offset for tp in tps}

    def committed(self, keys: Iterable[Key], timeout_s: float) -> dict[Key, int]:
        found = self._raw.committed([TopicPartition(*k) for k in keys], timeout=timeout_s)
        return {(tp.topic, tp.partition): tp.offset for tp in _sound(found) if tp.offset >= 0}

    def commit(self, offsets: Mapping[Key, int], timeout_s: float) -> None:
        tps = [TopicPartition(*key, offset) for key, offset in offsets.items()]
        _sound(self._raw.commit(offsets=tps, asynchronous=False))

    def close(self) -> None:
        self._raw.close()

    def leave(self) -> None:
        threading.Thread(target=self.close, daemon=True).start()


def _sound(found: list[Any]) -> list[Any]:
    """The partitions of an answer; raises the first one's error."""
    for tp in found:
        if tp.error is not None:
            raise KafkaException(tp.error)
    return found


def _record(message: Any, topic: str, partition: int) -> Record:
    headers = message.headers()
    return Record(
        topic,
        partition,
        message.offset(),
        message.key(),
        message.value(),
        message.timestamp()[1],
        tuple((k, v or b"") for k, v in headers) if headers else (),
    )


_TURN_S = 0.005
"""Whose report a poll is given is chance: how long one appending thread may keep from another."""


class _Producer:
    def __init__(self, raw: Any, common: Mapping[str, Any]) -> None:
        self._raw = raw
        self._common = common
        self._groups: dict[str, Any] = {}
        self._failed: list[KafkaError] = []

    def fence(self, timeout_s: float) -> None:
        self._raw.init_transactions(timeout_s)

    def begin(self) -> None:
        self._raw.begin_transaction()

    def send(self, topic: str, records: Iterable[Placed], at_ms: int) -> None:
        produce, report = self._raw.produce, self._report
        for partition, r in records:
            at = at_ms if r.timestamp_ms is None else r.timestamp_ms
            if r.headers:
                produce(
                    topic, r.value, r.key, partition, report, timestamp=at, headers=[*r.headers]
                )
            else:
                produce(topic, r.value, r.key, partition, report, timestamp=at)

    def _report(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failed.append(error)

    def add_offsets(self, offsets: Mapping[Key, int], group: str, timeout_s: float) -> None:
        tps = [TopicPartition(*key, offset) for key, offset in offsets.items()]
        self._raw.send_offsets_to_transaction(tps, self._group(group), timeout_s)

    def _group(self, name: str) -> Any:
        """What identifies the group: a few bytes that only a consumer of it gives away."""
        if name not in self._groups:
            consumer = RawConsumer({**self._common, "group.id": name})
            self._groups[name] = consumer.consumer_group_metadata()
            consumer.close()
        return self._groups[name]

    def settle(self, timeout_s: float) -> None:
        # Not by flush(): of a fatal error it gives a SystemError without a cause.
        deadline = time.monotonic() + timeout_s
        while len(self._raw) and not self._failed:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            self._raw.poll(0.1)
        failed, self._failed = self._failed, []
        if failed:
            raise KafkaException(failed[0])

    def commit(self, timeout_s: float) -> None:
        self._raw.commit_transaction(timeout_s)

    def append(
        self, topic: str, records: Sequence[Placed], at_ms: int, timeout_s: float
    ) -> list[tuple[int, int]]:
        deadline = time.monotonic() + timeout_s
        done: dict[int, tuple[int, int]] = {}
        failed: list[Any] = []

        def report(index: int, error: Any, message: Any) -> None:
            if error is not None:
                failed.append(error)
            done[index] = (message.partition(), message.offset())

        for i, (partition, r) in enumerate(records):
            self._raw.produce(
                topic,
                r.value,
                r.key,
                partition,
                partial(report, i),
                timestamp=at_ms if r.timestamp_ms is None else r.timestamp_ms,
                headers=[*r.headers],
            )
        while len(done) < len(records):
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            self._raw.poll(_TURN_S)
        if failed:
            raise KafkaException(failed[0])
        return [done[i] for i in range(len(records))]

    def close(self) -> None:
        self._raw.flush(1.0)

    def leave(self) -> None:
        self._raw.purge(blocking=False)
