"""Kafka clients: what the Kafka log's parts share.

Every function here may block: they are
called through a :class:`stream.logs.kafka.calls.Worker` or ``Seat``.
"""

from __future__ import annotations

import threading
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors

from stream.logs.kafka import codec as kafka_codec
from stream.settings import schema as settings

kafka_codec.install()


class Clients:
    """Makes clients of one cluster, all with the same bounds and credentials."""

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
            "security_protocol": log.security_protocol,
            **{
                key: str(value)
                for key, value in (
                    ("ssl_cafile", log.ssl_cafile),
                    ("ssl_certfile", log.ssl_certfile),
                    ("ssl_keyfile", log.ssl_keyfile),
                    ("sasl_mechanism", log.sasl_mechanism),
                    ("sasl_plain_username", log.sasl_username),
                )
                if value is not None
            },
        }
        if log.sasl_password is not None:
            self._common["sasl_plain_password"] = log.sasl_password.get_secret_value()

    def consumer(self, group: str | None = None) -> Any:
        """A consumer that reads committed records only and never moves by itself."""
        return _made(
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

    def producer(self, transactional: bool) -> Any:
        """An idempotent producer, with the shard's transactional id if asked for."""
        options: dict[str, Any] = {}
        if transactional:
            options["transactional_id"] = self._log.transactional_id or f"millrace-{self._name}"
            options["transaction_timeout_ms"] = self._log.transaction_timeout
        return _made(
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

    def admin(self) -> Any:
        """An administrative client."""
        options = {k: v for k, v in self._common.items() if k != "retry_backoff_ms"}
        return _made(KafkaAdminClient, **options)


def _made(kind: Any, **options: Any) -> Any:
    """``kind(**options)``, without the thread and the sockets that a failed one leaves behind.

    kafka-python starts a thread before it connects; each attempt without a broker would leave one.
    """
    client = kind.__new__(kind)
    try:
        client.__init__(**options)
    except BaseException:
        network = getattr(client, "_client", None)
        if network is not None:
            network.close()
        raise
    return client


def leave_consumer(consumer: Any) -> None:
    """Let go of a consumer without waiting for it."""
    # close() may block for its timeout; the thread of its own keeps that from the caller.
    threading.Thread(target=consumer.close, kwargs={"timeout_ms": 1000}, daemon=True).start()


def leave_producer(producer: Any) -> None:
    """Let go of a producer whose state is in doubt, without waiting and without sending more."""
    try:
        producer.close(timeout=0)
    except errors.KafkaError:
        # close() flushes first and gives up when that fails, before it ends its thread.
        producer._sender.force_close()
        producer._closed = True
