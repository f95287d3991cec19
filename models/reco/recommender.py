"""The recommender: ranks items for a user, and learns every interaction in order.

Members score every known item for a user, the stack makes one ranking of what they say. The walk
over the rows is one kernel (``models/kernels/reco/walk.py``); this file makes room, reads requests
and keeps the state. Nothing here reads a clock or draws a number that does not follow from the
seed; however the rows are cut into batches, the state is the same, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, U64, State, contiguous
from models.kernels.reco import walk as kernels
from models.kernels.reco.cooccurrence import cooccurrence
from models.kernels.reco.ease import ease
from models.kernels.reco.factors import bpr, eals
from models.kernels.reco.popular import popular
from models.kernels.reco.sessions import sessions
from models.kernels.reco.stack import stack
from models.kernels.reco.tables import tables
from models.reco.layout import LAYOUT
from models.reco.parts import Sizes, copies, take, used
from models.reco.settings import RecoSettings, Seen
from models.reco.tabled import Tabled

I32 = NDArray[np.int32]

Interactions = kernels.Rows
"""``n`` interactions in order, as columns.

``time_ms`` int64, UTC; ``user``, ``session`` and ``item`` uint64, xxh3-64 of the text, 0 where
there is none (a row without a user has the history of its session, one without either none);
``weight`` float64: a positive counts for that much, a row of 0 or less is not learned; ``value``
float64: a rating, ``nan`` without.
"""


class Judged(NamedTuple):
    """What the members and the stack made of rows before they were learned.

    ``ranks`` int32 ``(n, m + 1)``: 1 + how many other items had a score at least as high as the
    row's own, among all that could be shown to its user; 0 where the row's could not be, since it
    was not known or taken by him before. The columns are ``names``, the stack's last. ``history``
    int32 ``(n,)``: items that the row's user had taken before, in all. ``again`` bool ``(n,)``: he
    had taken the row's item before, and so it was not shown.
    """

    names: tuple[str, ...]
    ranks: I32
    history: I32
    again: BOOL


@dataclass(frozen=True, slots=True)
class Request:
    """A question: what should be shown to a user.

    ``items``: the candidates, ``None`` for the whole catalogue; ``count``: how many at most;
    ``exclude``: items that must not be shown; ``seen``: whether what the user took may be;
    ``given``: items that he looks at, which count as the last of his history.
    """

    time_ms: int
    user: int = 0
    session: int = 0
    items: U64 | None = None
    count: int = 10
    exclude: U64 | None = None
    seen: Seen | None = None
    given: U64 | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """An answer, best first: ``items`` uint64 ``(k,)``, the stack's ``scores`` float64 ``(k,)``,
    ``logits`` float64 ``(k,)``, the logarithms of how likely each is to be taken up to a constant,
    the members' ``members`` float64 ``(k, m)``; ``known``: candidates that could be shown;
    ``fallback``: whether nothing is known of the user, so that only what is popular speaks."""

    items: U64
    scores: F64
    logits: F64
    members: F64
    known: int
    fallback: bool


class Recommender(Tabled):
    """Ranks items and learns from interactions.

    Parameters
    ----------
    settings : RecoSettings
    seed : int
        Of all that is drawn.
    """

    _layout = LAYOUT

    def __init__(self, settings: RecoSettings, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        members, history = settings.members, 1 << (settings.history - 1).bit_length()
        super().__init__(members.names, members.absent, settings.items, settings.users, history)

    def _fresh(self, room: Sizes) -> kernels.Everything:
        s, m = self._settings, self._settings.members
        n = room.items
        items, users = tables(n, room.users, room.arena)
        users.history[0] = self._history
        empty = kernels.smallest()
        control = np.full(kernels.CONTROLS, -1, np.int64)
        kinds: list[int] = []
        for number, (name, theirs) in enumerate(kernels.KINDS.items()):
            if name in self.names:
                control[number] = len(kinds)
                kinds += theirs
        control[kernels.SITTING_MS] = s.session_gap
        control[kernels.SEEN] = _SEEN[s.seen]
        back = np.log(-np.expm1(-np.arange(1, self._history + 1) / s.seen_fade))
        p, c, v, e = m.popular, m.cooccurrence, m.sessions, m.ease
        b, f = m.bpr, m.eals
        return kernels.Everything(
            items,
            users,
            popular(n, p.slow, p.fast) if p else empty.popular,
            cooccurrence(n, c.length, c.fade, c.back, c.prior) if c else empty.cooccurrence,
            sessions(items=n, users=room.users, **v.model_dump()) if v else empty.sessions,
            ease(items=n, users=room.users, **e.model_dump()) if e else empty.ease,
            bpr(items=n, users=room.users, seed=self._seed, **b.model_dump()) if b else empty.bpr,
            eals(items=n, users=room.users, seed=self._seed, **f.model_dump()) if f else empty.eals,
            stack([int(row) for row in control[: kernels.MEMBERS] if row >= 0], kinds, n),
            control,
            back.astype(np.float32),
            np.zeros(n, np.uint8),
        )

    # ------------------------------------------------------------------ learning

    def learn(self, given: Interactions, judge: bool = False) -> Judged | None:
        """Learn rows in order; with ``judge`` each is ranked before it is learned."""
        n = len(given.time_ms)
        columns = kernels.Rows(*(contiguous(a, t) for a, t in zip(given, _TYPES, strict=True)))
        m = len(self.names)
        ranks = np.zeros((n if judge else 0, m + 2), np.int32)
        self._through(columns, kernels.LEARN, ranks)
        if not judge:
            return None
        again = ranks[:, m] == kernels.TAKEN
        ranks[again, : m + 1] = 0
        return Judged((*self.names, "stack"), ranks[:, : m + 1], ranks[:, m + 1], again)

    def follow(self, given: Interactions, choices: State) -> None:
        """Become what another became by learning these rows, but for what only learning reads.

        ``choices``: what its :meth:`choices` were then. No item is scored: that is nearly all of
        the work. Raises :class:`StateError` where ``choices`` does not fit.
        """
        columns = kernels.Rows(*(contiguous(a, t) for a, t in zip(given, _TYPES, strict=True)))
        self._through(columns, kernels.FOLLOW, _NO_RANKS)
        take(self._all.stack, _CHOICES, self._sizes(), choices, "stack")

    def choices(self) -> State:
        """What the stack makes its choices by, as copies."""
        return copies(used(self._all.stack, _CHOICES, self._sizes()), _CHOICES)

    def view(self) -> State:
        """See :meth:`Learner.view`: without how sure the stack is of its weights."""
        return self.state() | {"stack": self.choices()}

    def restore_view(self, view: State) -> None:
        """See :meth:`Learner.restore_view`: it may :meth:`follow` on."""
        own = self._all.stack
        known = {name: getattr(own, name).copy() for name in self._held["stack"] if name in _UNSEEN}
        self.restore(view | {"stack": view.get("stack", {}) | known})

    def _through(self, columns: Interactions, mode: int, ranks: I32) -> None:
        n, done = len(columns.time_ms), 0
        nothing = (_NONE, _NONE, _NONE)
        while True:
            done = int(kernels.walk(columns, done, mode, 0, 0, ranks, *nothing, self._all))
            if done == n:
                return
            self._make_room()

    def _grow(self) -> None:
        super()._grow()
        self._all = self._all._replace(shown=np.zeros(self._room.items, np.uint8))

    # ------------------------------------------------------------------ ranking

    def rank(self, request: Request) -> Ranked:
        """The best candidates, best first; changes nothing of the state."""
        if request.given is not None:
            self._keep_one_free()
        a, s = self._all, self._settings
        only, never, given = (
            _NONE if keys is None else np.require(keys, np.uint64, ["C"])
            for keys in (request.items, request.exclude, request.given)
        )
        seen = _SEEN[request.seen or s.seen]
        n = 0
        if request.items is None or len(only):
            row = kernels.Rows(
                np.array([request.time_ms]),
                np.array([request.user], np.uint64),
                np.array([request.session], np.uint64),
                *_NO_COLUMNS,
            )
            how = (kernels.RANK, seen, request.count)
            n = kernels.walk(row, 0, *how, _NO_RANKS, only, never, given, a)
        utility, slots = a.stack.answer[:n], a.stack.candidates[:n]
        best = _best(utility, min(request.count, n))
        chosen = slots[best]
        return Ranked(
            a.items.keys[chosen],
            utility[best].copy(),
            self._logits(seen)[best].astype(np.float64),
            a.stack.scores[a.stack.member, chosen[:, None]].astype(np.float64),
            n,
            not self.history(request.user or request.session) and not self.knows(given).any(),
        )

    def _keep_one_free(self) -> None:
        """Keep room for a user more: a stranger who looks at items is he for a moment."""
        if self._sizes().users == self._room.users:
            self._room = self._room._replace(users=self._room.users + 1)
            self._grow()

    def _logits(self, seen: int) -> NDArray[Any]:
        """What the stack says of the candidates, or a member that leads it."""
        stack = self._all.stack
        if seen == kernels.DECAY:
            return stack.answer
        leader = int(np.argmax(stack.rewards[:-1]))
        if stack.rewards[leader] > stack.rewards[-1]:
            found: NDArray[np.float32] = stack.said[stack.member[leader]]
            return found
        return stack.utility

    def history(self, user: int) -> int:
        """How many items the user took that are remembered."""
        return int(kernels.history_of(user, self._all.users)) if user else 0

    # ------------------------------------------------------------------ forgetting

    def forget_user(self, user: int) -> None:
        """Let a user go with his history; what he taught of items stays as sums."""
        kernels.forget(user, 0, self._all)

    def forget_item(self, item: int) -> None:
        """Let an item go: it is not shown any more, and new when it comes again."""
        kernels.forget(0, item, self._all)

    def knows(self, items: U64) -> BOOL:
        """Which items are known, bool ``(n,)``."""
        found = np.zeros(len(items), np.bool_)
        kernels.known(contiguous(items, np.uint64), found, self._all.items)
        return found

    @property
    def settings(self) -> RecoSettings:
        """As configured."""
        return self._settings

    def weights(self) -> dict[str, float]:
        """The stack's weight of each member, by name: of all that it says of a candidate."""
        shared, first = self._all.stack.shared, self._all.stack.member
        sums = np.add.reduceat(shared, first)
        return dict(zip(self.names, sums.tolist(), strict=True))


def _best(scores: F64, k: int) -> NDArray[np.intp]:
    """Where the ``k`` largest are, best first; of equals the first."""
    if k == 0:
        return np.zeros(0, np.intp)
    among = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return among[np.argsort(-scores[among], kind="stable")[:k]]


_SEEN: dict[Seen, int] = {
    "exclude": kernels.EXCLUDE,
    "include": kernels.INCLUDE,
    "decay": kernels.DECAY,
}
_UNSEEN = frozenset(["spread"])
_CHOICES = {
    name: column
    for name, column in LAYOUT["stack"].items()
    if column.role is not None and name not in _UNSEEN
}
_NONE = np.zeros(0, np.uint64)
_NO_COLUMNS = (_NONE, np.zeros(0), np.zeros(0))
_NO_RANKS = np.zeros((0, 0), np.int32)
_TYPES = (np.int64, np.uint64, np.uint64, np.uint64, np.float64, np.float64)
