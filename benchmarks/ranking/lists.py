"""What members over candidates are worth: items taken of each list by users who look at lists.

``python -m benchmarks.ranking.lists`` plays the shop simulator into two engines, with members and
without. Beside what it does by itself, the user of each request looks at the answer from the top,
on after each place with probability .85, and takes an item with probability .5 if it is of the
style he has in mind this time, else .05; a tenth of that where it costs more than 2.2 times, or
less than 1 / 2.2, of what he spends. No member of the recommender sees prices.
"""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import arguments, show
from stream.contract.records import Batch, Range, Record, Slice
from stream.demo.shop import DEEDS, ENTERS, STYLES, VIEW, WARES, ShopSimulator
from stream.run.assemble import build_ranking
from stream.settings.load import parse

SEED, PARTS = 11, 5
BASE: dict[str, Any] = {
    "name": "shop",
    "log": {"type": "embedded"},
    "target": {"type": "ranking"},
    "reco": {"seen": "include", "item_ttl": "14d", "items": 1000},
    "label": {"horizon": "1d"},
}
STAGE: dict[str, Any] = {
    "event": {"fields": {"price": "number", "purse": "number", "categories": "category"}},
    "features": [
        {"name": "utility", "type": "number", "field": "utility"},
        {"name": "price", "type": "number", "field": "price", "transform": "log1p"},
        {"name": "purse", "type": "number", "field": "purse", "transform": "log1p"},
        {"name": "category", "type": "category", "field": "categories", "buckets": 16},
        {
            **{"name": "item", "type": "risk", "entity": "item", "delay": "0s"},
            "windows": ["1d", "7d"],
        },
        {"name": "pair", "type": "risk", "entity": "pair", "delay": "0s", "windows": ["30d"]},
    ],
    "members": [
        {"name": "linear", "type": "logistic"},
        {"name": "forest", "type": "forest"},
        {"name": "boosting", "type": "boosting"},
    ],
    "ensemble": {"combine": "stack"},
}


class Shop:
    """The records of the simulator, and what its users think of a list."""

    def __init__(self, events: int) -> None:
        simulator = ShopSimulator(SEED, events=events)
        rows = np.concatenate([chunk.events for chunk in simulator.chunks(4096)])
        self.records = [msgspec.json.decode(line) for line in DEEDS.lines(rows, SEED)]
        enters, views = rows[rows["kind"] == ENTERS], rows[rows["kind"] == VIEW]
        self._price = dict(zip(enters["item"].tolist(), enters["price"].tolist(), strict=True))
        self._style: dict[str, int] = {}
        for session, item in zip(views["session"].tolist(), views["item"].tolist(), strict=True):
            self._style.setdefault(f"s{SEED}-{session}", item % (STYLES * WARES) // WARES)

    @staticmethod
    def purse(user: str) -> float:
        """What a user spends on one ware."""
        return math.exp(random.Random(user).gauss(3.0, 0.8))

    def taken(self, asked: dict[str, Any], items: list[str]) -> list[str]:
        """Which items of the answer to a request the user takes; the same for the same list."""
        style, purse = self._style.get(asked["session"]), self.purse(asked["user"])
        rng, found = random.Random(asked["id"]), []
        for item in items:
            number = int(item.rpartition("-")[2])
            likely = 0.5 if number % (STYLES * WARES) // WARES == style else 0.05
            if abs(math.log(self._price[number] / purse)) > math.log(2.2):
                likely /= 10
            if rng.random() < likely:
                found.append(item)
            if rng.random() > 0.85:
                break
        return found


def play(shop: Shop, settings: dict[str, Any]) -> dict[str, Any]:
    """Items taken of each list by parts of the run, and how many lists members put in order."""
    engine = build_ranking(parse(BASE | settings, "benchmark"), None)
    seen, offset, waiting, taken = set[str](), 0, list[dict[str, Any]](), list[int]()

    def step(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
        nonlocal offset
        records = [
            Record("events", 0, offset + i, None, msgspec.json.encode(v))
            for i, v in enumerate(values)
        ]
        span = Range("events", 0, offset, offset + len(records) - 1, len(records))
        offset += len(records)
        batch = Batch(engine.seq + 1, 1 << 48, [Slice(span, records)])
        return [msgspec.json.decode(r.value or b"") for r in engine.step(batch).scores]

    for record in shop.records:
        if (user := record.get("user")) is not None and user not in seen:
            seen.add(user)
            fields = {"purse": shop.purse(user)}
            head = {"event": "user", "timestamp": record["timestamp"]}
            waiting.append(head | {"user": user, "fields": fields})
        waiting.append(record)
        if record["event"] != "recommend":
            continue
        [answer] = step(waiting)
        chosen = shop.taken(record, [place["id"] for place in answer["items"]])
        taken.append(len(chosen))
        did = {"event": "interaction", "type": "view", "ranking": record["id"]}
        whose = {key: record[key] for key in ("user", "session", "timestamp")}
        waiting = [did | whose | {"item": item} for item in chosen]
    parts = [float(part.mean()) for part in np.array_split(np.array(taken, np.float64), PARTS)]
    stage = engine.reranker
    return {"lists": len(taken), "led": engine.counts["led"], "taken": parts} | (
        {} if stage is None else {"roc_auc": _auc(stage.quality.report())}
    )


def _auc(report: Any) -> dict[str, float]:
    return {name: of["sliding"]["roc_auc"] for name, of in report.items()}


def main() -> None:
    """Read the arguments, run, print."""
    options = arguments(__doc__)
    shop = Shop(2_000 if options.quick else 100_000)
    found = {"recommender": play(shop, {}), "with members": play(shop, STAGE)}
    if options.json:
        show("lists", found, True)
        return
    table = Table(title="Items taken of each list, by fifths of the run")
    for column in ("", *(f"{i}" for i in range(1, PARTS + 1)), "lists", "led by members"):
        table.add_column(column)
    for name, one in found.items():
        parts = (f"{value:.3f}" for value in one["taken"])
        table.add_row(name, *parts, f"{one['lists']:,}", f"{one['led']:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
