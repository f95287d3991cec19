"""Changes the embedded log's file behind its back, as a fault or somebody with an editor would."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

Rows = dict[int, list[Any]]
"""By offset key, value, timestamp in ms, and headers."""


@contextmanager
def changed(file: Path, topic: str, partition: int = 0) -> Iterator[Rows]:
    """A partition's records; those that are left when the block ends take their place."""
    with closing(sqlite3.connect(file)) as db, db:
        (number,) = db.execute(
            "SELECT id FROM partitions WHERE topic = ? AND partition = ?", (topic, partition)
        ).fetchone()
        rows: Rows = {
            offset: record
            for first, packed in db.execute(f"SELECT first, records FROM records_{number}")
            for offset, record in enumerate(msgspec.msgpack.decode(packed), first)
        }
        yield rows
        db.execute(f"DELETE FROM records_{number}")
        db.executemany(
            f"INSERT INTO records_{number} VALUES (?, 1, ?)",
            [(offset, msgspec.msgpack.encode([record])) for offset, record in rows.items()],
        )


def revalued(file: Path, topic: str, change: Callable[[bytes], bytes], partition: int = 0) -> None:
    """Every value of a partition as ``change`` gives it."""
    with changed(file, topic, partition) as rows:
        for row in rows.values():
            row[1] = change(row[1])


def left(file: Path, topic: str, kept: range) -> None:
    """Of a topic's first partition only the records at these offsets; it is told of no change."""
    with changed(file, topic) as rows:
        for offset in [offset for offset in rows if offset not in kept]:
            del rows[offset]


def cut(file: Path, topic: str, first: int) -> None:
    """A topic's first partition without the records before an offset, as retention leaves it."""
    left(file, topic, range(first, 1 << 62))
    with closing(sqlite3.connect(file)) as db, db:
        db.execute(
            "UPDATE partitions SET first_offset = ? WHERE topic = ? AND partition = 0",
            (first, topic),
        )
