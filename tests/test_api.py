"""The HTTP API over a real server on a free port and a backend in memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.api import Api
from stream.http_body import HELD
from stream.http_live import READERS
from stream.http_problem import KINDS
from stream.http_score import DeadLettered, Scored, ScoreWaiters, Stopped
from stream.http_server import HttpError, Server
from stream.log import DiskFull, LogError, LogUnavailable
from stream.records import NewRecord
from tests.http_fake import FakeBackend, Running, config, event, running

NDJSON = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}


def _token(name: str, *scopes: str) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": scopes}


TOKENS = [_token("scorer", "score"), _token("labeller", "label"), _token("root", "admin")]


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    """One server for tests that leave nothing behind that others would see."""
    with running(config(max_body_bytes=4096)) as it:
        yield it


@pytest.fixture
def fresh() -> Iterator[Running]:
    """A server of the test's own."""
    with running(config(score_timeout="10s")) as it:
        yield it


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    """A server that asks for tokens."""
    with running(config(tokens=TOKENS, score_timeout="10s")) as it:
        it.backend.append("audit", [NewRecord(None, b"{}")])
        yield it


def problem(response: httpx.Response, kind: str) -> dict[str, Any]:
    """The response's body, which must be a problem of this kind."""
    body: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:millrace:{kind}", body
    assert (body["status"], body["title"]) == KINDS[kind]
    assert response.status_code == body["status"]
    assert (response.status_code == 503) == ("retry-after" in response.headers)
    return body


class TestEvents:
    def test_one_event_is_appended_as_it_came(self, fresh: Running) -> None:
        """The log holds the body's very bytes, keyed by the first entity field."""
        raw = json.dumps(event("p1", customer="c9"), indent=2).encode()
        answer = fresh.http.post("/v1/events", content=raw, headers=JSON)
        assert answer.status_code == 202
        body = answer.json()
        assert (body["topic"], body["count"]) == ("events", 1)
        (row,) = body["partitions"]
        record = fresh.backend.topics["events"][row["partition"]][row["first"]]
        assert (record.key, record.value) == (b"c9", raw)

    @pytest.mark.parametrize("form", ["array", "lines"])
    def test_a_batch_is_appended_in_order(self, fresh: Running, form: str) -> None:
        """An array or lines become one record each, and the answer counts them by partition."""
        events = [event(i, customer=f"c{i}") for i in range(20)]
        if form == "array":
            answer = fresh.http.post("/v1/events", json=events)
        else:
            lines = "\r\n".join(json.dumps(e) for e in events) + "\n\n"
            answer = fresh.http.post("/v1/events", content=lines, headers=NDJSON)
        body = answer.json()
        assert (answer.status_code, body["count"]) == (202, 20)
        for row in body["partitions"]:
            stored = fresh.backend.topics["events"][row["partition"]]
            assert row["count"] == len(stored) == row["last"] - row["first"] + 1
            ids = [json.loads(r.value or b"")["payment_id"] for r in stored]
            assert ids == sorted(ids)
        assert sum(row["count"] for row in body["partitions"]) == 20

    def test_a_large_batch_is_appended(self) -> None:
        """A body past the inline size, checked in a thread, arrives whole."""
        with running(config()) as it:
            answer = it.http.post("/v1/events", json=[event(i) for i in range(2000)])
            assert answer.json()["count"] == len(it.backend.values("events")) == 2000

    def test_one_bad_record_refuses_the_batch(self, fresh: Running) -> None:
        """The problem names the record, the path, what was expected and got; nothing is stored."""
        lines = [event(1), event(2, amount="much"), {"time": 5}]
        content = "\n".join(json.dumps(e) for e in lines)
        body = problem(fresh.http.post("/v1/events", content=content, headers=NDJSON), "invalid")
        assert body["errors"] == [
            {"path": "$[1].amount", "error": "Expected `float`, got `str`"},
            {"path": "$[2]", "error": "Object missing required field `payment_id`"},
        ]
        assert fresh.backend.appends == []

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (b"", "malformed"),
            (b"  ", "malformed"),
            (b"{", "malformed"),
            (json.dumps(event()).encode() + b" 2", "malformed"),
            (b"[1, ", "malformed"),
            (b"NaN", "malformed"),
            (b"\xff\xfe{\x00}\x00", "malformed"),
            (b'{"other": ' + b"[" * 2000, "malformed"),
            (b"[" * 2000 + b"]" * 2000, "malformed"),
            (b"[]", "invalid"),
            (b"null", "invalid"),
            (b"[1]", "invalid"),
            (b'"text"', "invalid"),
            (json.dumps(event("")).encode(), "invalid"),
            (json.dumps(event("x" * 257)).encode(), "invalid"),
            (json.dumps(event(1.5)).encode(), "invalid"),  # type: ignore[arg-type]
            (json.dumps(event(None)).encode(), "invalid"),  # type: ignore[arg-type]
        ],
    )
    def test_what_can_never_be_scored_is_refused(
        self, shared: Running, content: bytes, kind: str
    ) -> None:
        """Not JSON is a 400, JSON that is no event a 422."""
        problem(shared.http.post("/v1/events", content=content, headers=JSON), kind)

    def test_a_record_over_its_limit_is_too_large(self, fresh: Running) -> None:
        """A body within its limit may still hold a record over limits.record_bytes."""
        answer = fresh.http.post("/v1/events", json=event(1, note="x" * 300_000))
        assert "limits.record_bytes" in problem(answer, "too-large")["errors"][0]["error"]

    def test_the_key_falls_back_to_the_id(self, fresh: Running) -> None:
        """An event of a configuration without entity fields is keyed by its id."""
        bare = config()
        fields = {"amount": bare.event.fields["amount"]}
        bare = bare.model_copy(update={"event": bare.event.model_copy(update={"fields": fields})})
        with running(bare) as it:
            it.http.post("/v1/events", json={"payment_id": 77, "time": 5, "amount": 1})
            keys = [r.key for p in it.backend.topics["events"] for r in p]
        assert keys == [b"77"]


class TestScore:
    def test_the_committed_score_comes_back(self, shared: Running) -> None:
        """The body is the score's record as published."""
        answer = shared.http.post("/v1/score", json=event("s1"))
        assert (answer.status_code, answer.json()) == (200, {"payment_id": "s1", "score": 0.5})
        assert shared.waiters.waiting == 0

    def test_an_integer_id_is_its_text(self, shared: Running) -> None:
        """The engine names ids by their text; so does the wait."""
        assert shared.http.post("/v1/score", json=event(12345)).status_code == 200

    def test_a_dead_letter_is_told_with_its_reason(self, fresh: Running) -> None:
        """What the engine refuses later comes back as a 422 that says why and where."""
        fresh.backend.refuse_repeats = True
        fresh.http.post("/v1/score", json=event("twice"))
        body = problem(fresh.http.post("/v1/score", json=event("twice")), "dead-lettered")
        assert body["reason"] == "duplicate_event"
        assert body["error"] == "expected a new id, got it again"
        assert (body["topic"], body["offset"]) == ("events", 1)

    def test_a_late_score_is_a_504_that_names_the_event(self) -> None:
        """The event stays in the log, and the problem says so."""
        with running(config(score_timeout="50ms")) as it:
            it.backend.scoring = False
            body = problem(it.http.post("/v1/score", json=event("late")), "late")
            assert "in the log" in body["detail"]
            assert body["offset"] == 0
            assert len(it.backend.values("events")) == 1
            assert it.waiters.waiting == 0

    def test_a_slow_append_is_a_504_that_leaves_it_open(self) -> None:
        """Before the log answered nobody knows whether the event is in it."""
        with running(config(score_timeout="50ms")) as it:
            it.backend.open.clear()
            body = problem(it.http.post("/v1/score", json=event("slow")), "late")
            assert "not confirmed" in body["detail"]
            assert "offset" not in body

    def test_the_same_id_at_once_is_a_conflict(self, fresh: Running) -> None:
        """A second request for an id that is being scored appends nothing."""
        fresh.backend.open.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(fresh.http.post, "/v1/score", json=event("same"))
            _until(lambda: fresh.waiters.waiting == 1)
            problem(fresh.http.post("/v1/score", json=event("same")), "being-scored")
            fresh.backend.open.set()
            assert first.result().status_code == 200
        assert len(fresh.backend.values("events")) == 1

    def test_more_than_max_waiting_is_a_503(self) -> None:
        """Above the bound the request is refused before its event is appended."""
        with running(config(max_waiting=1, score_timeout="10s")) as it, ThreadPoolExecutor(1) as p:
            it.backend.open.clear()
            first = p.submit(it.http.post, "/v1/score", json=event("a"))
            _until(lambda: it.waiters.waiting == 1)
            body = problem(it.http.post("/v1/score", json=event("b")), "overloaded")
            assert "http.max_waiting = 1" in body["detail"]
            it.backend.open.set()
            assert first.result().status_code == 200

    def test_an_array_is_not_one_event(self, shared: Running) -> None:
        """`/v1/score` takes a single object."""
        problem(shared.http.post("/v1/score", json=[event(1)]), "invalid")

    def test_requests_in_flight_share_appends(self, fresh: Running) -> None:
        """While one append is under way, the requests that arrive wait and go together."""
        fresh.backend.open.clear()
        with ThreadPoolExecutor(16) as pool:
            answers = [
                pool.submit(fresh.http.post, "/v1/score", json=event(f"g{i}")) for i in range(16)
            ]
            _until(lambda: fresh.waiters.waiting == 16)
            fresh.backend.open.set()
            got = {a.result().json()["payment_id"] for a in answers}
        assert got == {f"g{i}" for i in range(16)}
        # The first request's append, then all that waited, in few groups.
        assert sum(n for _, n in fresh.backend.appends) == 16
        assert len(fresh.backend.appends) <= 3

    def test_a_failed_append_fails_its_whole_group(self, fresh: Running) -> None:
        """Every request of a group hears that the log is away, and nobody waits on."""
        fresh.backend.open.clear()
        fresh.backend.failure = LogUnavailable("broker is away")
        with ThreadPoolExecutor(4) as pool:
            answers = [
                pool.submit(fresh.http.post, "/v1/score", json=event(f"f{i}")) for i in range(4)
            ]
            _until(lambda: fresh.waiters.waiting == 4)
            fresh.backend.open.set()
            for answer in answers:
                problem(answer.result(), "log-unavailable")
        assert fresh.waiters.waiting == 0


class TestLabelsAndCommands:
    def test_labels_are_keyed_by_their_event(self, fresh: Running) -> None:
        """A label goes to its topic under the id of its event."""
        answer = fresh.http.post("/v1/labels", json=[{"payment_id": 7, "fraud": True}] * 2)
        assert (answer.status_code, answer.json()["count"]) == (202, 2)
        assert [r.key for p in fresh.backend.topics["labels"] for r in p] == [b"7", b"7"]

    @pytest.mark.parametrize(
        "label",
        [{"payment_id": 7}, {"fraud": 1}, {"payment_id": 7, "fraud": "maybe"}, {"fraud": None}],
    )
    def test_a_label_without_id_or_known_truth_is_refused(
        self, shared: Running, label: dict[str, Any]
    ) -> None:
        """Such a label could never be learned from."""
        problem(shared.http.post("/v1/labels", json=label), "invalid")

    @pytest.mark.parametrize(
        "command",
        [
            {"command": "freeze", "member": "flat"},
            {"command": "release", "member": "other"},
            {"command": "set_threshold", "threshold": 0.4},
            {"command": "checkpoint"},
        ],
    )
    def test_a_command_is_appended_with_its_actor(
        self, fresh: Running, command: dict[str, Any]
    ) -> None:
        """The record says who gave the command, whatever the body claims."""
        answer = fresh.http.post("/v1/control", json=command | {"actor": "the boss"})
        assert (answer.status_code, answer.json()["topic"]) == (202, "control")
        assert [json.loads(v) for v in fresh.backend.values("control")] == [
            command | {"actor": "http"}
        ]

    @pytest.mark.parametrize(
        ("command", "path"),
        [
            ({"command": "explode"}, "$.command"),
            ({"command": "freeze"}, "$"),
            ({"command": "freeze", "member": "nobody"}, "$.member"),
            ({"command": "set_threshold", "threshold": 1.0}, "$.threshold"),
            ([], "$"),
        ],
    )
    def test_a_wrong_command_is_refused(self, shared: Running, command: Any, path: str) -> None:
        """A command that no engine would follow never reaches the control topic."""
        body = problem(shared.http.post("/v1/control", json=command), "invalid")
        assert body["errors"][0]["path"] == path

    def test_a_command_that_is_not_json_is_malformed(self, shared: Running) -> None:
        """The same 400 as for events."""
        problem(shared.http.post("/v1/control", content="{", headers=JSON), "malformed")


class TestBodies:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"content-type": "text/plain"},
            {"content-type": "application/json; charset=latin-1"},
            {"content-type": "application/json", "content-encoding": "gzip"},
        ],
    )
    def test_another_type_is_a_415(self, shared: Running, headers: dict[str, str]) -> None:
        """No type at all is refused too: that is what a foreign web page could send."""
        answer = shared.http.post("/v1/events", content=json.dumps(event()), headers=headers)
        problem(answer, "media-type")

    def test_utf8_may_be_said(self, shared: Running) -> None:
        """A charset parameter with the only charset there is does no harm."""
        headers = {"content-type": 'Application/JSON; charset="UTF-8"'}
        answer = shared.http.post("/v1/events", content=json.dumps(event()), headers=headers)
        assert answer.status_code == 202

    def test_an_announced_large_body_is_a_413(self, shared: Running) -> None:
        """The length alone refuses it."""
        answer = shared.http.post("/v1/events", content=b"x" * 4097, headers=JSON)
        assert "4096" in problem(answer, "too-large")["detail"]

    def test_a_body_that_grows_too_large_is_a_413(self, shared: Running) -> None:
        """Without a length the limit holds while the body streams: it never ends here."""

        def endless() -> Iterator[bytes]:
            while True:
                yield b"x" * 1024

        with socket.create_connection(("127.0.0.1", shared.server.port)) as raw:
            raw.settimeout(10)
            head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            raw.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
            for chunk in endless():
                try:
                    raw.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                except (BrokenPipeError, ConnectionResetError):
                    break
                raw.setblocking(False)
                try:
                    answer = raw.recv(4096)
                    break
                except BlockingIOError:
                    raw.settimeout(10)
            assert answer.startswith(b"HTTP/1.1 413")

    def test_bodies_in_memory_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond the bytes that all bodies may hold a request gets a 503, until one is done."""
        assert HELD >= 1
        monkeypatch.setattr("stream.http_body.HELD", 1)
        with (
            running(config(max_body_bytes=1024)) as it,
            ThreadPoolExecutor(1) as pool,
        ):
            it.backend.open.clear()
            big = event("big", note="x" * 700)
            first = pool.submit(it.http.post, "/v1/events", json=big)
            _until(lambda: it.backend.calls == 1)
            problem(it.http.post("/v1/events", json=big), "overloaded")
            it.backend.open.set()
            assert first.result().status_code == 202
            assert it.http.post("/v1/events", json=big).status_code == 202

    def test_a_body_that_does_not_come_is_a_408(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that stops sending does not keep its request open for ever."""
        monkeypatch.setattr("stream.http_body.DEADLINE_S", 0.05)
        with (
            running(config()) as it,
            socket.create_connection(("127.0.0.1", it.server.port)) as raw,
        ):
            raw.settimeout(10)
            raw.sendall(
                b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
            assert raw.recv(4096).startswith(b"HTTP/1.1 408")

    def test_a_client_that_leaves_is_recorded(self) -> None:
        """A connection closed mid-body is observed as 499 and breaks nothing."""
        with running(config()) as it:
            with socket.create_connection(("127.0.0.1", it.server.port)) as raw:
                raw.sendall(
                    b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
                    b"Content-Type: application/json\r\n\r\n{"
                )
            _until(lambda: ("/v1/events", "POST", 499) in [o[:3] for o in it.observed])
            assert it.http.get("/livez").status_code == 200


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
        """Text as text, other bytes in hex."""
        values = [NewRecord(None, b"{nope"), NewRecord(None, b"\xff\x00")]
        fresh.backend.append("dead-letters", values)
        assert fresh.http.get("/v1/dead-letters").json()["records"] == [
            {"encoding": "utf-8", "value": "{nope"},
            {"encoding": "hex", "value": "ff00"},
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

    def test_the_plain_page_links_what_there_is(self, shared: Running) -> None:
        """Without a live page `/` is a short list of links."""
        answer = shared.http.get("/")
        assert answer.headers["content-type"].startswith("text/html")
        assert 'href="/openapi.json"' in answer.text

    def test_a_live_page_is_served_with_its_files(self, tmp_path: Path) -> None:
        """With an index.html the directory's files are served under /live/ and nothing above."""
        page = tmp_path / "page"
        page.mkdir()
        (page / "index.html").write_text("<h1>live</h1>")
        (page / "page.js").write_text("1")
        (tmp_path / "secret").write_text("no")

        async def ask(*paths: str) -> list[httpx.Response]:
            cfg = config()
            waiters = ScoreWaiters(1)
            backend = FakeBackend(cfg, waiters)
            api = Api(cfg, backend, waiters, lambda *_: None, page)
            transport = httpx.ASGITransport(app=api.app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://[::1]") as http:
                answers = [await http.get(p) for p in paths]
            backend.close()
            return answers

        index, script, missing, above = asyncio.run(
            ask("/", "/live/page.js", "/live/none.js", "/live/%2e%2e/secret")
        )
        assert (index.text, script.text) == ("<h1>live</h1>", "1")
        assert "script-src 'self';" in index.headers["content-security-policy"]
        problem(missing, "not-found")
        problem(above, "not-found")


class TestLive:
    def test_snapshots_stream(self, fresh: Running) -> None:
        """A reader gets a snapshot at once and another about a second later."""
        with fresh.http.stream("GET", "/v1/live") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            data = [json.loads(x[6:]) for x in _take(lines, 2, "data: ")]
        assert data == [{"snapshots": 1}, {"snapshots": 2}]

    def test_readers_share_a_snapshot(self, fresh: Running) -> None:
        """A second reader within the second causes no second snapshot."""
        with fresh.http.stream("GET", "/v1/live") as one, fresh.http.stream("GET", "/v1/live") as b:
            assert _take(one.iter_lines(), 1, "data: ") == _take(b.iter_lines(), 1, "data: ")

    def test_readers_are_bounded(self, fresh: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        """One reader too many gets a 503; a place that is left can be taken again."""
        assert READERS > 1
        monkeypatch.setattr("stream.http_live.READERS", 1)
        with fresh.http.stream("GET", "/v1/live") as answer:
            lines = answer.iter_lines()  # dropping the iterator would close the connection
            _take(lines, 1, "data: ")
            problem(fresh.http.get("/v1/live"), "overloaded")

        def open_again() -> bool:
            with fresh.http.stream("GET", "/v1/live") as again:
                return again.status_code == 200

        _until(open_again)

    def test_head_does_not_stream(self, shared: Running) -> None:
        """A HEAD request ends."""
        assert shared.http.head("/v1/live").status_code == 200

    def test_stopping_ends_streams(self) -> None:
        """A live page does not keep the service from stopping."""
        with running(config()) as it, it.http.stream("GET", "/v1/live") as answer:
            lines = answer.iter_lines()
            _take(lines, 1, "data: ")
            with ThreadPoolExecutor(1) as pool:
                stopped = pool.submit(it.server.stop, 5)
                list(lines)
                assert stopped.result()


class TestAuth:
    @pytest.mark.parametrize(
        ("method", "path", "body", "allowed"),
        [
            ("POST", "/v1/events", event("a"), {"scorer", "root"}),
            ("POST", "/v1/score", event("b"), {"scorer", "root"}),
            ("POST", "/v1/labels", {"payment_id": 1, "fraud": 0}, {"labeller", "root"}),
            ("POST", "/v1/control", {"command": "checkpoint"}, {"root"}),
            ("GET", "/v1/dead-letters", None, {"root"}),
            ("GET", "/v1/models", None, {"scorer", "labeller", "root"}),
            ("GET", "/v1/parameters", None, {"scorer", "labeller", "root"}),
            ("GET", "/v1/audit", None, {"scorer", "labeller", "root"}),
            ("HEAD", "/v1/live", None, {"scorer", "labeller", "root"}),
        ],
    )
    def test_each_route_asks_for_its_scope(
        self, guarded: Running, method: str, path: str, body: Any, allowed: set[str]
    ) -> None:
        """A token with the scope, or an admin's, passes; another gets 403, none or a wrong 401."""

        def code(token: str | None) -> int:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            return guarded.http.request(method, path, json=body, headers=headers).status_code

        passed = {name for name in ("scorer", "labeller", "root") if code(name) in (200, 202)}
        assert passed == allowed
        assert {code(n) for n in {"scorer", "labeller"} - allowed} <= {403}
        assert code(None) == code("wrong") == code("SCORER") == 401

    def test_a_refusal_says_how_to_come_in(self, guarded: Running) -> None:
        """401 and 403 carry the challenge of RFC 6750, and 403 names the missing scope."""
        none = guarded.http.get("/v1/models")
        problem(none, "unauthorized")
        assert none.headers["www-authenticate"] == 'Bearer realm="millrace"'
        headers = {"authorization": "bearer scorer"}
        other = guarded.http.post("/v1/control", json={}, headers=headers)
        assert "'admin'" in problem(other, "forbidden")["detail"]
        assert 'scope="admin"' in other.headers["www-authenticate"]

    @pytest.mark.parametrize("header", ["scorer", "Basic c2NvcmVyOg==", "Bearer", "Bearer \xff"])
    def test_other_credentials_are_refused(self, guarded: Running, header: str) -> None:
        """Only `Bearer TOKEN` is a credential."""
        headers = [(b"authorization", header.encode("latin-1"))]
        problem(guarded.http.get("/v1/models", headers=headers), "unauthorized")

    @pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/", "/openapi.json"])
    def test_probes_need_no_token(self, guarded: Running, path: str) -> None:
        """A scraper, a probe and the page itself come in without."""
        assert guarded.http.get(path).status_code == 200

    def test_an_unknown_caller_sends_no_body(self, guarded: Running) -> None:
        """The token is asked for before the body is looked at."""
        problem(guarded.http.post("/v1/events", content=b"x" * 5000), "unauthorized")

    def test_a_command_names_its_token(self, guarded: Running) -> None:
        """The control record says which token gave the command."""
        headers = {"authorization": "Bearer root"}
        guarded.http.post("/v1/control", json={"command": "checkpoint"}, headers=headers)
        assert json.loads(guarded.backend.values("control")[-1])["actor"] == "root"


class TestEdge:
    @pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/events/", "//", "/live/x"])
    def test_an_unknown_path_is_a_404(self, shared: Running, path: str) -> None:
        """As a problem, without a redirect, observed under one label."""
        problem(shared.http.get(shared.url + path), "not-found")
        assert shared.observed[-1][0] in ("unmatched", "/live/{file}")

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
    def test_another_method_is_a_405(self, shared: Running, method: str) -> None:
        """It names the methods that are taken; an odd one is observed as OTHER."""
        answer = shared.http.request(method, "/v1/events")
        problem(answer, "method-not-allowed")
        assert answer.headers["allow"] == "POST"
        assert shared.observed[-1][1] == ("OTHER" if method == "BREW" else method)

    @pytest.mark.parametrize("path", ["/", "/v1/models", "/nope", "/v1/events"])
    def test_every_answer_is_hardened(self, shared: Running, path: str) -> None:
        """No sniffing, no framing, no script but the server's own files."""
        headers = shared.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        scripts = [p for p in policy.split("; ") if p.startswith("script-src")]
        assert scripts == (["script-src 'self'"] if path == "/" else [])
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers

    def test_an_error_inside_leaks_nothing(self, fresh: Running) -> None:
        """A 500 says that it failed and nothing else; the service goes on."""
        fresh.backend.failure = ZeroDivisionError("secret path /etc/x")
        body = problem(fresh.http.post("/v1/events", json=event()), "failed")
        assert "secret" not in json.dumps(body)
        fresh.backend.failure = None
        assert fresh.http.post("/v1/events", json=event()).status_code == 202

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (LogUnavailable("broker host:9092 is away"), "log-unavailable"),
            (DiskFull("disk"), "log-unavailable"),
            (LogError("no such topic"), "failed"),
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/events", "/v1/audit"])
    def test_a_log_that_fails_is_told_apart(
        self, fresh: Running, error: Exception, kind: str, path: str
    ) -> None:
        """What may pass is a 503 with Retry-After, what will not is a 500."""
        fresh.backend.failure = error
        if path == "/v1/audit":
            problem(fresh.http.get(path), kind)
        else:
            body = problem(fresh.http.post(path, json=event()), kind)
            assert "9092" not in body["detail"]

    @pytest.mark.parametrize("host", ["attacker.example", "attacker.example:80", "", "10.0.0.1"])
    def test_a_foreign_host_is_misdirected(self, shared: Running, host: str) -> None:
        """A name that was pointed at loopback (DNS rebinding) reaches nothing."""
        problem(shared.http.get("/v1/models", headers={"host": host}), "misdirected")

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080"])
    def test_this_machine_may_be_named(self, shared: Running, host: str) -> None:
        """Every usual name of this machine is taken."""
        assert shared.http.get("/livez", headers={"host": host}).status_code == 200

    def test_durations_carry_the_route(self, fresh: Running) -> None:
        """One observation a request: template, method, code, seconds until the answer began."""
        fresh.http.get("/v1/audit?limit=3")
        fresh.http.post("/v1/events", content=b"{", headers=JSON)
        assert [o[:3] for o in fresh.observed] == [
            ("/v1/audit", "GET", 200),
            ("/v1/events", "POST", 400),
        ]
        assert all(0 <= o[3] < 10 for o in fresh.observed)


class TestServer:
    def test_a_taken_port_is_told_at_start(self, shared: Running) -> None:
        """The error names host, port and what to change."""
        cfg = config(port=shared.server.port)
        server = Server(cfg, shared.backend, shared.waiters, lambda *_: None)
        with pytest.raises(HttpError, match=rf"port {shared.server.port}.*http\.port"):
            server.start()
        assert not server.alive

    def test_stopping_answers_those_who_wait(self) -> None:
        """Requests that wait for a score are told that the event will be scored later."""
        with running(config(score_timeout="60s")) as it, ThreadPoolExecutor(1) as pool:
            it.backend.scoring = False
            waiting = pool.submit(it.http.post, "/v1/score", json=event("w"))
            _until(lambda: len(it.backend.values("events")) == 1)
            assert it.server.stop(5)
            assert problem(waiting.result(), "stopping")["offset"] == 0
            assert not it.server.alive

    def test_stopping_twice_or_before_start_is_harmless(self) -> None:
        """The caller need not know how far the start came."""
        with running(config()) as it:
            assert it.server.stop(5)
            assert it.server.stop(5)
        server = Server(config(), it.backend, it.waiters, lambda *_: None)
        assert server.stop(1)
        with pytest.raises(HttpError, match="start"):
            _ = server.port

    def test_publishing_after_the_stop_is_harmless(self) -> None:
        """The loop may outlive the server: nobody waits, nothing fails."""

        async def leave() -> ScoreWaiters:
            waiters = ScoreWaiters(1)
            waiters.expect("a", b"a").__enter__()  # never left, as in a cancelled server
            return waiters

        waiters = asyncio.run(leave())
        waiters.publish(["a"], [b"{}"])
        waiters.close()


class TestWaiters:
    def test_each_verdict_finds_its_waiter(self) -> None:
        """By id for scores, by the event's bytes for dead letters, by close for the rest."""

        async def run() -> list[Any]:
            waiters = ScoreWaiters(3)
            letter = NewRecord(None, b"B", None, (("reason", b"null"), ("error", b"why")))
            with (
                waiters.expect("a", b"A") as a,
                waiters.expect("b", b"B") as b,
                waiters.expect("c", b"C") as c,
            ):
                worker = threading.Thread(
                    target=lambda: (
                        waiters.publish(["x", "a"], [b"0", b"1"], [letter]),
                        waiters.publish(["a", "b"], [b"2", b"3"]),
                        waiters.close(),
                    )
                )
                worker.start()
                verdicts = [await a, await b, await c]
                worker.join()
            assert waiters.waiting == 0
            return verdicts

        assert asyncio.run(run()) == [Scored(b"1"), DeadLettered("null", "why"), Stopped()]

    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
    def test_exactly_those_who_wait_are_answered(self, moves: list[tuple[int, bool]]) -> None:
        """Whatever the order of waiting and publishing, a wait sees the first publish after it."""

        async def run() -> None:
            waiters = ScoreWaiters(6)
            open_: dict[int, tuple[Any, asyncio.Future[Any]]] = {}
            expected: dict[int, bytes] = {}
            for step, (who, wait) in enumerate(moves):
                if wait and who not in open_:
                    context = waiters.expect(str(who), b"v%d" % who)
                    open_[who] = (context, context.__enter__())
                elif not wait:
                    waiters.publish([str(who)], [b"%d" % step])
                    if who in open_:
                        expected.setdefault(who, b"%d" % step)
            await asyncio.sleep(0)
            assert waiters.waiting == len(open_)
            for who, (context, future) in open_.items():
                assert future.done() == (who in expected)
                assert who not in expected or future.result() == Scored(expected[who])
                context.__exit__(None, None, None)
            assert waiters.waiting == 0

        asyncio.run(run())


def test_many_clients_get_their_own_scores(fresh: Running) -> None:
    """Hundreds of concurrent requests on several connections: each answer is the asker's."""

    def ask(worker: int) -> list[bool]:
        with httpx.Client(base_url=fresh.url, trust_env=False, timeout=20) as http:
            return [
                http.post("/v1/score", json=event(f"{worker}-{i}")).json()["payment_id"]
                == f"{worker}-{i}"
                for i in range(25)
            ]

    with ThreadPoolExecutor(8) as pool:
        assert all(ok for answers in pool.map(ask, range(8)) for ok in answers)
    assert len(fresh.backend.values("events")) == 200
    assert len(fresh.observed) == 200


def _take(lines: Iterator[str], count: int, prefix: str) -> list[str]:
    found: list[str] = []
    for line in lines:
        if line.startswith(prefix):
            found.append(line)
            if len(found) == count:
                break
    return found


def _until(condition: Any) -> None:
    """Wait for a condition another thread brings about; fail after 10 s."""
    tick = threading.Event()
    for _ in range(2000):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("the condition did not come about within 10 s")
