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
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import arguments, show
from benchmarks.ranking.streams import SHAPES, Stream, generated, read, rows
from models.reco.recommender import Recommender
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
