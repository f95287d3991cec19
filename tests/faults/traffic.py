"""Seeded input of every kind: good and bad events, labels early, late, repeated and unknown.

The faults commands append it while they break things; ``check.py`` asks :func:`Traffic.kind` what
each record that stands in a topic is. Every record's bytes are its own, so that a record which was
appended twice (a broker died before it answered) is told from one that was read twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from stream.contract.records import NewRecord
from tests.support.factory import DAY_MS, START_MS, event, label, truth

HORIZON = "4d"
HORIZON_EVENTS = 4 * 24 * 60
"""One event a minute."""
RECORD_BYTES = 8_000
"""``limits.record_bytes`` of the configuration: what is longer is a dead letter."""


class Kind(NamedTuple):
    """What a record is: ``event``, ``feedback``, ``label``, ``correction``, ``command``, ``bad``.

    ``y`` is a label's.

    ``feedback`` is learned or noted, where an ``event`` is scored or answered.

    ``late`` marks a label whose event's horizon may have passed when it is read.
    """

    what: str
    id: str = ""
    y: int = -1
    late: bool = False


class Piece(NamedTuple):
    """Records to append to one topic in one go."""

    topic: str
    records: list[NewRecord]


def told(i: int, y: bool) -> dict[str, Any]:
    """A label, whose truth is a number too, and a class: whatever the target, it can be read."""
    team = f"team {min(i // 50, 5)}" if i % 3 == 0 else str(bool(y)).lower()
    return label(i, y) | {"minutes": 10 * y + i % 7, "team": team}


class Traffic:
    """Endless input from one seed.

    Parameters
    ----------
    seed : int
        Same seed, same records in the same order.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"traffic {seed}")
        self._kinds: dict[bytes, Kind] = {}
        self._next = 0
        self._serial = 0
        self._due: list[tuple[int, int]] = []
        self.retracted: set[str] = set()
        """Events whose labels were, as a command asked."""
        self.events = 0

    def kind(self, value: bytes | None) -> Kind:
        """What the record with these bytes is."""
        return Kind("bad") if value is None else self._kinds[value]

    def pieces(self, events: int, size: int = 4) -> Iterator[Piece]:
        """Pieces with ``events`` more good events, ``size`` to a piece, and what goes with them."""
        left = events
        while left > 0:
            yield from self.piece(min(size, left))
            left -= size

    def piece(self, events: int) -> Iterator[Piece]:
        """``events`` good events and their company; the labels that are due by now; a command."""
        rows: list[NewRecord] = []
        labels: list[NewRecord] = []
        for _ in range(events):
            i = self._next
            self._next += 1
            rows.append(self._record(f"e{i}", event(i), Kind("event", f"e{i}")))
            rows += self._bad_company(i)
            labels += self._labels_of(i)
        labels += self._due_labels()
        self._rng.shuffle(rows)
        yield Piece("events", rows)
        if labels:
            yield Piece("labels", labels)
        if self._rng.random() < 0.03:
            yield Piece("control", [self._command()])

    def checkpoint(self) -> Piece:
        """The command to save the state."""
        return Piece("control", [self._operator({"command": "checkpoint"}, "command")])

    def flush(self) -> Iterator[Piece]:
        """Events far beyond the horizon: whatever still waits for its other half leaves."""
        for _ in range(2):
            self._next += 2 * HORIZON_EVENTS
            i = self._next
            self._next += 1
            yield Piece("events", [self._record(f"e{i}", event(i), Kind("event", f"e{i}"))])

    def _record(self, key: str, value: Any, kind: Kind) -> NewRecord:
        self._serial += 1
        if isinstance(value, dict):
            value = json.dumps(value | {"serial": self._serial}, separators=(",", ":")).encode()
        self._kinds[value] = kind
        return NewRecord(key.encode(), value)

    def _bad_company(self, i: int) -> list[NewRecord]:
        """Now and then: garbage, null, a wrong type, a long one, a future one, a repeated id."""
        key, bad, r = f"e{i}", Kind("bad"), self._rng.random()
        if r < 0.01:
            return [self._record(key, b"{garbage %d" % i, bad)]
        if r < 0.013:
            return [NewRecord(key.encode(), None)]
        if r < 0.02:
            return [self._record(key, event(i, amount="much") | {"id": f"w{i}"}, bad)]
        if r < 0.025:
            return [self._record(key, event(i) | {"id": f"l{i}", "note": "x" * RECORD_BYTES}, bad)]
        if r < 0.03:
            ahead = event(i, at_ms=START_MS + 40_000 * DAY_MS) | {"id": f"a{i}"}
            return [self._record(key, ahead, bad)]
        if r < 0.05 and i > 0:
            j = self._rng.randrange(max(0, i - 200), i)
            return [self._record(f"e{j}", event(j), Kind("event", f"e{j}"))]
        return []

    def _labels_of(self, i: int) -> list[NewRecord]:
        """Labels that come at once, some before their event; schedules the others."""
        now: list[NewRecord] = []
        r = self._rng.random()
        if r < 0.05:
            ahead = i + self._rng.randrange(1, 30)
            now.append(self._label(ahead))
        elif r < 0.85:
            self._due.append((i + self._rng.randrange(5, 120), i))
        elif r < 0.86:
            self._due.append((i + HORIZON_EVENTS + 600, i))
        if self._rng.random() < 0.02:
            j = self._rng.randrange(0, i + 1)
            y = self._rng.random() < 0.5
            now.append(self._label(j, y, late=i - j > HORIZON_EVENTS // 2))
        if self._rng.random() < 0.02:
            j, y = self._rng.randrange(0, i + 1), self._rng.random() < 0.5
            value = told(j, y) | {"corrects": True}
            now.append(self._record(f"e{j}", value, Kind("correction", f"e{j}", int(y))))
        if self._rng.random() < 0.02:
            now.append(self._odd_label(i))
        return now

    def _odd_label(self, i: int) -> NewRecord:
        bad = Kind("bad")
        choice = self._rng.randrange(4)
        if choice == 0:
            value = told(i, truth(i)) | {"id": f"unknown{i}"}
            return self._record(f"u{i}", value, Kind("label", f"unknown{i}", int(truth(i))))
        if choice == 1:
            return self._record(f"e{i}", label(i) | {"fraud": "perhaps", "minutes": "soon"}, bad)
        if choice == 2:
            return self._record(f"e{i}", b"[%d" % i, bad)
        return NewRecord(f"e{i}".encode(), None)

    def _due_labels(self) -> list[NewRecord]:
        due = [i for at, i in self._due if at <= self._next]
        self._due = [(at, i) for at, i in self._due if at > self._next]
        return [self._label(i, late=self._next - i > HORIZON_EVENTS // 2) for i in due]

    def _label(self, i: int, y: bool | None = None, late: bool = False) -> NewRecord:
        y = truth(i) if y is None else y
        return self._record(f"e{i}", told(i, y), Kind("label", f"e{i}", int(y), late))

    def _command(self) -> NewRecord:
        return self._operator(*self._rng.choice(self._commands()))

    def _commands(self) -> list[tuple[Any, str]]:
        return [
            ({"command": "freeze", "member": "linear"}, "command"),
            ({"command": "release", "member": "linear"}, "command"),
            ({"command": "release", "member": "bayes"}, "command"),
            ({"command": "set_threshold", "threshold": 0.4}, "command"),
            ({"command": "checkpoint"}, "command"),
            ({"command": "rollback", "to": "last_good", "member": "linear"}, "either"),
            ({"command": "rollback", "to": str(self._rng.randrange(40))}, "either"),
            ({"command": "freeze", "member": "nobody"}, "bad"),
            ({"command": "explode"}, "bad"),
        ]

    def configure(self, base: str, tree: dict[str, Any]) -> NewRecord:
        """A command that asks for another configuration, whatever it loses; it may be refused."""
        command = {"command": "configure", "base": base, "settings": json.dumps(tree)}
        return self._operator(command | {"accept": True}, "either")

    def _operator(self, command: dict[str, Any], what: str) -> NewRecord:
        return self._record("operator", command | {"actor": f"a{self._serial}"}, Kind(what))


USERS, ITEMS = 12, 40
"""Of a shard that ranks."""


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
        if self._rng.random() < 0.5:
            fields["value"] = self._rng.randrange(1, 6)
        return self._told("interaction", key, Kind("feedback", key), id=key, **fields)

    def _request(self, i: int) -> NewRecord:
        asked: dict[str, Any] = {"id": f"e{i}", "user": self._user()}
        if self._rng.random() < 0.5:
            items = [{"id": self._item()} for _ in range(5)]
            return self._told("rank", f"e{i}", Kind("event", f"e{i}"), items=items, **asked)
        if self._rng.random() < 0.5:
            asked |= {"items": [{"id": self._item()}], "seen": "decay"}
        return self._told("recommend", f"e{i}", Kind("event", f"e{i}"), count=5, **asked)

    def _company(self, i: int) -> list[NewRecord]:
        key, bad, r = f"e{i}", Kind("bad"), self._rng.random()
        told = Kind("feedback", f"told {self._serial}")
        if r < 0.05:
            fields = {"hidden": self._rng.random() < 0.5, "categories": ["a"], "size": r}
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
            ({"command": "freeze", "member": "ratings"}, "command"),
            ({"command": "release", "member": "ratings"}, "command"),
            ({"command": "checkpoint"}, "command"),
            ({"command": "rollback", "to": "last_good"}, "either"),
            ({"command": "set_threshold", "threshold": 0.4}, "bad"),
            ({"command": "freeze", "member": "linear"}, "command"),
            ({"command": "freeze", "member": "nobody"}, "bad"),
        ]
