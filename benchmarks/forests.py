"""The forests of classes and of numbers beside River's of 10 trees, on River's streams.

``python -m benchmarks.forests [--rows N] [--quick] [--json]``. Both predict each row, then learn
it: accuracy or mean absolute error over all rows, and rows a second of processor time; compare
ratios only. ImageSegments, ChickWeights, TrumpApproval and WaterFlow (its hour, weekday and day)
come with River; the others are generated, of another seed than those that settings were chosen on.
The clusters of RandomRBFDrift move all the time, four columns of LEDDrift change places,
FriedmanDrift changes three times. River's regressor sees numbers as they are, or behind its
``StandardScaler`` with texts behind its ``OneHotEncoder``; the better of the two is shown.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from river import compose, datasets, forest, preprocessing
from river.datasets import synth

from benchmarks.common import arguments, show, target
from models.base import FeatureBatch, FeatureSchema, HashedColumn
from models.members.catalogue import build
from models.task import Classes, Number, Task

SEED, BUCKETS, QUICK = 11, 256, 1_000
Rows = list[tuple[dict[str, Any], Any]]


def _water() -> Iterator[tuple[dict[str, float], float]]:
    for row, truth in datasets.WaterFlow():
        at = row["Time"]
        yield {"hour": at.hour, "weekday": at.weekday(), "day": at.toordinal()}, truth


CLASSES: dict[str, Callable[[int], Any]] = {
    "ImageSegments": lambda n: datasets.ImageSegments(),
    "RandomRBFDrift": lambda n: synth.RandomRBFDrift(
        *(SEED, SEED), n_classes=4, n_centroids=50, change_speed=0.001, n_drift_centroids=25
    ),
    "LEDDrift": lambda n: synth.LEDDrift(
        SEED, noise_percentage=0.1, irrelevant_features=True, n_drift_features=4
    ),
    "Waveform": lambda n: synth.Waveform(SEED),
}
NUMBERS: dict[str, Callable[[int], Any]] = {
    "FriedmanDrift": lambda n: synth.FriedmanDrift("lea", (n // 4, n // 2, n * 3 // 4), seed=SEED),
    "Friedman": lambda n: synth.Friedman(SEED),
    "Mv": lambda n: synth.Mv(SEED),
    "Planes2D": lambda n: synth.Planes2D(SEED),
    "ChickWeights": lambda n: datasets.ChickWeights(),
    "TrumpApproval": lambda n: datasets.TrumpApproval(),
    "WaterFlow": lambda n: _water(),
}


class Result(NamedTuple):
    """One line of the table."""

    rows: int
    figure: float
    rivers: float
    events_per_s: float
    rivers_per_s: float


def read(name: str, most: int) -> Rows:
    """The first rows of a stream."""
    stream = islice((CLASSES | NUMBERS)[name](most), most)
    return [({str(k): v for k, v in row.items()}, truth) for row, truth in stream]


def batch(rows: Rows) -> FeatureBatch:
    """Numbers as dense columns, texts as hashed ones."""
    first = rows[0][0]
    texts = [c for c, v in first.items() if isinstance(v, str)]
    columns = [c for c in first if c not in texts]
    schema = FeatureSchema(tuple(columns), tuple(HashedColumn(c, BUCKETS) for c in texts))
    dense = [[row[c] for c in columns] for row, _ in rows]
    hashed = [[zlib.crc32(row[c].encode()) % BUCKETS for c in texts] for row, _ in rows]
    codes = np.array(hashed, np.uint32).reshape(len(rows), len(texts))
    return FeatureBatch(schema, np.array(dense, np.float32), codes)


def figure(said: Any, truths: Any, number: bool) -> float:
    """Mean absolute error of numbers, accuracy of classes."""
    pairs = zip(said, truths, strict=True)
    return float(np.mean([abs(a - b) if number else a == b for a, b in pairs]))


def ours(rows: Rows, number: bool) -> tuple[float, float]:
    """Figure and seconds of the compiled forest."""
    x, truths = batch(rows), [truth for _, truth in rows]
    task: Task = Number()
    if not number:
        names = sorted(set(truths))
        task, truths = Classes([str(n) for n in names]), [names.index(t) for t in truths]
    y = np.array(truths, np.float64)
    member: Any = build("forest", {}, x.schema, 1, task)
    start = time.process_time()
    links = member.score_learn(x, y, np.ones(len(y)))
    seconds = time.process_time() - start
    return figure(task.predicted(task.output(links)), y, number), seconds


def rivers(learner: Any, rows: Rows, number: bool) -> tuple[float, float]:
    """Figure and seconds of a learner of River."""
    said = []
    start = time.process_time()
    for row, truth in rows:
        said.append(learner.predict_one(row))
        learner.learn_one(row, truth)
    seconds = time.process_time() - start
    return figure(said, [truth for _, truth in rows], number), seconds


def result(name: str, most: int) -> Result:
    """Both on one stream."""
    rows, number = read(name, most), name in NUMBERS
    own, seconds = ours(rows, number)
    if number:
        numbers = compose.SelectType(float, int)
        texts = compose.SelectType(str) | preprocessing.OneHotEncoder()
        plain = numbers | forest.ARFRegressor(10, seed=1)
        scaled = (numbers | preprocessing.StandardScaler()) + texts
        both = plain, scaled | forest.ARFRegressor(10, seed=1)
        theirs, their_seconds = min(rivers(learner, rows, number) for learner in both)
    else:
        theirs, their_seconds = rivers(forest.ARFClassifier(10, seed=1), rows, number)
    n = len(rows)
    return Result(n, own, theirs, n / seconds, n / their_seconds)


def main() -> None:
    """Read the arguments, run, print."""
    options = arguments(__doc__, _more)
    most = QUICK if options.quick else options.rows
    found = {name: result(name, most) for name in CLASSES | NUMBERS}
    targets = {}
    for name, r in found.items():
        if name in NUMBERS:
            targets[f"{name} error"] = target(r.figure, round(r.rivers * 1.02, 4), False)
        else:
            targets[f"{name} accuracy"] = target(r.figure, round(r.rivers - 0.005, 4), True)
        targets[f"{name} speed"] = target(r.events_per_s / r.rivers_per_s, 60, True)
    if options.json:
        streams = {name: r._asdict() for name, r in found.items()}
        show("forests", {"streams": streams, "targets": targets}, True)
    else:
        table(found)


def table(found: dict[str, Result]) -> None:
    """For people, within 80 columns."""
    shown = Table("", "rows", "", "ours", "River's", "rows/s", "River's", "ratio")
    for name, r in found.items():
        kind = "MAE" if name in NUMBERS else "acc."
        figures = f"{r.figure:.4f}", f"{r.rivers:.4f}"
        speeds = f"{r.events_per_s:,.0f}", f"{r.rivers_per_s:,.0f}"
        shown.add_row(
            name, f"{r.rows:,}", kind, *figures, *speeds, f"{r.events_per_s / r.rivers_per_s:.0f}"
        )
    Console().print(shown)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=50_000, help="of each stream, at most")


if __name__ == "__main__":
    main()
