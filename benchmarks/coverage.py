"""Whether intervals and sets hold the truth as often as asked, month by month, while all drifts.

Run ``python -m benchmarks.coverage [--json] [--quick]``. Eight months of made-up deliveries (how
many minutes, errors in proportion) and tickets (which of four queues), 300 a day; a small learner
predicts each before it learns its label, at once, a day or 7 days later. What is to be learned
walks from day to day. ``steady``: noise doubles in the eight months. ``waves``: it also rises and
falls by a third in turns of four months. ``jump``: on day 100 all changes at once; until the labels
of that day nobody can know. Beside ours: the quantile of the last 1,000 and 10,000 errors known, or
of the truth's probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import arguments, show, target
from models.base import F64
from models.ensemble.conformal import Conformal, Intervals, Sets
from models.links import softmax
from models.task import Classes, Number
from monitoring.quality import classes, numbers

LEVEL = 0.9
PER_DAY, DAYS = 300, 240
MONTH = 30 * PER_DAY
SIZE = 10
"""Rows that are scored before the labels that came with them are learned."""
DELAYS = {"at once": 0, "1 day": 1, "7 days": 7}
WINDOWS = (1_000, 10_000)
SEEDS = range(1, 4)


class Stream(NamedTuple):
    """Features ``(n, d)``, the first of them 1, and truths ``(n,)``."""

    x: F64
    y: F64


class Run(NamedTuple):
    """What became of promises, kept and width ``(n, 2)``, by who made them; ``nan``: none made."""

    promises: dict[str, F64]


def deliveries(seed: int, drift: str) -> Stream:
    """Minutes until a delivery: a walk of what each feature adds, errors in proportion."""
    rng = np.random.default_rng(seed)
    n = PER_DAY * DAYS
    x = np.column_stack([np.ones(n), rng.standard_normal((n, 3))])
    steps = rng.standard_normal((DAYS, 4)) * 0.15
    if drift == "jump":
        steps[100] = [6.0, -3.0, 3.0, 0.0]
    adds = (np.array([30.0, 6.0, -4.0, 3.0]) + steps.cumsum(axis=0)).repeat(PER_DAY, axis=0)
    usual = np.maximum((x * adds).sum(axis=1), 5.0)
    noise = 0.1 * _noise(n, drift) * rng.standard_normal(n)
    return Stream(x, usual * np.exp(noise))


def tickets(seed: int, drift: str) -> Stream:
    """The queue of a ticket, by features around a centre of its queue that walks."""
    rng = np.random.default_rng(seed)
    n, k = PER_DAY * DAYS, 4
    steps = rng.standard_normal((DAYS, k, 3)) * 0.03
    centres = rng.standard_normal((k, 3)) * 0.8 + steps.cumsum(axis=0)
    if drift == "jump":
        centres[100:] = centres[100:, [1, 0, 2, 3]]
    y = rng.choice(k, n, p=[0.45, 0.3, 0.2, 0.05])
    noise = 0.7 * _noise(n, drift)[:, None] * rng.standard_normal((n, 3))
    x = centres[np.arange(n) // PER_DAY, y] + noise
    return Stream(np.column_stack([np.ones(n), x]), y.astype(np.float64))


def _noise(n: int, drift: str) -> F64:
    """How large it is, 1 to 2."""
    at = np.arange(n)
    size = 2.0 ** (at / n)
    if drift == "waves":
        size *= 1.33 ** np.sin(2 * np.pi * at / (4 * MONTH))
    return size


class _Line:
    """Least squares that forget (factor 0.999), one row after another."""

    def __init__(self) -> None:
        self._w = np.zeros(4)
        self._p = np.eye(4) * 100.0

    def output(self, x: F64) -> F64:
        return (x @ self._w)[:, None]

    def learn(self, x: F64, y: F64) -> None:
        for row, truth in zip(x, y, strict=True):
            gain = self._p @ row / (0.999 + row @ self._p @ row)
            self._w = self._w + gain * (truth - row @ self._w)
            self._p = (self._p - np.outer(gain, row @ self._p)) / 0.999


class _Softmax:
    """Softmax regression by gradient steps of 0.02, one row after another."""

    def __init__(self) -> None:
        self._w = np.zeros((4, 4))

    def output(self, x: F64) -> F64:
        return softmax(x @ self._w)

    def learn(self, x: F64, y: F64) -> None:
        for row, truth in zip(x, y.astype(int), strict=True):
            off = softmax(row @ self._w)
            off[truth] -= 1.0
            self._w = self._w - 0.02 * np.outer(row, off)


class _Window:
    """The quantile of the last scores known, learned as often as ours: each batch."""

    def __init__(self, size: int, share: float) -> None:
        self._size, self._share = size, share

    def reach(self, known: F64) -> float:
        """Of how badly outputs met truths; ``nan`` before 20."""
        newest = known[-self._size :]
        return float(np.quantile(newest, self._share)) if len(newest) >= 20 else float("nan")


def run(stream: Stream, delay_days: int, kind: str) -> Run:
    """Score each batch, then learn the labels that are due."""
    n, delay = len(stream.y), delay_days * PER_DAY
    learner: Any = _Line() if kind == "numbers" else _Softmax()
    ours: Conformal = (
        Intervals(Number(), LEVEL) if kind == "numbers" else Sets(Classes("abcd"), LEVEL)
    )
    became = numbers.promises if kind == "numbers" else classes.promises
    # Of a number its error, of classes the probability of the truth.
    windows = {size: _Window(size, LEVEL if kind == "numbers" else 1 - LEVEL) for size in WINDOWS}
    output = np.zeros((n, 1 if kind == "numbers" else 4))
    promise, met = np.zeros((n, 2)), np.zeros(n)
    found = {name: np.zeros((n, 2)) for name in ("ours", *map(_window_name, WINDOWS))}
    learned = 0
    for first in range(0, n, SIZE):
        rows = slice(first, first + SIZE)
        output[rows] = learner.output(stream.x[rows])
        promise[rows] = ours.promise(output[rows])
        said = ours.said(output[rows], promise[rows])
        found["ours"][rows] = became(said, stream.y[rows])
        for size, window in windows.items():
            fixed = np.full((SIZE, 2), window.reach(met[:learned]))
            said = ours.said(output[rows], fixed)
            found[_window_name(size)][rows] = became(said, stream.y[rows])
        due = slice(learned, max(first + SIZE - delay, learned))
        learner.learn(stream.x[due], stream.y[due])
        ours.learn(output[due], promise[due], stream.y[due])
        met[due] = _met(output[due], stream.y[due])
        learned = due.stop
    return Run(found)


def _met(output: F64, y: F64) -> F64:
    """How an output met its truth: the error of a number, else the truth's probability."""
    if output.shape[1] == 1:
        return np.abs(output[:, 0] - y)
    right: F64 = output[np.arange(len(y)), y.astype(int)]
    return right


def _window_name(size: int) -> str:
    return f"last {size:,}"


def by_month(promises: F64) -> F64:
    """Share kept in each month ``(months,)``, of the promises made."""
    return np.nanmean(promises[:, 0].reshape(-1, MONTH), axis=1)


STREAMS: dict[str, tuple[Callable[[int, str], Stream], str]] = {
    "deliveries": (deliveries, "numbers"),
    "tickets": (tickets, "classes"),
}
DRIFTS = ("steady", "waves", "jump")
"""The targets are those of the first."""


def judge(runs: list[Run]) -> dict[str, dict[str, Any]]:
    """Least and greatest coverage of a month, and mean width, by who promised."""
    found = {}
    for who in runs[0].promises:
        months = np.concatenate([by_month(r.promises[who]) for r in runs])
        width = np.mean([np.nanmean(r.promises[who][:, 1]) for r in runs])
        found[who] = {
            "least_month": round(float(months.min()), 4),
            "greatest_month": round(float(months.max()), 4),
            "width": round(float(width), 3),
        }
    return found


def main() -> None:
    """Print coverage by month and width, of all seeds."""
    options = arguments(__doc__)
    seeds = list(SEEDS)[: 1 if options.quick else None]
    found: dict[str, Any] = {"seeds": len(seeds)}
    off, wide = [], []
    for drift in DRIFTS:
        for name, (make, kind) in STREAMS.items():
            for late, days in DELAYS.items():
                judged = judge([run(make(seed, drift), days, kind) for seed in seeds])
                found[f"{drift}, {name}, {late}"] = judged
                ours, fixed = judged["ours"], judged[_window_name(WINDOWS[-1])]
                if drift == DRIFTS[0]:
                    off += [LEVEL - ours["least_month"], ours["greatest_month"] - LEVEL]
                    wide.append(ours["width"] / fixed["width"])
    found["targets"] = {
        "furthest_month": target(max(off), 0.01, at_least=False),
        "width_beside_last_10000": target(max(wide), 1.0, at_least=False),
    }
    show("coverage", found, options.json)


if __name__ == "__main__":
    main()
