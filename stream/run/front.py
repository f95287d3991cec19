"""What a service shows and takes in over HTTP: readings for scrapes, appends, waiting scores.

A replica shows the same by the same :class:`Front`, and takes nothing in.

The loop thread publishes an immutable snapshot of the engine here at most every half second; every
other thread reads that and never touches the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

from msgspec import structs

from monitoring.show.metrics import MillraceCollector, exposition, registry
from monitoring.show.readings import Readings, Telemetry
from stream.contract.letters import DeadLetter
from stream.contract.log import Log
from stream.contract.outputs import Outputs
from stream.contract.records import NewRecord, Record
from stream.contract.routing import partitions_for
from stream.http.live.page import POINT_S, PageView, finite, standing
from stream.http.problem import Problem
from stream.http.score import ScoreWaiters
from stream.http.server import Server
from stream.run.checkpointer import Written
from stream.run.health import Health
from stream.run.readings import parameter_counts, readings
from stream.run.service import Listener
from stream.run.threads import NoTurn, Threads
from stream.settings.ranking import RECOMMENDER
from stream.settings.schema import Config
from stream.state.follow import Follower
from stream.state.platform import fingerprint
from stream.step.engine import Engine
from stream.step.scoring import ScoringEngine, scoring

T = TypeVar("T")
PUBLISH_S = 0.5
PARAMETERS_S = 10.0


class Host(Protocol):
    """Who keeps an engine: a service, or a replica of one. See :class:`Service`."""

    config: Config
    health: Health
    threads: Threads
    listeners: list[Listener]
    recovered: Follower | None
    lag: dict[tuple[str, int], int]
    log: Log

    def ask(self, question: Callable[[Engine], T], timeout_s: float) -> T:
        """What the engine says between two steps."""

    def on_record(self, seq: int, timeout_s: float) -> bool:
        """Whether the journal holds a step by then."""

    def tell(self, telemetry: Telemetry) -> None:
        """Numbers of its own."""


class Front(Listener):
    """The HTTP side of one service.

    Parameters
    ----------
    service : Host
        Not running yet.
    """

    read_only = ""

    def __init__(self, service: Host) -> None:
        self._service = service
        config = service.config
        self.telemetry = Telemetry({"version": version("millrace")} | fingerprint())
        self.waiters = ScoreWaiters(config.http.max_waiting)
        self._kinds = _kinds(config)
        first: tuple[str, ...] = ()
        rated: tuple[str, ...] = ()
        if config.reco is not None:
            first = config.reco.members.names
            rated = config.reco.ratings.scorers if config.reco.ratings else ()
        self._recommends = frozenset(first)
        self._latest = Readings(
            *(config.name, first or tuple(self._kinds), config.target.type),
            rated=rated,
            learners=config.reco.learners if config.reco is not None else config.learners,
        )
        self._parameters: dict[str, Any] = {}
        self._counts: dict[tuple[str, str, bool], int] = {}
        self._published_s = self._counted_s = float("-inf")
        self._page = PageView(ranks=config.reco is not None)
        self._stop = threading.Event()
        self._points: threading.Thread | None = None
        self._registry = registry(MillraceCollector(self._read, self.telemetry))
        self._lock = threading.Lock()
        service.listeners.append(self)
        self.server: Server | None = None

    def start(self) -> None:
        """Listen, if the configuration says so."""
        if self._service.config.http.enabled:
            threads = self._service.threads
            self.server = Server(
                self._service.config,
                self,
                self.waiters,
                self.telemetry.observe_http,
                lambda error: threads.failed("http", error),
            )
            self.server.start()
            self._points = threads.start("live", self._add_points)

    def stop(self) -> None:
        """Stop listening, within two seconds."""
        if self.server is not None:
            self.server.stop(2.0)
            self._stop.set()
        if self._points is not None:
            self._points.join()

    # ------------------------------------------------------------------ from the service's threads

    def awaited(self) -> bool:
        """See :class:`Listener`."""
        return self.waiters.waiting > 0

    def stepped(self, engine: Engine, outputs: Outputs, seconds: float) -> None:
        """See :class:`Listener`."""
        self.telemetry.stages["step"].observe(seconds)
        self._publish(engine)

    def idle(self, engine: Engine) -> None:
        """See :class:`Listener`."""
        self._publish(engine)

    def checkpointed(self, written: Written) -> None:
        """See :class:`Listener`."""
        self.telemetry.stages["checkpoint"].observe(written.snapshot_s)
        self.telemetry.checkpointed(written.at_ms, written.write_s, written.bytes)

    def committed(self, outputs: Outputs, seconds: float) -> None:
        """See :class:`Listener`."""
        if self.waiters.waiting:
            self.waiters.publish(
                outputs.ids(),
                [r.value or b"" for r in outputs.scores],
                outputs.dead_letters,
            )
        self.telemetry.stages["commit"].observe(seconds)
        self._page.committed(outputs)

    def reconfigured(self, config: Config) -> None:
        """See :class:`Listener`: what is told next is of the new members, what is taken too."""
        self._kinds = _kinds(config)
        self._published_s = self._counted_s = float("-inf")
        if self.server is not None:
            self.server.follow(config)

    def _publish(self, engine: Engine) -> None:
        """Copy what scrapes need out of the engine (loop thread), not more often than needed."""
        now = time.monotonic()
        if now - self._published_s < PUBLISH_S:
            return
        if now - self._counted_s >= PARAMETERS_S:
            self._counted_s = now
            self._counts = parameter_counts(engine)
            self._parameters = parameter_tables(engine)
        self._latest = readings(engine, self._counts)
        if not self._page.began:
            self._note_start()
        self._published_s = now
        self._page.published(self._latest, self.telemetry.stages["step"])

    def _note_start(self) -> None:
        """Count the start by how the session before ended: unclean when steps were replayed."""
        recovered, telemetry = self._service.recovered, self.telemetry
        if recovered is None:
            return
        if recovered.loaded is not None and not telemetry.checkpoint_success_ms:
            # Until this process has written one.
            telemetry.checkpoint_success_ms = recovered.loaded.written_ms
            telemetry.checkpoint_size_bytes = recovered.loaded.total_bytes
        if recovered.from_seq or recovered.replayed_steps:
            telemetry.restarts["unclean" if recovered.replayed_steps else "clean"] += 1

    def _add_points(self) -> None:
        while not self._stop.wait(POINT_S):
            if self._service.health.state == "running":
                self._page.add_point(self._latest)

    # ------------------------------------------------------------------ for the HTTP server

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """See :class:`stream.http.api.Backend`."""
        config = self._service.config
        if topic == config.topics.events and config.answers_anyone:
            records = _own(config, records)
        elif topic != config.topics.control:
            self._whole()
        return self._service.log.append(topic, records)

    def _whole(self) -> None:
        """Refuse what only a process can do that knows all events."""
        config = self._service.config
        role = config.shard.role
        if role != "all" and config.reco is not None:
            raise Problem(
                "not-found",
                f"expected a scorer of {config.service}, any of which takes records and answers,"
                f" got its {role}: ask {', '.join(config.processes[:-1])}",
            )
        if role != "all":
            raise Problem(
                "not-found",
                f"expected a service of one process, got a {role}: append events and labels"
                " to their topics, each to the partition of its entity",
            )

    def what_if(
        self, records: Sequence[NewRecord], timeout_s: float
    ) -> list[dict[str, Any] | DeadLetter]:
        """See :class:`stream.http.api.Backend`: under a step that is in the journal."""
        self._whole()
        topic, now_ms = self._service.config.topics.events, time.time_ns() // 1_000_000
        events = [Record(topic, 0, 0, r.key, r.value, now_ms, r.headers) for r in records]

        return self._ask(
            lambda engine: [engine.what_if(event, now_ms) for event in events], timeout_s
        )

    def why(self, event_id: str, timeout_s: float) -> dict[str, Any] | None:
        """See :class:`stream.http.api.Backend`."""
        return self._ask(lambda engine: engine.why(event_id), timeout_s)

    def _ask(self, question: Callable[[ScoringEngine], T], timeout_s: float) -> T:
        """What the engine says between two steps, the newest of which is in the journal."""
        service, until_s = self._service, time.monotonic() + timeout_s
        try:
            seq, answer = service.ask(lambda e: (e.seq, question(scoring(e))), timeout_s)
        except NoTurn as error:
            raise Problem("stopping", "nothing has changed; ask again later") from error
        if not service.on_record(seq, until_s - time.monotonic()):
            raise TimeoutError
        return answer

    def alive(self) -> tuple[bool, str]:
        """See :class:`stream.http.api.Backend`."""
        return self._service.health.alive()

    def ready(self) -> tuple[bool, str]:
        """See :class:`stream.http.api.Backend`: who waits for all that is known answers."""
        ready, detail = self._service.health.ready()
        shared = self._latest.shared
        if shared is not None and shared.missed:
            detail += "; versions of the learner are missing: waits for all that is known"
        return ready, detail

    @property
    def newest_ms(self) -> int:
        """See :class:`stream.http.api.Backend`."""
        return self._latest.watermark_ms

    def telling(self) -> tuple[bool, str]:
        """See :class:`stream.http.api.Backend`."""
        return True, ""

    def _read(self) -> Readings:
        """The newest readings, with the process's own numbers brought up to date."""
        service, telemetry = self._service, self.telemetry
        telemetry.heartbeat_ms = int((time.time() - service.health.silent_s()) * 1000)
        if service.recovered is not None:
            telemetry.divergences = service.recovered.divergences
        telemetry.lag = dict(service.lag)
        service.tell(telemetry)
        return self._latest

    def metrics(self) -> bytes:
        """See :class:`stream.http.api.Backend`."""
        with self._lock:
            return exposition(self._registry)

    def models(self) -> dict[str, Any]:
        """Members with type, weight and state; those of a recommender learn as one."""
        latest, config = self._latest, self._service.config
        return {
            "model": latest.model,
            "threshold": finite(latest.threshold),
            "combine": config.ensemble.combine if config.reco is None else "stack",
            "guard": [standing(g) for g in latest.guard],
            "challengers": _challengers(latest, "ensemble"),
            "members": [self._member(name, type) for name, type in self._kinds.items()],
        }

    def _member(self, name: str, type: str) -> dict[str, Any]:
        latest, learner = self._latest, name
        if name in self._recommends:
            learner = RECOMMENDER
        elif latest.beside is not None:
            latest = latest.beside
        return {
            "name": name,
            "type": latest.kinds.get(name, type),
            "weight": finite(latest.weights.get(name, float("nan"))),
            "up": learner not in latest.down,
            "frozen": learner in latest.frozen,
            "stale": learner in latest.stale,
            "updates": latest.updates.get(learner, 0),
            "errors": sum(n for (of, _), n in latest.member_errors.items() if of == learner),
            "challengers": _challengers(latest, name),
        }

    def parameters(self) -> dict[str, Any]:
        """Parameter tables by member, as of the last ten seconds."""
        return {"members": self._parameters}

    def tail(self, topic: str, limit: int) -> list[Record]:
        """See :class:`stream.http.api.Backend`."""
        return self._service.log.tail(topic, limit)

    def snapshot(self) -> dict[str, Any]:
        """What the live page shows: the engine's numbers and the process's."""
        service = self._service
        ready, detail = self.ready()
        lag: dict[str, int] = {}
        for (topic, _), records in service.lag.copy().items():
            lag[topic] = lag.get(topic, 0) + records
        return {
            "state": service.health.state,
            "ready": ready,
            "detail": detail,
            "amiss": service.health.amiss,
            "version": self.telemetry.versions["version"],
            "lag": lag,
            "checkpoint_ms": self.telemetry.checkpoint_success_ms,
            "classes": list(service.config.task().grouped(service.config.label.field)),
            "learners": list(service.config.learners),
            "shared": self._shared(),
            **{k: v for k, v in self.models().items() if k in ("combine", "members")},
            **self._page.snapshot(self._latest),
        }

    def _shared(self) -> dict[str, Any] | None:
        """Of one process of many its version, and of the learner what it knows of the scorers."""
        shared, service = self._latest.shared, self._service
        if shared is None:
            return None
        told = asdict(shared) | {"age_s": finite(shared.age_s)}
        topic = service.config.examples_topic
        for index, scorer in enumerate(told["scorers"]):
            scorer["waiting"] = service.lag.get((topic, index))
        return told

    def history(self) -> dict[str, Any]:
        """What the live page gets once: the last ten minutes."""
        return self._page.history()

    def score(self, event_id: str) -> bytes | None:
        """See :class:`stream.http.api.Backend`."""
        return self._page.scores.find(event_id)


def _own(config: Config, records: Sequence[NewRecord]) -> list[NewRecord]:
    """The records, by their keys in partitions of events that this process reads itself."""
    topic = config.topics.events
    own = [p for p in range(config.topics.partitions) if config.reads(topic, p)]
    at = partitions_for([record.key for record in records], len(own))
    return [structs.replace(r, partition=own[i]) for r, i in zip(records, at, strict=True)]


def _challengers(latest: Readings, place: str) -> list[dict[str, Any]]:
    """How the challenges of a member, or of all, stand."""
    return [standing(c) for c in latest.challengers if c.member == place]


def _kinds(config: Config) -> dict[str, str]:
    """The type of each member; those of a recommender are what they are called."""
    first = () if config.reco is None else config.reco.members.names
    return {name: name for name in first} | {m.name: m.type for m in config.members}


def parameter_tables(engine: Engine) -> dict[str, Any]:
    """Each member's parameter rows as plain data."""
    return {
        name: [asdict(row) for row in rows] for name, rows in engine.ensemble.parameters().items()
    }
