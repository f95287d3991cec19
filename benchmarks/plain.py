"""Plain numeric streams of yes and no beside River: the first thousand rows, and all of them.

``python -m benchmarks.plain [--rows N] [--seed N] [--quick] [--json]``. River generates the
streams: SEA with 10 % of the labels wrong, from each of its four variants on to the next every
25,000 rows; Agrawal, whose function the seed chooses; Hyperplane and RandomRBFDrift, which move
all the time. Every learner predicts each row, then learns it, with labels at once and 48 rows late.
Ours are ``logistic``, ``crossed`` and ``forest`` at their defaults under the ``stack``; River's are
``ARFClassifier(10)`` and ``StandardScaler | LogisticRegression``. Figures are accuracies, ours less
that of what stands beside it; those of the regressions, of a thousand rows each, are means of ten
seeds from ``--seed`` on. Beside the ensemble's worst window stands that of a stack that knew the
truth beforehand: what chance leaves to any combination of these members.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from river import forest, linear_model, preprocessing
from river.datasets import synth
from sklearn.linear_model import LogisticRegression

from benchmarks.common import arguments, show, target
from models.base import F64, FeatureBatch, FeatureSchema
from models.ensemble.ensemble import Ensemble
from models.members.catalogue import build

MEMBERS = ("logistic", "crossed", "forest")
LAGS = {"at once": 0, "48 late": 48}
WINDOW = 1_000
EARLY_SEEDS = 10
DRIFT = 25_000
VARIANTS = 4


def sea(variant: int, seed: int) -> Iterator[Any]:
    """SEA from one variant on: the next one every :data:`DRIFT` rows."""
    for part in itertools.count():
        stream = synth.SEA((variant + part) % VARIANTS, seed=seed + part, noise=0.1)
        yield from stream.take(DRIFT)


STREAMS: dict[str, Callable[[int], Any]] = {
    **{f"SEA {v}": partial(sea, v) for v in range(VARIANTS)},
    "Agrawal": lambda seed: synth.Agrawal(seed % 10, seed=seed, perturbation=0.05),
    "Hyperplane": lambda seed: synth.Hyperplane(
        seed, n_features=10, mag_change=0.001, noise_percentage=0.05
    ),
    "RandomRBFDrift": lambda seed: synth.RandomRBFDrift(
        *(seed, seed), n_centroids=50, change_speed=0.001, n_drift_centroids=25
    ),
}


class Result(NamedTuple):
    """One line of the table: differences of accuracy, and the forest's own."""

    stream: str
    labels: str
    forest_right: float
    forest: float
    forest_early: float
    logistic_early: float
    ensemble: float
    ensemble_worst: float
    hindsight_worst: float


def ours(x: FeatureBatch, y: F64, lag: int, kinds: tuple[str, ...]) -> F64:
    """The links of each member and of the ensemble, the last column, for each row."""
    members = {kind: build(kind, {}, x.schema, 1) for kind in kinds}
    ensemble = Ensemble(members, "stack")
    links, said = np.zeros((len(y), len(members), 1)), np.zeros((len(y), 1))
    for i in range(len(y)):
        links[i : i + 1], said[i : i + 1] = ensemble.score(x.take(slice(i, i + 1)))
        if i >= lag:
            late = slice(i - lag, i - lag + 1)
            ensemble.learn(x.take(late), links[late], y[late], np.ones(1))
    return np.hstack((links[:, :, 0], said))


def told(links: F64, y: F64) -> NDArray[np.bool_]:
    """Whether each row was told right by each column of links."""
    return np.asarray((links > 0.0) == (y[:, None] > 0.0))


def river(learner: Any, rows: list[dict[str, float]], y: F64, lag: int) -> NDArray[np.bool_]:
    """Whether each row was told right by a learner of River's."""
    right = np.zeros(len(rows), bool)
    for i, row in enumerate(rows):
        right[i] = bool(learner.predict_one(row)) == bool(y[i])
        if i >= lag:
            learner.learn_one(rows[i - lag], bool(y[i - lag]))
    return right


def worst(right: NDArray[np.bool_]) -> float:
    """The ensemble less the best member of each window of 1,000 rows: the least."""
    windows = [right[i : i + WINDOW].mean(axis=0) for i in range(0, len(right), WINDOW)]
    return min(float(w[-1] - w[:-1].max()) for w in windows)


def hindsight(links: F64, y: F64) -> NDArray[np.bool_]:
    """What a logistic stack of the members would have told right that was fitted, for each window
    of 1,000 rows, to the truth of it and of the two on each side of it."""
    right = np.zeros(len(y), np.bool_)
    for i in range(0, len(y), WINDOW):
        near, own = slice(max(0, i - 2 * WINDOW), i + 3 * WINDOW), slice(i, i + WINDOW)
        stack = LogisticRegression(C=10.0).fit(links[near], y[near])
        right[own] = stack.predict(links[own]) == y[own]
    return right


def taken(name: str, rows: int, seed: int) -> tuple[FeatureBatch, list[dict[str, float]], F64]:
    """Rows of a stream: as ours get them, as River's do, and their truths."""
    features, truths = zip(*itertools.islice(STREAMS[name](seed), rows), strict=True)
    plain = [{str(k): float(v) for k, v in row.items()} for row in features]
    dense = np.array([list(row.values()) for row in plain], np.float32)
    x = FeatureBatch(FeatureSchema(tuple(plain[0])), dense, np.zeros((rows, 0), np.uint32))
    return x, plain, np.array(truths, np.float64)


def early(name: str, lag: int, seed: int) -> float:
    """Our logistic member less River's regression, in the first 1,000 rows of each seed."""
    found = []
    for each in range(seed, seed + EARLY_SEEDS):
        x, plain, y = taken(name, WINDOW, each)
        linear = preprocessing.StandardScaler() | linear_model.LogisticRegression()
        own = told(ours(x, y, lag, ("logistic",)), y)[:, 0]
        found.append(own.mean() - river(linear, plain, y, lag).mean())
    return float(np.mean(found))


def result(name: str, labels: str, rows: int, seed: int) -> Result:
    """All learners on one stream."""
    x, plain, y = taken(name, rows, seed)
    links = ours(x, y, LAGS[labels], MEMBERS)
    own = told(links, y)
    trees = river(forest.ARFClassifier(10, seed=1), plain, y, LAGS[labels])
    at = MEMBERS.index("forest")
    whole = own.mean(axis=0)
    return Result(
        stream=name,
        labels=labels,
        forest_right=float(whole[at]),
        forest=float(whole[at] - trees.mean()),
        forest_early=float(own[:WINDOW, at].mean() - trees[:WINDOW].mean()),
        logistic_early=early(name, LAGS[labels], seed),
        ensemble=float(whole[-1] - whole[:-1].max()),
        ensemble_worst=worst(own),
        hindsight_worst=worst(np.column_stack((own[:, :-1], hindsight(links[:, :-1], y)))),
    )


def main() -> None:
    """Read the arguments, run, print."""
    options = arguments(__doc__, _more)
    rows = 2_000 if options.quick else options.rows
    runs = list(itertools.product(STREAMS, LAGS))
    shown = track(runs, "streams", console=Console(stderr=True))
    found = [result(name, labels, rows, options.seed) for name, labels in shown]
    targets = {
        "plain_forest": target(min(r.forest for r in found), -0.003, True),
        "plain_logistic": target(min(r.logistic_early for r in found), -0.005, True),
        "plain_ensemble": target(min(r.ensemble_worst for r in found), -0.01, True),
    }
    if options.json:
        streams = [r._asdict() for r in found]
        show("plain", {"rows": rows, "streams": streams, "targets": targets}, True)
    else:
        table(found)


def table(found: list[Result]) -> None:
    """For people, within 80 columns."""
    heads = ("", "labels", "forest", "- ARF", "first", "linear", "all", "worst", "known")
    shown = Table(*heads, box=SIMPLE_HEAD, padding=0, pad_edge=False, collapse_padding=True)
    shown.caption = (
        "forest: accuracy, less ARF's, and that in rows 0..1,000; linear: logistic less River's "
        "there, of ten seeds; ensemble less its best member, in all rows and in the worst window "
        "of 1,000; known: the same of a stack fitted in hindsight"
    )
    for r in found:
        figures = (r.forest, r.forest_early, r.logistic_early)
        beside = (r.ensemble, r.ensemble_worst, r.hindsight_worst)
        cells = (f"{r.forest_right:.3f}", *(f"{v:+.3f}" for v in figures + beside))
        shown.add_row(r.stream, r.labels, *cells)
    Console(width=80).print(shown)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=10_000, help="of each stream")
    parser.add_argument("--seed", type=int, default=1, help="of the streams")


if __name__ == "__main__":
    main()
