"""A service that ranks, of scorers and a learner without a log, and what its users do."""

from __future__ import annotations

import random
from typing import Any

from stream.step.ranking.known import digest_of
from tests.stream.step.roles.scaled import Scaled, partition
from tests.support.factory import START_MS
from tests.support.log_harness import kafka_table

USERS, ITEMS = 12, 30


def raw(count: int = 1, **changes: Any) -> dict[str, Any]:
    """The file of a service that ranks by so many scorers, without a role."""
    tree: dict[str, Any] = {
        "name": "shop",
        "log": kafka_table("127.0.0.1:9"),
        "target": {"type": "ranking"},
        "label": {"horizon": "1d"},
        "shard": {"count": count},
        "topics": {"partitions": 2 * count},
        "reco": {"positive": {"view": 1, "buy": 3}, "also_seen": ["dislike"]},
    }
    return tree | changes


class Traffic:
    """Records of a shop, seeded; lists that were answered can be taken of."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.answers: list[dict[str, Any]] = []
        self._n = 0

    def _told(self, event: str, **fields: Any) -> dict[str, Any]:
        self._n += 1
        at = START_MS + self._n * 20_000
        return {"event": event, "timestamp": at, "id": f"r{self._n}"} | fields

    def _item(self) -> str:
        return f"i{min(int(self.random.expovariate(0.15)), ITEMS - 1)}"

    def record(self) -> dict[str, Any]:
        """The next one."""
        r, user = self.random, f"u{self.random.randrange(USERS)}"
        draw = r.random()
        if draw < 0.5:
            kind = r.choice(["view", "view", "buy", "dislike", "look"])
            return self._told(
                "interaction", user=user, item=self._item(), type=kind, value=r.random()
            )
        if draw < 0.6 and self.answers:
            shown = r.choice(self.answers[-20:])
            if shown["items"]:
                item = r.choice(shown["items"])["id"]
                took = {"user": shown["user"], "item": item, "ranking": shown["id"], "type": "buy"}
                return self._told("interaction", **took)
        if draw < 0.7:
            fields = {"hidden": r.random() < 0.2, "categories": r.sample(["a", "b", "c"], 2)}
            fields |= {"price": r.random(), "brand": r.choice("xyz")}
            return self._told("item", item=self._item(), fields=fields)
        if draw < 0.72:
            return self._told("delete", item=self._item())
        if draw < 0.74:
            return self._told("delete", user=user)
        if draw < 0.87:
            items = [{"id": f"i{i}"} for i in r.sample(range(ITEMS), 8)]
            return self._told("rank", user=user, items=items)
        return self._told("recommend", user=user, count=6, categories=r.choice([[], ["a"]]))

    def records(self, n: int) -> list[dict[str, Any]]:
        """The next ones."""
        return [self.record() for _ in range(n)]


def home(record: dict[str, Any], partitions: int) -> int:
    """Where a record belongs by its user, else its item."""
    key = "user" if record.get("user") else "item"
    return partition(record, partitions, key)


class Shop(Scaled):
    """Scorers and a learner."""

    def known(self) -> list[str]:
        """What each process knows, the learner last."""
        return [digest_of(part.engine) for part in (*self.scorers, self.learner)]

    def settle(self) -> None:
        """Each takes what there is, until there is no more."""
        for i in range(len(self.scorers)):
            self.score(i)
        self.learn()
        for i in range(len(self.scorers)):
            self.score(i)
