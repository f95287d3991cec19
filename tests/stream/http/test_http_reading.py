"""What people and probes ask: models, parameters, tails, health, metrics, pages, the live feed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from stream.contract.records import NewRecord
from stream.http.api import Api
from stream.http.score import ScoreWaiters
from tests.support.http_fake import FakeBackend, Running, config, problem, running, take
from tests.support.waiting import DEADLINE_S, wait_until


def ask(page: Path, *paths: str) -> list[httpx.Response]:
    """The answers of an application with this live page, without a server."""

    async def run() -> list[httpx.Response]:
        cfg = config()
        waiters = ScoreWaiters(1)
        backend = FakeBackend(cfg, waiters)
        api = Api(cfg, backend, waiters, lambda *_: None, 4, page)
        transport = httpx.ASGITransport(app=api.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://[::1]") as http:
            answers = [await http.get(p) for p in paths]
        backend.close()
        return answers

    return asyncio.run(run())


class TestReading:
    def test_models_and_parameters_come_from_the_backend(self, shared: Running) -> None:
        """Both are passed on as JSON."""
        assert shared.http.get("/v1/models").json() == shared.backend.models()
        assert shared.http.get("/v1/parameters").json() == shared.backend.parameters()

    def test_audit_records_are_passed_on(self, fresh: Running) -> None:
        """The newest records, oldest first, as JSON objects."""
        for i in range(3):
            fresh.backend.append("audit", [NewRecord(None, b'{"seq":%d}' % i)])
        got = fresh.http.get("/v1/audit", params={"limit": 2}).json()
        assert got == {"records": [{"seq": 1}, {"seq": 2}]}

    def test_dead_letters_show_any_bytes(self, fresh: Running) -> None:
        """Reason and position from the headers; text as text, other bytes in hex."""
        fresh.backend.headers = (("reason", b"malformed"),)
        values = [NewRecord(None, b"{nope"), NewRecord(None, b"\xff\x00")]
        fresh.backend.append("dead-letters", values)
        assert fresh.http.get("/v1/dead-letters").json()["records"] == [
            {"reason": "malformed", "encoding": "utf-8", "value": "{nope"},
            {"reason": "malformed", "encoding": "hex", "value": "ff00"},
        ]

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=1&limit=2", "limit=", "limit=²"],
    )
    def test_a_wrong_limit_is_a_400(self, shared: Running, query: str) -> None:
        """The problem says what was expected."""
        body = problem(shared.http.get(f"/v1/audit?{query}"), "query")
        assert "1..1000" in body["detail"]

    def test_health_follows_the_backend(self, fresh: Running) -> None:
        """200 when well, 503 with the reason when not."""
        assert fresh.http.get("/livez").json() == {"status": "ok", "detail": "moving"}
        assert fresh.http.get("/readyz").json() == {"status": "ok", "detail": "restored"}
        fresh.backend.health = (False, "no heartbeat for 12 s")
        fresh.backend.readiness = (False, "the log is away")
        assert problem(fresh.http.get("/livez"), "not-live")["detail"] == "no heartbeat for 12 s"
        assert problem(fresh.http.get("/readyz"), "not-ready")["detail"] == "the log is away"

    def test_metrics_are_plain_text(self, shared: Running) -> None:
        """Prometheus reads the exposition format by its content type."""
        answer = shared.http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert answer.content == shared.backend.metrics()

    def test_a_live_page_is_served_with_its_files(self, tmp_path: Path) -> None:
        """With an index.html the directory's files are served under /live/ and nothing above."""
        page = tmp_path / "page"
        page.mkdir()
        (page / "index.html").write_text("<h1>live</h1>")
        (page / "page.js").write_text("1")
        (tmp_path / "secret").write_text("no")
        index, script, missing, above = ask(
            page, "/", "/live/page.js", "/live/none.js", "/live/%2e%2e/secret"
        )
        assert (index.text, script.text) == ("<h1>live</h1>", "1")
        assert "script-src 'self';" in index.headers["content-security-policy"]
        problem(missing, "not-found")
        problem(above, "not-found")

    def test_the_charts_script_is_the_installed_packages(self, tmp_path: Path) -> None:
        """Plotly's own file is served, kept by browsers, asked after each time."""
        (tmp_path / "index.html").write_text("<h1>live</h1>")
        [script] = ask(tmp_path, "/live/plotly.min.js")
        assert script.content[:100].count(b"plotly.js v") == 1
        assert script.headers["cache-control"] == "no-cache"
        assert script.headers["etag"]

    def test_the_plain_page_links_what_there_is(self, tmp_path: Path) -> None:
        """Without a live page `/` is a short list of links."""
        [answer] = ask(tmp_path, "/")
        assert answer.headers["content-type"].startswith("text/html")
        assert 'href="/openapi.json"' in answer.text


class TestScores:
    @pytest.mark.parametrize("event_id", ["p1", "a/b", "../../etc", "<b>&?#%", "ü 1"])
    def test_a_score_is_found_by_the_events_id(self, fresh: Running, event_id: str) -> None:
        """Whatever an id is made of, percent-encoded it is one; one route in the metrics."""
        path = f"/v1/scores/{quote(event_id, safe='')}"
        problem(fresh.http.get(path), "not-found")
        fresh.backend.seen.add(event_id)
        assert fresh.http.get(path).json()["id"] == event_id
        assert fresh.observed[-1][0] == "/v1/scores/{id}"


class TestLive:
    def test_snapshots_stream(self, fresh: Running) -> None:
        """A reader gets a snapshot and the history at once, another snapshot a second later."""
        with fresh.http.stream("GET", "/v1/live") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            first, history, second = [json.loads(x[6:]) for x in take(lines, 3, "data: ")]
        assert history == {"points": []}
        assert second["snapshots"] == first["snapshots"] + 1

    def test_readers_share_a_snapshot(
        self, fresh: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A second reader within the interval causes no second snapshot."""
        monkeypatch.setattr("stream.http.live.feed.INTERVAL_S", DEADLINE_S)
        with fresh.http.stream("GET", "/v1/live") as one, fresh.http.stream("GET", "/v1/live") as b:
            assert take(one.iter_lines(), 2, "data: ") == take(b.iter_lines(), 2, "data: ")

    def test_readers_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One reader too many gets a 503; a place that is left can be taken again."""
        monkeypatch.setattr("stream.http.live.feed.READERS", 1)
        # A server of its own: the readers of another test may not have left yet.
        with running(config()) as it:
            with it.http.stream("GET", "/v1/live") as answer:
                assert answer.status_code == 200
                lines = answer.iter_lines()  # dropping the iterator would close the connection
                take(lines, 1, "data: ")
                problem(it.http.get("/v1/live"), "overloaded")

            def open_again() -> bool:
                with it.http.stream("GET", "/v1/live") as again:
                    return again.status_code == 200

            wait_until(open_again, "the place that was left")

    def test_readers_who_come_together_are_all_counted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No more get a stream than there are places, and all of these, however they come."""
        monkeypatch.setattr("stream.http.live.feed.READERS", 4)
        with running(config()) as it, ExitStack() as streams, ThreadPoolExecutor(24) as pool:
            asked = [it.http.build_request("GET", "/v1/live") for _ in range(24)]
            answers = list(pool.map(lambda one: it.http.send(one, stream=True), asked))
            for answer in answers:
                streams.callback(answer.close)
            codes = Counter(answer.status_code for answer in answers)
            assert codes == {200: 4, 503: 20}

    def test_head_does_not_stream(self, shared: Running) -> None:
        """A HEAD request ends."""
        assert shared.http.head("/v1/live").status_code == 200

    def test_stopping_ends_streams(self) -> None:
        """A live page does not keep the service from stopping."""
        with running(config()) as it, it.http.stream("GET", "/v1/live") as answer:
            lines = answer.iter_lines()
            take(lines, 1, "data: ")
            with ThreadPoolExecutor(1) as pool:
                stopped = pool.submit(it.server.stop, DEADLINE_S)
                list(lines)
                assert stopped.result()
