"""Services of several shards under load on the same brokers, one for each client library.

What is broken is broken for all of them at once: it need not be waited for once for each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.faults.check import Verdict, check
from tests.faults.crash import Feeder, Tally, finish
from tests.faults.kafka.brokers import Probe, ready
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker
from tests.support.waiting import wait_until

BACKLOG = 60
"""Pieces of input at the least, so that what is broken is broken in the middle of a commit."""


class Side:
    """One shard, its service and its input."""

    def __init__(self, directory: Path, client: str, seed: int, **log: Any) -> None:
        self.client = client
        table = {"type": "kafka", "client": client} | log
        http = {"enabled": True, "port": 0}
        self.shard = Shard(directory / client, table, http=http)
        self.traffic = Traffic(seed)
        self.feeder = Feeder(self.shard, self.traffic, 1_000_000)
        self.tally = Tally()
        self.shard.log.create_topics()
        self.worker = Worker(self.shard.path)
        self._fed = 0
        self._enough = threading.Event()
        self._feeding = threading.Thread(target=self._feed, daemon=True)

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics of the shard."""
        roles = ("events", "labels", "control", "scores", "dead_letters", "audit", "journal")
        return tuple(self.shard.topic(role) for role in roles)

    def _feed(self) -> None:
        while not self._enough.is_set():
            self.feeder.append()
            self._fed += 1
            time.sleep(0.02)

    def load(self) -> Probe:
        """Wait until the service is ready, and let input come from here on."""
        probe = ready(self.worker)
        self._feeding.start()
        wait_until(lambda: self._fed >= BACKLOG, "the backlog")
        return probe

    def finished(self) -> Verdict:
        """Let no more input come, take the rest in one more life, and check."""
        self._enough.set()
        self._feeding.join()
        self.feeder.done = True
        if self.worker.running:
            self.worker.stop()
        self.tally.ended(self.worker)
        finish(self.shard, self.feeder, self.tally)
        return check(self.shard, self.traffic)

    def close(self) -> None:
        """End the service, if it still runs, and let go of the log."""
        self._enough.set()
        if self.worker.running:
            self.worker.kill()
        self.shard.renew_log()


@contextmanager
def sides(
    directory: Path, clients: Sequence[str], seed: int, bootstrap: str, **log: Any
) -> Iterator[list[Side]]:
    """A shard for each client."""
    with ExitStack() as ending:
        made = []
        for client in clients:
            made.append(Side(directory, client, seed, bootstrap=bootstrap, **log))
            ending.callback(made[-1].close)
        yield made
