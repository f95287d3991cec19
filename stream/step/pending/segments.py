"""Fixed-width rows in mapped files that checkpoints hard-link: rows are appended and never change.

``store.py`` and ``stream/step/lifecycle/history.py`` write and read them;
``stream/state/generations.py`` places them into generations.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.contract import private

Source = Path | NDArray[Any]
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
    source, used : Path or array of rows, int
        A checkpoint's file, or another segment's rows: the first ``used`` are taken over.
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
        file = source if isinstance(source, Path) else None
        self.path = path
        self._hashed, self._hash = 0, hashlib.sha256()
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
        self.rows = np.frombuffer(self._map, dtype=dtype, count=capacity)
        if isinstance(source, np.ndarray):
            self.rows[:used] = source[:used]

    def release(self) -> None:
        """Let the kernel take the mapped pages back; anonymous memory stays."""
        if self.path is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def sha256(self, used: int) -> str:
        """The SHA-256 of the first ``used`` rows; each is hashed once in the segment's life."""
        with self.lock:
            if used < self._hashed:
                return hashlib.sha256(self.rows[:used].view(np.uint8).data).hexdigest()
            self._hash.update(self.rows[self._hashed : used].view(np.uint8).data)
            self._hashed = used
            return self._hash.hexdigest()

    def source(self, used: int) -> Source:
        """The first ``used`` rows, for another segment: the file once nobody writes to it."""
        if self.path is not None and used == len(self.rows):
            return self.path
        return self.rows[:used]

    def drop(self) -> None:
        """Remove the working file; links in checkpoints keep the rows."""
        with self.lock:
            if self.path is not None:
                self.path.unlink(missing_ok=True)


class SegmentFile:
    """The first ``used`` rows of a segment, for a checkpoint writer in another thread.

    ``sha256``: theirs, where it is known.
    """

    def __init__(self, number: int, segment: Segment, used: int, sha256: str = "") -> None:
        self.number = number
        self.used = used
        self._segment = segment
        self._sha256 = sha256

    def place(self, target: Path) -> int:
        """Hard-link (or write) the segment to ``target``, durable; returns the bytes in use."""
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
