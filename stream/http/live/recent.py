"""The newest scores: the latest, the highest, and one by its id.

A ring in memory, filled after each commit. It holds score records, never an event's payload.
"""

from __future__ import annotations

from collections import deque
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from models.base import F64
from stream.contract.outputs import Outputs
from stream.contract.records import NewRecord

KEPT = 10_000
"""Score records kept, and those of the step that has the oldest of them; about 5 MB."""

LISTS = 1_000
"""As many of lists: one of the longest takes 60 kB."""


class _Step(NamedTuple):
    records: list[NewRecord]
    ids: list[str]
    p: list[F64]


class RecentScores:
    """The score records of the last steps.

    Threads: the commit thread adds whole steps, so that 4,096 scores cost it 1 µs; the HTTP
    server's workers search a copy of the list of steps, so there is no lock.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._steps: deque[_Step] = deque()
        self._held = 0

    def committed(self, outputs: Outputs) -> None:
        """Keep a step's scores, and let the oldest step go when the others are enough."""
        if not outputs.scores:
            return
        self._steps.append(
            _Step(list(outputs.scores), outputs.ids(), [s.score for s in outputs.scored])
        )
        self._held += len(outputs.scores)
        while self._held - len(self._steps[0].records) >= self._kept:
            self._held -= len(self._steps.popleft().records)

    def latest(self, most: int) -> list[bytes]:
        """The newest records, newest first."""
        steps = self._steps.copy()
        newest = chain.from_iterable(reversed(step.records) for step in reversed(steps))
        return [r.value or b"" for r in islice(newest, most)]

    def highest(self, most: int) -> list[bytes]:
        """The records with the highest scores, highest first; of equal ones the newer first."""
        steps = self._steps.copy()
        if not steps:
            return []
        records = list(chain.from_iterable(step.records for step in steps))
        p = np.concatenate([part for step in steps for part in step.p])
        rows = np.argsort(p, kind="stable")[::-1][:most]
        return [records[i].value or b"" for i in rows.tolist()]

    def find(self, event_id: str) -> bytes | None:
        """The record of an event, or ``None`` where it is not among those kept."""
        for step in reversed(self._steps.copy()):
            if event_id in step.ids:
                return step.records[step.ids.index(event_id)].value
        return None
