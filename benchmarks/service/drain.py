"""A service in a thread of the benchmark's process, timed until a filled log is drained.

Called by the programs of this package. The time runs from readiness (before the first poll) to the
commit of the last step; opening the log, restoring and stopping are left out.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from benchmarks.common import rates
from models.base import MillraceError
from stream.contract.outputs import Outputs
from stream.run.daemon import SWITCH_S
from stream.run.front import Front
from stream.run.service import Listener, Service
from stream.settings.schema import Config


class _Timed(Service, Listener):
    """Notes when its loop begins and when so many input records are committed."""

    def __init__(self, config: Config, records: int) -> None:
        super().__init__(config)
        self.left = records
        self.begin: tuple[float, float] | None = None
        self.end: tuple[float, float] | None = None
        self.checkpoints = 0
        self.over = threading.Event()
        self.failure: BaseException | None = None
        self.listeners.append(self)

    def committed(self, outputs: Outputs, seconds: float) -> None:
        """See :class:`Listener`."""
        self.left -= sum(r.count for r in outputs.journal.ranges)
        if self.left <= 0 and self.end is None:
            self.end = (time.perf_counter(), time.process_time())
            self.checkpoints = self.checkpointer.written_total
            self.over.set()

    def _loop(self) -> None:
        self.begin = (time.perf_counter(), time.process_time())
        super()._loop()

    def guarded(self) -> None:
        """Run, and keep what ended it."""
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - raised again by drain()
            self.failure = error
        self.over.set()


@contextmanager
def scraped(service: Service) -> Iterator[list[float]]:
    """Serve HTTP and fetch ``/metrics`` each second; the seconds of each fetch."""
    front = Front(service)
    front.start()
    stop, seconds = threading.Event(), list[float]()

    def scrape() -> None:
        while not stop.wait(1.0):
            started = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", service.config.http.port)
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            connection.close()
            seconds.append(time.perf_counter() - started)

    thread = threading.Thread(target=scrape, name="scrape")
    thread.start()
    try:
        yield seconds
    finally:
        stop.set()
        thread.join()
        front.stop()


def drain(config: Config, records: int, events: int) -> dict[str, Any]:
    """Run the service until ``records`` input records are committed; rates in ``events``.

    Processor time is that of the whole process, commit thread and Kafka clients included. Where the
    configuration has HTTP on, it is served, and scraped each second.
    """
    sys.setswitchinterval(SWITCH_S)  # as in the daemon
    service = _Timed(config, records)
    thread = threading.Thread(target=service.guarded, name="service")
    with scraped(service) if config.http.enabled else nullcontext([]) as scrapes:
        thread.start()
        service.over.wait()
    service.stop()
    thread.join()
    if service.failure is not None:
        raise service.failure
    if service.engine is None or service.begin is None or service.end is None:
        raise MillraceError(f"benchmark: the service stopped with {service.left} records left")
    counts = service.engine.counts
    wall, cpu = (e - b for b, e in zip(service.begin, service.end, strict=True))
    return (
        rates(events, wall, cpu)
        | {
            "scored": counts["scored"],
            "learned": counts["learned"],
            "dead_letters": sum(v for k, v in counts.items() if k.startswith("dead.")),
            "steps": service.engine.seq,
            "checkpoints": service.checkpoints,
        }
        | ({"scrape_ms": round(1000 * max(scrapes), 1)} if scrapes else {})
    )
