"""What was learned, row by row: for members that come later, and for models trained elsewhere.

Each row is that of the pending store (features, links and promises as they were scored, event time,
keys) with the truth ``y`` and weight ``w`` that members learned and the step ``seq`` that learned
it. Rows stand in the order in which they were learned and never change; checkpoints hard-link their
files, as those of pending events. What is corrected of them stands beside them, with the step that
did it: readers get the rows as they should have been learned, by what was known up to any step.

Read it by :meth:`History.learned`, or, beside a generation in another process, by
:func:`learned_of`: both give what steps from one to another have learned, in batches.

Nothing is asked of a clock: what leaves goes by event time and by the bytes that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, U64, State, StateError
from stream.settings.schema import HistorySettings
from stream.step.pending.segments import Kept, Segment, SegmentFile, Source, working_file
from stream.step.pending.store import SEGMENT_ROWS, with_members

NEWEST = 1 << 62
"""A step after all others."""
PARTS = 8
"""The oldest part leaves at a time: it holds at most an eighth of the bytes, or of the time."""


class Learned(NamedTuple):
    """Rows in the order in which they were learned; views of what is kept.

    ``rows`` are of the pending store's layout, with links of ``members``.
    """

    members: Sequence[str]
    rows: NDArray[Any]  # (n,)
    y: F64  # (n,): truths of the task
    w: F64  # (n,): above 0
    seq: I64  # (n,): the steps


class Part(msgspec.Struct, frozen=True):
    """A file of rows, with links of the same ``members``.

    It began when the newest event scored was of ``since_ms``. ``used`` rows of steps ``first`` to
    ``last``; the newest event among them is of ``newest_ms``, ``sha256`` is that of their bytes.
    """

    number: int
    members: list[str]
    capacity: int
    since_ms: int
    used: int = 0
    first: int = 0
    last: int = 0
    newest_ms: int = 0
    sha256: str = ""


class Place(NamedTuple):
    """Where a row stands: the part's number, and its own in the part."""

    part: int
    at: int


class Correction(NamedTuple):
    """What step ``seq`` made of the row at a place: the truth ``y``, or ``nan``: it never was."""

    place: Place
    y: float
    seq: int


def layout(row: np.dtype[Any], members: int) -> np.dtype[Any]:
    """Of a learned row, by that of a pending one and the number of members."""
    return np.dtype(
        [("row", with_members(row, members)), ("y", "<f8"), ("w", "<f8"), ("seq", "<i8")]
    )


def parts_of(state: State) -> list[Part]:
    """The parts that a state tells of, oldest first."""
    return msgspec.convert(state["parts"], list[Part])


def corrections_of(state: State) -> list[Correction]:
    """What a state tells of corrections, in the order in which they were made."""
    if "corrections" not in state:
        return []
    rows, y = state["corrections"]["rows"], state["corrections"]["y"]
    return [
        Correction(Place(part, at), truth, seq)
        for (part, at, seq), truth in zip(rows.tolist(), y.tolist(), strict=True)
    ]


def learned_of(
    state: State,
    sources: Mapping[int, Source],
    row: np.dtype[Any],
    after: int = 0,
    until: int = NEWEST,
    corrected: int = NEWEST,
) -> Iterator[Learned]:
    """What the steps after one up to another have learned, oldest first.

    As the corrections up to step ``corrected`` have it: with their truths, each event once with
    weight 1, and without those that were retracted.

    Parameters
    ----------
    state : dict
        Of :meth:`History.state`; a generation's ``state["history"]``.
    sources : mapping
        Each part's rows or file, by its number; a generation's ``segments["history"]``.
    row : numpy.dtype
        Of a pending row, with any number of members.
    after, until, corrected : int
    """
    made: dict[int, list[Correction]] = {}
    for correction in corrections_of(state):
        if correction.seq <= corrected:
            made.setdefault(correction.place.part, []).append(correction)
    for part in parts_of(state):
        if part.last <= after or part.first > until:
            continue
        kept = _rows(sources[part.number], row, part)
        seq = np.ascontiguousarray(kept["seq"])
        begin, end = np.searchsorted(seq, [after, until], side="right").tolist()
        found = kept[begin:end]
        learned = Learned(part.members, found["row"], found["y"], found["w"], seq[begin:end])
        yield _corrected(learned, begin, made[part.number]) if part.number in made else learned


def opened(
    state: State, sources: Mapping[int, Source], row: np.dtype[Any]
) -> dict[int, NDArray[Any]]:
    """The rows of every part as sources of :func:`learned_of`, which nobody's removing of their
    files takes away: whoever learns them for hours reads a generation that is long gone by then.
    """
    return {part.number: _rows(sources[part.number], row, part) for part in parts_of(state)}


def _rows(source: Source, row: np.dtype[Any], part: Part) -> NDArray[Any]:
    """The rows of a part; compared with their digest, if nobody has done so yet."""
    if isinstance(source, Kept):
        source = source.proven()
    if isinstance(source, Path):
        of = layout(row, len(part.members))
        return np.memmap(source, of, "r", shape=part.used)
    return source[: part.used]


def _corrected(learned: Learned, first: int, made: Sequence[Correction]) -> Learned:
    """Rows of a part, from number ``first`` on, as its corrections have them."""
    y, w = learned.y.copy(), learned.w.copy()
    for correction in made:
        if first <= correction.place.at < first + len(y):
            y[correction.place.at - first], w[correction.place.at - first] = correction.y, 1.0
    left = np.flatnonzero(~np.isnan(y))
    return Learned(learned.members, learned.rows[left], y[left], w[left], learned.seq[left])


class History:
    """The learned rows of one engine.

    Parameters
    ----------
    settings : HistorySettings
    row : numpy.dtype
        Of the pending store.
    members : sequence of str
        Whose links a row holds, in order.
    directory : Path or None
        Where files live; ``None`` keeps rows in memory.
    """

    def __init__(
        self,
        settings: HistorySettings,
        row: np.dtype[Any],
        members: Sequence[str],
        directory: Path | None,
    ) -> None:
        self._row, self._members, self._directory = row, list(members), directory
        self._keep_ms, self._bytes = settings.keep, settings.disk
        self._capacity = max(
            1, min(SEGMENT_ROWS, self._bytes // PARTS // layout(row, len(members)).itemsize)
        )
        self._parts: dict[int, Part] = {}
        self._segments: dict[int, Segment] = {}
        self._next = 0
        self._corrections: list[Correction] = []
        self._truths: dict[Place, float] = {}  # the last of each place: a look at all took .1 ms

    def __len__(self) -> int:
        return sum(part.used for part in self._parts.values())

    @property
    def nbytes(self) -> int:
        """Bytes that the files take."""
        return sum(segment.rows.nbytes for segment in self._segments.values())

    def hold(self, rows: NDArray[Any], y: F64, w: F64, seq: int, watermark_ms: int) -> None:
        """Keep rows that step ``seq`` has learned; ``watermark_ms`` is the newest event time."""
        if not self._keep_ms:
            return
        done = 0
        while done < len(rows):
            part, segment = self._open(watermark_ms)
            end = part.used + min(len(rows) - done, part.capacity - part.used)
            taken = slice(done, done + end - part.used)
            kept = segment.rows[part.used : end]
            kept["row"], kept["y"], kept["w"], kept["seq"] = rows[taken], y[taken], w[taken], seq
            newest_ms = max(part.newest_ms, int(rows["event_time_ms"][taken].max()))
            grown = {"used": end, "first": part.first or seq, "last": seq, "sha256": ""}
            self._parts[part.number] = msgspec.structs.replace(part, newest_ms=newest_ms, **grown)
            done = taken.stop
            if end == part.capacity:
                segment.release()

    def _open(self, watermark_ms: int) -> tuple[Part, Segment]:
        """The newest part, a new one where it is full, old or of other members; others leave."""
        part = self._parts.get(self._next - 1)
        if part is not None and self._goes_on(part, watermark_ms):
            return part, self._segments[part.number]
        of = layout(self._row, len(self._members))
        part = Part(self._next, self._members, self._capacity, watermark_ms)
        self._let_go(watermark_ms, part.capacity * of.itemsize)
        path = working_file(self._directory, f"history-{part.number:08d}")
        self._parts[part.number] = part
        self._segments[part.number] = Segment(of, part.capacity, path)
        self._next += 1
        return part, self._segments[part.number]

    def _goes_on(self, part: Part, watermark_ms: int) -> bool:
        young = watermark_ms - part.since_ms < self._keep_ms / PARTS
        return young and part.used < part.capacity and part.members == self._members

    def _let_go(self, watermark_ms: int, room: int) -> None:
        """Parts whose newest event is too old leave, and the oldest where bytes are short."""
        for number, part in list(self._parts.items()):
            old = part.newest_ms < watermark_ms - self._keep_ms
            if not old and self.nbytes + room <= self._bytes:
                return
            self._segments.pop(number).drop()
            del self._parts[number]
            self._known_by([c for c in self._corrections if c.place.part != number])

    def learned(
        self, after: int = 0, until: int = NEWEST, corrected: int = NEWEST
    ) -> Iterator[Learned]:
        """See :func:`learned_of`; views that hold until the next row is."""
        parts = [msgspec.structs.asdict(part) for part in self._parts.values()]
        rows = {number: segment.rows for number, segment in self._segments.items()}
        state = {"parts": parts} | self._corrected()
        yield from learned_of(state, rows, self._row, after, until, corrected)

    def since(self, step: int) -> bool:
        """Whether all that was learned after a step is kept still."""
        oldest = next(iter(self._parts.values()), None)
        if oldest is None:
            return self._keep_ms > 0 and self._next == 0
        return oldest.number == 0 or oldest.first <= step

    # ------------------------------------------------------------------ corrections

    def __contains__(self, place: Place) -> bool:
        """Whether the row is kept still."""
        return place.part in self._parts

    @property
    def end(self) -> Place:
        """Where the next row of the newest part would stand."""
        number = self._next - 1
        return Place(number, self._parts[number].used if number in self._parts else 0)

    def places(self, ids: U64, since: Place) -> dict[int, list[Place]]:
        """Where the rows of events stand, by their hashed ids, oldest first; from a place on.

        Reads every id: 1 M rows of 166 bytes took 105 ms of a core.
        """
        found: dict[int, list[Place]] = {}
        for number, part in self._parts.items():
            begin = since.at if number == since.part else 0
            if number < since.part or begin == part.used:
                continue
            held = np.ascontiguousarray(self._segments[number].rows["row"]["id"][begin : part.used])
            for at in np.flatnonzero(np.isin(held, ids)).tolist():
                found.setdefault(int(held[at]), []).append(Place(number, begin + at))
            if part.used == part.capacity:
                self._segments[number].release()
        return found

    def row(self, place: Place) -> Learned:
        """The row at a place, ``(1,)``, with the truth that it was last given, ``nan`` for none."""
        part, kept = self._parts[place.part], self._segments[place.part].rows[place.at :][:1]
        y = self._truths.get(place)
        truth = kept["y"].copy() if y is None else np.array([y])
        return Learned(part.members, kept["row"], truth, kept["w"].copy(), kept["seq"].copy())

    def correct(self, places: Sequence[Place], y: float, seq: int) -> None:
        """The rows of one event are another truth's: the newest one is, the others never were.

        ``nan``: none ever was.
        """
        for place in places:
            truth = y if place == places[-1] else math.nan
            self._corrections.append(Correction(place, truth, seq))
            self._truths[place] = truth

    def _known_by(self, corrections: list[Correction]) -> None:
        self._corrections = corrections
        self._truths = {c.place: c.y for c in corrections}

    def _corrected(self) -> State:
        """The corrections as part of a state, if there are any."""
        if not self._corrections:
            return {}
        rows = [(*c.place, c.seq) for c in self._corrections]
        y = [c.y for c in self._corrections]
        return {"corrections": {"rows": np.array(rows, np.int64), "y": np.array(y)}}

    def state(self) -> State:
        """Every part with the digest of its rows, which go along as :meth:`files`, or :meth:`rows`.

        Rows are hashed once in their life, a part that is full not again after a restart.
        """
        for number, part in self._parts.items():
            if not part.sha256:
                found = self._segments[number].sha256(part.used)
                self._parts[number] = msgspec.structs.replace(part, sha256=found)
        return {
            "parts": [msgspec.structs.asdict(part) for part in self._parts.values()],
            "next": self._next,
            **self._corrected(),
        }

    def digest_state(self) -> State:
        """:meth:`state`: the rows are in it, by their digests."""
        return self.state()

    def files(self) -> list[SegmentFile]:
        """Every part's file as it stands now; the rows that it names never change."""
        return [
            SegmentFile(number, self._segments[number], part.used, part.sha256)
            for number, part in self._parts.items()
        ]

    def rows(self) -> dict[int, Source]:
        """Every part's rows, for another history to restore from: a file where it is full."""
        return {
            number: self._segments[number].source(part.used) for number, part in self._parts.items()
        }

    def restore(self, state: State, segments: Mapping[int, Source] | History) -> None:
        """Become the history that gave ``state``; ``segments`` are a checkpoint's files, or rows.

        Or that history itself, which keeps no more rows from then on: its parts go on here. Rows
        with links of other members stay as they are. None do where none are kept any more.
        """
        self._next = int(state["next"])
        self._known_by(corrections_of(state) if self._keep_ms else [])
        for part in parts_of(state) if self._keep_ms else ():
            if isinstance(segments, History):
                self._segments[part.number] = segments._segments[part.number].shared()
                self._parts[part.number] = part
                continue
            if part.number not in segments:
                raise StateError(f"history part {part.number}: expected a file, got none")
            path = working_file(self._directory, f"history-{part.number:08d}")
            self._segments[part.number] = Segment(
                layout(self._row, len(part.members)),
                *(part.capacity, path, segments[part.number], part.used),
            )
            self._parts[part.number] = part

    def close(self) -> None:
        """Drop the working files."""
        for segment in self._segments.values():
            segment.drop()
        self._segments.clear()
        self._parts.clear()
