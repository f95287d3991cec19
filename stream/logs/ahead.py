"""Reads and decodes what comes next beside the step under way, in one thread.

The service reads its next batch so while there is a backlog, a replay its next step. Kernels let go
of the interpreter's lock: decoding costs the step little, and the step need not wait for the log.
Nothing here decides what a step takes: a batch read ahead is the one that would be read later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from stream.contract.log import Log, LogError, LogUnavailable, same_records
from stream.contract.records import Range, Record, Slice

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


def read_together(log: Log, steps: Sequence[Sequence[Range]]) -> Iterator[list[Slice]]:
    """The records of each of these steps, which follow one another, in one read of each partition.

    As :meth:`stream.contract.log.Log.read` gives them, or raises: for each step where the whole
    cannot be had. On Kafka a read of its own for each range of small steps took 0.3 s.
    """
    whole: dict[tuple[str, int], Range] = {}
    for r in (r for ranges in steps for r in ranges):
        first, count = r.first, r.count
        if before := whole.get((r.topic, r.partition)):
            first, count = before.first, before.count + r.count
        whole[r.topic, r.partition] = Range(r.topic, r.partition, first, r.last, count)
    try:
        read = log.read(list(whole.values()))
    except LogUnavailable:
        raise
    except LogError:
        yield from map(log.read, steps)
        return
    left = {(s.range.topic, s.range.partition): iter(s.records) for s in read}
    for ranges in steps:
        taken = [list(islice(left[r.topic, r.partition], r.count)) for r in ranges]
        exact = all(map(_fits, ranges, taken))
        yield list(map(same_records, ranges, taken)) if exact else log.read(ranges)


def _fits(wanted: Range, found: Sequence[Record]) -> bool:
    """Whether the records end where the range does, and none is from before it."""
    return bool(found) and found[0].offset >= wanted.first and found[-1].offset == wanted.last
