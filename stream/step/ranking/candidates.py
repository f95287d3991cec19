"""What may be shown for a request, best first, and which of it stands in the answer.

Hidden, expired and excluded items, those of other categories and those seen are left out here,
whatever asks. Nothing here changes a state.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec import UNSET

from models.base import F64, U64
from models.ensemble.group import Group
from models.reco.also_seen import AlsoSeen
from models.reco.catalogue import Catalogue
from models.reco.explore import Drawn, best, drafted, explored
from models.reco.recommender import Ranked, Recommender
from models.reco.recommender import Request as Question
from stream.contract.hashing import hash_text
from stream.decode.feedback import Rank, Ranking, Recommend
from stream.settings.ranking import RECOMMENDER, RankingSettings
from stream.step.ranking.ahead import NOTHING, Ahead, Late
from stream.step.ranking.answers import Place
from stream.step.ranking.rerank import Asked, Reranker, Rows

TRIAL = 4
"""One list of so many is a trial of both stages."""
DRAFTED = 20
"""Places of it that both fill, one draw each; the leader fills the others."""


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates.

    ``keys`` uint64 ``(n,)``: those of ``ranked``, best first, and behind them those that nobody has
    taken yet. ``texts``: ids of candidates that the request gave; ``left_out``: how many are no
    candidates, by why.
    ``rows``: all of them as members scored them; ``stages`` float64 ``(n, 2)``: logits of both
    stages, where there are members.
    """

    ranked: Ranked
    keys: U64
    texts: Mapping[int, str] | None
    left_out: dict[str, int]
    rows: Rows | None = None
    stages: F64 | None = None

    def logits(self) -> F64:
        """Logarithms of how likely each is to be taken; unknown ones are as likely as the least."""
        known = self.ranked.logits
        least = known.min() if len(known) else 0.0
        return np.append(known, np.full(len(self.keys) - len(known), least))

    def number(self, text: str) -> int | None:
        """Which candidate an item is."""
        there = np.flatnonzero(self.keys == np.uint64(hash_text(text)))
        return int(there[0]) if len(there) else None


class Candidates:
    """Finds them.

    Parameters
    ----------
    ensemble : Group
        Of the recommender that serves.
    catalogue : Catalogue
    also_seen : AlsoSeen
    settings : RankingSettings
        How lists are drawn of them; without ``explore`` the best, in order.
    reranker : Reranker or None
        Puts the best of them in another order.

    Attributes
    ----------
    ahead : Ahead or None
        What users did that is not learned yet, of a process that learns elsewhere.
    """

    ahead: Ahead | None = None

    def __init__(
        self,
        ensemble: Group[Any],
        catalogue: Catalogue,
        also_seen: AlsoSeen,
        settings: RankingSettings,
        reranker: Reranker | None = None,
    ) -> None:
        self._ensemble = ensemble
        self._catalogue = catalogue
        self._also_seen = also_seen
        self._reranker = reranker
        self._most = settings.candidates
        self.explore = settings.explore
        self._names = settings.members.names if reranker is None else reranker.names

    @property
    def _recommender(self) -> Recommender:
        found: Recommender = self._ensemble.members[RECOMMENDER]
        return found

    def found(self, what: Rank | Recommend, time_ms: int, most: int = sys.maxsize) -> Found:
        """The best ``most`` candidates; what members put in order are ``reco.candidates`` of them,
        as many as are asked for at least, or all that were given."""
        if self._reranker is not None:
            first = what.offset + what.count if isinstance(what, Recommend) else sys.maxsize
            most = max(self._most, first)
        out = self._catalogue.kept_out(time_ms, what.categories)
        items = {hash_text(s.id): s.id for s in what.items}
        texts, given = (items, None) if isinstance(what, Rank) else (None, _keys(items))
        never = _keys([*(hash_text(i) for i in what.exclude), *(() if given is None else given)])
        keys = None if texts is None else _keys(texts)
        if texts is not None and what.categories:
            # Of an item that was never heard of nobody knows that it is in one of them.
            strangers = [key for key in texts if self._catalogue.text(key) is None]
            out = np.union1d(out, _keys(strangers))
        # An item counts by the first reason that there is.
        excluded = np.setdiff1d(never, out)
        left_out = {"kept_out": _common(keys, out), "excluded": _common(keys, excluded)}
        never = np.union1d(out, never)
        user, session, late = self._who(what)
        if (what.seen or self._recommender.settings.seen) == "exclude":
            seen = self._also_seen.of(user or session)
            never = np.unique(np.concatenate([never, seen, late.took, late.seen]))
        looks = late.took if given is None else np.concatenate([late.took, given])
        ranked = self._recommender.rank(
            Question(
                *(time_ms, user, session, keys, most, never, what.seen),
                looks if len(looks) else None,
            )
        )
        unknown = self._unknown(keys, never)
        if self._reranker is not None and texts is None:
            # Of a catalogue of any size some: others for each request.
            unknown = np.roll(unknown, -(hash_text(what.id) % max(len(unknown), 1)))[: self._most]
        if texts is not None:
            left_out["seen"] = len(texts) - ranked.known - len(unknown) - sum(left_out.values())
        every = np.concatenate([ranked.items, unknown])
        made = Found(ranked, every, texts, {why: n for why, n in left_out.items() if n})
        return made if self._reranker is None else _reranked(self._reranker, made, what, time_ms)

    def _who(self, what: Rank | Recommend) -> tuple[int, int, Late]:
        """For whom it is, nobody where he was deleted, and what he did that is not learned yet."""
        user, session = key_of(what.user), key_of(what.session)
        late = NOTHING if self.ahead is None else self.ahead.of(user or session)
        return (0, 0, late) if late.gone else (user, session, late)

    def rows(self, what: Ranking, texts: list[str], time_ms: int) -> Rows | None:
        """The items of a list that somebody else made, as members score them now."""
        if self._reranker is None:
            return None
        keys = np.array([hash_text(text) for text in texts], np.uint64)
        whose = (time_ms, key_of(what.user), key_of(what.session))
        ranked = self._recommender.rank(Question(*whose, keys, len(keys), None, "include"))
        others = keys[~np.isin(keys, ranked.items)]
        return self._reranker.rows(Asked(*whose, self._reranker.told(what)), ranked, others)

    def _unknown(self, keys: U64 | None, never: U64) -> U64:
        """Candidates that nobody has taken yet: of those given, in their order, or, where lists are
        drawn, of all that were told of."""
        if keys is None:
            # Not by their places, which differ once a state is restored.
            keys = np.sort(self._catalogue.keys()) if self.explore else np.zeros(0, np.uint64)
        return keys[~self._recommender.knows(keys) & ~np.isin(keys, never)]

    def listed(self, what: Rank | Recommend, time_ms: int) -> tuple[Found, list[Place], int | None]:
        """The candidates, the places of the answer, and which candidate stands at the first."""
        offset = what.offset if isinstance(what, Recommend) else 0
        last = offset + asked(what)
        found = self.found(what, time_ms, last if self.explore is None else sys.maxsize)
        drawn = self._drawn(found, last, what.id, offset == 0)
        first = int(drawn.order[0]) if len(drawn.order) and not offset else None
        order, propensity = drawn.order[offset:].tolist(), drawn.propensity[offset:].tolist()
        places = [
            place
            for j, p in zip(order, propensity, strict=True)
            if (place := self._place(found, j, p, what.explain)) is not None
        ]
        return found, places, first

    def _drawn(self, found: Found, k: int, request: str, whole: bool) -> Drawn:
        """The first ``k`` places; those of a trial are filled by both stages in turn."""
        n, order, propensity = len(found.keys), np.zeros(0, np.int64), np.zeros(0)
        if whole and found.rows is not None and found.stages is not None and _tries(request):
            seed = hash_text(f"trial\0{request}")
            order, propensity, side = drafted(self.explore, found.stages, min(k, DRAFTED), seed)
            found.rows.drafted(found.keys[order], side)
        rest = np.delete(np.arange(n), order)
        if self.explore is None:
            drawn = best(n - len(order), k - len(order))
        else:
            seed = hash_text(f"explore\0{request}")
            drawn = explored(self.explore, found.logits()[rest], k - len(order), seed)
        return Drawn(
            np.concatenate([order, rest[drawn.order]]),
            np.concatenate([propensity, drawn.propensity]),
        )

    def _place(self, found: Found, j: int, propensity: float, explain: bool) -> Place | None:
        key = int(found.keys[j])
        text = self._catalogue.text(key) if found.texts is None else found.texts[key]
        if text is None:
            return None
        if j >= len(found.ranked.items):
            return Place(text, None, propensity)
        said: Any = UNSET
        if explain:
            said = dict(zip(self._names, found.ranked.members[j].tolist(), strict=True))
        return Place(text, float(found.ranked.scores[j]), propensity, said)


def _reranked(reranker: Reranker, found: Found, what: Rank | Recommend, time_ms: int) -> Found:
    """The candidates with their rows, in the order of members that lead."""
    if not len(found.keys):
        return found
    unknown = found.keys[len(found.ranked.items) :]
    asked = Asked(time_ms, key_of(what.user), key_of(what.session), reranker.told(what))
    rows = reranker.rows(asked, found.ranked, unknown)
    ranked, order = reranker.ranked(found.ranked, rows)
    # What is cold has no order of its own to be tried.
    stages = None if reranker.ensemble.cold else _stages(found, rows)[order]
    return replace(found, ranked=ranked, keys=found.keys[order], rows=rows, stages=stages)


def _stages(found: Found, rows: Rows) -> F64:
    return np.column_stack([found.logits(), rows.held["score"][:, 0]])


def _tries(request: str) -> bool:
    return hash_text(f"tries\0{request}") % TRIAL == 0


def key_of(text: str | None) -> int:
    """What stands for a user, a session or an item; 0 for none."""
    return 0 if text is None else hash_text(text)


def asked(what: Rank | Recommend) -> int:
    """How many items are asked for."""
    return what.count if isinstance(what, Recommend) else len({s.id for s in what.items})


def _keys(keys: Iterable[int]) -> U64:
    return np.array(list(keys), np.uint64)


def _common(keys: U64 | None, out: U64) -> int:
    return len(out) if keys is None else int(np.isin(keys, out).sum())
