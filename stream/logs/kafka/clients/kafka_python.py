"""kafka-python behind the log's calls, with the traps that were found by running 3.0.12.

Transaction calls and ``close()`` take no timeout and block for ever without a broker; after any
exception from ``poll()`` a consumer spins. So everything here runs in a
:class:`stream.logs.kafka.calls.Seat`, which has the deadline and lets go of a client that failed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.net.compat import KafkaNetClient
from kafka.structs import OffsetAndMetadata

from stream.contract.log import LogError, LogUnavailable
from stream.contract.records import Headers, Record
from stream.logs.kafka.clients import codec, credentials
from stream.logs.kafka.clients.base import Consumer, Key, Placed, Producer
from stream.logs.kafka.clients.doorstep import knock
from stream.logs.kafka.clients.faults import translated
from stream.settings import schema as settings

codec.install()

_LARGE_BYTES = 64 << 10
"""Bytes of a value beyond which the client itself looks whether the record is too large."""
_KNOWN_S = 1.0
"""How long a client is given to learn of a partition; then a new one is made."""


class KafkaPython:
    """See :class:`stream.logs.kafka.clients.base.Client`; makes administrative clients too."""

    def __init__(self, log: settings.KafkaLogSettings, name: str) -> None:
        self._log = log
        self._name = name
        self.timeout_s = log.timeout / 1000
        self._common: dict[str, Any] = {
            "bootstrap_servers": log.bootstrap.split(","),
            "client_id": f"millrace-{name}",
            "request_timeout_ms": max(log.timeout, 1000),
            "bootstrap_timeout_ms": log.timeout,
            # The default of 100 adds 104 ms to each transaction, 5 adds 9.
            "retry_backoff_ms": 5,
            "reconnect_backoff_max_ms": 1000,
            "receive_message_max_bytes": 64 << 20,
            **credentials.for_kafka_python(log),
        }

    def consumer(self, group: str | None = None) -> Consumer:
        """See :meth:`stream.logs.kafka.clients.base.Client.consumer`."""
        made = _made(
            KafkaConsumer,
            **self._common,
            group_id=group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            fetch_max_bytes=16 << 20,
            max_partition_fetch_bytes=2 << 20,
            # One fetch is under way to a broker at a time, and it leaves out partitions with
            # records still unread: at the default of 500 ms, empty topics stall a full one.
            fetch_max_wait_ms=50,
            metrics_enabled=False,
        )
        return _Consumer(made)

    def producer(self, transactional: bool) -> Producer:
        """See :meth:`stream.logs.kafka.clients.base.Client.producer`."""
        options: dict[str, Any] = {}
        if transactional:
            options["transactional_id"] = self._log.transactions_of(self._name)
            options["transaction_timeout_ms"] = self._log.transaction_timeout
        made = _Producer(
            _made(
                KafkaProducer,
                **self._common,
                **options,
                max_block_ms=self._log.timeout,
                delivery_timeout_ms=max(self._log.timeout, 1000),
                allow_auto_create_topics=False,
                batch_size=256 << 10,
                max_request_size=8 << 20,
                metrics_enabled=False,
            )
        )
        if transactional:
            try:
                made.fence()
            except BaseException:
                made.leave()
                raise
        return made

    def admin(self) -> Admin:
        """An administrative client."""
        options = {k: v for k, v in self._common.items() if k != "retry_backoff_ms"}
        knock(options)  # at the start by this client, whichever reads and writes
        return Admin(_made(KafkaAdminClient, **options))

    def knock(self) -> None:
        """Raise why no broker lets us in, if one says so."""
        knock(self._common)

    def translated(self, what: str) -> AbstractContextManager[None]:
        """See :meth:`stream.logs.kafka.clients.base.Client.translated`."""
        return translated(what)


def _made(kind: Any, **options: Any) -> Any:
    """``kind(**options)``, without the thread and the sockets that a failed one leaves behind.

    kafka-python starts a thread before it connects; each attempt without a broker would leave one.
    """
    networks: list[Any] = []

    def network(**more: Any) -> Any:
        networks.append(_Network(**more))
        return networks[-1]

    try:
        return kind(**options, kafka_client=network)
    except BaseException:
        for one in networks:
            one.close()
        knock(options)  # there may be a reason that no repetition mends
        raise


class _Network(KafkaNetClient):
    """Says of a node that is away that it is not ready, as the producer's code expects.

    What is raised there makes it forget the request that it had for a coordinator: with a broker
    of three gone, a transaction waited for its deadline of 30 s.
    """

    def await_ready(self, node_id: Any, timeout_ms: float = 30_000) -> bool:
        """Whether the node is ready, within this time."""
        try:
            ready: bool = super().await_ready(node_id, timeout_ms)
        except errors.KafkaConnectionError:
            return False
        return ready


class Admin:
    """kafka-python's administrative client, ``raw``, in a seat."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def close(self) -> None:
        """See :meth:`stream.logs.kafka.clients.base.Held.close`."""
        self.raw.close()

    def leave(self) -> None:
        """See :meth:`stream.logs.kafka.clients.base.Held.leave`."""
        threading.Thread(target=self.close, daemon=True).start()


class _Consumer:
    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._ids: dict[str, Any] = {}

    def assign(self, positions: Mapping[Key, int]) -> None:
        self._ids = {}
        tps = {TopicPartition(*key): offset for key, offset in positions.items()}
        self._raw.assign(list(tps))
        for tp, offset in tps.items():
            self._raw.seek(tp, offset)

    def poll(self, limit: int, timeout_s: float) -> dict[Key, list[Record]]:
        got = self._raw.poll(timeout_ms=timeout_s * 1000, max_records=limit)
        for tp in got:
            self._refuse_another(tp.topic)
        return {(*tp,): [_record(raw) for raw in raws] for tp, raws in got.items()}

    def _refuse_another(self, topic: str) -> None:
        """Raise where a topic was made anew since the first records: it is fetched by its name."""
        now = self._raw._client.cluster.topic_id(topic)
        # While a topic has no leader, its id is not known.
        if now is not None and now != self._ids.setdefault(topic, now):
            raise LogError(f"Kafka: topic {topic} was deleted and made anew while it was read")

    def position(self, key: Key) -> int:
        return self._raw.position(TopicPartition(*key)) or 0

    def end(self, key: Key) -> int:
        return self._raw.highwater(TopicPartition(*key)) or 0

    def bounds(
        self, keys: Iterable[Key], timeout_s: float
    ) -> tuple[dict[Key, int], dict[Key, int]]:
        tps = [TopicPartition(*key) for key in keys]
        deadline = time.monotonic() + min(timeout_s, _KNOWN_S)
        while True:
            try:
                firsts = self._raw.beginning_offsets(tps, timeout_ms=timeout_s * 1000)
                ends = self._raw.end_offsets(tps, timeout_ms=timeout_s * 1000)
                return {(*tp,): firsts[tp] for tp in tps}, {(*tp,): ends[tp] for tp in tps}
            except KeyError as error:
                # One that was added, deleted, or is of a topic that this client has read nothing
                # of: it leaves that one out of its answer, and asks the cluster meanwhile.
                if time.monotonic() > deadline:
                    what = f"Kafka: {error}: the client knows no such partition"
                    raise LogUnavailable(what) from error
            time.sleep(0.02)

    def committed(self, keys: Iterable[Key], timeout_s: float) -> dict[Key, int]:
        limit = timeout_s * 1000
        found = {k: self._raw.committed(TopicPartition(*k), timeout_ms=limit) for k in keys}
        return {k: v for k, v in found.items() if v is not None}

    def commit(self, offsets: Mapping[Key, int], timeout_s: float) -> None:
        self._raw.commit(_offsets(offsets), timeout_ms=timeout_s * 1000)

    def close(self) -> None:
        self._raw.close(timeout_ms=1000)

    def leave(self) -> None:
        # close() may block for its timeout; the thread of its own keeps that from the caller.
        threading.Thread(target=self.close, daemon=True).start()


def _record(raw: Any) -> Record:
    return Record(
        raw.topic,
        raw.partition,
        raw.offset,
        raw.key,
        raw.value,
        raw.timestamp,
        *(_headers(raw.headers) if raw.headers else ()),
    )


def _headers(pairs: Sequence[tuple[str, bytes | None]]) -> tuple[Headers, str]:
    """A record's headers, and why it could not be read if it could not."""
    name = pairs[0][0]
    if isinstance(name, codec.Unreadable):
        return (), str(name)
    return tuple((k, v or b"") for k, v in pairs), ""


class _Producer:
    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._sent: list[Any] = []

    def fence(self) -> None:
        self._raw.init_transactions()

    def begin(self) -> None:
        self._sent = []
        self._raw.begin_transaction()

    def send(self, topic: str, records: Iterable[Placed], at_ms: int) -> None:
        self._sent += self._futures(topic, records, at_ms)

    def _futures(self, topic: str, records: Iterable[Placed], at_ms: int) -> list[Any]:
        """What tells of each record when it is there.

        ``send`` looks whether the partition exists and enters it into the transaction: once for
        each partition, and for records that may be too large. All others are put behind those that
        it took: its own look at every record is half of what sending one takes.
        """
        raw, sent, known = self._raw, list[Any](), dict[int, TopicPartition]()
        behind = raw._accumulator.append
        for partition, r in records:
            at = at_ms if r.timestamp_ms is None else r.timestamp_ms
            there = known.get(partition)
            if there is None or len(r.value or b"") > _LARGE_BYTES:
                sent.append(raw.send(topic, r.value, r.key, list(r.headers) or None, partition, at))
                known[partition] = TopicPartition(topic, partition)
                continue
            future, full, new, _ = behind(there, at, r.key, r.value, list(r.headers))
            if full or new:
                raw._sender.wakeup()
            sent.append(future)
        return sent

    def add_offsets(self, offsets: Mapping[Key, int], group: str, timeout_s: float) -> None:
        self._raw.send_offsets_to_transaction(_offsets(offsets), group)

    def settle(self, timeout_s: float) -> None:
        sent, self._sent = self._sent, []
        self._raw.flush(timeout_s)
        _wait_for(sent, timeout_s)

    def commit(self, timeout_s: float) -> None:
        # Not to be believed by itself, only after settle(): after a batch out of sequence
        # kafka-python begins a new epoch, forgets the transaction, and reports it as committed.
        self._raw.commit_transaction()

    def append(
        self, topic: str, records: Sequence[Placed], at_ms: int, timeout_s: float
    ) -> list[tuple[int, int]]:
        done = _wait_for(self._futures(topic, records, at_ms), timeout_s)
        return [(meta.partition, meta.offset) for meta in done]

    def close(self) -> None:
        self._raw.close(timeout=1.0)

    def leave(self) -> None:
        try:
            self._raw.close(timeout=0)
        except errors.KafkaError:
            # close() flushes first and gives up when that fails, before it ends its thread.
            self._raw._sender.force_close()
            self._raw._closed = True


def _wait_for(futures: Sequence[Any], timeout_s: float) -> list[Any]:
    """What became of each record; raises the first failure. The deadline is for all of them."""
    deadline = time.monotonic() + timeout_s
    return [f.get(timeout=max(0.0, deadline - time.monotonic())) for f in futures]


def _offsets(offsets: Mapping[Key, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(*k): OffsetAndMetadata(v, "", -1) for k, v in offsets.items()}
