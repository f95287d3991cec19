"""A real Kafka broker killed, frozen and away for long, while the service runs under load."""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.check import Verdict, check
from tests.faults.crash import Feeder, Progress, Tally, drain, finish
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker, WorkerFailed
from tests.support.broker import Broker
from tests.support.waiting import DEADLINE_S

KINDS = ("restart", "freeze_short", "freeze_long", "down", "down_and_worker_killed", "worker_first")
_TIMEOUT_S = 4.0


@dataclass
class Probe:
    """What ``/livez`` and ``/readyz`` said during one fault."""

    worker: Worker
    port: int
    live: int = 0
    not_live: int = 0

    def status(self, path: str) -> int:
        """The HTTP status of a path; 0 when nobody answers."""
        return self.answer(path)[0]

    def answer(self, path: str) -> tuple[int, str]:
        """The HTTP status of a path, and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def until(self, ready: int) -> float:
        """Seconds until ``/readyz`` gives this status; counts what ``/livez`` says meanwhile."""
        started = time.monotonic()
        while (got := self.status("/readyz")) != ready:
            self.look()
            if time.monotonic() - started > DEADLINE_S:
                raise self.worker.stuck(f"/readyz: expected {ready}, got {got}")
            time.sleep(0.1)
        return time.monotonic() - started

    def hold(self, seconds: float) -> None:
        """Watch that the service stays alive and not ready."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            if self.status("/readyz") != 503:
                self.not_live += 1
            time.sleep(0.25)

    def look(self) -> None:
        """Ask ``/livez`` once."""
        self.worker.check_alive()
        self.worker.look()
        alive = self.status("/livez") == 200
        self.live += alive
        self.not_live += not alive


def brokers(
    directory: Path, client: str, seed: int, rounds: int, down_s: float, progress: Progress
) -> tuple[Verdict, dict[str, Any]]:
    """Each kind of outage in seeded order, under load; then drain, stop, check.

    Always: ``/livez`` 200 while the process runs; without a broker ``/readyz`` 503 until it is
    back; commits that were under way stand once in the journal.
    """
    rng = random.Random(f"brokers {seed}")
    kinds = list(_plan(rng, rounds))
    traffic, tally = Traffic(seed), Tally()
    found: list[dict[str, Any]] = []
    not_live = 0
    with Broker() as broker:
        log = {
            "type": "kafka",
            "client": client,
            "bootstrap": broker.bootstrap,
            "timeout": f"{_TIMEOUT_S:g}s",
            "transaction_timeout": "10s",
        }
        shard = Shard(directory, log, http={"enabled": True, "port": 0})
        feeder = Feeder(shard, traffic, 1_000_000)
        shard.log.create_topics()
        worker = Worker(shard.path)
        try:
            for i, kind in enumerate(kinds):
                probe = ready(worker)
                _load(shard, worker, feeder, rng)
                figures, worker = _outage(kind, broker, shard, worker, probe, tally, rng, down_s)
                found.append({"kind": kind} | figures)
                not_live += probe.not_live
                progress("outages", i + 1, len(kinds))
            probe = ready(worker)
            feeder.done = True
            drain(shard, worker)
            if worker.stop() != 0:
                raise WorkerFailed(f"SIGTERM: expected status 0; {worker.story()}")
            tally.ended(worker)
        finally:
            if worker.running:
                worker.kill()
        finish(shard, feeder, tally)
        verdict = check(shard, traffic)
        shard.renew_log()
    if not_live:
        verdict.found(f"/livez failed, or /readyz was not 503 without a broker, {not_live} times")
    return verdict, {"outages": found, "probes_wrong": not_live} | tally.as_dict()


def _plan(rng: random.Random, rounds: int) -> Iterator[str]:
    """Every kind once in each run through them, in an order of its own."""
    kinds: list[str] = []
    for _ in range(rounds):
        if not kinds:
            kinds = rng.sample(KINDS, len(KINDS))
        yield kinds.pop()


def ready(worker: Worker) -> Probe:
    """The probe of a worker that is ready."""
    worker.wait_for("restored")
    probe = Probe(worker, int(worker.wait_for("http listening")["port"]))
    probe.until(200)
    return probe


def _load(shard: Shard, worker: Worker, feeder: Feeder, rng: random.Random) -> None:
    """Commits all the time, and a backlog, so that the outage comes in the middle of some."""
    end = time.monotonic() + rng.uniform(1.0, 2.0)
    while time.monotonic() < end:
        feeder.append()
        time.sleep(0.005)
    for _ in range(60):
        feeder.append()
    worker.check_alive()


def _outage(
    kind: str,
    broker: Broker,
    shard: Shard,
    worker: Worker,
    probe: Probe,
    tally: Tally,
    rng: random.Random,
    down_s: float,
) -> tuple[dict[str, Any], Worker]:
    """One outage, from the first moment to ready again; its figures, and the worker after it."""
    figures: dict[str, Any] = {}
    if kind == "restart":
        broker.restart()
    elif kind == "freeze_short":
        broker.pause()
        time.sleep(rng.uniform(0.5, _TIMEOUT_S * 0.8))
        broker.resume()
    elif kind == "freeze_long":
        broker.pause()
        figures["not_ready_after_s"] = round(probe.until(503), 2)
        probe.hold(down_s / 3)
        broker.resume()
    elif kind == "worker_first":
        worker = _replaced(worker, shard, tally)
        time.sleep(rng.uniform(0.0, 3.0))
        broker.kill()
        time.sleep(1.0)
        broker.start()
    else:
        broker.kill()
        figures["not_ready_after_s"] = round(probe.until(503), 2)
        if kind == "down_and_worker_killed":
            worker = _replaced(worker, shard, tally)
            probe = Probe(worker, int(worker.wait_for("http listening")["port"]))
        probe.hold(down_s)
        broker.start()
    started = time.monotonic()
    probe = ready(worker)
    figures["ready_again_after_s"] = round(time.monotonic() - started, 2)
    return figures, worker


def _replaced(worker: Worker, shard: Shard, tally: Tally) -> Worker:
    """Kill the worker and start the next one."""
    tally.hits += worker.kill()
    tally.ended(worker)
    return Worker(shard.path)
