"""The members and the combiner: many links become one score, and labels teach them all.

:meth:`Ensemble.score` for events, :meth:`Ensemble.learn` for labels in the order in which they
came. Knows nothing of where events come from; reads no clock, does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from models.base import (
    F64,
    FeatureBatch,
    MillraceError,
    Model,
    Parameter,
    State,
)
from models.carry import shared
from models.ensemble.combine import combiner
from models.ensemble.conformal import conformal
from models.ensemble.crew import Crew, Job
from models.ensemble.group import Group, Spec, key_of, place_of
from models.prior import Prior
from models.task import BINARY, Task

T = TypeVar("T")
SIDE_BY_SIDE = 256
"""Rows from which on members share threads: to wake one takes as long as a forest's ten rows."""

Failure = Literal["score_raised", "score_shape", "score_not_finite", "learn_raised"]
FAILURES: tuple[Failure, ...] = get_args(Failure)
"""Every way in which a member can fail."""


class MemberError(MillraceError):
    """A member failed: it raised, or gave scores that are not finite numbers.

    ``member`` is its name, ``kind`` one of :data:`FAILURES`; ``__cause__`` what it raised.
    """

    def __init__(self, member: str, kind: Failure, rows: int, reason: str) -> None:
        self.member = member
        self.kind = kind
        action = kind.partition("_")[0]
        super().__init__(f"member {member!r} failed to {action} {rows} row(s): {reason}")


class Ensemble(Group[Model]):
    """Members in a fixed order under one combiner.

    Parameters
    ----------
    members : mapping of name to Model
    combine : str
        A name of :data:`models.ensemble.combine.COMBINERS`.
    seed : int
        Of what the combiner draws (``bagging`` and ``boosting``).
    learn_every : mapping of name to int
        A member named here learns only each n-th labelled row.
    prior : float or None
        What is said while cold; ``None``: what the truths learned so far are on average.
    task : Task
    beside : mapping of name to Learner
        Others that are frozen, watched and saved with the members, and have no part in the score.
    threads : int or None
        In how many members score and learn; ``None``: one for each core. No bit depends on it.

    While no member that counts has learned a row since it began, the ensemble is cold: its score
    is the prior, whatever members say. A frozen member scores but does not learn. A quarantined one
    does neither: its column is the mean of the others' links, which leaves a mean of links as if
    it were not there. ``release`` ends both. Challengers learn beside the
    member that each may replace, and have no vote.

    Attributes
    ----------
    voters : tuple of str
        The members, in the order of the links' columns; ``names`` has those beside them too.
    prior : Prior
        What a cold ensemble says.
    crew : Crew
        The threads in which members score and learn.
    promises : Conformal or None
        Intervals around numbers, sets of classes; of yes or no there is nothing to promise.
    challenger_specs : dict of str to Spec
        By which definition a challenger was made, where that is not the member's own.
    """

    def __init__(
        self,
        members: Mapping[str, Model],
        combine: str,
        seed: int = 0,
        learn_every: Mapping[str, int] | None = None,
        prior: float | None = None,
        task: Task = BINARY,
        beside: Mapping[str, Any] | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__({**(beside or {}), **members})
        self.voters = tuple(members)
        self.challenger_specs: dict[str, Spec] = {}
        self.task = task
        self._combine = (combine, len(self.voters), seed, task)
        self.combiner = combiner(*self._combine)
        self.learn_every = {name: (learn_every or {}).get(name, 1) for name in self.voters}
        self._taught: set[str] = set()  # members that have learned a row since they began
        self._labelled = 0
        self.prior: Prior = task.prior(prior)
        self.promises = conformal(task)
        self.crew = Crew(threads)

    @property
    def cold(self) -> bool:
        """Whether no member out of quarantine has learned a row since it began, or there is
        nothing to say: no class is known."""
        return self._taught <= self._quarantined or not self.task.known

    @property
    def labelled(self) -> int:
        """Rows that the members were taught."""
        return self._labelled

    def score(self, x: FeatureBatch, told: dict[str, F64] | None = None) -> tuple[F64, F64]:
        """Member links ``(n, m, k)`` and the ensemble's links ``(n, k)``.

        All are finite, but ``-inf`` of classes that nobody named yet. ``told`` gets what columns do
        to the links of each member that tells while it scores, see :meth:`Model.telling`.

        Raises
        ------
        MemberError
            A member raised, or its scores are not ``(n, k)`` finite numbers. No state has changed;
            the same call works once that member is in quarantine.
        """
        k = self.task.k
        links = np.zeros((len(x), len(self.voters), k))
        parts = {n: self.members[n].parts() for n in self.voters if n not in self._quarantined}
        jobs = {
            name: [
                partial(_say, name, one, x, k, told is not None and len(own) == 1) for one in own
            ]
            for name, own in parts.items()
        }
        found = {}
        for name, made in self._done(jobs, len(x)).items():
            if isinstance(made, MemberError):
                raise made
            links[:, self.voters.index(name)] = self.members[name].joined([one for one, _ in made])
            found[name] = made[0][1]
        if told is not None:
            told.update((name, each) for name, each in found.items() if each is not None)
        out = [j for j, name in enumerate(self.voters) if name in self._quarantined]
        if out and len(out) < len(self.voters):
            links[:, out] = np.delete(links, out, axis=1).mean(axis=1, keepdims=True)
        links = self.task.heard(links)
        return links, self.combined(links)

    def combined(self, links: F64) -> F64:
        """The ensemble's links ``(n, k)`` where the members' are ``links`` ``(n, m, k)``."""
        if self.cold:
            link = np.tile(self.task.link(self.prior.output()), (len(links), 1))
        else:
            link = self.combiner.combine(links)
        return self.task.heard(link)

    def learn(self, x: FeatureBatch, links: F64, y: F64, w: F64) -> list[MemberError]:
        """Learn ``n`` labelled rows, in label order: :meth:`weigh`, then :meth:`teach`.

        Parameters
        ----------
        x : FeatureBatch
        links : float64 array ``(n, m, k)``
            Member links as :meth:`score` gave them for these rows; ``nan`` of a member that was
            not there then.
        y, w : float64 arrays ``(n,)``
            Truths of the task; weights >= 0.
        """
        self.weigh(links, y, w)
        return self.teach(x, y, w)

    def weigh(self, links: F64, y: F64, w: F64) -> None:
        """The combiner learns from predictions as they were made, the prior from the truths."""
        self.combiner.update(links, y, w)
        self.prior.learn(y, w)

    def teach(
        self, x: FeatureBatch, y: F64, w: F64, then: Mapping[str, Callable[[], None]] | None = None
    ) -> list[MemberError]:
        """The members learn ``n`` rows; gives one error for each that failed.

        ``then``: what is done once the member of that name has learned, in the thread it learned
        in; of one that failed, or that learns in several parts, it is not done.

        Those that are frozen or in quarantine learn nothing. With ``boosting`` the rows are those
        that :meth:`weigh` took last. A member that fails has learned an unknown part of its rows:
        the caller puts it into quarantine. The same rows fail at the same place in every run, so a
        replay ends in the same state. The other members learn in full.
        """
        weights = self.combiner.member_weights(self._labelled, w)
        first = self._labelled
        self._labelled += len(y)
        jobs = {}
        for j, name in enumerate(self.voters):
            if name in self._frozen or name in self._quarantined:
                continue
            taken = self._taken(name, first, len(y))
            rows = x.take(taken), y[taken], weights[taken, j]
            parts = self.members[name].parts()
            jobs[name] = [partial(_learn, name, part, *rows) for part in parts]
            if then and name in then and len(parts) == 1:
                jobs[name] = [partial(_in_turn, jobs[name][0], then[name])]
            if weights[taken, j].any():
                self._taught.add(name)
        done = self._done(jobs, len(y), long=True).values()
        return [error for error in done if isinstance(error, MemberError)]

    def _done(
        self, jobs: Mapping[str, Sequence[Callable[[], T]]], n: int, long: bool = False
    ) -> dict[str, list[T] | MemberError]:
        """What the jobs of each member's parts over ``n`` rows give, or how one of them failed."""
        each = [(name, partial(_tried, job)) for name, own in jobs.items() for job in own]
        if n < SIDE_BY_SIDE:
            made = [job() for _, job in each]
        else:
            us = [part.unlocked_us for name in jobs for part in self.members[name].parts()]
            crewed = [Job(job, cost) for (_, job), cost in zip(each, us, strict=True)]
            made = self.crew.do(crewed, long)
        found: dict[str, list[T] | MemberError] = {name: [] for name in jobs}
        for (name, _), one in zip(each, made, strict=True):
            before = found[name]
            if isinstance(before, MemberError):
                continue  # the first failure is told
            if isinstance(one, MemberError):
                found[name] = one
            else:
                before.append(one)
        return found

    def _taken(self, name: str, first: int, n: int) -> slice | NDArray[Any]:
        """Which of the ``n`` labelled rows from number ``first`` on the member learns."""
        every = self.learn_every[name]
        return slice(None) if every == 1 else np.arange(first, first + n) % every == 0

    # ------------------------------------------------------------------ beginning anew

    def forget(self) -> None:
        """The combiner begins anew; the members stay as they are."""
        self.combiner = combiner(*self._combine)

    def renew(self, name: str, number: int) -> None:
        """The member begins anew, under its name and its marks."""
        self.members[self._known(name)] = self.made(name, number, self.specs.get(name))
        self._taught.discard(name)

    def warm(self, name: str, first: int, x: FeatureBatch, y: F64, w: F64) -> int:
        """The member learns rows from before it came, ``n`` from number ``first`` on.

        Gives how many there were. Raises :class:`MemberError` if it fails.
        """
        taken = self._taken(name, first, len(y))
        _learn(name, self.members[name], x.take(taken), y[taken], w[taken])
        self._taught.add(name)
        return len(y)

    def taught(self, name: str) -> bool:
        """See :meth:`Group.taught`."""
        return name in self._taught or name not in self.voters

    def replace(
        self, name: str, model: Model, spec: Spec | None = None, taught: bool = True
    ) -> None:
        """See :meth:`Group.replace`."""
        super().replace(name, model, spec, taught)
        self._taught.discard(name)
        if taught and name in self.voters:
            self._taught.add(name)

    def challenge(
        self, name: str, number: int, spec: Spec | None = None, model: Model | None = None
    ) -> None:
        """A new model begins to learn beside the member; without ``spec`` one made as it is.

        ``model``: this one does, which was made by ``spec``; ``None``: by the place's own.
        """
        if spec is None and model is None:
            spec = self.specs.get(self._known(name))
        key = key_of(name, number)
        self.challengers[key] = self.made(name, number, spec) if model is None else model
        if spec is not None:
            self.challenger_specs[key] = spec

    def score_beside(self, name: str, number: int, x: FeatureBatch) -> F64:
        """Links ``(n, k)`` of the member's challenger with this number.

        Raises :class:`MemberError` if it fails.
        """
        key = key_of(name, number)
        return self.task.heard(_score(key, self.challengers[key], x, self.task.k))

    def learn_beside(self, name: str, number: int, x: FeatureBatch, y: F64, w: F64) -> None:
        """The challenger learns the rows of the last :meth:`learn` as its member learned them.

        Raises :class:`MemberError` if it fails.
        """
        key = key_of(name, number)
        first = self._labelled - len(y)
        weights = self.combiner.member_weights(first, w)[:, self.voters.index(name)]
        taken = self._taken(name, first, len(y))
        _learn(key, self.challengers[key], x.take(taken), y[taken], weights[taken])

    def promote(self, name: str, number: int, taught: bool = True) -> None:
        """The challenger takes the member's place; ``taught``: whether it has learned a row."""
        key = key_of(name, number)
        spec = self.challenger_specs.pop(key, None)
        self.replace(name, self.challengers.pop(key), spec, taught)

    def drop(self, name: str, number: int) -> None:
        """The challenger goes, if it is there."""
        self.challengers.pop(key_of(name, number), None)
        self.challenger_specs.pop(key_of(name, number), None)

    def remember(self, name: str) -> None:
        """What the member is now is what it is compared with from here on."""
        model = self.made(name, 0, self.specs.get(name))
        model.restore(self.members[name].state())
        self.last_good[name] = model

    def score_last_good(self, name: str, x: FeatureBatch) -> F64:
        """Links ``(n, k)`` of what the member was; raises :class:`MemberError` if that fails."""
        return self.task.heard(_score(name, self.last_good[name], x, self.task.k))

    def weights(self) -> F64:
        """The members' present weights ``(m,)``; what they mean the combiner says."""
        return self.combiner.weights()

    def parameters(self) -> dict[str, Sequence[Parameter]]:
        """Each member's parameter table, and the combiner's under ``"ensemble"``."""
        tables = super().parameters()
        own = [*self.combiner.parameters(), *(self.promises.parameters() if self.promises else ())]
        return {**tables, "ensemble": own}

    def _own_state(self) -> State:
        return {
            **super()._own_state(),
            "combiner": self.combiner.state(),
            "taught": sorted(self._taught),
            "labelled": self._labelled,
            **self.prior.state(),
            **{
                key: {name: dict(spec) for name, spec in specs.items()}
                for key, specs in (
                    ("specs", self.specs),
                    ("challenger_specs", self.challenger_specs),
                )
                if specs
            },
            **({"voters": list(self.voters)} if self.voters != self.names else {}),
            **({"promises": self.promises.state()} if self.promises else {}),
        }

    def restore(self, state: State) -> None:
        """See :meth:`Group.restore`. Without a ``combiner`` in the state that one starts new too.

        ``voters``, else ``names``, are the combiner's columns.
        """
        super().restore(state)

    def _restore(self, state: State, viewed: bool) -> None:
        super()._restore(state, viewed)
        if "combiner" in state:
            columns: Sequence[str] = state.get("voters") or state["names"]
            self.combiner.restore(state["combiner"], shared(self.voters, columns))
        self._taught = set(state["taught"]).intersection(self.voters)
        self._labelled = int(state["labelled"])
        self.prior.restore(state)
        if self.promises and "promises" in state:
            self.promises.restore(state["promises"])

    def _begin(self, state: State, viewed: bool) -> None:
        specs, challenger_specs = (
            {n: spec for n, spec in state.get(key, {}).items() if place_of(n) in self.voters}
            for key in ("specs", "challenger_specs")
        )
        for name in state["members"].keys() & {*specs, *self.specs}:
            # A view is put into what stands there, if it was made so.
            if not viewed or specs.get(name) != self.specs.get(name):
                self.members[name] = self.made(name, 0, specs.get(name))
        there = self.challengers if viewed else {}
        self.challengers = {
            key: there[key]
            if key in there and challenger_specs.get(key) == self.challenger_specs.get(key)
            else self.made(place_of(key), 0, challenger_specs.get(key))
            for key in state.get("challengers", {})
            if place_of(key) in self.voters
        }
        self.specs, self.challenger_specs = specs, challenger_specs
        self.last_good = {
            name: self.made(name, 0, self.specs.get(name))
            for name in state.get("last_good", {})
            if name in self.voters
        }


def _in_turn(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()


def _tried(job: Callable[[], T]) -> T | MemberError:
    try:
        return job()
    except MemberError as error:
        return error


def _score(name: str, member: Model, x: FeatureBatch, k: int) -> F64:
    """One model's links ``(n, k)``; whatever goes wrong becomes a :class:`MemberError`."""
    return _say(name, member, x, k, tell=False)[0]


def _say(name: str, member: Model, x: FeatureBatch, k: int, tell: bool) -> tuple[F64, F64 | None]:
    """The same, and what columns do to them if it shall ``tell``, and can."""
    try:
        links, told = member.telling(x) if tell else (member.score(x), None)
        scores = np.asarray(links, dtype=np.float64)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise MemberError(name, "score_raised", len(x), reason) from error
    if scores.shape != (len(x), k):
        reason = f"expected shape (n, {k}), got {scores.shape}"
        raise MemberError(name, "score_shape", len(x), reason)
    rows, columns = np.nonzero(~np.isfinite(scores))
    if len(rows):
        reason = f"expected finite numbers, got {scores[rows[0], columns[0]]} in row {rows[0]}"
        raise MemberError(name, "score_not_finite", len(x), reason)
    return scores, told


def _learn(name: str, member: Model, x: FeatureBatch, y: F64, w: F64) -> None:
    """Teach one model; whatever goes wrong becomes a :class:`MemberError`."""
    try:
        member.learn(x, y, w)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise MemberError(name, "learn_raised", len(y), reason) from error
