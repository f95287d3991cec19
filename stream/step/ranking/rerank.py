"""The second stage of a ranking: members that score events put the best candidates in order.

Each candidate is a row: fields of the request, of the item and of the user, windows of user, item
and both, and what the recommender says of it. What is shown waits in the pending store with its
features as they were scored; taken it is learned as yes, and at the horizon, by silence, as no.
Some lists are a trial: both stages fill their places in turn, and whose items are taken more often
leads the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, U64, EventColumns, State
from models.ensemble.ensemble import Ensemble
from models.features.stage import FeatureStage
from models.kernels.common import mix_all
from models.reco.profiles import Profiles
from models.reco.recommender import Ranked
from monitoring.audit.auditor import Auditor
from monitoring.drift.monitor import Alarm, DriftMonitor
from monitoring.quality.tasks import Judge
from stream.decode.feedback import fields_of
from stream.decode.row_fields import NUMBERS, RowFields, Told
from stream.settings.ranking import UTILITY
from stream.settings.schema import Config
from stream.step.join import Labelled, Left
from stream.step.learn import Learning
from stream.step.lifecycle.challengers import Said
from stream.step.lifecycle.reactions import Reactions
from stream.step.maturity import Maturity
from stream.step.outcomes import Outcomes
from stream.step.pending.store import Pending
from stream.step.roles.examples import Handing
from stream.step.roles.examples import Rows as Examples
from stream.step.roles.risk import Sharing, shared_by
from stream.step.tallies import Tallies

SIDE = ("side", "<f4")
"""Of a row that waits: how much rather the second stage filled its place so than the first did,
within -1 and 1; 0 where no trial was."""
FADE = 2_000.0
"""Items taken of trials that count, about."""
ADVANTAGE, SURE = 5.0, 1.5
"""The second stage leads once what was taken of its items rather than of the first stage's is more
than ``SURE`` standard deviations of chance, with ``ADVANTAGE`` added to the variance."""


class Parts(NamedTuple):
    """What a second stage is made of."""

    features: FeatureStage
    ensemble: Ensemble
    quality: Judge
    matured: Judge
    drift: DriftMonitor


class Asked(NamedTuple):
    """For whom a list is, and what the request tells of itself."""

    time_ms: int
    user: int
    session: int
    fields: Told


class Rows(NamedTuple):
    """Candidates of one list as they were scored, in the order of the first stage."""

    keys: U64
    columns: EventColumns
    held: NDArray[Any]  # (n,) of the store's dtype

    def drafted(self, keys: U64, side: F64) -> None:
        """Note of items of a trial what :data:`SIDE` tells."""
        where = {key: i for i, key in enumerate(self.keys.tolist())}
        self.held["side"][[where[key] for key in keys.tolist()]] = side


class Reranker:
    """Scores candidates, holds those that are shown, learns what became of them.

    Parameters
    ----------
    config : Config
    parts : Parts
    pending : Pending
        With :data:`SIDE` beside the columns of scored events.
    auditor : Auditor

    Attributes
    ----------
    counts : Counter
        Of places of lists: ``shown``, ``learned``, ``updates.MEMBER``,
        ``member_errors.MEMBER.KIND``.
    names : tuple of str
        Members of both stages.
    outcomes : Outcomes
        What becomes of places, and who learns it.
    trials : float64 array ``(2,)``
        Of what was taken of trials the sum of :data:`SIDE`, and of its squares; newer counts more.
    sharing : Sharing or None
        Of a scorer what it tells others of entities that they see too.
    handing : Handing or None
        Of a scorer what collects what becomes of places.
    sides : list of float
        Of a scorer :data:`SIDE` of places of trials that were taken in the step.
    """

    sharing: Sharing | None = None

    def __init__(
        self,
        config: Config,
        parts: Parts,
        pending: Pending,
        auditor: Auditor,
    ) -> None:
        assert config.reco is not None
        self.features, self.ensemble = parts.features, parts.ensemble
        self.quality, self.matured, self.drift = parts.quality, parts.matured, parts.drift
        self.task = self.ensemble.task
        self.counts: Counter[str] = Counter()
        self.tallies = Tallies(self.task)
        self.reactions = Reactions(config.drift, self.ensemble, auditor, None)
        self.maturity = Maturity(config.label, self.task, pending)
        learning = Learning(
            *(self.features, self.ensemble, self.quality, self.drift, auditor, self.reactions),
            *(None, None, None, self.counts, self.task),
        )
        self._learning, self._pending = learning, pending
        self.handing: Handing | None = None
        self.sides: list[float] = []
        self.outcomes = Outcomes(
            *(pending, self.ensemble, learning, self.maturity, self.tallies, self.matured)
        )
        self._auditor = auditor
        self.fields = RowFields(config.row_fields)
        numbers = [name for name, kind in self.fields.kinds.items() if kind in NUMBERS]
        names = [name for name in self.fields.kinds if name not in numbers]
        self.items = Profiles(numbers, names, config.reco.items)
        self.users = Profiles(numbers, names, config.reco.users)
        self._members = config.reco.members.names
        self._unsaid = {
            name: default
            for name in (UTILITY, *self._members)
            if isinstance(default := config.event.fields[name].default, float | int)
        }
        self.trials = np.zeros(2)
        self.names = (*self._members, *self.ensemble.voters)

    @property
    def leads(self) -> bool:
        """Whether the second stage's order is shown."""
        ahead, variance = self.trials
        return bool(ahead > SURE * np.sqrt(ADVANTAGE + variance)) and not self.ensemble.cold

    def hand_over(self, config: Config, meant: str) -> Handing:
        """Let what becomes of places be learned elsewhere; gives what collects it.

        ``meant``: see :func:`~stream.step.roles.examples.meaning`.
        """
        made = self.handing = Handing(*self._learning.parts)
        made.meaning, made.beside = meant, _nothing_beside
        self._learning = self.outcomes.learning = made
        if config.shared_entities:
            self.sharing = shared_by(config, self.features)
            made.tell_known = self.sharing.known
        return made

    def tried(self, sides: Sequence[float]) -> None:
        """Places of trials were taken, for the first time, with these :data:`SIDE`."""
        for side in sides:
            self.trials *= 1.0 - 1.0 / FADE
            self.trials += side, side * side

    def learn(self, run: Examples) -> list[Alarm]:
        """What became of places that others scored is judged, learned, or both."""
        example, rows, y, w, _ = run
        numbers, watermark_ms = np.arange(len(rows), dtype=np.int64), example.watermark_ms
        alarms: list[Alarm] = []
        if example.judged:
            alarms = self._learning.judge(numbers, rows, y, watermark_ms)
        if example.learned:
            self._learning.learn(rows, y, w, watermark_ms, example.waited, numbers)
        return alarms

    def told(self, what: Any) -> Told:
        """What a record, whose fields the decoder found good, tells."""
        return self.fields.read(fields_of(what.fields))

    def forget(self, user: int, item: int) -> None:
        """Nothing that was told of them is known any more; 0: nobody."""
        self.users.forget(user)
        self.items.forget(item)

    # ------------------------------------------------------------------ candidates

    def rows(self, asked: Asked, found: Ranked, unknown: U64) -> Rows:
        """Score what the recommender found, best first, and behind it items it knows nothing of.

        Changes nothing, but that a member which fails is left out from here on.
        """
        keys = np.concatenate([found.items, unknown])
        columns = self._columns(asked, found, keys)
        x = self.features.look(columns)
        links, link = self._learning.score(x)
        held = np.zeros(len(x), self._pending.dtype)
        held["event_time_ms"], held["shown"], held["cold"] = asked.time_ms, True, self.ensemble.cold
        held["links"], held["score"] = links, link
        held["dense"], held["hashed"] = x.dense, x.hashed
        for i, field in enumerate(self.features.entity_fields):
            held["keys"][:, i] = columns.entities[field]
        return Rows(keys, columns, held)

    def ranked(self, found: Ranked, rows: Rows) -> tuple[Ranked, I64]:
        """The candidates as they are to be shown, with what all members say; their rows."""
        n = len(rows.keys)
        said = self.task.output(rows.held["links"])[:, :, 0]
        if not self.leads:
            members = np.concatenate([found.members, said[: len(found.items)]], axis=1)
            return replace(found, members=members), np.arange(n)
        link = rows.held["score"][:, 0]
        order = np.argsort(-link, kind="stable")
        return replace(
            found,
            items=rows.keys[order],
            scores=self.task.output(rows.held["score"])[order, 0],
            logits=link[order],
            members=np.concatenate([_padded(found.members, n), said], axis=1)[order],
        ), order

    def _columns(self, asked: Asked, found: Ranked, keys: U64) -> EventColumns:
        """The rows' fields: as the request tells them, else as the item, else as the user has."""
        n = len(keys)
        whose = np.full(n, asked.user or asked.session, np.uint64)
        entities = {
            "user": np.full(n, asked.user, np.uint64),
            "session": np.full(n, asked.session, np.uint64),
            "item": keys,
            "pair": np.where(whose > 0, mix_all(mix_all(whose) + keys), np.uint64(0)),
        }
        # As shares of the candidates: what stacks say of one list is not on the scale of another's.
        likely = found.logits - np.logaddexp.reduce(found.logits)
        says = _padded(np.column_stack([likely, found.members]), n).T
        for row, name in zip(says, (UTILITY, *self._members), strict=True):
            if name in self._unsaid:
                row[np.isnan(row)] = self._unsaid[name]
        numbers = dict(zip((UTILITY, *self._members), np.ascontiguousarray(says), strict=True))
        categories: dict[str, U64] = {}
        of_items = self.items.columns(keys)
        of_user = self.users.columns(np.array([asked.user], np.uint64))
        for name, kind in self.fields.kinds.items():
            column: Any = of_items[name]
            if (told := asked.fields.get(name)) is not None:
                column = np.full(n, told, column.dtype)
            for other in (of_user[name], self.fields.missing[name]):
                column = np.where(_is_missing(column), np.asarray(other, column.dtype), column)
            side: Any = {"category": categories, "entity": entities}.get(kind, numbers)
            side[name] = column
        return EventColumns(np.full(n, asked.time_ms, np.int64), numbers, categories, entities)

    def shown(self, rows: Rows, keys: U64, home: int) -> NDArray[Any]:
        """These of the rows stand in a list: windows take them in. What is held of each.

        ``home``: the partition of the list's record.
        """
        where = {key: i for i, key in enumerate(rows.keys.tolist())}
        chosen = np.array([where[key] for key in keys.tolist()], np.int64)
        columns = rows.columns.take(chosen)
        if self.sharing is not None and len(chosen):
            self.sharing.scoring(columns, self.counts, self._auditor)
        self.features.transform(columns)
        self.features.note(columns, home)
        held = rows.held[chosen]
        score = self.task.output(held["score"])[:, 0]
        told = score[:0] if self.ensemble.cold else score
        self.drift.observe(told, held["dense"])
        self.tallies.scored(score, np.maximum(told, 1.0 - told), np.zeros(len(score)))
        self.counts["shown"] += len(held)
        return held

    # ------------------------------------------------------------------ what became of them

    def taken(self, numbers: I64, time_ms: int, watermark_ms: int) -> list[Alarm]:
        """These places were taken, for the first time: settle and learn them."""
        rows = self._pending.take(numbers)
        sides = [side for side in rows["side"].tolist() if side]
        if self.handing is None:
            self.tried(sides)
        else:
            self.sides += sides
        n = len(numbers)
        told = Labelled(numbers, rows, np.ones(n), np.full(n, time_ms, np.int64))
        return self.outcomes.labelled(told, self.maturity.labelled, watermark_ms)

    def look(self, watermark_ms: int) -> None:
        """Time has passed: places come to their look."""
        if self.maturity.looking:
            self.outcomes.looked(watermark_ms)

    def left(self, left: Left, numbers: I64, watermark_ms: int) -> list[Alarm]:
        """Rows left the store, ids of records among them, which are nobody's."""
        own = left.rows["shown"]
        rows, y, learned, early, over = left
        theirs = Left(rows[own], y[own], learned[own], early[own], over)
        return self.outcomes.left(theirs, numbers[own], watermark_ms)

    def renewed(self, name: str) -> None:
        """By command another model stands in the place: what is known of the old one leaves."""
        self.reactions.replaced(name)
        self.drift.renew(name)

    # ------------------------------------------------------------------ state

    def _kept(self) -> dict[str, Any]:
        return {
            "features": self.features,
            "maturity": self.maturity,
            "quality": self.quality,
            "matured": self.matured,
            "drift": self.drift,
            "tallies": self.tallies,
            "reactions": self.reactions,
            "items": self.items,
            "users": self.users,
        }

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`; the members are part of the ensemble's."""
        kept = {name: part.state() for name, part in self._kept().items()}
        if self.sharing is not None:
            kept["sharing"] = self.sharing.state()
        return kept | {"trials": self.trials.copy(), "counts": dict(self.counts)}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`."""
        for name, part in self._kept().items():
            part.restore(state[name])
        if self.sharing is not None and "sharing" in state:
            self.sharing.restore(state["sharing"])
        self.trials[:] = state["trials"]
        self.counts.clear()
        self.counts.update(state["counts"])


def _nothing_beside(numbers: I64) -> Said:
    return {}


def _padded(says: F64, n: int) -> F64:
    """With rows of ``nan`` up to ``n``."""
    return np.concatenate([says, np.full((n - len(says), says.shape[1]), np.nan)])


def _is_missing(column: NDArray[Any]) -> BOOL:
    found: BOOL = np.isnan(column) if column.dtype == np.float64 else column == 0
    return found
