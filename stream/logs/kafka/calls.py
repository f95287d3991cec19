"""Calls into a Kafka client with a deadline.

Knows nothing of topics or records.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from stream.contract.log import LogUnavailable
from stream.logs.kafka.clients.base import Held

T = TypeVar("T")
H = TypeVar("H", bound=Held)


HURRY_S = 1.0
"""How long a call may still take once nobody wants to wait any more."""
_LOOK_S = 0.2


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
        self._hurried_s: float | None = None

    def hurry(self) -> None:
        """Let the call under way and those to come take :data:`HURRY_S` at most (any thread)."""
        self._hurried_s = time.monotonic()

    def _left(self, start: float, timeout_s: float) -> float:
        end = start + timeout_s
        if self._hurried_s is not None:
            end = min(end, max(start, self._hurried_s) + HURRY_S)
        return end - time.monotonic()

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
        start = time.monotonic()
        while not future.done() and (left := self._left(start, timeout_s)) > 0:
            concurrent.futures.wait([future], min(left, _LOOK_S))
        if not future.done():
            future.cancel()
            self.stop(jobs)
            took_s = time.monotonic() - start
            raise LogUnavailable(f"Kafka: {what}: no answer within {took_s:.1f} s")
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


class Seat(Generic[H]):
    """A client in a worker's thread: made on first use, let go of whole after any failure.

    Parameters
    ----------
    name
        Of the thread.
    make
        Makes the client; may block.
    translated
        Raises the client's errors as the log's.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], H],
        translated: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._worker = Worker(name)
        self._make = make
        self._translated = translated
        self._lock = threading.Lock()
        self._client: H | None = None
        self._turn = 0

    def hurry(self) -> None:
        """See :meth:`Worker.hurry`."""
        self._worker.hurry()

    @property
    def taken(self) -> bool:
        """Whether there is a client now."""
        return self._client is not None

    def call(self, what: str, timeout_s: float, work: Callable[[H], T]) -> T:
        """``work(client)`` in the thread; raises the log's errors, and lets go on any error."""
        try:
            with self._translated(what):
                return self._worker.call(what, timeout_s, lambda: work(self._sit()))
        except BaseException:
            self.drop()
            raise

    def _sit(self) -> H:
        with self._lock:
            turn, client = self._turn, self._client
        if client is None:
            client = self._make()
            with self._lock:
                late = turn != self._turn
                if not late:
                    self._client = client
            if late:  # the caller has given up meanwhile, and may have another client already
                client.leave()
                raise LogUnavailable("Kafka: connected past the deadline")
        return client

    def drop(self) -> None:
        """Let go of the client; the next call makes another."""
        with self._lock:
            client, self._client = self._client, None
            self._turn += 1
        if client is not None:
            client.leave()

    def close(self) -> None:
        """Close the client within two seconds, else let go of it; end the thread."""
        if self.taken:
            # Without a broker nobody is left to say good-bye to.
            with contextlib.suppress(LogUnavailable):
                self.call("close", 2.0, lambda client: client.close())
        self.drop()
        self._worker.stop()
