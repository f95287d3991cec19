"""How long the service is away after a crash, and what keeping that short costs.

Run ``python -m benchmarks.service.recovery [--json] [--quick]``. Four figures: the fixed cost of a
start with a large checkpoint; the speed of a replay beside the engine's own; the time to readiness
after SIGKILL at random moments with a slow member (River's ARF-10) under the default recovery
budget; and the throughput that checkpoints at default settings take.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import traffic
from benchmarks.common import arguments, compare, show, spread, target, timed
from benchmarks.service.daemon import Daemon
from benchmarks.service.drain import drain
from benchmarks.service.overhead import ARF
from models.base import MillraceError
from stream.contract.records import Batch
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.state.generations import StateDirectory, list_generations, read_manifest
from stream.state.recovery import recover

CHEAP = (traffic.CONSTANT, traffic.LOGISTIC)
NEVER = {"interval": "365d", "recovery_budget": "365d"}
BUDGET_S = 3.0


def restarts(events: int, runs: int) -> dict[str, Any]:
    """Start a service on a checkpoint of its pending events and windows; nothing to replay."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        changes = traffic.changes(directory, members=list(CHEAP))
        config = traffic.config(directory, members=list(CHEAP))
        made = traffic.pieces(traffic.simulator(events, 50_000), 4096, labels=False)
        traffic.append(config, made)
        log = open_log(config, wall_clock_ms)
        with Daemon(changes, directory) as first:
            first.wait_for(lambda: sum(log.lag().values()) == 0, 600)
            first.stop()
        log.close()
        newest = read_manifest(list_generations(config.state_dir)[0])
        ready, restored = [], []
        for _ in range(runs):
            with Daemon(changes, directory, first.port) as daemon:
                ready.append(daemon.wait_for(daemon.ready))
                line = daemon.logged("restored")[-1]
                restored.append(float(line["seconds"]))
                if line["replayed_steps"]:
                    raise MillraceError("benchmark: expected nothing to replay")
        return {
            "pending_events": events,
            "checkpoint_bytes": newest.total_bytes,
            "ready_s": spread(ready),
            "of_which_restoring_s": spread(restored),
        }


def replay(records: int, events: int, rounds: int) -> dict[str, Any]:
    """Replay a whole journal from an empty engine, beside the engine over the same steps in memory.

    The same steps: a service with two topics takes half of each batch from either.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = traffic.config(directory, checkpoints=NEVER)
        traffic.append(config, traffic.pieces(traffic.simulator(events), 4096))
        live = drain(config, records, events)
        log = open_log(config, wall_clock_ms)
        log.open()
        made = [
            Batch(r.seq, r.clock_ms, log.read(r.ranges), frozenset(r.skipped), r.checkpoint)
            for r in log.journal()
        ]

        def again() -> int:
            with tempfile.TemporaryDirectory() as empty:
                state = StateDirectory(Path(empty)).open()
                found = recover(
                    log, state, config, lambda c: build_engine(c, state.pending), lambda: None
                )
                found.engine.close()
                state.close()
                return found.engine.counts["scored"]

        result = compare(lambda: timed(again), lambda: timed(lambda: _steps(config, made)), rounds)
        log.close()
    replayed = result.pop("ours")
    over_live = replayed["events_per_s"] / live["events_per_s"]
    return {
        "replay": replayed,
        "engine_without_io": result.pop("theirs"),
        **result,
        "service_before": live,
        "ratio_to_service": round(over_live, 3),
    }


def _steps(config: Config, made: Sequence[Batch]) -> int:
    with tempfile.TemporaryDirectory() as directory:
        engine = build_engine(config, Path(directory))
        for batch in made:
            engine.step(batch)
        engine.close()
        return engine.counts["scored"]


def kills(events: int, runs: int, longest_s: float) -> dict[str, Any]:
    """SIGKILL a service with a slow member at random moments of one long backlog."""
    rng = random.Random(5)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        changes = traffic.changes(directory, members=[ARF])
        config = traffic.config(directory, members=[ARF])
        traffic.append(config, traffic.pieces(traffic.simulator(events), 4096))
        ready, after, restored, replayed, steps = [], [], [], [], []
        daemon = Daemon(changes, directory)
        daemon.wait_for(daemon.ready)
        for _ in range(runs):
            after.append(round(longest_s * rng.uniform(0.3, 1), 2))
            time.sleep(after[-1])
            daemon.kill()
            daemon = Daemon(changes, directory, daemon.port)
            ready.append(daemon.wait_for(daemon.ready))
            line = daemon.logged("restored")[-1]
            restored.append(float(line["seconds"]))
            replayed.append(line["replayed_records"])
            steps.append(line["replayed_steps"])
        daemon.kill()
    return {
        "killed_after_s": after,
        "ready_s": spread(ready),
        "of_which_restoring_and_replaying_s": spread(restored),
        "replayed_records": replayed,
        "replayed_steps": steps,
    }


def cost(events: int, rounds: int) -> dict[str, Any]:
    """Throughput with checkpoints at default settings beside that without any."""

    def once(checkpoints: dict[str, str]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            config = traffic.config(Path(directory), checkpoints=checkpoints)
            records = traffic.append(config, traffic.pieces(traffic.simulator(events), 4096))
            return drain(config, records, events)

    result = compare(lambda: once({}), lambda: once(NEVER), rounds)
    return {"default": result.pop("ours"), "never": result.pop("theirs")} | result


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__)
    quick = options.quick
    rounds = 1 if quick else 3
    events = 20_480 if quick else 204_800
    made = traffic.batches(traffic.pieces(traffic.simulator(events), 4096))
    records = traffic.count(made, "events") + traffic.count(made, "labels")
    with tempfile.TemporaryDirectory() as directory:
        _steps(traffic.config(Path(directory)), made[:3])  # compiles
    found: dict[str, Any] = {
        "start": restarts(20_000 if quick else 650_000, rounds),
        "replay": replay(records, events, rounds),
        "killed": kills(12_000 if quick else 60_000, 1 if quick else 4, 6.0 if quick else 15.0),
        "checkpoints": cost(events if quick else 2 * events, rounds),
    }
    found["targets"] = {
        "start_s": target(found["start"]["ready_s"]["median"], 2.0, False),
        "replay_ratio": target(found["replay"]["ratio"]["median"], 1.0, True),
        "killed_ready_s": target(
            found["killed"]["of_which_restoring_and_replaying_s"]["max"], BUDGET_S, False
        ),
        "checkpoint_cost": target(1 - found["checkpoints"]["ratio"]["median"], 0.05, False),
    }
    show("recovery", found, options.json)


if __name__ == "__main__":
    main()
