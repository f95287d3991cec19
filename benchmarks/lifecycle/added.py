"""What a member that comes while a service runs does to its scores: log loss of the next 7 days.

``python -m benchmarks.lifecycle.added [--quick]``. Payments of simulated shops, labels a day late:
the ensemble learns four weeks; then it goes on as it is, and beside it with one member more, which
has learned what is kept of the rows before. Kinds of members, a useless one among them; of each the
mean of the seeds counts, as one seed's few frauds are luck.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import traffic
from benchmarks.common import arguments, show, spread, target
from stream.contract.records import Batch
from stream.demo.simulator import DAY_MS
from stream.run.assemble import build_engine
from stream.settings.schema import Config
from stream.settings.upgrade import journaled
from stream.step.engine import Engine
from stream.step.reconfigure import reconfigure

CUSTOMERS, A_DAY = 1_000, 2_000
PIECE = 200
WEEKS_MS, AFTER_MS = 28 * DAY_MS, 7 * DAY_MS
ADDED: dict[str, dict[str, Any]] = {
    "boosting": {"name": "more", "type": "boosting"},
    "forest": {"name": "more", "type": "forest", "trees": 20},
    "river": {"name": "more", "type": "river", "model": "river.naive_bayes.GaussianNB"},
    "constant": {"name": "more", "type": "constant", "probability": 0.9},
}


def truths(made: Sequence[traffic.Piece], field: str) -> dict[str, bool]:
    """Of each event, by its id, whether it was fraud."""
    return {
        (record.key or b"").decode(): bool(json.loads(record.value or b"")[field])
        for _, labels in made
        for record in labels
    }


def losses(
    config: Config, made: Sequence[Batch], truth: dict[str, bool], more: Config | None
) -> list[float]:
    """Log loss of each event of the 7 days after four weeks, when ``more`` takes over, if any."""
    engine: Engine = build_engine(config, None)
    until, found = traffic.START_MS + WEEKS_MS, list[float]()
    switched = False
    for batch in made:
        if not switched and engine.watermark_ms >= until:
            switched = True
            if more is not None:
                new = build_engine(more, None)
                reconfigure(engine, new, journaled(more))
                engine.close()
                engine = new
        out = engine.step(Batch(engine.seq + 1, batch.clock_ms, batch.slices))
        if switched:
            for record in out.scores:
                told = msgspec.json.decode(record.value or b"")
                p = told["score"] if truth[told["id"]] else 1.0 - told["score"]
                found.append(-math.log(max(p, 1e-15)))
        if engine.watermark_ms >= until + AFTER_MS:
            break
    engine.close()
    return found


def measured(seeds: Sequence[int], kinds: Sequence[str]) -> dict[str, Any]:
    """Of each kind, by seed, how much more the loss is than without it."""
    table: dict[str, list[float]] = {kind: [] for kind in kinds}
    scored = 0
    for seed in seeds:
        sim = traffic.simulator(A_DAY * 36, CUSTOMERS, seed)
        made = list(traffic.pieces(sim, PIECE, lag=A_DAY))
        batches = traffic.batches(iter(made))
        with tempfile.TemporaryDirectory() as name:
            before = traffic.config(Path(name))
            truth = truths(made, before.label.field)
            without = losses(before, batches, truth, None)
            scored += len(without)
            for kind in kinds:
                after = traffic.config(Path(name), members=[*traffic.COMPILED, ADDED[kind]])
                with_it = losses(before, batches, truth, after)
                if len(with_it) != len(without):
                    raise ValueError(f"{len(with_it)} scores beside {len(without)}")
                table[kind].append(sum(with_it) / sum(without) - 1.0)
    worst = max(statistics.mean(shares) for shares in table.values())
    return {
        "seeds": len(seeds),
        "events_a_seed": scored // len(seeds),
        **{
            kind: spread(shares) | {"mean": round(statistics.mean(shares), 5)}
            for kind, shares in table.items()
        },
        "targets": {"more_loss": target(worst, 0.005, at_least=False)},
    }


def main() -> None:
    """The command line."""
    given = arguments(__doc__)
    quick = given.quick
    found = measured((1,) if quick else range(1, 13), ["constant"] if quick else list(ADDED))
    show("a member more", found, given.json)


if __name__ == "__main__":
    main()
