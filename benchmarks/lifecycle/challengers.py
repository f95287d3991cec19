"""Challengers: how often a model that is no better wins, and how soon a better one is found.

Run ``python -m benchmarks.lifecycle.challengers [--json] [--quick]``. Two ``logistic`` members
score rows of 90 days, 600 a day, and learn them once their labels have come, each with Poisson
weights of its own: equal skill, by symmetry. Campaigns of 1, 600 or 5,000 rows move the truth, and
neither member sees them. Their losses as made go through the blocks and the evidence that the
service keeps, watched after every block. The same runs decided by the lower mean loss, at any look
between 1,000 and 10,000 labels, stand beside. Then a challenger that repeats the share of the
newest 100 labels, and better ones, for which the member's scores are made worse by noise. No engine
runs: what one adds is tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import arguments, show, target
from models.base import F64, FeatureBatch, FeatureSchema, Model
from models.links import logit, sigmoid
from models.members.catalogue import build
from monitoring.drift.evidence import Blocks
from stream.demo.simulator import DAY_MS

DAYS, A_DAY, WARM = 90, 600, 2_000
ROWS = DAYS * A_DAY
CHUNK = 200
ALPHA = 0.05
NEEDED = math.pi**2 / 6 / ALPHA
"""Evidence that the first challenger of a member needs."""
RUNS, COPIERS, POWER = 200, 100, 50
DELAYS = {"at once": CHUNK, "a day": A_DAY, "7 days": 7 * A_DAY}
"""Rows after which a label comes."""
CAMPAIGNS = (1, 600, 5_000)
NOISE = {"large": 1.1, "small": 0.35}
"""Of the logits of a member that is worse."""
DENSE = tuple("abcdef")


class World(NamedTuple):
    """Features, truths and the log odds of a constant, of all rows."""

    x: FeatureBatch
    y: F64


def world(seed: int, campaign: int) -> World:
    """A twentieth of the rows are positive, by their features and the campaign that runs."""
    rng = np.random.default_rng([seed, campaign])
    dense = rng.normal(size=(ROWS, len(DENSE))).astype(np.float32)
    odds = dense @ np.array([1.0, -0.8, 0.6, 0.0, 0.3, -0.2]) - 4.0
    odds += np.repeat(rng.normal(size=-(-ROWS // campaign)), campaign)[:ROWS]
    y = (rng.random(ROWS) < sigmoid(odds)).astype(np.float64)
    schema = FeatureSchema(DENSE)
    return World(FeatureBatch(schema, dense, np.zeros((ROWS, 0), np.uint32)), y)


def scored(world: World, delay: int, seed: int) -> F64:
    """Logits as made of two members ``(n, 2)`` that learn the rows with weights of their own."""
    rng = np.random.default_rng(seed)
    members: list[Model] = [build("logistic", {}, world.x.schema, 0) for _ in range(2)]
    out = np.zeros((ROWS, 2))
    for start in range(0, ROWS, CHUNK):
        now, due = (slice(at, at + CHUNK) for at in (start, start + CHUNK - delay))
        for j, member in enumerate(members):
            out[now, j] = member.score(world.x.take(now))[:, 0]
            if due.start >= 0:
                weights = rng.poisson(1.0, CHUNK).astype(np.float64)
                member.learn(world.x.take(due), world.y[due], weights)
    return out


def losses(z: F64, y: F64) -> F64:
    """Log losses of logits, at most that of a probability of 1e-4."""
    costs: F64 = np.logaddexp(0.0, np.where(y > 0, -z, z))
    return np.minimum(costs, -math.log(1e-4))


def judged(ours: F64, theirs: F64, y: F64, delay: int) -> tuple[str, int]:
    """Whether the challenger is promoted or dropped, and after how many blocks of a day."""
    blocks = Blocks(DAY_MS, min(500, A_DAY), 2)
    rows = slice(WARM + delay, ROWS - delay)
    gaps = losses(ours[rows], y[rows]) - losses(theirs[rows], y[rows])
    for i, (gap, truth) in enumerate(zip(gaps.tolist(), y[rows].astype(int).tolist(), strict=True)):
        if blocks.add(gap, i * DAY_MS // A_DAY, truth):
            if blocks.better() >= NEEDED:
                return "promoted", i // A_DAY + 1
            if blocks.worse() >= NEEDED:
                return "dropped", i // A_DAY + 1
    return "open", DAYS


def peeked(ours: F64, theirs: F64, y: F64) -> bool:
    """Whether the mean loss is lower at any look between 1,000 and 10,000 labels."""
    rows = slice(WARM, WARM + 10_000)
    sums = np.cumsum(losses(ours[rows], y[rows]) - losses(theirs[rows], y[rows]))
    return bool((sums[1_000:] > 0).any())


def equal(runs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Shares of runs in which one of two equals was promoted, by delay and campaign."""
    for name, delay in DELAYS.items():
        for campaign in CAMPAIGNS:
            ends, swapped = [], 0
            for seed in range(runs):
                made = world(seed, campaign)
                ours, theirs = scored(made, delay, seed).T
                ends.append(judged(ours, theirs, made.y, delay)[0])
                swapped += peeked(ours, theirs, made.y)
            yield (
                f"labels {name}, campaigns of {campaign:,}",
                {
                    "promoted": ends.count("promoted") / runs,
                    "dropped": ends.count("dropped") / runs,
                    "by the lower mean at any look": swapped / runs,
                },
            )


def copies(y: F64, delay: int) -> F64:
    """Logits of the share of the newest 100 labels that had come, for each row."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    known = np.maximum(np.arange(len(y)) - delay, 0)
    first = np.maximum(known - 100, 0)
    return logit((total[known] - total[first] + 0.5) / (known - first + 1.0))


def copiers(runs: int) -> dict[str, int]:
    """Promotions of challengers that copy labels."""
    found = {}
    for name, delay in DELAYS.items():
        count = 0
        for seed in range(runs):
            made = world(seed, CAMPAIGNS[-1])
            ours = scored(made, delay, seed)[:, 0]
            count += judged(ours, copies(made.y, delay), made.y, delay)[0] == "promoted"
        found[f"labels {name}"] = count
    return found


def power(runs: int) -> dict[str, dict[str, float]]:
    """How soon a challenger is found beside a member whose scores have noise, labels a day late."""
    found = {}
    for name, noise in NOISE.items():
        ends, gains = [], []
        for seed in range(runs):
            made = world(seed, CAMPAIGNS[-1])
            _, theirs = scored(made, DELAYS["a day"], seed).T
            ours = theirs + np.random.default_rng([seed, 3]).normal(0.0, noise, ROWS)
            ends.append(judged(ours, theirs, made.y, DELAYS["a day"]))
            mine, better = (losses(z, made.y)[WARM:].mean() for z in (ours, theirs))
            gains.append(better / mine - 1)
        blocks = sorted(n for end, n in ends if end == "promoted")
        found[name] = {
            "loss": round(float(np.mean(gains)), 4),
            "found": len(blocks) / runs,
            "found in 35 blocks": sum(n <= 35 for n in blocks) / runs,
            "blocks_median": blocks[len(blocks) // 2] if blocks else math.nan,
            "blocks_worst": blocks[-1] if blocks else math.nan,
        }
    return found


def main() -> None:
    """Print the table, or JSON."""
    options = arguments(__doc__)
    runs, many, some = (4, 2, 2) if options.quick else (RUNS, COPIERS, POWER)
    even, copied, better = dict(equal(runs)), copiers(many), power(some)
    worst = max(one["promoted"] for one in even.values())
    show(
        "Challengers",
        {
            "runs": runs,
            "equal skill": even,
            "copies labels, promoted": copied,
            "better": better,
            "targets": {
                "false promotions": target(worst, 0.02, at_least=False),
                "copiers promoted": target(sum(copied.values()), 0, at_least=False),
                "blocks to find the much better": target(
                    better["large"]["blocks_median"], 35, at_least=False
                ),
            },
        },
        options.json,
    )


if __name__ == "__main__":
    main()
