"""A stream of what users do in a shop, and of the lists they ask for: same seed, same stream.

Each user has a style that he looks at mostly, for some weeks, and a price that he is used to; on a
phone other categories are looked at than at a desk. Wares enter, are looked at less as they grow
old, and leave; a few are in fashion for days, others are cheaper and looked at more for some. A
sitting begins with a request for a list, which tells the device and the user's price, and goes on
with views, some of them followed by a cart and a purchase, which name that list: what users do does
not depend on what it shows. The records are in Metarank's words, as ``examples/shop.toml`` takes
them. Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64
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
        ("promoted", "?"),
        ("device", "u1"),
        ("reported_at_ms", "i8"),
    ]
)
"""One record: ``index`` from 0 on; ``kind`` as below; ``user`` and ``session`` of a request or an
interaction; ``item`` of all but a request; ``category``, ``price`` and ``promoted`` of one that
enters or is priced anew; ``device`` of a request, and ``price``: what its user is used to pay;
``reported_at_ms`` is ``NEVER``: nothing is labelled."""
ENTERS, PRICED, LEAVES, ASKS, VIEW, CART, PURCHASE = range(7)
INTERACTIONS = {VIEW: "view", CART: "cart", PURCHASE: "purchase"}

CATEGORIES = ("shoes", "shirts", "coats", "bags", "hats", "watches", "toys", "books")
DEVICES, DEVICE_SHARES = ("phone", "desktop", "tablet"), (0.5, 0.35, 0.15)
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
PROMOTION_DAYS, PROMOTED, CHEAPER, DEAL = 3, 12, 0.7, 4.0
"""So many wares cost ``CHEAPER`` times what they did, and are looked at ``DEAL`` times as much,
others after so many days."""
PRICE, PRICE_SPREAD, PURSE_SPREAD = 20.0, 0.8, 0.8
"""The median price, of wares and what users are used to, and how far logarithms spread around it.
"""
PATIENCE = 0.3
"""How far the logarithm of a price may be off what the user is used to: a deviation of what is
looked at."""
AT_HAND = 1.3
"""How far apart devices are: the spread of the logarithm of how much each looks at a category."""
SITTINGS_A_DAY = 0.1
"""Of one user, in the mean."""
VIEWS, CARTED, BOUGHT = 4, 0.25, 0.4
"""Views in a sitting, in the mean; shares of views with a cart, of those with a purchase."""
COUNT = 10
"""Items in a list that is asked for."""
DEEDS_A_DAY = SITTINGS_A_DAY * (1 + VIEWS * (1 + CARTED * (1 + BOUGHT)))
"""Records of one user, in the mean."""


class _Shelf(NamedTuple):
    """The wares that are there on a day, arrays ``(STYLES, WARES)``; ``new`` since midnight."""

    item: I64
    new: BOOL
    category: I64
    promoted: BOOL
    price: F64
    appeal: F64


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
        wares = (7, STYLES, WARES)
        self._appeal = rng.lognormal(0.0, 0.8, wares)
        self._category = rng.integers(0, len(CATEGORIES), wares)
        self._price = PRICE * rng.lognormal(0.0, PRICE_SPREAD, wares)
        self._purse = PRICE * rng.lognormal(0.0, PURSE_SPREAD, users)
        self._at_hand = rng.lognormal(0.0, AT_HAND, (len(DEVICES), len(CATEGORIES)))

    def _day(self, day: int) -> Rows:
        rng = np.random.default_rng([self.seed, 1, day])
        shelf = self._shelf(day)
        rows = np.concatenate([self._changes(shelf, day), self._sittings(rng, shelf, day)])
        rows["event_time_ms"] += self._start_ms + day * DAY_MS
        rows["reported_at_ms"] = NEVER
        return rows[in_order(rows["event_time_ms"])]

    def _shelf(self, day: int) -> _Shelf:
        # Each place of a style holds one ware after another.
        generation, age = np.divmod(day + self._enters_at, LIFE_DAYS)
        item = STYLES * WARES * generation + np.arange(STYLES * WARES).reshape(STYLES, WARES)

        def of(wares: NDArray[Any]) -> NDArray[Any]:
            return np.take_along_axis(wares, generation[None] % len(wares), 0)[0]

        def some(which: int, period: int, n: int) -> BOOL:
            rng = np.random.default_rng([self.seed, which, period])
            found = np.zeros((STYLES, WARES), np.bool_)
            found.flat[rng.choice(found.size, n, replace=False)] = True
            return found

        hot = some(2, day // TREND_DAYS, TRENDS)
        promoted = some(3, day // PROMOTION_DAYS, PROMOTED)
        appeal = of(self._appeal) * np.exp(-age / FRESH_DAYS)
        appeal *= np.where(hot, HOT, 1.0) * np.where(promoted, DEAL, 1.0)
        price = np.round(of(self._price) * np.where(promoted, CHEAPER, 1.0), 2)
        return _Shelf(item, (age == 0) | (day == 0), of(self._category), promoted, price, appeal)

    def _changes(self, shelf: _Shelf, day: int) -> Rows:
        """At midnight: which wares leave, which take their places, what has another price."""
        other = (shelf.promoted != self._shelf(max(day - 1, 0)).promoted) & ~shelf.new
        parts = []
        for kind, which in ((LEAVES, shelf.new & (day > 0)), (ENTERS, shelf.new), (PRICED, other)):
            rows = np.zeros(int(which.sum()), DEED)
            rows["kind"], rows["user"], rows["session"] = kind, -1, -1
            for name in ("item", "category", "price", "promoted"):
                rows[name] = getattr(shelf, name)[which]
            parts.append(rows)
        parts[0]["item"] -= STYLES * WARES
        return np.concatenate(parts)

    def _sittings(self, rng: np.random.Generator, shelf: _Shelf, day: int) -> Rows:
        """Who asks, looks at what and buys, when on the day; sitting by sitting."""
        asks = np.zeros(rng.poisson(self._sittings_a_day), DEED)
        n = len(asks)
        asks["kind"], asks["item"] = ASKS, -1
        asks["user"] = rng.choice(len(self._share), n, p=self._share)
        asks["session"] = day * (1 << 20) + np.arange(n)
        asks["device"] = rng.choice(len(DEVICES), n, p=DEVICE_SHARES)
        asks["price"] = np.round(self._purse[asks["user"]], 2)
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
        apart = np.log(shelf.price[style] / asks["price"][:, None])
        likely = shelf.appeal[style] * np.exp(-0.5 * (apart / PATIENCE) ** 2)
        likely *= self._at_hand[asks["device"][:, None], shelf.category[style]]
        up_to = np.repeat((likely / likely.sum(axis=1, keepdims=True)).cumsum(axis=1), many, axis=0)
        ware = np.minimum((up_to < rng.random((len(views), 1))).sum(axis=1), WARES - 1)
        views["item"] = shelf.item[np.repeat(style, many), ware]
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
    for n, time_ms, kind, user, session, item, category, price, deal, device, _ in rows.tolist():
        of_item = {"item": f"i{seed}-{item}"}
        head: dict[str, Any] = {"event": "item", "id": f"d{seed}-{n}", "timestamp": time_ms}
        whose = {"user": f"u{user}", "session": f"s{seed}-{session}"}
        if kind in (ENTERS, PRICED):
            told = {"categories": [CATEGORIES[category]], "price": price, "promoted": deal}
            found.append(head | of_item | {"fields": told})
        elif kind == LEAVES:
            found.append(head | of_item | {"fields": {"hidden": True}})
        elif kind == ASKS:
            asked = {"event": "recommend", "id": f"r{seed}-{session}", "count": COUNT}
            tells = {"device": DEVICES[device], "usual_price": price}
            found.append(head | asked | whose | {"fields": tells})
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
