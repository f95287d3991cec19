"""The embedded log: topics, partitions and offsets in one SQLite file.

The default when no Kafka is configured. Other processes append to and read the same
file beside it. Every commit and every append is one SQLite transaction, on disk
(``synchronous=FULL``) before the call returns. Never waits for a network and never calls the
engine.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from stream.contract.failpoint import failpoint
from stream.contract.log import (
    Fenced,
    LogError,
    OutOfRetention,
    Positions,
    Topic,
    check_succession,
    same_records,
)
from stream.contract.outputs import Outputs
from stream.contract.records import (
    JournalRecord,
    NewRecord,
    Range,
    Record,
    Slice,
    decode_journal,
    encode_journal,
    range_of,
)
from stream.contract.routing import shares
from stream.logs.sqlite.io import (
    Connection,
    Partition,
    add_topic,
    delete_head,
    insert,
    partitions_of,
    select,
)
from stream.settings import schema as settings

_LOOK_EVERY_S = 0.005
"""How often a waiting poll looks for what other processes wrote (7 us a look, 60 us to sleep)."""
_CHUNK = 1_000
"""Rows read or deleted at a time, so that neither holds the file for long."""


class SqliteLog:
    """See :class:`stream.contract.log.Log`.

    Parameters
    ----------
    config
        Names the shard, the topics and, in ``config.log``, the file.
    clock_ms
        Gives appended records their timestamp and retention its present, in UTC milliseconds.
    read_only
        Whether nothing may be written.
    """

    def __init__(
        self, config: settings.Config, clock_ms: Callable[[], int], read_only: bool = False
    ) -> None:
        if not isinstance(config.log, settings.EmbeddedLogSettings):
            raise LogError(f"log.type: expected 'embedded', got {config.log.type!r}")
        self._config = config
        self._clock_ms = clock_ms
        self._timeout_s = config.log.timeout / 1000
        self._retention_ms = config.log.retention
        names = config.topics
        self._journal = config.journal_topic
        self._topics = {
            names.control: 1,
            names.events: names.partitions,
            names.labels: names.partitions,
            names.scores: names.partitions,
            names.dead_letters: 1,
            names.audit: 1,
            self._journal: 1,
        }
        if names.witness is not None:
            self._topics[names.witness] = 1
        self._inputs = (names.control, names.events, names.labels)
        self._writer = Connection(config.log.path, config.log.timeout, read_only)
        self._reader = Connection(config.log.path, config.log.timeout, read_only)
        self._epoch: int | None = None
        self._positions: dict[tuple[str, int], int] | None = None
        self._news = threading.Condition()
        self._woken = False
        self._appends = 0

    # -- start ------------------------------------------------------------------------------------

    def open(self) -> None:
        """See :meth:`stream.contract.log.Log.open`."""
        with self._writer.transaction() as db:
            self._make_topics(db)
            row = db.execute(
                "INSERT INTO shards VALUES (?, 1) ON CONFLICT (name)"
                " DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                (self._config.name,),
            ).fetchone()
        self._epoch = row[0]

    def topics(self) -> dict[str, Topic]:
        """See :meth:`stream.contract.log.Log.topics`; all have the id of the file."""
        self._reader.check_place()
        with self._reader.snapshot() as db:
            (identity,) = db.execute("SELECT id FROM identity").fetchone()
            parts = partitions_of(db, list(self._topics))
        found = Counter(part.topic for part in parts)
        return {topic: Topic(identity, count) for topic, count in found.items()}

    def create_topics(self) -> None:
        """See :meth:`stream.contract.log.Log.create_topics`."""
        with self._writer.transaction() as db:
            self._make_topics(db)

    def _make_topics(self, db: sqlite3.Connection) -> None:
        there = {p.topic for p in partitions_of(db, list(self._topics))}
        missing = [t for t in self._topics if t not in there]
        if missing and not self._config.topics.create:
            raise LogError(
                f"embedded log: topics {', '.join(missing)} do not exist and topics.create is false"
            )
        for topic in missing:
            add_topic(db, topic, self._topics[topic])

    def _check_epoch(self, db: sqlite3.Connection) -> None:
        if self._epoch is None:
            raise LogError("embedded log: not open; call open() first")
        name = self._config.name
        (epoch,) = db.execute("SELECT epoch FROM shards WHERE name = ?", (name,)).fetchone()
        if epoch != self._epoch:
            raise Fenced(
                f"shard {name!r}: another process took over (epoch {epoch}, this one has"
                f" {self._epoch}); end this process"
            )

    # -- journal ----------------------------------------------------------------------------------

    def journal(self, after_seq: int = 0) -> Iterator[JournalRecord]:
        """See :meth:`stream.contract.log.Log.journal`."""
        offset: int | None = None
        while True:
            with self._reader.snapshot() as db:
                part = self._journal_partition(db)
                if part is None:
                    return
                offset = _first_after(db, part, after_seq) if offset is None else offset
                rows = select(db, part, offset, _CHUNK)
            yield from map(_parse, rows)
            if len(rows) < _CHUNK:
                return
            offset = rows[-1].offset + 1

    def journal_tail(self) -> JournalRecord | None:
        """See :meth:`stream.contract.log.Log.journal_tail`."""
        with self._reader.snapshot() as db:
            part = self._journal_partition(db)
            rows = select(db, part, part.next - 1, 1) if part else []
        return _parse(rows[0]) if rows else None

    def journal_head(self) -> JournalRecord | None:
        """See :meth:`stream.contract.log.Log.journal_head`."""
        with self._reader.snapshot() as db:
            part = self._journal_partition(db)
            rows = select(db, part, part.first, 1) if part else []
        return _parse(rows[0]) if rows else None

    def _journal_partition(self, db: sqlite3.Connection) -> Partition | None:
        parts = partitions_of(db, [self._journal])
        return parts[0] if parts and parts[0].next > parts[0].first else None

    # -- input ------------------------------------------------------------------------------------

    def seek(self, positions: Positions) -> None:
        """See :meth:`stream.contract.log.Log.seek`."""
        with self._reader.use() as db:
            parts = partitions_of(db, self._inputs)
        known = {(p.topic, p.partition) for p in parts}
        strange = sorted(set(positions) - known)
        if strange:
            raise LogError(f"embedded log: no such input partitions: {strange}")
        for part in parts:
            _check_retained(part, positions.get((part.topic, part.partition), part.first))
        self._positions = {(p.topic, p.partition): p.first for p in parts} | dict(positions)

    def poll(self, max_records: int, timeout_s: float) -> list[Slice]:
        """See :meth:`stream.contract.log.Log.poll`."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._news:
                appends = self._appends
            version, slices = self._take(max_records)
            if slices or not self._wait_for_news(version, appends, deadline):
                return slices

    def _take(self, max_records: int) -> tuple[int, list[Slice]]:
        """What is there now, and the file's version from before the look."""
        if self._positions is None:
            raise LogError("embedded log: no positions; call seek() before poll()")
        positions = self._positions
        slices = []
        with self._reader.snapshot() as db:
            (version,) = db.execute("PRAGMA data_version").fetchone()
            parts = partitions_of(db, self._inputs)
            waiting = [(p, p.next - positions[p.topic, p.partition]) for p in parts]
            for part, count in self._plan(waiting, max_records).items():
                position = positions[part.topic, part.partition]
                _check_retained(part, position)
                records = select(db, part, position, count)
                slices.append(Slice(range_of(records), records))
        for taken in slices:
            positions[taken.range.topic, taken.range.partition] = taken.range.next_offset
        return version, slices

    def _plan(
        self, waiting: Sequence[tuple[Partition, int]], max_records: int
    ) -> dict[Partition, int]:
        control = self._config.topics.control
        return shares(
            [item for item in waiting if item[0].topic == control],
            [item for item in waiting if item[0].topic != control],
            max_records,
        )

    def _wait_for_news(self, version: int, appends: int, deadline: float) -> bool:
        """Wait for a write by any process; ``False`` at the deadline or when woken."""
        while True:
            with self._news:
                left = deadline - time.monotonic()
                if left > 0 and not self._woken and self._appends == appends:
                    self._news.wait(min(left, _LOOK_EVERY_S))
                if self._woken:
                    self._woken = False
                    return False
                if self._appends != appends:
                    return True
            with self._reader.use() as db:
                if db.execute("PRAGMA data_version").fetchone()[0] != version:
                    return True
            if left <= 0:
                return False

    def read(self, ranges: Sequence[Range]) -> list[Slice]:
        """See :meth:`stream.contract.log.Log.read`."""
        with self._reader.snapshot() as db:
            # Before the configuration renamed an input, ranges were taken from another topic.
            topics = sorted({wanted.topic for wanted in ranges})
            parts = {(p.topic, p.partition): p for p in partitions_of(db, topics)}
            return [
                _read_range(db, parts.get((wanted.topic, wanted.partition)), wanted)
                for wanted in ranges
            ]

    # -- output -----------------------------------------------------------------------------------

    def commit(self, outputs: Outputs) -> None:
        """See :meth:`stream.contract.log.Log.commit`."""
        journal = outputs.journal
        with self._writer.transaction() as db:
            self._check_epoch(db)
            if self._stands(db, journal):
                return
            for topic, records in outputs.by_topic(self._config.topics):
                insert(db, topic, records, journal.clock_ms)
            failpoint("commit.middle")
            entry = NewRecord(key=None, value=encode_journal(journal), partition=0)
            insert(db, self._journal, [entry], journal.clock_ms)
            db.executemany(
                "INSERT OR REPLACE INTO committed VALUES (?, ?, ?, ?)",
                [(self._config.name, r.topic, r.partition, r.next_offset) for r in journal.ranges],
            )

    def _stands(self, db: sqlite3.Connection, journal: JournalRecord) -> bool:
        part = self._journal_partition(db)
        tail = select(db, part, part.next - 1, 1) if part else []
        return check_succession(journal, _parse(tail[0]) if tail else None)

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """See :meth:`stream.contract.log.Log.append`."""
        with self._writer.transaction() as db:
            if topic in self._topics and not partitions_of(db, [topic]):
                self._make_topics(db)
            placed = insert(db, topic, records, self._clock_ms())
        with self._news:
            self._appends += 1
            self._news.notify_all()
        return placed

    # -- for people and metrics -------------------------------------------------------------------

    def tail(self, topic: str, limit: int) -> list[Record]:
        """See :meth:`stream.contract.log.Log.tail`."""
        return next(self.back(topic, limit), [])[-limit:] if limit > 0 else []

    def back(self, topic: str, limit: int) -> Iterator[list[Record]]:
        """See :meth:`stream.contract.log.Log.back`."""
        with self._reader.use() as db:
            ends = {part: part.next for part in partitions_of(db, [topic])}
        while ends := {part: end for part, end in ends.items() if end > part.first}:
            with self._reader.snapshot() as db:
                piece = [
                    record
                    for part, end in ends.items()
                    for record in select(db, part, end - limit, limit)
                    if record.offset < end
                ]
            ends = {part: end - limit for part, end in ends.items()}
            piece.sort(key=lambda r: r.timestamp_ms)
            yield piece

    def lag(self) -> dict[tuple[str, int], int]:
        """See :meth:`stream.contract.log.Log.lag`."""
        with self._reader.snapshot() as db:
            parts = partitions_of(db, self._inputs)
            query = "SELECT topic, partition, next_offset FROM committed WHERE shard = ?"
            rows = db.execute(query, (self._config.name,)).fetchall()
        positions = self._positions
        if positions is None:
            positions = {(topic, partition): offset for topic, partition, offset in rows}
        keyed = {(p.topic, p.partition): p for p in parts}
        return {key: p.next - positions.get(key, p.first) for key, p in keyed.items()}

    def unread(self, positions: Positions) -> dict[tuple[str, int], int]:
        """See :meth:`stream.contract.log.Log.unread`."""
        with self._reader.use() as db:
            parts = partitions_of(db, sorted({topic for topic, _ in positions}))
        ends = {(part.topic, part.partition): part.next for part in parts}
        left = {key: ends.get(key, 0) - at for key, at in positions.items()}
        return {key: count for key, count in left.items() if count > 0}

    def earliest(self) -> dict[tuple[str, int], int]:
        """See :meth:`stream.contract.log.Log.earliest`."""
        with self._reader.use() as db:
            return {(p.topic, p.partition): p.first for p in partitions_of(db, self._inputs)}

    def done(self, partitions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """See :meth:`stream.contract.log.Log.done`."""
        with self._reader.use() as db:
            query = "SELECT topic, partition, next_offset FROM committed WHERE shard = ?"
            rows = db.execute(query, (self._config.name,)).fetchall()
        return {(t, p): at for t, p, at in rows if (t, p) in partitions}

    def others(self) -> list[str] | None:
        """Nobody can tell: a record in the file does not say who wrote it."""
        return None

    # -- end --------------------------------------------------------------------------------------

    def truncate(self, positions: Positions, journal_seq: int) -> None:
        """See :meth:`stream.contract.log.Log.truncate`.

        Scores and dead letters go by age alone; the audit trail, its heads and the newest journal
        record stay for ever. What the deadline leaves undone, the next call does.
        """
        deadline = time.monotonic() + self._timeout_s / 2
        oldest_ms = self._clock_ms() - self._retention_ms
        topics = self._config.topics
        # Also those that the configuration has renamed since.
        inputs = {*self._inputs, *(topic for topic, _ in positions)}

        def keep(record: Record) -> bool:
            if record.timestamp_ms >= oldest_ms:
                return True
            if record.topic == self._journal:
                return _parse(record).seq > journal_seq
            if record.topic in inputs:
                return record.offset >= positions.get((record.topic, record.partition), 0)
            return False

        for topic in (*sorted(inputs), topics.scores, topics.dead_letters, self._journal):
            more = True
            while more and time.monotonic() < deadline:
                more = self._truncate_once(topic, keep)

    def _truncate_once(self, topic: str, keep: Callable[[Record], bool]) -> bool:
        """Delete one chunk of each partition of a topic; whether there may be more."""
        more = False
        with self._writer.transaction() as db:
            self._check_epoch(db)
            for part in partitions_of(db, [topic]):
                spare = 1 if topic == self._journal else 0
                limit = min(_CHUNK, part.next - part.first - spare)
                more |= limit > 0 and delete_head(db, part, limit, keep) == _CHUNK
        return more

    def wake(self) -> None:
        """See :meth:`stream.contract.log.Log.wake`."""
        with self._news:
            self._woken = True
            self._news.notify_all()

    def close(self) -> None:
        """See :meth:`stream.contract.log.Log.close`."""
        self.wake()
        self._reader.close()
        self._writer.close()


def _read_range(db: sqlite3.Connection, part: Partition | None, wanted: Range) -> Slice:
    where = f"{wanted.topic}/{wanted.partition}"
    if part is None:
        raise LogError(f"{where}: no such input partition")
    _check_retained(part, wanted.first)
    records = select(db, part, wanted.first, wanted.last - wanted.first + 1)
    if len(records) != wanted.count or records[-1].offset != wanted.last:
        raise LogError(
            f"{where} offsets {wanted.first}..{wanted.last}: expected {wanted.count} records, got"
            f" {len(records)}; the log is not the one the journal was written beside"
        )
    return same_records(wanted, records)


def _check_retained(part: Partition, position: int) -> None:
    if position < part.first:
        raise OutOfRetention(
            f"{part.topic}/{part.partition}: offset {position} was deleted, the oldest retained is"
            f" {part.first}; lengthen log.retention"
        )
    if position > part.next:
        raise LogError(
            f"{part.topic}/{part.partition}: offset {position} is past the end ({part.next}); the"
            " log is not the one this state was made with"
        )


def _parse(record: Record) -> JournalRecord:
    return decode_journal(record.value or b"")


def _first_after(db: sqlite3.Connection, part: Partition, seq: int) -> int:
    """Offset of the first journal record with a ``seq`` above the given one (binary search)."""
    low, high = part.first, part.next
    while low < high:
        middle = (low + high) // 2
        if _parse(select(db, part, middle, 1)[0]).seq > seq:
            high = middle
        else:
            low = middle + 1
    return low
