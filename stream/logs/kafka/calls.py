"""Calls into kafka-python with a deadline, and its errors as the log's.

Knows nothing of topics or records.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kafka import errors

from stream.contract.log import Fenced, LogError, LogUnavailable, OutOfRetention

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
    errors.CorruptRecordError,  # bits that flipped on the way: right when sent or fetched again
    OSError,
)
"""Errors after which a new client may succeed."""


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


class Seat:
    """A client in a worker's thread: made on first use, let go of whole after any failure.

    Parameters
    ----------
    name
        Of the thread.
    make
        Makes the client; may block.
    leave
        Lets go of a client that failed or is stuck, without waiting.
    """

    def __init__(self, name: str, make: Callable[[], Any], leave: Callable[[Any], None]) -> None:
        self._worker = Worker(name)
        self._make = make
        self._leave = leave
        self._lock = threading.Lock()
        self._client: Any = None
        self._turn = 0

    @property
    def taken(self) -> bool:
        """Whether there is a client now."""
        return self._client is not None

    def call(self, what: str, timeout_s: float, work: Callable[[Any], T]) -> T:
        """``work(client)`` in the thread; raises the log's errors, and lets go on any error."""
        try:
            with translated(what):
                return self._worker.call(what, timeout_s, lambda: work(self._sit()))
        except BaseException:
            self.drop()
            raise

    def _sit(self) -> Any:
        with self._lock:
            turn, client = self._turn, self._client
        if client is None:
            client = self._make()
            with self._lock:
                late = turn != self._turn
                if not late:
                    self._client = client
            if late:  # the caller has given up meanwhile, and may have another client already
                self._leave(client)
                raise LogUnavailable("Kafka: connected past the deadline")
        return client

    def drop(self) -> None:
        """Let go of the client; the next call makes another."""
        with self._lock:
            client, self._client = self._client, None
            self._turn += 1
        if client is not None:
            self._leave(client)

    def close(self, end: Callable[[Any], None]) -> None:
        """``end(client)`` within two seconds, else let go of it; end the thread."""
        if self.taken:
            # Without a broker nobody is left to say good-bye to.
            with contextlib.suppress(LogUnavailable):
                self.call("close", 2.0, end)
        self.drop()
        self._worker.stop()
