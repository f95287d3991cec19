"""A member that is not deterministic is found out by the first replay, and stops the service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.faults.crash import Feeder, drain
from tests.faults.shard import MEMBERS, Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker
from tests.support.factory import RARELY

SOURCES = {
    "random": "int.from_bytes(os.urandom(2), 'big') / 65536",
    "clock": "time.perf_counter() % 1e-3 * 1e3",
    "address": "id(object()) // 16 % 997 / 997",
}
"""Where members that nobody should write take their numbers from."""

_FICKLE = '''"""A classifier whose learning depends on something that no journal holds."""

import os
import time

from river import base


class Fickle(base.Classifier):
    def __init__(self):
        self.p = 0.5

    def learn_one(self, x, y):
        self.p = 0.9 * self.p + 0.1 * ({source})

    def predict_proba_one(self, x):
        return {{False: 1 - self.p, True: self.p}}
'''


def diverge(directory: Path, source: str, seed: int) -> dict[str, Any]:
    """Run with a member that takes numbers from ``source``; kill; restart; restart with "warn".

    1. A life that journals steps and is killed. 2. The restart must refuse to go on (status 4).
    3. The same start under ``on_divergence = "warn"`` must say so and go on.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"fickle_{source}.py"
    file.write_text(_FICKLE.format(source=SOURCES[source]))
    fickle = {"name": "fickle", "type": "river", "model": f"{file}:Fickle"}
    shard = Shard(directory, members=[*MEMBERS, fickle], checkpoints=RARELY)
    feeder = Feeder(shard, Traffic(seed), 400)
    shard.log.create_topics()
    with Worker(shard.path) as worker:
        worker.wait_for("restored")
        while not feeder.done:
            feeder.append()
            time.sleep(0.002)
        drain(shard, worker)
        worker.kill()
    with Worker(shard.path) as worker:
        status = worker.wait()
        said = "\n".join(worker.errors)
    relaxed = shard.sibling(directory / "warn", checkpoints=RARELY | {"on_divergence": "warn"})
    with Worker(relaxed.path) as worker:
        worker.wait_for("restored")
        warned = worker.said("replay_diverged") is not None
        warn_status = worker.stop()
    problems = []
    if status != 4 or "not deterministic" not in said:
        problems.append(f"{source}: expected status 4 and why, got {status}: {said[-300:]}")
    if not warned or warn_status != 0:
        problems.append(f"{source}: on_divergence = warn: expected a word and status 0")
    shard.renew_log()
    return {"exit_status": status, "warn_goes_on": warned, "said": said, "problems": problems}
