"""The state's disk, and the log's, filled up under load and freed again."""

from __future__ import annotations

import errno
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.check import Verdict, check
from tests.faults.crash import Feeder, Tally, append, drain, finish, newest
from tests.faults.kafka.brokers import Probe, ready
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker, WorkerFailed
from tests.support.waiting import DEADLINE_S

STATE_BYTES, LOG_BYTES = 64 << 20, 16 << 20


class NotPermitted(Exception):
    """A small file system cannot be mounted here; the message says why."""


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A tmpfs of ``size`` bytes; needs root."""
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPermitted(f"a tmpfs needs root: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


class Ballast:
    """A file that takes all the room there is."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "ballast"

    def fill(self) -> None:
        """Write until there is no room left, not for one byte."""
        with self._path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Give the room back."""
        self._path.unlink()


def disk(directory: Path, seed: int) -> dict[str, Any]:
    """Both scenarios, each on a shard of its own; problems in each one's ``problems``."""
    return {"state": _state_full(directory, seed), "log": _log_full(directory, seed + 1)}


def _state_full(directory: Path, seed: int) -> dict[str, Any]:
    """Scoring goes on, failures are counted, a restart works, checkpoints come again."""
    with small_disk(directory / "state-disk", STATE_BYTES) as mounted:
        shard = Shard(
            directory / "state-full",
            state_dir=str(mounted / "state"),
            http={"enabled": True, "port": 0},
        )
        feeder, traffic, tally = _begin(shard, seed)
        ballast = Ballast(mounted)
        figures: dict[str, Any] = {}
        with Worker(shard.path) as worker:
            probe = ready(worker)
            _feed(feeder, 1.5)
            ballast.fill()
            before = newest(shard)
            _feed(feeder, 2.0)
            worker.wait_for("checkpoint_failed")
            drain(shard, worker)
            figures["ready_while_full"] = probe.status("/readyz") == 200
            figures["failures_logged"] = sum(
                e.get("event") == "checkpoint_failed" for e in worker.lines
            )
            figures["failures_counted"] = _metric(probe, "checkpoint_failures_total")
            worker.kill()
            tally.ended(worker)
        with Worker(shard.path) as worker:
            probe = ready(worker)
            _feed(feeder, 1.0)
            drain(shard, worker)
            figures["ready_after_restart_while_full"] = probe.status("/readyz") == 200
            figures["newest_while_full_unchanged"] = newest(shard) == before
            ballast.free()
            figures["checkpoint_again_after_s"] = _until_newer(shard, feeder, before)
            figures["stop_status"] = worker.stop()
            tally.ended(worker)
        verdict = _end(shard, feeder, traffic, tally)
    for name in ("ready_while_full", "failures_logged", "failures_counted"):
        if not figures[name]:
            verdict.found(f"state disk full: {name}: {figures[name]}")
    return figures | tally.as_dict() | verdict.as_dict()


def _log_full(directory: Path, seed: int) -> dict[str, Any]:
    """Nothing is scored and nothing lost; alive, not ready; a restart waits; then it goes on."""
    with small_disk(directory / "log-disk", LOG_BYTES) as mounted:
        shard = Shard(
            directory / "log-full",
            {"type": "embedded", "path": str(mounted / "log.db"), "timeout": "3s"},
            http={"enabled": True, "port": 0},
        )
        feeder, traffic, tally = _begin(shard, seed)
        ballast = Ballast(mounted)
        figures: dict[str, Any] = {}
        with Worker(shard.path) as worker:
            probe = ready(worker)
            _feed(feeder, 1.5)
            for piece in list(traffic.pieces(200, size=200)):
                append(shard, piece)  # a backlog whose outputs will find no room
            ballast.fill()
            figures["not_ready_after_s"] = round(probe.until(503), 2)
            probe.hold(3.0)
            worker.kill()
            tally.ended(worker)
        with Worker(shard.path) as worker:
            port = int(worker.wait_for("http listening")["port"])
            again = Probe(worker, port)
            again.hold(3.0)
            ballast.free()
            figures["ready_after_s"] = round(again.until(200), 2)
            drain(shard, worker)
            figures["stop_status"] = worker.stop()
            tally.ended(worker)
        figures["probes_wrong"] = probe.not_live + again.not_live
        verdict = _end(shard, feeder, traffic, tally)
    if figures["probes_wrong"]:
        verdict.found(
            f"log disk full: {figures['probes_wrong']} probes were not alive and not ready"
        )
    return figures | tally.as_dict() | verdict.as_dict()


def _begin(shard: Shard, seed: int) -> tuple[Feeder, Traffic, Tally]:
    traffic = Traffic(seed)
    shard.log.create_topics()
    return Feeder(shard, traffic, 100_000), traffic, Tally()


def _end(shard: Shard, feeder: Feeder, traffic: Traffic, tally: Tally) -> Verdict:
    feeder.done = True
    finish(shard, feeder, tally)
    verdict = check(shard, traffic)
    shard.renew_log()
    return verdict


def _feed(feeder: Feeder, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        feeder.append()
        time.sleep(0.01)


def _until_newer(shard: Shard, feeder: Feeder, before: int) -> float:
    """Seconds until a generation newer than ``before`` is published."""
    started = time.monotonic()
    while newest(shard) <= before:
        feeder.append()
        time.sleep(0.02)
        if time.monotonic() - started > DEADLINE_S:
            raise WorkerFailed("no checkpoint after the disk had room again")
    return round(time.monotonic() - started, 2)


def _metric(probe: Probe, name: str) -> float:
    """The sum of a metric's series as scraped; -1 when there is none."""
    url = f"http://127.0.0.1:{probe.port}/metrics"
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^\w*{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found)) if found else -1.0
