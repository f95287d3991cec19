"""How fast a replica follows, beside a live service and beside how fast one goes at most.

``python -m benchmarks.lifecycle.replica [--quick]``. Live: another process appends payments and
their labels at a steady pace, a service with the compiled members keeps up with it; then a replica
begins at the first step and does every step that it took again, comparing each, until it is level.
At most: a service drains a log, in steps as large as a backlog makes them and in small ones, and a
replica does those again; then an engine does them with all records read and decoded before: no
replica can be faster than that. In turn, a few rounds, in one process: by the clock, and by
processor time, all threads together. Opening, restoring and stopping are left out of all.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import traffic
from benchmarks.common import arguments, beside, middle, rates, show, spread, target
from benchmarks.lifecycle.changes import RATE, loaded
from benchmarks.service.drain import drain
from models.base import MillraceError
from stream.contract.records import JournalRecord, Slice
from stream.run.daemon import spare_imports
from stream.run.replica.replica import Replica
from stream.settings.schema import Config
from stream.state.follow import Follower, steps

PATIENCE_S = 300.0
REST_S = 1.0
"""What a service is given to take the last that came."""
SMALL = 64
"""``limits.batch`` of small steps."""


class _Timed(Replica):
    """Notes when it may begin with the first step, and when it has proved the last one."""

    def __init__(self, config: Config, directory: Path, last: int) -> None:
        super().__init__(config, directory)
        self._last = last
        self.times: list[tuple[float, float]] = []
        self.over = threading.Event()

    def _begin(self) -> None:
        super()._begin()
        self.times.append((time.perf_counter(), time.process_time()))

    def _step(
        self, follower: Follower, record: JournalRecord, slices: Sequence[Slice] | None
    ) -> None:
        super()._step(follower, record, slices)
        if record.seq == self._last:
            self.times.append((time.perf_counter(), time.process_time()))
            self.over.set()


class _Prepared(_Timed):
    """Reads and decodes all before it begins, and proves nothing but the digests."""

    def _begin(self) -> None:
        Replica._begin(self)
        follower = self.recovered
        if follower is None:
            raise MillraceError("benchmark: the replica did not begin")
        taken = list(steps(self.log, 0, self._last, lambda: follower.engine.codec, {}))
        self.times.append((time.perf_counter(), time.process_time()))
        for record, slices in taken:
            follower.apply(record, slices or [])
        self.times.append((time.perf_counter(), time.process_time()))
        self.over.set()


def followed(
    kind: type[_Timed], config: Config, last: int, events: int, directory: Path
) -> dict[str, Any]:
    """One of the two does the steps up to the last one again; raises what ended it before."""
    # Without the service's checkpoints: it begins at the first step.
    alone = config.model_copy(update={"state_dir": directory / "none"})
    replica = kind(alone, directory / kind.__name__, last)
    thread = threading.Thread(target=replica.run, name="replica", daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE_S
    while not replica.over.wait(0.5):
        if replica.progress.diverged or not thread.is_alive() or time.monotonic() > until:
            raise MillraceError(f"benchmark: expected step {last}, got {replica.progress}")
    replica.stop()
    thread.join()
    (began, began_cpu), (ended, ended_cpu) = replica.times
    return rates(events, ended - began, ended_cpu - began_cpu)


def live(rate: int, seconds: float, rounds: int) -> dict[str, Any]:
    """A service that keeps up with so many payments a second, then its replica."""
    again, sizes = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            with loaded(directory, list(traffic.COMPILED), rate, seconds) as (service, watched):
                time.sleep(seconds + REST_S)
            if service.engine is None:
                raise MillraceError("benchmark: the service stopped before its first step")
            events, last = service.engine.counts["scored"], service.engine.seq
            sizes.append(events / len(watched.steps))
            again.append(followed(_Timed, service.config, last, events, directory))
    found = spread([one["events_per_s"] / rate for one in again])
    return {
        "payments_per_s": rate,
        "payments_per_step": spread(sizes),
        "replica": middle(again),
        "replica_per_live": found,
        "targets": {"speed": target(found["median"], 2.0, at_least=True)},
    }


def at_most(events: int, rounds: int, **changes: Any) -> dict[str, Any]:
    """A draining service, its replica and the steps alone, in turn."""
    drained, again, alone = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            config = traffic.config(directory, **changes)
            records = traffic.append(config, traffic.pieces(traffic.simulator(events), 4096))
            drained.append(drain(config, records, events))
            last = drained[-1]["steps"]
            again.append(followed(_Timed, config, last, events, directory))
            alone.append(followed(_Prepared, config, last, events, directory))
    return {
        "service": middle(drained),
        "replica": middle(again),
        "steps_alone": middle(alone),
        "replica_per_service": beside(again, drained),
        "steps_alone_per_service": beside(alone, drained),
    }


def main() -> None:
    """The command line."""
    given = arguments(__doc__)
    spare_imports()  # as both do when they run alone
    events, small, rounds = (8_192, 2_048, 1) if given.quick else (163_840, 32_768, 5)
    found = {
        "live": live(RATE, 1.0 if given.quick else 10.0, min(rounds, 3)),
        "backlog": at_most(events, rounds),
        "small_steps": at_most(small, rounds, limits={"batch": SMALL}),
    }
    show("replica", found, given.json)


if __name__ == "__main__":
    main()
