"""The threads of one service: what one of them fails of ends the service, with that as its reason.

And whose turn it is: one of them at a time may touch the engine.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
logger = structlog.get_logger()


class Threads:
    """Starts threads, and keeps what the first of them failed of.

    Parameters
    ----------
    failed : callable
        Called at once, in the failing thread: to stop whatever the main thread waits for.
    """

    def __init__(self, failed: Callable[[], None]) -> None:
        self._failed = failed
        self._error: BaseException | None = None

    def start(self, name: str, target: Callable[[], object]) -> threading.Thread:
        """A daemon thread that runs ``target``."""

        def run() -> None:
            try:
                target()
            except BaseException as error:  # noqa: BLE001 - raised again by check()
                self.failed(name, error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def failed(self, name: str, error: BaseException) -> None:
        """A thread of this name ended by ``error`` (any thread)."""
        logger.error("thread_failed", thread=name, error=repr(error), exc_info=error)
        if self._error is None:
            self._error = error
        self._failed()

    def check(self) -> None:
        """Raise what a thread failed of, if any did."""
        if self._error is not None:
            raise self._error


class NoTurn(Exception):
    """The loop has ended: nobody touches the engine any more."""


class Turns:
    """Whose turn it is to touch the engine: the loop's, but while it waits for something.

    What others ask meanwhile is answered at once in their own thread; what they ask during a step,
    by the loop as soon as the step is over. So nothing waits for the end of a poll, and a loop that
    never waits answers between its steps.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._turn.acquire()
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._over = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The loop touches nothing within the block."""
        self._turn.release()
        try:
            self._answer()
            yield
        finally:
            self._turn.acquire()

    def end(self) -> None:
        """The loop has ended; what is asked from here on raises :class:`NoTurn`."""
        self._over = True
        self._turn.release()
        self._answer()

    def ask(self, question: Callable[[], T], timeout_s: float) -> T:
        """What ``question`` gives, or raises, between two steps (any other thread).

        Raises :class:`TimeoutError` where the step under way takes longer.
        """
        answer: Future[T] = Future()
        self._asked.append((question, answer))
        self._answer()
        try:
            return answer.result(timeout_s)
        finally:
            answer.cancel()

    @property
    def asked(self) -> int:
        """Questions that wait."""
        return len(self._asked)

    def _answer(self) -> None:
        """Answer all that was asked, unless another thread has the turn.

        That one looks again once it has given the turn back: no question is left alone.
        """
        while self._asked and self._turn.acquire(blocking=False):
            try:
                while self._asked:
                    question, answer = self._asked.popleft()
                    if answer.set_running_or_notify_cancel():
                        self._tell(question, answer)
            finally:
                self._turn.release()

    def _tell(self, question: Callable[[], Any], answer: Future[Any]) -> None:
        try:
            if self._over:
                raise NoTurn
            answer.set_result(question())
        except Exception as error:  # noqa: BLE001 - the asker's
            answer.set_exception(error)
