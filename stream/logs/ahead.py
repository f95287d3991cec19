"""Reads and decodes what comes next beside the step under way, in one thread.

The service reads its next batch so while there is a backlog, a replay its next step. Kernels let go
of the interpreter's lock: decoding costs the step little, and the step need not wait for the log.
Nothing here decides what a step takes: a batch read ahead is the one that would be read later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from stream.contract.log import Log
from stream.contract.records import Slice

T = TypeVar("T")
Decode = Callable[[Slice], Slice]


class Ahead:
    """The live input, at most one batch ahead of the loop that takes it.

    Only a backlog is read ahead: a batch of less than half of what was asked for says that the rest
    is still to come, and would better be read when the step is over.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._pool = ThreadPoolExecutor(1, "ahead")
        self._next: Future[list[Slice]] | None = None

    def poll(self, limit: int, timeout_s: float, decode: Decode) -> list[Slice]:
        """See :meth:`stream.contract.log.Log.poll`; ``decode`` prepares what is read ahead."""
        if self._next is None:
            slices = self._log.poll(limit, timeout_s)
        else:
            reading, self._next = self._next, None
            slices = reading.result()
        if 2 * sum(len(s.records) for s in slices) >= limit > 1:
            self._next = self._pool.submit(self._read, limit, decode)
        return slices

    def _read(self, limit: int, decode: Decode) -> list[Slice]:
        return [decode(piece) for piece in self._log.poll(limit, 0.0)]

    @property
    def backlog(self) -> bool:
        """Whether a batch is being read ahead, or has been."""
        return self._next is not None

    def forget(self) -> None:
        """Drop what was read ahead, before the log is read from elsewhere: seek it afterwards."""
        reading, self._next = self._next, None
        if reading is not None:
            reading.exception()

    def close(self) -> None:
        """End the thread, after the read under way."""
        self._pool.shutdown(cancel_futures=True)


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while its predecessor is in use."""
    end = object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
