"""The step that ranks: interactions teach the recommender, requests are answered by what it knows.

Records of one slice are taken in order; interactions between two others are learned together, which
gives the same state as one at a time. Every list that is answered, or that somebody reports, waits
in the pending store: an item of it that is taken before the horizon is a hit of that list, silence
is none. Where members score the candidates too, they learn both (``rerank.py``).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET

from models.base import F64, I64, U64, State
from models.ensemble.group import Group
from models.reco.also_seen import AlsoSeen
from models.reco.catalogue import Catalogue
from models.reco.recommender import Interactions, Recommender
from models.reco.recommender import Judged as Stood
from monitoring.audit.trail import Trail
from monitoring.drift.monitor import DriftMonitor
from monitoring.quality.policy import Credit, PolicyValue, credit
from monitoring.quality.ranks import RankQuality
from monitoring.quality.rated import RankedAndRated
from monitoring.quality.shown import Shown
from monitoring.quality.tasks import Kept
from stream.contract.hashing import hash_text
from stream.contract.letters import DeadLetter, Reason
from stream.contract.outputs import Judged, Scored
from stream.contract.records import Record, Slice
from stream.decode.feedback import (
    Among,
    Delete,
    FeedbackCodec,
    Interaction,
    Item,
    Rank,
    Ranking,
    Recommend,
    Taken,
    User,
    fields_of,
    question,
)
from stream.settings.ranking import RATINGS, RECOMMENDER
from stream.settings.schema import Config
from stream.step.engine import Engine, Made
from stream.step.join import Left
from stream.step.pending.store import Pending
from stream.step.ranking.answers import Answer, Place
from stream.step.ranking.candidates import Candidates, Found, asked, key_of
from stream.step.ranking.rated import Rated
from stream.step.ranking.rerank import Parts, Reranker, Rows
from stream.step.tallies import Delays

PARTS = 256
"""Lists leave within so large a part of the horizon after it."""

LIST_ROW = np.dtype(
    [
        ("id", "<u8"),  # of a list's item, or of a record
        ("event_time_ms", "<i8"),
        ("shown", "?"),  # an item of a list; not the id of a record
        # Of a list's first item what it tells of the best ranking, else ``nan``.
        ("weight", "<f8"),
        ("likely", "<f4", (2,)),
        # What every store's rows have.
        ("score", "<f8", (1,)),
        ("links", "<f8", (0, 1)),
    ]
)
"""What waits: each item of a list that was shown, and the id of each record, so that none counts
twice within the horizon."""


class Run(NamedTuple):
    """Interactions that wait to be learned together, as columns, and the rows to be held."""

    time_ms: list[int]
    user: list[int]
    session: list[int]
    item: list[int]
    weight: list[float]
    value: list[float]
    ids: dict[int, None]
    held_ms: list[int]

    @classmethod
    def empty(cls) -> Run:
        """Nothing waits."""
        return cls([], [], [], [], [], [], {}, [])

    def given(self) -> Interactions:
        """The interactions, as learners take them."""
        return Interactions(
            np.array(self.time_ms, np.int64),
            np.array(self.user, np.uint64),
            np.array(self.session, np.uint64),
            np.array(self.item, np.uint64),
            np.array(self.weight, np.float64),
            np.array(self.value, np.float64),
        )


class RankingEngine(Engine):
    """The engine of items for users.

    Attributes
    ----------
    catalogue : Catalogue
    also_seen : AlsoSeen
        What users have done with, beside what they took.
    candidates : Candidates
        Finds what may be shown.
    rated : Rated or None
        What foretells ratings, and how well; ``None`` where nothing does.
    quality : Kept
        Of every interaction of a user who was known, ranked before it was learned; and of ratings.
    shown : Shown
        What stood in the newest lists.
    value : PolicyValue
        What lists are worth.
    delays : Delays
        How long answers take, and how long it takes until an item of theirs is taken.
    drift : DriftMonitor
    reranker : Reranker or None
        The second stage, where members are configured.
    """

    def __init__(
        self,
        config: Config,
        group: Group[Any],
        pending: Pending,
        quality: RankQuality,
        drift: DriftMonitor,
        trail: Trail,
        second: Parts | None = None,
    ) -> None:
        codec = FeedbackCodec(config)
        super().__init__(config, codec, group, pending, trail)
        assert config.reco is not None
        self._settings = config.reco
        self._conditions = config.reco.conditions()
        self._seen_too = config.reco.seen_conditions()
        self._least = min((c.weight for c in self._conditions), default=math.inf)
        self._feedback = codec.feedback
        self.catalogue = Catalogue(config.reco.item_ttl)
        self.rated = Rated(group) if config.reco.ratings else None
        self._ranked = quality
        self.quality = (
            quality if self.rated is None else RankedAndRated(quality, self.rated.quality)
        )
        self.also_seen = AlsoSeen(config.reco.users, config.reco.history)
        self.reranker: Reranker | None = None
        if second is not None:
            self.reranker = Reranker(config, second, pending, self.auditor)
        self.candidates = Candidates(
            group, self.catalogue, self.also_seen, config.reco, self.reranker
        )
        self.shown = Shown()
        self.value = PolicyValue()
        self.delays = Delays()
        self.drift = drift
        self._watermark_ms = 0
        self._horizon_ms = config.label.horizon
        self._slack_ms = max(1, config.label.horizon // PARTS)
        self._run = Run.empty()
        self._home = 0  # the partition of the record under way
        self._handlers |= {config.topics.events: self._records, config.topics.labels: self._none}

    @property
    def recommender(self) -> Recommender:
        """The one that serves."""
        found: Recommender = self.ensemble.members[RECOMMENDER]
        return found

    @property
    def watermark_ms(self) -> int:
        """Newest event time taken in."""
        return self._watermark_ms

    # ------------------------------------------------------------------ records

    def _none(self, piece: Slice, out: Made) -> None:
        for record in piece.records:
            error = "a shard that ranks has no labels: interactions stand among the events"
            out.letters.append(DeadLetter(record, "schema", error))

    def _records(self, piece: Slice, out: Made) -> None:
        """Take records in order."""
        taken: Taken
        taken, bad = self.codec.decoded(piece, self._feedback)
        out.letters += bad
        latest = self.clock_ms + self.config.limits.ahead
        for record, what, time_ms in zip(taken.records, taken.what, taken.time_ms, strict=True):
            if time_ms > latest:
                error = (
                    f"expected an event time up to limits.ahead after {self.clock_ms} ms, got "
                    f"{time_ms} ms"
                )
                out.letters.append(DeadLetter(record, "event_time_ahead", error))
                continue
            self._home = record.partition
            self._pass(time_ms, out)
            refused = self._take(record, what, time_ms, out)
            if refused is not None:
                out.letters.append(DeadLetter(record, *refused))
        self._learn(out)

    def _take(
        self, record: Record, what: Any, time_ms: int, out: Made
    ) -> tuple[Reason, str] | None:
        if isinstance(what, Interaction):
            return self._interaction(what, time_ms, out)
        self._learn(out)
        if isinstance(what, Rank | Recommend):
            return self._answer(record, what, time_ms, out)
        if isinstance(what, Ranking):
            self._reported(what, time_ms, out)
            return None
        self._told(what, time_ms)
        self.counts[f"feedback.{_KIND[type(what)]}"] += 1
        return None

    def _told(self, what: Item | User | Delete, time_ms: int) -> None:
        """What is known of an item or a user changes; nothing waits to be learned."""
        if isinstance(what, Item):
            self._item(what, time_ms)
        elif isinstance(what, Delete):
            self._delete(what)
        elif self.reranker is not None:
            self.reranker.users.told(hash_text(what.user), self.reranker.told(what))

    def _pass(self, time_ms: int, out: Made) -> None:
        """Let time pass: lists leave whose horizon is over."""
        before, self._watermark_ms = self._watermark_ms, max(self._watermark_ms, time_ms)
        if self._watermark_ms // self._slack_ms > before // self._slack_ms:
            self._learn(out)
            self._leave(self.pending.due(self._watermark_ms - self._horizon_ms), MATURED, out)
            if self.reranker is not None:
                self.reranker.look(self._watermark_ms)

    def _leave(self, n: int, counted: str, out: Made) -> None:
        if n == 0:
            return
        numbers = np.arange(self.pending.head, self.pending.head + n)
        rows, truth, learned, early = self.pending.expire(n)
        if self.reranker is not None:
            left = Left(rows, truth, learned, early, counted == MATURED)
            out.alarms += self.reranker.left(left, numbers, self._watermark_ms)
        shown = rows["shown"]
        self.counts[counted] += int(shown.sum())
        self.counts[f"{counted}.untaken"] += int((shown & np.isnan(truth)).sum())
        if counted == MATURED:
            tell = shown & ~np.isnan(rows["weight"])
            likely = rows["likely"][tell].astype(np.float64)
            taken = (~np.isnan(truth[tell])).astype(np.float64)
            self.value.update(rows["weight"][tell], taken, likely[:, 0], likely[:, 1])

    # ------------------------------------------------------------------ interactions

    def _interaction(self, what: Interaction, time_ms: int, out: Made) -> tuple[Reason, str] | None:
        key = hash_text(f"interaction\0{what.id}") if what.id else 0
        if key and self._is_held(key, out):
            return "duplicate_event", f"an interaction with the id {what.id!r} was taken before"
        if key:
            self._run.ids[key] = None
            self._run.held_ms.append(self._watermark_ms)
        self.counts["feedback.interaction"] += 1
        self._done(what, time_ms, out)
        return None

    def _done(self, what: Interaction, time_ms: int, out: Made) -> None:
        """A user has done this: his list knows, and it waits to be learned."""
        if self._waits(what, time_ms) and what.ranking is not None:
            self._hit(what.ranking, what.item, time_ms, out)

    def _waits(self, what: Interaction, time_ms: int) -> bool:
        """An interaction waits to be learned; whether it is a positive."""
        item = hash_text(what.item)
        self.catalogue.heard(item, what.item, time_ms)
        run, (weight, seen) = self._run, self._counts_for(what)
        run.time_ms.append(time_ms)
        run.user.append(key_of(what.user))
        run.session.append(key_of(what.session))
        run.item.append(item)
        run.weight.append(weight)
        run.value.append(_value(what))
        if seen:
            self.also_seen.add(run.user[-1] or run.session[-1], item)
        return weight > 0.0

    def _counts_for(self, what: Interaction) -> tuple[float, bool]:
        """What an interaction counts for, and whether it only tells that the item was seen."""
        value, weight = _value(what), 1.0
        if self._conditions:
            said = (c.weight for c in self._conditions if c.holds(what.type, value))
            weight = next(said, 0.0)
        return weight, weight == 0.0 and any(c.holds(what.type, value) for c in self._seen_too)

    def _is_held(self, key: int, out: Made) -> bool:
        """Whether a record with this id came within the horizon."""
        if len(self.pending) + len(self._run.ids) >= self.pending.room:
            self._learn(out)  # what waits to be held may push others out
        return key in self._run.ids or int(self.pending.find(_one(key))[0]) >= 0

    def _hit(self, ranking: str, item: str, time_ms: int, out: Made) -> None:
        """An item of a list was taken."""
        number = self.pending.find(_one(place_id(ranking, item)))
        if number[0] < 0:
            self.counts["hits.unknown"] += 1
        elif math.isnan(self.pending.truth(number)[0]):
            self.counts["hits"] += 1
            self.delays.taken(time_ms - int(self.pending.times(number)[0]))
            if self.reranker is None:
                self.pending.settle(number, np.ones(1))
            else:
                out.alarms += self.reranker.taken(number, time_ms, self._watermark_ms)

    def _learn(self, out: Made) -> None:
        """Judge and learn the interactions that wait, in order."""
        run = self._waited()
        self._hold_ids(run, out)
        if run.item:
            self._teach(run.given(), out)

    def _waited(self) -> Run:
        """What waits, which it does no longer."""
        run, self._run = self._run, Run.empty()
        return run

    @property
    def _learners(self) -> list[str]:
        """Those that learn now."""
        still = self.ensemble.frozen | self.ensemble.quarantined
        return [name for name in self._settings.learners if name not in still]

    def _teach(self, given: Interactions, out: Made) -> list[str]:
        """Judge and learn interactions in order; the names of those who have learned them."""
        n, learn = len(given.item), self._learners
        if not learn:
            self.counts["feedback.unlearned"] += n
            return []
        self.auditor.before(n, learn)
        judged = self.recommender.learn(given, judge=True) if RECOMMENDER in learn else None
        foretold = self._foretell(given, RATINGS in learn)
        held = self.auditor.after(n, [])
        for name in held:
            self.counts[f"updates.{name}"] += n
        if judged is None:
            self.counts["feedback.unlearned"] += n
            return held
        self.counts["learned"] += int((given.weight > 0.0).sum())
        self._judge(given, judged, foretold, out)
        self._forget_evicted()
        return held

    def _foretell(self, given: Interactions, learn: bool) -> F64:
        """What ratings are foretold of interactions, before they are learned."""
        if self.rated is None:
            return np.zeros((len(given.value), 0))
        if not learn:
            return np.full((len(given.value), len(self.rated.ratings.scorers)), np.nan)
        return self.rated.learn(given)

    def _judge(self, given: Interactions, judged: Stood, foretold: F64, out: Made) -> None:
        """Note how the items of interactions had stood before they were learned."""
        times, weight = given.time_ms, given.weight
        # No list would show it again: what he bought after he looked at it says nothing of lists.
        repeat = judged.again & (weight > self._least)
        self.counts["repeats"] += int(repeat.sum())
        known = (judged.history > 0) & (weight > 0.0) & ~repeat
        self.counts["cold"] += int(((judged.history == 0) & (weight > 0.0)).sum())
        every = np.ascontiguousarray(np.roll(judged.ranks, 1, axis=1))
        ranks = every[known]
        self._ranked.update(ranks)
        losses = np.log(np.where(ranks > 0, ranks, WORST).astype(np.float64))
        alarms = self.drift.update(losses, times[known], self._watermark_ms)
        for alarm in alarms:
            self.auditor.record("drift", alarm.detector, alarm.signal, alarm.detail())
        out.alarms += alarms
        out.judged.append(
            Judged(times, every, judged.history, weight, repeat, given.value, foretold)
        )

    def _hold_ids(self, run: Run, out: Made) -> None:
        if run.ids:
            rows = np.zeros(len(run.ids), self.pending.dtype)
            rows["id"], rows["event_time_ms"] = list(run.ids), run.held_ms
            self._known(self._hold(rows, out))

    def _hold(self, rows: np.ndarray[Any, Any], out: Made) -> I64:
        self._leave(self.pending.overflow(len(rows)), "lists.evicted", out)
        if self.config.shard.role != "all":
            rows["partition"] = self._home
        return self.pending.hold(rows)

    def _known(self, ids: I64) -> None:
        """Rows that are ids of records wait for nothing."""
        self.pending.settle(ids, np.ones(len(ids)))
        if self.reranker is not None:
            self.pending.learned(ids)

    def _forget_evicted(self) -> None:
        """Of items that the recommender let go, those that nobody told anything of go too."""
        if len(self.catalogue) > self._settings.items + CATALOGUE_SLACK:
            keys = self.catalogue.keys()
            self.catalogue.keep(set(keys[self.recommender.knows(keys)].tolist()))

    # ------------------------------------------------------------------ items, deletions

    def _item(self, what: Item, time_ms: int) -> None:
        fields = fields_of(what.fields)
        key = hash_text(what.item)
        self.catalogue.heard(key, what.item, time_ms)
        hidden, categories = (
            fields.get(name, _ABSENT) for name in (self._settings.hidden, self._settings.categories)
        )
        self.catalogue.told(
            key,
            None if hidden is _ABSENT else hidden is True or hidden == "true",
            None if categories is _ABSENT else _texts(categories),
        )
        if self.reranker is not None:
            self.reranker.items.told(key, self.reranker.told(what))

    def _delete(self, what: Delete) -> None:
        """Forget a user or an item; what is held of lists leaves with its horizon."""
        if what.user is not None:
            key = hash_text(what.user)
            self.recommender.forget_user(key)
            if self.rated is not None:
                self.rated.ratings.forget_user(key)
            self.also_seen.forget_user(key)
        if what.item is not None:
            key = hash_text(what.item)
            self.recommender.forget_item(key)
            if self.rated is not None:
                self.rated.ratings.forget_item(key)
            self.also_seen.forget_item(key)
            self.catalogue.forget(key)
        if self.reranker is not None:
            self.reranker.forget(key_of(what.user), key_of(what.item))

    # ------------------------------------------------------------------ lists

    def _reported(self, what: Ranking, time_ms: int, out: Made) -> None:
        """A list was shown that somebody else made, or one of ours."""
        if self._known_list(what.id, out):
            self.counts["lists.known"] += 1
        else:
            self.counts["feedback.ranking"] += 1
            tells = self._tells(what, time_ms)
            texts = list(dict.fromkeys(shown.id for shown in what.items))
            rows = self.candidates.rows(what, texts, time_ms)
            self._hold_list(what.id, texts, time_ms, tells, rows, out)

    def _tells(self, what: Ranking, time_ms: int) -> Credit | None:
        """What somebody's list tells of our own ranking of what it was drawn from.

        Nothing, where the first item was certain: the others that may be best had no chance.
        """
        first, among = what.items[0], what.among
        if first.propensity in (None, 1.0) or RECOMMENDER in self.ensemble.quarantined:
            return None
        if among is not None and among.offset:
            return None
        found = self.candidates.found(question(what), time_ms)
        logits = found.logits()
        return credit(logits, found.number(first.id), first.propensity) if len(logits) else None

    def _known_list(self, identifier: str, out: Made) -> bool:
        return self._is_held(hash_text(f"ranking\0{identifier}"), out)

    def _hold_list(
        self,
        identifier: str,
        texts: list[str],
        time_ms: int,
        tells: Credit | None,
        scored: Rows | None,
        out: Made,
    ) -> None:
        """Let a list wait for what is taken of it.

        ``tells`` is what it tells of the best ranking, once its horizon is over; ``scored`` its
        items as members scored them.
        """
        keys = np.array([hash_text(text) for text in texts], np.uint64)
        rows = np.zeros(1 + len(texts), self.pending.dtype)
        if self.reranker is not None and scored is not None:
            rows[1:] = self.reranker.shown(scored, keys, self._home)
        rows["weight"] = math.nan
        if tells is not None:
            rows["weight"][1], rows["likely"][1] = tells.weight, (tells.best, tells.first)
        rows["event_time_ms"], rows["shown"][1:] = time_ms, True
        rows["id"] = [
            hash_text(f"ranking\0{identifier}"),
            *(place_id(identifier, text) for text in texts),
        ]
        self._known(self._hold(rows, out)[:1])
        self.counts["shown"] += len(texts)
        self.shown.update(keys)

    def _answer(
        self, record: Record, what: Rank | Recommend, time_ms: int, out: Made
    ) -> tuple[Reason, str] | None:
        """Answer a request, and hold the answer as a list that was shown."""
        if self._known_list(what.id, out):
            return "duplicate_event", f"a request with the id {what.id!r} was answered before"
        places, tells, found = self._list(what, time_ms)
        fallback = found is None or found.ranked.fallback
        left_out = {"quarantined": 1} if found is None else found.left_out
        answer = Answer(
            *(what.id, time_ms, what.user, what.session, places, fallback, left_out),
            *(record.partition, record.offset, self.clock_ms, self.config.name, self.seq + 1),
            self._among(what),
        )
        out.scores.append(answer.record())
        out.scored.append(
            _answered(record, answer, len(self.recommender.names), self.auditor.versions())
        )
        self.counts["scored"] += 1
        self.delays.answered(self.clock_ms - time_ms)
        self.counts["fallbacks"] += fallback
        self.counts["short"] += len(places) < asked(what)
        self.counts["led"] += self.reranker is not None and self.reranker.leads
        scored = None if found is None else found.rows
        self._hold_list(what.id, [place.id for place in places], time_ms, tells, scored, out)
        return None

    def _list(
        self, what: Rank | Recommend, time_ms: int
    ) -> tuple[list[Place], Credit | None, Found | None]:
        """The answer's items, what they tell, and what they were chosen of."""
        left = self.ensemble.quarantined
        if RECOMMENDER in left:
            return [], None, None
        found, places, first = self.candidates.listed(what, time_ms)
        if self.rated is not None and RATINGS not in left:
            self.rated.tell(places, key_of(what.user) or key_of(what.session), time_ms)
        tells = None
        if places and first is not None:
            # Only where lists are drawn are all candidates there; else the best is certain.
            drawn = self._settings.explore is not None or self.reranker is not None
            logits = found.logits() if drawn else np.zeros(1)
            tells = credit(logits, first, places[0].propensity)
        return places, tells, found

    def _among(self, what: Rank | Recommend) -> Any:
        """What the answer's reader must know to value another ranking of what was there."""
        if self._settings.explore is None or isinstance(what, Rank):
            return UNSET
        return Among(what.items, what.exclude, what.seen, what.categories, what.offset)

    def spread(self) -> dict[str, float]:
        """How widely the catalogue is shown: :meth:`Shown.coverage` and :meth:`Shown.top`."""
        known = self.recommender.knows(self.shown.items())
        items = self.recommender.counts()["items"]
        return {"coverage": self.shown.coverage(known, items), "top_10": self.shown.top()}

    # ------------------------------------------------------------------ state

    def _renewed(self, name: str, goes_on: bool) -> None:
        if self.reranker is not None and name not in self._settings.learners:
            self.reranker.renewed(name)
        elif name == RECOMMENDER:
            self.drift.renew("ensemble")

    def _judged(self, name: str) -> Kept:
        if self.reranker is not None and name not in self._settings.learners:
            return self.reranker.quality
        return super()._judged(name)

    def reconfigured(self, combiner_is_new: bool) -> None:
        """See :meth:`Engine.reconfigured`: bounds hold from the next record on."""
        if self.reranker is not None:
            self.reranker.reactions.reconfigured(combiner_is_new)

    def known(self) -> dict[str, Any]:
        """What is told of items and users, and is no member's."""
        found = {"catalogue": self.catalogue, "also_seen": self.also_seen}
        if self.reranker is None:
            return found
        return found | {"items": self.reranker.items, "users": self.reranker.users}

    def _parts(self) -> dict[str, Any]:
        return {
            "ensemble": self.ensemble,
            "catalogue": self.catalogue,
            "also_seen": self.also_seen,
            "quality": self._ranked,
            "shown": self.shown,
            "value": self.value,
            "delays": self.delays,
            "drift": self.drift,
            "trail": self.trail,
            "auditor": self.auditor,
            **({} if self.rated is None else {"rated": self.rated.quality}),
            **({} if self.reranker is None else {"reranker": self.reranker}),
        }

    def _marks(self) -> State:
        return {"watermark_ms": self._watermark_ms, "threshold": self.threshold}

    def _restore_marks(self, state: State) -> None:
        self._watermark_ms = int(state["watermark_ms"])


MATURED = "lists.matured"
WORST = 1 << 20
"""The rank that a miss counts as where a rank must be a number."""
CATALOGUE_SLACK = 1024
_ABSENT: Any = object()
_KIND: dict[Any, str] = {Item: "item", User: "user", Delete: "delete"}


def _one(key: int) -> U64:
    return np.array([key], np.uint64)


def place_id(ranking: str, item: str) -> int:
    """What the item of a list is held by."""
    return hash_text(f"{ranking}\0{item}")


def _value(what: Interaction) -> float:
    return math.nan if what.value is None else what.value


def _texts(value: Any) -> list[str]:
    return [str(v) for v in (value if isinstance(value, list) else [value]) if v is not None]


def _answered(record: Record, answer: Answer, members: int, versions: dict[str, int]) -> Scored:
    """An answer for readers in this process: its best score stands for it."""
    score = next((p.score for p in answer.items if p.score is not None), math.nan)
    column = np.array([score])
    return Scored(
        *([record], [answer.id], np.array([answer.timestamp]), column, column[:, None]),
        *(np.full((1, members, 1), math.nan), np.zeros(1, np.bool_), answer.fallback),
        versions=versions,
    )
