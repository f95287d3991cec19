"""The threads of one service: what one of them fails of ends the service, with that as its reason.

Nothing here waits for a thread, or decides what a failure means.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

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
