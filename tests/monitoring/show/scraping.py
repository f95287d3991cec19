"""A real Prometheus that scrapes, and what a dashboard's queries give there."""

from __future__ import annotations

import math
import re
import socket
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from monitoring.show.dashboards.build import BOARDS
from tests.support.tools import program
from tests.support.waiting import DEADLINE_S, wait_until


class Scraped(NamedTuple):
    """A Prometheus that holds a run, and when the run was under way."""

    http: httpx.Client
    start: float
    end: float


@contextmanager
def prometheus(
    directory: Path, ports: Mapping[str, Sequence[int]], renamed: tuple[str, str] | None = None
) -> Iterator[httpx.Client]:
    """Debian's Prometheus, scraping each job's ports.

    ``renamed``: a job, and a metric that gets another name there.
    """
    jobs: list[dict[str, Any]] = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in own]}]}
        for job, own in ports.items()
    ]
    if renamed is not None:
        job, metric = renamed
        rename = {"source_labels": ["__name__"], "regex": metric, "target_label": "__name__"}
        jobs[list(ports).index(job)]["metric_relabel_configs"] = [
            rename | {"replacement": metric + "_x"}
        ]
    file = directory / "prometheus.yml"
    interval = {"scrape_interval": "2s", "scrape_timeout": "2s"}
    file.write_text(yaml.safe_dump({"global": interval, "scrape_configs": jobs}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        program("prometheus", "prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://{address}"
        with httpx.Client(base_url=url, trust_env=False, timeout=DEADLINE_S) as http:
            wait_until(lambda: answers(http), "Prometheus")
            yield http
    finally:
        process.terminate()
        process.wait()


def answers(http: httpx.Client) -> bool:
    """Whether Prometheus is ready."""
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def scraped_again(http: httpx.Client, times: int) -> None:
    """Wait until all jobs were scraped so many times more."""

    def successes() -> list[int]:
        query = {"query": "sort(sum_over_time(up[1h]))"}
        result = http.get("/api/v1/query", params=query).json()["data"]["result"]
        return [int(r["value"][1]) for r in result] or [0]

    before = max(successes())
    wait_until(lambda: min(successes()) >= before + times, f"{times} scrapes")


def numbers(scraped: Scraped, query: str, instant: bool) -> list[float]:
    """Every sample of the result, over the run or at its end; raises what Prometheus says."""
    if instant:
        answer = scraped.http.get("/api/v1/query", params={"query": query, "time": scraped.end})
    else:
        # In whole steps, so that the end is one of them.
        seconds = math.ceil(scraped.end - scraped.start)
        window = {"start": scraped.end - seconds, "end": scraped.end, "step": 1}
        answer = scraped.http.get("/api/v1/query_range", params={"query": query, **window})
    body = answer.json()
    assert body["status"] == "success", f"{query}: {body.get('error')}"
    result = body["data"]["result"]
    if body["data"]["resultType"] == "scalar":
        return [float(result[1])]
    pairs = [[r["value"]] if instant else r["values"] for r in result]
    return [float(value) for series in pairs for _, value in series]


def unanswered(
    scraped: Scraped,
    board: str,
    filled: Callable[[str], str],
    without: Collection[str] = (),
    elsewhere: str = "",
) -> list[str]:
    """Titles of the board's panels with a query that gives nothing, or nothing but NaN.

    ``filled`` makes of a query what Grafana sends. ``without``: metrics that need be no numbers;
    ``elsewhere``: how the names of those begin that are not here at all.
    """
    titles = []
    for panel in BOARDS[board]["panels"]:
        for target in panel.get("targets", ()):
            names = set(re.findall(r"millrace_[a-z0-9_]+", target["expr"]))
            if elsewhere and all(name.startswith(elsewhere) for name in names):
                continue
            found = numbers(scraped, filled(target["expr"]), target["instant"])
            finite = any(math.isfinite(v) for v in found)
            if not found or not (finite or names <= set(without)):
                titles.append(f"{panel['title']}: {target['expr']}")
    return titles
