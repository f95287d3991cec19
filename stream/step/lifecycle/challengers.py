"""Challengers: models beside members whose place they may take, judged by what both said then.

A challenger scores every event that its member scores, and learns the same rows; nothing that is
said, counted or learned elsewhere depends on it. What it said waits here, row for row of the
pending store. Whether it is better, ``monitoring/drift/evidence.py`` says. The engine calls
:meth:`Challengers.score` for events, :meth:`judge` for truths, :meth:`learned` after every
learning; commands and drift alarms begin and end a challenge. Part of the engine's state: no clock,
no I/O.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, FeatureBatch, State
from models.ensemble.ensemble import Ensemble, MemberError
from models.task import Task
from monitoring.audit.auditor import Auditor
from monitoring.audit.budgets import Reaction
from monitoring.drift.evidence import Standing
from monitoring.drift.monitor import WARM_UP
from monitoring.drift.settings import ChallengersSettings
from stream.contract.commands import WHOLE, CommandRefused
from stream.step.lifecycle.beside import Beside
from stream.step.lifecycle.second import Another, Second, restored
from stream.step.pending.store import Pending


class Terms(NamedTuple):
    """What a challenge is decided by: as configured, or as the command says."""

    alpha: float
    block_ms: int
    deadline_ms: int


class _Challenge(Beside):
    """One challenger's standing: links as made, evidence, figures of both.

    ``second`` is what challenges, where that is a whole ensemble.
    """

    def __init__(
        self, terms: Terms, number: int, rows: int, task: Task, second: Second | None = None
    ) -> None:
        super().__init__(terms.block_ms, rows, task)
        self.second = second
        self.number = number
        # The k-th one of a member may only be promoted falsely with a share of alpha: 6 / pi^2 of
        # 1 / k^2, which together are 1.
        self.needed = math.pi**2 * number**2 / (6 * terms.alpha)
        self.deadline_ms = terms.deadline_ms
        self.until_ms = 0
        """Event time of its deadline; 0: it has scored nothing yet."""
        self.labels = 0
        self.ripe = -1
        """Number of the first row that it scored having learned its fill; -1: not yet."""
        self.doubled = 0
        """How often its blocks were too short, as far as that was told."""
        self.proposed = False
        self.won = False
        """Whether it takes the ensemble's place before the next step."""
        self.scored = np.zeros(5)  # events, sum of |p - q|, alerts of both, of one, of the other

    def state(self) -> State:
        return super().state() | {
            "number": self.number,
            "needed": self.needed,
            "deadline_ms": self.deadline_ms,
            "until_ms": self.until_ms,
            "labels": self.labels,
            "ripe": self.ripe,
            "doubled": self.doubled,
            "proposed": self.proposed,
            "scored": self.scored.copy(),
            **({} if self.second is None else {"second": self.second.state(), "won": self.won}),
        }

    def restore(self, state: State) -> None:
        super().restore(state)
        self.number, self.needed = int(state["number"]), float(state["needed"])
        self.deadline_ms, self.until_ms = int(state["deadline_ms"]), int(state["until_ms"])
        self.labels, self.ripe = int(state["labels"]), int(state["ripe"])
        self.doubled, self.proposed = int(state["doubled"]), bool(state["proposed"])
        self.won = bool(state.get("won", False))
        self.scored = state["scored"].copy()


class Challengers:
    """The challenges of one engine, one of each member and one of all of them at most.

    Parameters
    ----------
    settings : ChallengersSettings
    ensemble : Ensemble
        Holds the models themselves.
    auditor : Auditor
    pending : Pending
        Where the rows wait whose links wait here.
    promote : callable
        Lets the challenger of a member take its place.

    Attributes
    ----------
    another : callable
        Builds a whole second ensemble; set by who builds the engine.
    counts : Counter
        Of ``"event/member"``, each of a challenger's events in the trail.
    """

    another: Another

    def __init__(
        self,
        settings: ChallengersSettings,
        ensemble: Ensemble,
        auditor: Auditor,
        pending: Pending,
        promote: Callable[[str], None],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._ensemble = ensemble
        self._task = ensemble.task
        self._auditor = auditor
        self._pending = pending
        self._promote = promote
        self._tried: Counter[str] = Counter()
        self._running: dict[str, _Challenge] = {}

    @property
    def terms(self) -> Terms:
        """As configured."""
        return Terms(self._settings.alpha, self._settings.block, self._settings.deadline)

    # ------------------------------------------------------------------ begin and end

    def begin(
        self, name: str, spec: Mapping[str, Any] | None = None, terms: Terms | None = None
    ) -> dict[str, Any]:
        """A new model begins beside the member: ``spec``, or as the member was made.

        Beside all of them (:data:`WHOLE`) a whole ensemble does. Gives what the trail tells of it.
        Raises :class:`CommandRefused` where the member has a challenger, is in quarantine, or the
        model cannot be built.
        """
        if name not in (*self._ensemble.voters, WHOLE):
            raise CommandRefused(f"{name}: gives no score that another's could be compared with")
        if name in self._running:
            raise CommandRefused(f"{name}: has a challenger; drop or promote that one first")
        if name in self._ensemble.quarantined:
            raise CommandRefused(f"{name}: is in quarantine, where it says nothing to compare with")
        number, second = self._tried[name] + 1, None
        try:
            if name == WHOLE:
                second = Second(spec or {}, self.another(spec or {}))
                second.ensemble.prior.restore(self._ensemble.prior.state())
            else:
                self._ensemble.challenge(name, number, spec)
        except Exception as error:  # a library's constructor may raise anything
            kind = type(error).__name__
            raise CommandRefused(f"{name}: cannot be built: {kind}: {str(error)[:300]}") from error
        found = self._enter(name, terms or self.terms, second)
        self.counts[f"challenger_started/{name}"] += 1
        return {"number": number, "evidence_needed": found.needed, "spec": dict(spec or {})}

    def _enter(self, name: str, terms: Terms, second: Second | None) -> _Challenge:
        self._tried[name] += 1
        rows = self._settings.rows
        found = _Challenge(terms, self._tried[name], rows, self._task, second)
        self._running[name] = found
        return found

    def promote(self, name: str) -> dict[str, Any]:
        """The challenger takes the member's place; raises :class:`CommandRefused` without one."""
        detail = self._known(name)
        del self._running[name]
        self._promote(name)
        self.counts[f"challenger_promoted/{name}"] += 1
        return detail

    @property
    def won(self) -> bool:
        """Whether a whole ensemble is to take the ensemble's place before the next step."""
        return WHOLE in self._running and self._running[WHOLE].won

    def second(self) -> Second:
        """What challenges the ensemble; raises :class:`CommandRefused` where nothing does."""
        self._known(WHOLE)
        second = self._running[WHOLE].second
        assert second is not None
        return second

    def promoted(self, before: Challengers, spec: Mapping[str, Any] | None) -> dict[str, Any]:
        """What challenged the ensemble of ``before`` is the ensemble here: enter what was.

        With its ``spec`` the ensemble that made room goes on as the challenger, so that a promotion
        can be taken back; ``None``: it is gone. Gives what the trail tells.
        """
        detail = before._known(WHOLE)
        running = before._running[WHOLE]
        self.counts[f"challenger_promoted/{WHOLE}"] += 1
        self._running = {}
        if spec is None:
            return detail | {"old_one": "gone"}
        second = Second(spec, self.another(spec))
        second.ensemble.restore(
            before._ensemble.state() | {"challengers": {}, "challenger_specs": {}, "last_good": {}}
        )
        alpha = math.pi**2 * running.number**2 / (6 * running.needed)
        terms = Terms(alpha, self._settings.block, running.deadline_ms)
        found = self._enter(WHOLE, terms, second)
        found.ripe = self._pending.tail  # it has learned all there was
        self.counts[f"challenger_started/{WHOLE}"] += 1
        return detail | {"old_one": "challenges", "number_of_old_one": found.number}

    def drop(self, name: str) -> dict[str, Any]:
        """The challenger goes; raises :class:`CommandRefused` without one."""
        detail = self._known(name)
        if name != WHOLE:
            self._ensemble.drop(name)
        del self._running[name]
        self.counts[f"challenger_dropped/{name}"] += 1
        return detail

    def replaced(self, name: str) -> None:
        """Another model stands in the member's place: what was to be compared with is gone."""
        if name in self._running:
            self._end(name, "another model took the member's place", "command")

    def _known(self, name: str) -> dict[str, Any]:
        """What the trail tells of a challenge that ends."""
        if name not in self._running:
            raise CommandRefused(f"{name}: has no challenger")
        at = self.standing(name)
        return {
            "number": at.number,
            "labels": at.labels,
            "loss": at.loss,
            "challenger_loss": at.challenger_loss,
            "blocks": at.blocks,
            "evidence": at.evidence,
            "evidence_needed": at.needed,
        }

    def _end(self, name: str, reason: str, cause: str = "challenge") -> None:
        self._auditor.record(
            "challenger_dropped", cause, name, self.drop(name) | {"reason": reason}
        )

    # ------------------------------------------------------------------ the step

    def _names(self) -> list[str]:
        """Whose challenges run: members in their order, then the ensemble.

        In the order in which they came a restored engine would go another way.
        """
        return [name for name in (*self._ensemble.voters, WHOLE) if name in self._running]

    def score(
        self, x: FeatureBatch, links: F64, link: F64, numbers: I64, threshold: float, at_ms: int
    ) -> None:
        """Every challenger scores ``n`` events.

        Members gave ``links`` ``(n, m, k)``, the ensemble ``link`` ``(n, k)``.
        ``numbers`` are theirs in the pending store; ``at_ms`` is the newest event time scored.
        """
        task, first, head = self._task, int(numbers[0]), self._pending.head
        for name in self._names():
            running = self._running[name]
            if name in self._ensemble.quarantined:
                self._end(name, "the member is in quarantine")
                continue
            running.until_ms = running.until_ms or at_ms + running.deadline_ms
            if at_ms > running.until_ms and not running.proposed:
                self._end(name, "not better by the deadline")
                continue
            try:
                if running.second is None:
                    said = self._ensemble.score_beside(name, x)
                else:
                    said = running.second.score(x, first, head)
            except MemberError as error:
                self._end(name, str(error)[:500])
                continue
            running.hold(said, first, head)
            ours = task.output(link if name == WHOLE else links[:, self._column(name)])
            theirs = task.output(said)
            one, other = (task.alert(output, threshold) for output in (ours, theirs))
            gap = np.abs(task.score(ours) - task.score(theirs))
            running.scored += [
                *(len(x), np.add.accumulate(gap)[-1]),
                *((one & other).sum(), (one & ~other).sum(), (other & ~one).sum()),
            ]

    def judge(self, numbers: I64, rows: NDArray[Any], y: F64) -> None:
        """The truths of ``n`` rows came: what both said of them then is compared."""
        begun = dict(self._running)
        for name in self._names():
            running = begun[name]
            known = running.holds(numbers) & ~rows["cold"]
            known &= (numbers >= running.ripe) & (running.ripe >= 0)
            if known.any():
                whole = name == WHOLE
                ours = rows["score"] if whole else rows["links"][:, self._column(name)]
                at_ms, over = rows["event_time_ms"][known], partial(self._decided, name)
                running.judge(numbers[known], at_ms, ours[known], y[known], over)

    def _column(self, name: str) -> int:
        return self._ensemble.voters.index(name)

    def learned(self, numbers: I64, x: FeatureBatch, y: F64, w: F64) -> None:
        """The members have learned these rows: challengers do."""
        for name in self._names():
            running = self._running[name]
            try:
                if running.second is None:
                    self._ensemble.learn_beside(name, x, y, w)
                else:
                    running.second.learn(numbers, x, y, w)
            except MemberError as error:
                self._end(name, str(error)[:500])
                continue
            running.labels += len(y)
            if running.ripe < 0 and running.labels >= WARM_UP:
                running.ripe = self._pending.tail

    def _decided(self, name: str) -> bool:
        """A block is over: warn, propose, promote or drop; whether the challenge is over too."""
        running = self._running[name]
        blocks, needed = running.blocks, running.needed
        if blocks.doubled > running.doubled:
            running.doubled = blocks.doubled
            detail = {"block_ms": blocks.length_ms, "number": running.number}
            self._tell(
                "challenger_warned", name, detail | {"reason": "blocks depend on each other"}
            )
        if blocks.worse() >= needed:
            self._end(name, "worse")
        elif not running.proposed and blocks.better() >= needed:
            detail = self._known(name)
            if self._settings.promote == "auto" and name == WHOLE:
                running.proposed = running.won = True
            elif self._settings.promote == "auto":
                self.promote(name)
                self._auditor.renewed(name, "challenger_promoted", "challenge", detail)
            else:
                running.proposed = True
                self._tell("challenger_proposed", name, detail)
        return name not in self._running

    def _tell(self, event: Reaction, name: str, detail: Mapping[str, Any]) -> None:
        self.counts[f"{event}/{name}"] += 1
        self._auditor.record(event, "challenge", name, detail)

    # ------------------------------------------------------------------ state

    def standings(self) -> list[Standing]:
        """How each challenge stands, by the members' order; the ensemble's last."""
        return [self.standing(name) for name in self._names()]

    def standing(self, name: str) -> Standing:
        """How the challenge of a member that has a challenger stands."""
        running = self._running[name]
        scored, gaps, both, one, other = running.scored.tolist()
        ours, theirs = running.losses
        return Standing(
            member=name,
            number=running.number,
            scored=int(scored),
            divergence=gaps / scored if scored else math.nan,
            agreement=1 - (one + other) / scored if scored else math.nan,
            alerts_both=int(both),
            alerts_member=int(one),
            alerts_challenger=int(other),
            labels=int(running.judged[0]),
            loss=ours,
            challenger_loss=theirs,
            blocks=len(running.blocks.sums),
            block_ms=running.blocks.length_ms,
            evidence=running.blocks.better(),
            needed=running.needed,
            proposed=running.proposed,
        )

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; the models are part of the ensemble's."""
        return {
            "counts": dict(self.counts),
            "tried": dict(self._tried),
            "running": {name: one.state() for name, one in self._running.items()},
        }

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these members; call after the ensemble's."""
        names = (*self._ensemble.voters, WHOLE)
        self.counts = Counter(state["counts"])
        self._tried = Counter({name: n for name, n in state["tried"].items() if name in names})
        self._running = {}
        whole = [WHOLE] if WHOLE in state["running"] else []
        for name in (*self._ensemble.challengers, *whole):
            told = state["running"][name]
            second = restored(told["second"], self.another) if name == WHOLE else None
            found = _Challenge(self.terms, 1, self._settings.rows, self._task, second)
            found.restore(told)
            self._running[name] = found
