"""Drift alarms: delay, false alarms and misses on the simulator's drift and stationary scenarios.

Run ``python -m benchmarks.drift [--json] [--quick]``. Ten seeds, 100,000 payments
each, 2,000 a day; the drift comes on day 25. The whole engine runs with the members of
``benchmarks/traffic.py``, so weights, thresholds and learning are the service's. Every payment gets
its label: at once, 1,000 payments later, or 7 days later. Alarms are those of the ensemble's error;
delay counts labels from the first one of a payment after the drift. Nothing is left out at the
start: an alarm while the models learn their first labels is a false one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import traffic
from benchmarks.common import arguments, show
from models.base import F64
from monitoring.detectors import ADWIN_DELTA, PAGE_HINKLEY_THRESHOLD
from monitoring.drift import Alarm
from stream.player import event_records, label_records
from stream.records import Batch
from stream.service import build_engine
from stream.simulator import DAY_MS, PAYMENT, Payments, Simulator

SEEDS = range(1, 11)
"""Reported. The detectors' defaults were chosen on seeds 101 to 106."""
EVENTS = 100_000
SIZE = 1024
WITHIN = 2_000
"""Labels after the drift within which an alarm counts as found in time: a day's."""
DETECTORS = ("adwin", "page_hinkley")
DELAYS = {"at once": 0, "1,000 payments": 1_000, "7 days": None}


class Run(NamedTuple):
    """Rows (labels in order) of the ensemble's alarms by detector; the drift's row, if any."""

    alarms: dict[str, list[int]]
    drift_row: int | None
    labels: int


def pieces(sim: Simulator, delay: int | None) -> Iterator[tuple[Payments, Payments]]:
    """Payments, and those whose labels come after them; ``None``: seven days later."""
    waiting = np.empty(0, PAYMENT)
    for chunk in sim.chunks(SIZE):
        waiting = np.concatenate([waiting, chunk.events])
        if delay is None:
            due = waiting["event_time_ms"] + 7 * DAY_MS <= chunk.events["event_time_ms"][-1]
        else:
            due = np.arange(len(waiting)) < len(waiting) - delay
        labels = waiting[due].copy()
        # Also of those that nobody would report: the delay is the benchmark's, not the simulator's.
        labels["reported_at_ms"] = labels["event_time_ms"] + 1
        yield chunk.events, labels
        waiting = waiting[~due]


def run(seed: int, drift: bool, delay: int | None, events: int) -> Run:
    """One engine over one simulation."""
    sim = Simulator(seed, 1000, 400, traffic.START_MS, drift=drift, events=events)
    alarms: dict[str, list[int]] = {name: [] for name in DETECTORS}
    rows = 0
    drift_row: int | None = None
    with tempfile.TemporaryDirectory() as directory:
        engine = build_engine(traffic.config(Path(directory)), None)
        update = engine.drift.update

        def watched(losses: F64) -> list[Alarm]:
            found = update(losses)
            for alarm in found:
                if alarm.signal == "ensemble":
                    alarms[alarm.detector].append(rows + alarm.row)
            return found

        engine.drift.update = watched  # type: ignore[method-assign]
        offsets = {"events": 0, "labels": 0}
        for seq, (payments, labels) in enumerate(pieces(sim, delay), 1):
            slices = []
            made = (event_records(payments, seed), label_records(labels, seed))
            for topic, records in zip(offsets, made, strict=True):
                if records:
                    slices.append(traffic.piece_slice(topic, offsets[topic], records))
                    offsets[topic] += len(records)
            if sim.drift_ms is not None and drift_row is None:
                after = np.flatnonzero(labels["event_time_ms"] >= sim.drift_ms)
                drift_row = rows + int(after[0]) if len(after) else None
            engine.step(Batch(seq, traffic.CLOCK_MS, slices))
            rows += len(labels)
    return Run(alarms, drift_row, rows)


def judge(name: str, drifting: list[Run], calm: list[Run]) -> dict[str, Any]:
    """One detector over the runs of one label delay; ``either`` is the first of both."""

    def of(run: Run) -> list[int]:
        return sorted(r for d in DETECTORS if name in (d, "either") for r in run.alarms[d])

    found = []
    early = 0
    for one in drifting:
        start = one.drift_row or 0
        early += sum(r < start for r in of(one))
        found.append(next((r - start for r in of(one) if r >= start), None))
    delays = sorted(d for d in found if d is not None)
    return {
        "found": len(delays),
        "found_within": sum(d <= WITHIN for d in delays),
        "missed": found.count(None),
        "delay_median_labels": int(np.median(delays)) if delays else None,
        "delay_worst_labels": delays[-1] if delays else None,
        "false_before_the_drift": early,
        "false_on_stationary": sum(len(of(one)) for one in calm),
    }


def main() -> None:
    """Print every label delay's figures, as a table or as JSON."""
    options = arguments(__doc__)
    seeds = SEEDS[:2] if options.quick else SEEDS
    figures: dict[str, Any] = {
        "seeds": len(seeds),
        "events": EVENTS,
        "within_labels": WITHIN,
        "adwin_delta": ADWIN_DELTA,
        "page_hinkley_threshold": PAGE_HINKLEY_THRESHOLD,
    }
    for label, delay in DELAYS.items():
        drifting = [run(seed, True, delay, EVENTS) for seed in seeds]
        calm = [run(seed, False, delay, EVENTS) for seed in seeds]
        figures[f"labels {label}"] = {
            name: judge(name, drifting, calm) for name in (*DETECTORS, "either")
        }
    show("Drift alarms of the ensemble", figures, options.json)


if __name__ == "__main__":
    main()
