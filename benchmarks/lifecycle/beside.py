"""What scoring takes while a member is trained beside the service, against while none is.

``python -m benchmarks.lifecycle.beside [--quick]``. The service is a process of its own with the
compiled members and one of ``type = "refit"``; it has learned payments before. Then payments and
their labels come at a steady pace, and whole requests to ``POST /v1/score``, one after another on
one connection. Trainings fall due by event time, so that stretches with and without one take turns.
A request counts for a stretch that it lies within; those within a second of a training's end, when
its model is installed, stand apart. The hold-out decides whether a model is installed at all.
"""

from __future__ import annotations

import http.client
import itertools
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import traffic
from benchmarks.common import arguments, quantiles_ms, show, spread, target
from benchmarks.service.daemon import Daemon
from benchmarks.service.latency import APPEND_S, LAG, REQUEST_EVERY_S, WARM_S, paced
from models.base import MillraceError
from stream.demo.player import event_records
from stream.run.assemble import open_log, wall_clock_ms
from stream.run.daemon import SWITCH_S

RATE = 500
EVERY = "2d"
"""Of event time between two trainings: 20,000 payments."""
AFTER_S = 1.0
LOOK_S = 0.02
TRAINED = {"name": "trees", "type": "refit", "every": EVERY, "positives": 50, "trees": 100}


class Request(NamedTuple):
    """When it was sent, and how long it took."""

    at_s: float
    seconds: float


def trainings(pid: int, stop: threading.Event, found: list[list[float]]) -> None:
    """Watch for children of the service, which train: fill ``found`` with when each was seen."""
    running = False
    while not stop.wait(LOOK_S):
        now = time.perf_counter()
        there = any(
            path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/children")
        )
        if there and not running:
            found.append([now, now])
        elif there:
            found[-1][1] = now
        running = there


def requests(port: int, seconds: float) -> list[Request]:
    """One each :data:`REQUEST_EVERY_S`."""
    chunks = traffic.simulator(100_000, seed=12).chunks(100)
    bodies = (r.value for chunk in chunks for r in event_records(chunk.events, 12))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    made: list[Request] = []
    begin = time.perf_counter()
    for i in itertools.count():
        time.sleep(max(0.0, begin + i * REQUEST_EVERY_S - time.perf_counter()))
        started = time.perf_counter()
        if started - begin > seconds:
            break
        connection.request("POST", "/v1/score", next(bodies), {"content-type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 504):  # 504: late, which is what is measured here
            raise MillraceError(f"benchmark: expected 200, got {answer.status}: {body!r}")
        if started - begin >= WARM_S:
            made.append(Request(started, time.perf_counter() - started))
    connection.close()
    return made


def sorted_out(made: list[Request], trained: list[list[float]]) -> dict[str, list[float]]:
    """Seconds of the requests within a training, within none, and about its end."""
    kinds: dict[str, list[float]] = {"without": [], "beside": [], "installing": []}
    for at, seconds in made:
        end = at + seconds
        if any(first <= at and end <= last for first, last in trained):
            kinds["beside"].append(seconds)
        elif any(at < last + AFTER_S and end > first for first, last in trained):
            kinds["installing"].append(seconds)
        else:
            kinds["without"].append(seconds)
    return kinds


def measured(learned: int, seconds: float) -> dict[str, Any]:
    """The quantiles of each kind."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        others = {"members": [*traffic.COMPILED, TRAINED]}
        config = traffic.config(directory, **others)
        size = int(RATE * APPEND_S)
        total = learned + int(RATE * seconds)
        pieces = traffic.pieces(traffic.simulator(total), size, lag=LAG)
        traffic.append(config, itertools.islice(pieces, learned // size))
        log = open_log(config, wall_clock_ms)
        send = traffic.sender(log, config)
        stop, found = threading.Event(), list[list[float]]()
        made = list(itertools.islice(pieces, int(seconds / APPEND_S)))
        with Daemon(traffic.changes(directory, **others), directory) as daemon:
            daemon.wait_for(lambda: daemon.scored() >= learned)
            watch = threading.Thread(target=trainings, args=(daemon.pid, stop, found))
            stream = threading.Thread(target=paced, args=(made, APPEND_S, send, stop))
            watch.start()
            stream.start()
            kinds = sorted_out(requests(daemon.port, seconds), found)
            stop.set()
            watch.join()
            stream.join()
            refused = len(daemon.logged("refit_refused"))
        log.close()
    lasted = {"training_s": spread([last - first for first, last in found])} if found else {}
    return {"trainings": len(found), "refused": refused, **lasted} | {
        kind: quantiles_ms(each) if each else {"count": 0} for kind, each in kinds.items()
    }


def main() -> None:
    """The command line."""
    given = arguments(__doc__)
    sys.setswitchinterval(SWITCH_S)  # or this process's own threads wait for one another
    found = measured(*((40_000, 20.0) if given.quick else (100_000, 200.0)))
    if found["beside"]["count"] and found["without"]["count"]:
        ratio = found["beside"]["p99_ms"] / found["without"]["p99_ms"]
        found["targets"] = {"p99_ratio": target(ratio, 1.2, at_least=False)}
    show("scoring beside a training", {"payments_per_s": RATE} | found, given.json)


if __name__ == "__main__":
    main()
