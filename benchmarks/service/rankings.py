"""Rankings as the service gives them: answers over HTTP, and what it learns a second.

Run ``python -m benchmarks.service.rankings [--json] [--quick]``. Users with tastes take items of a
catalogue, as in ``benchmarks.ranking.lookups``; the members are the default ones. Answers: the
service is a process of its own on the embedded log, which has learned some; whole requests to
``/recommend`` (10 items) and ``/rank`` (500 given ones) go in turn, one after another on one
connection, beside a stream of interactions appended by this process. Learning: the service drains a
filled embedded log, each step committed durably, and so does that of ``examples/fraud.toml`` with
its compiled members, in turn.
"""

from __future__ import annotations

import http.client
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import traffic
from benchmarks.common import arguments, compare, quantiles_ms, show, target
from benchmarks.ranking.lookups import USERS, taken
from benchmarks.service.daemon import Daemon
from benchmarks.service.drain import drain
from benchmarks.service.latency import REQUEST_EVERY_S, WARM_S, paced
from models.base import MillraceError
from stream.contract.records import NewRecord
from stream.run.assemble import open_log, wall_clock_ms
from stream.run.daemon import SWITCH_S
from stream.settings.load import parse

SHOP = Path(__file__).parents[2] / "examples" / "shop.toml"
ITEMS, FEW, GIVEN = 10_000, 1_700, 500
RATE, TICK_S = 1_000, 0.02
BATCH = 4096


def changes(directory: Path, items: int) -> dict[str, Any]:
    """What replaces keys of ``examples/shop.toml``: only the recommender's default members."""
    return {
        "state_dir": str(directory / "state"),
        "log": {"type": "embedded", "path": str(directory / "log.db")},
        "reco": {"items": items, "seen": "include"},
        "features": [],
        "members": [],
        "event": {"time_format": "ms"},
        "http": {"enabled": False},
    }


def interactions(items: int, n: int) -> list[NewRecord]:
    """As records, each under an id."""
    given = taken(items, n)
    rows = zip(given.time_ms.tolist(), given.user.tolist(), given.item.tolist(), strict=True)
    return [
        NewRecord(
            b"",
            msgspec.json.encode(
                {
                    **{"event": "interaction", "id": f"e{i}", "timestamp": time_ms, "type": "view"},
                    **{"user": f"u{user}", "item": f"i{item}"},
                }
            ),
        )
        for i, (time_ms, user, item) in enumerate(rows)
    ]


def answers(before: int, seconds: float) -> dict[str, Any]:
    """Both kinds of requests beside a stream, after ``before`` interactions."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        changed = changes(directory, ITEMS)
        config = parse({"name": "shop", "target": {"type": "ranking"}} | changed, "benchmark")
        size = int(RATE * TICK_S)
        made = interactions(ITEMS, before + int((seconds + 2 * WARM_S) * RATE))
        now_ms = msgspec.json.decode(made[-1].value or b"")["timestamp"]
        log = open_log(config, wall_clock_ms)
        log.create_topics()
        topic = config.topics.events
        for first in range(0, before, BATCH):
            log.append(topic, made[first : min(first + BATCH, before)])
        pieces = [(made[i : i + size], []) for i in range(before, len(made), size)]
        stop = threading.Event()
        stream = threading.Thread(
            target=paced, args=(pieces, TICK_S, lambda piece: log.append(topic, piece[0]), stop)
        )
        with Daemon(changed, directory, example=SHOP) as daemon:
            daemon.wait_for(daemon.ready)
            _asked(daemon.port, now_ms, 0)  # answered in turn: once all before it is learned
            stream.start()
            waits = _requests(daemon.port, now_ms, seconds)
            stop.set()
            stream.join()
        log.close()
    return {kind: quantiles_ms(found) for kind, found in waits.items()}


def _requests(port: int, now_ms: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each request after the warm-up, by kind."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    waits: dict[str, list[float]] = {"recommend_10": [], "rank_500": []}
    begin, i = time.perf_counter(), 0
    while (now := time.perf_counter() - begin) < WARM_S + seconds:
        with suppress(ValueError):  # late already: go on at once
            time.sleep(i * REQUEST_EVERY_S - now)
        i += 1
        kind, path, body = _request(i, now_ms)
        started = time.perf_counter()
        _answered(connection, path, body)
        if started - begin >= WARM_S:
            waits[kind].append(time.perf_counter() - started)
    connection.close()
    return waits


def _asked(port: int, now_ms: int, i: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
    _, path, body = _request(i, now_ms)
    while not _answered(connection, path, body):
        pass
    connection.close()


def _request(i: int, now_ms: int) -> tuple[str, str, bytes]:
    """The kind of a request, its path and its body."""
    asked: dict[str, Any] = {"user": f"u{1 + i * 7 % USERS}", "timestamp": now_ms}
    if i % 2:
        return "recommend_10", "/recommend/shop", msgspec.json.encode(asked | {"count": 10})
    some = [{"id": f"i{1 + (i * 31 + k * 17) % ITEMS}"} for k in range(GIVEN)]
    return "rank_500", "/rank/shop", msgspec.json.encode(asked | {"items": some})


def _answered(connection: http.client.HTTPConnection, path: str, body: bytes) -> bool:
    """Whether it was answered in time."""
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    found = answer.read()
    if answer.status not in (200, 504):  # 504: late, which is what is measured here
        raise MillraceError(f"benchmark: {path}: expected 200, got {answer.status}: {found!r:.200}")
    return answer.status == 200


def learned(n: int) -> dict[str, Any]:
    """The service drains ``n`` interactions with a catalogue of :data:`FEW` items."""
    with tempfile.TemporaryDirectory() as name:
        changed = changes(Path(name), FEW)
        config = parse({"name": "shop", "target": {"type": "ranking"}} | changed, "benchmark")
        log = open_log(config, wall_clock_ms)
        log.create_topics()
        made = interactions(FEW, n)
        for first in range(0, n, BATCH):
            log.append(config.topics.events, made[first : first + BATCH])
        log.close()
        return drain(config, n, n)


def scored(n: int) -> dict[str, Any]:
    """The service of yes or no drains ``n`` events and their labels."""
    with tempfile.TemporaryDirectory() as name:
        config = traffic.config(Path(name))
        records = traffic.append(config, traffic.pieces(traffic.simulator(n), BATCH))
        return drain(config, records, n)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__)
    sys.setswitchinterval(SWITCH_S)  # or this process's own threads wait for one another
    n, seconds = (5 * BATCH, 5.0) if options.quick else (25 * BATCH, 30.0)
    learned(BATCH), scored(BATCH)  # compiles, or loads what was compiled
    found: dict[str, Any] = {
        "learning": compare(lambda: learned(n), lambda: scored(n), 1 if options.quick else 3),
        "stream_per_s": RATE,
        "answers": answers(n, seconds),
    }
    found["learning"]["binary"] = found["learning"].pop("theirs")
    p99 = {kind: of["p99_ms"] for kind, of in found["answers"].items()}
    found["targets"] = {
        "recommend_p99_ms": target(p99["recommend_10"], 20, False),
        "rank_p99_ms": target(p99["rank_500"], 20, False),
        "learning_ratio": target(found["learning"]["ratio_by_cpu"]["median"], 0.25, True),
    }
    show("rankings", found, options.json)


if __name__ == "__main__":
    main()
