"""Group commit: requests that wait for the log at the same time share one append, thus one fsync.

The append itself runs in a worker thread. An append of one topic is under way at a time; what
arrives meanwhile goes together into the next. No timer: a lone request is appended at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio
import anyio.to_thread

from stream.contract.records import NewRecord

Append = Callable[[str, Sequence[NewRecord]], list[tuple[int, int]]]
Positions = list[tuple[int, int]]


class _Waiting(NamedTuple):
    records: Sequence[NewRecord]
    done: asyncio.Future[Positions]


class GroupAppender:
    """Appends for many coroutines of one event loop.

    Parameters
    ----------
    append : callable
        ``(topic, records) -> positions``: durable when it returns, blocking, callable from any
        thread, all or nothing; the group it is given belongs to several requests.
    """

    def __init__(self, append: Append) -> None:
        self._append = append
        self._queues: dict[str, list[_Waiting]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Threads of its own: slow reads of the log never hold up an append. One for each topic.
        self._threads = anyio.CapacityLimiter(3)

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Positions:
        """Append durably; ``(partition, offset)`` of each record, in order.

        A caller that is cancelled leaves its records in the group: they may still be appended.

        Raises
        ------
        LogError
            What the log raised for the group.
        """
        done: asyncio.Future[Positions] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(topic, []).append(_Waiting(records, done))
        if topic not in self._tasks:
            self._tasks[topic] = asyncio.create_task(self._drain(topic))
        return await done

    async def _drain(self, topic: str) -> None:
        try:
            while group := self._queues.pop(topic, None):
                await self._flush(topic, group)
        finally:
            del self._tasks[topic]

    async def _flush(self, topic: str, group: list[_Waiting]) -> None:
        records = [record for waiting in group for record in waiting.records]
        try:
            positions = await anyio.to_thread.run_sync(
                self._append, topic, records, limiter=self._threads
            )
        except Exception as error:  # noqa: BLE001 - handed to every request of the group
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        first = 0
        for waiting in group:
            last = first + len(waiting.records)
            if not waiting.done.done():
                waiting.done.set_result(positions[first:last])
            first = last
