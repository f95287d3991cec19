"""The guard: how often it speaks of a member that is no worse, and how soon it finds harm.

Run ``python -m benchmarks.lifecycle.guard [--json] [--quick]``. A ``logistic`` member of the
challengers' worlds (90 days, 600 rows a day) learns labels a day late; what it was after 20 days is
compared with it from there on, by the blocks and the evidence that the service keeps. Nothing
happens to it; or the labels of days 30 to 36 are the wrong way round, and it learns on, or is
frozen after that week. No engine runs: what one adds is tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from benchmarks.common import arguments, show, target
from benchmarks.lifecycle.challengers import (
    A_DAY,
    CAMPAIGNS,
    CHUNK,
    DAYS,
    ROWS,
    losses,
    world,
)
from models.base import F64, Model
from models.members.catalogue import build
from monitoring.drift.evidence import Blocks
from monitoring.drift.settings import GuardSettings
from stream.demo.simulator import DAY_MS

RUNS = 40
KEPT, HARM = 20 * A_DAY, slice(30 * A_DAY, 37 * A_DAY)
NEEDED = GuardSettings().false_every
After = Literal["nothing", "learns on", "frozen"]


def compared(seed: int, campaign: int, after: After) -> tuple[F64, F64]:
    """Losses of the member less those of what it was, and the truths that were told."""
    made = world(seed, campaign)
    y = made.y.copy()
    if after != "nothing":
        y[HARM] = 1 - y[HARM]
    rng = np.random.default_rng(seed)
    member, then = (build("logistic", {}, made.x.schema, 0) for _ in range(2))
    out = np.zeros((2, ROWS))
    for start in range(0, ROWS, CHUNK):
        if start == KEPT:
            then.restore(member.state())
        now, due = (slice(at, at + CHUNK) for at in (start, start + CHUNK - A_DAY))
        models: tuple[Model, ...] = (member, then)
        for z, model in zip(out, models, strict=True):
            z[now] = model.score(made.x.take(now))[:, 0]
        if due.start >= 0 and not (after == "frozen" and due.start >= HARM.stop):
            weights = rng.poisson(1.0, CHUNK).astype(np.float64)
            member.learn(made.x.take(due), y[due], weights)
    return losses(out[0], y) - losses(out[1], y), y


def found(gaps: F64, y: F64) -> int | None:
    """The day after which going back is proposed."""
    blocks = Blocks(DAY_MS, min(500, A_DAY), 2, lengthen=False)
    for i in range(KEPT, ROWS - A_DAY):
        ended = blocks.add(float(gaps[i]), i * DAY_MS // A_DAY, int(y[i]))
        if ended and blocks.changed() >= NEEDED:
            return i // A_DAY + 1
    return None


def harmed(gaps: F64) -> float:
    """Days after the week until a day's loss is no more than a tenth above what it was."""
    days = gaps.reshape(DAYS, A_DAY).mean(axis=1)[HARM.stop // A_DAY :]
    return float(np.argmax(days <= 0.01)) if (days <= 0.01).any() else float(len(days))


def quiet(runs: int) -> Iterator[tuple[str, float]]:
    """Shares of runs in which going back is proposed although nothing happened."""
    for campaign in CAMPAIGNS:
        told = [found(*compared(seed, campaign, "nothing")) for seed in range(runs)]
        yield f"campaigns of {campaign:,}", sum(t is not None for t in told) / runs


def harm(runs: int, after: After) -> dict[str, float]:
    """Of a week of labels the wrong way round: whether it is found, after how many days."""
    told, lasting = [], []
    for seed in range(runs):
        gaps, y = compared(seed, CAMPAIGNS[1], after)
        told.append(found(gaps, y))
        lasting.append(harmed(gaps))
    days = sorted(t - HARM.stop // A_DAY for t in told if t is not None)
    return {
        "found": len(days) / runs,
        "days after the week, median": days[len(days) // 2] if days else float("nan"),
        "days after the week, worst": days[-1] if days else float("nan"),
        "days until the loss is back, median": float(np.median(lasting)),
    }


def main() -> None:
    """Print the table, or JSON."""
    options = arguments(__doc__)
    runs = 2 if options.quick else RUNS
    calm = dict(quiet(runs))
    frozen, on = harm(runs, "frozen"), harm(runs, "learns on")
    figures: dict[str, Any] = {
        "runs": runs,
        "nothing happened, proposed": calm,
        "a week of wrong labels, then frozen": frozen,
        "a week of wrong labels, learns on": on,
        "targets": {
            "false proposals": target(max(calm.values()), 0.05, at_least=False),
            "harm that lasts, found": target(frozen["found"], 0.95, at_least=True),
        },
    }
    show("Guard", figures, options.json)


if __name__ == "__main__":
    main()
