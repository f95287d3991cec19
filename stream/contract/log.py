"""The Log protocol: what the service needs from a durable, partitioned, ordered log.

``stream/logs/sqlite/log.py`` and ``stream/logs/kafka/log.py`` implement it and pass the same
contract tests (``tests/stream/logs/test_log_contract.py``); the service drives
the shard's side, the CLI and the HTTP API append.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from models.base import MillraceError
from stream.contract.outputs import Outputs
from stream.contract.records import (
    JournalRecord,
    NewRecord,
    Range,
    Record,
    Slice,
    checksum,
    encode_journal,
)

Positions = Mapping[tuple[str, int], int]
"""``(topic, partition) -> next_offset``."""


class Topic(msgspec.Struct, frozen=True):
    """A topic as it is now.

    ``id`` tells it from one that was made anew under its name; empty where the log has none.
    ``retention_ms``: how long its records stay; -1: for ever, or nobody may know.
    """

    id: str
    partitions: int
    retention_ms: int = -1


class LogError(MillraceError):
    """The log refused or failed an operation; the message names topic, partition and offset."""


class LogUnavailable(LogError):
    """The log cannot be reached now: keep all state, back off, call again."""

    retriable = True


class LogRefused(LogError):
    """The log refuses these credentials or rights: for good, until somebody mends them."""


class Fenced(LogError):
    """Another process took over this shard: end at once, write nothing."""


class OutOfRetention(LogError):
    """Records this shard still needs were deleted by the log's retention."""


class OtherRecords(LogError):
    """The log holds other records than those that a step took."""


class DiskFull(LogUnavailable):
    """The log's disk has no room; nothing was written."""


def same_records(wanted: Range, found: Sequence[Record]) -> Slice:
    """The slice, if these are the very records that a step took.

    Raises :class:`OtherRecords`, as far as the journal says which they were.
    """
    if wanted.checksum and (got := checksum(found)) != wanted.checksum:
        raise OtherRecords(
            f"{wanted.topic}/{wanted.partition} offsets {wanted.first}..{wanted.last}: expected the"
            f" records that the journal says were taken (checksum {wanted.checksum}), got others"
            f" ({got}); the topic was made anew, or its records were replaced. No member is at"
            " fault. Put the old records back, or begin a new shard with a name and a state_dir of"
            " its own"
        )
    return Slice(wanted, found)


def check_succession(entry: JournalRecord, tail: JournalRecord | None) -> bool:
    """Whether ``entry`` already stands at the journal's ``tail``; raises if it may not follow it.

    The journal is gapless: an entry takes the ``seq`` after the tail's, 1 in an empty journal.

    Raises
    ------
    LogError
        ``entry`` neither stands there nor follows.
    """
    if tail is not None and encode_journal(tail) == encode_journal(entry):
        return True
    last = tail.seq if tail else 0
    if entry.seq == last + 1:
        return False
    raise LogError(
        f"journal: expected seq {last + 1}, got {entry.seq} ({entry.kind}); the newest record has"
        f" {last}: state and log do not belong together, or two processes write this journal"
    )


class Log(Protocol):
    """A log as one shard sees it.

    Obligations
    -----------
    * ``open`` comes before ``seek``, ``poll``, ``commit`` and ``truncate``; the rest works without,
      which is how the CLI appends beside the running shard. ``open`` fences any older process of
      the same shard and creates missing topics if the configuration says so, else raises
      :class:`LogError` that names them.
    * ``poll`` returns records once, in offset order per partition, from the positions given to
      ``seek`` on; never a record of an open or aborted transaction.
    * ``commit`` makes scores, dead letters, audit records, the journal record and the consumed
      offsets visible together or not at all, exactly once, even when it had to ask the journal's
      tail what became of an earlier attempt. After :class:`LogUnavailable` the caller calls it
      again with the SAME outputs; a commit whose ``seq`` already stands in the journal returns.
    * ``commit`` may run in another thread than ``poll``, ``read`` and ``append``; each of these may
      run in one thread at a time, ``append`` in any number.
    * Every call returns or raises within its deadline (``log.timeout_s``).
    """

    def open(self) -> None:
        """Connect, fence older owners of this shard, check or create topics."""

    def topics(self) -> dict[str, Topic]:
        """Each topic of the configuration that is there now, as the log itself says at this moment.

        Raises :class:`LogError` where one cannot serve: its settings let go of what is needed, or
        the log under it is another one.
        """

    def create_topics(self) -> None:
        """Make missing topics, without taking the shard over.

        Raises :class:`LogError` that names them when the configuration forbids it.
        """

    def journal(self, after_seq: int = 0) -> Iterator[JournalRecord]:
        """Committed journal records with ``seq > after_seq``, in order."""

    def journal_tail(self) -> JournalRecord | None:
        """The newest committed journal record, or ``None`` for an empty journal."""

    def journal_head(self) -> JournalRecord | None:
        """The oldest journal record still retained, or ``None``."""

    def seek(self, positions: Positions) -> None:
        """Resume each input partition at ``next_offset``; others start at the oldest retained.

        Raises :class:`OutOfRetention` if a named position has been deleted.
        """

    def poll(self, max_records: int, timeout_s: float) -> list[Slice]:
        """Up to ``max_records`` input records: control first, then events, then labels.

        Partitions of events and labels share ``max_records`` in proportion to their backlogs
        (:func:`stream.contract.routing.shares`); each slice is a run of one partition.
        Returns at once when any record is there, else waits up to ``timeout_s``; ``[]`` when none.
        """

    def read(self, ranges: Sequence[Range]) -> list[Slice]:
        """The very records that the ranges name, for replay.

        Raises :class:`OutOfRetention` when they are gone, :class:`LogError` when their number
        differs from ``count``, :class:`OtherRecords` when others stand there.
        """

    def commit(self, outputs: Outputs) -> None:
        """Make a step visible, atomically. See the class's obligations."""

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Append durably, outside any step; returns ``(partition, offset)`` of each record."""

    def tail(self, topic: str, limit: int) -> list[Record]:
        """The newest ``limit`` committed records of a topic, oldest first, for people."""

    def back(self, topic: str, limit: int) -> Iterator[list[Record]]:
        """All committed records of a topic in pieces, the newest piece first.

        A piece has at most ``limit`` of each partition, oldest first; what comes meanwhile is in
        none. So a topic of any length is searched in the memory of one piece.
        """

    def lag(self) -> dict[tuple[str, int], int]:
        """Records not yet polled, by input partition."""

    def unread(self, positions: Positions) -> dict[tuple[str, int], int]:
        """Offsets from each position to the end, where a record is among them; of any topics.

        Leaves out partitions that are not there.
        """

    def earliest(self) -> dict[tuple[str, int], int]:
        """The oldest retained offset, by input partition."""

    def done(self, partitions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Where this shard stands by the log's own account: no record before it was left unread.

        It may have passed what is no record behind the newest one; the journal has not.
        """

    def others(self) -> list[str] | None:
        """Who else wrote to the topic of scores lately, by name.

        ``None`` where nobody can tell, or this user may not ask.
        """

    def truncate(self, positions: Positions, journal_seq: int) -> None:
        """Let go of input before ``positions`` and of journal records up to ``journal_seq``.

        Keeps everything younger than the configured retention; a log whose retention somebody else
        manages (Kafka) does nothing.
        """

    def wake(self) -> None:
        """The shard stops: end a waiting ``poll`` now (any thread).

        Nothing but a ``commit`` is waited for long from here on.
        """

    def close(self) -> None:
        """Release everything; the log is not used afterwards. Returns within the deadline."""
