"""Why an event has its score: what each feature does to the link, beside what it usually does.

Each member says what its columns do to its link (:meth:`models.base.Model.contributions`); one that
cannot is one block, under its own name. What a member's link does to the score's is the combiner's
slope, averaged along the straight line from where the member usually is. Usual is a fading mean
over every :data:`EVERY`-th event scored: state, the only state here. Contributions and the base add
up to the score's link.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numba import float64, int64

from models.base import BOOL, F64, FeatureBatch, FeatureSchema, State
from models.ensemble.ensemble import Ensemble
from models.kernels.common import NODES, QUICK_NODES
from models.kernels.entry import entry
from models.kernels.reasons import spread, sums
from models.settings import Feature, column_names
from stream.encode.reasons import LARGEST, Writer
from stream.settings.schema import ReasonsSettings
from stream.step.scores import Why

EVERY = 16
"""Usual moves slowly: members explain so few events for it that it costs next to nothing."""
MEMORY = 4096
"""Events, of those taken, after which a mean has mostly forgotten."""

_encode = msgspec.json.Encoder().encode


class Reason(msgspec.Struct, gc=False, omit_defaults=True):
    """What pushes a score towards an alert, by how much, and in which words."""

    reason: str
    weight: float
    text: str | None = None


class Shown(msgspec.Struct, gc=False):
    """What a score is told with."""

    link: float
    base: float
    rest: float
    top: list[Reason]


class Told(NamedTuple):
    """Of ``n`` events: what ``r`` reasons do to the link through each of ``m`` members."""

    by_member: F64  # (n, m, r)
    base: F64  # (n,): with all of them the link
    link: F64  # (n,)


class Weighed(NamedTuple):
    """What is to be told with scores: of ``n`` of them, by row."""

    rows: Sequence[int]
    link: F64  # (n,)
    weights: F64  # (n, r): what each reason does to it


class Reasons:
    """Tells the reasons of one ensemble's scores.

    Parameters
    ----------
    settings : ReasonsSettings
    features : sequence of Feature
        Whose columns ``schema`` has.
    schema : FeatureSchema
    ensemble : Ensemble
        Of a target with one link, under a combiner that has slopes.

    Attributes
    ----------
    names : list of str
        The reasons: groups and features without one, in the features' order; then the members.
    """

    def __init__(
        self,
        settings: ReasonsSettings,
        features: Sequence[Feature],
        schema: FeatureSchema,
        ensemble: Ensemble,
    ) -> None:
        self._settings = settings
        self._ensemble = ensemble
        group = {feature: name for name, of in settings.groups.items() for feature in of}
        of_column = {c: group.get(f.name, f.name) for f in features for c in column_names(f)}
        self._columns = [*schema.dense, *(column.name for column in schema.hashed)]
        known = list(dict.fromkeys(group.get(f.name, f.name) for f in features))
        self.names = [*known, *ensemble.voters]
        self._texts = [settings.texts.get(name) for name in self.names]
        self._writer = Writer(self.names, self._texts, settings.most)
        self._known = len(known)
        # Of each member a place for each column, and one for all of it where it is a block.
        columns = [known.index(of_column[c]) for c in self._columns]
        self._places = np.array(
            [[*columns, self._known + j] for j in range(len(ensemble.voters))], np.int64
        )
        self._usual = np.zeros(self._places.shape)
        self._taken = np.zeros(len(ensemble.voters), np.int64)

    # ------------------------------------------------------------------ what is told

    def of(self, x: FeatureBatch, links: F64, link: F64, exact: bool) -> Told:
        """Of events with these links ``(n, m)`` and ``(n,)``; changes nothing."""
        told = np.zeros((*links.shape, len(self.names)))
        self._tell(x, links, link, exact, list(told.swapaxes(0, 1)))
        return Told(told, link - told.sum(axis=2).sum(axis=1), link)

    def _tell(
        self,
        x: FeatureBatch,
        links: F64,
        link: F64,
        exact: bool,
        into: Sequence[F64],
        told: Mapping[str, F64] | None = None,
    ) -> None:
        """Add what reasons do to the link through each member to its table ``(n, r)``.

        ``told``: what members have told of these rows already.
        """
        said = [self._said(name, x, links, exact, told) for name in self._ensemble.voters]
        moved = np.zeros(links.shape)
        for j, (parts, at) in enumerate(said):
            sums(parts, self._usual[j, at], moved[:, j])
        slopes = self._slopes(links, moved, link, NODES if exact else QUICK_NODES)
        for j, (parts, at) in enumerate(said):
            spread(parts, self._usual[j, at], slopes[:, j], self._places[j, at], into[j])

    def _said(
        self,
        name: str,
        x: FeatureBatch,
        links: F64,
        exact: bool,
        told: Mapping[str, F64] | None = None,
    ) -> tuple[F64, slice]:
        """What a member's columns do to its link, all of it where it cannot tell; at which places.

        One in quarantine says what the others do on average, and is a block.
        """
        found = None
        if told is not None and name in told:
            found = told[name]
        elif name not in self._ensemble.quarantined:
            found = self._ensemble.members[name].contributions(x, exact)
        if found is None:
            j = self._ensemble.voters.index(name)
            return np.ascontiguousarray(links[:, j : j + 1]), slice(-1, None)
        # Kernels check no bounds, and a model may be anybody's.
        if found.shape != (expected := (len(x), len(self._columns))):
            raise ValueError(
                f"{name}: contributions: expected shape {expected}, rows by dense and hashed "
                f"columns, got {found.shape}"
            )
        return np.require(found, np.float64, ["C"]), slice(0, -1)

    def _slopes(self, links: F64, moved: F64, link: F64, nodes: int) -> F64:
        """By how much the score's link moves with each member's from where that usually is.

        ``moved`` ``(n, m)``: from there to ``links``. What the slopes miss of how far the link has
        moved, they share by what they tell. A member in quarantine says what the others do on
        average: they move what it would. Raises ``ValueError`` where the combiner has no slopes;
        the settings refuse those.
        """
        combiner, start = self._ensemble.combiner, links - moved
        silent = np.array([name in self._ensemble.quarantined for name in self._ensemble.voters])
        if silent.any():
            start[:, silent] = start[:, ~silent].mean(axis=1, keepdims=True)
        found = combiner.slopes(start, links, nodes)
        if found is None:
            raise ValueError("reasons: expected a combiner that has slopes")
        if silent.any():
            found[:, ~silent] += found[:, silent].sum(axis=1, keepdims=True) / (~silent).sum()
            found[:, silent] = 0.0
        parts = found * moved
        missed = link - combiner.combine(start[:, :, None])[:, 0] - parts.sum(axis=1)
        total = np.abs(parts).sum(axis=1)
        share = np.divide(missed, total, out=np.zeros(len(link)), where=total > 0.0)
        found *= 1.0 + np.sign(parts) * share[:, None]
        return found

    # ------------------------------------------------------------------ for people

    @property
    def tells_all(self) -> bool:
        """Whether every score is told with its reasons."""
        return self._settings.tell == "all"

    def weighed(
        self,
        x: FeatureBatch,
        links: F64,
        link: F64,
        alert: BOOL,
        told: Mapping[str, F64] | None = None,
    ) -> Weighed:
        """What is to be told of events with these links, of alerts exactly: somebody acts on them.

        ``told``: what members told while they scored.
        """
        rows = np.flatnonzero(alert if self._settings.tell != "asked" else alert[:0])
        weights = np.zeros((len(x), len(self.names)))
        if self.tells_all:
            self._tell(x, links, link, False, [weights] * links.shape[1], told)
        if len(rows):
            exactly = np.zeros((len(rows), len(self.names)))
            some = x.take(rows), links[rows], link[rows]
            self._tell(*some, True, [exactly] * links.shape[1])
            weights[rows] = exactly
        if self.tells_all:
            return Weighed(range(len(x)), link, weights)
        return Weighed(rows.tolist(), link[rows], weights[rows])

    def written(self, told: Weighed, n: int) -> Why:
        """Of ``n`` scores what is to be told with them, as JSON."""
        link, weights = told.link, told.weights
        base = link - weights.sum(axis=1)
        if max(np.abs(weights).max(initial=0.0), np.abs(base).max(initial=0.0)) < LARGEST:
            made = self._writer.write(link, base, weights)
        else:
            made = [*map(_encode, self.shown(Told(weights[:, None], base, link)))]
        raws = map(msgspec.Raw, made)
        if len(made) == n:
            return raws
        found: list[msgspec.Raw | msgspec.UnsetType] = [msgspec.UNSET] * n
        for row, raw in zip(told.rows, raws, strict=True):
            found[row] = raw
        return found

    def shown(self, told: Told) -> Iterator[Shown]:
        """Of each event what pushes it towards an alert, the strongest first; ties by their order.

        ``base`` and ``rest``, which is all that is not shown, add up with them to the ``link``.
        """
        weights = told.by_member.sum(axis=1)
        order = np.argsort(-weights, axis=1, kind="stable")[:, : self._settings.most]
        top = np.take_along_axis(weights, order, axis=1)
        positive = np.maximum(top, 0.0)
        rest = weights.sum(axis=1) - positive.sum(axis=1)
        texts = self._texts
        columns = (told.link, told.base, rest, order, top)
        for link, base, left, names, pushes in zip(*(c.tolist() for c in columns), strict=True):
            reasons = [
                Reason(self.names[r], push, texts[r])
                for r, push in zip(names, pushes, strict=True)
                if push > 0.0
            ]
            yield Shown(link, base, left, reasons)

    def whole(self, told: Told) -> dict[str, Any]:
        """Of one event what is :meth:`shown`, and what each reason does through each member."""
        members = {
            name: {
                reason: weight
                for r, (reason, weight) in enumerate(zip(self.names, row, strict=True))
                if r in self._places[j]
            }
            for j, (name, row) in enumerate(
                zip(self._ensemble.voters, told.by_member[0].tolist(), strict=True)
            )
        }
        [shown] = self.shown(told)
        found: dict[str, Any] = msgspec.to_builtins(shown)
        return found | {"members": members}

    # ------------------------------------------------------------------ what is usual

    def scored(
        self, x: FeatureBatch, links: F64, before: int, told: Mapping[str, F64] | None = None
    ) -> None:
        """Take every :data:`EVERY`-th event, ``before`` having been scored so far.

        ``told``: what members told while they scored.
        """
        rows = np.arange(-before % EVERY, len(x), EVERY)
        if not len(rows):
            return
        x, links = x.take(rows), links[rows]
        told = {name: parts[rows] for name, parts in (told or {}).items()}
        for j, name in enumerate(self._ensemble.voters):
            if name in self._ensemble.quarantined:
                continue
            said, part = self._said(name, x, links, False, told)
            self._taken[j] = _remember(said, self._usual[j, part], self._taken[j], MEMORY)

    def replaced(self, name: str) -> None:
        """Another model stands in the member's place: nothing is usual of it yet."""
        if name in self._ensemble.voters:
            j = self._ensemble.voters.index(name)
            self._usual[j], self._taken[j] = 0.0, 0

    def state(self) -> State:
        """By member and column."""
        return {
            "columns": list(self._columns),
            "usual": {n: self._usual[j].copy() for j, n in enumerate(self._ensemble.voters)},
            "taken": {n: int(self._taken[j]) for j, n in enumerate(self._ensemble.voters)},
        }

    def restore(self, state: State) -> None:
        """Take over what is known of members that see the same columns; the others start new."""
        usual: Mapping[str, F64] = state["usual"]
        same = state["columns"] == self._columns
        for j, name in enumerate(self._ensemble.voters):
            self._usual[j], self._taken[j] = 0.0, 0
            if same and name in usual:
                self._usual[j], self._taken[j] = usual[name], state["taken"][name]


@entry(int64(float64[:, ::1], float64[::1], int64, int64))
def _remember(told: F64, usual: F64, taken: int, memory: int) -> int:
    """Take each row into the mean ``usual`` of the ``taken`` before; how many those are then.

    Past ``memory`` of them the mean fades.
    """
    for i in range(len(told)):
        taken = min(taken + 1, memory)
        for f in range(len(usual)):
            usual[f] += (told[i, f] - usual[f]) / taken
    return taken
