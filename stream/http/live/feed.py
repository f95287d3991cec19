"""The live feed: a snapshot a second, shared by all readers, and the history after the first.

Server-sent events. The snapshot is taken at most once a second whatever the
number of readers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from stream.http.problem import Problem

INTERVAL_S = 1.0
READERS = 16
"""Streams open at once; then 503."""

Take = Callable[[], Awaitable[dict[str, Any]]]


class Feed:
    """Frames of ``text/event-stream`` (WHATWG HTML, section 9.2).

    Parameters
    ----------
    snapshot : coroutine function
        Gives what the live page shows, as plain data.
    history : coroutine function
        Gives what a reader gets once, after its first snapshot.
    """

    def __init__(self, snapshot: Take, history: Take) -> None:
        self._snapshot = snapshot
        self._history = history
        self._stopping = asyncio.Event()
        self._lock = asyncio.Lock()
        self._frame = b""
        self._taken_at = float("-inf")
        self._readers = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """One reader's place; raises :class:`Problem` ``overloaded`` above ``READERS``."""
        if self._readers >= READERS:
            raise Problem("overloaded", f"{READERS} live streams are open; close one")
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    async def frames(self) -> AsyncIterator[bytes]:
        """What one reader gets, until the service stops or may not tell any more."""
        with suppress(Problem):  # asked again, the reader is told why
            async for frame in self._frames():
                yield frame

    async def _frames(self) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        # The numbers of this moment first: the history is long and waits for no one.
        yield await self._current()
        yield _frame("history", await self._history())
        while True:
            try:
                await asyncio.wait_for(self._stopping.wait(), INTERVAL_S)
            except TimeoutError:
                yield await self._current()
                continue
            return

    def stop(self) -> None:
        """End every stream after its frame (the event loop's thread)."""
        self._stopping.set()

    async def _current(self) -> bytes:
        async with self._lock:
            # A little less than the interval, so that readers with the same beat get a new frame.
            if time.monotonic() - self._taken_at >= 0.9 * INTERVAL_S:
                self._frame = _frame("snapshot", await self._snapshot())
                self._taken_at = time.monotonic()
            return self._frame


def _frame(event: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(data))
