"""What surrounds every request: bodies within bounds, tokens, hosts, headers, errors."""

from __future__ import annotations

import hashlib
import http.client
import json
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest
from starlette.requests import Request

from stream.contract.log import DiskFull, LogError, LogUnavailable
from stream.contract.records import NewRecord
from stream.http.auth import Tokens
from stream.http.problem import Problem
from stream.settings.schema import TokenSettings
from tests.support.http_fake import Running, config, event, problem, running
from tests.support.waiting import DEADLINE_S, wait_until

JSON = {"content-type": "application/json"}


def _token(name: str, *scopes: str) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": scopes}


TOKENS = [_token("scorer", "score"), _token("labeller", "label"), _token("root", "admin")]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    """A server that asks for tokens."""
    with running(config(tokens=TOKENS)) as it:
        it.backend.append("audit", [NewRecord(None, b"{}")])
        yield it


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

    @pytest.mark.parametrize("kind", ["application/json", "text/plain"])
    def test_who_ends_the_connection_reads_why_its_body_is_refused(
        self, shared: Running, kind: str
    ) -> None:
        """It sends all of what fits into no buffer before it reads the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", shared.server.port, DEADLINE_S)
        with closing(connection):
            headers = {"Connection": "close", "Content-Type": kind}
            connection.request("POST", "/v1/events", b"x" * 30_000_000, headers)
            assert connection.getresponse().status == (413 if kind in JSON.values() else 415)

    def test_a_body_that_grows_too_large_is_a_413(self, shared: Running) -> None:
        """Without a length the limit holds while the body streams: it never ends here."""

        with socket.create_connection(("127.0.0.1", shared.server.port)) as raw:
            raw.settimeout(DEADLINE_S)
            head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            raw.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
            with suppress(ConnectionError):  # closed: its answer is there to be read
                while not select.select([raw], [], [], 0)[0]:
                    raw.sendall(b"400\r\n%s\r\n" % (b"x" * 1024))
            assert raw.recv(4096).startswith(b"HTTP/1.1 413")

    def test_bodies_in_memory_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond the bytes that all bodies may hold a request gets a 503, until one is done."""
        monkeypatch.setattr("stream.http.body.HELD", 1)
        with (
            running(config(max_body_bytes=1024)) as it,
            ThreadPoolExecutor(1) as pool,
        ):
            it.backend.open.clear()
            big = event("big", note="x" * 700)
            first = pool.submit(it.http.post, "/v1/events", json=big)
            wait_until(lambda: it.backend.calls == 1, "the first append")
            problem(it.http.post("/v1/events", json=big), "overloaded")
            it.backend.open.set()
            assert first.result().status_code == 202
            assert it.http.post("/v1/events", json=big).status_code == 202

    def test_a_body_that_does_not_come_is_a_408(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that stops sending does not keep its request open for ever."""
        monkeypatch.setattr("stream.http.body.DEADLINE_S", 0.05)
        with (
            running(config()) as it,
            socket.create_connection(("127.0.0.1", it.server.port)) as raw,
        ):
            raw.settimeout(DEADLINE_S)
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
            gone = ("/v1/events", "POST", 499)
            wait_until(lambda: gone in [o[:3] for o in it.observed], "the observation")
            assert it.http.get("/livez").status_code == 200


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
            ("GET", "/v1/scores/a", None, {"scorer", "labeller", "root"}),
        ],
    )
    def test_each_route_asks_for_its_scope(
        self, guarded: Running, method: str, path: str, body: Any, allowed: set[str]
    ) -> None:
        """A token with the scope, or an admin's, passes; another gets 403, none or a wrong 401."""
        guarded.backend.seen.add("a")

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

    def test_no_token_is_nobodys(self) -> None:
        """An empty bearer text is refused though a configuration held the hash of nothing."""
        nothing = hashlib.sha256(b"").hexdigest()
        held = TokenSettings.model_construct(name="nobody", sha256=nothing, scopes=("admin",))
        headers = [(b"authorization", b"Bearer ")]
        with pytest.raises(Problem, match="configured token"):
            Tokens([held]).caller(Request({"type": "http", "headers": headers}))

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

    @pytest.mark.parametrize(
        "host",
        [
            *("[::1].attacker.example", "[::1", "[::1]x:80", "localhost:80@attacker.example"),
            *(
                "localhost:attacker.example",
                "localhost/",
                "localhost, attacker.example",
                "[",
                "::1",
            ),
        ],
    )
    def test_a_host_that_is_none_is_no_http(
        self, shared: Running, guarded: Running, host: str
    ) -> None:
        """What begins like this machine is not taken for it; no other server looks at it either."""
        for it in (shared, guarded):
            for path in ("/livez", "/nope"):
                problem(it.http.get(path, headers={"host": host}), "protocol")

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
        assert all(o[3] >= 0 for o in fresh.observed)
