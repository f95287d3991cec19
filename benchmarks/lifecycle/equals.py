"""A race of four challengers: how many of those promoted were better, and how many where none was.

Run ``python -m benchmarks.lifecycle.equals [--runs N] [--json] [--quick]``. A small forest and four
of other seeds score the stream of ``benchmarks/lifecycle/challengers.py`` over the whole of its 90
days, and learn its labels as they come. Their losses as made go through the service's blocks and
evidence, with what each of four that begin together needs. Forests of other seeds are equal on
average only, so of each that would be promoted is told what it was worth afterwards, on rows that
had no part in the decision: the mean of the differences over its deviation, by blocks of ten days.

Then the signs of the differences are drawn anew for each day, or each ten days, alike for all four:
nobody is better in the mean any more, whatever the past, while sizes, bursts and likeness between
the four stay. Promotions are false there, all of them.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import arguments, show, target
from benchmarks.lifecycle.challengers import (
    A_DAY,
    ALPHA,
    CAMPAIGNS,
    CHUNK,
    DAYS,
    DELAYS,
    ROWS,
    WARM,
    World,
    losses,
    world,
)
from benchmarks.lifecycle.watched import FOREST
from models.base import F64
from models.members.catalogue import build
from monitoring.drift.evidence import Blocks
from stream.demo.simulator import DAY_MS
from stream.step.lifecycle.challengers import needed_by

MANY = 4
NEEDED = needed_by(range(1, MANY + 1), ALPHA)
LONG = 10
"""Days: beyond any campaign."""
FLIPS = 3
"""Draws of signs for each run."""


class Won(NamedTuple):
    """A promotion: which challenger's, and after which row of the race."""

    which: int
    row: int


def gaps(made: World, delay: int, seed: int) -> F64:
    """Losses as made of a forest less those of four others, ``(rows, 4)``, warm ones."""
    params = {key: value for key, value in FOREST.items() if key != "type"}
    members = [build("forest", params, made.x.schema, 10 * seed + j) for j in range(MANY + 1)]
    found = np.zeros((ROWS, MANY + 1))
    for start in range(0, ROWS, CHUNK):
        now, due = (slice(at, at + CHUNK) for at in (start, start + CHUNK - delay))
        for j, member in enumerate(members):
            found[now, j] = losses(member.score(made.x.take(now))[:, 0], made.y[now])
            if due.start >= 0:
                member.learn(made.x.take(due), made.y[due], np.ones(CHUNK))
    found = found[WARM + delay : ROWS - delay]
    return found[:, :1] - found[:, 1:]


def race(differences: F64, y: F64) -> Won | None:
    """Who is promoted, looked at after every block; the worse are dropped one by one."""
    racing = {k: Blocks(DAY_MS, min(500, A_DAY), 2) for k in range(MANY)}
    truths = y.astype(int).tolist()
    for i, (row, truth) in enumerate(zip(differences.tolist(), truths, strict=True)):
        for k, blocks in list(racing.items()):
            if blocks.add(row[k], i * DAY_MS // A_DAY, truth):
                if blocks.better() >= NEEDED:
                    return Won(k, i + 1)
                if blocks.worse() >= NEEDED:
                    del racing[k]
    return None


def worth(differences: F64) -> float:
    """The mean over its deviation, by blocks of ten days; ``nan`` of fewer than three."""
    size = LONG * A_DAY
    sums = differences[: len(differences) // size * size].reshape(-1, size).sum(axis=1)
    if len(sums) < 3:
        return np.nan
    return float(sums.mean() / (sums.std(ddof=1) / np.sqrt(len(sums))))


def flipped(differences: F64, days: int, seed: int) -> F64:
    """The differences with signs drawn anew for each stretch of so many days."""
    size = days * A_DAY
    signs = np.random.default_rng([seed, days]).choice([-1.0, 1.0], -(-len(differences) // size))
    return differences * np.repeat(signs, size)[: len(differences), None]


def line(runs: int, delay: int) -> dict[str, Any]:
    """Of so many runs: promotions, what they were worth, and those where nobody is better."""
    after, false = [], {1: 0, LONG: 0}
    whole = []
    for seed in range(runs):
        made = world(seed, CAMPAIGNS[seed % len(CAMPAIGNS)])
        found, y = gaps(made, delay, seed), made.y[WARM + delay : ROWS - delay]
        if won := race(found, y):
            rest = found[won.row :, won.which]
            after.append(float(rest.mean()) if len(rest) else np.nan)
            whole.append(worth(found[:, won.which]))
        for days in false:
            for draw in range(FLIPS):
                false[days] += race(flipped(found, days, seed * FLIPS + draw), y) is not None
    return {
        "promoted": len(whole) / runs,
        "of these better afterwards": sum(a > 0 for a in after),
        "worse afterwards": sum(a <= 0 for a in after),
        "z over the whole run": [round(z, 1) for z in sorted(whole)],
        "promoted, signs by day": false[1] / (runs * FLIPS),
        "promoted, signs by ten days": false[LONG] / (runs * FLIPS),
    }


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=200, help="of each line of the table")


def main() -> None:
    """Print the table, or JSON."""
    options = arguments(__doc__, _more)
    runs = 3 if options.quick else options.runs
    table = {f"labels {name}": line(runs, delay) for name, delay in DELAYS.items()}
    worst = max(one["promoted, signs by day"] for one in table.values())
    found = {"runs": runs, "days": DAYS, "flips": FLIPS, **table}
    found["targets"] = {"false promotions, by day": target(worst, ALPHA, at_least=False)}
    show("Four equals that race", found, options.json)


if __name__ == "__main__":
    main()
