"""The service behind a proxy that delays, cuts and corrupts its requests to Kafka by kind."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from tests.faults.check import Verdict, check
from tests.faults.crash import Feeder, Progress, Tally, finish
from tests.faults.kafka.proxy import FAULTS, Proxy
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker, WorkerFailed
from tests.support.broker import Broker
from tests.support.waiting import DEADLINE_S

_PATIENCE_S = 6.0
"""A fault whose kind of request does not come for so long makes the service start anew."""


def proxied(
    directory: Path, client: str, seed: int, gap_s: float, progress: Progress
) -> tuple[Verdict, dict[str, Any]]:
    """Every fault of the plan once, under load, then a drain through the quiet proxy, and checks.

    Kinds that only a start sends (InitProducerId, ListOffsets, ...) are had by a kill and a
    restart of the service.
    """
    rng = random.Random(f"proxied {seed}")
    traffic, tally = Traffic(seed), Tally()
    ended: list[list[str]] = []
    failure = ""
    with Proxy(seed, gap_s) as proxy, Broker(advertised=proxy.port) as broker:
        proxy.target = broker.behind_proxy
        log = {
            "type": "kafka",
            "client": client,
            "bootstrap": f"127.0.0.1:{proxy.port}",
            "timeout": "4s",
            "transaction_timeout": "10s",
        }
        shard = Shard(directory, log, direct=broker.bootstrap)
        feeder = Feeder(shard, traffic, 1_000_000)
        shard.log.create_topics()
        try:
            _all_faults(shard, feeder, proxy, tally, ended, rng, progress)
            proxy.armed = False
            while proxy.held:  # a late request may still fence whoever comes next
                time.sleep(0.1)
            feeder.done = True
            finish(shard, feeder, tally)
        except WorkerFailed as error:
            proxy.armed = False
            failure = f"after {proxy.recent()}: {error}"
        verdict = check(shard, traffic)
        if failure:
            verdict.problems.insert(0, failure)
        shard.renew_log()
    figures: dict[str, Any] = {
        "faults": len(proxy.history),
        "done": proxy.history,
        "ended_after": ended,
    }
    return verdict, figures | tally.as_dict()


def _all_faults(
    shard: Shard,
    feeder: Feeder,
    proxy: Proxy,
    tally: Tally,
    ended: list[list[str]],
    rng: random.Random,
    progress: Progress,
) -> None:
    """Lives of the service until every fault was done; notes what each end by itself came after."""
    while proxy.left:
        with Worker(shard.path) as worker:
            try:
                _life(worker, feeder, proxy, rng, progress)
                tally.hits += worker.kill()
            except WorkerFailed:
                ended.append(_excused(worker, proxy))
            tally.ended(worker)


EXCUSES = {"InitProducerId": "took over", "Produce corrupt": "InvalidRecordError"}
"""Faults after which the service may end by itself with status 3, and what it must say then.

An InitProducerId that reaches the broker after its repetition fences the producer that the
repetition made; nobody can tell this from a replacement that took over. A produced batch whose bits
flipped can look to the broker like one that is invalid.
"""


def _excused(worker: Worker, proxy: Proxy) -> list[str]:
    """The faults before the service ended by itself; raises when none of them is an excuse."""
    recent = proxy.recent()
    status, said = worker.wait(), "".join(worker.errors)
    for fault, words in EXCUSES.items():
        if status == 3 and words in said and any(name.startswith(fault) for name in recent):
            return recent
    raise WorkerFailed(f"ended by itself after {recent}; {worker.story()}")


def _life(
    worker: Worker, feeder: Feeder, proxy: Proxy, rng: random.Random, progress: Progress
) -> None:
    """Feed one process until no fault has come for a while, or all are done."""
    proxy.armed = True
    left, since = proxy.left, time.monotonic()
    while proxy.left:
        worker.check_alive()
        worker.look()
        feeder.append()
        time.sleep(rng.choice((0.0, 0.01, 0.05)))
        if proxy.left < left:
            left, since = proxy.left, time.monotonic()
            progress("faults", len(FAULTS) - left, len(FAULTS))
        elif worker.restored_s is not None and time.monotonic() - since > _PATIENCE_S:
            return
        elif time.monotonic() - since > DEADLINE_S:
            raise worker.stuck("no fault for long")
