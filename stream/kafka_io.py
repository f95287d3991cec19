"""Kafka clients, deadlines, errors and topics: what the Kafka log's parts share.

Called by ``kafka_log.py``, ``kafka_reader.py`` and ``kafka_writer.py`` only. Knows nothing of a
step.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors

from stream import config as settings
from stream import kafka_codec
from stream.log import Fenced, LogError, LogUnavailable, OutOfRetention

T = TypeVar("T")

_FENCED = (
    errors.ProducerFencedError,
    errors.InvalidProducerEpochError,
    errors.FencedInstanceIdError,
)
_IN_DOUBT = (
    errors.RetriableError,
    errors.IllegalStateError,
    errors.TransactionAbortedError,
    errors.InvalidTxnStateError,
    errors.InvalidProducerIdMappingError,
    errors.OutOfOrderSequenceNumberError,
    errors.UnknownProducerIdError,
    errors.UnknownError,
    OSError,
)
"""Errors after which a new client may succeed."""

kafka_codec.install()


class Worker:
    """One thread that makes blocking calls for others, each with a deadline.

    kafka-python's transaction calls and ``close()`` take no timeout and block for ever without a
    broker. A call past its deadline raises :class:`LogUnavailable`; its thread is left to itself
    (it is a daemon) and the next call gets a new one. Whoever calls must then drop the client that
    the stuck thread holds. Calls run one after another, which also keeps a consumer in one thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Any, Any] | None] | None = None

    def call(self, what: str, timeout_s: float, work: Callable[[], T]) -> T:
        """The result of ``work()``; raises what it raises, or :class:`LogUnavailable` if late."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._jobs is None:
                self._jobs = queue.SimpleQueue()
                threading.Thread(
                    target=_work, args=(self._jobs,), name=self._name, daemon=True
                ).start()
            jobs = self._jobs
            jobs.put((future, work))
        concurrent.futures.wait([future], max(0.0, timeout_s))
        if not future.done():
            future.cancel()
            self.stop(jobs)
            raise LogUnavailable(f"Kafka: {what}: no answer within {timeout_s:.1f} s")
        return future.result()

    def stop(self, jobs: queue.SimpleQueue[tuple[Any, Any] | None] | None = None) -> None:
        """End the thread after its current call (only if it still serves ``jobs``, when given)."""
        with self._lock:
            if self._jobs is not None and jobs in (None, self._jobs):
                self._jobs.put(None)
                self._jobs = None


def _work(jobs: queue.SimpleQueue[tuple[Any, Any] | None]) -> None:
    while (job := jobs.get()) is not None:
        future, work = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
                future.set_exception(error)
        del job, future, work  # an idle thread must not keep the last client alive


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise kafka-python's errors as the log's."""
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        chain = list(_chain(error))
        cause = next((e for e in chain if isinstance(e, _FENCED)), error)
        text = f"Kafka: {what}: {type(cause).__name__} {cause}"
        if isinstance(cause, _FENCED):
            raise Fenced(f"{text}; another process took over this shard, end this one") from error
        if isinstance(error, errors.OffsetOutOfRangeError):
            raise OutOfRetention(
                f"{text}; the topic's retention deleted records this shard still needs: lengthen"
                " retention.ms, or start anew with an empty state directory"
            ) from error
        if type(error) is errors.KafkaError or any(isinstance(e, _IN_DOUBT) for e in chain):
            permanent = [e for e in chain if isinstance(e, errors.AuthorizationError)]
            if not permanent:
                raise LogUnavailable(text) from error
        raise LogError(text) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, those in its arguments (a producer keeps its first failure there), its causes."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in seen:
            seen.append(one)
            waiting += [a for a in one.args if isinstance(a, BaseException)]
            waiting += [one.__cause__, one.__context__]
    yield from seen


class Clients:
    """Makes clients of one cluster, all with the same bounds and credentials."""

    def __init__(self, log: settings.KafkaLog, name: str) -> None:
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
        return KafkaConsumer(
            **self._common,
            group_id=group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            fetch_max_bytes=16 << 20,
            max_partition_fetch_bytes=1 << 20,
            fetch_max_wait_ms=min(500, self._log.timeout // 2),
            metrics_enabled=False,
        )

    def producer(self, transactional: bool) -> Any:
        """An idempotent producer, with the shard's transactional id if asked for."""
        options: dict[str, Any] = {}
        if transactional:
            options["transactional_id"] = self._log.transactional_id or f"millrace-{self._name}"
            options["transaction_timeout_ms"] = self._log.transaction_timeout
        return KafkaProducer(
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
        return KafkaAdminClient(**options)


def drop(producer: Any) -> None:
    """Let go of a producer whose state is in doubt, without waiting and without sending more."""
    try:
        producer.close(timeout=0)
    except errors.KafkaError:
        # close() flushes first and gives up when that fails, before it ends its thread.
        producer._sender.force_close()
        producer._closed = True


class NewTopic(NamedTuple):
    """A topic this shard needs, and how to make it."""

    partitions: int
    configs: Mapping[str, str]


def find_topics(clients: Clients, names: Iterable[str]) -> dict[str, int]:
    """Partitions of each of the topics that exists. Blocks: call it through a worker."""
    admin = clients.admin()
    try:
        return _partitions(admin, names)
    finally:
        admin.close()


def make_topics(
    clients: Clients, wanted: Mapping[str, NewTopic], create: bool, replication: int
) -> dict[str, int]:
    """Partitions of each wanted topic; makes those that are missing, if it may.

    Raises :class:`LogError` that names the missing ones. Blocks: call it through a worker.
    """
    admin = clients.admin()
    try:
        found = _partitions(admin, wanted)
        missing = sorted(set(wanted) - set(found))
        if missing and not create:
            raise LogError(
                f"Kafka: topics {', '.join(missing)} do not exist and topics.create is false"
            )
        if missing:
            options = {
                name: {
                    "num_partitions": wanted[name].partitions,
                    "replication_factor": replication,
                    "configs": dict(wanted[name].configs),
                }
                for name in missing
            }
            with contextlib.suppress(errors.TopicAlreadyExistsError):  # another process was faster
                admin.create_topics(options)
            admin.wait_for_topics(missing, timeout_ms=clients.timeout_s * 1000)
            found = _partitions(admin, wanted)
        return found
    finally:
        admin.close()


def _partitions(admin: Any, names: Iterable[str]) -> dict[str, int]:
    there = sorted(set(names) & set(admin.list_topics()))
    described = admin.describe_topics(topics=there) if there else []
    return {topic["name"]: len(topic["partitions"]) for topic in described}
