"""Another number of scorers that rank, on a real broker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stream.contract.records import NewRecord
from stream.settings.load import load
from stream.step.roles.move import Unmovable
from stream.tools.scaled.move import move, plan, scorers
from tests.faults.shard import toml
from tests.stream.step.ranking.scaled import home
from tests.stream.step.ranking.test_roles_kafka import PARTITIONS, REQUESTS, Open, tree
from tests.support.factory import to_json
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka
EVERY = range(PARTITIONS)
__all__ = ["tree"]


class Counted(Open):
    """A shop by its file, which says how many scorers there are."""

    def __init__(self, tree: dict[str, Any], path: Path) -> None:
        super().__init__(tree, 21)
        self.tree, self.path = tree, path
        self.count(2)

    def count(self, count: int) -> None:
        """Write the file with so many scorers."""
        self.tree["shard"] = {"role": "scorer", "count": count}
        self.path.write_text("".join(f"{k} = {toml(v)}\n" for k, v in self.tree.items()))
        self.scorers = scorers(self.path, {})
        self.learner = load(self.path, {"MILLRACE_SHARD__ROLE": "learner"})

    def totals(self) -> Counter[str]:
        """Counts over all scorers, which run."""
        return sum((self.engine(config).counts for config in self.scorers), Counter[str]())

    def hand_over(self, n: int) -> int:
        """So much happens while the learner stands still; how many deeds there were by now."""
        with self.runs(*self.scorers):
            self.tell(n, *EVERY)
            deeds = sum(record["event"] not in REQUESTS for record in self.told)
            wait_until(
                lambda: self.totals()["deeds.handed"] == deeds, "all deeds to be handed over"
            )
        return deeds

    def send(self, records: list[dict[str, Any]]) -> None:
        """These come, each to its user's partition."""
        rows = [NewRecord(None, to_json(r), home(r, PARTITIONS)) for r in records]
        self._log.append(self.learner.topics.events, rows)

    def move(self, count: int) -> None:
        """So many scorers from here on."""
        move(self.path, {}, count, lambda _: None)
        self.count(count)


def takes(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whoever was shown these takes the first three places."""
    took = {"event": "interaction", "type": "buy", "timestamp": answers[-1]["timestamp"]}
    return [
        took | {"user": answer["user"], "item": place["id"], "ranking": answer["id"]}
        for answer in answers
        for place in answer["items"][:3]
    ]


def test_scorers_that_rank_become_more_and_fewer(tree: dict[str, Any], tmp_path: Path) -> None:
    """Lists that were answered before have their hits after it, what came before counts once, each
    request has one answer, and all know the same; the scorers stop while deeds are on their way."""
    shop = Counted(tree, tmp_path / "shop.toml")
    with shop.runs(shop.learner, *shop.scorers):
        shop.tell(150, *EVERY)
        shop.settle()
    for count in (4, 2):
        handed = shop.hand_over(20)
        with pytest.raises(Unmovable, match="deeds nothing has: let the learner run"):
            shop.move(count)
        with shop.runs(shop.learner):
            learner = shop.engine(shop.learner)
            wait_until(lambda own=learner, n=handed: own.counts["deeds.taken"] == n, "all deeds")
            found = plan(shop.path, {}, count)
            assert sum(way.rows for way in found.ways) > 150
            assert sorted(p for way in found.ways for p in way.partitions) == [*EVERY]
            shop.move(count)
        with shop.runs(shop.learner, *shop.scorers):
            shop.settle()
            before, again = shop.totals(), [r for r in shop.told if r["event"] == "interaction"]
            shop.send(again[:40])
            took = takes([a for a in shop.traffic.answers if a["items"]][-20:])
            shop.send(took)
            shop.told += took
            shop.tell(40, *EVERY)
            shop.settle()
            after = shop.totals()
            assert after["dead.duplicate_event"] == before["dead.duplicate_event"] + 40
            assert after["hits"] > before["hits"] + 20
            assert shop.answered() == sorted(shop.asked())
            assert len(shop.known()) == 1
            assert not after["dead.foreign"]
