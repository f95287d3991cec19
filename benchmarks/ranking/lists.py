"""What members over candidates are worth: lists of the shop with them, without, and of the popular.

``python -m benchmarks.ranking.lists`` plays the shop simulator into engines of
``examples/shop.toml``, each seed for itself. Of every view it tells whether the item stood in the
list of ten that its sitting began with, and 1 / place, from a fifth of the stream on.

With ``--looking`` the users of the simulator also look at the lists: from the top, on after each
place with probability .85, and take an item with probability .5 if it is of the style they have in
mind this time, else .05; a tenth of that where it costs more than 1.8 times, or less than 1 / 1.8,
of what they are used to pay. Of these lists it tells how many items were taken of each.
"""

from __future__ import annotations

import argparse
import math
import random
import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import arguments, show
from stream.contract.records import Batch, Range, Record, Slice
from stream.demo.shop import DEEDS, STYLES, VIEW, WARES, ShopSimulator
from stream.run.assemble import build_ranking
from stream.settings.load import parse

SEEDS = (3, 5, 7, 11)
PIECE = 200
WARM = 0.2
"""Share of the stream that is not counted."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "shop.toml"
ALONE: dict[str, Any] = {"features": [], "members": []}
POPULAR = ALONE | {"reco": {"members": {"popular": {}}}}
VARIANTS = {"popular": POPULAR, "recommender": ALONE, "with members": {}}


class Shop:
    """The records of the simulator, and what its users think of a list."""

    def __init__(self, seed: int, events: int) -> None:
        simulator = ShopSimulator(seed, events=events)
        rows = np.concatenate([chunk.events for chunk in simulator.chunks(4096)])
        self.records = [msgspec.json.decode(line) for line in DEEDS.lines(rows, seed)]
        self._price: dict[str, float] = {}
        self._style: dict[str, int] = {}
        views = rows[rows["kind"] == VIEW]
        for session, item in zip(views["session"].tolist(), views["item"].tolist(), strict=True):
            self._style.setdefault(f"s{seed}-{session}", _style(item))

    def told(self, record: dict[str, Any]) -> None:
        """Take in a record: prices change."""
        if "price" in (fields := record.get("fields", {})):
            self._price[record["item"]] = fields["price"]

    def taken(self, asked: dict[str, Any], items: list[str]) -> list[str]:
        """Which items of the answer to a request the user takes; the same for the same list."""
        style, usual = self._style.get(asked["session"]), asked["fields"]["usual_price"]
        rng, found = random.Random(asked["id"]), []
        for item in items:
            likely = 0.5 if _style(int(item.rpartition("-")[2])) == style else 0.05
            if abs(math.log(self._price[item] / usual)) > math.log(1.8):
                likely /= 10
            if rng.random() < likely:
                found.append(item)
            if rng.random() > 0.85:
                break
        return found


def _style(item: int) -> int:
    return item % (STYLES * WARES) // WARES


def play(shop: Shop, changes: dict[str, Any], looking: bool) -> dict[str, float]:
    """What a variant of the example made of the stream."""
    raw = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    changed = {key: raw[key] | value if key == "reco" else value for key, value in changes.items()}
    engine = build_ranking(parse(raw | changed | {"log": {"type": "embedded"}}, "benchmark"), None)
    lists, taken, led = dict[str, list[str]](), list[int](), list[bool]()
    offset, waiting, began = 0, list[dict[str, Any]](), time.process_time()

    def step() -> None:
        nonlocal offset
        records = [
            Record("events", 0, offset + i, None, msgspec.json.encode(value))
            for i, value in enumerate(waiting)
        ]
        span = Range("events", 0, offset, offset + len(records) - 1, len(records))
        offset += len(records)
        waiting.clear()
        for answer in engine.step(Batch(engine.seq + 1, 1 << 48, [Slice(span, records)])).scores:
            found = msgspec.json.decode(answer.value or b"")
            lists[found["id"]] = [place["id"] for place in found["items"]]

    for record in shop.records:
        shop.told(record)
        waiting.append(record)
        asks = record["event"] == "recommend"
        if len(waiting) < PIECE and not (asks and looking):
            continue
        step()
        led.append(engine.reranker is not None and engine.reranker.leads)
        if asks and looking:
            chosen = shop.taken(record, lists[record["id"]])
            taken.append(len(chosen))
            did = {"event": "interaction", "type": "view", "ranking": record["id"]}
            whose = {key: record[key] for key in ("user", "session", "timestamp")}
            waiting += [did | whose | {"item": item} for item in chosen]
    step()
    places = [_worth(record, lists) for record in shop.records if record.get("type") == "view"]
    late = np.array(places[int(len(places) * WARM) :])
    return {
        "hit_10": float((late > 0).mean()),
        "mrr_10": float(late.mean()),
        "led": float(np.mean(led)),
        "cpu_s": time.process_time() - began,
    } | ({"taken": float(np.mean(taken[int(len(taken) * WARM) :]))} if looking else {})


def _worth(view: dict[str, Any], lists: dict[str, list[str]]) -> float:
    """1 / place of what was looked at in the list of its sitting; 0 where it was not there."""
    shown = lists[view["ranking"]]
    return 1 / (1 + shown.index(view["item"])) if view["item"] in shown else 0.0


def main() -> None:
    """Read the arguments, run, print."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
        parser.add_argument("--looking", action="store_true", help="users look at the lists")

    options = arguments(__doc__, more)
    seeds, events = (options.seeds[:1], 2_000) if options.quick else (options.seeds, 40_000)
    found = {
        name: [play(Shop(seed, events), changes, options.looking) for seed in seeds]
        for name, changes in VARIANTS.items()
    }
    if options.json:
        show("lists", found, True)
        return
    table = Table(title="Lists of ten: a line for each seed")
    keys = list(found["popular"][0])
    for column in ("", "seed", *keys):
        table.add_column(column)
    for name, runs in found.items():
        for seed, run in zip(seeds, runs, strict=True):
            table.add_row(name, str(seed), *(f"{run[key]:.4g}" for key in keys))
    Console().print(table)


if __name__ == "__main__":
    main()
