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
from monitoring.drift.evidence import Blocks


class Held:
    """Links as made ``(n, k)``, row for row of the pending store.

    Attributes
    ----------
    first : int
        Number of the row of the first link held.
    """

    def __init__(self, k: int) -> None:
        self.first = 0
        self._room = np.zeros((0, k))
        self._from = self._to = 0

    @property
    def links(self) -> F64:
        """As made, of each row from ``first`` on; a view."""
        return self._room[self._from : self._to]

    def hold(self, links: F64, first: int, head: int) -> None:
        """Keep the links of rows from number ``first`` on; those before ``head`` were judged."""
        if not len(self.links):
            self.first = first
        over = max(0, min(head - self.first, len(self.links)))
        self._from, self.first = self._from + over, self.first + over
        if self._to + len(links) > len(self._room):
            # Doubled: millions may wait, which no step should copy.
            held = self.links
            self._room = np.zeros((2 * (len(held) + len(links)), links.shape[1]))
            self._room[: len(held)] = held
            self._from, self._to = 0, len(held)
        self._room[self._to : self._to + len(links)] = links
        self._to += len(links)

    def holds(self, numbers: I64) -> BOOL:
        """Of which of these rows links wait here."""
        at = numbers - self.first
        held: BOOL = (at >= 0) & (at < len(self.links))
        return held

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"first": self.first, "links": self.links.copy()}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        self.first = int(state["first"])
        self._room = state["links"].copy()
        self._from, self._to = 0, len(self._room)


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
        numbers: I64,
        at_ms: NDArray[np.int64],
        ours: F64,
        y: F64,
        over: Callable[[], bool],
    ) -> None:
        """The truths of rows that are held came; the member's links then were ``ours`` ``(n, k)``.

        ``over`` is asked at the end of each block whether that was the last one.
        """
        theirs = self.links[numbers - self.first]
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
