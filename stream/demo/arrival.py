"""A stream of deliveries and the minutes until they arrive: same seed, same deliveries.

The label is the arrival itself, so that slow deliveries are told last. How long one takes follows
from distance, vehicle, hour, zone, rain, parcels and courier, times a lognormal error, as
``examples/arrival.toml`` takes them. Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.base import F64
from stream.demo.player import rfc3339, writing
from stream.demo.simulator import (
    DAY_MS,
    NEVER,
    START_MS,
    Rows,
    Simulation,
    in_order,
)

DELIVERY = np.dtype(
    [
        ("index", "i8"),
        ("event_time_ms", "i8"),
        ("courier", "i4"),
        ("zone", "u1"),
        ("vehicle", "u1"),
        ("distance_km", "f8"),
        ("parcels", "i4"),
        ("rain", "?"),
        ("minutes", "f8"),
        ("reported_at_ms", "i8"),
    ]
)
"""One delivery: ``index`` from 0 on; ``distance_km`` and ``minutes`` above 0 with 1 decimal;
``reported_at_ms`` the time of its arrival, or ``NEVER`` where nobody notes it."""

VEHICLES = ("bike", "scooter", "van")
KMH = np.array([15.0, 24.0, 32.0])
"""Speeds of the vehicles on empty roads."""
RUSH = np.array([0.05, 0.3, 1.0])
"""What the rush hour adds to their minutes, as a share."""
ZONES = 25
COURIERS = 40
DELIVERIES_A_DAY = 12.0
"""Of one courier, in the mean."""
UNNOTED = 0.03
"""Share of arrivals that nobody notes."""


class ArrivalSimulator(Simulation):
    """Couriers who bring parcels to the zones of a town.

    Parameters
    ----------
    seed, events, start_ms
        See :class:`~stream.demo.simulator.Simulation`.
    couriers : int
        Population size, 1 or more.
    drift : bool
        From ``drift_ms`` on roads are dug up: other zones are slow, and all take longer.

    Examples
    --------
    >>> chunk = next(ArrivalSimulator(seed=1, events=100).chunks(100))
    >>> len(chunk.events), bool((chunk.events["minutes"] > 0).all())
    (100, True)
    """

    def __init__(
        self,
        seed: int,
        couriers: int = COURIERS,
        start_ms: int = START_MS,
        drift: bool = True,
        events: int = 100_000,
    ) -> None:
        super().__init__(seed, events, start_ms, DELIVERY, couriers=couriers)
        rng = np.random.default_rng([seed, 0])
        self._paced(DELIVERIES_A_DAY * rng.uniform(0.5, 1.5, couriers), drift)
        self._vehicle_of = rng.choice(len(VEHICLES), couriers, p=[0.4, 0.25, 0.35])
        self._courier = rng.normal(0, 0.1, couriers)
        self._zones = rng.normal(0, 0.25, ZONES), rng.normal(0.25, 0.25, ZONES)

    def _day(self, day: int) -> Rows:
        rng = np.random.default_rng([self.seed, 1, day])
        n = rng.poisson(self.daily_rate)
        rows = np.empty(n, DELIVERY)
        clock_ms = rng.integers(8 * 3_600_000, 21 * 3_600_000, n)
        rows["event_time_ms"] = self._start_ms + day * DAY_MS + clock_ms
        rows["courier"] = rng.choice(len(self._share), n, p=self._share)
        rows["vehicle"] = self._vehicle_of[rows["courier"]]
        rows["zone"] = rng.integers(0, ZONES, n)
        rows["distance_km"] = np.round(0.5 + rng.gamma(2.0, 2.0, n), 1)
        rows["parcels"] = 1 + rng.poisson(1.5, n)
        # It rains by the day.
        rows["rain"] = rng.random() < 0.3
        minutes = self._minutes(rows, self._zones[self._drifted(day)])
        rows["minutes"] = np.round(minutes * rng.lognormal(0, 0.15, n), 1)
        arrived = rows["event_time_ms"] + (rows["minutes"] * 60_000).astype(np.int64)
        rows["reported_at_ms"] = np.where(rng.random(n) < UNNOTED, NEVER, arrived)
        return rows[in_order(rows["event_time_ms"])]

    def _minutes(self, rows: Rows, zone: F64) -> F64:
        """The usual minutes of each delivery."""
        hours = rows["event_time_ms"] % DAY_MS / 3_600_000
        rush = np.exp(-(((hours - 8.5) / 1.5) ** 2)) + np.exp(-(((hours - 17.5) / 1.5) ** 2))
        driving = rows["distance_km"] / KMH[rows["vehicle"]] * 60
        driving *= 1 + RUSH[rows["vehicle"]] * rush
        slower = zone[rows["zone"]] + self._courier[rows["courier"]] + 0.2 * rows["rain"]
        found: F64 = (4 + 1.5 * rows["parcels"] + driving) * np.exp(slower)
        return found


def _event(rows: Rows, seed: int) -> dict[str, list[Any]]:
    return {
        # The seed keeps the ids of two simulations on one topic apart.
        "delivery_id": [f"d{seed}-{i}" for i in rows["index"].tolist()],
        "left_at": rfc3339(rows["event_time_ms"]),
        "courier": [f"c{i}" for i in rows["courier"].tolist()],
        "zone": [f"z{i}" for i in rows["zone"].tolist()],
        "vehicle": [VEHICLES[i] for i in rows["vehicle"].tolist()],
        "distance_km": rows["distance_km"].tolist(),
        "parcels": rows["parcels"].tolist(),
        "rain": rows["rain"].tolist(),
    }


def _truth(rows: Rows, seed: int) -> dict[str, list[Any]]:
    return {
        "minutes": rows["minutes"].tolist(),
        "arrived_at": rfc3339(rows["reported_at_ms"]),
    }


DELIVERIES = writing(_event, _truth, "courier", "delivery_id", ("distance_km", "courier", "zone"))
"""Deliveries and their arrivals, as ``examples/arrival.toml`` takes them."""
