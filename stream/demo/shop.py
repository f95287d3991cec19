"""A stream of what users do in a shop, and of the lists they ask for: same seed, same stream.

Each user has a style that he looks at mostly, for some weeks. Wares enter, are looked at less as
they grow old, and leave; a few are in fashion for days. A sitting begins with a request for a list
and goes on with views, some of them followed by a cart and a purchase, which name that list: what
users do follows from their styles alone, as if nobody looked at it. The records are in Metarank's
words, as ``examples/shop.toml`` takes them. Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.base import F64, I64
from stream.contract.records import NewRecord
from stream.demo.player import Writing, encode
from stream.demo.simulator import DAY_MS, NEVER, START_MS, Rows, Simulation, in_order

DEED = np.dtype(
    [
        ("index", "i8"),
        ("event_time_ms", "i8"),
        ("kind", "u1"),
        ("user", "i4"),
        ("session", "i8"),
        ("item", "i8"),
        ("category", "u1"),
        ("price", "f8"),
        ("reported_at_ms", "i8"),
    ]
)
"""One record: ``index`` from 0 on; ``kind`` as below; ``user`` and ``session`` of a request or an
interaction; ``item`` of all but a request, ``category`` and ``price`` of one that enters;
``reported_at_ms`` is ``NEVER``: nothing is labelled."""
ENTERS, LEAVES, ASKS, VIEW, CART, PURCHASE = range(6)
INTERACTIONS = {VIEW: "view", CART: "cart", PURCHASE: "purchase"}

CATEGORIES = ("shoes", "shirts", "coats", "bags", "hats", "watches", "toys", "books")
SHOPPERS = 1000
STYLES, WARES = 12, 20
"""Wares of a style that are there at any time."""
LIFE_DAYS, FRESH_DAYS = 40, 12.0
"""A ware leaves after so many days; it is looked at e times less for each ``FRESH_DAYS``."""
STAY_DAYS = 30
"""A user comes to another style so often."""
FAITHFUL = 0.8
"""Share of sittings in the user's own style."""
TREND_DAYS, TRENDS, HOT = 4, 3, 12.0
"""So many wares are looked at ``HOT`` times as much, others after so many days."""
SITTINGS_A_DAY = 0.1
"""Of one user, in the mean."""
VIEWS, CARTED, BOUGHT = 4, 0.25, 0.4
"""Views in a sitting, in the mean; shares of views with a cart, of those with a purchase."""
COUNT = 10
"""Items in a list that is asked for."""
DEEDS_A_DAY = SITTINGS_A_DAY * (1 + VIEWS * (1 + CARTED * (1 + BOUGHT)))
"""Records of one user, in the mean."""


class ShopSimulator(Simulation):
    """Users of twelve styles among wares that come and go.

    Parameters
    ----------
    seed, events, start_ms
        See :class:`~stream.demo.simulator.Simulation`.
    users : int
        Population size, 1 or more.
    drift : bool
        From ``drift_ms`` on every user has another style, beside those that change all the time.

    Examples
    --------
    >>> chunk = next(ShopSimulator(seed=1, events=100).chunks(100))
    >>> len(chunk.events), bool((np.diff(chunk.events["event_time_ms"]) >= 0).all())
    (100, True)
    """

    def __init__(
        self,
        seed: int,
        users: int = SHOPPERS,
        start_ms: int = START_MS,
        drift: bool = True,
        events: int = 100_000,
    ) -> None:
        super().__init__(seed, events, start_ms, DEED, users=users)
        rng = np.random.default_rng([seed, 0])
        share = rng.gamma(2.0, 0.5, users)
        self._paced(DEEDS_A_DAY * share, drift)
        self.daily_rate += 2 * STYLES * WARES / LIFE_DAYS
        self._sittings_a_day = SITTINGS_A_DAY * float(share.sum())
        self._first_style = rng.integers(0, STYLES, users)
        self._moves_at = rng.integers(0, STAY_DAYS, users)
        self._enters_at = rng.integers(0, LIFE_DAYS, (STYLES, WARES))
        self._appeal = rng.lognormal(0.0, 0.8, (7, STYLES, WARES))
        self._category = rng.integers(0, len(CATEGORIES), (STYLES, WARES))
        self._price = np.round(rng.lognormal(3.0, 0.8, (STYLES, WARES)), 2)

    def _day(self, day: int) -> Rows:
        rng = np.random.default_rng([self.seed, 1, day])
        # Each place of a style holds one ware after another.
        generation, age = np.divmod(day + self._enters_at, LIFE_DAYS)
        item = STYLES * WARES * generation + np.arange(STYLES * WARES).reshape(STYLES, WARES)
        appeal = np.take_along_axis(self._appeal, generation[None] % len(self._appeal), 0)[0]
        appeal *= np.exp(-age / FRESH_DAYS)
        hot = np.random.default_rng([self.seed, 2, day // TREND_DAYS])
        appeal.flat[hot.choice(appeal.size, TRENDS, replace=False)] *= HOT
        new = np.flatnonzero((age == 0) | (day == 0))
        rows = np.concatenate(
            [self._changes(item, new, day), self._sittings(rng, item, appeal, day)]
        )
        rows["event_time_ms"] += self._start_ms + day * DAY_MS
        rows["reported_at_ms"] = NEVER
        return rows[in_order(rows["event_time_ms"])]

    def _changes(self, item: I64, new: I64, day: int) -> Rows:
        """At midnight: which wares leave, and which take their places ``new``."""
        enter = np.zeros(len(new), DEED)
        enter["kind"], enter["user"], enter["session"] = ENTERS, -1, -1
        enter["item"] = item.flat[new]
        enter["category"], enter["price"] = self._category.flat[new], self._price.flat[new]
        leave = enter[: len(new) if day else 0].copy()
        leave["kind"] = LEAVES
        leave["item"] -= STYLES * WARES
        return np.concatenate([leave, enter])

    def _sittings(self, rng: np.random.Generator, item: I64, appeal: F64, day: int) -> Rows:
        """Who asks, looks at what and buys, when on the day; sitting by sitting."""
        asks = np.zeros(rng.poisson(self._sittings_a_day), DEED)
        n = len(asks)
        asks["kind"], asks["item"] = ASKS, -1
        asks["user"] = rng.choice(len(self._share), n, p=self._share)
        asks["session"] = day * (1 << 20) + np.arange(n)
        # Most of the traffic in the evening; the last sittings end before midnight.
        clock_ms = rng.normal(18 * 3_600_000, 5 * 3_600_000, n).astype(np.int64)
        asks["event_time_ms"] = clock_ms % (DAY_MS - 3_600_000)
        moves = (day + self._moves_at) // STAY_DAYS + self._drifted(day)
        own = (self._first_style + moves * 5)[asks["user"]] % STYLES
        style = np.where(rng.random(n) < FAITHFUL, own, rng.integers(0, STYLES, n))
        # 1. Views, 40 s after each other.
        many = 1 + rng.poisson(VIEWS - 1, n)
        views = np.repeat(asks, many)
        views["kind"] = VIEW
        place = np.arange(len(views)) - np.repeat(np.cumsum(many) - many, many)
        views["event_time_ms"] += 5000 + 40_000 * place + rng.integers(0, 30_000, len(views))
        up_to = (appeal / appeal.sum(axis=1, keepdims=True)).cumsum(axis=1)[np.repeat(style, many)]
        ware = np.minimum((up_to < rng.random((len(views), 1))).sum(axis=1), WARES - 1)
        views["item"] = item[np.repeat(style, many), ware]
        # 2. Some go into the cart at once, and some of those are bought in the end.
        carts = views[rng.random(len(views)) < CARTED]
        carts["kind"] = CART
        carts["event_time_ms"] += rng.integers(3000, 10_000, len(carts))
        bought = carts[rng.random(len(carts)) < BOUGHT]
        bought["kind"] = PURCHASE
        bought["event_time_ms"] += rng.integers(600_000, 900_000, len(bought))
        return np.concatenate([asks, views, carts, bought])


def _objects(rows: Rows, seed: int) -> list[dict[str, Any]]:
    """The rows as records; the seed keeps the ids of two simulations on one topic apart."""
    found = []
    for index, time_ms, kind, user, session, item, category, price, _ in rows.tolist():
        of_item = {"item": f"i{seed}-{item}"}
        head: dict[str, Any] = {"event": "item", "id": f"d{seed}-{index}", "timestamp": time_ms}
        whose = {"user": f"u{user}", "session": f"s{seed}-{session}"}
        if kind == ENTERS:
            told = {"categories": [CATEGORIES[category]], "price": price}
            fields = [{"name": name, "value": value} for name, value in told.items()]
            found.append(head | of_item | {"fields": fields})
        elif kind == LEAVES:
            found.append(head | of_item | {"fields": [{"name": "hidden", "value": True}]})
        elif kind == ASKS:
            asked = {"event": "recommend", "id": f"r{seed}-{session}", "count": COUNT}
            found.append(head | asked | whose)
        else:
            did = {"event": "interaction", "type": INTERACTIONS[kind]}
            found.append(head | did | whose | of_item | {"ranking": f"r{seed}-{session}"})
    return found


def _records(rows: Rows, seed: int) -> list[NewRecord]:
    """Keyed by user, else by item, so that all of one stays in one partition, in order."""
    return [
        NewRecord(str(o.get("user", o.get("item"))).encode(), encode(o))
        for o in _objects(rows, seed)
    ]


def _lines(rows: Rows, seed: int) -> list[bytes]:
    return [encode(o) for o in _objects(rows, seed)]


DEEDS = Writing(_records, lambda rows, seed: [], _lines, ("timestamp", "event", "id"))
"""What is done in the shop, as ``examples/shop.toml`` takes it; nothing is labelled."""
