"""Scored events waiting for their label: fixed-width rows in segments, found by event id.

A row holds what a label needs to train on what was scored: features, member scores, entity keys.
Rows are appended in scoring order and never change, so a checkpoint can hard-link their files; what
does change (a byte of status, the index from id to row) stays in memory: at most 24 bytes a row.
The engine is the only caller. Time is event time, handed in as a watermark; no clock is read.
"""

from __future__ import annotations

import mmap
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from models.base import I64, U64, FeatureSchema, State, StateError

SEGMENT_ROWS = 65_536
WAITING, NEGATIVE, POSITIVE, GONE = 0, 1, 2, 3
"""Status of a row: no label yet, labelled 0, labelled 1, past its horizon."""

_EMPTY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ROW = np.uint64(0xFFFF_FFFF)
_RESIDENT_ROWS = 65_536  # gathered rows after which mapped pages are handed back to the kernel


def row_dtype(schema: FeatureSchema, members: int, keys: int) -> np.dtype[Any]:
    """The layout of a row: ``members`` logits and ``keys`` entity keys beside the features."""
    return np.dtype(
        [
            ("id", "<u8"),
            ("event_time_ms", "<i8"),
            ("score", "<f8"),
            ("links", "<f8", (members,)),
            ("keys", "<u8", (keys,)),
            ("dense", "<f4", (len(schema.dense),)),
            ("hashed", "<u4", (len(schema.hashed),)),
            ("alert", "?"),
        ]
    )


class Pending:
    """The store of one engine.

    Parameters
    ----------
    dtype : numpy.dtype
        From :func:`row_dtype`.
    directory : Path or None
        Where segments live; ``None`` keeps them in memory (a run over a file needs no restart).
    limit : int
        Most rows kept; :meth:`overflow` says how many must go before ``n`` more come.
    """

    def __init__(self, dtype: np.dtype[Any], directory: Path | None, limit: int) -> None:
        self.dtype = dtype
        self._directory = directory
        self._limit = limit
        self._segments: dict[int, _Segment] = {}
        self._status: dict[int, NDArray[np.uint8]] = {}
        self.head = 0
        self.tail = 0
        self.waiting = 0
        self._table = np.full(1024, _EMPTY)
        self._head_times: tuple[int, I64] = (-1, np.empty(0, dtype=np.int64))
        self._gathered = 0
        # Names of their own: an engine that takes over from another one shares the directory.
        self._suffix = secrets.token_hex(4)

    def __len__(self) -> int:
        return self.tail - self.head

    @property
    def index_bytes(self) -> int:
        """Memory of the index and the status bytes."""
        return self._table.nbytes + sum(s.nbytes for s in self._status.values())

    def overflow(self, n: int) -> int:
        """How many of the oldest rows must leave so that ``n`` more fit."""
        return max(0, min(len(self), len(self) + n - self._limit))

    def find(self, ids: U64) -> I64:
        """Row of each id, or -1. ``ids`` uint64 ``(n,)``; returns int64 ``(n,)``."""
        rows = np.empty(len(ids), dtype=np.int64)
        slots = np.full(len(ids), -1, dtype=np.int64)
        todo = np.arange(len(ids))
        while len(todo):
            found, at = _find(self._table, ids[todo], slots[todo], self.head)
            rows[todo], slots[todo] = found, at
            hit = todo[found >= 0]
            # 32 bits of the id stand in the table; the row itself has all 64.
            todo = hit[self._gather(rows[hit], "id") != ids[hit]] if len(hit) else hit
        return rows

    def hold(self, rows: NDArray[Any]) -> I64:
        """Append rows (of this store's dtype) whose ids are not held yet; returns their numbers."""
        n = len(rows)
        numbers = np.arange(self.tail, self.tail + n, dtype=np.int64)
        done = 0
        while done < n:
            segment, at = divmod(self.tail + done, SEGMENT_ROWS)
            take = min(n - done, SEGMENT_ROWS - at)
            if segment not in self._segments:
                self._segments[segment] = _Segment(self.dtype, self._path(segment))
                self._status[segment] = np.zeros(SEGMENT_ROWS, dtype=np.uint8)
            self._segments[segment].rows[at : at + take] = rows[done : done + take]
            done += take
        self.tail += n
        self.waiting += n
        while len(self) * 4 > len(self._table) * 3:
            self._table = _grow(self._table)
        _insert(self._table, np.ascontiguousarray(rows["id"]), numbers)
        self._touched(n)
        return numbers

    def take(self, rows: I64) -> NDArray[Any]:
        """The rows with these numbers, in this order, as one array of this store's dtype."""
        return self._gather(rows, None)

    def status(self, rows: I64) -> NDArray[np.uint8]:
        """The status of each row."""
        out = np.empty(len(rows), dtype=np.uint8)
        for segment, where in _by_segment(rows):
            out[where] = self._status[segment][rows[where] % SEGMENT_ROWS]
        return out

    def settle(self, rows: I64, y: NDArray[np.float64]) -> None:
        """Record the label of waiting rows; they stay addressable until their horizon."""
        for segment, where in _by_segment(rows):
            self._status[segment][rows[where] % SEGMENT_ROWS] = 1 + y[where].astype(np.uint8)
        self.waiting -= len(rows)

    def due(self, before_ms: int) -> int:
        """How many of the oldest rows have an event time before ``before_ms``.

        Rows leave in scoring order, so a row that is late in it waits for those before it.
        """
        count = 0
        while self.head + count < self.tail:
            segment, at = divmod(self.head + count, SEGMENT_ROWS)
            times = self._times(segment)
            end = min(SEGMENT_ROWS, self.tail - segment * SEGMENT_ROWS)
            step = 1024
            while at < end:
                stop = min(at + step, end)
                later = times[at:stop] >= before_ms
                if later.any():
                    return count + int(later.argmax())
                count += stop - at
                at, step = stop, step * 2
        return count

    def expire(self, n: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Let the ``n`` oldest rows go; returns them and their status before that."""
        numbers = np.arange(self.head, self.head + n, dtype=np.int64)
        rows, status = self.take(numbers), self.status(numbers)
        _remove(self._table, np.ascontiguousarray(rows["id"]), numbers)
        self.waiting -= int((status == WAITING).sum())
        self.head += n
        for segment in [s for s in self._segments if (s + 1) * SEGMENT_ROWS <= self.head]:
            self._segments.pop(segment).drop()
            del self._status[segment]
        return rows, status

    def state(self) -> State:
        """Numbers and status; rows are taken along as files by :meth:`files`."""
        first = self.head // SEGMENT_ROWS * SEGMENT_ROWS
        status = np.concatenate(
            [self._status[s] for s in sorted(self._status)] or [np.empty(0, dtype=np.uint8)]
        )
        live = status[self.head - first : self.tail - first].copy()
        return {"head": self.head, "tail": self.tail, "status": live}

    def digest_state(self) -> State:
        """:meth:`state` with the rows themselves, for a digest."""
        return self.state() | {"rows": self.take(np.arange(self.head, self.tail)).view(np.uint8)}

    def files(self) -> list[SegmentFile]:
        """Every live segment as it stands now; the rows they name never change."""
        return [
            SegmentFile(number, segment, min(SEGMENT_ROWS, self.tail - number * SEGMENT_ROWS))
            for number, segment in sorted(self._segments.items())
        ]

    def restore(self, state: State, segments: dict[int, Path]) -> None:
        """Become the store that gave ``state``; ``segments`` are a checkpoint's files."""
        self.head, self.tail = int(state["head"]), int(state["tail"])
        status = state["status"]
        for number in range(self.head // SEGMENT_ROWS, -(-self.tail // SEGMENT_ROWS)):
            if number not in segments:
                raise StateError(f"pending segment {number}: expected a file, got none")
            used = min(SEGMENT_ROWS, self.tail - number * SEGMENT_ROWS)
            self._segments[number] = _Segment(
                self.dtype, self._path(number), segments[number], used
            )
            self._status[number] = np.full(SEGMENT_ROWS, WAITING, dtype=np.uint8)
        live = np.arange(self.head, self.tail, dtype=np.int64)
        for segment, where in _by_segment(live):
            self._status[segment][live[where] % SEGMENT_ROWS] = status[where]
        self.waiting = int((status == WAITING).sum())
        while len(self) * 4 > len(self._table) * 3:
            self._table = _grow(self._table)
        for start in range(0, len(live), SEGMENT_ROWS):
            part = live[start : start + SEGMENT_ROWS]
            _insert(self._table, self._gather(part, "id"), part)

    def close(self) -> None:
        """Drop the segments' working files."""
        for segment in self._segments.values():
            segment.drop()
        self._segments.clear()

    def _path(self, segment: int) -> Path | None:
        return (
            None
            if self._directory is None
            else self._directory / f"{segment:08d}-{self._suffix}.seg"
        )

    def _times(self, segment: int) -> I64:
        """Event times of a segment: copied once it is full, since rows leave in small steps."""
        if self._head_times[0] == segment:
            return self._head_times[1]
        times = self._segments[segment].rows["event_time_ms"]
        if (segment + 1) * SEGMENT_ROWS <= self.tail:
            self._head_times = (segment, np.ascontiguousarray(times))
            return self._head_times[1]
        return times

    def _gather(self, rows: I64, field: str | None) -> NDArray[Any]:
        dtype = self.dtype if field is None else self.dtype[field]
        out = np.empty(len(rows), dtype=dtype)
        for segment, where in _by_segment(rows):
            source = self._segments[segment].rows
            source = source if field is None else source[field]
            out[where] = source[rows[where] % SEGMENT_ROWS]
        self._touched(len(rows))
        return out

    def _touched(self, rows: int) -> None:
        """Hand mapped pages back now and then: they count as this process's memory."""
        self._gathered += rows
        if self._gathered >= _RESIDENT_ROWS:
            self._gathered = 0
            for segment in self._segments.values():
                segment.release()


class _Segment:
    """``SEGMENT_ROWS`` rows in a mapped file, or in memory when there is no file or no room."""

    def __init__(
        self, dtype: np.dtype[Any], path: Path | None, source: Path | None = None, used: int = 0
    ) -> None:
        size = dtype.itemsize * SEGMENT_ROWS
        self.path = path
        self.sha256: str | None = None
        self.lock = threading.Lock()
        if path is not None:
            try:
                self._map = _open_segment(path, source, used * dtype.itemsize, size)
            except OSError:
                # No room on the disk: scoring goes on in memory and checkpoints report the failure.
                self.path = None
        if self.path is None:
            self._map = mmap.mmap(-1, size)
            if source is not None:
                with source.open("rb") as file:
                    self._map.write(file.read(used * dtype.itemsize))
        self.rows = np.frombuffer(self._map, dtype=dtype, count=SEGMENT_ROWS)

    def release(self) -> None:
        """Let the kernel take the mapped pages back; anonymous memory stays."""
        if self.path is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def drop(self) -> None:
        """Remove the working file; links in checkpoints keep the rows."""
        with self.lock:
            if self.path is not None:
                self.path.unlink(missing_ok=True)


class SegmentFile:
    """The first ``used`` rows of a segment, for a checkpoint writer in another thread."""

    def __init__(self, number: int, segment: _Segment, used: int) -> None:
        self.number = number
        self.used = used
        self._segment = segment

    def place(self, target: Path) -> int:
        """Hard-link (or write) the segment to ``target``, durable; returns the bytes in use."""
        length: int = self.used * self._segment.rows.dtype.itemsize
        with self._segment.lock:
            path = self._segment.path
            if path is not None and _link(path, target):
                with target.open("rb") as file:
                    os.fsync(file.fileno())  # also writes what the mapping has changed
                return length
        with target.open("wb") as file:
            file.write(self._segment.rows[: self.used].tobytes())
            file.flush()
            os.fsync(file.fileno())
        return length

    @property
    def sealed_sha256(self) -> str | None:
        """The SHA-256 of a full segment's rows, once somebody has computed it."""
        return self._segment.sha256 if self.used == SEGMENT_ROWS else None

    @sealed_sha256.setter
    def sealed_sha256(self, sha256: str) -> None:
        if self.used == SEGMENT_ROWS:  # of fewer rows it would stand for the full segment later
            self._segment.sha256 = sha256


def _link(path: Path, target: Path) -> bool:
    """Hard-link; ``False`` where that cannot be (the file is gone, or on another file system)."""
    try:
        os.link(path, target)
    except OSError:
        return False
    return True


def _open_segment(path: Path, source: Path | None, used_bytes: int, size: int) -> mmap.mmap:
    """Map a working file: new, or a copy of a checkpoint's rows. Raises ``OSError`` without room.

    A full segment is linked, not copied: nobody writes to it again.
    """
    if source is not None and used_bytes == size and source.stat().st_size == size:
        os.link(source, path)
        fd = os.open(path, os.O_RDWR)
    else:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # Reserve the room now: a write into a hole of a mapped file on a full disk is a SIGBUS.
        os.posix_fallocate(fd, 0, size)
        if source is not None and used_bytes < size:
            with source.open("rb") as file:
                os.pwrite(fd, file.read(used_bytes), 0)
        return mmap.mmap(fd, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _by_segment(rows: I64) -> Iterator[tuple[int, Any]]:
    """Groups of row numbers by segment: ``(segment, positions in rows)``."""
    if len(rows) == 0:
        return
    segments = rows // SEGMENT_ROWS
    if segments[0] == segments[-1] and (segments == segments[0]).all():
        yield int(segments[0]), slice(None)
        return
    for segment in np.unique(segments):
        yield int(segment), np.flatnonzero(segments == segment)


# The index: open addressing with linear probing; a slot is 32 bits of the id above 32 bits of the
# row number. A slot's home follows from its own 32 bits of id: growing and deleting need no rows.


@numba.njit("i8(u8, i8)", cache=True, nogil=True)
def _home(tag, mask):  # type: ignore[no-untyped-def]
    return np.int64((tag * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask


@numba.njit("u8(u8)", cache=True, nogil=True)
def _tag(identifier):  # type: ignore[no-untyped-def]
    tag = identifier >> np.uint64(32)
    return tag if tag != np.uint64(0xFFFFFFFF) else np.uint64(0xFFFFFFFE)


@numba.njit("UniTuple(i8[:], 2)(u8[:], u8[:], i8[:], i8)", cache=True, nogil=True)
def _find(table, ids, slots, head):  # type: ignore[no-untyped-def]
    """Row and slot of the first match after ``slots`` (-1: from home); row -1 for none."""
    n = len(ids)
    mask = len(table) - 1
    rows = np.empty(n, dtype=np.int64)
    at = np.empty(n, dtype=np.int64)
    low = np.int64(0xFFFFFFFF)
    for i in range(n):
        tag = _tag(ids[i])
        slot = _home(tag, mask) if slots[i] < 0 else (slots[i] + 1) & mask
        rows[i] = -1
        while table[slot] != _EMPTY:
            if table[slot] >> np.uint64(32) == tag:
                # 32 bits of row number are enough: live rows span less than 2^32.
                rows[i] = head + ((np.int64(table[slot] & _ROW) - head) & low)
                break
            slot = (slot + 1) & mask
        at[i] = slot
    return rows, at


@numba.njit("void(u8[:], u8[:], i8[:])", cache=True, nogil=True)
def _insert(table, ids, rows):  # type: ignore[no-untyped-def]
    mask = len(table) - 1
    for i in range(len(ids)):
        tag = _tag(ids[i])
        slot = _home(tag, mask)
        while table[slot] != _EMPTY:
            slot = (slot + 1) & mask
        table[slot] = (tag << np.uint64(32)) | (np.uint64(rows[i]) & _ROW)


@numba.njit("void(u8[:], u8[:], i8[:])", cache=True, nogil=True)
def _remove(table, ids, rows):  # type: ignore[no-untyped-def]
    """Delete by backward shift, so that no tombstones pile up over months."""
    mask = len(table) - 1
    for i in range(len(ids)):
        tag = _tag(ids[i])
        wanted = (tag << np.uint64(32)) | (np.uint64(rows[i]) & _ROW)
        hole = _home(tag, mask)
        while table[hole] != wanted:
            hole = (hole + 1) & mask
        slot = hole
        while True:
            slot = (slot + 1) & mask
            if table[slot] == _EMPTY:
                break
            home = _home(table[slot] >> np.uint64(32), mask)
            if ((slot - home) & mask) >= ((slot - hole) & mask):
                table[hole] = table[slot]
                hole = slot
        table[hole] = _EMPTY


@numba.njit("u8[:](u8[:])", cache=True, nogil=True)
def _grow(table):  # type: ignore[no-untyped-def]
    bigger = np.full(len(table) * 2, _EMPTY)
    mask = len(bigger) - 1
    for i in range(len(table)):
        if table[i] != _EMPTY:
            slot = _home(table[i] >> np.uint64(32), mask)
            while bigger[slot] != _EMPTY:
                slot = (slot + 1) & mask
            bigger[slot] = table[i]
    return bigger
