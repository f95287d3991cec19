"""Members that have learned what was corrected since: who they are, and who is being rebuilt.

A process beside the service (``stream/run/refit/rebuild.py``) looks at :attr:`Rebuilds.asked`,
lets the member learn the history anew, and answers with an ``install`` that says up to which step;
what was learned since, and that is in the history too, it learns here. Part of the engine's state:
no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from models.base import FeatureBatch, FeatureSchema, State
from models.ensemble.ensemble import Ensemble, MemberError
from monitoring.audit.auditor import Auditor
from stream.contract.commands import CommandRefused
from stream.step.lifecycle.corrections import Corrections
from stream.step.lifecycle.history import History, Learned
from stream.step.lifecycle.refits import Refits

VERSIONS = 100
"""How often back it is known what a member knew; of older versions nothing is."""
MOST = 65_536
"""Rows learned since a rebuild began, at most. Nothing is scored while the member learns them."""


class Rebuilds:
    """The rebuilds of one engine's members.

    Attributes
    ----------
    asked : dict of str to int
        By member the step that asked, until a model is installed or nobody wants it any more.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        schema: FeatureSchema,
        history: History,
        corrections: Corrections,
        refits: Refits,
        auditor: Auditor,
    ) -> None:
        self.asked: dict[str, int] = {}
        self._accepted: dict[str, bool] = {}
        self._known: dict[str, int] = {}  # what was corrected by this step is in the member
        self._since: dict[str, list[list[int]]] = {}  # from which step on it was by which
        self._ensemble = ensemble
        self._schema = schema
        self._history = history
        self._corrections = corrections
        self._refits = refits
        self._auditor = auditor

    @property
    def stale(self) -> list[str]:
        """The members that have learned what was corrected since, by their order."""
        newest = self._corrections.newest
        return [n for n in self._ensemble.voters if newest > self._known.get(n, 0)]

    def ask(self, name: str, accept: bool, seq: int) -> list[str]:
        """Step ``seq`` asks for a member, or for all that are stale; gives whom it asks for.

        ``accept``: also where the history is not the whole past of one. Raises
        :class:`CommandRefused`.
        """
        names = [name] if name else self.stale
        if not names:
            raise CommandRefused("member: no member has learned what was corrected since")
        for each in names:
            if not self._refits.ask(each, seq):  # such a one learns from the history alone
                self.asked[each], self._accepted[each] = seq, accept
        return names

    def withdraw(self, name: str) -> None:
        """Nobody wants it any more; raises :class:`CommandRefused` if nobody did."""
        if name not in self.asked:
            raise CommandRefused(f"{name}: expected a member whose rebuild was asked for")
        self._end(name)

    def since(self, upto: int, names: Collection[str]) -> list[Learned]:
        """What was learned after step ``upto``, as it was then; raises :class:`CommandRefused`."""
        for name in names:
            if upto < self._known.get(name, 0):
                raise CommandRefused(f"{name}: expected one that knows more than it does already")
        if not self._history.since(upto) or upto > self._auditor.step:
            raise CommandRefused(f"upto: the history does not have all that followed step {upto}")
        parts = list(self._history.learned(upto, corrected=upto))
        rows = sum(len(part.y) for part in parts)
        if rows > MOST:
            for name in names:
                self._end(name)
            raise CommandRefused(
                f"upto: expected at most {MOST} rows learned since step {upto}, got {rows}: ask"
                " again when fewer labels come"
            )
        return parts

    def catch_up(self, name: str, parts: Sequence[Learned], upto: int) -> dict[str, Any]:
        """The member, which has learned the history up to a step, learns the rest.

        One that fails of it leaves the ensemble. Gives what the trail tells of it.
        """
        rows = sum(len(part.y) for part in parts)
        number = self._ensemble.labelled - rows
        self._knows(name, upto)
        try:
            for part in () if name in self._ensemble.frozen else parts:
                x = FeatureBatch(
                    self._schema,
                    np.ascontiguousarray(part.rows["dense"]),
                    np.ascontiguousarray(part.rows["hashed"]),
                )
                y, w = np.ascontiguousarray(part.y), np.ascontiguousarray(part.w)
                number += self._ensemble.warm(name, number, x, y, w)
        except MemberError as error:
            self._auditor.failed(error, {})
        return {"upto": upto, "rows": rows}

    def replaced(self, name: str) -> None:
        """Another model stands in the member's place; a trained one, of the history by then."""
        self._end(name)
        if name in self._refits.asked:
            self._knows(name, self._refits.asked[name])

    def went_back(self, versions: Mapping[str, int]) -> None:
        """These members are again what they were after a step: they know what they knew then."""
        for name, seq in versions.items():
            if name in self._known:
                then = [upto for step, upto in self._since.get(name, ()) if step <= seq]
                self._knows(name, then[-1] if then else 0)

    def _knows(self, name: str, upto: int) -> None:
        """What was corrected by a step is in the member from the step under way on."""
        self._known[name] = upto
        self._since[name] = [*self._since.get(name, ()), [self._auditor.step, upto]][-VERSIONS:]

    def begun(self, names: Collection[str], seq: int) -> None:
        """These members came new by step ``seq``: what they have learned was right."""
        if self._corrections.newest:
            for name in names:
                self._knows(name, seq)

    def _end(self, name: str) -> None:
        self.asked.pop(name, None)
        self._accepted.pop(name, None)

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; empty where nothing was ever asked for."""
        if not self.asked and not self._known:
            return {}
        return {
            "asked": dict(self.asked),
            "accepted": dict(self._accepted),
            "known": dict(self._known),
            **(
                {"since": {n: list(each) for n, each in self._since.items()}} if self._since else {}
            ),
        }

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these members."""
        self.asked, self._accepted, self._known = (
            {name: value for name, value in state[key].items() if name in self._ensemble.voters}
            for key in ("asked", "accepted", "known")
        )
        since = state.get("since", {}).items()
        self._since = {name: list(each) for name, each in since if name in self._known}
