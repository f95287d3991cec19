"""The engine: in process and in threads, beside River, on the embedded log, and at start.

Run ``python -m benchmarks.engine [--json] [--quick]``. The configuration is ``examples/fraud.toml``
with its three compiled members (logistic, crossed, forest) under the stack: windows of two
entities, 21 dense columns. Every event is scored once and its label learned once; an event and its
label are two records. Kernels are compiled before anything is timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import traffic
from benchmarks.common import arguments, compare, repeat, show, spread, target, timed
from benchmarks.river_loop import RiverLoop
from benchmarks.service.daemon import Daemon
from benchmarks.service.drain import drain
from benchmarks.windows import measure as measure_windows
from stream.contract.records import Batch
from stream.run.assemble import build_engine, open_log, wall_clock_ms

BATCH = 4096


def in_process(made: Sequence[Batch], threads: int | None = None, arenas: int = 1) -> int:
    """A new engine over all the batches, its forest in so many arenas; the events it scored."""
    members = [m | ({"arenas": arenas} if m["type"] == "forest" else {}) for m in traffic.COMPILED]
    with tempfile.TemporaryDirectory() as directory:
        config = traffic.config(Path(directory), limits={"threads": threads}, members=members)
        engine = build_engine(config, Path(directory))
        for batch in made:
            engine.step(batch)
        engine.close()
        return engine.counts["scored"]


def beside_river(made: list[Batch], river: list[Batch], rounds: int) -> dict[str, Any]:
    """The engine over all events, River over the first of them (its trees are still small)."""
    found = compare(
        lambda: timed(lambda: in_process(made)),
        lambda: timed(lambda: RiverLoop().run(river)),
        rounds,
    )
    return {"engine": found.pop("ours"), "river_loop": found.pop("theirs")} | found


def in_threads(made: list[Batch], rounds: int) -> dict[str, Any]:
    """Members in a thread for each core beside all of them in one."""
    found = compare(
        lambda: timed(lambda: in_process(made)),
        lambda: timed(lambda: in_process(made, 1)),
        rounds,
    )
    return {"cores": found.pop("ours"), "one": found.pop("theirs")} | found


def in_arenas(made: list[Batch], rounds: int) -> dict[str, Any]:
    """The forest in two arenas beside one, each in a thread of its own."""
    found = compare(
        lambda: timed(lambda: in_process(made, arenas=2)),
        lambda: timed(lambda: in_process(made)),
        rounds,
    )
    return {"two": found.pop("ours"), "one": found.pop("theirs")} | found


def on_embedded_log(events: int) -> dict[str, Any]:
    """The service over a filled embedded log, each step committed durably."""
    with tempfile.TemporaryDirectory() as directory:
        config = traffic.config(Path(directory))
        records = traffic.append(config, traffic.pieces(traffic.simulator(events), BATCH))
        return drain(config, records, events)


def first_score(runs: int) -> dict[str, Any]:
    """Seconds from the start of ``millrace run`` to the first score that stands in its log."""
    seconds = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            config = traffic.config(directory)
            traffic.append(config, traffic.pieces(traffic.simulator(100), 100, labels=False))
            log = open_log(config, wall_clock_ms)
            scores = config.topics.scores
            with Daemon(traffic.changes(directory), directory) as daemon:
                seconds.append(daemon.wait_for(lambda: log.tail(scores, 1)))  # noqa: B023
            log.close()
    return spread(seconds)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__)
    rounds = 1 if options.quick else 3
    events, beside = (5 * BATCH, 1024) if options.quick else (50 * BATCH, 2 * BATCH)
    made = traffic.batches(traffic.pieces(traffic.simulator(events), BATCH))
    few = traffic.batches(traffic.pieces(traffic.simulator(beside), 512, lag=1024))
    in_process(made[:3])  # compiles, or loads what was compiled
    found: dict[str, Any] = {"beside_river": beside_river(made, few, rounds)}
    found["threads"] = in_threads(made, rounds)
    found["arenas"] = in_arenas(made, rounds)
    found["embedded_log"] = repeat(lambda: on_embedded_log(events), rounds)
    entities = 10_000 if options.quick else 1_000_000
    found["windows"] = measure_windows(entities, 4 * entities, 30, False, 0, 0.0)
    found["first_score_s"] = first_score(rounds)
    found["targets"] = {
        "in_process": target(found["beside_river"]["engine"]["events_per_s"], 40_000, True),
        "beside_river": target(found["beside_river"]["ratio"]["median"], 105, True),
        "embedded_log": target(found["embedded_log"]["events_per_s"], 30_000, True),
        "windows_gib": target(found["windows"]["bytes_allocated"] / 2**30, 1.5, False),
        "first_score_s": target(found["first_score_s"]["median"], 3.0, False),
    }
    show("engine", found, options.json)


if __name__ == "__main__":
    main()
