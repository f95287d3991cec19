"""A stream of support tickets, each closed by one of five teams: same seed, same tickets.

Which team follows from topic, product, plan and channel, by a softmax of what each adds and of what
topic and product add together, as ``examples/triage.toml`` takes them. Nothing here reads a clock
or does I/O.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from models.base import F64
from models.links import softmax
from stream.demo.player import rfc3339, writing
from stream.demo.simulator import (
    DAY_MS,
    NEVER,
    START_MS,
    Rows,
    Simulation,
    in_order,
)

TICKET = np.dtype(
    [
        ("index", "i8"),
        ("event_time_ms", "i8"),
        ("customer", "i4"),
        ("topic", "u1"),
        ("product", "u1"),
        ("plan", "u1"),
        ("channel", "u1"),
        ("words", "i4"),
        ("team", "u1"),
        ("reported_at_ms", "i8"),
    ]
)
"""One ticket: ``index`` from 0 on; ``words`` 1 or more; ``team`` an index into :data:`TEAMS`;
``reported_at_ms`` the time when it is closed, or ``NEVER``."""

TEAMS = ("account", "billing", "returns", "shipping", "technical")
PLANS = ("free", "team", "enterprise")
CHANNELS = ("chat", "mail", "phone")
TOPICS, PRODUCTS = 40, 12
CUSTOMERS = 800
TICKETS_A_DAY = 0.5
"""Of one customer, in the mean."""
CLOSED_MEDIAN_H, CLOSED_SIGMA = 4.0, 0.7
"""Lognormal delay of a ticket's end: half within 4 hours, nine in ten within 10."""
UNCLOSED = 0.05
"""Share of tickets that nobody closes."""


class _Duties(NamedTuple):
    """What holds before, or after, the drift: contributions to each team's logit."""

    topic: F64
    pair: F64


class TriageSimulator(Simulation):
    """Customers of twelve products who write about forty topics.

    Parameters
    ----------
    seed, events, start_ms
        See :class:`~stream.demo.simulator.Simulation`.
    customers : int
        Population size, 1 or more.
    drift : bool
        From ``drift_ms`` on the teams share the topics otherwise.

    Examples
    --------
    >>> chunk = next(TriageSimulator(seed=1, events=100).chunks(100))
    >>> len(chunk.events), bool((np.diff(chunk.events["event_time_ms"]) >= 0).all())
    (100, True)
    """

    def __init__(
        self,
        seed: int,
        customers: int = CUSTOMERS,
        start_ms: int = START_MS,
        drift: bool = True,
        events: int = 100_000,
    ) -> None:
        super().__init__(seed, events, start_ms, TICKET, customers=customers)
        rng = np.random.default_rng([seed, 0])
        self._paced(TICKETS_A_DAY * rng.gamma(2.0, 0.5, customers), drift)
        self._product_of = rng.integers(0, PRODUCTS, customers)
        self._plan_of = rng.choice(len(PLANS), customers, p=[0.6, 0.3, 0.1])
        self._popularity = rng.dirichlet(np.full(TOPICS, 2.0))
        self._plan = rng.normal(0, 0.7, (len(PLANS), len(TEAMS)))
        self._channel = rng.normal(0, 0.5, (len(CHANNELS), len(TEAMS)))
        self._duties = [
            _Duties(
                rng.normal(0, 2.5, (TOPICS, len(TEAMS))),
                rng.normal(0, 1.0, (TOPICS, PRODUCTS, len(TEAMS))),
            )
            for _ in range(2)
        ]

    def _day(self, day: int) -> Rows:
        rng = np.random.default_rng([self.seed, 1, day])
        n = rng.poisson(self.daily_rate)
        rows = np.empty(n, TICKET)
        # Most of them come in office hours.
        clock_ms = rng.normal(13 * 3_600_000, 3.5 * 3_600_000, n).astype(np.int64) % DAY_MS
        rows["event_time_ms"] = self._start_ms + day * DAY_MS + clock_ms
        rows["customer"] = rng.choice(len(self._share), n, p=self._share)
        rows["topic"] = rng.choice(TOPICS, n, p=self._popularity)
        rows["product"] = self._product_of[rows["customer"]]
        rows["plan"] = self._plan_of[rows["customer"]]
        rows["channel"] = rng.choice(len(CHANNELS), n, p=[0.4, 0.45, 0.15])
        rows["words"] = 1 + rng.lognormal(4.0, 0.8, n).astype(np.int64)
        duties = self._duties[self._drifted(day)]
        z = duties.topic[rows["topic"]] + duties.pair[rows["topic"], rows["product"]]
        z += self._plan[rows["plan"]] + self._channel[rows["channel"]]
        # Long tickets are technical ones.
        z[:, TEAMS.index("technical")] += 0.8 * (np.log(rows["words"]) - 4.0)
        reached = softmax(z).cumsum(axis=1) < rng.random((n, 1))
        rows["team"] = np.minimum(reached.sum(axis=1), len(TEAMS) - 1)
        delay_h = rng.lognormal(np.log(CLOSED_MEDIAN_H), CLOSED_SIGMA, n)
        closed = rows["event_time_ms"] + (delay_h * 3_600_000).astype(np.int64)
        rows["reported_at_ms"] = np.where(rng.random(n) < UNCLOSED, NEVER, closed)
        return rows[in_order(rows["event_time_ms"])]


def _event(rows: Rows, seed: int) -> dict[str, list[Any]]:
    return {
        # The seed keeps the ids of two simulations on one topic apart.
        "ticket_id": [f"t{seed}-{i}" for i in rows["index"].tolist()],
        "opened_at": rfc3339(rows["event_time_ms"]),
        "customer": [f"c{i}" for i in rows["customer"].tolist()],
        "topic": [f"topic-{i}" for i in rows["topic"].tolist()],
        "product": [f"product-{i}" for i in rows["product"].tolist()],
        "plan": [PLANS[i] for i in rows["plan"].tolist()],
        "channel": [CHANNELS[i] for i in rows["channel"].tolist()],
        "words": rows["words"].tolist(),
    }


def _truth(rows: Rows, seed: int) -> dict[str, list[Any]]:
    return {
        "team": [TEAMS[i] for i in rows["team"].tolist()],
        "closed_at": rfc3339(rows["reported_at_ms"]),
    }


TICKETS = writing(_event, _truth, "customer", "ticket_id", ("words", "customer", "topic"))
"""Tickets and the teams that closed them, as ``examples/triage.toml`` takes them."""
