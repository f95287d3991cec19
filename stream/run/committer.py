"""Commits steps, one after another, in a thread of its own: the next step computes meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from stream.contract.failpoint import failpoint
from stream.contract.log import Log, LogUnavailable
from stream.contract.outputs import Outputs
from stream.run.health import Health
from stream.run.threads import Threads

logger = structlog.get_logger()

_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 5.0


class Committer:
    """At most one commit under way; a log that is away is retried with the same outputs for ever.

    Parameters
    ----------
    log : Log
    health : Health
        Told of the commit under way.
    written : callable
        The outputs as their topics hold them; what is committed.
    on_committed : callable
        Called in the commit thread after each commit, with the outputs and the seconds that it
        took, retries included.

    Attributes
    ----------
    committed_seq : int
        The newest step that is visible.
    """

    def __init__(
        self,
        log: Log,
        health: Health,
        written: Callable[[Outputs], Outputs],
        on_committed: Callable[[Outputs, float], None],
    ) -> None:
        self._log = log
        self._health = health
        self._written = written
        self._on_committed = on_committed
        self._condition = threading.Condition()
        self._work: Outputs | None = None
        self._error: BaseException | None = None
        self._closing = False
        self.committed_seq = 0
        self._thread: threading.Thread | None = None

    def start(self, threads: Threads) -> None:
        """Begin to commit."""
        self._thread = threads.start("commit", self._run)

    def restored(self, seq: int) -> None:
        """Step ``seq`` and those before it stand in the journal already."""
        with self._condition:
            self.committed_seq = seq
            self._condition.notify_all()

    def submit(self, outputs: Outputs, beat: Callable[[], None]) -> None:
        """Hand over the next commit; waits for the one before, calling ``beat`` meanwhile.

        Raises what the commit before raised (:class:`~stream.contract.log.Fenced`, ...).
        """
        self.wait(beat)
        with self._condition:
            self._work = outputs
            self._condition.notify_all()

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return self._work is not None

    def wait(self, beat: Callable[[], None]) -> None:
        """Wait until nothing is under way; what ``beat`` raises ends the wait."""
        with self._condition:
            while self._work is not None and self._error is None:
                beat()
                self._condition.wait(0.5)
            if self._error is not None:
                raise self._error

    def wait_for(self, seq: int, timeout_s: float | None = None) -> bool:
        """Wait until step ``seq`` is visible (any thread).

        ``False`` when it never will be, or is not by then.
        """
        with self._condition:
            self._condition.wait_for(
                lambda: self.committed_seq >= seq or self._error is not None or self._closing,
                timeout_s,
            )
            return self.committed_seq >= seq

    def close(self) -> None:
        """End the thread after the commit under way, if that can be had within a second."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._work is not None or self._closing)
                outputs = self._work
            if outputs is None:
                return
            try:
                self._on_committed(outputs, self._commit(self._written(outputs)))
                error = None
            except Exception as failure:  # noqa: BLE001 - handed to the loop thread
                error = failure
            with self._condition:
                self._work, self._error = None, error
                if error is None:
                    self.committed_seq = outputs.journal.seq
                self._condition.notify_all()
            if error is not None:
                return

    def _commit(self, outputs: Outputs) -> float:
        """Commit, however long it takes; the seconds that it took."""
        backoff = _FIRST_BACKOFF_S
        started = time.monotonic()
        while True:
            try:
                failpoint("commit.before")
                with self._health.calling("commit"):
                    self._log.commit(outputs)
                failpoint("commit.after")
                return time.monotonic() - started
            except LogUnavailable as error:
                # The same outputs again: the model never rolls back for a broker.
                logger.warning("commit_retry", seq=outputs.journal.seq, error=str(error))
                with self._condition:
                    if self._condition.wait_for(lambda: self._closing, backoff):
                        raise
                backoff = min(backoff * 2, _LAST_BACKOFF_S)
