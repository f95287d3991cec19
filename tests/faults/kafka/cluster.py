"""A cluster of three real Kafka brokers that loses one, then all, while services run on it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient

from tests.faults.check import Verdict
from tests.faults.crash import Progress
from tests.faults.kafka.brokers import Probe
from tests.faults.kafka.sides import Side, sides
from tests.faults.shard import Shard
from tests.support import broker as brokers
from tests.support.broker import Broker
from tests.support.waiting import PATIENT, wait_until

STATUSES = (0, 130)
"""Ended in order without what it waited for, or by its watchdog."""
READY_S = 5.0
"""How long a service may not be ready once the broker is back; the command asks, no test does."""
GRACE_S = 60.0
"""What supervisors give a service before SIGKILL, at the least."""


def cluster(
    directory: Path,
    clients: Sequence[str],
    seed: int,
    rounds: int,
    down_s: float,
    progress: Progress,
) -> tuple[dict[str, Verdict], dict[str, Any]]:
    """Break the cluster under load; gives what was found, by client, and figures.

    1. ``rounds`` times: kill the broker that coordinates a consumer group, or leads a journal; the
       services go on with the other two. Start it again, and wait until it has caught up.
    2. Freeze all brokers in the middle of commits, and SIGTERM: the services end in time.
    3. Thaw them. The next start settles the commit in doubt; take the rest, and check.
    """
    lost = []
    # On a busy machine either client waits in vain now and then, whatever time it was given: 94 s
    # for the coordinator of a group, 83 s for the offsets of partitions. What ends that is the
    # deadline of a call, which must come before ours.
    log = {"timeout": "60s", "transaction_timeout": PATIENT, "replication_factor": 3}
    with brokers.cluster() as nodes:
        where = [node.bootstrap for node in nodes]
        admin: Any = KafkaAdminClient(bootstrap_servers=where)
        with sides(directory, clients, seed, ",".join(where), **log) as made:
            probes = [side.load() for side in made]
            for i in range(rounds):
                shard = made[i // 2 % len(made)].shard
                number = _leader(admin, shard) if i % 2 else _coordinator(admin, shard)
                lost.append(_lose_one(admin, nodes[number - 1], made, probes, down_s))
                progress("brokers", i + 1, rounds)
            for node in nodes:
                node.pause()
            try:
                ended = _stopped(made, probes)
            finally:
                for node in nodes:
                    node.resume()
            verdicts = {side.client: side.finished() for side in made}
        admin.close()
    for client, (status, took_s) in ended.items():
        if status not in STATUSES or took_s > GRACE_S:
            verdicts[client].found(
                f"SIGTERM: expected a status of {STATUSES} within {GRACE_S:g} s, got {status} after"
                f" {took_s} s"
            )
    return verdicts, {"lost": lost, "stopped_while_frozen": ended}


def late(figures: dict[str, Any]) -> list[float]:
    """The seconds of those that were not ready for longer than :data:`READY_S`."""
    seconds = [s for lost in figures["lost"] for s in lost["not_ready_once_it_is_back_s"]]
    return [s for s in seconds if s > READY_S]


def _leader(admin: Any, shard: Shard) -> int:
    [journal] = admin.describe_topics(topics=[shard.topic("journal")])
    leader: int = journal["partitions"][0]["leader_id"]
    return leader


def _coordinator(admin: Any, shard: Shard) -> int:
    name = shard.config.name
    return int(admin._manager.run(admin._find_coordinator_ids, [name])[name])


def _lose_one(
    admin: Any,
    node: Broker,
    made: Sequence[Side],
    probes: Sequence[Probe],
    down_s: float,
) -> dict[str, Any]:
    """The seconds after which each service was last seen not ready."""
    node.kill()
    gone = time.monotonic()
    without = _watch(probes, lambda: time.monotonic() - gone > down_s)
    node.start()
    back = _watch(probes, lambda: _whole(admin, made))
    return {"not_ready_without_it_s": without, "not_ready_once_it_is_back_s": back}


def _whole(admin: Any, made: Sequence[Side]) -> bool:
    """Whether each broker has all of each topic."""
    described = admin.describe_topics(topics=[name for side in made for name in side.topics])
    return all(
        set(partition["isr_nodes"]) == set(partition["replica_nodes"])
        for topic in described
        for partition in topic["partitions"]
    )


def _watch(probes: Sequence[Probe], until: Callable[[], bool]) -> list[float]:
    """Look at the services until something holds and all of them are ready.

    Gives the seconds after which each was last seen not ready, 0 for one that always was. Raises
    :class:`WorkerFailed`, with what one says of itself and where its threads stand, if that never
    comes.
    """
    last = [0.0] * len(probes)
    started = time.monotonic()

    def look() -> bool:
        ready = [probe.status("/readyz") == 200 for probe in probes]
        for i, probe in enumerate(probes):
            probe.look()
            if not ready[i]:
                last[i] = round(time.monotonic() - started, 1)
        return all(ready) and until()

    try:
        wait_until(look, "services that are ready")
    except AssertionError as error:
        for probe in probes:
            status, said = probe.answer("/readyz")
            if status != 200:
                raise probe.worker.stuck(f"{error}; /readyz: {said}") from error
        raise
    return last


def _stopped(made: Sequence[Side], probes: Sequence[Probe]) -> dict[str, tuple[int, float]]:
    """SIGTERM in the middle of a commit: status and seconds, by client."""
    for probe in probes:
        answer = probe.answer
        wait_until(lambda: "commit under way" in answer("/readyz")[1], "a commit under way")  # noqa: B023
    started = time.monotonic()
    for side in made:
        side.worker.signal(signal.SIGTERM)
    return {
        side.client: (side.worker.wait(), round(time.monotonic() - started, 1)) for side in made
    }
