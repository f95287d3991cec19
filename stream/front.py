"""What the service shows and takes in over HTTP: readings for scrapes, appends, waiting scores.

The loop thread publishes an immutable snapshot of the engine here at most every half second; every
other thread reads that and never touches the engine. ``daemon.py`` and ``demo.py`` put it together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from monitoring.metrics import MillraceCollector, exposition, registry
from monitoring.readings import Readings, Telemetry
from stream.engine import Engine
from stream.fingerprint import fingerprint
from stream.http.score import ScoreWaiters
from stream.http.server import Server
from stream.records import NewRecord, Outputs, Record
from stream.service import Service
from stream.watch import parameter_counts, readings

PUBLISH_S = 0.5
PARAMETERS_S = 10.0
LATEST = 50
"""Audit records and dead letters kept for the live page."""


class Front:
    """The HTTP side of one service.

    Parameters
    ----------
    service : Service
        Not running yet.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        config = service.config
        self.telemetry = Telemetry({"version": version("millrace")} | fingerprint())
        self.waiters = ScoreWaiters(config.http.max_waiting)
        self._latest = Readings(config.name, tuple(m.name for m in config.members))
        self._parameters: dict[str, Any] = {}
        self._counts: dict[tuple[str, str, bool], int] = {}
        self._published_s = self._counted_s = float("-inf")
        self._dead: deque[dict[str, Any]] = deque(maxlen=LATEST)
        self._audit: deque[bytes] = deque(maxlen=LATEST)
        self._rates: deque[tuple[float, int]] = deque(maxlen=20)
        self._registry = registry(MillraceCollector(self._read, self.telemetry))
        self._lock = threading.Lock()
        service.on_committed.append(self._committed)
        service.on_step.append(self._stepped)
        service.on_idle.append(self._publish)
        self.server: Server | None = None

    def start(self) -> None:
        """Listen, if the configuration says so."""
        if self._service.config.http.enabled:
            self.server = Server(
                self._service.config, self, self.waiters, self.telemetry.observe_http
            )
            self.server.start()

    def stop(self) -> None:
        """Stop listening, within two seconds."""
        if self.server is not None:
            self.server.stop(2.0)

    # ------------------------------------------------------------------ from the service's threads

    def _stepped(self, engine: Engine, outputs: Outputs, seconds: float) -> None:
        self.telemetry.stages["step"].observe(seconds)
        self._publish(engine)

    def _committed(self, outputs: Outputs) -> None:
        if self.waiters.waiting:
            self.waiters.publish(
                [(r.key or b"").decode() for r in outputs.scores],
                [r.value or b"" for r in outputs.scores],
                outputs.dead_letters,
            )
        self._audit.extend(r.value or b"" for r in outputs.audit)
        self._dead.extend(shown_dead_letter(r) for r in outputs.dead_letters[-LATEST:])

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
        self._published_s = now
        self._rates.append((now, self._latest.scored))

    # ------------------------------------------------------------------ for the HTTP server

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """See :class:`stream.api.Backend`."""
        return self._service.log.append(topic, records)

    def live(self) -> tuple[bool, str]:
        """See :class:`stream.api.Backend`."""
        return self._service.live()

    def ready(self) -> tuple[bool, str]:
        """See :class:`stream.api.Backend`."""
        return self._service.ready()

    def _read(self) -> Readings:
        """The newest readings, with the process's own numbers brought up to date."""
        service, telemetry = self._service, self.telemetry
        age_s = time.monotonic() - service.heartbeat_s
        telemetry.heartbeat_ms = int((time.time() - age_s) * 1000)
        checkpointer = service.checkpointer
        telemetry.checkpoint_failures = checkpointer.failures_total
        if service.recovered is not None:
            telemetry.divergences = service.recovered.divergences
        telemetry.lag = dict(service.lag)
        return self._latest

    def metrics(self) -> bytes:
        """See :class:`stream.api.Backend`."""
        with self._lock:
            return exposition(self._registry)

    def models(self) -> dict[str, Any]:
        """Members with type, weight and state."""
        latest = self._latest
        return {
            "model": latest.model,
            "threshold": _finite(latest.threshold),
            "combine": self._service.config.ensemble.combine,
            "members": [
                {
                    "name": m.name,
                    "type": m.type,
                    "weight": _finite(latest.weights.get(m.name, float("nan"))),
                    "up": m.name not in latest.down,
                    "frozen": m.name in latest.frozen,
                    "updates": latest.updates.get(m.name, 0),
                    "errors": latest.member_errors.get(m.name, 0),
                }
                for m in self._service.config.members
            ],
        }

    def parameters(self) -> dict[str, Any]:
        """Parameter tables by member, as of the last ten seconds."""
        return {"members": self._parameters}

    def tail(self, topic: str, limit: int) -> list[Record]:
        """See :class:`stream.api.Backend`."""
        return self._service.log.tail(topic, limit)

    def snapshot(self) -> dict[str, Any]:
        """What the live page shows."""
        latest = self._latest
        report = latest.arrival.report() if latest.arrival is not None else {}
        return {
            "state": self._service.state,
            "scored": latest.scored,
            "events_per_s": self.events_per_s(),
            "alerts": latest.alerts,
            "labels": dict(latest.labels),
            "dead_letters": {k: v for k, v in latest.dead_letters.items() if v},
            "pending": latest.pending,
            "watermark_ms": latest.watermark_ms,
            "weights": {k: _finite(v) for k, v in latest.weights.items()},
            "quality": {
                name: {k: _finite(v) for k, v in windows["sliding"].items()}
                for name, windows in report.items()
            },
            "audit": [msgspec.json.decode(raw) for raw in list(self._audit)[-10:]],
            "last_dead_letters": list(self._dead)[-10:],
        }

    def events_per_s(self) -> float:
        """Events scored a second, over the last ten seconds."""
        rates = list(self._rates)
        if len(rates) < 2 or rates[-1][0] <= rates[0][0]:
            return 0.0
        return (rates[-1][1] - rates[0][1]) / (rates[-1][0] - rates[0][0])


def parameter_tables(engine: Engine) -> dict[str, Any]:
    """Each member's parameter rows as plain data."""
    return {
        name: [row._asdict() for row in rows] for name, rows in engine.ensemble.parameters().items()
    }


def shown_dead_letter(record: NewRecord) -> dict[str, Any]:
    """A dead letter for people: reason, error, position and the beginning of its bytes."""
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    raw = (record.value or b"")[:200]
    return headers | {"value": raw.decode("utf-8", errors="replace"), "null": record.value is None}


def _finite(value: float) -> float | None:
    return None if value != value else float(value)
