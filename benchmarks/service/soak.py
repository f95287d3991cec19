"""Whether memory stays flat: millions of events through one service process, its RSS sampled.

Run ``python -m benchmarks.service.soak [--json] [--quick] [--events N] [--minutes M]``. A producer
in this process keeps a short backlog in the embedded log of a service in a process of its own;
labels follow their events, log and pending rows leave by retention and horizon, and the resident
set is read from ``/proc`` every second. Bounded by events and by minutes, whichever comes first.
Growth is that of the least-squares line over the second half of the samples.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import traffic
from benchmarks.common import show, target
from benchmarks.service.daemon import Daemon
from stream.demo.simulator import Simulator
from stream.run.assemble import open_log, wall_clock_ms
from stream.settings.schema import Config

BACKLOG = 40_000
"""Records in the log ahead of the service at most."""
CUSTOMERS = 5_000
"""10,000 payments a day of event time: windows and horizon are full after 320,000 events, and
5 million are 500 days."""


def feed(config: Config, sim: Simulator, stop: threading.Event, appended: list[int]) -> None:
    """Keep a short backlog until every event is appended or ``stop`` is set."""
    log = open_log(config, wall_clock_ms)
    for new, labels in traffic.pieces(sim, 4096):
        log.append(config.topics.events, new)
        if labels:
            log.append(config.topics.labels, labels)
        appended[0] += len(new)
        while sum(log.lag().values()) > BACKLOG and not stop.is_set():
            time.sleep(0.02)
        if stop.is_set():
            break
    while sum(log.lag().values()) > 0 and not stop.is_set():
        time.sleep(0.05)
    log.close()


def soak(events: int, seconds: float) -> dict[str, Any]:
    """Run, sample, and fit the line."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        changes = traffic.changes(directory, limits={"pending": 200_000})
        config = traffic.config(directory, limits={"pending": 200_000})
        sim = traffic.simulator(events, CUSTOMERS)  # takes seconds: before anything is timed
        stop, appended = threading.Event(), [0]
        feeder = threading.Thread(target=feed, args=(config, sim, stop, appended))
        samples: list[tuple[float, int]] = []
        with Daemon(changes, directory) as daemon:
            daemon.wait_for(daemon.ready)
            started = time.monotonic()
            feeder.start()
            while feeder.is_alive() and (at := time.monotonic() - started) < seconds:
                samples.append((at, daemon.rss_bytes()))
                feeder.join(1.0)
            ran = time.monotonic() - started
            stop.set()
            feeder.join()
    return {
        "events_appended": appended[0],
        "seconds": round(ran, 1),
        "events_per_s": round(appended[0] / ran),
        "samples": len(samples),
        **growth(samples),
    }


def growth(samples: list[tuple[float, int]]) -> dict[str, Any]:
    """Resident megabytes along the run, and the growth over its second half."""
    half = samples[len(samples) // 2 :]
    at, rss = (np.array(column, dtype=np.float64) for column in zip(*half, strict=True))
    slope = float(np.polyfit(at, rss, 1)[0]) if len(half) > 2 else 0.0
    grown = slope * float(at[-1] - at[0]) / float(rss.mean())
    tenths = [samples[len(samples) * k // 10][1] for k in range(10)] + [samples[-1][1]]
    return {
        "rss_mb_by_tenths": [round(b / 1e6, 1) for b in tenths],
        "rss_mb_max": round(max(b for _, b in samples) / 1e6, 1),
        "second_half_growth": round(grown, 5),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="100,000 events")
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    found = soak(100_000 if options.quick else options.events, options.minutes * 60)
    found["targets"] = {"growth": target(found["second_half_growth"], 0.02, False)}
    show("soak", found, options.json)


if __name__ == "__main__":
    main()
