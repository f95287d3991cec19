"""Ratings foretold in time order, beside River's ``BiasedMF`` on the same stream.

``python -m benchmarks.ranking.ratings [FILE ...] [--members M ...] [--cells C] [--length L]``.
Files are those of ``python -m benchmarks.ranking`` that have ratings; without one a seeded stream
is taken.

The protocol: rows by time, ties in the order of ``default_rng(0).permutation``. Each rating is
foretold, clipped to the ratings that came before it, then learned. Judged are the rows from a tenth
of the stream on, of all users. Speed is that of foretelling and learning, River and ours in turn:
``bias_factors`` alone, and all that was asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from river import reco

from benchmarks.common import Side, arguments, beside, in_turn, middle, show, timed
from benchmarks.ranking.streams import Stream, read, rows
from models.base import F64
from models.reco.ratings import Ratings
from models.reco.recommender import Interactions
from models.reco.settings import RatingMembers, RatingSettings
from stream.tools.ranking.ranks import in_order
from stream.tools.ranking.rated import Foretold, errors

ROUNDS = 3


def seeded(n: int) -> Stream:
    """Users and items with biases and five tastes, who come in sittings and change their minds."""
    rng = np.random.default_rng(1)
    users, items, k = max(n // 100, 20), max(n // 60, 40), 5
    user = np.repeat(rng.integers(0, users, n), rng.integers(1, 40, n))[:n]
    item = np.minimum(rng.exponential(items / 5, n), items - 1).astype(np.int64)
    turned = rng.normal(0, 1, (2, users, k))
    at = np.linspace(0, 1, n)[:, None]
    taste = (1 - at) * turned[0, user] + at * turned[1, user]
    mean = 3.5 + rng.normal(0, 0.4, users)[user] + rng.normal(0, 0.5, items)[item]
    mean += (taste * rng.normal(0, 0.3, (items, k))[item]).sum(1)
    rating = np.clip(np.round(mean + rng.normal(0, 0.8, n)), 1, 5)
    return Stream(user, item, 30.0 * np.arange(n, dtype=np.float64), rating)


def river(s: Stream) -> F64:
    """What River foretells, with its defaults."""
    model, told, low, high = reco.BiasedMF(), np.zeros(len(s.rating)), np.inf, -np.inf
    columns = zip(s.user.tolist(), s.item.tolist(), s.rating.tolist(), strict=True)
    for i, (user, item, rating) in enumerate(columns):
        told[i] = min(max(model.predict_one(user=user, item=item), low), high) if i else np.nan
        model.learn_one(user=user, item=item, y=rating)
        low, high = min(low, rating), max(high, rating)
    return told


def ours(given: Interactions, members: dict[str, Any]) -> tuple[Ratings, F64]:
    """What the members and their stack foretell."""
    settings = RatingSettings(members=RatingMembers.model_validate(members))
    ratings = Ratings(settings, users=1_000_000, items=100_000, seed=1)
    return ratings, ratings.learn(given)


def compared(s: Stream, members: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Errors and speeds."""
    order = in_order(s.time_s, np.arange(len(s.time_s)), len(s.time_s))
    s = s.take(order)
    given = rows(s)
    told: dict[str, F64] = {}
    names: list[str] = []

    def stacked() -> int:
        ratings, told["stack"] = ours(given, members)
        names[:] = ratings.scorers
        return len(s.rating)

    def alone() -> int:
        ours(given, {"bias_factors": {}})
        return len(s.rating)

    def theirs() -> int:
        told["river"] = river(s)
        return len(s.rating)

    runs = in_turn(
        {"river": _side(theirs), "bias_factors": _side(alone), "stack": _side(stacked)}, rounds
    )
    every = np.column_stack([told["river"], told["stack"]])
    found = Foretold(("River's BiasedMF", *names), s.rating, every)
    return {
        "ratings": len(s.rating),
        "judged": found.scored,
        "errors": errors(found),
        **{f"speed_{name}": middle(run) for name, run in runs.items()},
        **{
            f"{name}_beside_river": beside(runs[name], runs["river"])
            for name in ("bias_factors", "stack")
        },
    }


def _side(work: Callable[[], int]) -> Side:
    return lambda: timed(work)


def main() -> None:
    """Read the arguments, run, print."""
    options = arguments(__doc__, _more)
    if options.files:
        parts = [read(path) for path in options.files]
        s = Stream(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    else:
        s = seeded(2_000 if options.quick else 50_000)
    kept = {"cells": options.cells, "length": options.length}
    near = {name: value for name, value in kept.items() if value is not None}
    members = {name: {} if name == "bias_factors" else near for name in options.members}
    rounds = 1 if options.quick else ROUNDS
    show("ratings", compared(s, members, rounds), options.json)


def _more(parser: argparse.ArgumentParser) -> None:
    names = list(RatingMembers.model_fields)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--members", nargs="+", choices=names, default=names)
    parser.add_argument("--cells", type=int, help="of item_knn and user_knn")
    parser.add_argument("--length", type=int, help="of item_knn and user_knn")


if __name__ == "__main__":
    main()
