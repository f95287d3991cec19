"""What a scorer that ranks holds, from those that held it: when partitions move between them.

What is known is the same at all of them once each has followed all news; what waits for what
becomes of it goes with the partition that it came from. So that nothing is on its way then, all
that was handed over must have come back: what the learner has not learned stands under the old
scorers' numbers, and counts ahead of it for users who are somebody else's from then on. Nothing
here reads or writes a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.base import State
from stream.step.ranking.ahead import Ahead
from stream.step.ranking.scorer import RankingScorer
from stream.step.roles.move import (
    Unmovable,
    counted_of,
    gather_rows,
    heirs,
    kept_by_name,
    newest_first,
    owned,
)

COUNTED = ("shown", "value", "delays")
"""What only counts and measures: of several scorers the first one's goes on."""


def all_back(found: Mapping[int, RankingScorer]) -> None:
    """Raise :class:`Unmovable` where a scorer misses what the learner has still to tell.

    ``found``: by index all scorers there were, each of which has followed all news there are.
    """
    for part in found.values():
        name = part.config.name
        if part.versions.missed:
            raise Unmovable(
                f"{name}: expected all versions after {part.versions.current.number}, some are"
                " gone: start all processes, until it has asked for all that is known and taken"
                " it (version_applied in its trail), stop the scorers, and move again"
            )
        if waiting := len(part.ahead):
            raise Unmovable(
                f"{name}: expected all that was handed to the learner to have come back, of"
                f" {waiting:,} deeds nothing has: let the learner run until it waits for more,"
                " and move again"
            )


def take_over(to: RankingScorer, found: Mapping[int, RankingScorer]) -> None:
    """Let a new engine of the new configuration hold what belongs to its partitions.

    ``found``: as of :func:`all_back`; they are not changed. Raises :class:`Unmovable`.
    """
    shard, partitions = to.config.shard, to.config.topics.partitions
    if to.reranker is not None:
        raise Unmovable(
            f"{to.config.name}: expected no [[members]] over the candidates of a ranking, got"
            f" {len(to.config.members)}: what they hold of users does not move yet"
        )
    parts = newest_first(found, shard.index, shard.count, partitions)
    heir = heirs(len(found), shard.count, partitions)
    counted = [found[source] for source in sorted(heir) if heir[source] == shard.index]
    state = _plain(to, found.get(shard.index, to), parts[0], counted)
    # Numbers go on after all there were: the learner tells up to which it has learned of a scorer
    # that was none for a while, too.
    state |= {
        "clock_ms": max(part.clock_ms for part in parts),
        "watermark_ms": max(part.watermark_ms for part in parts),
        "ahead": Ahead(max(part.ahead.handed for part in found.values())).state(),
    }
    to.restore(state, {})
    gather_rows(to, parts, owned(shard.index, shard.count, partitions))


def _plain(
    to: RankingScorer,
    own: RankingScorer,
    base: RankingScorer,
    counted: Sequence[RankingScorer],
) -> State:
    """The state without what belongs to partitions, but for what counts and measures."""
    fresh, teller = to.state(), (counted[0] if counted else to).state()
    state = base.state() | kept_by_name(own) | counted_of(counted)
    return state | {"pending": fresh["pending"]} | {key: teller[key] for key in COUNTED}
