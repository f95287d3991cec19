"""A frozen process beside its replacement: it must end, and write nothing (I7)."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stream.contract.log import LogUnavailable
from stream.logs.sqlite.io import Connection
from stream.settings.schema import EmbeddedLogSettings
from stream.state.generations import list_generations
from tests.faults.check import Verdict, check
from tests.faults.crash import Feeder, Tally, drain, finish
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker


def zombie(
    directory: Path, log: dict[str, Any] | None, rounds: int, frozen_s: float, seed: int
) -> tuple[Verdict, dict[str, Any]]:
    """Freeze, replace, thaw; ``rounds`` times on one shard, each replacement the next to freeze.

    1. A second process on the same state directory is refused (status 4).
    2. SIGSTOP under load; a replacement with a state directory of its own takes over.
    3. After ``frozen_s`` (past the transaction timeout) and more input: SIGCONT.
    4. The thawed one must end with status 3 and say why; the replacement goes on.
    5. All invariants, on the state of the last replacement and of every zombie.
    """
    rng = random.Random(f"zombie {seed}")
    traffic, tally = Traffic(seed), Tally()
    shard = Shard(directory / "0", log)
    feeder = Feeder(shard, traffic, 100_000)
    shard.log.create_topics()
    places = [shard]
    problems: list[str] = []
    frozen_in_commit = 0
    with ExitStack() as workers:
        old = workers.enter_context(Worker(shard.path))
        old.wait_for("restored")
        refusal = _refused(shard, problems)
        for i in range(1, rounds + 1):
            _feed(feeder, rng.uniform(0.3, 1.0))
            while not list_generations(places[-1].config.state_dir):
                old.check_alive()
                _feed(feeder, 0.1)
            frozen_in_commit += _freeze(old, shard)
            started = time.monotonic()
            places.append(shard.sibling(directory / str(i)))
            new = workers.enter_context(Worker(places[-1].path))
            new.wait_for("restored")
            _feed(feeder, max(0.3, started + frozen_s - time.monotonic()))
            old.signal(signal.SIGCONT)
            _feed(feeder, 0.3)
            status = old.wait()
            said = "\n".join(old.errors)
            if status != 3 or "another process" not in said:
                problems.append(
                    f"round {i}: expected status 3 and why, got {status}; {said[-300:]}"
                )
            tally.ended(old)
            drain(shard, new)
            old = new
        old.stop()
        tally.ended(old)
    feeder.done = True
    finish(places[-1], Feeder(places[-1], traffic, 0), tally)
    verdict = check(places[-1], traffic)
    for place in places[:-1]:  # what a zombie left behind is the same state, or is refused
        again = check(place, traffic)
        problems += [f"{place.directory.name}: {p}" for p in again.problems]
        place.renew_log()
    places[-1].renew_log()
    verdict.problems += problems
    figures = {"rounds": rounds, "frozen_s": frozen_s, "frozen_in_commit": frozen_in_commit}
    return verdict, figures | {"second_worker": refusal} | tally.as_dict()


def _refused(shard: Shard, problems: list[str]) -> str:
    """Start a second process on the same state directory; what it says."""
    with Worker(shard.path) as second:
        status = second.wait()
        said = "\n".join(second.errors)
    if status != 4 or "another process" not in said:
        problems.append(f"second worker: expected status 4 and why, got {status}: {said[-300:]}")
    return said


def _feed(feeder: Feeder, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        feeder.append()
        time.sleep(0.005)


def _freeze(worker: Worker, shard: Shard) -> int:
    """SIGSTOP, but not while it holds the embedded log's file; how often it did at first.

    A process that is stopped in the middle of a SQLite transaction keeps every other one out: only
    SIGCONT or SIGKILL helps. On Kafka the broker aborts the transaction instead.
    """
    tries = 0
    while True:
        worker.signal(signal.SIGSTOP)
        if not isinstance(shard.config.log, EmbeddedLogSettings):
            return 0
        probe = Connection(shard.config.log.path, 500)
        try:
            with probe.transaction():
                return tries
        except LogUnavailable:
            tries += 1
            worker.signal(signal.SIGCONT)
            time.sleep(0.01)
        finally:
            probe.close()
