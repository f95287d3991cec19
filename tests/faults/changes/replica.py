"""A replica beside a shard: both are killed and frozen at random moments, and must agree.

The shard's operator sends commands of every kind, as in ``lifecycle.py``, and the service is ended
at random moments; so is its replica, which goes on in the directory that its killed process left,
or in a new one. In the end it stands at the journal's end, has never differed, says of an event
what the service says, bit for bit; and the shard is what it would be without one.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.faults.check import Verdict, check
from tests.faults.crash import Feeder, Progress, drain
from tests.faults.lifecycle import OPTIONS, Operator
from tests.faults.shard import Shard
from tests.faults.worker import Worker, WorkerFailed
from tests.support.factory import event
from tests.support.waiting import DEADLINE_S

HTTP: dict[str, Any] = {"enabled": True, "port": 0}
VICTIMS = ("service", "replica", "both", "frozen replica", "frozen service")


def replica(
    shard: Shard, kills: int, seed: int, progress: Progress
) -> tuple[Verdict, dict[str, Any]]:
    """So many faults; gives what was found, and how often which was hit."""
    rng = random.Random(f"replica {seed}")
    traffic = Operator(seed, shard)
    feeder = Feeder(shard, traffic, 1_000_000)
    hits: Counter[str] = Counter()
    own = shard.directory / "replica"
    shard.log.create_topics()
    with _pair(shard, own) as pair:
        for done in range(kills):
            _feed(pair, feeder, rng.uniform(0.0, 1.5), rng.choice((0.005, 0.02, 0.05)))
            hits[victim := rng.choice(VICTIMS)] += 1
            if rng.random() < 0.2 and victim != "service":
                pair.own = shard.directory / f"replica-{done}"
            pair.hit(victim, rng)
            progress("faults", done + 1, kills)
        feeder.done = True
        drain(shard, pair.service)
        feeder.flush()
        drain(shard, pair.service)
        problems = pair.differs()
        if pair.follower.stop() != 0 or pair.service.stop() != 0:
            problems.append(f"SIGTERM: expected 0; {pair.follower.story()}")
    verdict = check(shard, traffic)
    verdict.problems[:0] = problems
    return verdict, {"hits": dict(sorted(hits.items()))}


class _Pair:
    """A service and its replica, as processes."""

    def __init__(self, shard: Shard, own: Path) -> None:
        self._shard = shard
        self.own = own
        self.service = self._serve()
        self.follower = self._follow()

    def _serve(self) -> Worker:
        return Worker(self._shard.path, *OPTIONS)

    def _follow(self) -> Worker:
        options = ("--port", "0", "--directory", str(self.own))
        return Worker(self._shard.path, *options, command="replica")

    def alive(self) -> None:
        """Raise :class:`WorkerFailed` if one of them ended, or the replica differs."""
        self.service.check_alive()
        self.follower.check_alive()
        if self.follower.said("replica_diverged") is not None:
            raise WorkerFailed(f"the replica differs; {self.follower.story()}")

    def hit(self, victim: str, rng: random.Random) -> None:
        """Kill, or freeze for a while; who was killed begins again."""
        if victim.startswith("frozen"):
            worker = self.follower if victim.endswith("replica") else self.service
            worker.signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.1, 1.0))
            worker.signal(signal.SIGCONT)
            return
        if victim != "replica":
            self.service.kill()
        if victim != "service":
            self.follower.kill()
            self.follower = self._follow()
        if victim != "replica":
            time.sleep(rng.uniform(0.0, 0.5))
            self.service = self._serve()
            self.service.wait_for("restored")

    def differs(self) -> list[str]:
        """Once both stand at the journal's end: what the replica says that the service does not."""
        asked, deadline = event(0) | {"id": "asked"}, time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            self.alive()
            said, told = (_foretold(w, asked) for w in (self.service, self.follower))
            if said and told and said["seq"] == told["seq"]:
                return [] if said == told else [f"what-if: expected {said}, got {told}"]
            time.sleep(0.05)
        return [f"replica: not level in {DEADLINE_S:g} s; {self.follower.story()}"]

    def end(self) -> None:
        """Leave no process."""
        for worker in (self.service, self.follower):
            worker.kill()


def _foretold(worker: Worker, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What it says of an event, but for when; ``None`` where it says nothing now."""
    if (line := worker.said("http listening")) is None:
        return None
    address = f"http://127.0.0.1:{line['port']}/v1/what-if"
    answer = httpx.post(address, json=asked, timeout=DEADLINE_S)
    if answer.status_code == 503:
        return None
    return {k: v for k, v in answer.json().items() if k != "scored_at"}


@contextmanager
def _pair(shard: Shard, own: Path) -> Iterator[_Pair]:
    pair = _Pair(shard, own)
    try:
        yield pair
    finally:
        pair.end()


def _feed(pair: _Pair, feeder: Feeder, seconds: float, pause_s: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        feeder.append()
        pair.alive()
        time.sleep(pause_s)
