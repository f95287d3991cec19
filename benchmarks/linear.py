"""Softmax and linear regression beside River's, with the other compiled members, as rows come.

``python -m benchmarks.linear [--quick] [--json]``: streams that River ships or generates; every
learner predicts each row, then learns it. River's regression stands behind its ``StandardScaler``,
once with its default optimizer and once with the AdaGrad of ours; the better of the two is shown.
Accuracy for classes, mean absolute error for numbers; ``ratio`` is rows a second of processor time,
ours over River's.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from river import datasets, linear_model, optim, preprocessing
from river.datasets import synth

from benchmarks.common import arguments, show, target
from models.base import F64, FeatureBatch, FeatureSchema
from models.members.catalogue import build
from models.task import Classes, Number, Task

ROWS, QUICK_ROWS = 10_000, 1_000
MEMBERS = ("logistic", "crossed", "boosting")
CLASSES: dict[str, Callable[[], Any]] = {
    "ImageSegments": datasets.ImageSegments,
    "Waveform": lambda: synth.Waveform(seed=1),
    "LEDDrift": lambda: synth.LEDDrift(seed=1, noise_percentage=0.1),
}
NUMBERS: dict[str, Callable[[], Any]] = {
    "Friedman": lambda: synth.Friedman(seed=1),
    "Mv": lambda: synth.Mv(seed=1),
    "TrumpApproval": datasets.TrumpApproval,
    "ChickWeights": datasets.ChickWeights,
}


class Stream(NamedTuple):
    """Rows as River has them and as columns; texts are left out."""

    rows: list[dict[str, float]]
    truths: list[Any]
    x: FeatureBatch
    y: F64
    task: Task


def read(name: str, limit: int) -> Stream:
    """The first rows of a stream."""
    rows, truths = [], []
    for row, truth in itertools.islice((CLASSES | NUMBERS)[name](), limit):
        rows.append({str(k): float(v) for k, v in row.items() if isinstance(v, int | float)})
        truths.append(truth)
    columns = tuple(rows[0])
    dense = np.array([[row[c] for c in columns] for row in rows], np.float32)
    x = FeatureBatch(FeatureSchema(columns), dense, np.zeros((len(rows), 0), np.uint32))
    if name in NUMBERS:
        return Stream(rows, truths, x, np.array(truths, np.float64), Number())
    names = sorted(set(map(str, truths)))
    y = np.array([names.index(str(truth)) for truth in truths], np.float64)
    return Stream(rows, truths, x, y, Classes(names))


class Result(NamedTuple):
    """What a learner made of a stream."""

    figure: float
    events_per_s: float


def ours(kind: str, s: Stream) -> Result:
    """One of our members, in one walk."""
    member: Any = build(kind, {}, s.x.schema, 1, s.task)
    start = time.process_time()
    links = member.score_learn(s.x, s.y, np.ones(len(s.y)))
    seconds = time.process_time() - start
    said = s.task.predicted(s.task.output(links))
    figure = np.abs(said - s.y).mean() if s.task.type == "number" else (said == s.y).mean()
    return Result(float(figure), len(s.y) / seconds)


def rivers(optimizer: Any, s: Stream) -> Result:
    """River's regression of the same kind."""
    number = s.task.type == "number"
    kind = linear_model.LinearRegression if number else linear_model.SoftmaxRegression
    learner = preprocessing.StandardScaler() | kind(optimizer)
    said = []
    start = time.process_time()
    for row, truth in zip(s.rows, s.truths, strict=True):
        said.append(learner.predict_one(row))
        learner.learn_one(row, truth)
    seconds = time.process_time() - start
    pairs = zip(said, s.truths, strict=True)
    figures = [abs(a - b) if number else a == b for a, b in pairs]
    return Result(float(np.mean(figures)), len(said) / seconds)


def results(limit: int) -> Iterator[tuple[str, dict[str, Result]]]:
    """Each stream, and what each learner made of it."""
    for name in CLASSES | NUMBERS:
        s = read(name, limit)
        found = {kind: ours(kind, s) for kind in MEMBERS}
        best = min if s.task.type == "number" else max
        found["River"] = best(rivers(o, s) for o in (optim.SGD(0.01), optim.AdaGrad(0.5)))
        yield name, found


def main() -> None:
    """Read the arguments, run, print."""
    options = arguments(__doc__)
    table = Table("", "", *MEMBERS, "River", "ratio", title="prequential")
    lines: dict[str, dict[str, float]] = {}
    qualities, ratios = [], []
    for name, found in results(QUICK_ROWS if options.quick else ROWS):
        own, other = found["logistic"], found["River"]
        number = name in NUMBERS
        ratios.append(own.events_per_s / other.events_per_s)
        qualities.append(other.figure / own.figure if number else own.figure / other.figure)
        lines[name] = {k: round(r.figure, 4) for k, r in found.items()}
        figures = (*lines[name].values(), round(ratios[-1]))
        table.add_row(name, "MAE" if number else "accuracy", *map(str, figures))
    targets = {
        "linear_quality": target(min(qualities), 0.99, True),
        "linear_ratio": target(min(ratios), 30, True),
    }
    if options.json:
        show("linear", {"streams": lines, "targets": targets}, True)
    else:
        Console(width=80).print(table)


if __name__ == "__main__":
    main()
