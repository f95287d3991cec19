"""Bad records that would stop a stream, isolated one by one.

:class:`Isolation` finds the record that a step fails of by :func:`halve`, and the one that the
process dies of by :class:`Attempts`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from stream.contract import private
from stream.contract.log import Positions
from stream.contract.records import Slice, range_of

logger = structlog.get_logger()

CAREFUL_AFTER = 3
"""Starts at the same step after which records are taken one by one."""
ALONE_TWICE = 2
"""A record that was taken alone so often when the process died is not taken again."""

Position = tuple[str, int, int]
"""Topic, partition, offset."""


class _Noted(msgspec.Struct):
    seq: int = -1
    starts: int = 0
    alone: Position | None = None
    times: int = 0


class Attempts:
    """Counts on disk how often the process started at the same step, to find what kills it.

    A record that makes compiled code crash, or memory run out, leaves no exception behind. After
    ``CAREFUL_AFTER`` starts without progress records are taken one by one, each noted before its
    step; the one that was noted ``ALONE_TWICE`` times when the process died becomes a dead letter.

    Attributes
    ----------
    careful : bool
        Take records one by one.
    poison : set of Position
        Records that must be left out.
    """

    def __init__(self, directory: Path, seq: int) -> None:
        self._path = directory / "attempts.json"
        self._seq = seq
        self._noted = self._read()
        same = self._noted.seq == seq
        self._noted.seq = seq
        self._noted.starts = self._noted.starts + 1 if same else 1
        if not same:
            self._noted.alone, self._noted.times = None, 0
        self.poison: set[Position] = set()
        if self._noted.alone is not None and self._noted.times >= ALONE_TWICE:
            self.poison.add(self._noted.alone)
        self.careful = self._noted.starts > CAREFUL_AFTER
        self._write()

    def taking(self, slices: Sequence[Slice], seq: int) -> None:
        """A step is about to begin after ``seq``, which is committed; its record is noted first."""
        if slices:
            self._noted.seq = seq
            record = slices[0].records[0]
            position = (record.topic, record.partition, record.offset)
            self._noted.times = self._noted.times + 1 if self._noted.alone == position else 1
            self._noted.alone = position
            self._write()

    def committed(self, seq: int, limit: int) -> None:
        """Step ``seq`` is visible: progress. Care ends ``limit`` steps after it began."""
        if not self.careful:
            if self._noted.starts:
                self._noted = _Noted()
                self._path.unlink(missing_ok=True)
            return
        if seq - self._seq >= limit:
            self.careful = False

    def stopped(self) -> None:
        """The process ends in order: this start does not count."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> _Noted:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Noted)
        except (OSError, msgspec.MsgspecError):
            return _Noted()  # none yet, or cut off by the crash it should have counted

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        try:
            with private.opened(temporary) as file:
                file.write(msgspec.json.encode(self._noted))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            # A full disk must not keep a healthy service from scoring; it only forgets attempts.
            logger.warning("attempts_not_noted", path=str(self._path), error=str(error))


class Isolation:
    """Which records to leave out, and which batches to take before the log is asked for more."""

    def __init__(self) -> None:
        self._waiting: deque[list[Slice]] = deque()
        self._poison: set[Position] = set()
        self._attempts: Attempts | None = None

    def started(self, directory: Path, seq: int) -> None:
        """The process has restored step ``seq``; its earlier starts are noted in ``directory``."""
        self._attempts = Attempts(directory, seq)
        self._poison |= self._attempts.poison
        if self._attempts.careful:
            logger.warning("careful", seq=seq, reason="no progress in three starts")

    @property
    def careful(self) -> bool:
        """Whether records must be taken one by one, each commit waited for."""
        return self._attempts is not None and self._attempts.careful

    def next(self) -> list[Slice] | None:
        """What must be taken again, if anything."""
        return self._waiting.popleft() if self._waiting else None

    def taking(self, slices: Sequence[Slice], seq: int) -> frozenset[Position]:
        """A step after ``seq`` is about to begin; which of its records to leave out."""
        if self._attempts is not None and self._attempts.careful:
            self._attempts.taking(slices, seq)
        if not self._poison:
            return frozenset()
        here = {(r.topic, r.partition, r.offset) for s in slices for r in s.records}
        return frozenset(self._poison & here)

    def failed(self, slices: list[Slice]) -> None:
        """A step of these records failed: halve it until one record is left; that one goes."""
        if sum(len(s.records) for s in slices) == 1:
            record = slices[0].records[0]
            self._poison.add((record.topic, record.partition, record.offset))
            self._waiting.appendleft(slices)
        else:
            self._waiting.extendleft(reversed(halve(slices)))

    def behind(self, positions: Positions) -> dict[tuple[str, int], int]:
        """Where to read on behind what must be taken again."""
        found = dict(positions)
        for piece in [s for waiting in self._waiting for s in waiting]:
            found[(piece.range.topic, piece.range.partition)] = piece.range.next_offset
        return found

    def committed(self, seq: int, limit: int) -> None:
        """See :meth:`Attempts.committed`."""
        if self._attempts is not None:
            self._attempts.committed(seq, limit)

    def stopped(self) -> None:
        """See :meth:`Attempts.stopped`."""
        if self._attempts is not None:
            self._attempts.stopped()


def halve(slices: Sequence[Slice]) -> tuple[list[Slice], list[Slice]]:
    """The first and the second half of the records, in order."""
    half = sum(len(s.records) for s in slices) // 2
    first: list[Slice] = []
    second: list[Slice] = []
    for piece in slices:
        cut = min(half, len(piece.records))
        half -= cut
        for part, target in ((piece.records[:cut], first), (piece.records[cut:], second)):
            if part:
                target.append(Slice(range_of(part), part))
    return first, second
