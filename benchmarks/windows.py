"""What the entity windows cost: updates a second, bytes held, time of a snapshot.

Run ``python -m benchmarks.windows``; ``--json`` prints one JSON object. Made-up payments: entities
drawn evenly or by a power law, event times in order, batches of 4,096, three windows. One thread.
``updates_per_cpu_s`` leaves out what other processes of the machine took.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from models.features.windows import EntityWindows

DAY = 86_400_000
BATCH = 4096


def draw(rng: np.random.Generator, n: int, entities: int, skewed: bool) -> Any:
    """Keys of ``n`` events: even, or with density falling as rank ** -0.75."""
    rank = rng.random(n) ** (4 if skewed else 1) * entities
    return rank.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)


def measure(
    entities: int, events: int, days: float, skewed: bool, delay_days: int, late: float
) -> dict[str, Any]:
    """Feed a table, then take, digest and restore its state.

    ``late`` is the share of events that come up to an hour behind.
    """
    rng = np.random.default_rng(1)
    keys = draw(rng, events, entities, skewed)
    times = np.sort(rng.integers(0, int(days * DAY), events))
    times -= (rng.random(events) < late) * rng.integers(0, DAY // 24, events)
    values = rng.lognormal(3, 1, events) if not delay_days else np.zeros(events)
    windows = [DAY, 7 * DAY, 30 * DAY]
    table = EntityWindows(windows, delay_ms=delay_days * DAY, own_event=not delay_days)
    slowest, begin, cpu = 0.0, time.monotonic(), time.process_time()
    for i in range(0, events, BATCH):
        part = slice(i, i + BATCH)
        before = time.monotonic()
        table.update(keys[part], times[part], values[part])
        slowest = max(slowest, time.monotonic() - before)
    spent, cpu = time.monotonic() - begin, time.process_time() - cpu
    before = time.monotonic()
    state = table.state()
    snapshot = time.monotonic() - before
    before = time.monotonic()
    table.restore(state)
    restored = time.monotonic() - before
    arrays = [v for v in state.values() if isinstance(v, np.ndarray)]
    gauges = table.gauges()
    return {
        "entities_held": int(gauges["entities"]),
        "events": events,
        "events_held": int(state["ints"][:, 3].sum()),
        "updates_per_s": round(events / spent),
        "updates_per_cpu_s": round(events / cpu),
        "slowest_batch_ms": round(slowest * 1000, 1),
        "bytes_allocated": int(gauges["bytes"]),
        "bytes_in_state": sum(a.nbytes for a in arrays),
        "state_ms": round(snapshot * 1000, 1),
        "restore_ms": round(restored * 1000, 1),
    }


RUNS: dict[str, dict[str, Any]] = {
    "5k entities, even": {"entities": 5_000, "events": 2_000_000, "days": 180, "skewed": False},
    "5k entities, 1% late": {
        "entities": 5_000, "events": 2_000_000, "days": 180, "skewed": False, "late": 0.01,
    },
    "10k terminals, delay 7d": {
        "entities": 10_000, "events": 2_000_000, "days": 180, "skewed": False, "delay_days": 7,
    },
    "1M entities, even": {"entities": 1_000_000, "events": 4_000_000, "days": 30, "skewed": False},
    "1M entities, power law": {
        "entities": 1_000_000, "events": 8_000_000, "days": 30, "skewed": True,
    },
}  # fmt: skip


def main() -> None:
    """Print every run, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    as_json = parser.parse_args().json
    found = {name: measure(**({"delay_days": 0, "late": 0.0} | run)) for name, run in RUNS.items()}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, figures in found.items():
        print(name)
        for key, value in figures.items():
            print(f"  {key:18} {value:>14,}")


if __name__ == "__main__":
    main()
