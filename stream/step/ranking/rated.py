"""The ratings of a shard that foretells them: learned beside the rankings, told with answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from models.base import F64, Learner
from models.ensemble.group import Group
from models.reco.ratings import Ratings
from models.reco.recommender import Interactions
from monitoring.quality.rated import RatingQuality
from stream.contract.hashing import hash_text
from stream.settings.ranking import RATINGS
from stream.step.ranking.answers import Place


class Rated:
    """Ratings and how good they are.

    Parameters
    ----------
    ensemble : Group
        What holds them.

    Attributes
    ----------
    quality : RatingQuality
        Of every interaction with a value, foretold before it was learned.
    """

    def __init__(self, ensemble: Group[Learner]) -> None:
        self._ensemble = ensemble
        self.quality = RatingQuality(self.ratings.scorers)

    @property
    def ratings(self) -> Ratings:
        """Those that serve."""
        return cast(Ratings, self._ensemble.members[RATINGS])

    def learn(self, given: Interactions) -> F64:
        """Foretell, judge and learn; what was foretold, ``(n, 1 + m)``."""
        foretold = self.ratings.learn(given)
        self.quality.judge(foretold, given.value)
        return foretold

    def tell(self, places: Sequence[Place], user: int, time_ms: int) -> None:
        """Put what the user would say of each item beside it."""
        keys = np.array([hash_text(place.id) for place in places], np.uint64)
        expected = self.ratings.expect(time_ms, user, keys).tolist()
        for place, rating in zip(places, expected, strict=True):
            if not math.isnan(rating):
                place.rating = rating
