"""Scorers that rank and their learner on a real broker: asked over HTTP, and what they tell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import expect
from prometheus_client.parser import text_string_to_metric_families

from stream.run.front import Front
from stream.run.service import Service
from stream.tools.audit.score import explain_score
from tests.stream.http.test_rankings_asked import ids
from tests.stream.step.ranking import scaled
from tests.stream.step.roles.scaled import of_role
from tests.support.broker import unique
from tests.support.factory import interaction, wish
from tests.support.log_harness import kafka_table
from tests.support.runner import running
from tests.support.tools import chromium
from tests.support.waiting import DEADLINE_S, PATIENT, wait_until

pytestmark = pytest.mark.kafka
TOPICS = ("events", "labels", "control", "scores", "dead_letters", "audit")
TAKEN = 120


class Process(NamedTuple):
    """One of the processes, and a client of it."""

    service: Service
    front: Front
    client: httpx.Client

    @property
    def engine(self) -> Any:
        return self.service.engine

    def series(self) -> dict[str, float]:
        """What a scrape finds, by name and label values."""
        return {
            " ".join((s.name, *(v for _, v in sorted(s.labels.items())))): s.value
            for family in text_string_to_metric_families(self.client.get("/metrics").text)
            for s in family.samples
        }


@contextmanager
def shop(directory: Path, bootstrap: str) -> Iterator[list[Process]]:
    """Two scorers and their learner, which comes last, each with an HTTP port."""
    tree = scaled.raw(
        2,
        name=unique("shop"),
        state_dir=str(directory / "state"),
        log=kafka_table(bootstrap, client="confluent"),
        topics={name: unique(name) for name in TOPICS} | {"partitions": 4},
        http={"port": 0, "score_timeout": PATIENT},
    )
    configs = [of_role(tree, "learner"), *(of_role(tree, "scorer", i) for i in range(2))]
    with ExitStack() as stack:
        found = []
        for config in configs:
            service = stack.enter_context(running(config))
            front = Front(service)
            front.start()
            stack.callback(front.stop)
            assert front.server is not None
            url = f"http://127.0.0.1:{front.server.port}"
            client = stack.enter_context(httpx.Client(base_url=url, timeout=DEADLINE_S))
            found.append(Process(service, front, client))
        yield [*found[1:], found[0]]


def known(processes: list[Process], n: int) -> None:
    """Wait until the learner has taken so many deeds, and each scorer has them back."""
    *scorers, learner = processes

    def done() -> bool:
        newest = {process.engine.versions.current for process in processes}
        ahead = sum(len(scorer.engine.ahead) for scorer in scorers)
        return learner.engine.counts["deeds.taken"] == n and len(newest) == 1 and not ahead

    wait_until(done, f"{n} deeds to come back")


@pytest.fixture(scope="module")
def processes(
    tmp_path_factory: pytest.TempPathFactory, kafka_bootstrap: str
) -> Iterator[list[Process]]:
    """The service, after interactions that came to the one scorer or the other."""
    with shop(tmp_path_factory.mktemp("shop"), kafka_bootstrap) as found:
        for i, scorer in enumerate(found[:2]):
            half = [interaction(n, type="view") for n in range(i, TAKEN, 2)]
            answer = scorer.client.post("/feedback", json=half)
            assert answer.status_code == 202, answer.text
            assert {place["partition"] for place in answer.json()["partitions"]} <= {i, i + 2}
        known(found, TAKEN)
        yield found


def path(process: Process, kind: str) -> str:
    """By the name of the service, at each of its processes."""
    return f"/{kind}/{process.service.config.service}"


def test_any_scorer_answers_whoever_asks(processes: list[Process]) -> None:
    """What users did stood in partitions of either; both rank for each alike."""
    for n in range(20):
        asked = {key: v for key, v in wish(n).items() if key not in ("event", "id")}
        said = []
        for scorer in processes[:2]:
            answer = scorer.client.post(path(scorer, "recommend"), json=asked)
            assert answer.status_code == 200, answer.text
            said.append([(place["item"], place["score"]) for place in answer.json()["items"]])
            assert not answer.json()["fallback"]
        assert said[0] == said[1]
        assert len(said[0]) == 3
    asked = {"user": "u1", "items": [{"id": "new"}, {"id": "m3"}], "seen": "include"}
    ranked = processes[1].client.post(path(processes[1], "rank"), json=asked)
    assert [place["item"] for place in ranked.json()["items"]] == ["m3", "new"]


def test_what_was_done_here_counts_at_once(processes: list[Process]) -> None:
    """It stands before the request, in the partition of the same user."""
    for i, scorer in enumerate(processes[:2]):
        user, n = f"guest{i}", processes[2].engine.counts["deeds.taken"]
        took = interaction(5, id=f"guest{i}", user=user, type="buy")
        assert scorer.client.post("/feedback", json=took).status_code == 202
        answer = scorer.client.post(path(scorer, "recommend"), json={"user": user}).json()
        assert answer["fallback"] is False
        assert took["item"] not in [place["item"] for place in answer["items"]]
        known(processes, n + 1)


def test_the_learner_says_whom_to_ask(processes: list[Process]) -> None:
    """It takes no records and answers nothing; labels belong to no service that ranks."""
    *scorers, learner = processes
    names = ", ".join(scorer.service.config.name for scorer in scorers)
    for at, body in (
        ("/feedback", interaction(0)),
        (path(learner, "recommend"), {"user": "u1"}),
        (path(learner, "rank"), {"items": [{"id": "m1"}]}),
        ("/v1/events", interaction(0)),
    ):
        refused = learner.client.post(at, json=body)
        assert refused.status_code == 404, refused.text
        assert f"ask {names}" in refused.json()["detail"]
    for process in processes:
        refused = process.client.post("/v1/labels", json={"id": "e1", "label": True})
        assert refused.status_code == 404
        assert "/feedback" in refused.json()["detail"]


def test_metrics_tell_what_each_does(processes: list[Process]) -> None:
    """Scorers answer and are not cold; the learner judges; versions and digests are the same."""
    learner = processes[2]
    taken = learner.engine.counts["deeds.taken"]

    def told(process: Process) -> dict[str, float]:
        """By name alone, of labels whose value is this model's."""
        return {
            key.replace(process.service.config.name, "NAME").replace(
                process.service.config.service, "SERVICE"
            ): value
            for key, value in process.series().items()
        }

    number = learner.engine.versions.current.number
    for process in processes:
        version = f"millrace_version NAME {process.service.config.shard.role} SERVICE"
        wait_until(lambda p=process, v=version: told(p)[v] == number, "readings")  # type: ignore[misc]
    found = [told(process) for process in processes]
    digests = {f["millrace_version_digest NAME scorer SERVICE"] for f in found[:2]}
    assert digests == {found[2]["millrace_version_digest NAME learner SERVICE"]}
    handed = sum(f["millrace_deeds_total NAME scorer SERVICE"] for f in found[:2])
    assert handed == taken
    for f in found[:2]:
        assert f["millrace_version_age_seconds NAME scorer SERVICE"] == 0
        assert f["millrace_deeds_ahead NAME SERVICE"] == 0
        assert f["millrace_deeds_missed NAME SERVICE"] == 0
        assert f["millrace_labels_total NAME joined"] == taken
        assert f["millrace_updates_applied_total recommender NAME"] == 0
    assert "millrace_deeds_ahead NAME SERVICE" not in found[2]
    assert [f["millrace_cold NAME"] for f in found] == [0, 0, 0]
    assert found[2]["millrace_events_scored_total NAME"] == 0
    assert found[2]["millrace_labels_total NAME joined"] == learner.engine.counts["learned"]
    hits = [f["millrace_quality_hit_10 arrival ensemble NAME sliding"] for f in found]
    assert [math.isnan(hit) for hit in hits] == [True, True, False]


def test_a_scorer_that_lacks_versions_says_so_and_stays_ready(processes: list[Process]) -> None:
    """Who is told so on the page and by the probe can look for the learner."""
    scorer = processes[0]
    wait_until(lambda: scorer.front.snapshot()["shared"] is not None, "readings")
    latest = scorer.front._latest
    assert latest.shared is not None
    shared = latest.shared.__class__(**_fields(latest.shared) | {"missed": True})
    scorer.front._latest = latest.__class__(**_fields(latest) | {"shared": shared})
    ready, detail = scorer.front.ready()
    scorer.front._latest = latest
    assert ready
    assert detail.endswith("versions of the learner are missing: waits for all that is known")


def _fields(of: Any) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__dataclass_fields__}


def test_an_answer_is_taken_apart(processes: list[Process]) -> None:
    """Done again to the same bits, by the learner's version that it was made by."""
    scorer = processes[1]
    body = {"id": "apart", "user": "u4", "count": 3}
    answer = scorer.client.post(path(scorer, "recommend"), json=body)
    found = explain_score(scorer.service.config, "apart")
    assert found["replay"] == "the same bits"
    assert [place["id"] for place in found["places"]] == ids(answer)
    version = found["step"]["version"]
    assert version["of"] == processes[2].service.config.name
    assert version["digest"] == scorer.engine.versions.current.digest


def test_the_description_names_the_services_paths(processes: list[Process]) -> None:
    """One for all processes: clients need not know which they ask."""
    for process in processes:
        paths = process.client.get("/openapi.json").json()["paths"]
        assert {path(process, "rank"), path(process, "recommend")} <= set(paths)


@pytest.mark.browser
def test_the_learners_page_tells_of_each_scorer(processes: list[Process]) -> None:
    """Partitions and versions; a scorer's page says by what it answers."""
    complaints: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(DEADLINE_S * 1000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(str(processes[2].client.base_url))
        rows = page.locator("#shared-table tbody tr")
        for i, scorer in enumerate(processes[:2]):
            expect(rows.nth(i)).to_contain_text(scorer.service.config.name)
            expect(rows.nth(i)).to_contain_text(f"{i}, {i + 2}")
        expect(page.locator("#shared-note")).to_contain_text("they answer")
        page.goto(str(processes[0].client.base_url))
        expect(page.locator("#shared-note")).to_contain_text("It answers by version")
        expect(page.locator("#shared-note")).to_contain_text("0 of ")
    assert complaints == []
