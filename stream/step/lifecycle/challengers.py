"""Challengers: models beside members whose place they may take, judged by what both said then.

A challenger scores every event that its member scores, and learns the same rows; nothing that is
said, counted or learned elsewhere depends on it. Those of one place race: the first that is better
ends the challenge of the others. What each said waits here, row for row of the pending store.
Whether it is better, ``monitoring/drift/evidence.py`` says. The engine calls
:meth:`Challengers.score` for events, :meth:`judge` for truths, :meth:`learned` after every
learning; commands and drift alarms begin and end a challenge. Where one process scores and another
learns, this one has the challenges; that one follows it (:meth:`~Challengers.follow`), and hands
over what they said (:meth:`~Challengers.said`). Part of the engine's state: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, FeatureBatch, Model, State
from models.ensemble.ensemble import Ensemble, MemberError
from models.ensemble.group import Spec, key_of
from models.task import Task
from monitoring.audit.auditor import Auditor
from monitoring.audit.budgets import Reaction
from monitoring.drift.evidence import Standing
from monitoring.drift.monitor import WARM_UP
from monitoring.drift.settings import ChallengersSettings
from stream.contract.commands import WHOLE, CommandRefused
from stream.step.lifecycle.beside import Beside
from stream.step.lifecycle.second import Another, Second, Whole, restored
from stream.step.pending.store import Pending

OTHER = "another ensemble took the place of all"
"""Why challenges are over."""


class Terms(NamedTuple):
    """What a challenge is decided by: as configured, or as the command says."""

    alpha: float
    block_ms: int
    deadline_ms: int


class Place(NamedTuple):
    """Which challenge it is: the ``number``-th of the member ``name``, or of all.

    ``lane``: which of those that run at once, from 1 on; another may have it later.
    """

    name: str
    number: int
    lane: int


class Led(NamedTuple):
    """A challenge of another process; ``ripe``: it has learned its fill."""

    place: Place
    ripe: bool


Said = Mapping[str, F64]
"""By a challenge's key the links of rows as made, ``(n, k)``; ``nan`` where there are none."""


def needed_by(numbers: Sequence[int], alpha: float) -> float:
    """Evidence that each of the challengers with these numbers needs, which begin together.

    All that a place ever has may win falsely with a chance of ``alpha``: the ``k``-th with
    ``6 / (pi^2 k^2)`` of it, which sum to 1. Those that begin together have what their numbers have
    in equal parts. No more is asked of a race: whichever of them are no better, that any of these
    ever wins has at most the sum of their chances, however their scores depend on each other.

    >>> needed_by([1], 0.05) < needed_by([1, 2, 3, 4], 0.05) < needed_by([4], 0.05)
    True
    """
    share = sum(6 / (math.pi**2 * k**2) for k in numbers) / len(numbers)
    return 1 / (alpha * share)


class _Challenge(Beside):
    """One challenger's standing: links as made, evidence, figures of both.

    ``second`` is what challenges, where that is a whole ensemble.
    """

    def __init__(
        self,
        place: Place,
        terms: Terms,
        needed: float,
        rows: int,
        task: Task,
        second: Second | None = None,
    ) -> None:
        super().__init__(terms.block_ms, rows, task)
        self.name, self.number, self.lane = place
        self.needed = needed
        self.second = second
        self.alpha = terms.alpha
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

    @property
    def key(self) -> str:
        """Under which name it stands."""
        return key_of(self.name, self.number)

    def state(self) -> State:
        return super().state() | {
            "place": [self.name, self.number, self.lane],
            "needed": self.needed,
            "alpha": self.alpha,
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
        self.needed, self.alpha = float(state["needed"]), float(state["alpha"])
        self.deadline_ms, self.until_ms = int(state["deadline_ms"]), int(state["until_ms"])
        self.labels, self.ripe = int(state["labels"]), int(state["ripe"])
        self.doubled, self.proposed = int(state["doubled"]), bool(state["proposed"])
        self.won = bool(state.get("won", False))
        self.scored = state["scored"].copy()


class Challengers:
    """The challenges of one engine: of each member, and of all of them, some at once.

    Parameters
    ----------
    settings : ChallengersSettings
    ensemble : Ensemble
        Holds the models themselves.
    auditor : Auditor
    pending : Pending
        Where the rows wait whose links wait here.
    promote : callable
        ``(name, number)``: that challenger takes the member's place.

    Attributes
    ----------
    another : callable
        Builds a whole second ensemble; set by who builds the engine.
    follows : bool
        Whether the challenges are another process's, which alone decides.
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
        promote: Callable[[str, int, bool], str],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.follows = False
        self._settings = settings
        self._ensemble = ensemble
        self._task = ensemble.task
        self._auditor = auditor
        self._pending = pending
        self._promote = promote
        self._tried: Counter[str] = Counter()
        self._running: dict[str, _Challenge] = {}  # by the keys of the ensemble's

    @property
    def terms(self) -> Terms:
        """As configured."""
        return Terms(self._settings.alpha, self._settings.block, self._settings.deadline)

    # ------------------------------------------------------------------ begin and end

    def begin(
        self,
        name: str,
        specs: Sequence[Spec | None] = (None,),
        terms: Terms | None = None,
        model: Model | None = None,
    ) -> list[dict[str, Any]]:
        """New models begin beside the member: of each of ``specs``; ``None``: as it was made.

        Beside all of them (:data:`WHOLE`) whole ensembles do. With a ``model``, made by the one
        spec, that does, which has learned its fill. Gives what the trail tells of each.
        Raises :class:`CommandRefused`, and nothing begins, where there is no room for all, the
        member is in quarantine, or a model cannot be built.
        """
        if name not in (*self._ensemble.voters, WHOLE):
            raise CommandRefused(f"{name}: gives no score that another's could be compared with")
        if name in self._ensemble.quarantined:
            raise CommandRefused(f"{name}: is in quarantine, where it says nothing to compare with")
        run, most = len(self.of(name)), self._settings.at_once
        if run + len(specs) > most:
            raise CommandRefused(
                f"{name}: expected at most {most} challengers at once (challengers.at_once); {run} "
                f"run, got {len(specs)} more: drop or promote first"
            )
        first = self._tried[name] + 1
        numbers = range(first, first + len(specs))
        try:
            seconds = [self._made(name, *one, model) for one in zip(numbers, specs, strict=True)]
        except Exception as error:  # a library's constructor may raise anything
            for number in numbers:
                self._ensemble.drop(name, number)
            kind = type(error).__name__
            raise CommandRefused(f"{name}: cannot be built: {kind}: {str(error)[:300]}") from error
        found = [self._enter(name, terms or self.terms, numbers, second) for second in seconds]
        if model is not None:
            found[0].ripe = self._pending.tail
        return [
            {"number": one.number, "evidence_needed": one.needed, "spec": self._spec(one)}
            for one in found
        ]

    def _spec(self, running: _Challenge) -> dict[str, Any]:
        """The definition of what challenges; empty: the member's own."""
        if running.second is not None:
            return running.second.spec
        return dict(self._ensemble.challenger_specs.get(running.key, {}))

    def _made(
        self, name: str, number: int, spec: Spec | None, model: Model | None
    ) -> Second | None:
        """Build what challenges; gives it where it is a whole ensemble."""
        if name != WHOLE:
            self._ensemble.challenge(name, number, spec, model)
            if self._ensemble.challengers[key_of(name, number)].trained:
                raise ValueError(
                    "expected a model that learns label by label: one that is trained is so as a"
                    " member of the configuration alone"
                )
            return None
        second = Second(spec or {}, self.another(spec or {}))
        second.ensemble.prior.restore(self._ensemble.prior.state())
        return second

    def _enter(
        self, name: str, terms: Terms, together: Sequence[int], second: Second | None
    ) -> _Challenge:
        """The next challenge of the place is under way, as one of those that begin together."""
        self._tried[name] += 1
        number, taken = self._tried[name], {one.lane for one in self.of(name)}
        place = Place(name, number, next(n for n in range(1, len(taken) + 2) if n not in taken))
        needed = needed_by(together, terms.alpha)
        found = _Challenge(place, terms, needed, self._settings.rows, self._task, second)
        self._running[key_of(name, number)] = found
        self.counts[f"challenger_started/{name}"] += 1
        return found

    def of(self, name: str) -> list[_Challenge]:
        """The challenges of a place, by number."""
        found = [one for one in self._running.values() if one.name == name]
        return sorted(found, key=lambda one: one.number)

    def chosen(self, name: str, number: int = 0) -> _Challenge:
        """The challenge of a place that is meant: by its number; 0: the one there is, or proposed.

        Raises :class:`CommandRefused` where there is none, or more than one could be.
        """
        there = self.of(name)
        if not there:
            raise CommandRefused(f"{name}: has no challenger")
        numbers = ", ".join(str(one.number) for one in there)
        if number:
            meant = [one for one in there if one.number == number]
        else:
            meant = [one for one in there if one.proposed] or there
        if len(meant) != 1:
            got = f"number {number}" if number else "no number"
            raise CommandRefused(f"{name}: expected the number of one of {numbers}; got {got}")
        return meant[0]

    def promote(
        self, name: str, number: int = 0, cause: str = "command"
    ) -> tuple[dict[str, Any], str]:
        """A challenger takes the member's place, and the others of that place end.

        Gives what the trail tells of it, and its digest.

        Raises :class:`CommandRefused` as :meth:`chosen`.
        """
        running = self.chosen(name, number)
        detail = self._known(running)
        del self._running[key_of(name, running.number)]
        for other in self.of(name):
            self._end(other, f"number {running.number} took the member's place", cause)
        digest = self._promote(name, running.number, running.labels > 0 or running.ripe >= 0)
        self.counts[f"challenger_promoted/{name}"] += 1
        return detail, digest

    @property
    def lanes(self) -> int:
        """How many challenges of one place there may be at once."""
        lanes = [one.lane for one in self._running.values()]
        return max(self._settings.at_once, *lanes) if lanes else self._settings.at_once

    @property
    def won(self) -> bool:
        """Whether a whole ensemble is to take the ensemble's place before the next step."""
        return any(one.won for one in self.of(WHOLE))

    def second(self, number: int = 0) -> Second:
        """What challenges the ensemble; raises :class:`CommandRefused` as :meth:`chosen`."""
        second = self.chosen(WHOLE, number).second
        assert second is not None
        return second

    def left(self, before: Challengers, reason: str, but: int | None = None) -> None:
        """Tell which challenges of ``before``, from which this state is, are over.

        ``but``: the number of the whole ensemble's that won.
        """
        for one in before._sorted():
            won = (one.name, one.number) == (WHOLE, but)
            if not won and one.key not in self._running:
                self.counts[f"challenger_dropped/{one.name}"] += 1
                detail = before._known(one) | {"reason": reason}
                self._auditor.record("challenger_dropped", "configuration", one.name, detail)

    def promoted(
        self, before: Challengers, number: int, spec: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """What challenged the ensemble of ``before`` is the ensemble here: enter what was.

        With its ``spec`` the ensemble that made room goes on as the challenger; ``None``: it is
        gone. All other challenges are over. Gives what the trail tells.
        """
        running = before.chosen(WHOLE, number)
        detail = before._known(running)
        self.counts[f"challenger_promoted/{WHOLE}"] += 1
        self.left(before, OTHER, running.number)
        if spec is None:
            return detail | {"old_one": "gone"}
        second = Second(spec, self.another(spec))
        second.ensemble.restore(Whole(before._ensemble).state())
        terms = Terms(running.alpha, self._settings.block, running.deadline_ms)
        found = self._enter(WHOLE, terms, [self._tried[WHOLE] + 1], second)
        found.ripe = self._pending.tail  # it has learned all there was
        return detail | {"old_one": "challenges", "number_of_old_one": found.number}

    def drop(self, name: str, number: int = 0) -> list[dict[str, Any]]:
        """A challenger goes, or all of the place where ``number`` is 0; what the trail tells.

        Raises :class:`CommandRefused` where there is none.
        """
        meant = [self.chosen(name, number)] if number or not self.of(name) else self.of(name)
        return [self._dropped(one) for one in meant]

    def _dropped(self, running: _Challenge) -> dict[str, Any]:
        detail = self._known(running)
        if running.second is None:
            self._ensemble.drop(running.name, running.number)
        del self._running[running.key]
        self.counts[f"challenger_dropped/{running.name}"] += 1
        return detail

    def replaced(self, name: str) -> None:
        """Another model stands in the member's place: what was to be compared with is gone."""
        for running in self.of(name):
            self._end(running, "another model took the member's place", "command")

    def _known(self, running: _Challenge) -> dict[str, Any]:
        """What the trail tells of a challenge that ends."""
        at = self._standing(running)
        return {
            "number": at.number,
            "labels": at.labels,
            "loss": at.loss,
            "challenger_loss": at.challenger_loss,
            "blocks": at.blocks,
            "evidence": at.evidence,
            "evidence_needed": at.needed,
        }

    def _end(self, running: _Challenge, reason: str, cause: str = "challenge") -> None:
        detail = self._dropped(running) | {"reason": reason}
        self._auditor.record("challenger_dropped", cause, running.name, detail)

    # ------------------------------------------------------------------ the step

    def _sorted(self) -> list[_Challenge]:
        """The challenges under way: members' in their order, then the ensemble's; by number.

        In the order in which they came a restored engine would go another way.
        """
        if not self._running:
            return []
        return [one for name in (*self._ensemble.voters, WHOLE) for one in self.of(name)]

    def _under_way(self) -> Iterator[_Challenge]:
        """Each challenge, unless one before it ended it."""
        for running in self._sorted():
            if self._running.get(running.key) is running:
                yield running

    def score(
        self, x: FeatureBatch, links: F64, link: F64, numbers: I64, threshold: float, at_ms: int
    ) -> None:
        """Every challenger scores ``n`` events.

        Members gave ``links`` ``(n, m, k)``, the ensemble ``link`` ``(n, k)``.
        ``numbers`` are theirs in the pending store; ``at_ms`` is the newest event time scored.
        """
        first, head = int(numbers[0]), self._pending.head
        self.passed(at_ms)
        for running in self._under_way():
            name = running.name
            try:
                if running.second is None:
                    said = self._ensemble.score_beside(name, running.number, x)
                else:
                    said = running.second.score(x, first, head)
            except MemberError as error:
                self._end(running, str(error)[:500])
                continue
            running.hold(said, first, head)
            ours = link if name == WHOLE else links[:, self._column(name)]
            self._compared(running, ours, said, threshold)

    def passed(self, at_ms: int) -> None:
        """The newest event scored is from then: challenges end by their deadline, or with their
        member in quarantine."""
        for running in () if self.follows else self._under_way():
            running.until_ms = running.until_ms or at_ms + running.deadline_ms
            if running.name in self._ensemble.quarantined:
                self._end(running, "the member is in quarantine")
            elif at_ms > running.until_ms and not running.proposed:
                self._end(running, "not better by the deadline")

    def _compared(self, running: _Challenge, ours: F64, theirs: F64, threshold: float) -> None:
        """Note how far the scores by these links ``(n, k)`` are apart, and who alerts."""
        task = self._task
        ours, theirs = task.output(ours), task.output(theirs)
        one, other = (task.alert(output, threshold) for output in (ours, theirs))
        gap = np.abs(task.score(ours) - task.score(theirs))
        running.scored += [
            *(len(gap), np.add.accumulate(gap)[-1]),
            *((one & other).sum(), (one & ~other).sum(), (other & ~one).sum()),
        ]

    def judge(self, numbers: I64, rows: NDArray[Any], y: F64) -> None:
        """The truths of ``n`` rows came: what both said of them then is compared."""
        said = self.said(numbers)
        for running in self._under_way():
            self._judge(running, said.get(running.key), rows, y)

    def judge_said(self, said: Said, rows: NDArray[Any], y: F64, threshold: float) -> None:
        """The same, of rows that another process scored: what challengers said of them comes too.

        How far scores are apart is known of rows with a truth alone.
        """
        for running in self._under_way():
            if (theirs := said.get(running.key)) is not None:
                ours = rows["links"][:, self._column(running.name)]
                both = ~np.isnan(theirs).any(axis=1) & ~np.isnan(ours).any(axis=1)
                if both.any():
                    self._compared(running, ours[both], theirs[both], threshold)
                self._judge(running, theirs, rows, y)

    def _judge(self, running: _Challenge, theirs: F64 | None, rows: NDArray[Any], y: F64) -> None:
        if theirs is None or not (known := ~rows["cold"] & ~np.isnan(theirs).any(axis=1)).any():
            return
        whole = running.name == WHOLE
        ours = rows["score"] if whole else rows["links"][:, self._column(running.name)]
        at_ms, over = rows["event_time_ms"][known], partial(self._decided, running)
        running.judge(at_ms, ours[known], theirs[known], y[known], over)

    def said(self, numbers: I64) -> dict[str, F64]:
        """What each challenger that had learned its fill said of these rows, if of any."""
        found = {}
        for running in self._running.values():
            known = running.holds(numbers) & (numbers >= running.ripe) & (running.ripe >= 0)
            if known.any():
                links = np.full((len(numbers), self._task.k), np.nan)
                links[known] = running.of(numbers[known])
                found[running.key] = links
        return found

    # ------------------------------------------------------------------ of another process

    def led(self) -> list[Led]:
        """The challenges here, for one that follows."""
        return [Led(Place(one.name, one.number, one.lane), one.ripe >= 0) for one in self._sorted()]

    def follow(self, led: Sequence[Led]) -> None:
        """The other process's challenges are these now; their models stand in the ensemble."""
        before, self._running = self._running, {}
        for place, ripe in led:
            key = key_of(place.name, place.number)
            made = _Challenge(place, self.terms, 1.0, self._settings.rows, self._task)
            found = self._running[key] = before.get(key, made)
            if ripe and found.ripe < 0:
                found.ripe = self._pending.tail

    def _column(self, name: str) -> int:
        return self._ensemble.voters.index(name)

    def learned(self, numbers: I64, x: FeatureBatch, y: F64, w: F64) -> None:
        """The members have learned these rows: challengers do."""
        for running in self._under_way():
            try:
                if running.second is None:
                    self._ensemble.learn_beside(running.name, running.number, x, y, w)
                else:
                    running.second.learn(numbers, x, y, w)
            except MemberError as error:
                self._end(running, str(error)[:500])
                continue
            running.labels += len(y)
            if running.ripe < 0 and running.labels >= WARM_UP:
                running.ripe = self._pending.tail

    def _decided(self, running: _Challenge) -> bool:
        """A block is over: warn, propose, promote or drop; whether the challenge is over too."""
        blocks, needed = running.blocks, running.needed
        if blocks.doubled > running.doubled:
            running.doubled = blocks.doubled
            at = {"block_ms": blocks.length_ms, "number": running.number}
            told = at | {"reason": "blocks depend on each other"}
            self._tell("challenger_warned", running, told)
        if blocks.worse() >= needed:
            self._end(running, "worse")
        elif not running.proposed and blocks.better() >= needed:
            self._better(running)
        return running.key not in self._running

    def _better(self, running: _Challenge) -> None:
        """The evidence is enough: propose it, or let it take the place; the race is over."""
        name, detail = running.name, self._known(running)
        if self._settings.promote == "auto" and name != WHOLE:
            _, digest = self.promote(name, running.number, "challenge")
            self._auditor.renewed(name, "challenger_promoted", "challenge", detail, digest)
            return
        running.proposed = True
        if self._settings.promote == "auto":
            running.won = True
        else:
            self._tell("challenger_proposed", running, detail)
        for other in self.of(name):
            if not other.proposed:
                self._end(other, f"number {running.number} was better first")

    def _tell(self, event: Reaction, running: _Challenge, detail: Mapping[str, Any]) -> None:
        self.counts[f"{event}/{running.name}"] += 1
        self._auditor.record(event, "challenge", running.name, detail)

    # ------------------------------------------------------------------ state

    def standings(self) -> list[Standing]:
        """How each challenge that is decided here stands, by the members' order; the ensemble's
        last."""
        return [] if self.follows else [self._standing(running) for running in self._sorted()]

    def _standing(self, running: _Challenge) -> Standing:
        """How a challenge stands."""
        scored, gaps, both, one, other = running.scored.tolist()
        ours, theirs = running.losses
        return Standing(
            member=running.name,
            number=running.number,
            lane=running.lane,
            spec=self._spec(running),
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
            against=running.blocks.worse(),
            needed=running.needed,
            proposed=running.proposed,
        )

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; the models are part of the ensemble's."""
        return {
            "counts": dict(self.counts),
            "tried": dict(self._tried),
            "running": {key: one.state() for key, one in self._running.items()},
        }

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these members; call after the ensemble's."""
        names = (*self._ensemble.voters, WHOLE)
        self.counts = Counter(state["counts"])
        self._tried = Counter({name: n for name, n in state["tried"].items() if name in names})
        self._running = {}
        for key, told in state["running"].items():
            place = Place(*told["place"])
            if place.name != WHOLE and key not in self._ensemble.challengers:
                continue
            second = restored(told["second"], self.another) if "second" in told else None
            own = self.terms, 1.0, self._settings.rows, self._task, second
            self._running[key] = _Challenge(place, *own)
            self._running[key].restore(told)


def carried(state: State, seen: Callable[[Spec], bool]) -> State:
    """The state of challengers for another configuration.

    ``seen`` says whether a whole ensemble can be what it is there.
    """
    running = state["running"].items()
    return state | {
        "running": {
            k: one for k, one in running if "second" not in one or seen(one["second"]["spec"])
        }
    }
