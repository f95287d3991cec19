"""What a step makes visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from numpy.typing import NDArray

from models.base import BOOL, F64, I64
from monitoring.audit.trail import Head
from monitoring.drift.monitor import Alarm
from stream.contract.letters import DeadLetter
from stream.contract.records import JournalRecord, NewRecord, Record
from stream.settings.schema import TopicsSettings


class Scored(msgspec.Struct, frozen=True, eq=False):
    """The scores of ``n`` events as columns; row ``i`` is of ``records[i]``.

    ``event_time_ms`` int64 ``(n,)``; ``score`` float64 ``(n,)`` is what alerts; ``output`` float64
    ``(n, k)`` and ``members`` float64 ``(n, m, k)`` are outputs of the task; ``alert`` bool
    ``(n,)``. ``cold``: made before any member had learned. ``out`` names the members in quarantine:
    their column is the mean of the others'. ``versions`` are the members' as they scored: the
    updates of each that were kept.
    ``said``: of numbers the intervals ``(n, 2)``, ``nan`` where none, of classes the sets, bool
    ``(n, k)``; of yes or no nothing.
    """

    records: Sequence[Record]
    ids: Sequence[str]
    event_time_ms: I64
    score: F64
    output: F64
    members: F64
    alert: BOOL
    cold: bool = False
    out: frozenset[str] = frozenset()
    versions: Mapping[str, int] = {}
    said: NDArray[Any] | None = None


class Judged(msgspec.Struct, frozen=True, eq=False):
    """How the items of ``n`` interactions stood in rankings before they were learned.

    ``ranks`` int32 ``(n, 1 + m)``: 1 the best, 0 an item that could not be ranked; the ranking
    that would have been shown first, then the members'. ``history`` int32 ``(n,)``: items that the
    user had taken before. ``weight`` float64 ``(n,)``: what it counts for, 0 where it is no
    positive. ``repeat`` bool ``(n,)``: the user took the item before, for less, and it is not shown
    again: no list is to blame. ``value`` float64 ``(n,)``: its rating, ``nan`` without; ``rated``
    float64 ``(n, 1 + m)``: what it was foretold to be, then by each member that foretells ratings;
    without columns where none are.
    """

    time_ms: I64
    ranks: NDArray[Any]
    history: NDArray[Any]
    weight: F64
    repeat: BOOL
    value: F64
    rated: F64


class Outputs(msgspec.Struct, frozen=True):
    """All that a step makes visible, in one commit with the offsets in ``journal.ranges``.

    ``scored`` holds as columns what stands in ``scores``, and ``alarms`` the drift alarms that are
    on record in ``audit``: for readers in this process, as ``judged`` is. ``head`` is the audit
    trail's after the step, ``anchors`` that head once more, signed, when a topic shall witness it.
    ``handed``: what other processes of the service take, by topic.
    """

    scores: Sequence[NewRecord]
    dead_letters: Sequence[DeadLetter]
    audit: Sequence[NewRecord]
    journal: JournalRecord
    scored: Sequence[Scored] = ()
    alarms: Sequence[Alarm] = ()
    head: Head | None = None
    anchors: Sequence[NewRecord] = ()
    judged: Sequence[Judged] = ()
    handed: Mapping[str, Sequence[NewRecord]] = {}

    def ids(self) -> list[str]:
        """The event id of each score."""
        return [identifier for scored in self.scored for identifier in scored.ids]

    def letters(self) -> list[NewRecord]:
        """The dead letters as records."""
        return [letter.encoded() for letter in self.dead_letters]

    def by_topic(self, topics: TopicsSettings) -> list[tuple[str, Sequence[NewRecord]]]:
        """What is written beside the journal record, and where."""
        found: list[tuple[str, Sequence[NewRecord]]] = [
            (topics.scores, self.scores),
            (topics.dead_letters, self.letters()),
            (topics.audit, self.audit),
        ]
        return found if topics.witness is None else [*found, (topics.witness, self.anchors)]
