"""What a scorer that ranks holds, from those that held it: when partitions move between them.

What is known is the same at all of them once each has followed all news; what waits for what
becomes of it goes with the partition that it came from. So that nothing is on its way then, all
that was handed over must have come back: what the learner has not learned stands under the old
scorers' numbers, and counts ahead of it for users who are somebody else's from then on. Nothing
here reads or writes a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from models.base import State
from stream.contract.records import NewRecord
from stream.step.ranking.ahead import Ahead
from stream.step.ranking.rerank import Reranker
from stream.step.ranking.scorer import RankingScorer
from stream.step.roles.move import (
    Unmovable,
    at_look,
    counted_of,
    gather_rows,
    heirs,
    kept_by_name,
    newest_first,
    owned,
    told_by,
)

COUNTED = ("shown", "value", "delays")
"""What only counts and measures: of several scorers the first one's goes on."""
COUNTED_OF_STAGE = ("tallies", "matured", "quality")
"""Of its second stage likewise."""


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


def tell(found: Mapping[int, RankingScorer]) -> dict[int, list[NewRecord]]:
    """What becomes of places by news that they heard between two steps: by scorer the records for
    the learner. What follows for risk of entities that all see they tell each other here."""
    examples, risk = {}, {}
    for i, part in found.items():
        handed, _ = part.hand()
        examples[i] = handed[part.config.examples_topic]
        risk[i] = handed.get(part.config.risk_topic, [])
    for i, records in risk.items():
        for other in (part.reranker for j, part in found.items() if j != i):
            for record in records:
                if other is not None and other.sharing is not None:
                    other.sharing.read(i, record.value)
    return examples


def take_over(to: RankingScorer, found: Mapping[int, RankingScorer]) -> None:
    """Let a new engine of the new configuration hold what belongs to its partitions.

    ``found``: as of :func:`all_back`; they are not changed. Raises :class:`Unmovable`.
    """
    shard, partitions = to.config.shard, to.config.topics.partitions
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
    stage = to.reranker
    if stage is not None:
        state["reranker"] = _second_stage(stage, parts[0], counted)
    to.restore(state, {})
    homes = owned(shard.index, shard.count, partitions)
    rows = gather_rows(to, parts, homes)
    if stage is not None:
        stages = [part.reranker for part in parts if part.reranker is not None]
        stage.features.gather([part.features for part in stages], homes)
        at_look(stage.maturity, [part.maturity for part in stages], rows)
        if stage.sharing is not None:
            stage.sharing.told_ms = told_by(to.config, found)


def _second_stage(to: Reranker, base: RankingScorer, counted: Sequence[RankingScorer]) -> State:
    """That of the base, without what belongs to partitions, but for what counts and measures."""
    assert base.reranker is not None
    fresh, state = to.state(), base.reranker.state()
    state["features"] = fresh["features"]
    state["maturity"] |= {key: fresh["maturity"][key] for key in ("ends", "shares")}
    if base not in counted:
        state |= {key: fresh[key] for key in COUNTED_OF_STAGE}
    counts = Counter[str]()
    for part in counted:
        counts.update({} if part.reranker is None else part.reranker.counts)
    return state | {"counts": dict(counts)}


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
