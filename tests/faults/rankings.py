"""Seeded input of a shard that ranks: interactions, requests, items, deletions, and bad company."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stream.contract.records import NewRecord
from tests.faults.traffic import HORIZON_EVENTS, Kind, Piece, Traffic
from tests.support.factory import DAY_MS, START_MS

USERS, ITEMS = 12, 40


class RankingTraffic(Traffic):
    """As :class:`Traffic`; every record of the topic of events is a record of feedback."""

    def piece(self, events: int) -> Iterator[Piece]:
        """``events`` requests, what users do between them, and a command now and then."""
        rows: list[NewRecord] = []
        for _ in range(events):
            i = self._next
            self._next += 1
            rows += [self._interaction() for _ in range(3)]
            rows.append(self._request(i))
            rows += self._company(i)
        yield Piece("events", rows)
        if self._rng.random() < 0.03:
            yield Piece("control", [self._command()])

    def flush(self) -> Iterator[Piece]:
        """A request far beyond the horizon: whatever is held of lists leaves."""
        for _ in range(2):
            self._next += 2 * HORIZON_EVENTS
            yield Piece("events", [self._request(self._next)])
            self._next += 1

    def _told(self, event: str, key: str, kind: Kind, **fields: Any) -> NewRecord:
        at_ms = START_MS + self._next * 60_000
        return self._record(key, {"event": event, "timestamp": at_ms} | fields, kind)

    def _user(self) -> str:
        return f"u{self._rng.randrange(USERS)}"

    def _item(self) -> str:
        return f"i{int(ITEMS * self._rng.random() ** 2)}"

    def _interaction(self) -> NewRecord:
        key = f"x{self._serial}"
        fields: dict[str, Any] = {"user": self._user(), "item": self._item()}
        if self._next > 1 and self._rng.random() < 0.5:
            fields["ranking"] = f"e{self._rng.randrange(self._next)}"
        return self._told("interaction", key, Kind("feedback", key), id=key, **fields)

    def _request(self, i: int) -> NewRecord:
        asked: dict[str, Any] = {"id": f"e{i}", "user": self._user()}
        if self._rng.random() < 0.5:
            items = [{"id": self._item()} for _ in range(5)]
            return self._told("rank", f"e{i}", Kind("event", f"e{i}"), items=items, **asked)
        return self._told("recommend", f"e{i}", Kind("event", f"e{i}"), count=5, **asked)

    def _company(self, i: int) -> list[NewRecord]:
        key, bad, r = f"e{i}", Kind("bad"), self._rng.random()
        told = Kind("feedback", f"told {self._serial}")
        if r < 0.05:
            fields = {"hidden": self._rng.random() < 0.5, "categories": ["a"]}
            return [self._told("item", key, told, item=self._item(), fields=fields)]
        if r < 0.07:
            return [self._told("delete", key, told, user=self._user())]
        if r < 0.09:
            return [self._told("delete", key, told, item=self._item())]
        if r < 0.11:
            shown = [{"id": self._item(), "propensity": 0.5} for _ in range(3)]
            return [self._told("ranking", key, told, id=f"shown {i}", items=shown)]
        if r < 0.13:
            return [self._told("interaction", key, bad, item="")]
        if r < 0.15:
            ahead = {"event": "delete", "timestamp": START_MS + 40_000 * DAY_MS, "user": "u1"}
            return [self._record(key, ahead, bad)]
        if r < 0.18 and i > 0:
            return [self._request(self._rng.randrange(max(0, i - 100), i))]
        return []

    def _commands(self) -> list[tuple[Any, str]]:
        return [
            ({"command": "freeze", "member": "recommender"}, "command"),
            ({"command": "release", "member": "recommender"}, "command"),
            ({"command": "release", "member": "recommender"}, "command"),
            ({"command": "checkpoint"}, "command"),
            ({"command": "set_threshold", "threshold": 0.4}, "bad"),
            ({"command": "freeze", "member": "linear"}, "bad"),
        ]
