"""What moving partitions between scorers costs: two become four, with all that waits for labels.

Run ``python -m benchmarks.scale.move [--rows N] [--json] [--quick]``. Scorers of
``examples/fraud-scaled.toml`` hold N waiting events and the windows of a customer for each ten of
these; then what ``millrace shard move`` does is done to their files without a broker: each old
scorer is restored from its checkpoint, each new one's state is gathered and put on disk, and
restored as its first start does. Files take about 154 bytes a row, three times over.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import arguments, show
from models.base import EventColumns
from stream.run.assemble import build_engine
from stream.settings.load import load
from stream.settings.schema import Config
from stream.state.generations import StateDirectory, read_manifest, revive, snapshot_of
from stream.state.generations import load as read
from stream.state.topics import Standing
from stream.step.roles.move import owned, take_over
from stream.step.roles.scorer import ScorerEngine

EXAMPLE = Path(__file__).parents[2] / "examples" / "fraud-scaled.toml"
BATCH, BEFORE, AFTER, EACH = 4_096, 2, 4, 10
DAY_MS = 86_400_000


def scorer(directory: Path, index: int, count: int) -> Config:
    """The configuration of a scorer of the example, with its state below ``directory``."""
    environ = {"ROLE": "scorer", "INDEX": str(index), "COUNT": str(count)}
    own = {f"MILLRACE_SHARD__{key}": value for key, value in environ.items()}
    return load(EXAMPLE, own | {"MILLRACE_STATE_DIR": str(directory / f"of-{count}")})


def engine_of(config: Config, directory: StateDirectory) -> ScorerEngine:
    """A new engine, which is a scorer's."""
    engine = build_engine(config, directory.pending)
    if not isinstance(engine, ScorerEngine):
        raise TypeError(f"expected a scorer, got {type(engine).__name__}")
    return engine


def fill(engine: ScorerEngine, rows: int) -> None:
    """Let so many events wait, a fifth of them with labels, and customers have windows."""
    shard, rng = engine.config.shard, np.random.default_rng(engine.config.shard.index)
    homes = np.array(owned(shard.index, shard.count, engine.config.topics.partitions))
    customers = (rng.permutation(rows // EACH) + 1).astype(np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    fields = engine.config.event.fields
    for first in range(0, rows, BATCH):
        n = min(BATCH, rows - first)
        block = np.zeros(n, engine.pending.dtype)
        block["id"] = rng.integers(1, 2**63, n, np.uint64)
        times = DAY_MS + np.arange(first, first + n) * 25
        block["event_time_ms"] = times
        home = int(homes[first // BATCH % len(homes)])
        block["partition"] = home
        truth = np.where(rng.random(n) < 0.2, 0.0, np.nan)
        engine.pending.move_in(block, truth, np.zeros(n, np.uint8))
        mine = customers[first // BATCH % len(homes) :: len(homes)]  # of this partition
        columns = EventColumns(
            times,
            {k: rng.random(n) for k, f in fields.items() if f.kind in ("number", "boolean")},
            {
                k: rng.integers(1, 99, n, np.uint64)
                for k, f in fields.items()
                if f.kind == "category"
            },
            {k: rng.choice(mine, n) for k, f in fields.items() if f.kind == "entity"},
        )
        engine.features.transform(columns)
        engine.features.note(columns, home)
        engine.join.watermark_ms = int(times[-1])


def restored(config: Config, directory: StateDirectory, path: Path) -> ScorerEngine:
    """A scorer from what lies on disk."""
    engine = engine_of(config, directory)
    revive(engine, read(path, read_manifest(path)))
    return engine


def measure(rows: int, place: Path) -> dict[str, Any]:
    """Seconds of each part of a move of so many rows."""
    paths = {}
    for index in range(BEFORE):
        config = scorer(place, index, BEFORE)
        directory = StateDirectory(config.state_dir).open()
        engine = engine_of(config, directory)
        fill(engine, rows // BEFORE)
        paths[index] = directory.enter(directory.write(snapshot_of(engine, Standing(), 0)))
        size = engine.pending.dtype.itemsize
        engine.close()
        directory.close()
    started = time.perf_counter()
    old = {}
    for index, path in paths.items():
        config = scorer(place, index, BEFORE)
        old[index] = restored(config, StateDirectory(config.state_dir).open(), path)
    read_s, moved, entities = time.perf_counter() - started, 0, 0
    started, kept = time.perf_counter(), {}
    for index in range(AFTER):
        config = scorer(place, index, AFTER)
        directory = StateDirectory(config.state_dir).open()
        engine = engine_of(config, directory)
        take_over(engine, old)
        kept[index] = directory.enter(directory.write(snapshot_of(engine, Standing(), 0)))
        moved += len(engine.pending)
        entities += len(engine.features.homes()[0])
        engine.close()
        directory.close()
    gather_s = time.perf_counter() - started
    for one in old.values():
        one.close()
    started = time.perf_counter()
    config = scorer(place, 0, AFTER)
    restored(config, StateDirectory(config.state_dir).open(), kept[0]).close()
    return {
        "rows": moved,
        "entities": entities,
        "bytes_a_row": size,
        "restore_old_s": round(read_s, 2),
        "gather_and_write_s": round(gather_s, 2),
        "rows_per_s": round(moved / (read_s + gather_s)),
        "first_start_of_one_s": round(time.perf_counter() - started, 2),
    }


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=2_000_000)


def main() -> None:
    """Fill, move, print."""
    options = arguments(__doc__, _more)
    with tempfile.TemporaryDirectory(prefix="millrace-move-") as place:
        found = measure(100_000 if options.quick else options.rows, Path(place))
    show("two scorers become four", found, options.json)


if __name__ == "__main__":
    main()
