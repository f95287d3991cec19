"""Reads and decodes what comes next while the step under way waits for its learners.

The service decodes its next batch so while there is a backlog, a replay reads and decodes its next
step. That is work in Python: in a thread beside the step's it only took turns with it, and brought
next to nothing. Where an engine has no time to spare, a thread does it all the same; and one asks
a broker for a batch, for that is waiting.
Nothing here decides what a step takes: a batch read ahead is the one that would be read later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

from stream.contract.log import Log, LogError, LogUnavailable, same_records
from stream.contract.records import Range, Record, Slice

T = TypeVar("T")
Decode = Callable[[Slice], Slice]
Host = Callable[[Callable[[], None]], bool]
"""Gives a job to whoever may find time for it; whether there is anybody, as
:meth:`stream.step.engine.Engine.spare`."""


class _Later(Generic[T]):
    """What a call gives, made once, by whoever comes first: the host, a thread or :meth:`get`."""

    def __init__(self, make: Callable[[], T], pool: ThreadPoolExecutor, host: Host) -> None:
        self._make: Callable[[], T] | None = make
        self._made: list[T] = []
        self._error: Exception | None = None
        self._lock = threading.Lock()
        if not host(self.run):
            pool.submit(self.run)

    def run(self) -> None:
        """Make it, unless that is done, or it was dropped."""
        with self._lock:
            make, self._make = self._make, None
            if make is not None:
                try:
                    self._made.append(make())
                except Exception as error:  # noqa: BLE001 - raised where it is asked for
                    self._error = error

    def get(self) -> T:
        """What it gave, or raised."""
        self.run()
        if self._error is not None:
            raise self._error
        return self._made[0]

    def drop(self) -> None:
        """Let nobody make it any more; waits for one who does."""
        with self._lock:
            self._make = None


class Ahead:
    """The live input, at most one batch ahead of the loop that takes it.

    Only a backlog is read ahead: a batch of less than half of what was asked for says that the rest
    is still to come, and would better be read when the step is over.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._pool = ThreadPoolExecutor(1, "ahead")
        self._reading: Future[list[Slice]] | None = None
        self._next: _Later[list[Slice]] | None = None

    def poll(self, limit: int, timeout_s: float, decode: Decode, host: Host) -> list[Slice]:
        """See :meth:`stream.contract.log.Log.poll`; ``decode`` prepares what is read ahead."""
        if self._next is None:
            slices = self._log.poll(limit, timeout_s)
        else:
            coming, self._next = self._next, None
            slices = coming.get()
        if 2 * sum(len(s.records) for s in slices) >= limit > 1:
            self._next = self._begun(limit, decode, host)
        return slices

    def _begun(self, limit: int, decode: Decode, host: Host) -> _Later[list[Slice]]:
        """What comes next: a thread waits for the log, the host decodes what is there by then."""
        reading = self._reading = self._pool.submit(self._log.poll, limit, 0.0)

        def there(job: Callable[[], None]) -> bool:
            return host(lambda: job() if reading.done() else None)

        return _Later(lambda: [decode(piece) for piece in reading.result()], self._pool, there)

    @property
    def backlog(self) -> bool:
        """Whether a batch is to be read ahead, or has been."""
        return self._next is not None

    def forget(self) -> None:
        """Drop what was read ahead, before the log is read from elsewhere: seek it afterwards."""
        coming, self._next = self._next, None
        if coming is not None:
            coming.drop()
        if self._reading is not None and not self._reading.cancel():
            self._reading.exception()  # the thread moves on in the log no more

    def close(self) -> None:
        """Read nothing more; after the read under way."""
        self.forget()
        self._pool.shutdown(cancel_futures=True)


def one_ahead(items: Iterator[T], host: Host) -> Iterator[T]:
    """The same items, each made while its predecessor is in use: by then in any case."""
    end = object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = _Later(lambda: next(items, end), pool, host)
        try:
            while (item := coming.get()) is not end:
                coming = _Later(lambda: next(items, end), pool, host)
                yield item  # type: ignore[misc]
        finally:
            coming.drop()


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
