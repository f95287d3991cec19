"""Streams of interactions: of a file, or seeded."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64
from models.kernels.common import mix_all
from models.reco.recommender import Interactions


class Stream(NamedTuple):
    """Interactions as they stand in a file."""

    user: I64
    item: I64
    time_s: F64
    rating: F64

    def take(self, rows: NDArray[Any]) -> Stream:
        """Some of the rows."""
        return Stream(self.user[rows], self.item[rows], self.time_s[rows], self.rating[rows])


def read(path: Path) -> Stream:
    """The interactions of a file."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    lines = list(csv.reader(text.splitlines(), delimiter="\t"))
    headed = not lines[0][0].isdigit()
    rows: F64 = np.array(lines[headed:], np.float64)
    rating = np.full(len(rows), np.nan) if headed else rows[:, 2]
    return Stream(rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, -1], rating)


def generated(shape: str, n: int, seed: int = 1) -> Stream:
    """A seeded stream: ``drift`` (tastes that turn, new items), ``popularity`` (all users alike),
    ``repetition`` (each user has a few items of his own), ``sparse`` (few rows of each, a year).
    """
    rng = np.random.default_rng(seed)
    users = {"sparse": max(n // 4, 20)}.get(shape, max(n // 100, 20))
    items, tastes, at = max(n // 50, 80), 8, np.arange(n) / n
    sitting = 1 if shape == "sparse" else 20
    user = np.repeat(rng.integers(0, users, n), rng.integers(1, 1 + sitting, n))[:n]
    step_s = 31_536_000 / n if shape == "sparse" else 60.0
    place = np.minimum(rng.exponential(items / tastes / 6, n), (at + 1) / 2 * items / tastes - 1)
    taste = (user + (at * 3 + user / users).astype(int)) % tastes
    if shape == "popularity":
        taste = rng.integers(0, tastes, n)
    taste = np.where(rng.random(n) < 0.8, taste, rng.integers(0, tastes, n))
    item = place.astype(np.int64) * tastes + taste
    if shape == "repetition":
        own = (user * 31 + rng.integers(0, 6, n) * 7) % items
        item = np.where(rng.random(n) < 0.7, own, item)
    time_s = step_s * np.arange(n, dtype=np.float64)
    return Stream(user, item, time_s, np.full(n, np.nan))


SHAPES = ("drift", "popularity", "repetition", "sparse")


def rows(s: Stream) -> Interactions:
    """What the recommender takes, each a positive of weight 1."""
    none = np.zeros(len(s.user), np.uint64)
    keys = [mix_all(ids.astype(np.uint64) + np.uint64(1)) for ids in (s.user, s.item)]
    ms = (s.time_s * 1000).astype(np.int64)
    return Interactions(ms, keys[0], none, keys[1], np.ones(len(ms)), s.rating)
