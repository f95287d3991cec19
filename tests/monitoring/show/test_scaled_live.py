"""The board of a service of many processes, against a real Prometheus that scraped all of them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from monitoring.show.dashboards.build import BOARDS
from stream.demo.scaled import played, service, wait_ready
from tests.monitoring.show.scraping import (
    Scraped,
    numbers,
    prometheus,
    scraped_again,
    unanswered,
)
from tests.stream.http.test_rankings_spread import known, shop
from tests.support.factory import interaction, wish
from tests.support.waiting import wait_until

JOB = "fraud"
OF_SCORES = ("Risk of", "Events scored by risk", "Labels", "Records of labels")
"""Panels of what no service that ranks has."""


def filled(query: str) -> str:
    """The query as Grafana sends it, over the whole run."""
    query = query.replace("$__rate_interval", "1h").replace("$job", JOB)
    return query.replace("[5m]", "[1h]")


@pytest.mark.kafka
@pytest.mark.prometheus
def test_every_panel_of_many_processes_has_data(kafka_bootstrap: str, tmp_path: Path) -> None:
    """Versions, what waits, shared risk, labels handed on: two scorers and a learner."""
    with service(tmp_path, kafka_bootstrap, 0, {"MILLRACE_SHARD__LABELS": "any"}) as processes:
        ports = [urlsplit(process.url).port or 0 for process in processes]
        with prometheus(tmp_path, {JOB: ports}) as http:
            wait_ready(processes)
            start = time.time()
            scraped_again(http, 1)
            played(processes, seconds=3, rate=500, seed=3)
            lacking: list[str] = []

            def answered() -> bool:
                now = Scraped(http, start, time.time())
                lacking[:] = unanswered(now, "scaled", filled, elsewhere="millrace_deeds_")
                return not lacking

            try:
                wait_until(answered, "a number on every panel")  # labels are learned meanwhile
            finally:
                assert lacking == []
            scraped = Scraped(http, start, time.time())
            lag = numbers(scraped, f'millrace_risk_lag_seconds{{job="{JOB}"}}', instant=True)
            assert len(lag) == len(processes) - 1  # a learner has no risk
            assert all(map(math.isfinite, lag))


@pytest.mark.kafka
@pytest.mark.prometheus
def test_every_panel_of_rankings_has_data(kafka_bootstrap: str, tmp_path: Path) -> None:
    """Versions, deeds, quality that the learner judges; nothing lags, differs or is missing."""
    with shop(tmp_path, kafka_bootstrap) as processes:
        ports = [process.front.server.port for process in processes if process.front.server]
        with prometheus(tmp_path, {JOB: ports}) as http:
            start, n = time.time(), 60
            scraped_again(http, 1)
            for first in (0, n):
                for scorer in processes[:2]:
                    done = [interaction(first + i, type="view") for i in range(n)]
                    own = [d | {"id": f"{scorer.service.config.name}-{d['id']}"} for d in done]
                    answer = scorer.client.post("/feedback", json=[*own, wish(first)])
                    assert answer.status_code == 202, answer.text
                known(processes, 2 * (first + n))
                scraped_again(http, 3)
            scraped = Scraped(http, start, time.time())
            lacking = unanswered(scraped, "scaled", filled)
            assert [title for title in lacking if not title.startswith(OF_SCORES)] == []
            panels = {panel["title"]: panel for panel in BOARDS["scaled"]["panels"]}
            expr = filled(panels["Members that differ"]["targets"][0]["expr"])
            assert set(numbers(scraped, expr, instant=True)) == {0}
