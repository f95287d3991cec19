"""The forest of classes beside River's ARFClassifier(10), on River's streams.

``python -m benchmarks.classes [--rows N] [--quick] [--json]``. Both predict each row, then learn
it: accuracy over all rows, and rows a second of processor time; compare ratios only. ImageSegments
comes with River; the other three are generated, of another seed than those that settings were
chosen on. The clusters of RandomRBFDrift move all the time, four columns of LEDDrift change places.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from river import datasets, forest
from river.datasets import synth

from benchmarks.common import arguments, show, target
from models.base import FeatureBatch, FeatureSchema
from models.members.catalogue import build
from models.task import Classes

SEED = 11
STREAMS: dict[str, Callable[[], Any]] = {
    "ImageSegments": datasets.ImageSegments,
    "RandomRBFDrift": lambda: synth.RandomRBFDrift(
        *(SEED, SEED), n_classes=4, n_centroids=50, change_speed=0.001, n_drift_centroids=25
    ),
    "LEDDrift": lambda: synth.LEDDrift(
        SEED, noise_percentage=0.1, irrelevant_features=True, n_drift_features=4
    ),
    "Waveform": lambda: synth.Waveform(SEED),
}
Rows = list[tuple[dict[Any, float], Any]]


class Result(NamedTuple):
    """One line of the table."""

    rows: int
    accuracy: float
    rivers: float
    events_per_s: float
    rivers_per_s: float


def ours(rows: Rows, names: list[Any]) -> tuple[float, float]:
    """Accuracy and seconds of the compiled forest."""
    columns = list(rows[0][0])
    dense = np.array([[row[c] for c in columns] for row, _ in rows], np.float32)
    schema = FeatureSchema(tuple(str(c) for c in columns))
    x = FeatureBatch(schema, dense, np.zeros((len(rows), 0), np.uint32))
    y = np.array([float(names.index(label)) for _, label in rows])
    member: Any = build("forest", {}, schema, 1, Classes([str(name) for name in names]))
    start = time.process_time()
    scores = member.score_learn(x, y, np.ones(len(y)))
    return float((scores.argmax(1) == y).mean()), time.process_time() - start


def rivers(rows: Rows) -> tuple[float, float]:
    """Accuracy and seconds of River's forest."""
    learner, right = forest.ARFClassifier(n_models=10, seed=1), 0
    start = time.process_time()
    for row, label in rows:
        right += learner.predict_one(row) == label
        learner.learn_one(row, label)
    return right / len(rows), time.process_time() - start


def result(name: str, most: int) -> Result:
    """Both on one stream."""
    rows: Rows = list(STREAMS[name]().take(most))
    accuracy, seconds = ours(rows, sorted({label for _, label in rows}))
    theirs, their_seconds = rivers(rows)
    n = len(rows)
    return Result(n, accuracy, theirs, n / seconds, n / their_seconds)


def main() -> None:
    """Read the arguments, run, print."""
    options = arguments(__doc__, _more)
    most = 2_000 if options.quick else options.rows
    found = {name: result(name, most) for name in STREAMS}
    targets = {}
    for name, r in found.items():
        targets[f"{name} accuracy"] = target(r.accuracy, round(r.rivers - 0.005, 4), True)
        targets[f"{name} speed"] = target(r.events_per_s / r.rivers_per_s, 60, True)
    if options.json:
        streams = {name: r._asdict() for name, r in found.items()}
        show("classes", {"streams": streams, "targets": targets}, True)
    else:
        table(found)


def table(found: dict[str, Result]) -> None:
    """For people, within 80 columns."""
    shown = Table("", "rows", "accuracy", "River's", "rows/s", "River's", "ratio")
    for name, r in found.items():
        speeds = f"{r.events_per_s:,.0f}", f"{r.rivers_per_s:,.0f}"
        ratio = f"{r.events_per_s / r.rivers_per_s:.0f}"
        shown.add_row(name, f"{r.rows:,}", f"{r.accuracy:.4f}", f"{r.rivers:.4f}", *speeds, ratio)
    Console().print(shown)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=50_000, help="of each stream, at most")


if __name__ == "__main__":
    main()
