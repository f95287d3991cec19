"""What telling reasons takes: the engine with those of every score, and Shapley values of trees.

``python -m benchmarks.lifecycle.reasons [--quick]``. Payments of the fraud example under the stack
of logistic, crossed and boosting: processor time of the engine without reasons, with those of
alerts, and with those of every score, in turn; then a boosting member of 50 trees that has learned
them, by row.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import traffic
from benchmarks.common import arguments, beside, in_turn, middle, show, target, timed
from models.base import FeatureBatch
from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.step.scoring import ScoringEngine

BATCH = 4096
MEMBERS = [
    traffic.LOGISTIC,
    {"name": "crossed", "type": "crossed", "table_bits": 16},
    {"name": "boosting", "type": "boosting"},
]
TOLD: dict[str, dict[str, Any]] = {
    "without": {},
    "alerts": {"reasons": {"tell": "alerts"}},
    "all": {"reasons": {"tell": "all"}},
}


def learned(made: Sequence[Batch], told: dict[str, Any]) -> ScoringEngine:
    """An engine over all the batches."""
    with tempfile.TemporaryDirectory() as directory:
        engine = build_engine(traffic.config(Path(directory), members=MEMBERS, **told), None)
        for batch in made:
            engine.step(batch)
        return engine


def newest(engine: ScoringEngine, rows: int) -> FeatureBatch:
    """Events that wait for their labels."""
    pending = engine.pending
    held = pending.take(np.arange(pending.tail - rows, pending.tail))
    dense, hashed = (np.ascontiguousarray(held[name]) for name in ("dense", "hashed"))
    return FeatureBatch(engine.features.schema, dense, hashed)


def quickly(engine: ScoringEngine, x: FeatureBatch) -> dict[str, float]:
    """How far weights of every score are from those of an alert, which take the slopes exactly.

    Of the members that tell both alike.
    """
    assert engine.reasons is not None
    links, link = engine.ensemble.score(x)
    told = [engine.reasons.of(x, links[:, :, 0], link[:, 0], exact) for exact in (False, True)]
    alike = [name != "boosting" for name in engine.ensemble.voters]
    off = np.abs(told[0].by_member[:, alike] - told[1].by_member[:, alike])
    return {"mean": float(off.mean()), "most": float(off.max())}


def by_row(engine: ScoringEngine, x: FeatureBatch) -> dict[str, float]:
    """Microseconds of processor time that one row takes of each member, the least of 20 rounds.

    To score it, to tell while it is scored, and to tell exactly.
    """
    found = {}
    for name, member in engine.ensemble.members.items():
        ways: dict[str, Callable[[], Any]] = {
            "score": partial(member.score, x),
            "score_and_tell": partial(member.telling, x),
            "exact": partial(member.contributions, x, exact=True),
        }
        for way, do in ways.items():
            rounds = []
            for _ in range(20):
                started = time.process_time()
                do()
                rounds.append(1e6 * (time.process_time() - started) / len(x))
            found[f"{name}.{way}_us"] = round(min(rounds), 3)
    return found


def main() -> None:
    """The command line."""
    given = arguments(__doc__)
    events, rounds = ((4 if given.quick else 20) * BATCH, 1 if given.quick else 7)
    made = traffic.batches(traffic.pieces(traffic.simulator(events), BATCH))
    engine = learned(made[:3], TOLD["all"])  # compiles, or loads what was compiled
    engine = learned(made, TOLD["alerts"])
    sides = {
        name: lambda told=told: timed(lambda: learned(made, told).counts["scored"])
        for name, told in TOLD.items()
    }
    runs = in_turn(sides, rounds)
    more = {
        name: beside(runs["without"], runs[name])["ratio_by_cpu"]["median"] - 1.0
        for name in ("alerts", "all")
    }
    engines = {name: middle(each) for name, each in runs.items()}
    found = {
        "engine": engines,
        "targets": {name: target(share, 0.15, at_least=False) for name, share in more.items()},
        "members": by_row(engine, newest(engine, 4096)),
        "off_quickly": quickly(engine, newest(engine, 4096)),
    }
    show("reasons", {"events": events, "alerts": engine.counts["alerts"]} | found, given.json)


if __name__ == "__main__":
    main()
