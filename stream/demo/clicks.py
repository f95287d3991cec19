"""A stream of ad impressions, some of them clicked within minutes: same seed, same impressions.

Nobody reports that an impression was not clicked, as ``examples/clicks.toml`` has it. Whether one
is follows from user, item, campaign, device, position, price and hour, by a logistic model. Nothing
here reads a clock or does I/O.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from models.base import F64
from models.links import logit, sigmoid
from stream.demo.player import rfc3339, writing
from stream.demo.simulator import (
    DAY_MS,
    NEVER,
    START_MS,
    Rows,
    Simulation,
    in_order,
)

IMPRESSION = np.dtype(
    [
        ("index", "i8"),
        ("event_time_ms", "i8"),
        ("user", "i4"),
        ("item", "i4"),
        ("campaign", "u1"),
        ("device", "u1"),
        ("position", "u1"),
        ("price", "f8"),
        ("p", "f8"),
        ("reported_at_ms", "i8"),
    ]
)
"""One impression: ``index`` from 0 on; ``position`` 1..10; ``price`` with 2 decimals or ``nan``;
``p`` the probability of a click; ``reported_at_ms`` the time of the click, or ``NEVER``."""

DEVICES = ("phone", "desktop", "tablet", "tv")
CAMPAIGNS, POSITIONS = 40, 10
USERS = 4000
CLICK_SHARE = 0.05
CLICK_MEAN_S = 180.0
"""Delays are exponential, at least a second: 99 % of the clicks come within 14 minutes."""
IMPRESSIONS_A_DAY = 5.0
"""Of one user, in the mean."""


class _Taste(NamedTuple):
    """What holds before, or after, the drift: contributions to the logit of a click."""

    campaign: F64
    item: F64
    intercept: float


class ClickSimulator(Simulation):
    """Users who are shown items of campaigns and click one impression in twenty.

    Parameters
    ----------
    seed, events, start_ms
        See :class:`~stream.demo.simulator.Simulation`.
    users, items : int
        Population sizes, 1 or more.
    drift : bool
        From ``drift_ms`` on campaigns and items appeal otherwise; the share of clicks stays.

    Examples
    --------
    >>> chunk = next(ClickSimulator(seed=1, events=100).chunks(100))
    >>> len(chunk.events), bool((np.diff(chunk.events["event_time_ms"]) >= 0).all())
    (100, True)
    """

    def __init__(
        self,
        seed: int,
        users: int = USERS,
        items: int = 500,
        start_ms: int = START_MS,
        drift: bool = True,
        events: int = 100_000,
    ) -> None:
        super().__init__(seed, events, start_ms, IMPRESSION, users=users, items=items)
        rng = np.random.default_rng([seed, 0])
        self._paced(IMPRESSIONS_A_DAY * rng.gamma(2.0, 0.5, users), drift)
        self._user = rng.normal(0, 0.7, users)
        self._device_of = rng.choice(len(DEVICES), users, p=[0.6, 0.25, 0.1, 0.05])
        self._popularity = rng.dirichlet(np.full(items, 0.5))
        self._campaign_of = rng.integers(0, CAMPAIGNS, items)
        self._price_of = np.round(rng.lognormal(3.0, 1.0, items), 2)
        self._tastes = [self._taste(rng, items) for _ in range(2)]

    def _taste(self, rng: np.random.Generator, items: int) -> _Taste:
        """Appeals of campaigns and items, and the intercept that gives the share of clicks."""
        taste = _Taste(rng.normal(0, 0.8, CAMPAIGNS), rng.normal(0, 0.5, items), 0.0)
        z = self._logit(self._impressions(rng, 20_000), taste)
        shift = float(logit(np.array([CLICK_SHARE]))[0])
        for _ in range(30):
            shift += (CLICK_SHARE - float(sigmoid(z + shift).mean())) / CLICK_SHARE
        return taste._replace(intercept=shift)

    def _impressions(self, rng: np.random.Generator, n: int) -> Rows:
        """Who is shown what, when on the day and where on the page; unordered, unclicked."""
        rows = np.empty(n, IMPRESSION)
        rows["user"] = rng.choice(len(self._share), n, p=self._share)
        rows["item"] = rng.choice(len(self._popularity), n, p=self._popularity)
        rows["campaign"] = self._campaign_of[rows["item"]]
        rows["device"] = self._device_of[rows["user"]]
        rows["position"] = rng.integers(1, POSITIONS + 1, n)
        price = self._price_of[rows["item"]]
        rows["price"] = np.where(rng.random(n) < 0.1, np.nan, price)
        # Most of the traffic in the evening.
        rows["event_time_ms"] = rng.normal(18 * 3_600_000, 5 * 3_600_000, n).astype(np.int64)
        rows["event_time_ms"] %= DAY_MS
        return rows

    def _logit(self, rows: Rows, taste: _Taste) -> F64:
        """The logit of a click, without what is not shown: a missing price tells nothing."""
        device = np.array([0.0, -0.3, 0.2, -1.0])[rows["device"]]
        hours = rows["event_time_ms"] % DAY_MS / 3_600_000
        z = self._user[rows["user"]] + taste.item[rows["item"]] + taste.campaign[rows["campaign"]]
        z = z + device - 0.25 * rows["position"] - 0.3 * np.log1p(self._price_of[rows["item"]])
        found: F64 = z + 0.4 * np.cos((hours - 21) / 24 * 2 * np.pi) + taste.intercept
        return found

    def _day(self, day: int) -> Rows:
        rng = np.random.default_rng([self.seed, 1, day])
        rows = self._impressions(rng, rng.poisson(self.daily_rate))
        taste = self._tastes[self._drifted(day)]
        rows["p"] = sigmoid(self._logit(rows, taste))
        rows["event_time_ms"] += self._start_ms + day * DAY_MS
        clicked = rng.random(len(rows)) < rows["p"]
        delay_ms = 1000 + (rng.exponential(CLICK_MEAN_S, len(rows)) * 1000).astype(np.int64)
        rows["reported_at_ms"] = np.where(clicked, rows["event_time_ms"] + delay_ms, NEVER)
        return rows[in_order(rows["event_time_ms"])]


def _event(rows: Rows, seed: int) -> dict[str, list[Any]]:
    return {
        # The seed keeps the ids of two simulations on one topic apart.
        "impression_id": [f"i{seed}-{i}" for i in rows["index"].tolist()],
        "shown_at": rfc3339(rows["event_time_ms"]),
        "user": [f"u{i}" for i in rows["user"].tolist()],
        "item": [f"i{i}" for i in rows["item"].tolist()],
        "campaign": [f"c{i}" for i in rows["campaign"].tolist()],
        "device": [DEVICES[i] for i in rows["device"].tolist()],
        "position": rows["position"].tolist(),
        "price": [None if p != p else p for p in rows["price"].tolist()],
    }


def _truth(rows: Rows, seed: int) -> dict[str, list[Any]]:
    reported = rows["reported_at_ms"]
    return {"clicked": (reported != NEVER).tolist(), "clicked_at": rfc3339(reported)}


CLICKS = writing(_event, _truth, "user", "impression_id", ("position", "user", "campaign"))
"""Impressions and their clicks, as ``examples/clicks.toml`` takes them."""
