"""Streams of interactions: of a file, or seeded."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64
from models.kernels.common import mix_all
from models.reco.recommender import Interactions

Random = np.random.Generator


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
    ``repetition`` (each user has a few items of his own), ``sparse`` (few rows of each, a year);
    or one of :data:`OTHERS`.
    """
    if shape in OTHERS:
        return OTHERS[shape](np.random.default_rng(seed), n)
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


def _fame(rng: Random, n: int) -> Stream:
    """Users are alike, few items are taken by most, and which these are moves slowly."""
    rank = np.minimum(rng.zipf(1.3, n) - 1, 999)
    item = (rank * 7919 + np.arange(n) // 4000 * 17 * (rank > 20)) % 1000
    return _stream(rng.integers(0, 2000, n), item, 60.0 * np.arange(n))


def _trend(rng: Random, n: int) -> Stream:
    """Users are alike, and what is taken changes all the time."""
    item = (800 * np.arange(n) / n + rng.laplace(0, 15, n)).astype(np.int64) % 800
    return _stream(rng.integers(0, 1500, n), item, 60.0 * np.arange(n))


def _season(rng: Random, n: int) -> Stream:
    """A year of users who come three times, to items that are as usual, or of the month."""
    time_s = np.sort(rng.random(n)) * 31_536_000
    month = (time_s / 31_536_000 * 12).astype(np.int64)
    item = (np.minimum(rng.zipf(1.35, n) - 1, 299) + 75 * month * (rng.random(n) < 0.5)) % 1200
    return _stream(rng.integers(0, n // 3, n), item, time_s)


def _chain(rng: Random, n: int) -> Stream:
    """After each item come some others of all, whoever the user is."""
    user = np.repeat(rng.integers(0, 400, n), rng.integers(1, 15, n))[:n]
    after, last, item = rng.integers(0, 600, (600, 6)), rng.integers(0, 600, 400), np.zeros(n, int)
    for t, u in enumerate(user.tolist()):
        follows = after[last[u], min(rng.geometric(0.4) - 1, 5)]
        item[t] = last[u] = follows if rng.random() < 0.7 else rng.integers(0, 600)
    return _stream(user, item, 60.0 * np.arange(n))


def _latent(rng: Random, n: int) -> Stream:
    """Each takes the best for him, by vectors of users and items, with much chance."""
    user = np.repeat(rng.integers(0, 500, n), rng.integers(1, 12, n))[:n]
    worth = 0.7 * rng.normal(0, 1, (500, 8)) @ rng.normal(0, 1, (8, 700))
    worth += rng.normal(0, 1.2, 700)
    item = np.array([np.argmax(worth[u] + rng.gumbel(0, 1, 700)) for u in user.tolist()])
    return _stream(user, item, 60.0 * np.arange(n))


def _twice(rng: Random, n: int) -> Stream:
    """Half the rows are others once more."""
    rows = np.sort(np.concatenate([np.arange(n // 2), rng.integers(0, n // 2, n - n // 2)]))
    return generated("drift", n // 2, int(rng.integers(1, 1 << 30))).take(rows)


def _tail(rng: Random, n: int) -> Stream:
    """Fifty tastes in a catalogue of which most items are taken once or never."""
    user = np.repeat(rng.integers(0, 2000, n), rng.integers(1, 20, n))[:n]
    place = np.where(rng.random(n) < 0.3, rng.integers(0, 2000, n), rng.zipf(1.15, n) - 1)
    taste = np.where(rng.random(n) < 0.75, user % 50, rng.integers(0, 50, n))
    return _stream(user, np.clip(place, 0, 1999) * 50 + taste, 60.0 * np.arange(n))


def _clusters(rng: Random, n: int) -> Stream:
    """Sessions of strangers, each among fifteen items that belong together; some come again."""
    session = np.repeat(np.arange(n), rng.geometric(0.25, n))[:n]
    about = (rng.zipf(1.4, n) % 100)[session]
    item = about * 15 + np.minimum(rng.geometric(0.25, n) - 1, 14)
    item[1:] = np.where(rng.random(n - 1) < 0.15, item[:-1], item[1:])
    return _stream(session, item, 20.0 * np.arange(n))


def _strangers(rng: Random, n: int) -> Stream:
    """Sessions that tell nothing."""
    session = np.repeat(np.arange(n), rng.geometric(0.3, n))[:n]
    return _stream(session, np.minimum(rng.zipf(1.25, n) - 1, 1999), 20.0 * np.arange(n))


def _stream(user: I64, item: I64, time_s: F64) -> Stream:
    return Stream(user, item, time_s, np.full(len(user), np.nan))


SESSIONS: dict[str, Callable[[Random, int], Stream]] = {
    "clusters": _clusters,
    "strangers": _strangers,
}
"""Those of sessions."""
OTHERS: dict[str, Callable[[Random, int], Stream]] = {
    **{"fame": _fame, "trend": _trend, "season": _season, "chain": _chain, "latent": _latent},
    **{"twice": _twice, "tail": _tail, **SESSIONS},
}
SHAPES = ("drift", "popularity", "repetition", "sparse", *OTHERS)


def rows(s: Stream) -> Interactions:
    """What the recommender takes, each a positive of weight 1."""
    none = np.zeros(len(s.user), np.uint64)
    keys = [mix_all(ids.astype(np.uint64) + np.uint64(1)) for ids in (s.user, s.item)]
    ms = (s.time_s * 1000).astype(np.int64)
    return Interactions(ms, keys[0], none, keys[1], np.ones(len(ms)), s.rating)
