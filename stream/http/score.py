"""Requests that wait for a score, and the loop thread that brings it.

``api.py`` expects a verdict before it appends the event; the service's loop calls
:meth:`ScoreWaiters.publish` after each commit. Nothing here reads the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from stream.contract.letters import DeadLetter
from stream.http.problem import Problem


class Scored(NamedTuple):
    """The score's record, as committed."""

    payload: bytes


class DeadLettered(NamedTuple):
    """The event became a dead letter: a closed reason and a sentence."""

    reason: str
    error: str


class Stopped(NamedTuple):
    """The service stops before the score; the event stays in the log."""


Verdict = Scored | DeadLettered | Stopped


class _Waiter(NamedTuple):
    verdict: asyncio.Future[Verdict]
    loop: asyncio.AbstractEventLoop


class ScoreWaiters:
    """Who waits for which event's verdict.

    One thread registers and leaves (the HTTP server's), another publishes (the service's loop).
    The dictionaries need no lock: each access is a single ``get``, insert or ``pop``, and futures
    are completed by the HTTP thread alone.

    Parameters
    ----------
    capacity : int
        Most requests that may wait at once (``http.max_waiting``).

    Examples
    --------
    In the service's loop, after ``log.commit(outputs)``::

        if waiters.waiting:
            waiters.publish(ids, [r.value for r in outputs.scores], outputs.dead_letters)
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_id: dict[str, _Waiter] = {}
        self._by_value: dict[bytes, _Waiter] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait now (any thread)."""
        return len(self._by_id)

    @contextmanager
    def expect(self, event_id: str, value: bytes) -> Iterator[asyncio.Future[Verdict]]:
        """A future of the event's verdict; enter before the append, leave in any case.

        ``value`` is the event's bytes as they will stand in the log: a dead letter keeps them, so
        they tell whose it is even when its id cannot be read.

        Raises
        ------
        Problem
            ``being-scored`` when a request already waits for this id, ``overloaded`` above the
            capacity.
        """
        if event_id in self._by_id:
            raise Problem(
                "being-scored",
                "a request with the same event id waits for its score; that request gets it",
            )
        if len(self._by_id) >= self._capacity:
            raise Problem(
                "overloaded",
                f"http.max_waiting = {self._capacity} requests wait for scores; send again later",
            )
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), loop)
        self._by_value[value] = waiter
        self._by_id[event_id] = waiter
        try:
            yield waiter.verdict
        finally:
            self._by_id.pop(event_id, None)
            self._by_value.pop(value, None)

    def publish(
        self,
        ids: Sequence[str],
        payloads: Sequence[bytes],
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """Hand committed verdicts to the requests that wait for them (the loop's thread).

        Parameters
        ----------
        ids, payloads
            Event ids and the values of their score records, in the same order.
        dead_letters
            The step's dead letters.
        """
        if not self._by_id:
            return
        found: list[tuple[_Waiter, Verdict]] = []
        for event_id, payload in zip(ids, payloads, strict=True):
            if waiter := self._by_id.get(event_id):
                found.append((waiter, Scored(payload)))
        for letter in dead_letters:
            value = letter.record.value
            if value is not None and (waiter := self._by_value.get(value)):
                found.append((waiter, DeadLettered(letter.reason, letter.error)))
        _deliver(found)

    def close(self) -> None:
        """Tell all who wait that no score will come (any thread)."""
        _deliver([(waiter, Stopped()) for waiter in list(self._by_id.values())])


def _deliver(found: list[tuple[_Waiter, Verdict]]) -> None:
    # One wake-up of the event loop for the whole step.
    if found:
        # A closed loop means that the server has stopped: nobody waits any more.
        with suppress(RuntimeError):
            found[0][0].loop.call_soon_threadsafe(_complete, found)


def _complete(found: list[tuple[_Waiter, Verdict]]) -> None:
    for waiter, verdict in found:
        if not waiter.verdict.done():
            waiter.verdict.set_result(verdict)
