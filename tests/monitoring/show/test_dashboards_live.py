"""Every panel's query against a real Prometheus that scraped a real service under traffic."""

from __future__ import annotations

import math
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from monitoring.show.dashboards.build import BOARDS, TASKS
from stream.demo.demo import demo_config
from stream.demo.player import Player
from stream.demo.simulator import Simulator
from stream.run.front import Front
from stream.settings.load import parse
from stream.settings.schema import Config
from tests.support.runner import caught_up, running
from tests.support.tools import program
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.prometheus

OURS = [name for name in BOARDS if "binary" in TASKS.get(name, ("binary",))]
EVENTS = 12_600
RENAMED = "millrace_score_ratio_bucket"
"""What the job `renamed` exposes under another name."""
WITHOUT_NUMBERS = {
    "millrace_score_psi",
    "millrace_feature_psi",
    "millrace_feature_ks_ratio",
}
"""Not a number before 20,000 events; the series must be there all the same."""


class Scraped(NamedTuple):
    """A Prometheus that holds a run, and when the run was under way."""

    http: httpx.Client
    start: float
    end: float


def configuration(directory: Path) -> Config:
    """The demo's, with two quick members, its state saved every second."""
    raw = demo_config(directory, 0).model_dump(mode="json", exclude_none=True)
    raw["members"] = [m for m in raw["members"] if m["name"] in ("logistic", "bayes")]
    raw["checkpoints"]["interval"] = "1s"
    raw["label"]["horizon"] = "10d"
    raw["audit"]["each"]["update_norm"] = {"limit": 1e9}  # measured at every update, never passed
    return parse(raw, "test")


@contextmanager
def prometheus(directory: Path, port: int) -> Iterator[httpx.Client]:
    """Debian's Prometheus, scraping that port as job `millrace` and as job `renamed`."""
    target = [{"targets": [f"127.0.0.1:{port}"]}]
    rename = {"source_labels": ["__name__"], "regex": RENAMED, "target_label": "__name__"}
    jobs: list[dict[str, Any]] = [{"job_name": "millrace", "static_configs": target}]
    jobs.append({"job_name": "renamed", "static_configs": target})
    jobs[1]["metric_relabel_configs"] = [rename | {"replacement": RENAMED + "_x"}]
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


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """Payments with fraud and late labels, bad records and requests, scraped before and after."""
    directory = tmp_path_factory.mktemp("dashboards")
    with running(configuration(directory)) as service:
        front = Front(service)
        front.start()
        assert front.server is not None
        with prometheus(directory, front.server.port) as http:
            start = time.time()
            scraped_again(http, 1)
            simulator = Simulator(3, 60, 24, fraud_share=0.05, events=EVENTS)
            player = Player(simulator, service.log.append, rate=None, bad_share=0.01)
            counts = player.run(threading.Event())
            url = f"http://127.0.0.1:{front.server.port}/v1/models"
            assert httpx.get(url, trust_env=False, timeout=DEADLINE_S).status_code == 200
            caught_up(service, counts.events + counts.labels + sum(counts.bad.values()))
            wait_until(lambda: service.checkpointer.written_total > 0, "a checkpoint")
            scored = f'millrace_events_scored_total{{model="fraud"}} {counts.events:.1f}'
            wait_until(lambda: scored in front.metrics().decode(), "the readings")
            # The first of them may have begun before; the KS distance is over two and an earlier.
            scraped_again(http, 3)
            yield Scraped(http, start, time.time())
        front.stop()


def scraped_again(http: httpx.Client, times: int) -> None:
    """Wait until both jobs were scraped so many times more."""

    def successes() -> list[int]:
        query = {"query": "sort(sum_over_time(up[1h]))"}
        result = http.get("/api/v1/query", params=query).json()["data"]["result"]
        return [int(r["value"][1]) for r in result] or [0]

    before = max(successes())
    wait_until(lambda: min(successes()) >= before + times, f"{times} scrapes")


def filled(query: str, job: str) -> str:
    """The query as Grafana sends it, over the whole run; the hour of the KS distance is seconds."""
    query = query.replace("$__rate_interval", "1h").replace("$job", job).replace("$model", "fraud")
    return query.replace("[5m]", "[1h]").replace("offset 1h", "offset 2s")


def numbers(scraped: Scraped, query: str, instant: bool) -> list[float]:
    """Every sample of the result, over the run or at its end; raises what Prometheus says."""
    if instant:
        answer = scraped.http.get("/api/v1/query", params={"query": query, "time": scraped.end})
    else:
        window = {"start": scraped.start, "end": scraped.end, "step": 1}
        answer = scraped.http.get("/api/v1/query_range", params={"query": query, **window})
    body = answer.json()
    assert body["status"] == "success", f"{query}: {body.get('error')}"
    result = body["data"]["result"]
    if body["data"]["resultType"] == "scalar":
        return [float(result[1])]
    pairs = [[r["value"]] if instant else r["values"] for r in result]
    return [float(value) for series in pairs for _, value in series]


def unanswered(scraped: Scraped, board: str, job: str) -> list[str]:
    """Titles of the board's panels with a query that gives nothing, or nothing but NaN."""
    titles = []
    for panel in BOARDS[board]["panels"]:
        for target in panel.get("targets", ()):
            found = numbers(scraped, filled(target["expr"], job), target["instant"])
            names = set(re.findall(r"millrace_[a-z0-9_]+", target["expr"]))
            finite = any(math.isfinite(v) for v in found)
            if not found or not (finite or names <= WITHOUT_NUMBERS):
                titles.append(f"{panel['title']}: {target['expr']}")
    return titles


@pytest.mark.parametrize("board", OURS)
def test_every_panel_has_data(scraped: Scraped, board: str) -> None:
    """No query of a dashboard fails or comes back empty after a real run."""
    assert unanswered(scraped, board, "millrace") == []


def test_a_renamed_metric_is_noticed(scraped: Scraped) -> None:
    """Where one metric has another name, the panels over it are empty and no other ones."""
    found = [title for board in OURS for title in unanswered(scraped, board, "renamed")]
    assert len(found) == 3
    assert all(RENAMED in title for title in found)


@pytest.mark.parametrize("board", OURS)
def test_variables_and_marks_have_data(scraped: Scraped, board: str) -> None:
    """The variables find job and model; the annotation's query finds its series."""
    made = BOARDS[board]
    for variable in made["templating"]["list"]:
        if variable["type"] == "query":
            query = filled(variable["definition"], "millrace")
            series, _, label = query.removeprefix("label_values(").rstrip(")").rpartition(", ")
            answer = scraped.http.get(f"/api/v1/label/{label}/values", params={"match[]": series})
            assert {"job": "millrace", "model": "fraud"}[label] in answer.json()["data"]
    for mark in made["annotations"]["list"]:
        query = filled(mark["expr"], "millrace").removesuffix("> 0")
        assert numbers(scraped, query, instant=False)
