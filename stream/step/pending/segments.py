"""Fixed-width rows in mapped files that checkpoints hard-link: rows are appended and never change.

``store.py`` and ``stream/step/lifecycle/history.py`` write and read them;
``stream/state/generations.py`` places them into generations.

A start does not read the full ones: their rows are compared with their SHA-256 when the first of
them is asked for, or the next checkpoint is written; the index is made of files of their own.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import U32, StateError
from stream.contract import private
from stream.step.pending.id_index import tags


class Damaged(StateError):
    """Rows of a checkpoint at ``path`` are not those that were written."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path}: {what}: it changed on the disk. An older checkpoint and the journal after it"
            " take its place, by the next start at the latest"
        )
        self.path = path


class Kept(NamedTuple):
    """A full segment in a checkpoint whose rows nobody has read yet.

    ``ids``: the file of what the index knows of their ids; ``ids_sha256``: of that one, verified.
    """

    path: Path
    sha256: str
    ids: Path
    ids_sha256: str

    def tags(self) -> U32:
        """What the index knows of each row's id."""
        return np.fromfile(self.ids, "<u4")

    def proven(self) -> Path:
        """The file, read and compared; raises :class:`Damaged`."""
        with self.path.open("rb") as file:
            self.compare(hashlib.file_digest(file, "sha256").hexdigest())
        return self.path

    def compare(self, sha256: str) -> None:
        """Raise :class:`Damaged` where the rows have another digest."""
        if sha256 != self.sha256:
            raise Damaged(self.path, f"expected SHA-256 {self.sha256}, got {sha256}")


Source = Path | Kept | NDArray[Any]
"""Rows to take over: a file of them, or they themselves."""


def working_file(directory: Path | None, stem: str) -> Path | None:
    """A new name in ``directory``, if there is one.

    Of its own: an engine that takes over from another one shares the directory.
    """
    return None if directory is None else directory / f"{stem}-{secrets.token_hex(4)}.seg"


class Segment:
    """``capacity`` rows in a mapped file, or in memory when there is no file or no room.

    Parameters
    ----------
    dtype : numpy.dtype
        Of one row.
    capacity : int
    path : Path or None
        The working file, new; ``None``: in memory.
    source, used : Path, Kept or array of rows, int
        A checkpoint's file, or another segment's rows: the first ``used`` are taken over.

    Attributes
    ----------
    rows : array ``(capacity,)``
        Raises :class:`Damaged` where a checkpoint's are not those that were written.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        capacity: int,
        path: Path | None,
        source: Source | None = None,
        used: int = 0,
    ) -> None:
        size = dtype.itemsize * capacity
        self._unread = source if isinstance(source, Kept) else None
        self._sha256 = self._ids_sha256 = ""
        source = source.path if isinstance(source, Kept) else source
        file = source if isinstance(source, Path) else None
        self.path = path
        self._hashed, self._hash = 0, hashlib.sha256()
        self._holders = 1
        self.lock = threading.Lock()
        if path is not None:
            try:
                self._map = _open(path, file, used * dtype.itemsize, size)
            except OSError:
                # No room on the disk: scoring goes on in memory and checkpoints report the failure.
                self.path = None
        if self.path is None:
            self._map = mmap.mmap(-1, size)
            if file is not None:
                with file.open("rb") as opened:
                    self._map.write(opened.read(used * dtype.itemsize))
        self._rows = np.frombuffer(self._map, dtype=dtype, count=capacity)
        if isinstance(source, np.ndarray):
            self._rows[:used] = source[:used]
        if self._unread is not None:
            self._sha256 = self._unread.sha256
            if self.path is not None and _link(self._unread.ids, self._ids_path(self.path)):
                self._ids_sha256 = self._unread.ids_sha256

    @property
    def rows(self) -> NDArray[Any]:
        """The rows, proven."""
        if self._unread is not None:
            self.prove()
        return self._rows

    def prove(self) -> None:
        """Read the rows of a checkpoint once, and compare them with their digest and their ids."""
        with self.lock:
            if self._unread is not None:
                self._unread.compare(hashlib.sha256(self._rows.view(np.uint8).data).hexdigest())
                if (self._unread.tags() != self._tags()).any():
                    raise Damaged(self._unread.ids, "its ids are others than those of the rows")
                self._unread = None
                self.release()

    def _tags(self) -> U32:
        return tags(np.ascontiguousarray(self._rows["id"]))

    def place_ids(self, target: Path) -> tuple[int, str]:
        """Put what the index knows of a full segment's ids into a file, durable.

        Returns its bytes and their SHA-256.
        """
        with self.lock:
            own = None if self.path is None else self._ids_path(self.path)
            length = 4 * len(self._rows)
            if self._ids_sha256 and own is not None and _link(own, target):
                return length, self._ids_sha256
            raw = self._tags().astype("<u4").tobytes()
            self._ids_sha256 = hashlib.sha256(raw).hexdigest()
            with private.opened(target) as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            if own is not None:
                _link(target, own)
            return length, self._ids_sha256

    @staticmethod
    def _ids_path(path: Path) -> Path:
        return path.with_suffix(".ids")

    def release(self) -> None:
        """Let the kernel take the mapped pages back; anonymous memory stays."""
        if self.path is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def sha256(self, used: int) -> str:
        """The SHA-256 of the first ``used`` rows; each is hashed once in the segment's life."""
        with self.lock:
            if self._sha256 and used == len(self._rows):
                return self._sha256
            if used < self._hashed:
                return hashlib.sha256(self._rows[:used].view(np.uint8).data).hexdigest()
            self._hash.update(self._rows[self._hashed : used].view(np.uint8).data)
            self._hashed = used
            return self._hash.hexdigest()

    def source(self, used: int) -> Source:
        """The first ``used`` rows, for another segment: the file once nobody writes to it."""
        if self.path is not None and used == len(self._rows):
            return self.path
        return self.rows[:used]

    def shared(self) -> Segment:
        """The segment for one more holder, who drops it too; one of them writes.

        In the thread that drops: it does not wait for a checkpoint that is being written.
        """
        self._holders += 1
        return self

    def drop(self) -> None:
        """Remove the working file with its last holder; links in checkpoints keep the rows."""
        self._holders -= 1
        if self.path is None or self._holders:
            return
        with self.lock:
            self.path.unlink(missing_ok=True)
            self._ids_path(self.path).unlink(missing_ok=True)


class SegmentFile:
    """The first ``used`` rows of a segment, for a checkpoint writer in another thread.

    ``sha256``: theirs, where it is known; ``ids``: whether they are found by their ids.
    """

    def __init__(
        self, number: int, segment: Segment, used: int, sha256: str = "", ids: bool = False
    ) -> None:
        self.number = number
        self.used = used
        self._ids = ids
        self._segment = segment
        self._sha256 = sha256

    def place(self, target: Path) -> int:
        """Hard-link (or write) the segment to ``target``, durable; returns the bytes in use.

        Raises :class:`Damaged`: no rows pass from checkpoint to checkpoint unread.
        """
        self._segment.prove()
        length: int = self.used * self._segment.rows.dtype.itemsize
        with self._segment.lock:
            path = self._segment.path
            if path is not None and _link(path, target):
                with target.open("rb") as file:
                    os.fsync(file.fileno())  # also writes what the mapping has changed
                return length
        with private.opened(target) as file:
            file.write(self._segment.rows[: self.used].tobytes())
            file.flush()
            os.fsync(file.fileno())
        return length

    def place_ids(self, target: Path) -> tuple[int, str] | None:
        """What a start reads of a full segment in place of its rows, as a file: bytes, SHA-256.

        ``None``: the segment is not full, or its rows are not found by ids.
        """
        full = self._ids and self.used == len(self._segment.rows)
        return self._segment.place_ids(target) if full else None

    def sha256(self) -> str:
        """The SHA-256 of the rows."""
        return self._sha256 or self._segment.sha256(self.used)


def _link(path: Path, target: Path) -> bool:
    """Hard-link; ``False`` where that cannot be (the file is gone, or on another file system)."""
    try:
        os.link(path, target)
    except OSError:
        return False
    return True


def _open(path: Path, source: Path | None, used_bytes: int, size: int) -> mmap.mmap:
    """Map a working file: new, or a copy of a checkpoint's rows. Raises ``OSError`` without room.

    A full segment is linked, not copied, within a file system: nobody writes to it again.
    """
    full = used_bytes == size and source is not None and source.stat().st_size == size
    linked = full and source is not None and _link(source, path)
    fd = os.open(path, os.O_RDWR if linked else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if not linked:
            # Now: a write into a hole of a mapped file on a full disk is a SIGBUS.
            os.posix_fallocate(fd, 0, size)
        if source is not None and not linked:
            with source.open("rb") as file:
                os.pwrite(fd, file.read(used_bytes), 0)
        return mmap.mmap(fd, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
