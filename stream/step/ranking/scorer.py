"""The step of a scorer of a service that ranks: it answers by what is known, and hands deeds over.

It learns nothing itself. What the learner has put into order comes back as news, by a record like
any other, so that a replay follows it at the same place. What its users did meanwhile counts for
them at once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from models.base import State, StateError
from stream.contract.letters import DeadLetter
from stream.contract.records import Slice
from stream.decode.feedback import Delete, Interaction, Item, User
from stream.settings import specs
from stream.settings.ranking import RATINGS, RECOMMENDER
from stream.step.engine import Handed, Made
from stream.step.ranking.ahead import GONE, OTHER, SEEN, TOOK, Ahead
from stream.step.ranking.candidates import key_of
from stream.step.ranking.engine import RankingEngine, place_id
from stream.step.ranking.known import digest_of, take_whole
from stream.step.ranking.news import OWN, News, NewsReader, Telling, written
from stream.step.roles.examples import Foreign, meaning
from stream.step.roles.risk import Sharing, take_in


class RankingScorer(RankingEngine):
    """Takes records and news; gives answers and deeds.

    Attributes
    ----------
    versions : NewsReader
    ahead : Ahead
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        config, meant = self.config, meaning(self.config)
        task = config.member_task().type
        self.versions = NewsReader(meant, partial(specs.check, task=task, known=config.members))
        self.ahead = Ahead()
        self.candidates.ahead = self.ahead
        self._telling = Telling(meant)
        self._handlers[config.models_topic] = self._news
        if (stage := self.reranker) is not None:
            stage.hand_over(config, meant)
            if stage.sharing is not None:
                self._handlers[config.risk_topic] = partial(take_in, stage.sharing)

    def _control(self, piece: Slice, out: Made) -> None:
        own = [r for r in piece.records if isinstance(self.codec.command(r), OWN)]
        super()._control(Slice(piece.range, own), out)

    def wanted(self, slices: Any) -> list[tuple[str, str]]:
        """Nothing: models come in news."""
        return []

    # ------------------------------------------------------------------ what is handed over

    def _done(self, what: Interaction, time_ms: int, out: Made) -> None:
        """See :meth:`RankingEngine._done`: when it comes back."""
        weight, seen = self._counts_for(what)
        kind = TOOK if weight > 0.0 else SEEN if seen else OTHER
        self._hand(what, time_ms, kind, key_of(what.user) or key_of(what.session))

    def _told(self, what: Item | User | Delete, time_ms: int) -> None:
        gone = isinstance(what, Delete) and what.user is not None
        self._hand(what, time_ms, GONE if gone else OTHER, key_of(getattr(what, "user", None)))

    def _hand(self, what: Any, time_ms: int, kind: int, user: int) -> None:
        self._telling.add(written(what, time_ms))
        self.ahead.add(kind, user, key_of(getattr(what, "item", None)))
        self.counts["deeds.handed"] += 1

    def _handed(self) -> tuple[Handed, bytes]:
        config, number, stage = self.config, self.versions.current.number, self.reranker
        told: tuple[Any, ...] = (config.shard.index, number, self.watermark_ms, self.ahead.handed)
        if stage is not None and stage.handing is not None:
            stage.handing.version = number
            told = *told, stage.handing.examples(), stage.sides
            stage.sides = []
        records, covered = self._telling.take(*told)
        handed = {config.examples_topic: records}
        if stage is not None and stage.sharing is not None:
            if self._quiet:
                stage.sharing.beat(self.watermark_ms)
            risk, also = stage.sharing.take(config.shard.index, self.watermark_ms)
            handed[config.risk_topic] = risk
            covered += also
        return handed, covered

    # ------------------------------------------------------------------ what comes back

    def _news(self, piece: Slice, out: Made) -> None:
        """Follow all that can be followed; ask for the whole where some are missing."""
        missed = self.versions.missed
        for record in piece.records:
            try:
                news = self.versions.take(record.value)
            except Foreign as error:
                out.letters.append(DeadLetter(record, "foreign", str(error)))
                continue
            if news is None:
                continue
            self._follow(news, out)
            if news.apart and news.whole is not None:
                detail = news.version._asdict()
                self.auditor.record("version_applied", "learner", "ensemble", detail)
        if self.versions.missed and not missed:
            self._telling.asks = True

    def hand(self) -> tuple[Handed, bytes]:
        """What is to be handed over since the last step, see :meth:`Engine._handed`."""
        return self._handed()

    @property
    def sharing(self) -> Sharing | None:
        """What others are told of entities that they see too."""
        return None if self.reranker is None else self.reranker.sharing

    def hear(self, raw: bytes | None) -> None:
        """Follow, between two steps, the news that a record completes: nothing of it goes on the
        trail. Raises :class:`~stream.step.roles.examples.Foreign`."""
        if (news := self.versions.take(raw)) is not None:
            self._follow(news, Made())

    def _follow(self, news: News, out: Made) -> None:
        """Know what the learner knows by now; lists are told what was taken of them."""
        if news.before and not news.apart and (got := digest_of(self)) != news.before:
            raise StateError(
                f"version {news.version.number - 1}: expected digest {news.before} of all that is"
                f" known, got {got}; run all processes of the service by the same version of"
                " Millrace and its libraries"
            )
        learned = [] if news.apart else news.learned
        for what, time_ms in news.deeds:
            if isinstance(what, Interaction):
                super()._done(what, time_ms, out)
            elif not news.apart:
                self._learn_as(learned, news.choices)
                super()._told(what, time_ms)
        self._learn_as(learned, news.choices)
        if news.apart and news.whole is not None:
            take_whole(self, news.whole)
        else:
            super()._forget_evicted()
        self._take_over(news)
        self.ahead.answered(news.upto.get(self.config.shard.index, 0))
        self.counts["versions"] += 1

    def _take_over(self, news: News) -> None:
        """Places are scored by the members of the news from now on."""
        if (stage := self.reranker) is None:
            return
        if news.members is not None:
            self.ensemble.restore_view(news.members)
        stage.trials[:] = news.trials

    def _learn_as(self, learned: list[str], choices: State) -> None:
        """Learn the interactions that wait as the learner did."""
        given = self._waited().given()
        if not len(given.item):
            return
        if RECOMMENDER in learned:
            self.recommender.follow(given, choices)
        if RATINGS in learned and self.rated is not None:
            self.rated.ratings.learn(given)
        self.counts["followed"] += len(given.item)

    def _hit(self, ranking: str, item: str, time_ms: int, out: Made) -> None:
        """See :meth:`RankingEngine._hit`; other scorers have lists, too."""
        if self.pending.find(np.array([place_id(ranking, item)], np.uint64))[0] >= 0:
            super()._hit(ranking, item, time_ms, out)

    def _keep_all(self) -> None:
        """Nothing: the learner keeps versions of what learns."""

    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"versions": self.versions, "ahead": self.ahead}
