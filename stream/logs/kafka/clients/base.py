"""What the Kafka log asks of a client: few calls, so that all that is ours stands outside them.

``kafka_python.py`` and ``confluent.py`` implement it. Placing, positions, deadlines, the journal
and what to do about an unknown outcome are the log's (``stream/logs/kafka/reader.py``,
``stream/logs/kafka/writer.py``), for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from stream.contract.records import NewRecord, Record

Key = tuple[str, int]
"""Topic and partition."""
Placed = tuple[int, NewRecord]
"""A record and the partition it goes to."""


class Held(Protocol):
    """What one thread holds, see :class:`stream.logs.kafka.calls.Seat`."""

    def close(self) -> None:
        """Say good-bye to the broker; may block."""

    def leave(self) -> None:
        """Let go at once, without waiting and without sending more."""


class Consumer(Held, Protocol):
    """Reads committed records of the partitions assigned to it; moves by itself never."""

    def assign(self, positions: Mapping[Key, int]) -> None:
        """Read these partitions from these offsets on, and no others."""

    def poll(self, limit: int, timeout_s: float) -> dict[Key, list[Record]]:
        """At most ``limit`` records, as soon as there are any; else waits ``timeout_s``."""

    def position(self, key: Key) -> int:
        """The offset after all that was passed: records handed out, and markers behind them."""

    def end(self, key: Key) -> int:
        """The offset after the partition's last record, as of the last fetch; 0: not known."""

    def bounds(
        self, keys: Iterable[Key], timeout_s: float
    ) -> tuple[dict[Key, int], dict[Key, int]]:
        """The oldest retained and the next committed offset of each partition."""

    def committed(self, keys: Iterable[Key], timeout_s: float) -> dict[Key, int]:
        """The offsets that the group committed; leaves out partitions that have none."""

    def commit(self, offsets: Mapping[Key, int], timeout_s: float) -> None:
        """Commit the group's offsets, outside any transaction."""


class Producer(Held, Protocol):
    """Sends records; one with the shard's transactional id has fenced older ones when made."""

    def begin(self) -> None:
        """Begin a transaction."""

    def send(self, topic: str, records: Iterable[Placed], at_ms: int) -> None:
        """Hand records over; those without a timestamp get this one."""

    def add_offsets(self, offsets: Mapping[Key, int], group: str, timeout_s: float) -> None:
        """Make the group's offsets part of the transaction."""

    def settle(self, timeout_s: float) -> None:
        """Wait until the broker has all that :meth:`send` took; raises the first failure."""

    def commit(self, timeout_s: float) -> None:
        """Commit the transaction."""

    def append(
        self, topic: str, records: Sequence[Placed], at_ms: int, timeout_s: float
    ) -> list[tuple[int, int]]:
        """Send records and wait for them: partition and offset of each. Any number of threads."""


class Client(Protocol):
    """Makes consumers and producers of one cluster, with the same bounds and credentials."""

    timeout_s: float

    def consumer(self, group: str | None = None) -> Consumer:
        """A consumer; without a group it is not asked for offsets of one. May block."""

    def producer(self, transactional: bool) -> Producer:
        """An idempotent producer, with the shard's transactional id if asked for; may block."""

    def translated(self, what: str) -> AbstractContextManager[None]:
        """Raise the client library's errors as the log's."""
