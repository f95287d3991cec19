"""SIGKILL at random moments and at every named place of the code."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream.contract.failpoint import FAILPOINTS
from stream.settings.upgrade import FORMAT, digest, journaled
from stream.state.generations import list_generations
from tests.faults.check import Verdict, check
from tests.faults.shard import Shard
from tests.faults.traffic import Piece, Traffic
from tests.faults.worker import Worker, WorkerFailed
from tests.support.factory import RARELY
from tests.support.log_harness import patiently
from tests.support.waiting import DEADLINE_S

Progress = Callable[[str, int, int], None]
"""``(what, done, total)``."""


@dataclass
class Tally:
    """What happened to the processes of a run."""

    hits: int = 0
    restarts: int = 0
    stops: int = 0
    states: Counter[str] = field(default_factory=Counter)
    slowest_recovery_s: float = 0.0
    slowest_start_s: float = 0.0
    most_replayed_steps: int = 0
    peak_rss_bytes: int = 0

    def ended(self, worker: Worker) -> None:
        """Take a life's figures in."""
        self.restarts += 1
        self.peak_rss_bytes = max(self.peak_rss_bytes, worker.peak_rss_bytes)
        line = worker.said("restored")
        if line is not None and worker.restored_s is not None:
            self.slowest_start_s = max(self.slowest_start_s, worker.restored_s - worker.started_s)
            self.slowest_recovery_s = max(self.slowest_recovery_s, line["seconds"])
            self.most_replayed_steps = max(self.most_replayed_steps, line["replayed_steps"])

    def as_dict(self) -> dict[str, Any]:
        """For JSON. ``slowest_start_s``: from the process's start to ready, imports included."""
        return {
            "hits": self.hits,
            "hit_states": dict(sorted(self.states.items())),
            "orderly_stops": self.stops,
            "restarts": self.restarts - 1,
            "slowest_recovery_s": round(self.slowest_recovery_s, 3),
            "slowest_start_s": round(self.slowest_start_s, 3),
            "most_replayed_steps": self.most_replayed_steps,
            "peak_rss_bytes": self.peak_rss_bytes,
        }


class Feeder:
    """Appends traffic to a shard's input, piece by piece, through whatever happens to the log."""

    def __init__(self, shard: Shard, traffic: Traffic, events: int) -> None:
        self._shard = shard
        self._pieces: Iterator[Piece] = traffic.pieces(events)
        self._flush = traffic.flush
        self.done = False

    def append(self) -> None:
        """The next piece, if there is one."""
        piece = next(self._pieces, None)
        self.done = piece is None
        if piece is not None:
            append(self._shard, piece)

    def rest(self) -> None:
        """All that is left."""
        while not self.done:
            self.append()

    def flush(self) -> None:
        """The events that make whatever still waits leave."""
        for piece in self._flush():
            append(self._shard, piece)


def append(shard: Shard, piece: Piece) -> None:
    """Append a piece; again and again while the log is away."""
    patiently(lambda: shard.log.append(shard.topic(piece.topic), piece.records))


def crash(
    shard: Shard, kills: int, seed: int, events: int | None, progress: Progress
) -> tuple[Verdict, Tally]:
    """Kill the service ``kills`` times under load, drain, stop in order, check."""
    rng = random.Random(f"crash {seed}")
    traffic = shard.traffic(seed)
    feeder = Feeder(shard, traffic, events if events is not None else 150 * kills)
    tally = Tally()
    shard.log.create_topics()
    typical_start_s = 2.0
    while tally.hits < kills:
        with Worker(shard.path) as worker:
            one_life(worker, feeder, rng, typical_start_s, tally, shard)
            tally.ended(worker)
            if worker.restored_s is not None:
                typical_start_s = worker.restored_s - worker.started_s
        progress("kills", tally.hits, kills)
    progress("draining", kills, kills)
    finish(shard, feeder, tally)
    progress("checking", kills, kills)
    return check(shard, traffic), tally


def one_life(
    worker: Worker,
    feeder: Feeder,
    rng: random.Random,
    typical_start_s: float,
    tally: Tally,
    shard: Shard,
) -> None:
    """Feed the worker until its seeded moment has come: a kill, or now and then a SIGTERM."""
    early = rng.random() < 0.3
    orderly = not early and rng.random() < 0.12
    after_s = rng.uniform(0, typical_start_s * 1.2) if early else rng.uniform(0, 0.8)
    pause_s = rng.choice((0.0, 0.002, 0.01, 0.05))
    for _ in range(rng.randrange(0, 6)):
        feeder.append()
    while True:
        worker.check_alive()
        since = worker.started_s if early else worker.restored_s
        if since is not None and time.monotonic() - since >= after_s:
            break
        if time.monotonic() - worker.started_s > DEADLINE_S:
            raise worker.stuck(f"not restored within {DEADLINE_S:g} s")
        if worker.restored_s is not None:
            feeder.append()
        time.sleep(pause_s if worker.restored_s is not None else 0.005)
    if orderly:
        _stop(worker, rng)
        tally.stops += 1
        return
    state = state_of(worker, shard)
    if worker.kill():
        tally.hits += 1
        tally.states[state] += 1


def _stop(worker: Worker, rng: random.Random) -> None:
    """SIGTERM, once or twice: the second one ends the process at once."""
    worker.look()
    worker.signal(signal.SIGTERM)
    allowed = {0}
    if rng.random() < 0.5:
        allowed.add(130)
        time.sleep(rng.uniform(0, 0.05))
        worker.signal(signal.SIGTERM)
    status = worker.wait()
    if worker.said("stopped") is not None:
        allowed.add(-signal.SIGTERM)  # the second one came when Python had closed down already
    if status not in allowed:
        raise WorkerFailed(f"SIGTERM: expected exit status {sorted(allowed)}; {worker.story()}")


def state_of(worker: Worker, shard: Shard) -> str:
    """What the process is doing, from outside, without asking it."""
    if worker.restored_s is not None:
        writing = any(shard.config.state_dir.glob("generations/.writing-*"))
        return "checkpoint" if writing else "running"
    try:
        owner = (shard.config.state_dir / "lock").read_text().strip()
    except OSError:
        owner = ""
    return "restoring" if owner == str(worker.process.pid) else "starting"


def finish(shard: Shard, feeder: Feeder, tally: Tally, *options: str) -> None:
    """One more life: everything appended, drained, flushed, drained, stopped by SIGTERM."""
    with Worker(shard.path, *options) as worker:
        worker.wait_for("restored")
        feeder.rest()
        drain(shard, worker)
        feeder.flush()
        drain(shard, worker)
        status = worker.stop()
        tally.ended(worker)
        if status != 0:
            raise WorkerFailed(f"SIGTERM: expected exit status 0; {worker.story()}")


def drain(shard: Shard, worker: Worker) -> None:
    """Wait until a committed step has taken every input record."""
    deadline = time.monotonic() + DEADLINE_S
    while waiting := shard.waiting():
        worker.check_alive()
        worker.look()
        if time.monotonic() > deadline:
            raise worker.stuck(f"{waiting} records not taken in {DEADLINE_S:g} s")
        time.sleep(0.05)


EXTRA: dict[str, Any] = {"name": "extra", "type": "crossed", "table_bits": 8}
PASSED = tuple(n for n in FAILPOINTS if not n.startswith(("backfill.", "move.")))
"""Places that a life passes where no part is gained."""
ONCE = tuple(n for n in FAILPOINTS if n.startswith(("stop.", "restore.")) and n != "restore.replay")
"""Places that a life passes once."""


def at_failpoint(
    shard: Shard, name: str, occurrences: list[int], seed: int
) -> tuple[Verdict, Tally]:
    """Lives that die at the given passes of one place, then drain, stop and check."""
    traffic = Traffic(seed)
    feeder = Feeder(shard, traffic, 10_000)
    tally = Tally()
    # A start goes back to the file's configuration: what a command brought is gone again.
    options = ["--accept-changes"] if name.startswith("configure.") else []
    shard.log.create_topics()
    for occurrence in occurrences:
        if name.startswith("restore."):
            _leave_steps(shard, feeder, tally, occurrence)
        if name.startswith("configure."):
            _ask(shard, traffic, occurrence)
        point = f"{name}=kill@{occurrence}"
        with Worker(shard.path, *options, MILLRACE_FAILPOINT=point) as worker:
            die(worker, feeder, name)
            tally.ended(worker)
            tally.hits += 1
            tally.states[name] += 1
    feeder.done = True
    finish(shard, feeder, tally, *options)
    return check(shard, traffic), tally


def _leave_steps(shard: Shard, feeder: Feeder, tally: Tally, steps: int) -> None:
    """A life that ends with at least so many steps in the journal that no checkpoint holds."""
    with Worker(shard.path) as worker:
        worker.wait_for("restored")
        while (tail := shard.log.journal_tail()) is None or tail.seq < newest(shard) + steps:
            worker.check_alive()
            feeder.append()
            time.sleep(0.02)
        worker.kill()
        tally.ended(worker)


def _ask(shard: Shard, traffic: Traffic, times: int) -> None:
    """Let commands wait that ask for one threshold after another, then for a member more."""
    base, plain = digest(journaled(shard.config)), shard.raw | {"format": FORMAT}
    for i in range(times):
        ensemble = plain["ensemble"] | {"threshold": 0.3 + i / 100}
        members = [*plain["members"], EXTRA] if i % 2 == 0 else plain["members"]
        tree = plain | {"ensemble": ensemble, "members": members}
        shard.log.append(shard.topic("control"), [traffic.configure(base, tree)])
        base = digest(tree)


def newest(shard: Shard) -> int:
    """The step of the newest generation; 0 without any."""
    return max((int(p.name) for p in list_generations(shard.config.state_dir)), default=0)


def die(worker: Worker, feeder: Feeder, name: str) -> None:
    """Feed a worker until its failpoint kills it."""
    deadline = time.monotonic() + DEADLINE_S
    asked = False
    while worker.running:
        if time.monotonic() > deadline:
            raise worker.stuck(f"failpoint {name} was not passed in {DEADLINE_S:g} s")
        feeder.append()
        if name.startswith("stop.") and worker.restored_s is not None and not asked:
            asked = True
            worker.signal(signal.SIGTERM)
        worker.look()
        time.sleep(0.01)
    if worker.wait() != -signal.SIGKILL:
        raise WorkerFailed(f"failpoint {name}: expected death by SIGKILL; {worker.story()}")


def failpoints(
    directory: Path, log: dict[str, Any] | None, names: list[str], seed: int, progress: Progress
) -> dict[str, Any]:
    """Every place: a kill at its first, second and a random later pass, on a shard of its own."""
    rng = random.Random(f"failpoints {seed}")
    found: dict[str, Any] = {}
    for i, name in enumerate(names):
        occurrences = [1] if name in ONCE else [1, 2, rng.randrange(3, 7)]
        # With steps left to replay, where a restore is to die.
        changes: dict[str, Any] = {"checkpoints": RARELY} if name.startswith("restore.") else {}
        shard = Shard(directory / name, log, **changes)
        try:
            verdict, tally = at_failpoint(shard, name, occurrences, seed + i)
            found[name] = {"occurrences": occurrences} | tally.as_dict() | verdict.as_dict()
        except WorkerFailed as error:
            found[name] = {"occurrences": occurrences, "problems": [str(error)]}
        finally:
            shard.renew_log()
        progress("failpoints", i + 1, len(names))
    return found
