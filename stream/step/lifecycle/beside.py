"""What another model says of waiting events beside a member's say, and the losses of both.

``challengers.py`` and ``guard.py`` have the models. Part of the engine's state: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, State
from models.task import Task
from monitoring.audit.contents import Piece
from monitoring.drift.evidence import Blocks
from stream.step.pending.labels import by_segment

ROWS = 65_536
"""Rows of a piece: a step that finds one full, or a state, copies none of the others."""


class Held:
    """Links as made ``(n, k)``, row for row of the pending store.

    Attributes
    ----------
    first : int
        Number of the row of the first link held.
    """

    def __init__(self, k: int) -> None:
        self.first = self._end = 0
        self._k = k
        self._pieces: dict[int, F64] = {}  # ``(ROWS, k)``, by the number of the first row / ROWS

    def __len__(self) -> int:
        return self._end - self.first

    def hold(self, links: F64, first: int, head: int) -> None:
        """Keep the links of rows from number ``first`` on; those before ``head`` were judged."""
        if not len(self):
            self.first = self._end = first
        self.first = min(max(self.first, head), self._end)
        for number in [n for n in self._pieces if (n + 1) * ROWS <= self.first]:
            del self._pieces[number]
        self._append(links)

    def _append(self, links: F64) -> None:
        done = 0
        while done < len(links):
            number, at = divmod(self._end, ROWS)
            if number not in self._pieces:
                self._pieces[number] = np.empty((ROWS, self._k))
            part = links[done : done + ROWS - at]
            self._pieces[number][at : at + len(part)] = part
            self._end += len(part)
            done += len(part)
            if self._end % ROWS == 0:
                self._pieces[number] = self._pieces[number].view(Piece)

    def holds(self, numbers: I64) -> BOOL:
        """Of which of these rows links wait here."""
        held: BOOL = (numbers >= self.first) & (numbers < self._end)
        return held

    def of(self, numbers: I64) -> F64:
        """The links of rows that :meth:`holds`."""
        found = np.empty((len(numbers), self._k))
        for piece, where in by_segment(numbers, ROWS):
            found[where] = self._pieces[piece][numbers[where] % ROWS]
        return found

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; the links by pieces, which never change."""
        pieces = range(self.first // ROWS, -(-self._end // ROWS)) if len(self) else range(0)
        ends = [(max(self.first - n * ROWS, 0), min(self._end - n * ROWS, ROWS)) for n in pieces]
        links = [
            self._pieces[n] if high - low == ROWS else np.asarray(self._pieces[n])[low:high]
            for n, (low, high) in zip(pieces, ends, strict=True)
        ]
        return {"first": self.first, "links": links}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        self.first = self._end = int(state["first"])
        self._pieces = {}
        links = state["links"]
        for part in [links] if isinstance(links, np.ndarray) else links:  # one: of format 7
            if len(part) == ROWS and self._end % ROWS == 0:
                self._pieces[self._end // ROWS] = (
                    part if isinstance(part, Piece) else part.view(Piece)
                )
                self._end += ROWS
            else:
                self._append(part)


class Beside(Held):
    """How what another model said compares with what the member did.

    Parameters
    ----------
    block_ms, rows : int
        Of :class:`~monitoring.drift.evidence.Blocks`, as ``lengthen`` is.
    task : Task

    Attributes
    ----------
    blocks : Blocks
        Of the member's loss less the other's.
    judged : float64 array ``(3,)``
        Labels, sums of losses of the member and of the other.
    """

    def __init__(self, block_ms: int, rows: int, task: Task, lengthen: bool = True) -> None:
        super().__init__(task.k)
        self._task = task
        self.blocks = Blocks(block_ms, rows, len(task.groups), lengthen)
        self.judged = np.zeros(3)

    @property
    def losses(self) -> tuple[float, float]:
        """Mean losses of the member and of the other; ``nan`` before the first truth."""
        labels, ours, theirs = self.judged.tolist()
        return (ours / labels, theirs / labels) if labels else (math.nan, math.nan)

    def judge(
        self,
        at_ms: NDArray[np.int64],
        ours: F64,
        theirs: F64,
        y: F64,
        over: Callable[[], bool],
    ) -> None:
        """The truths of rows came; the member's links then were ``ours`` ``(n, k)``.

        ``theirs`` are the other's. ``over`` is asked at the end of each block whether that was the
        last one.
        """
        # nan: one was not there; -inf is said of a class that nobody named yet.
        there = ~np.isnan(ours).any(axis=1) & ~np.isnan(theirs).any(axis=1)
        ours, theirs, truth = ours[there], theirs[there], y[there]
        costs = [np.minimum(self._task.cost(z, truth), self._task.worst) for z in (ours, theirs)]
        # Added up in order: no processor sums in another.
        for i, cost in enumerate(costs, 1):
            self.judged[i] = np.add.accumulate(np.append(self.judged[i], cost))[-1]
        self.judged[0] += len(truth)
        group = self._task.group(self._task.output(ours), truth).tolist()
        gaps = (costs[0] - costs[1]).tolist()
        for row in zip(gaps, at_ms[there].tolist(), group, strict=True):
            if self.blocks.add(*row) and over():
                break

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        own = {"blocks": self.blocks.state(), "judged": self.judged.copy()}
        return super().state() | own

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        super().restore(state)
        self.blocks.restore(state["blocks"])
        self.judged = state["judged"].copy()


def unheld(state: State) -> State:
    """The state of those that compare, for a pending store that begins anew.

    Comparisons go on, with what is scored from here on.
    """
    return state | {
        "running": {
            name: one
            | {"links": one["links"][:0]}
            | ({"ripe": -1} if "ripe" in one else {})
            | ({"second": _unmade(one["second"])} if "second" in one else {})
            for name, one in state["running"].items()
        }
    }


def _unmade(second: State) -> State:
    """Of a whole second ensemble, whose members' links wait too."""
    return second | {"made": second["made"] | {"links": second["made"]["links"][:0]}}
