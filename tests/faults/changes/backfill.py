"""SIGKILL while a stream gains a part: in the backfill beside the service, and at every place of
the switch.

Each round adds a member or a feature, lets it learn beside the running service, and kills the start
that takes it over at one place. What stands in the topics at the end, and in every generation, must
be what a process makes of the journal that was never killed.
"""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from typing import Any

from tests.faults.check import Verdict, check, journal_of
from tests.faults.crash import Feeder, Progress, Tally, finish
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import REPOSITORY, Worker, WorkerFailed
from tests.support.waiting import DEADLINE_S

PLACES = (
    "backfill.step",
    "backfill.caught_up",
    "checkpoint.manifest",
    "backfill.kept",
    "commit.before",
    "commit.middle",
    "commit.after",
    "backfill.committed",
    "backfill.left",
    "checkpoint.publish",
)
"""Where the start that switches dies, in the order in which it passes them."""


def backfill(
    shard: Shard, places: list[str], seed: int, progress: Progress
) -> tuple[Verdict, Tally, int]:
    """A round for each place, then drain, stop, check; also how often the journal says so."""
    traffic = Traffic(seed)
    feeder = Feeder(shard, traffic, 100_000)
    tally = Tally()
    shard.log.create_topics()
    for i, place in enumerate(places):
        with Worker(shard.path) as worker:
            worker.wait_for("restored")
            for _ in range(10):
                feeder.append()
            shard.change(gained(shard.raw, i))
            if i == 0:
                _teach(shard, feeder, worker, "backfill.step=kill@2", -signal.SIGKILL)
            _teach(shard, feeder, worker, "", 0)
            for _ in range(5):
                feeder.append()  # for the start to catch up with
            worker.kill()
            tally.ended(worker)
        with Worker(shard.path, MILLRACE_FAILPOINT=f"{place}=kill") as worker:
            _die(worker, feeder, place)
            tally.ended(worker)
            tally.hits += 1
            tally.states[place] += 1
        progress("kills", i + 1, len(places))
    feeder.done = True
    finish(shard, feeder, tally)
    progress("checking", len(places), len(places))
    switches = [r for r in journal_of(shard) if r.kind == "reconfigured" and r.body["backfill"]]
    return check(shard, traffic, reconfigured=True), tally, len(switches)


def gained(raw: dict[str, Any], i: int) -> dict[str, Any]:
    """The configuration with a member more; every third time with a feature more."""
    raw = copy.deepcopy(raw)
    if i % 3 == 1:
        scale = "standard" if i % 2 else "none"
        feature = {"name": f"gained_{i}", "type": "number", "field": "amount", "scale": scale}
        raw["features"].append(feature)
    else:
        member = {"name": f"gained_{i}", "type": "crossed", "table_bits": 8 + i % 3}
        raw["members"].insert(i % 2, member)
    return raw


def _teach(shard: Shard, feeder: Feeder, worker: Worker, failpoint: str, status: int) -> None:
    """``millrace backfill`` beside the running service, which is fed meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "stream.cli", "backfill", str(shard.path), "--json"],
        cwd=REPOSITORY,
        env=os.environ
        | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(REPOSITORY), "MILLRACE_FAILPOINT": failpoint},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None:
        worker.check_alive()
        feeder.append()
        time.sleep(0.05)
    told, _ = process.communicate()
    if process.returncode != status:
        raise WorkerFailed(
            f"backfill: expected exit status {status}, got {process.returncode}\n{told}"
        )


def _die(worker: Worker, feeder: Feeder, place: str) -> None:
    """Feed the start until its failpoint kills it."""
    deadline = time.monotonic() + DEADLINE_S
    while worker.running:
        if time.monotonic() > deadline:
            raise worker.stuck(f"failpoint {place} was not passed in {DEADLINE_S:g} s")
        feeder.append()
        time.sleep(0.05)
    if worker.wait() != -signal.SIGKILL:
        raise WorkerFailed(f"failpoint {place}: expected death by SIGKILL; {worker.story()}")
