"""A backend in memory with the real one's behaviour, and a client of a real server, for tests.

The fake engine takes appended events in order, refuses a repeated id if told to, and publishes
scores and dead letters exactly as the service's loop does: from a thread of its own, after the
append.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import httpx
import msgspec

from stream.contract.letters import DeadLetter
from stream.contract.records import NewRecord, Record
from stream.contract.routing import places
from stream.decode.codec import Codec
from stream.http.problem import KINDS
from stream.http.score import ScoreWaiters
from stream.http.server import Server
from stream.settings.load import parse
from stream.settings.schema import Config
from stream.step.engine import GENESIS
from stream.step.scores import PLACE
from tests.support.waiting import DEADLINE_S, PATIENT

RAW: dict[str, Any] = {
    "name": "test",
    "log": {"type": "embedded"},
    "event": {
        "id": "payment_id",
        "time": "time",
        "time_format": "ms",
        "fields": {
            "amount": "number",
            "customer": "entity",
            "terminal": "entity",
            "category": {"kind": "category", "required": False},
            "online": "boolean",
        },
    },
    "label": {"field": "fraud", "time": "reported_at"},
    "features": [{"name": "amount", "type": "number", "field": "amount"}],
    "members": [{"name": "flat", "type": "constant"}, {"name": "other", "type": "constant"}],
    "http": {"port": 0, "score_timeout": PATIENT},
}


REASONS: dict[str, Any] = {"link": 0.0, "base": 0.0, "rest": 0.0, "top": []}


def config(**http: Any) -> Config:
    """A small configuration with these HTTP settings."""
    return parse(RAW | {"http": RAW["http"] | http}, "test")


def score_of(event_id: str) -> dict[str, Any]:
    """The score record of every event."""
    said = {"score": 0.5, "alert": True, "members": {"flat": 0.5, "other": 0.5}}
    place = {"partition": 0, "offset": 0, "scored_at": 2, "model": "test", "seq": 1}
    return {"id": event_id, "event_time": 1, **said, **place}


def event(event_id: str | int = "p1", **fields: Any) -> dict[str, Any]:
    """An event that fits the configuration."""
    base = {"time": 1_700_000_000_000, "amount": 12.5, "customer": "c1", "terminal": "t1"}
    return {"payment_id": event_id, **base, "online": True, **fields}


class FakeBackend:
    """Topics as lists, and an engine that scores in a thread of its own."""

    read_only = ""

    def __init__(self, config: Config, waiters: ScoreWaiters, partitions: int = 2) -> None:
        self._partitions = partitions
        self.open = threading.Event()
        self.snapshots = 0
        self.reset()
        self._waiters = waiters
        self._codec = Codec(config)
        self._lock = threading.Lock()
        self._queue: SimpleQueue[list[Record] | None] = SimpleQueue()
        self._engine = threading.Thread(target=self._run, daemon=True)
        self._engine.start()

    def reset(self) -> None:
        """Forget every record and every order to fail, for the next test."""
        self.topics: dict[str, list[list[NewRecord]]] = defaultdict(
            lambda: [[] for _ in range(self._partitions)]
        )
        self.appends: list[tuple[str, int]] = []
        self.calls = 0
        self.failure: Exception | None = None
        self.headers: tuple[tuple[str, bytes], ...] = ()
        self.open.set()
        self.scoring = True
        self.refuse_repeats = False
        self.health = (True, "moving")
        self.readiness = (True, "restored")
        self.seen: set[str] = set()

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Append when the gate is open; events go on to the engine."""
        self.calls += 1
        self.open.wait(DEADLINE_S)
        if self.failure is not None:
            raise self.failure
        positions = []
        taken = []
        with self._lock:
            self.appends.append((topic, len(records)))
            for record, p in zip(records, places(topic, records, self._partitions), strict=True):
                offset = len(self.topics[topic][p])
                self.topics[topic][p].append(record)
                positions.append((p, offset))
                taken.append(Record(topic, p, offset, record.key, record.value))
        if topic == "events" and self.scoring:
            self._queue.put(taken)
        return positions

    def values(self, topic: str) -> list[bytes]:
        """Every value of a topic."""
        return [r.value or b"" for p in self.topics[topic] for r in p]

    def _run(self) -> None:
        while (records := self._queue.get()) is not None:
            self.step(records)

    def step(self, records: Sequence[Record]) -> None:
        """Score the records and publish, as the loop does after its commit."""
        events, bad = self._codec.events(records)
        ids, payloads = [], []
        for record, event_id in zip(events.records, events.ids, strict=True):
            if self.refuse_repeats and event_id in self.seen:
                bad.append(DeadLetter(record, "duplicate_event", "expected a new id, got it again"))
                continue
            self.seen.add(event_id)
            ids.append(event_id)
            payloads.append(msgspec.json.encode(score_of(event_id)))
        self._waiters.publish(ids, payloads, bad)

    def close(self) -> None:
        """End the engine's thread."""
        self._queue.put(None)
        self._engine.join(DEADLINE_S)

    def alive(self) -> tuple[bool, str]:
        """As told."""
        return self.health

    def ready(self) -> tuple[bool, str]:
        """As told."""
        return self.readiness

    newest_ms = 0

    def telling(self) -> tuple[bool, str]:
        """Always."""
        return True, ""

    def metrics(self) -> bytes:
        """One metric."""
        return b"# TYPE millrace_up gauge\nmillrace_up 1\n"

    def models(self) -> dict[str, Any]:
        """Two members."""
        return {"members": [{"name": "flat"}, {"name": "other"}]}

    def parameters(self) -> dict[str, Any]:
        """One table."""
        return {"flat": [{"path": "logit", "count": 1}]}

    def tail(self, topic: str, limit: int) -> list[Record]:
        """The newest records."""
        if self.failure is not None:
            raise self.failure
        values = self.values(topic)[-limit:]
        return [Record(topic, 0, i, None, v, 0, self.headers) for i, v in enumerate(values)]

    def snapshot(self) -> dict[str, Any]:
        """How often it was asked."""
        self.snapshots += 1
        return {"snapshots": self.snapshots}

    def score(self, event_id: str) -> bytes | None:
        """A score of every event seen."""
        known = event_id in self.seen
        return msgspec.json.encode(score_of(event_id)) if known else None

    def what_if(
        self, records: Sequence[NewRecord], timeout_s: float
    ) -> list[dict[str, Any] | DeadLetter]:
        """As they would be scored, if told to score."""
        if not self.scoring:
            raise TimeoutError
        asked = [Record("events", 0, 0, record.key, record.value) for record in records]
        events, bad = self._codec.events(asked)
        if self.refuse_repeats and self.seen.intersection(events.ids):
            bad.append(DeadLetter(asked[0], "duplicate_event", "expected a new id"))
        said = [score_of(event_id).items() for event_id in events.ids]
        return bad or [
            {k: v for k, v in score if k not in PLACE} | {"digest": GENESIS} for score in said
        ]

    def why(self, event_id: str, timeout_s: float) -> dict[str, Any] | None:
        """Of every event seen."""
        known = event_id in self.seen
        return {"id": event_id, "score": 0.5, "reasons": REASONS} if known else None

    def history(self) -> dict[str, Any]:
        """No points."""
        return {"points": []}


class Running:
    """A real server over a fake backend, and a client of it."""

    def __init__(self, config: Config) -> None:
        self.waiters = ScoreWaiters(config.http.max_waiting)
        self.backend = FakeBackend(config, self.waiters)
        self.observed: list[tuple[str, str, int, float]] = []
        self.server = Server(config, self.backend, self.waiters, self.observe)
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"
        self.http = httpx.Client(base_url=self.url, timeout=DEADLINE_S, trust_env=False)

    def observe(self, route: str, method: str, code: int, seconds: float) -> None:
        """Keep it."""
        self.observed.append((route, method, code, seconds))


@contextmanager
def running(config: Config) -> Iterator[Running]:
    """A server for one block; it must stop by itself."""
    it = Running(config)
    try:
        yield it
    finally:
        it.backend.open.set()
        it.http.close()
        stopped = it.server.stop(DEADLINE_S)
        it.backend.close()
    if not stopped:
        raise RuntimeError(f"the server did not stop within {DEADLINE_S:g} s")


def problem(response: httpx.Response, kind: str) -> dict[str, Any]:
    """The response's body, which must be a problem of this kind."""
    body: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:millrace:{kind}", body
    assert (body["status"], body["title"]) == KINDS[kind]
    assert response.status_code == body["status"]
    assert (response.status_code == 503) == ("retry-after" in response.headers)
    return body


def take(lines: Iterator[str], count: int, prefix: str) -> list[str]:
    found: list[str] = []
    for line in lines:
        if line.startswith(prefix):
            found.append(line)
            if len(found) == count:
                break
    return found
