"""What may be shown for a request, best first, and which of it stands in the answer.

Hidden, expired and excluded items, those of other categories and those seen are left out here,
whatever asks. Nothing here changes a state.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import UNSET

from models.base import F64, U64
from models.ensemble.group import Group
from models.reco.also_seen import AlsoSeen
from models.reco.catalogue import Catalogue
from models.reco.explore import best, explored
from models.reco.recommender import Ranked, Recommender
from models.reco.recommender import Request as Question
from models.reco.settings import ExploreSettings
from stream.contract.hashing import hash_text
from stream.decode.feedback import Rank, Recommend
from stream.settings.ranking import RECOMMENDER
from stream.step.ranking.answers import Place


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates: those ranked, best first, and behind them those that nobody has taken yet.

    ``texts``: ids of the items of ``ranked``; ``left_out``: how many are no candidates, by why.
    """

    ranked: Ranked
    texts: list[str | None]
    unknown: list[str]
    left_out: dict[str, int]

    def logits(self) -> F64:
        """Logarithms of how likely each is to be taken; unknown ones are as likely as the least."""
        known = self.ranked.logits
        least = known.min() if len(known) else 0.0
        return np.append(known, np.full(len(self.unknown), least))

    def number(self, text: str) -> int | None:
        """Which candidate an item is."""
        every = [*self.texts, *self.unknown]
        return every.index(text) if text in every else None


class Candidates:
    """Finds them.

    Parameters
    ----------
    ensemble : Group
        Of the recommender that serves.
    catalogue : Catalogue
    also_seen : AlsoSeen
    explore : ExploreSettings or None
        How lists are drawn of them; ``None``: the best, in order.
    """

    def __init__(
        self,
        ensemble: Group[Recommender],
        catalogue: Catalogue,
        also_seen: AlsoSeen,
        explore: ExploreSettings | None,
    ) -> None:
        self._ensemble = ensemble
        self._catalogue = catalogue
        self._also_seen = also_seen
        self.explore = explore

    @property
    def _recommender(self) -> Recommender:
        return self._ensemble.members[RECOMMENDER]

    def found(self, what: Rank | Recommend, time_ms: int, most: int = sys.maxsize) -> Found:
        """The best ``most`` candidates."""
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
        if (what.seen or self._recommender.settings.seen) == "exclude":
            whose = key_of(what.user) or key_of(what.session)
            never = np.union1d(never, self._also_seen.of(whose))
        ranked = self._recommender.rank(
            Question(
                *(time_ms, key_of(what.user), key_of(what.session), keys, most, never, what.seen),
                given if items else None,
            )
        )
        named = [
            self._catalogue.text(key) if texts is None else texts[key]
            for key in ranked.items.tolist()
        ]
        unknown: list[str] = []
        if texts is not None:
            unknown = self._unknown(texts, set(never.tolist()))
            left_out["seen"] = len(texts) - ranked.known - len(unknown) - sum(left_out.values())
        return Found(ranked, named, unknown, {why: n for why, n in left_out.items() if n})

    def _unknown(self, texts: dict[int, str], never: set[int]) -> list[str]:
        """Candidates that nobody has taken yet, as they were given."""
        known = self._recommender.knows(_keys(texts)).tolist()
        return [
            text
            for (key, text), is_known in zip(texts.items(), known, strict=True)
            if not is_known and key not in never
        ]

    def listed(self, what: Rank | Recommend, time_ms: int) -> tuple[Found, list[Place], int | None]:
        """The candidates, the places of the answer, and which candidate stands at the first."""
        offset = what.offset if isinstance(what, Recommend) else 0
        last = offset + asked(what)
        if self.explore is None:
            found = self.found(what, time_ms, last)
            drawn = best(len(found.texts) + len(found.unknown), last)
        else:
            found = self.found(what, time_ms)
            drawn = explored(self.explore, found.logits(), last, hash_text(f"explore\0{what.id}"))
        first = int(drawn.order[0]) if len(drawn.order) and not offset else None
        order, propensity = drawn.order[offset:].tolist(), drawn.propensity[offset:].tolist()
        places = [
            place
            for j, p in zip(order, propensity, strict=True)
            if (place := self._place(found, j, p, what.explain)) is not None
        ]
        return found, places, first

    def _place(self, found: Found, j: int, propensity: float, explain: bool) -> Place | None:
        n = len(found.texts)
        if j >= n:
            return Place(found.unknown[j - n], None, propensity)
        text = found.texts[j]
        if text is None:
            return None
        said: Any = UNSET
        if explain:
            names, members = self._recommender.names, found.ranked.members[j]
            said = dict(zip(names, members.tolist(), strict=True))
        return Place(text, float(found.ranked.scores[j]), propensity, said)


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
