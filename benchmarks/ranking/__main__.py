"""Rankings judged in time order: each member and the stack, on files of interactions.

``python -m benchmarks.ranking [FILE ...] [--shape S] [--repeats] [--least R] [--members M ...]``. A
file, plain or gzip, holds one interaction a line: user, item, rating and time in seconds
(MovieLens' ``u.data``), or under a heading session, item and time. Without a file a seeded stream
is taken.

The protocol: rows by time, ties in the order of ``default_rng(0).permutation``. Each row's item is
ranked among all items known so far that its user has not taken (with ``--repeats``: among all
known); its rank is 1 + the number of others with a score at least as high, an item not known is a
miss; then the row is learned. Judged are the rows from a tenth of the stream on whose user has an
earlier row. The stack is compared with its best member by McNemar's test on what is among the first
ten.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common import arguments, show
from models.base import F64, I64
from models.kernels.common import mix_all
from models.reco.recommender import Interactions, Recommender
from models.reco.settings import Members, RecoSettings
from stream.tools.ranking.ranks import Ranks, beside_best, in_order, quality

TASTES: dict[str, Any] = {"popular": {}, "cooccurrence": {}, "sessions": {}, "ease": {}}
SESSIONS: dict[str, Any] = {
    "popular": {},
    "cooccurrence": {"fade": 2, "back": 0.3, "prior": 1},
    "sessions": {},
}
"""One configuration for streams where users do not come back to an item, one for those of sessions
(``--repeats``)."""


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


def judge(s: Stream, members: dict[str, Any], repeats: bool) -> dict[str, Any]:
    """Run the protocol over a stream."""
    n = len(s.time_s)
    given = rows(s.take(in_order(s.time_s, np.arange(n), n)))
    settings = RecoSettings(
        members=Members.model_validate(members), seen="include" if repeats else "exclude"
    )
    recommender = Recommender(settings, seed=1)
    start = time.process_time()
    judged = recommender.learn(given, judge=True)
    seconds = time.process_time() - start
    assert judged is not None
    # The stack first, as what is shown.
    ranks = np.roll(judged.ranks, 1, axis=1)
    names = ("stack", *judged.names[:-1])
    found = Ranks(names, np.arange(n), given.time_ms, ranks, judged.history)
    return {
        "rows": n,
        "judged": int(found.scored.sum()),
        "rows_per_s": round(n / seconds),
        "figures": quality(found),
        "beside_best": beside_best(found),
    }


def main() -> None:
    """Read the arguments, run, print."""
    options = arguments(__doc__, _more)
    members = SESSIONS if options.repeats else TASTES
    if options.members:
        members = {name: members.get(name, {}) for name in options.members}
    if options.files:
        parts = [read(path) for path in options.files]
        s = Stream(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    else:
        s = generated(options.shape, 2_000 if options.quick else 30_000)
    if options.least is not None:
        s = s.take(s.rating >= options.least)
    found = judge(s, members, options.repeats)
    if options.json:
        show("ranking", found, True)
        return
    measures = list(found["figures"]["stack"])
    table = Table("", *measures, title=f"{found['judged']:,} of {found['rows']:,} rows")
    for name, line in found["figures"].items():
        table.add_row(name, *(f"{line[measure] or 0.0:.4f}" for measure in measures))
    Console(width=80).print(table)
    if (best := found["beside_best"]) is not None:
        print(f"beside {best['member']}: hit_10 {best['hit_10']:+.4f}, p = {best['p']:.2g}")
    print(f"judged and learned: {found['rows_per_s']:,} rows a second")


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0], help="of the seeded stream")
    parser.add_argument("--repeats", action="store_true", help="users come back to items: sessions")
    parser.add_argument("--least", type=float, help="only rows with at least this rating")
    parser.add_argument("--members", nargs="+", choices=sorted(Members.model_fields))


if __name__ == "__main__":
    main()
