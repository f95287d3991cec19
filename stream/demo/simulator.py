"""Simulated streams with late labels, as columns; first of all card payments with fraud and drift.

After the simulator of the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot and Bontempi 2022,
chapter 3): same seed, same payments. ``clicks.py``, ``triage.py``, ``arrival.py`` and ``shop.py``
hold the other streams. ``player.py`` turns the columns into records and files; the demo, the tests
and the benchmarks call both. Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, MillraceError

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z, the default first midnight."""
DAY_MS = 86_400_000
CATEGORIES = (
    "grocery",
    "fuel",
    "restaurant",
    "clothing",
    "electronics",
    "travel",
    "pharmacy",
    "home",
    "sport",
    "toys",
    "jewellery",
    "digital",
)
"""Merchant categories; a terminal has one for life."""

PAYMENT = np.dtype(
    [
        ("index", "i8"),
        ("event_time_ms", "i8"),
        ("amount", "f8"),
        ("customer", "i4"),
        ("terminal", "i4"),
        ("category", "u1"),
        ("online", "?"),
        ("scenario", "u1"),
        ("reported_at_ms", "i8"),
    ]
)
"""One payment: ``index`` from 0 on; ``amount`` > 0 with 2 decimals; ``category`` an index into
:data:`CATEGORIES`; ``scenario`` 0 genuine, 1 large amount, 2 compromised terminal, 3 stolen card;
``reported_at_ms`` the time its truth becomes known, or :data:`NEVER`."""
NEVER = -1
"""``reported_at_ms`` of a payment whose truth nobody reports."""
GENUINE, LARGE, COMPROMISED, STOLEN = range(4)
_ONLINE = np.array([0.15, 0.5, 0.15, 0.6])  # share of payments made online, by scenario

Rows = NDArray[np.void]
"""Array ``(n,)`` of a simulation's dtype."""
Payments = Rows
"""Array ``(n,)`` of :data:`PAYMENT`."""

LIMIT = 220.0
"""Amounts above it are fraud (scenario 1); honest ones stay below."""
STOLEN_FACTOR = 5.0
"""What a thief pays is this many times what the customer would."""
OUTBREAK_DAYS = 7
"""How long a terminal stays compromised and a card stolen."""
FRAUD_MEDIAN_DAYS, FRAUD_SIGMA = 2.0, 0.8
"""Lognormal delay of a fraud's report: half within 2 days, nine in ten within 5.6."""
STATEMENT_DAYS = 7
"""Honest payments are confirmed all at once, by the customer's next weekly statement."""
FRAUD_UNREPORTED, GENUINE_UNREPORTED = 0.05, 0.2
"""Shares whose truth nobody reports."""


class SimulatorError(MillraceError):
    """A simulation was asked for that cannot be made."""


class SimulatedChunk(NamedTuple):
    """The next events in event-time order, and the labels visible by the last of them.

    ``labels`` are events of this or earlier chunks with ``reported_at_ms`` up to the chunk's last
    event time, in the order of their reports.
    """

    events: Rows
    labels: Rows


class Simulation(ABC):
    """Days of events, cut into chunks, with the labels that become visible as time goes on.

    Parameters
    ----------
    seed : int
        Of everything.
    events : int
        How many to make, 1 or more.
    start_ms : int
        First midnight, UTC epoch milliseconds.
    dtype : numpy.dtype
        Of an event: ``index``, ``event_time_ms`` and ``reported_at_ms`` (when its truth becomes
        known, or :data:`NEVER`) among others.
    **sizes : int
        Of its populations by name, 1 or more each.

    Attributes
    ----------
    daily_rate : float
        Expected events a day of event time.
    """

    daily_rate: float
    _share: F64
    _drift_day: int | None

    def __init__(
        self, seed: int, events: int, start_ms: int, dtype: np.dtype[Any], **sizes: int
    ) -> None:
        for name, value in {"events": events, **sizes}.items():
            if value < 1:
                raise SimulatorError(f"{name}: expected 1 or more, got {value}")
        self.seed = seed
        self.events = events
        self._start_ms = start_ms
        self._dtype = dtype

    @abstractmethod
    def _day(self, day: int) -> Rows:
        """All events of one day in order of time; depends on nothing but the seed and the day."""

    def _paced(self, rate: F64, drift: bool) -> None:
        """Take in how many events a day each of those make who make them ``(n,)``.

        That tells each one's share, and the day of the drift: the one whose midnight is nearest the
        middle, not the first.
        """
        self.daily_rate = float(rate.sum())
        self._share = rate / rate.sum()
        middle = max(1, round(self.events / self.daily_rate / 2))
        self._drift_day = middle if drift else None

    def _drifted(self, day: int) -> bool:
        return self._drift_day is not None and day >= self._drift_day

    @property
    def drift_ms(self) -> int | None:
        """The midnight nearest the middle, from which something else holds; or ``None``."""
        return None if self._drift_day is None else self._start_ms + self._drift_day * DAY_MS

    def chunks(self, size: int) -> Iterator[SimulatedChunk]:
        """The whole simulation from its start, ``size`` events at a time (the last may be less).

        Labels reported after the last event never become visible.
        """
        if size < 1:
            raise SimulatorError(f"size: expected 1 or more, got {size}")
        waiting = np.empty(0, self._dtype)
        for events in self._cut(size):
            waiting = np.concatenate([waiting, events[events["reported_at_ms"] != NEVER]])
            due = waiting["reported_at_ms"] <= events["event_time_ms"][-1]
            labels = waiting[due]
            waiting = waiting[~due]
            yield SimulatedChunk(events, labels[in_order(labels["reported_at_ms"])])

    def _cut(self, size: int) -> Iterator[Rows]:
        """Exactly ``self.events`` events in pieces of ``size``, numbered."""
        rest = np.empty(0, self._dtype)
        day = 0
        for first in range(0, self.events, size):
            wanted = min(size, self.events - first)
            parts = [rest]
            have = len(rest)
            while have < wanted:
                parts.append(self._day(day))
                have += len(parts[-1])
                day += 1
            joined = np.concatenate(parts) if len(parts) > 1 else rest
            piece, rest = joined[:wanted], joined[wanted:]
            piece["index"] = np.arange(first, first + wanted)
            yield piece


class _Regime(NamedTuple):
    """What holds before, or after, the drift. ``mix``: how fraud splits over scenarios 1, 2, 3."""

    scale: float
    mix: tuple[float, float, float]
    large_hours: tuple[int, int]


_BEFORE = _Regime(scale=1.0, mix=(0.35, 0.35, 0.30), large_hours=(0, 6))
_AFTER = _Regime(scale=1.6, mix=(0.15, 0.55, 0.30), large_hours=(12, 18))


class _Outbreaks:
    """Which entities are compromised on a day: a fixed number, each for ``OUTBREAK_DAYS`` days.

    The entities follow a random order, and their starts are spread over the days. So many of their
    payments are fraud, at most the part ``most``, that it makes up ``share`` of all payments.
    """

    def __init__(self, rng: np.random.Generator, rate: F64, share: float, most: float) -> None:
        # Entities of middling traffic only: one very busy terminal would bend the fraud share.
        usual = np.flatnonzero((rate > 0.5 * rate.mean()) & (rate < 1.5 * rate.mean()))
        usual = usual if len(usual) else np.array([rate.argmax()])
        wanted = share * rate.sum() / rate[usual].mean()
        self._active = min(int(np.ceil(wanted / most)), len(usual))
        self._probability = min(wanted / self._active, 1.0) if self._active else 0.0
        self._order = rng.permutation(usual)
        self._phase = rng.integers(0, OUTBREAK_DAYS, self._active)
        self._size = len(rate)

    def hits(self, rng: np.random.Generator, day: int, entity: I64) -> NDArray[np.bool_]:
        """Which of the day's payments, given by their entities ``(n,)``, are fraud for that."""
        compromised = np.zeros(self._size, dtype=np.bool_)
        if self._active:
            period = (day + self._phase) // OUTBREAK_DAYS
            slot = np.arange(self._active) + self._active * period
            compromised[self._order[slot % len(self._order)]] = True
        return compromised[entity] & (rng.random(len(entity)) < self._probability)


class _World(NamedTuple):
    """A regime and its fraud: the share of large payments, terminals and customers struck."""

    regime: _Regime
    large: float
    terminals: _Outbreaks
    customers: _Outbreaks


class Simulator(Simulation):
    """Customers who pay at terminals near their home, and three kinds of fraud.

    Parameters
    ----------
    seed : int
        Of everything; the payments depend on nothing else but these parameters.
    customers, terminals : int
        Population sizes, 1 or more. A customer makes 0.5 to 3.5 payments a day, 2 on average.
    start_ms : int
        First midnight, UTC epoch milliseconds.
    fraud_share : float
        Expected share of fraud, 0..0.2.
    drift : bool
        From ``drift_ms`` on amounts grow by 60 %, the limit above which they are fraud with them,
        large frauds move from night to afternoon, the mix of scenarios changes and other terminals
        are compromised. ``False``: stationary.
    events : int
        How many payments to make, 1 or more.

    Raises
    ------
    SimulatorError
        For a parameter out of range.

    Examples
    --------
    >>> chunk = next(Simulator(seed=1, events=100).chunks(100))
    >>> len(chunk.events), bool((np.diff(chunk.events["event_time_ms"]) >= 0).all())
    (100, True)
    """

    def __init__(
        self,
        seed: int,
        customers: int = 1000,
        terminals: int = 400,
        start_ms: int = START_MS,
        fraud_share: float = 0.015,
        drift: bool = True,
        events: int = 100_000,
    ) -> None:
        super().__init__(seed, events, start_ms, PAYMENT, customers=customers, terminals=terminals)
        if not 0 <= fraud_share <= 0.2:
            raise SimulatorError(f"fraud_share: expected 0..0.2, got {fraud_share}")
        self._fraud_share = fraud_share
        rng = np.random.default_rng([seed, 0])
        self._populate(rng, customers, terminals)
        self._paced(self._rate, drift)
        self._worlds = [self._world(rng, regime) for regime in (_BEFORE, _AFTER)]

    def _populate(self, rng: np.random.Generator, customers: int, terminals: int) -> None:
        """Homes, habits and reachable terminals, on a square of side 1."""
        self._category = rng.integers(0, len(CATEGORIES), terminals).astype(np.uint8)
        self._mean = rng.uniform(5.0, 100.0, customers)  # of an amount; the deviation is half of it
        self._rate = rng.uniform(0.5, 3.5, customers)  # payments a day
        self._statement_ms = rng.integers(0, STATEMENT_DAYS * DAY_MS, customers)
        home, place = rng.random((customers, 2)), rng.random((terminals, 2))
        # About 20 terminals lie within reach of a home in the middle of the square.
        radius = np.sqrt(20 / np.pi / terminals)
        near = []
        for x, y in home:
            distance = np.hypot(place[:, 0] - x, place[:, 1] - y)
            reach = np.flatnonzero(distance <= radius)
            near.append(reach if len(reach) else np.array([distance.argmin()]))
        self._reach = np.array([len(n) for n in near])  # (customers,)
        self._first = np.cumsum(self._reach) - self._reach
        self._near = np.concatenate(near)

    def _world(self, rng: np.random.Generator, regime: _Regime) -> _World:
        """The regime with its own compromised terminals and stolen cards."""
        spread = np.repeat(self._rate / self._reach, self._reach)
        visits = np.bincount(self._near, spread, minlength=len(self._category)).astype(np.float64)
        large, compromised, stolen = (self._fraud_share * part for part in regime.mix)
        return _World(
            regime,
            large,
            _Outbreaks(rng, visits, compromised, 0.9),
            _Outbreaks(rng, self._rate, stolen, 1 / 3),
        )

    def _day(self, day: int) -> Payments:
        rng = np.random.default_rng([self.seed, 1, day])
        world = self._worlds[self._drifted(day)]
        regime = world.regime
        # 1. Who pays, where, when and how much, were everybody honest.
        customer = np.repeat(np.arange(len(self._rate)), rng.poisson(self._rate))
        n = len(customer)
        pick = (rng.random(n) * self._reach[customer]).astype(np.int64)
        terminal = self._near[self._first[customer] + pick]
        clock_ms = rng.normal(43_200_000, 20_000_000, n).astype(np.int64) % DAY_MS
        mean = self._mean[customer]
        amount = rng.normal(mean, mean / 2)
        odd = (amount <= 0.01) | (amount > LIMIT)
        amount = np.where(odd, rng.uniform(0.01, 2 * mean), amount) * regime.scale
        # 2. Fraud; a stolen card wins over a compromised terminal, and that over a large amount.
        scenario = np.zeros(n, np.uint8)
        large = rng.random(n) < world.large
        scenario[large] = LARGE
        amount[large] = LIMIT * regime.scale * (1.01 + 0.5 * rng.exponential(size=large.sum()))
        first, last = regime.large_hours
        clock_ms[large] = rng.integers(first * 3_600_000, last * 3_600_000, large.sum())
        scenario[world.terminals.hits(rng, day, terminal)] = COMPROMISED
        stolen = world.customers.hits(rng, day, customer) & ~large
        scenario[stolen] = STOLEN
        amount[stolen] *= STOLEN_FACTOR
        # 3. Columns, in order of time.
        day_of = np.empty(n, PAYMENT)
        day_of["event_time_ms"] = self._start_ms + day * DAY_MS + clock_ms
        day_of["amount"] = np.round(amount, 2)
        day_of["customer"] = customer
        day_of["terminal"] = terminal
        day_of["category"] = self._category[terminal]
        day_of["online"] = rng.random(n) < _ONLINE[scenario]
        day_of["scenario"] = scenario
        day_of["reported_at_ms"] = self._reported(rng, day_of)
        return day_of[in_order(day_of["event_time_ms"])]

    def _reported(self, rng: np.random.Generator, payments: Payments) -> I64:
        """When the truth of each payment becomes known, or :data:`NEVER`."""
        n = len(payments)
        at = payments["event_time_ms"]
        fraud = payments["scenario"] != GENUINE
        delay_days = rng.lognormal(np.log(FRAUD_MEDIAN_DAYS), FRAUD_SIGMA, n)
        complaint = at + (delay_days * DAY_MS).astype(np.int64)
        closing = self._statement_ms[payments["customer"]]
        statement = at + (closing - at) % (STATEMENT_DAYS * DAY_MS)
        silent = rng.random(n) < np.where(fraud, FRAUD_UNREPORTED, GENUINE_UNREPORTED)
        return np.where(silent, NEVER, np.where(fraud, complaint, statement))


def in_order(times_ms: I64) -> I64:
    """The places of the times ``(n,)``, earliest first."""
    # Stable, so that equal times keep one order on every machine.
    return np.argsort(times_ms, kind="stable")
