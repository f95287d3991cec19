"""How fast a replica follows, beside how fast its service goes at most.

``python -m benchmarks.lifecycle.replica [--quick]``. A service with the compiled members drains a
log of payments and their labels; then a replica begins at the first step and does every step again,
comparing each, until it is level. In turn, a few rounds, in one process: by the clock, and by
processor time, all threads together.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import traffic
from benchmarks.common import arguments, middle, rates, show, spread, target
from benchmarks.service.drain import drain
from models.base import MillraceError
from stream.run.replica.replica import Replica
from stream.settings.schema import Config

PATIENCE_S = 300.0


def followed(config: Config, steps: int, events: int, directory: Path) -> dict[str, Any]:
    """A replica does ``steps`` steps again; raises what ended it before."""
    # Without the service's checkpoints: it begins at the first step.
    alone = config.model_copy(update={"state_dir": directory / "none"})
    replica = Replica(alone, directory / "replica")
    thread = threading.Thread(target=replica.run, name="replica")
    began, cpu = time.perf_counter(), time.process_time()
    thread.start()
    while replica.progress.verified_seq < steps and thread.is_alive():
        if time.perf_counter() - began > PATIENCE_S:
            raise MillraceError(f"benchmark: waited {PATIENCE_S:g} s in vain for the replica")
        time.sleep(0.002)
    took = time.perf_counter() - began, time.process_time() - cpu
    progress = replica.progress
    replica.stop()
    thread.join()
    if progress.verified_seq != steps or progress.diverged:
        raise MillraceError(f"benchmark: expected {steps} steps proved, got {progress}")
    return rates(events, *took) | {"steps_proved": progress.verified_seq}


def measured(events: int, rounds: int) -> dict[str, Any]:
    """Both, in turn."""
    live, again = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            config = traffic.config(directory)
            records = traffic.append(config, traffic.pieces(traffic.simulator(events), 4096))
            live.append(drain(config, records, events))
            again.append(followed(config, live[-1]["steps"], events, directory))
    pairs = list(zip(again, live, strict=True))
    ratios = {
        key: spread([mine[key] / theirs[key] for mine, theirs in pairs])
        for key in ("events_per_s", "events_per_cpu_s")
    }
    return {
        "service": middle(live),
        "replica": middle(again),
        "replica_per_service": ratios,
        "targets": {"speed": target(ratios["events_per_s"]["median"], 2.0, at_least=True)},
    }


def main() -> None:
    """The command line."""
    given = arguments(__doc__)
    events, rounds = (8_192, 1) if given.quick else (163_840, 5)
    show("replica", measured(events, rounds), given.json)


if __name__ == "__main__":
    main()
