"""What a change of the configuration stops the loop for, by how many events wait for their labels.

``python -m benchmarks.lifecycle.switches [--rows N] [--quick]``. An engine of the benchmarks'
compiled members learns payments; then so many rows wait in its store, a fifth of them with labels.
A member is added, a threshold set, the member removed: each engine takes over from the one before,
as the service lets it do between two steps, and takes a step. Processor time beside the clock's.
Files take about 190 bytes a row.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import traffic
from benchmarks.common import arguments, show, target
from benchmarks.service.waiting import ids
from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.settings.hot import changed
from stream.settings.upgrade import journaled
from stream.step.engine import Engine
from stream.step.reconfigure import reconfigure

BATCH, TRAINED = 4_096, 100_000
ADDED = {"name": "boosting", "type": "boosting"}


def fill(engine: Engine, rows: int) -> None:
    """Let so many more events wait, every fifth with its label."""
    rng = np.random.default_rng(1)
    block = np.zeros(BATCH, engine.pending.dtype)
    block["dense"] = rng.standard_normal(block["dense"].shape)
    for first in range(0, rows, BATCH):
        block["id"] = ids(first, BATCH)
        block["event_time_ms"] = engine.watermark_ms + np.arange(first, first + BATCH) // 1024
        numbers = engine.pending.hold(block)
        engine.pending.settle(numbers[::5], np.zeros(len(numbers[::5])))


def measured(rows: int, directory: Path) -> dict[str, Any]:
    """The pauses, one change after another."""
    made = traffic.batches(traffic.pieces(traffic.simulator(TRAINED), BATCH))
    config = traffic.config(directory, limits={"pending": 2 * rows + TRAINED})
    (directory / "pending").mkdir()
    engine: Engine = build_engine(config, directory / "pending")
    first, last = made[:-2], made[-2:]
    for batch in first:
        engine.step(batch)
    fill(engine, rows)
    gc.collect()
    gc.freeze()  # as the service does
    limits = {"limits": {"pending": 2 * rows + TRAINED}}
    more, threshold = [*traffic.COMPILED, ADDED], {"combine": "stack", "threshold": 0.4}
    changes: dict[str, dict[str, Any]] = {
        "member added": {"members": more},
        "threshold set": {"members": more, "ensemble": threshold},
        "member removed": {"ensemble": threshold},
    }
    found: dict[str, Any] = {}
    for what, others in changes.items():
        asked = changed(engine.config, traffic.config(directory, **others, **limits))
        began, cpu = time.perf_counter(), time.process_time()
        new = build_engine(asked, directory / "pending")
        reconfigure(engine, new, journaled(asked))
        engine.close()
        pause, used = time.perf_counter() - began, time.process_time() - cpu
        engine = new
        found[what] = {"pause_ms": round(1000 * pause, 1), "cpu_ms": round(1000 * used, 1)}
        began = time.perf_counter()
        for batch in last[:1]:
            engine.step(Batch(engine.seq + 1, batch.clock_ms, batch.slices))
        found[what]["next_step_ms"] = round(1000 * (time.perf_counter() - began), 1)
        last = last[1:]
    held = len(engine.pending)
    engine.close()
    longest = max(one["pause_ms"] for one in found.values())
    return {
        "waiting": held,
        "changes": found,
        "targets": {"longest_ms": target(longest, 500.0, False)},
    }


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=5_000_000)


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__, _more)
    with tempfile.TemporaryDirectory() as name:
        found = measured(200_000 if given.quick else given.rows, Path(name))
    show("changes while events wait", found, given.json)


if __name__ == "__main__":
    main()
