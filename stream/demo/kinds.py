"""The kinds of simulated streams: what makes each, writes it, and the example that takes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from stream.demo.arrival import COURIERS, DELIVERIES, DELIVERIES_A_DAY, ArrivalSimulator
from stream.demo.clicks import CLICKS, IMPRESSIONS_A_DAY, USERS, ClickSimulator
from stream.demo.player import PAYMENTS, Writing
from stream.demo.shop import DEEDS, DEEDS_A_DAY, SHOPPERS, ShopSimulator
from stream.demo.simulator import DAY_MS, START_MS, Simulation, Simulator
from stream.demo.triage import CUSTOMERS, TICKETS, TICKETS_A_DAY, TriageSimulator

KindName = Literal["payments", "clicks", "triage", "arrival", "shop"]


class Kind(NamedTuple):
    """One kind of stream.

    Attributes
    ----------
    make : callable ``(seed, population, *, start_ms, drift, events)``
        The population, and everything after it, has a default.
    population : int
        That default.
    often : float
        Events a day of one of the population, in the mean.
    example : str
        File of the configuration, here and in ``examples/``.
    """

    make: Callable[..., Simulation]
    writing: Writing
    population: int
    often: float
    example: str

    def up_to(
        self, now_ms: int, planned: int, seed: int, population: int | None = None, **options: Any
    ) -> Simulation:
        """A simulation that begins so early that ``planned`` events end before ``now_ms``."""
        # Few of them may make a tenth less than the mean.
        population, start_ms = beginning(
            now_ms, planned, self.often / 1.2, population or self.population
        )
        return self.make(seed, population, start_ms=start_ms, **options)


def beginning(now_ms: int, planned: int, often: float, population: int) -> tuple[int, int]:
    """How many there must be, and the first midnight, so that ``planned`` events end before now.

    ``often``: the least events a day of one of them. From ``START_MS`` on where that is early
    enough, else from an earlier midnight, 1970 at the earliest. What does not fit into the days
    since then gets a larger ``population``: days are fuller.
    """
    days = now_ms // DAY_MS
    population = max(population, math.ceil(planned / often / (days - 1)))
    first = days - 1 - math.ceil(planned / often / population)
    return population, min(START_MS, first * DAY_MS)


def _payments(seed: int, customers: int = 1000, **options: Any) -> Simulator:
    # Making them takes customers times terminals: of more than these it would be felt.
    return Simulator(seed, customers, min(max(20, customers * 2 // 5), 4000), **options)


KINDS: Mapping[KindName, Kind] = {
    "payments": Kind(_payments, PAYMENTS, 1000, 2.0, "fraud.toml"),
    "clicks": Kind(ClickSimulator, CLICKS, USERS, IMPRESSIONS_A_DAY, "clicks.toml"),
    "triage": Kind(TriageSimulator, TICKETS, CUSTOMERS, TICKETS_A_DAY, "triage.toml"),
    "arrival": Kind(ArrivalSimulator, DELIVERIES, COURIERS, DELIVERIES_A_DAY, "arrival.toml"),
    "shop": Kind(ShopSimulator, DEEDS, SHOPPERS, DEEDS_A_DAY, "shop.toml"),
}
