"""What an answer of a recommender costs, by the size of its catalogue, beside River's ``BiasedMF``.

``python -m benchmarks.ranking.lookups [--items N ...]``. Users with tastes take items, then the ten
best of all known items are asked for, and 500 given ones are ranked, without HTTP or a log around
them. River ranks as many: all of the smallest catalogue (``Ranker.rank``), and the 500. Times are
processor time, the two sides in turn, medians of rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from river import reco

from benchmarks.common import arguments, show
from models.base import U64
from models.reco.recommender import Interactions, Recommender, Request
from models.reco.settings import RecoSettings

USERS, GIVEN, ROUNDS = 1_000, 500, 5
ITEMS = (1_700, 10_000, 100_000)


def taken(items: int, n: int) -> Interactions:
    """Rows whose every item is taken at least once, then by what is popular and by tastes."""
    rng = np.random.default_rng(1)
    user = rng.integers(0, USERS, n)
    liked = (
        rng.integers(0, 20, USERS)[user] * items // 20 + rng.exponential(items / 40, n)
    ) % items
    item = np.where(rng.random(n) < 0.5, liked, items * rng.random(n) ** 3).astype(np.uint64)
    item[:items] = rng.permutation(items)
    times = 1_600_000_000_000 + 30_000 * np.arange(n, dtype=np.int64)
    none = np.zeros(n, np.uint64)
    return Interactions(
        *(times, user.astype(np.uint64) + 1, none, item + 1, np.ones(n), np.full(n, np.nan))
    )


def each(calls: int, ask: Callable[[int], object]) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    for i in range(calls):
        ask(i)
    return (time.process_time() - started) / calls


def measured(items: int, rows: int, calls: int, river: bool) -> dict[str, Any]:
    """Microseconds of each kind of answer, by processor time."""
    given = taken(items, rows)
    ours = Recommender(RecoSettings(items=max(items, 1_000)), seed=1)
    ours.learn(given)
    now, known = int(given.time_ms[-1]), np.unique(given.item)
    some: U64 = np.random.default_rng(2).choice(known, min(GIVEN, len(known)), replace=False)
    sides: dict[str, Callable[[int], object]] = {
        "top_10": lambda i: ours.rank(Request(now, user=1 + i % USERS)),
        "rank_500": lambda i: ours.rank(Request(now, user=1 + i % USERS, items=some, count=GIVEN)),
    }
    if river:
        model, users, every = reco.BiasedMF(), given.user.tolist(), given.item.tolist()
        for user, item in zip(users, every, strict=True):
            model.learn_one(user=user, item=item, y=1.0)
        whole, part = known.tolist(), some.tolist()
        sides["river_all"] = lambda i: model.rank(1 + i % USERS, whole)
        sides["river_500"] = lambda i: model.rank(1 + i % USERS, part)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, ask in sides.items():
            few = max(1, calls // 20) if name.startswith("river") else calls
            found[name].append(each(few, ask))
    times = {name: 1e6 * statistics.median(took) for name, took in found.items()}
    return {"items": items, "rows": rows} | times


def main() -> None:
    """The command line."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--items", type=int, nargs="+", default=list(ITEMS))

    given = arguments(__doc__, more)
    sizes = [min(n, 2_000) for n in given.items] if given.quick else given.items
    calls = 40 if given.quick else 400
    rows = [
        measured(n, max(20_000, 3 * n) if given.quick else max(100_000, 3 * n), calls, i == 0)
        for i, n in enumerate(sizes)
    ]
    first = rows[0]
    found = {
        "us": {str(r.pop("items")): r for r in rows},
        "top_10_ratio": first["river_all"] / first["top_10"],
        "rank_500_ratio": first["river_500"] / first["rank_500"],
        "growth": {str(n): r["top_10"] / first["top_10"] for n, r in zip(sizes, rows, strict=True)},
    }
    show("answers of a recommender", found, given.json)


if __name__ == "__main__":
    main()
