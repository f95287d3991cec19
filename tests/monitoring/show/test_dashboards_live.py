"""Every panel's query against a real Prometheus that scraped real services under traffic: one for
each kind of target."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from monitoring.show.dashboards.build import BOARDS, FOR, Shard
from stream.contract.records import NewRecord
from stream.demo.arrival import ArrivalSimulator
from stream.demo.demo import demo_config
from stream.demo.kinds import KINDS as SIMULATED
from stream.demo.kinds import KindName
from stream.demo.player import CHUNK_S, Player, Writing
from stream.demo.shop import ShopSimulator
from stream.demo.simulator import Rows, Simulation, Simulator
from stream.demo.triage import TriageSimulator
from stream.run.front import Front
from stream.run.service import Service
from stream.settings.load import parse
from stream.settings.schema import Config
from tests.monitoring.show.scraping import (
    Scraped,
    numbers,
    prometheus,
    scraped_again,
    unanswered,
)
from tests.support.factory import to_json
from tests.support.runner import caught_up, running
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.prometheus


class Kind(NamedTuple):
    """One kind of target, and its stream: what is not the demo's."""

    name: KindName
    model: str
    has: tuple[Shard, ...]
    members: tuple[str, ...]
    horizon: str
    stream: Callable[[], Simulation]

    @property
    def task(self) -> Shard:
        return self.has[0]


PLAIN = ("logistic", "crossed")
PAYMENTS = partial(Simulator, 3, 60, 24, fraud_share=0.05, drift=False, events=12_600)
TICKETS = partial(TriageSimulator, 3, 400, drift=False, events=10_000)
DELIVERIES = partial(ArrivalSimulator, 3, 600, drift=False, events=8_000)
"""Without drift: while an alarm lasts its statistic is no number. Long enough for 2,000 labels that
warm a model up, 2,000 that tell what is usual, and a challenger that is judged."""
SHOP = partial(ShopSimulator, 3, 200, drift=False, events=6_000)
KINDS = {
    "millrace": Kind(
        "payments", "fraud", ("binary", "windows"), ("logistic", "bayes"), "10d", PAYMENTS
    ),
    "classes": Kind("triage", "triage", ("classes", "windows"), PLAIN, "6d", TICKETS),
    "number": Kind("arrival", "arrival", ("number", "windows"), PLAIN, "4h", DELIVERIES),
    "ranking": Kind("shop", "shop", ("ranking",), (), "1d", SHOP),
    "ratings": Kind("shop", "shop", ("ranking", "ratings"), (), "1d", SHOP),
    "stage": Kind(
        "shop", "shop", ("ranking", "second stage", "windows"), ("linear", "crossed"), "1d", SHOP
    ),
}
"""By the job that Prometheus scrapes each as."""
JOBS = KINDS | {"renamed": KINDS["millrace"]}
OURS = {
    job: [name for name in BOARDS if set(kind.has) & set(FOR.get(name, kind.has))]
    for job, kind in JOBS.items()
}
EACH = pytest.mark.parametrize(
    ("job", "board"), [(job, b) for job, boards in OURS.items() if job != "renamed" for b in boards]
)
RENAMED = "millrace_score_ratio_bucket"
"""What the job `renamed` exposes under another name."""
WITHOUT_NUMBERS = {
    "millrace_score_psi",
    "millrace_feature_psi",
    "millrace_feature_ks_ratio",
}
"""Not a number before 20,000 events; the series must be there all the same."""
ELSEWHERE = "millrace_replica_"
"""Of read replicas, none of which runs here."""

RUSH = {"millrace_drift_statistic", "millrace_drift_threshold"}
"""Of deliveries: their first rush hour is told as a rise, and while it lasts there is no number."""


def configuration(directory: Path, kind: Kind) -> Config:
    """The demo's, with two quick members, its state saved every second."""
    raw = demo_config(directory, 0, kind.name).model_dump(mode="json", exclude_none=True)
    raw["members"] = [m for m in raw["members"] if m["name"] in kind.members]
    raw["checkpoints"]["interval"] = "1s"
    raw["label"]["horizon"] = kind.horizon
    if kind.task == "classes":
        # Without a class that alerts no threshold is a number, without others to enter no limit.
        raw["target"] |= {"classes": ["billing"], "alert": "billing", "max_classes": 6}
    if kind.task == "ranking":
        change_shop(raw, kind.has)
    raw["audit"]["each"]["update_norm"] = {"limit": 1e9}  # measured at every update, never passed
    return parse(raw, "test")


def change_shop(raw: dict[str, Any], has: Sequence[Shard]) -> None:
    """Lists are drawn; ratings are foretold, or members see windows, where the kind has them."""
    raw["reco"]["explore"] = {"temperature": 1.0}
    if "ratings" in has:
        raw["reco"]["ratings"] = {}
    if "second stage" not in has:
        del raw["members"], raw["features"], raw["event"]["fields"]
        return
    window = {"type": "window", "entity": "pair", "windows": ["1d"], "name": "repeats"}
    raw["features"].append(window)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """Events and late labels, bad records and requests, scraped before and after."""
    directory = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as stack:
        served = {
            job: stack.enter_context(serving(directory / job, kind)) for job, kind in KINDS.items()
        }
        ports = {job: [port_of(front)] for job, (_, front) in served.items()}
        ports["renamed"] = ports["millrace"]
        with prometheus(directory, ports, ("renamed", RENAMED)) as http:
            start = time.time()
            scraped_again(http, 1)
            for job, (service, front) in served.items():
                play(KINDS[job], service, front)
            # The first of them may have begun before; the KS distance is over one before the last
            # 2 s and an earlier one.
            scraped_again(http, 4)
            yield Scraped(http, start, time.time())


@contextmanager
def serving(directory: Path, kind: Kind) -> Iterator[tuple[Service, Front]]:
    """A service of that kind and its HTTP."""
    with running(configuration(directory, kind)) as service:
        front = Front(service)
        front.start()
        try:
            yield service, front
        finally:
            front.stop()


def port_of(front: Front) -> int:
    assert front.server is not None
    return front.server.port


def play(kind: Kind, service: Service, front: Front) -> None:
    """Let the service take a stream of its kind, to the end, and answer a request.

    A challenger runs from the beginning, where there may be one.
    It learns what labels tell of a thousand events before it scores the next thousand.
    """
    sent = 0

    def append(topic: str, records: Sequence[NewRecord]) -> None:
        nonlocal sent
        caught_up(service, sent)
        service.log.append(topic, records)
        sent += len(records)

    if kind.task != "ranking":
        challenge = {"command": "challenge", "member": kind.members[0]}
        append(service.config.topics.control, [NewRecord(None, to_json(challenge))])
    writing = SIMULATED[kind.name].writing
    player = Player(
        kind.stream(),
        append,
        rate=1000 / CHUNK_S,
        sleep=lambda s: None,
        bad_share=0.01,
        writing=rated(writing) if "ratings" in kind.has else writing,
    )
    counts = player.run(threading.Event())
    url = f"http://127.0.0.1:{port_of(front)}/v1/models"
    assert httpx.get(url, trust_env=False, timeout=DEADLINE_S).status_code == 200
    caught_up(service, sent)
    wait_until(lambda: service.checkpointer.written_total > 0, "a checkpoint")
    consumed = service.config.topics.events, counts.events + sum(counts.bad.values())
    read = 'millrace_events_consumed_total{{topic="{}"}} {:.1f}'.format(*consumed)
    wait_until(lambda: read in front.metrics().decode(), "the readings")


def rated(writing: Writing) -> Writing:
    """The same interactions, each with a rating."""

    def events(rows: Rows, seed: int) -> list[NewRecord]:
        found = []
        for record in writing.events(rows, seed):
            told = json.loads(record.value or b"")
            if told["event"] == "interaction":
                told["value"] = 1 + len(told["item"] + told["user"]) % 5
            found.append(NewRecord(record.key, to_json(told)))
        return found

    return writing._replace(events=events)


def filled(query: str, job: str) -> str:
    """The query as Grafana sends it, over the whole run; the hour of the KS distance is seconds."""
    query = query.replace("$__rate_interval", "1h").replace("$job", job)
    query = query.replace("${model}", "$model").replace("$model", JOBS[job].model)
    return query.replace("[5m]", "[1h]").replace("offset 1h", "offset 2s")


def empty(scraped: Scraped, board: str, job: str) -> list[str]:
    """The board's panels of this job that show nothing, but for what cannot be here."""
    without = WITHOUT_NUMBERS | (RUSH if job in ("number", "stage") else set())
    return unanswered(scraped, board, partial(filled, job=job), without, ELSEWHERE)


@EACH
def test_every_panel_has_data(scraped: Scraped, job: str, board: str) -> None:
    """No query of a dashboard fails or comes back empty after a real run."""
    assert empty(scraped, board, job) == []


def test_a_renamed_metric_is_noticed(scraped: Scraped) -> None:
    """Where one metric has another name, the panels over it are empty and no other ones."""
    found = [title for board in OURS["renamed"] for title in empty(scraped, board, "renamed")]
    assert len(found) == 3
    assert all(RENAMED in title for title in found)


@EACH
def test_variables_and_marks_have_data(scraped: Scraped, job: str, board: str) -> None:
    """The variables find job and model; the annotation's query finds its series."""
    made = BOARDS[board]
    for variable in made["templating"]["list"]:
        if variable["type"] == "query":
            query = filled(variable["definition"], job)
            series, _, label = query.removeprefix("label_values(").rstrip(")").rpartition(", ")
            answer = scraped.http.get(f"/api/v1/label/{label}/values", params={"match[]": series})
            assert {"job": job, "model": JOBS[job].model}[label] in answer.json()["data"]
    for mark in made["annotations"]["list"]:
        query = filled(mark["expr"], job).removesuffix("> 0")
        assert numbers(scraped, query, instant=False)
