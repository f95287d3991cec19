"""The board of a service of many processes, against a real Prometheus that scraped all of them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stream.demo.scaled import played, service, wait_ready
from tests.monitoring.show.scraping import (
    Scraped,
    numbers,
    prometheus,
    scraped_again,
    unanswered,
)

JOB = "fraud"


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
            scraped_again(http, 3)
            scraped = Scraped(http, start, time.time())
            assert unanswered(scraped, "scaled", filled) == []
            lag = numbers(scraped, f'millrace_risk_lag_seconds{{job="{JOB}"}}', instant=True)
            assert len(lag) == len(processes) - 1  # a learner has no risk
            assert all(map(math.isfinite, lag))
