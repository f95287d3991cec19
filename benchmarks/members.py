"""The compiled members beside River, scikit-learn and Vowpal Wabbit, on the Electricity stream.

``python -m benchmarks.members --elec elec.csv.gz [--rows N] [--json]``. The file is the Electricity
data set (Harries 1999) with the columns of :data:`COLUMNS` and ``class`` (1: the price went up).
Every learner predicts each row, then learns it; and once more with each label 48 rows (one day)
late. Electricity's labels run in series, so the table carries what repeating the last label gets,
and kappa-temporal (Zliobaite et al. 2015): accuracy over that, 0 or less for a learner that knows
no more. Times are processor times of this process; compare ratios only. Vowpal Wabbit is run from
Python as its users do, an example object for each row; without the package (``pip install
vowpalwabbit``) its line is left out and the result says so.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from river import forest, linear_model, optim, preprocessing, tree
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

from benchmarks.common import arguments, show, target
from models.base import F64, FeatureBatch, FeatureSchema
from models.members.catalogue import build

COLUMNS = ("period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
LAG = 48
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "logistic": ("logistic", {}),
    "crossed": ("crossed", {}),
    "forest": ("forest", {}),
    "forest, latest": ("forest", {"latest": True}),
    "boosting": ("boosting", {}),
    "boosting, memory 50": ("boosting", {"memory": 50, "learning_rate": 0.3}),
}
RIVER: dict[str, Callable[[], Any]] = {
    "River LR": lambda: (
        preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.AdaGrad(0.5))
    ),
    "River HT": tree.HoeffdingTreeClassifier,
    "River ARF-10": lambda: forest.ARFClassifier(n_models=10, seed=1),
}


class Stream(NamedTuple):
    """The rows as columns."""

    x: FeatureBatch
    y: F64


class Result(NamedTuple):
    """One line of the table."""

    name: str
    accuracy: float
    kappa_temporal: float
    auc: float
    accuracy_late: float
    events_per_s: float


def read(path: Path, rows: int | None) -> Stream:
    """The stream in its file's order."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))[:rows]
    dense = np.array([[float(r[c]) for c in COLUMNS] for r in table], np.float32)
    y = np.array([float(r["class"]) for r in table])
    schema = FeatureSchema(COLUMNS)
    return Stream(FeatureBatch(schema, dense, np.zeros((len(y), 0), np.uint32)), y)


def auc(score: F64, y: F64) -> float:
    """Area under the ROC curve: the share of pairs in order, ties half (Mann and Whitney 1947)."""
    _, place, ties = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(ties) - (ties - 1) / 2)[place]
    positives = y.sum()
    pairs = positives * (len(y) - positives)
    return float((rank[y == 1].sum() - positives * (positives + 1) / 2) / pairs)


def summary(name: str, score: F64, late: F64, y: F64, seconds: float) -> Result:
    """Figures of a learner's scores, given at once and a day late."""
    right = float(((score > 0) == (y == 1)).mean())
    repeat = float((y[1:] == y[:-1]).mean())
    return Result(
        name=name,
        accuracy=right,
        kappa_temporal=(right - repeat) / (1 - repeat),
        auc=auc(score, y),
        accuracy_late=float(((late > 0) == (y == 1)).mean()),
        events_per_s=len(y) / seconds if seconds else 0.0,
    )


def no_change(s: Stream) -> Result:
    """Repeating the newest label known."""
    score, late = np.zeros(len(s.y)), np.zeros(len(s.y))
    score[1:] = s.y[:-1] - 0.5
    late[LAG:] = s.y[:-LAG] - 0.5
    return summary("no change", score, late, s.y, 0.0)


def compiled(name: str, s: Stream) -> Result:
    """One of our members: the one-pass walk for speed, single calls for late labels."""
    kind, params = MEMBERS[name]
    member: Any = build(kind, params, s.x.schema, seed=1)
    ones = np.ones(len(s.y))
    start = time.process_time()
    score = member.score_learn(s.x, s.y, ones)[:, 0]
    seconds = time.process_time() - start
    member, late = build(kind, params, s.x.schema, seed=1), np.zeros(len(s.y))
    for i in range(len(s.y)):
        late[i] = member.score(s.x.take(slice(i, i + 1)))[0, 0]
        if i >= LAG:
            known = slice(i - LAG, i - LAG + 1)
            member.learn(s.x.take(known), s.y[known], ones[known])
    return summary(name, score, late, s.y, seconds)


def rivers(name: str, s: Stream) -> Result:
    """One of River's learners, on dictionaries made beforehand."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in s.x.dense.tolist()]
    labels = [bool(v) for v in s.y]
    learner, score = RIVER[name](), np.zeros(len(rows))
    start = time.process_time()
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        score[i] = learner.predict_proba_one(row).get(True, 0.0) - 0.5
        learner.learn_one(row, label)
    seconds = time.process_time() - start
    learner, late = RIVER[name](), np.zeros(len(rows))
    for i, row in enumerate(rows):
        late[i] = learner.predict_proba_one(row).get(True, 0.0) - 0.5
        if i >= LAG:
            learner.learn_one(rows[i - LAG], labels[i - LAG])
    return summary(name, score, late, s.y, seconds)


class Vowpal:
    """Vowpal Wabbit's logistic regression by adaptive, normalised, invariant updates (default)."""

    def __init__(self) -> None:
        import vowpalwabbit

        self._vw = vowpalwabbit.Workspace("--loss_function logistic --link identity --quiet")

    def predict(self, row: list[float]) -> float:
        return float(self._vw.predict("| " + _vw_text(row)))

    def learn(self, row: list[float], label: bool) -> None:
        self._vw.learn(f"{1 if label else -1} | {_vw_text(row)}")


def _vw_text(row: list[float]) -> str:
    return " ".join(f"{name}:{value:g}" for name, value in zip(COLUMNS, row, strict=True))


class Sgd:
    """scikit-learn's SGDClassifier, row by row, behind the scaling it asks for."""

    def __init__(self) -> None:
        self._scaler = StandardScaler()
        self._sgd = SGDClassifier(loss="log_loss", random_state=1)
        self._fitted = False

    def predict(self, row: list[float]) -> float:
        if not self._fitted:
            return 0.0
        return float(self._sgd.decision_function(self._scaler.transform([row]))[0])

    def learn(self, row: list[float], label: bool) -> None:
        x = self._scaler.partial_fit([row]).transform([row])
        self._sgd.partial_fit(x, [label], classes=[False, True])
        self._fitted = True


def others(name: str, make: Callable[[], Vowpal | Sgd], s: Stream) -> Result:
    """A learner of another library, row by row."""
    rows, labels = s.x.dense.tolist(), [bool(v) for v in s.y]
    learner, score = make(), np.zeros(len(rows))
    start = time.process_time()
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        score[i] = learner.predict(row)
        learner.learn(row, label)
    seconds = time.process_time() - start
    learner, late = make(), np.zeros(len(rows))
    for i, row in enumerate(rows):
        late[i] = learner.predict(row)
        if i >= LAG:
            learner.learn(rows[i - LAG], labels[i - LAG])
    return summary(name, score, late, s.y, seconds)


def results(s: Stream) -> Iterator[Result]:
    """Every line, as it is ready."""
    yield no_change(s)
    for name in MEMBERS:
        yield compiled(name, s)
    for name in RIVER:
        yield rivers(name, s)
    yield others("scikit-learn SGD", Sgd, s)
    if find_spec("vowpalwabbit"):
        yield others("Vowpal Wabbit", Vowpal, s)


def main() -> None:
    """Read the arguments, run, print."""
    options = arguments(__doc__, _more)
    found = {r.name: r for r in results(read(options.elec, options.rows))}
    forest, arf = found["forest"], found["River ARF-10"]
    targets = {
        "forest_beside_river": target(forest.events_per_s / arf.events_per_s, 50, True),
        "elec_accuracy": target(forest.accuracy, round(arf.accuracy - 0.005, 4), True),
    }
    if vowpal := found.get("Vowpal Wabbit"):
        ratio = found["logistic"].events_per_s / vowpal.events_per_s
        targets["logistic_beside_vowpal_wabbit"] = target(ratio, 5, True)
    shown = {r.name: {k: round(v, 4) for k, v in r._asdict().items() if k != "name"}
             for r in found.values()}  # fmt: skip
    show("members", {"learners": shown, "targets": targets}, options.json)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--elec", type=Path, required=True, help="elec.csv.gz")
    parser.add_argument("--rows", type=int, help="only the first rows")


if __name__ == "__main__":
    main()
