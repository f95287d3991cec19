"""The members and the combiner: many logits become one score, and labels teach them all.

Called by the engine: :meth:`Ensemble.score` for events, :meth:`Ensemble.learn` for labels in the
order in which they came. Knows nothing of where events come from; reads no clock, does no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.base import (
    F64,
    FeatureBatch,
    MillraceError,
    Model,
    Parameter,
    State,
    StateError,
    state_digest,
)
from models.combine import combiner


class MemberError(MillraceError):
    """A member failed: it raised, or gave scores that are not finite numbers.

    ``member`` is its name, ``action`` is ``"score"`` or ``"learn"``; ``__cause__`` what it raised.
    """

    def __init__(self, member: str, action: str, rows: int, reason: str) -> None:
        self.member = member
        self.action = action
        super().__init__(f"member {member!r} failed to {action} {rows} row(s): {reason}")


class Ensemble:
    """Members in a fixed order under one combiner.

    Parameters
    ----------
    members : mapping of name to Model
    combine : str
        A name of :data:`models.combine.COMBINERS`.
    seed : int
        Of what the combiner draws (``bagging`` only).
    learn_every : mapping of name to int
        A member named here learns only each n-th labelled row.

    A frozen member scores but does not learn. A quarantined one does neither: its column is the
    mean of the others' logits, which leaves a mean of logits as if it were not there. ``release``
    ends both.
    """

    def __init__(
        self,
        members: Mapping[str, Model],
        combine: str,
        seed: int = 0,
        learn_every: Mapping[str, int] | None = None,
    ) -> None:
        self.members: dict[str, Model] = dict(members)
        self.names: tuple[str, ...] = tuple(members)
        self.combiner = combiner(combine, len(self.names), seed)
        self.learn_every = {name: (learn_every or {}).get(name, 1) for name in self.names}
        self._frozen: set[str] = set()
        self._quarantined: set[str] = set()
        self._labelled = 0

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the members that do not learn because an operator said so."""
        return frozenset(self._frozen)

    @property
    def quarantined(self) -> frozenset[str]:
        """Names of the members that are left out because they failed."""
        return frozenset(self._quarantined)

    def freeze(self, name: str) -> None:
        """The member scores on but learns nothing until it is released."""
        self._frozen.add(self._known(name))

    def quarantine(self, name: str) -> None:
        """The member neither scores nor learns until it is released."""
        self._quarantined.add(self._known(name))

    def release(self, name: str) -> None:
        """The member scores and learns again."""
        self._frozen.discard(self._known(name))
        self._quarantined.discard(name)

    def _known(self, name: str) -> str:
        if name not in self.members:
            raise KeyError(f"expected one of {', '.join(self.names)}; got {name!r}")
        return name

    def score(self, x: FeatureBatch) -> tuple[F64, F64]:
        """Member logits ``(n, m)`` and the ensemble's logits ``(n,)``, all finite.

        Raises
        ------
        MemberError
            A member raised, or its scores are no ``n`` finite numbers. No state has changed; the
            same call works once that member is in quarantine.
        """
        links = np.zeros((len(x), len(self.names)))
        for j, name in enumerate(self.names):
            if name not in self._quarantined:
                links[:, j] = _score(name, self.members[name], x)
        out = [j for j, name in enumerate(self.names) if name in self._quarantined]
        if out and len(out) < len(self.names):
            links[:, out] = np.delete(links, out, axis=1).mean(axis=1, keepdims=True)
        return links, self.combiner.combine(links)

    def learn(self, x: FeatureBatch, links: F64, y: F64, w: F64) -> list[MemberError]:
        """Learn ``n`` labelled rows, in label order; gives one error for each member that failed.

        1. The combiner learns from the predictions as they were made.
        2. The members that are neither frozen nor in quarantine learn the rows.

        A member that fails has learned an unknown part of its rows: the caller puts it into
        quarantine. The same rows fail at the same place in every run, so a replay ends in the same
        state. The other members learn in full.

        Parameters
        ----------
        x : FeatureBatch
        links : float64 array ``(n, m)``
            Member logits as :meth:`score` gave them for these rows.
        y, w : float64 arrays ``(n,)``
            Truths 0 or 1; weights >= 0.
        """
        self.combiner.update(links, y, w)
        weights = self.combiner.member_weights(self._labelled, w)
        rows = np.arange(self._labelled, self._labelled + len(y))
        self._labelled += len(y)
        errors = []
        for j, name in enumerate(self.names):
            if name in self._frozen or name in self._quarantined:
                continue
            every = self.learn_every[name]
            taken = slice(None) if every == 1 else rows % every == 0
            try:
                self.members[name].learn(x.take(taken), y[taken], weights[taken, j])
            except Exception as error:  # noqa: BLE001 a member may be anybody's code
                reason = f"{type(error).__name__}: {error}"
                failed = MemberError(name, "learn", len(y), reason)
                failed.__cause__ = error
                errors.append(failed)
        return errors

    def weights(self) -> F64:
        """The members' present weights ``(m,)``; what they mean the combiner says."""
        return self.combiner.weights()

    def parameters(self) -> dict[str, Sequence[Parameter]]:
        """Each member's parameter table, and the combiner's under ``"ensemble"``."""
        tables = {name: self.members[name].parameters() for name in self.names}
        return {**tables, "ensemble": self.combiner.parameters()}

    def adopt(self, other: Ensemble, names: Sequence[str]) -> None:
        """Take over the members of these names from ``other``, with all they know and their marks.

        ``other`` must not be used afterwards: the members move.
        """
        for name in names:
            self.members[name] = other.members[name]
            if name in other.frozen:
                self._frozen.add(name)
            if name in other.quarantined:
                self._quarantined.add(name)
        self._labelled = other._labelled

    def adopt_combiner(self, other: Ensemble) -> None:
        """Take over the combiner of an ensemble with the same members in the same order."""
        self.combiner = other.combiner

    def state(self) -> State:
        """Members', combiner's and own state, as copies."""
        return {
            "members": {name: member.state() for name, member in self.members.items()},
            **self._own_state(),
        }

    def _own_state(self) -> State:
        return {
            "format": 1,
            "combiner": self.combiner.state(),
            "frozen": sorted(self._frozen),
            "quarantined": sorted(self._quarantined),
            "labelled": self._labelled,
        }

    def restore(self, state: State) -> None:
        """Become the ensemble that gave ``state``; :class:`StateError` if it does not fit."""
        if state.get("format") != 1 or set(state["members"]) != set(self.names):
            got = ", ".join(state.get("members", ())) or "none"
            raise StateError(
                f"ensemble: expected format 1 with members {', '.join(self.names)}; got format"
                f" {state.get('format')!r} with members {got}"
            )
        for name, member in self.members.items():
            try:
                member.restore(state["members"][name])
            except StateError as error:
                raise StateError(f"member {name!r}: {error}") from error
        self.combiner.restore(state["combiner"])
        self._frozen = set(state["frozen"])
        self._quarantined = set(state["quarantined"])
        self._labelled = int(state["labelled"])

    def roots(self) -> dict[str, str]:
        """Each member's digest, and under ``"ensemble"`` that of all the rest of the state."""
        members = {name: member.digest() for name, member in self.members.items()}
        return members | {"ensemble": state_digest(self._own_state())}

    def digest(self) -> str:
        """Hex digest of the whole state, by the members' own digests."""
        members = {name: member.digest() for name, member in self.members.items()}
        return state_digest({"members": members, **self._own_state()})


def _score(name: str, member: Model, x: FeatureBatch) -> F64:
    """One member's logits ``(n,)``; whatever goes wrong becomes a :class:`MemberError`."""
    try:
        scores = np.asarray(member.score(x), dtype=np.float64)
    except Exception as error:
        raise MemberError(name, "score", len(x), f"{type(error).__name__}: {error}") from error
    if scores.shape != (len(x), 1):
        raise MemberError(name, "score", len(x), f"expected shape (n, 1), got {scores.shape}")
    bad = np.flatnonzero(~np.isfinite(scores[:, 0]))
    if len(bad):
        reason = f"expected finite numbers, got {scores[bad[0], 0]} in row {bad[0]}"
        raise MemberError(name, "score", len(x), reason)
    return scores[:, 0]
