"""A small seeded stream of interactions, and what the tests of recommendation share."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.base import I64
from models.kernels.common import numbers
from models.reco.recommender import Interactions, Recommender
from models.reco.settings import RecoSettings


def key(ids: I64) -> Any:
    """Keys as the hashes of ids' texts are: any 64 bits, never 0."""
    return numbers(7, int(ids.max()) + 2)[1:][ids]


def stream(n: int, users: int = 30, items: int = 40, seed: int = 0) -> Interactions:
    """Users of two tastes who come in sittings, items of unequal popularity, times that tie."""
    rng = np.random.default_rng(seed)
    user = np.repeat(rng.integers(0, users, n), rng.integers(1, 6, n))[:n]
    rank = np.minimum((rng.exponential(items / 8, n)).astype(int), items // 2 - 1)
    item = np.where(rng.random(n) < 0.9, rank * 2 + user % 2, rng.integers(0, items, n))
    gaps = np.where(rng.random(n) < 0.1, 7_200_000, rng.integers(0, 3, n) * 1000)
    return Interactions(
        time_ms=np.cumsum(gaps),
        user=key(user),
        session=np.zeros(n, np.uint64),
        item=key(item),
        weight=rng.choice([0.5, 1.0, 2.0], n),
        value=np.full(n, np.nan),
    )


def cut(rows: Interactions, first: int, last: int) -> Interactions:
    """Some of the rows."""
    columns: Any = [column[first:last] for column in rows]
    return Interactions(*columns)


def recommender(**settings: Any) -> Recommender:
    """A fresh recommender."""
    return Recommender(RecoSettings.model_validate(settings), seed=3)
