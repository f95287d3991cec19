"""Scored events waiting for their label: fixed-width rows in segments, found by event id.

A row holds what a label needs to train on what was scored: features, member scores, entity keys.
Rows are appended in scoring order and never change, so a checkpoint can hard-link their files; what
does change (the truth, marks, the index from id to row) stays in memory: at most 15 bytes a row,
22 where truths are numbers. Members that come and go change the layout of rows to come: a full
segment keeps its own, and is read as the present one.
Time is event time, handed in as a watermark; no clock is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, U8, U32, U64, FeatureSchema, State, StateError
from models.carry import shared
from stream.step.pending.id_index import SLOT_BYTES, IdIndex, tags
from stream.step.pending.labels import Labels, by_segment, truths, waits
from stream.step.pending.segments import Kept, Segment, SegmentFile, Source, working_file

SEGMENT_ROWS = 65_536
UNTOLD_ROOM = 1_000_000
"""Rows kept where neither configuration nor journal says how many."""
INDEX_BYTES = math.ceil(SLOT_BYTES + 9)
"""Memory that a row takes at most, where they are many: in the index, for its truth and marks. A
truth that is yes, no or a class takes seven less."""
HOME = ("partition", "<i4")
"""Of a row that may become somebody else's: where its event came from."""
_LEARNED, _EARLY = 1, 2
"""Marks of a row with a label: it was learned; its label was known at the look."""

_TOGETHER = 64
"""Segments whose rows a start enters into the index together: 4 million."""
_RESIDENT_ROWS = 65_536  # gathered rows after which mapped pages are handed back to the kernel


def row_dtype(
    schema: FeatureSchema,
    members: int,
    keys: int,
    k: int = 1,
    promise: int = 0,
    spread: bool = False,
) -> np.dtype[Any]:
    """The layout of a row: links, ``k`` of each scorer, promise and ``keys`` beside features.

    ``spread``: with the partition that the event came from, where others are somebody else's.
    """
    return np.dtype(
        [
            ("id", "<u8"),
            ("event_time_ms", "<i8"),
            ("score", "<f8", (k,)),
            ("links", "<f8", (members, k)),
            ("promise", "<f8", (promise,)),
            ("keys", "<u8", (keys,)),
            ("dense", "<f4", (len(schema.dense),)),
            ("hashed", "<u4", (len(schema.hashed),)),
            ("alert", "?"),
            ("cold", "?"),
            *([HOME] if spread else []),
        ]
    )


def with_members(row: np.dtype[Any], members: int) -> np.dtype[Any]:
    """The layout ``row``, with links of so many members."""
    k = row["score"].shape[0]
    return np.dtype(
        [(n, row[n]) if n != "links" else (n, "<f8", (members, k)) for n in row.names or ()]
    )


Older = Sequence[tuple[int, list[str]]]
"""Members whose links the segments before such a number hold, and not before an earlier one's."""


def members_of(segment: int, older: Older, members: list[str]) -> list[str]:
    """Whose links a segment's rows hold, in a store of these members."""
    return next((names for before, names in older if segment < before), members)


class Pending:
    """The store of one engine.

    Parameters
    ----------
    dtype : numpy.dtype
        From :func:`row_dtype`.
    members : sequence of str
        Whose links a row holds, in order.
    directory : Path or None
        Where segments live; ``None`` keeps them in memory (a run over a file needs no restart).
    room : int, optional
        Most rows kept; :meth:`overflow` says how many must go before ``n`` more come. Without it
        :data:`UNTOLD_ROOM`, until a step tells another.

    Attributes
    ----------
    head, tail : int
        Numbers of the oldest row held and of the next one to come.
    waiting : int
        Rows held without a label.
    told : int
        Rows held with the truth 0.
    newest : int
        Number of the newest row that ever got a label, or -1.
    room : int
    open : bool
        Whether nobody has said yet how many rows are kept.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        members: Sequence[str],
        directory: Path | None,
        room: int | None = None,
    ) -> None:
        self.dtype = dtype
        self._members = list(members)
        self._directory = directory
        self._fixed = room is not None
        self.room = UNTOLD_ROOM if room is None else room
        self.open = room is None
        self._segments: dict[int, Segment] = {}
        self._older: list[tuple[int, list[str]]] = []  # see Older
        self._labels = Labels(SEGMENT_ROWS)
        self.head = 0
        self.tail = 0
        self.waiting = 0
        self.told = 0
        self.newest = -1
        self._index = IdIndex()
        self._head_times: tuple[int, I64] = (-1, np.empty(0, dtype=np.int64))
        self._gathered = 0

    def __len__(self) -> int:
        return self.tail - self.head

    @property
    def index_bytes(self) -> int:
        """Memory of the index and the truths."""
        return self._index.nbytes + self._labels.nbytes

    def overflow(self, n: int) -> int:
        """How many of the oldest rows must leave so that ``n`` more fit."""
        return max(0, min(len(self), len(self) + n - self.room))

    def tell(self, room: int) -> None:
        """Keep so many rows from here on, unless the configuration says how many."""
        if not self._fixed:
            self.room, self.open = room, False

    def find(self, ids: U64) -> I64:
        """Row of each id, or -1. ``ids`` uint64 ``(n,)``; returns int64 ``(n,)``."""
        rows = np.empty(len(ids), dtype=np.int64)
        slots = np.full(len(ids), -1, dtype=np.int64)
        todo = np.arange(len(ids))
        while len(todo):
            found, at = self._index.find(ids[todo], slots[todo], self.head)
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
                self._segments[segment] = Segment(self.dtype, SEGMENT_ROWS, self._path(segment))
                self._labels.begin(segment)
            self._segments[segment].rows[at : at + take] = rows[done : done + take]
            done += take
        self._index.insert(tags(np.ascontiguousarray(rows["id"])), self.tail)
        self.tail += n
        self.waiting += n
        self._touched(n)
        return numbers

    def take(self, rows: I64) -> NDArray[Any]:
        """The rows with these numbers, in this order, as one array of this store's dtype."""
        return self._gather(rows, None)

    def times(self, rows: I64) -> I64:
        """Event times of the rows with these numbers."""
        return self._gather(rows, "event_time_ms")

    def column(self, name: str) -> NDArray[Any]:
        """One field of all rows that are held, oldest first."""
        return self._gather(np.arange(self.head, self.tail), name)

    def truth(self, rows: I64) -> F64:
        """The truth of each row, ``nan`` where there is none yet."""
        return self._labels.truth(rows)

    def _marked(self, mark: int, rows: I64) -> BOOL:
        found: BOOL = self._labels.marks(rows) & mark != 0
        return found

    def settle(self, rows: I64, y: F64) -> None:
        """Record the label of waiting rows; they stay addressable until their horizon."""
        self._labels.settle(rows, y)
        self.waiting -= len(rows)
        self.told += int((y == 0).sum())
        self.newest = max(self.newest, int(rows.max(initial=-1)))

    def correct(self, rows: I64, y: F64) -> None:
        """Another truth of rows that have one; of ``nan`` the row waits again, and is unlearned."""
        before, again = self.truth(rows), rows[np.isnan(y)]
        self._labels.settle(rows, y)
        self._labels.set_marks(again, np.zeros(len(again), np.uint8))
        self.told += int((y == 0).sum()) - int((before == 0).sum())
        self.waiting += len(again)

    def was_learned(self, rows: I64) -> BOOL:
        """Which of these rows were learned with their label."""
        return self._marked(_LEARNED, rows)

    def learned(self, rows: I64) -> None:
        """Note that these rows, which have a label, were learned."""
        self._labels.mark(rows, _LEARNED)

    def unlearned(self) -> I64:
        """Numbers of the rows that have a label and were not learned, oldest first."""
        return self._labels.unmarked(_LEARNED, self.head, self.tail)

    def looked(self, rows: I64) -> None:
        """Note that these rows had a label when they were looked at."""
        self._labels.mark(rows, _EARLY)

    def early(self, rows: I64) -> BOOL:
        """Which of these rows had a label when they were looked at."""
        return self._marked(_EARLY, rows)

    def oldest_times(self, n: int) -> I64:
        """Event times of the ``n`` rows that leave next."""
        return self.times(np.arange(self.head, self.head + n, dtype=np.int64))

    def due(self, before_ms: int, first: int | None = None) -> int:
        """How many rows from ``first``, else the oldest, on have a time before ``before_ms``.

        Rows leave in scoring order, so a row that is late in it waits for those before it.
        """
        first, count = self.head if first is None else first, 0
        while first + count < self.tail:
            segment, at = divmod(first + count, SEGMENT_ROWS)
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

    def expire(self, n: int) -> tuple[NDArray[Any], F64, BOOL, BOOL]:
        """Let the ``n`` oldest rows go.

        Returns them, their truths, which were learned and which had a label at their look.
        """
        numbers = np.arange(self.head, self.head + n, dtype=np.int64)
        rows, truth = self.take(numbers), self.truth(numbers)
        learned, early = (self._marked(mark, numbers) for mark in (_LEARNED, _EARLY))
        self._index.remove(np.ascontiguousarray(rows["id"]), numbers)
        self.waiting -= int(np.isnan(truth).sum())
        self.told -= int((truth == 0).sum())
        self.head += n
        for segment in [s for s in self._segments if (s + 1) * SEGMENT_ROWS <= self.head]:
            self._segments.pop(segment).drop()
            self._labels.drop(segment)
        self._older = self._live(self._older)
        return rows, truth, learned, early

    def state(self) -> State:
        """Numbers, labels and members; rows go along as :meth:`files`, or :meth:`rows`."""
        truth, marks = self._labels.held(self.head, self.tail)
        older = [[before, list(names)] for before, names in self._older]
        return {
            "members": list(self._members),
            **({"older": older} if older else {}),
            "head": self.head,
            "tail": self.tail,
            "newest": self.newest,
            "room": 0 if self._fixed or self.open else self.room,
            "truth": truth,
            "marks": marks,
        }

    def digest_state(self) -> State:
        """:meth:`state` with the rows themselves as they are read, without the bound, for a
        digest."""
        rows = self.take(np.arange(self.head, self.tail)).view(np.uint8)
        state = {k: v for k, v in self.state().items() if k not in ("room", "older")}
        truth, marks = np.empty(0), np.empty(0, np.uint8)
        if state["truth"]:
            truth = np.concatenate([truths(part) for part in state["truth"]])
            marks = np.concatenate(state["marks"])
        return state | {"truth": truth, "marks": marks, "rows": rows}

    def label_digests(self) -> list[str]:
        """Of the labels in :meth:`state`, as a checkpoint's record has them."""
        return self._labels.digests(self.head, self.tail)

    def files(self) -> list[SegmentFile]:
        """Every live segment as it stands now; the rows they name never change."""
        return [
            SegmentFile(
                *(number, segment, min(SEGMENT_ROWS, self.tail - number * SEGMENT_ROWS)), ids=True
            )
            for number, segment in sorted(self._segments.items())
        ]

    def rows(self) -> dict[int, NDArray[Any]]:
        """Every live segment's rows, for another store to restore from; views."""
        return {
            number: segment.rows[: self.tail - number * SEGMENT_ROWS]
            for number, segment in self._segments.items()
        }

    def restore(self, state: State, segments: Mapping[int, Source] | Pending) -> None:
        """Become the store that gave ``state``; ``segments`` are a checkpoint's files, or rows.

        Or that store itself, which neither takes nor lets go rows from then on: what it holds goes
        on here, in a time that does not depend on how much that is. Links go by the members' names;
        a member that was not there made none: ``nan``.
        """
        self.head, self.tail = int(state["head"]), int(state["tail"])
        self._older = [(int(before), list(names)) for before, names in state.get("older", ())]
        if (members := list(state["members"])) != self._members:
            self._older.append((self.tail // SEGMENT_ROWS, members))
        self._older = self._live(self._older)
        if isinstance(segments, Pending):
            self._go_on(segments, members)
        else:
            self._take_all(state, segments, members)
        self.newest = int(state["newest"])
        if room := state.get("room", 0):
            self.tell(room)

    def _go_on(self, other: Pending, members: Sequence[str]) -> None:
        """Take over what another store holds; what it has open only if its rows are as ours."""
        self._labels, self._index = other._labels, other._index
        self.waiting, self.told = other.waiting, other.told
        for number, segment in other._segments.items():
            used = self.tail - number * SEGMENT_ROWS
            if used < SEGMENT_ROWS and members != self._members:
                rows = self.carried(segment.rows[:used], members)
                path = self._path(number)
                self._segments[number] = Segment(self.dtype, SEGMENT_ROWS, path, rows, used)
            else:
                self._segments[number] = segment.shared()

    def _take_all(
        self, state: State, segments: Mapping[int, Source], members: Sequence[str]
    ) -> None:
        whole, found = state["truth"], list[U32]()
        self.waiting = self.told = 0
        for number in range(self.head // SEGMENT_ROWS, -(-self.tail // SEGMENT_ROWS)):
            if number not in segments:
                raise StateError(f"pending segment {number}: expected a file, got none")
            first = number * SEGMENT_ROWS
            low, high = max(first, self.head), min(first + SEGMENT_ROWS, self.tail)
            at, given = slice(low - first, high - first), slice(low - self.head, high - self.head)
            if isinstance(whole, np.ndarray):  # of format 7, or of a backfill
                truth, marks = whole[given], state["marks"][given]
            else:
                nth = number - self.head // SEGMENT_ROWS
                truth, marks = state["truth"][nth], state["marks"][nth]
            found.append(self._take_over(number, segments[number], high - first, members)[at])
            self._labels.restore(number, at, truth, marks)
            self.waiting += int(waits(truth).sum())
            self.told += int((truth == 0).sum())
            if len(found) == _TOGETHER or high == self.tail:
                together = np.concatenate(found)
                self._index.insert(together, high - len(together), len(self))
                found.clear()
        self.label_digests()  # before events come: the next checkpoint hashes what has changed

    def _take_over(self, number: int, source: Source, used: int, members: Sequence[str]) -> U32:
        """Take a segment's first ``used`` rows over; gives what the index knows of their ids."""
        names = self._of(number)
        dtype = with_members(self.dtype, len(names))
        if isinstance(source, Path | Kept) and used == SEGMENT_ROWS:
            file = source.path if isinstance(source, Kept) else source
            if (size := file.stat().st_size) != used * dtype.itemsize:
                raise StateError(
                    f"{file}: expected {used * dtype.itemsize} bytes, rows with links of"
                    f" {len(names)} members, got {size}"
                )
        if used < SEGMENT_ROWS and members != self._members:
            source = source.proven() if isinstance(source, Kept) else source
            if isinstance(source, Path):
                source = np.fromfile(source, with_members(self.dtype, len(members)), used)
            source = self.carried(source[:used], members)
        segment = Segment(dtype, SEGMENT_ROWS, self._path(number), source, used)
        self._segments[number] = segment
        self._labels.begin(number)
        if isinstance(source, Kept):
            known = source.tags()
            if len(known) != SEGMENT_ROWS:
                raise StateError(f"{source.ids}: expected {SEGMENT_ROWS} ids, got {len(known)}")
            return known
        known = tags(np.ascontiguousarray(segment.rows["id"][:used]))
        segment.release()
        return known

    def _of(self, segment: int) -> list[str]:
        return members_of(segment, self._older, self._members)

    def _live(self, older: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
        """Without those that no segment held is of."""
        first = self.head // SEGMENT_ROWS
        return [(before, names) for before, names in older if before > first]

    def carried(self, source: NDArray[Any], members: Sequence[str]) -> NDArray[Any]:
        """Rows with links of these members, as rows of this store."""
        rows = np.empty(len(source), self.dtype)
        for name in self.dtype.names or ():
            if name != "links":
                rows[name] = source[name]
        here, there = shared(self._members, members)
        rows["links"] = np.nan
        rows["links"][:, here] = source["links"][:, there]
        return rows

    def among(self, partitions: Sequence[int]) -> tuple[I64, I64]:
        """Numbers and event times of the rows held that came from these partitions, in order."""
        found: list[tuple[I64, I64]] = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for first in range(self.head, self.tail, SEGMENT_ROWS):
            rows = np.arange(first, min(first + SEGMENT_ROWS, self.tail), dtype=np.int64)
            rows = rows[np.isin(self._gather(rows, "partition"), partitions)]
            found.append((rows, self.times(rows)))
        numbers, times = (np.concatenate(kind) for kind in zip(*found, strict=True))
        return numbers, times

    def moving(self, rows: I64) -> tuple[NDArray[Any], F64, U8]:
        """These rows with their truths and marks, for :meth:`move_in` of another store."""
        return self.take(rows), self.truth(rows), self._labels.marks(rows)

    def move_in(self, rows: NDArray[Any], truth: F64, marks: U8) -> None:
        """Append rows of another store of the same layout, labelled or not, ids not held yet."""
        numbers = self.hold(rows)
        known = np.flatnonzero(~np.isnan(truth))
        self.settle(numbers[known], truth[known])
        self._labels.set_marks(numbers, marks)

    def close(self) -> None:
        """Drop the segments' working files."""
        for segment in self._segments.values():
            segment.drop()
        self._segments.clear()

    def _path(self, segment: int) -> Path | None:
        return working_file(self._directory, f"{segment:08d}")

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
        for segment, where in by_segment(rows, SEGMENT_ROWS):
            source = self._segments[segment].rows
            source = source if field is None else source[field]
            found = source[rows[where] % SEGMENT_ROWS]
            own = field is not None or (names := self._of(segment)) is self._members
            out[where] = found if own else self.carried(found, names)
        self._touched(len(rows))
        return out

    def _touched(self, rows: int) -> None:
        """Hand mapped pages back now and then: they count as this process's memory."""
        self._gathered += rows
        if self._gathered >= _RESIDENT_ROWS:
            self._gathered = 0
            for segment in self._segments.values():
                segment.release()
