"""Ratings: what a user would say of an item, learned from every interaction that has a value.

Members foretell a rating each, the stack makes one of all that they read. As in
``recommender.py`` the walk over the rows is one kernel (``models/kernels/ratings/walk.py``). Users
and items are known here by what they rated, and apart from those that are ranked: one rating of
what is not a positive teaches something here and nothing there.
"""

from __future__ import annotations

import numpy as np

from models.base import F64, U64, contiguous
from models.kernels.ratings import walk as kernels
from models.kernels.ratings.factors import bias_factors
from models.kernels.ratings.neighbours import Known, neighbours
from models.kernels.ratings.stack import READINGS, line, means
from models.kernels.reco.tables import known
from models.reco.layout import RATINGS
from models.reco.parts import Sizes
from models.reco.recommender import Interactions
from models.reco.settings import RatingSettings
from models.reco.tabled import Tabled


class Ratings(Tabled):
    """Foretells ratings and learns from them.

    Parameters
    ----------
    settings : RatingSettings
    users, items : int
        Kept at most; the longest idle goes first.
    seed : int
        Of all that is drawn.

    Attributes
    ----------
    scorers : tuple of str
        Whose predictions there are: the stack's, then the members'.
    """

    _layout = RATINGS

    def __init__(self, settings: RatingSettings, users: int, items: int, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        super().__init__(settings.members.names, settings.members.absent, items, users)
        self.scorers = settings.scorers
        takes = [n in self.names for n in kernels.MEMBERS]
        self._columns = np.flatnonzero([True, *takes])

    def _fresh(self, room: Sizes) -> kernels.Everything:
        m, empty = self._settings.members, kernels.smallest()
        items, users = room.items, room.users
        f, i, u = m.bias_factors, m.item_knn, m.user_knn
        return kernels.Everything(
            Known(*known(items)),
            Known(*known(users)),
            means(items, users),
            bias_factors(items=items, users=users, seed=self._seed, **f.model_dump())
            if f
            else empty.bias_factors,
            neighbours(rows=items, others=users, **i.model_dump()) if i else empty.item_knn,
            neighbours(rows=users, others=items, **u.model_dump()) if u else empty.user_knn,
            line(self._settings.drift, f is not None),
            np.array([n in self.names for n in kernels.MEMBERS], np.int64),
            empty.said,
        )

    def learn(self, given: Interactions) -> F64:
        """Learn rows in order; what each was foretold to be before, float64 ``(n, 1 + m)``.

        The columns are :attr:`scorers`. A row without a value, or without a user and a session, or
        before which there was no rating, has ``nan``; what is foretold lies within the ratings that
        were given so far.
        """
        n = len(given.value)
        out = np.zeros((n, 1 + len(kernels.MEMBERS)))
        who = np.where(given.user != 0, given.user, given.session)
        columns = (
            contiguous(given.time_ms, np.int64),
            contiguous(who, np.uint64),
            contiguous(given.item, np.uint64),
            contiguous(given.value, np.float64),
        )
        done = int(kernels.rate(*columns, 0, out, self._all))
        while done < n:
            self._make_room()
            done = int(kernels.rate(*columns, done, out, self._all))
        return out[:, self._columns]

    def expect(self, time_ms: int, user: int, items: U64) -> F64:
        """What a user would say of items, float64 ``(n,)``: ``nan`` before the first rating.

        Nobody is 0; of who or what is not known, the others speak. Changes nothing of the state.
        """
        out = np.zeros(len(items))
        kernels.expect(time_ms, user, contiguous(items, np.uint64), out, self._all)
        return out

    def forget_user(self, user: int) -> None:
        """Let a user go with his ratings; what they taught of items stays as sums."""
        kernels.forget(user, 0, self._all)

    def forget_item(self, item: int) -> None:
        """Let an item go with its ratings."""
        kernels.forget(0, item, self._all)

    def weights(self) -> dict[str, float]:
        """The stack's weight of each reading, by name."""
        return dict(zip(READINGS, self._all.line.weights.tolist(), strict=True))
