"""The SQLite file under the embedded log: connections, tables, transactions, errors.

Knows bytes, tables and locks; knows nothing of steps or journals.

Layout
------
One table for each partition, ``records_<id>``, whose rowid IS the offset of the first of the
records that a row holds: SQLite then appends to the right edge of one B-tree and reads a range by
walking it. What is appended at once stands in rows of up to ``TOGETHER`` records: a row costs as
much whatever it holds, and each gives the interpreter's lock away, which other threads keep for a
while. ``partitions`` holds the oldest retained and the next offset, so that one query of one small
table shows every new record, and so that offsets go on after everything was deleted.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from stream.contract import private
from stream.contract.log import DiskFull, LogError, LogUnavailable
from stream.contract.records import Headers, NewRecord, Record
from stream.contract.routing import places

SCHEMA_VERSION = 2
TOGETHER = 256
"""Records in a row at most: one that is read alone costs the reading of its whole row."""
ROW_BYTES = 1 << 20
"""Beyond it a row holds fewer; the largest record still stands whole in its own."""
_LOCK_LOOK_S = 0.0005
"""How often a writer looks whether the file's write lock is free."""
_SCHEMA = """
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0, next_offset INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, partition));
CREATE TABLE shards (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL);
CREATE TABLE committed (
    shard TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, PRIMARY KEY (shard, topic, partition)) WITHOUT ROWID;
"""

Kept = tuple[bytes | None, bytes | None, int, Headers]
"""Of a record what its row holds: key, value, timestamp in UTC ms, headers."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Kept]).decode


class Partition(NamedTuple):
    """One row of ``partitions``: offsets ``first <= offset < next`` are retained."""

    id: int
    topic: str
    partition: int
    first: int
    next: int


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as the log's."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        where = f"embedded log {path}: {error}"
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull(f"{where}; nothing was written; free some space") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LogUnavailable(f"{where}; another process holds it, try again") from error
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            raise LogUnavailable(f"{where}; check the disk and the permissions") from error
        raise LogError(f"{where}; check the file with `PRAGMA integrity_check`") from error


class Connection:
    """One SQLite connection that threads take in turn, with a deadline.

    One writes and one reads (WAL lets them run side by side). Threads that wait here wait on a
    lock; left to SQLite's busy handler they would sleep up to 100 ms between attempts.
    ``read_only``: SQLite itself refuses to write, and a file that is not there is not made.
    """

    def __init__(self, path: Path, timeout_ms: int, read_only: bool = False) -> None:
        self._path = path
        self._timeout_ms = timeout_ms
        self._connect = _look if read_only else _connect
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._place: tuple[int, int] | None = None

    def check_place(self) -> None:
        """Raise :class:`LogError` if the file is no longer where it was opened."""
        with self.use():
            if (there := self._looked_up()) != self._place:
                what = "was deleted" if there is None else "is another file now"
                raise LogError(
                    f"embedded log {self._path}: {what} than the one this process has open; what"
                    " others append there is not read. Put the old file back, then start again"
                )

    def _looked_up(self) -> tuple[int, int] | None:
        """What the path leads to: device and inode."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, opened on first use, for this thread alone."""
        start = time.monotonic()
        with self._turn(), translated(self._path):
            if self._closed:
                raise LogError(f"embedded log {self._path}: is closed")
            if self._db is None:
                self._db = self._connect(self._path, self._timeout_ms)
                self._place = self._looked_up()
            left = self._timeout_ms - int((time.monotonic() - start) * 1000)
            self._db.execute(f"PRAGMA busy_timeout = {max(1, left)}")
            yield self._db

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=self._timeout_ms / 1000):
            raise LogUnavailable(
                f"embedded log {self._path}: another thread held it for {self._timeout_ms} ms"
            )
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: commits at the end, rolls back on any exception."""
        deadline = time.monotonic() + self._timeout_ms / 1000
        with self.use() as db:
            _patiently(db, "BEGIN IMMEDIATE", deadline)
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite has already rolled back when the disk is full
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Several reads of one state of the file."""
        with self.use() as db:
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("COMMIT")

    def close(self) -> None:
        """Close it; whoever uses it afterwards gets :class:`LogError`."""
        with self._turn():
            self._closed = True
            if self._db is not None:
                self._db.close()
                self._db = None


def _connect(path: Path, timeout_ms: int) -> sqlite3.Connection:
    try:
        private.folder(path.parent)
        private.made(path)
        for beside in ("-wal", "-shm"):  # which SQLite makes with the rights of the file itself
            private.mend(Path(f"{path}{beside}"))
    except OSError as error:
        raise LogError(f"embedded log {path}: {error.strerror}; check log.path") from error
    db = _opened(path, timeout_ms)
    try:
        _patiently(db, "PRAGMA journal_mode = WAL", time.monotonic() + timeout_ms / 1000)
        db.execute(f"PRAGMA busy_timeout = {timeout_ms}")
        db.execute("PRAGMA synchronous = FULL")
        _make_tables(db, path)
        _identify(db)
    except BaseException:
        db.close()
        raise
    return db


def _look(path: Path, timeout_ms: int) -> sqlite3.Connection:
    """A connection that only reads a file which another process has made."""
    db = _opened(f"{path.absolute().as_uri()}?mode=ro", timeout_ms)
    try:
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            raise LogUnavailable(f"embedded log {path}: holds no tables yet")
        _check_version(path, found)
    except BaseException:
        db.close()
        raise
    return db


def _opened(place: Path | str, timeout_ms: int) -> sqlite3.Connection:
    return sqlite3.connect(
        place,
        timeout_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
        uri=isinstance(place, str),
    )


def _patiently(db: sqlite3.Connection, statement: str, deadline: float) -> None:
    """Run what needs the whole file, looking often: other processes want it too.

    SQLite's busy handler does not serve here. It sleeps up to 100 ms between attempts and loses
    against a process that appends without pause: commits then took 170 ms each. And two processes
    that make the file's journal a WAL at once would wait for each other: to them it is not called,
    one is refused on the spot.
    """
    db.execute("PRAGMA busy_timeout = 0")
    while True:
        try:
            db.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_LOCK_LOOK_S)


def _make_tables(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file; refuse a file of another version."""
    if db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")
    if version != 0:
        _check_version(path, version)


def _check_version(path: Path, version: int) -> None:
    if version != SCHEMA_VERSION:
        raise LogError(
            f"embedded log {path}: expected version {SCHEMA_VERSION} of its tables, got {version};"
            " it was written by another release; start that one, or name a new file in log.path"
        )


def _identify(db: sqlite3.Connection) -> None:
    """Give a file an id of its own, by which it is told from another in its place."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'identity'").fetchone():
        return
    db.execute("BEGIN IMMEDIATE")
    db.execute("CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL)")
    db.execute(
        "INSERT INTO identity SELECT ? WHERE NOT EXISTS (SELECT 1 FROM identity)",
        (secrets.token_hex(8),),
    )
    db.execute("COMMIT")


def add_topic(db: sqlite3.Connection, topic: str, partitions: int) -> None:
    """Make a topic that is not there yet, inside the caller's transaction."""
    for partition in range(partitions):
        row = db.execute(
            "INSERT INTO partitions (topic, partition) VALUES (?, ?) RETURNING id",
            (topic, partition),
        ).fetchone()
        db.execute(
            f"CREATE TABLE records_{row[0]} (first INTEGER PRIMARY KEY, count INTEGER NOT NULL,"
            " records BLOB NOT NULL)"
        )


def partitions_of(db: sqlite3.Connection, topics: Sequence[str]) -> list[Partition]:
    """Every partition of the topics, by topic in the order given, then by number."""
    marks = ",".join("?" * len(topics))
    rows = db.execute(
        "SELECT id, topic, partition, first_offset, next_offset FROM partitions"
        f" WHERE topic IN ({marks})",
        tuple(topics),
    )
    found = [Partition(*row) for row in rows]
    return sorted(found, key=lambda p: (topics.index(p.topic), p.partition))


def insert(
    db: sqlite3.Connection, topic: str, records: Sequence[NewRecord], timestamp_ms: int
) -> list[tuple[int, int]]:
    """Append inside the caller's transaction; ``(partition, offset)`` of each record.

    ``timestamp_ms`` is that of records which have none of their own.
    """
    parts = partitions_of(db, [topic])
    if not parts:
        raise LogError(f"topic {topic!r}: does not exist in the log; names are set in [topics]")
    rows: list[list[Kept]] = [[] for _ in parts]
    placed: list[tuple[int, int]] = []
    for record, number in zip(records, places(topic, records, len(parts)), strict=True):
        kept = rows[number]
        placed.append((number, parts[number].next + len(kept)))
        at_ms = timestamp_ms if record.timestamp_ms is None else record.timestamp_ms
        kept.append((record.key, record.value, at_ms, record.headers))
    for part, new in zip(parts, rows, strict=True):
        if new:
            db.executemany(
                f"INSERT INTO records_{part.id} VALUES (?, ?, ?)", _packed(part.next, new)
            )
            db.execute(
                "UPDATE partitions SET next_offset = ? WHERE id = ?",
                (part.next + len(new), part.id),
            )
    return placed


def _packed(offset: int, records: Sequence[Kept]) -> Iterator[tuple[int, int, bytes]]:
    """Rows of records from ``offset`` on."""
    for i in range(0, len(records), TOGETHER):
        yield from _row(offset + i, records[i : i + TOGETHER])


def _row(offset: int, records: Sequence[Kept]) -> Iterator[tuple[int, int, bytes]]:
    """One row, or more where it would be too long."""
    packed, count = _encode(records), len(records)
    if len(packed) <= ROW_BYTES or count == 1:
        yield offset, count, packed
        return
    half = count // 2
    yield from _row(offset, records[:half])
    yield from _row(offset + half, records[half:])


def select(db: sqlite3.Connection, part: Partition, first: int, limit: int) -> list[Record]:
    """Up to ``limit`` records of a partition from offset ``first`` on."""
    table, first, end = f"records_{part.id}", max(first, part.first), first + limit
    rows = db.execute(
        f"SELECT first, records FROM {table} WHERE first < ?"
        f" AND first >= coalesce((SELECT max(first) FROM {table} WHERE first <= ?), 0)"
        " ORDER BY first",
        (end, first),
    ).fetchall()
    topic, partition = part.topic, part.partition
    try:
        return [
            Record(topic, partition, offset, *kept)
            for at, packed in rows
            for offset, kept in enumerate(_decode(packed), at)
            if first <= offset < end
        ]
    except msgspec.MsgspecError as error:
        raise LogError(
            f"{topic}/{partition}, offsets {first}..{end - 1}: a row cannot be read: {error}; the"
            " file was changed by something else: put a backup in its place"
        ) from error


def delete_head(
    db: sqlite3.Connection, part: Partition, limit: int, keep: Callable[[Record], bool]
) -> int:
    """Delete at most ``limit`` of the oldest records, up to the first that ``keep`` wants.

    Returns how many went. Only ever the head: offsets stay without holes.
    """
    head = select(db, part, part.first, limit)
    count = next((i for i, record in enumerate(head) if keep(record)), len(head))
    first = part.first + count
    table = f"records_{part.id}"
    # A row whose records have not all gone stays; those before part.first are no longer shown.
    db.execute(f"DELETE FROM {table} WHERE first < ? AND first + count <= ?", (first, first))
    db.execute("UPDATE partitions SET first_offset = ? WHERE id = ?", (first, part.id))
    return count
