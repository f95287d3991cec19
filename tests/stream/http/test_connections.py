"""Connections that hold their places and do nothing, more requests than there is room for, TLS."""

from __future__ import annotations

import json
import math
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from stream.http import server
from stream.http.connections import Connections
from stream.http.problem import Problem
from stream.http.score import ScoreWaiters
from stream.http.tls import CertificateError
from tests.stream.logs.secured import make_authority, make_signed
from tests.support.http_fake import FakeBackend, Running, config, event, problem, running
from tests.support.waiting import DEADLINE_S, wait_until

HALF = b"GET /livez HTTP/1.1\r\nHost: localho"
CONNECTIONS = 8


@contextmanager
def small(requests: int, connections: int, **http: Any) -> Iterator[Running]:
    """A server with so little room."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stream.http.server._room", lambda waiting: (requests, connections))
        with running(config(**http)) as it:
            yield it


def dial(it: Running, sent: bytes = b"") -> socket.socket:
    """A connection on which that was sent."""
    made = socket.create_connection(("127.0.0.1", it.server.port))
    made.settimeout(DEADLINE_S)
    made.sendall(sent)
    return made


def rest(connection: socket.socket) -> bytes:
    """What still comes until the other end closes."""
    found = b""
    with suppress(ConnectionResetError):  # closed before it had read everything
        while more := connection.recv(65536):
            found += more
    return found


def sweep(it: Running) -> None:
    """Let every deadline have passed."""
    loop, swept = it.server._loop, threading.Event()
    assert loop is not None
    loop.call_soon_threadsafe(it.server._connections.sweep, math.inf)
    loop.call_soon_threadsafe(swept.set)
    wait_until(swept.is_set, "the sweep")


def half_sent(it: Running) -> bool:
    """Whether a connection that waits for a head has half of one."""
    waiting: list[Any] = [*it.server._connections._waiting]
    return any(one.conn.trailing_data[0] == HALF for one in waiting)


def told(answer: bytes, kind: str) -> None:
    """The answer is that problem, with the headers of every other answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert json.loads(body)["type"] == f"urn:millrace:{kind}"
    assert "content-type: application/problem+json" in lines
    assert "x-content-type-options: nosniff" in lines
    assert any(line.startswith("content-security-policy: default-src 'none'") for line in lines)
    assert "connection: close" in lines


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr("stream.http.connections.PATIENCE_S", 0.05)
    monkeypatch.setattr("stream.http.connections.SWEEP_S", 0.01)


class TestWaiting:
    def test_half_a_head_is_a_408(self) -> None:
        """A client that stops within a head is told, counted and closed."""
        with running(config()) as it, dial(it, HALF) as one:
            wait_until(lambda: half_sent(it), "half a head")
            sweep(it)
            told(rest(one), "slow-head")
            assert [o[:3] for o in it.observed] == [("unmatched", "OTHER", 408)]

    def test_silence_is_closed_without_a_word(self, hasty: None) -> None:
        """There is nobody to be told."""
        with running(config()) as it, dial(it) as one:
            assert rest(one) == b""
            assert it.observed == []

    def test_half_a_head_after_an_answer_is_a_408(self) -> None:
        """The deadline of the next head begins with the end of the answer before."""
        whole = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with running(config()) as it, dial(it, whole + HALF) as one:
            wait_until(lambda: half_sent(it), "half a head behind the answer")
            sweep(it)
            answers = rest(one)
            assert answers.startswith(b"HTTP/1.1 200 ")
            told(answers[answers.index(b"HTTP/1.1 408") :], "slow-head")

    def test_a_request_in_progress_may_take_longer(self) -> None:
        """The deadline is that of heads: an answer that is long in coming comes."""
        with running(config()) as it, ThreadPoolExecutor(1) as pool:
            it.backend.open.clear()
            waiting = pool.submit(it.http.post, "/v1/events", json=event())
            wait_until(lambda: it.backend.calls == 1, "the append")
            sweep(it)
            it.backend.open.set()
            assert waiting.result().status_code == 202

    def test_an_answer_that_is_not_taken_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that asks and never reads does not keep its connection."""
        with running(config()) as it:
            monkeypatch.setattr(it.backend, "metrics", lambda: b"x" * (16 << 20))
            with dial(it, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                wait_until(lambda: it.observed, "the answer")
                wait_until(lambda: sweep(it) or not it.server._connections._open, "its end")


class Reader:
    """A connection that takes so much of its answer each time it is asked."""

    def __init__(self, *taken: bool) -> None:
        self.taken = list(taken)
        self.told: list[str] = []

    def takes(self) -> bool:
        return self.taken.pop(0)

    def turn_away(self, problem: Problem) -> None:
        self.told.append(problem.kind)


def test_who_still_takes_an_answer_is_left_at_it() -> None:
    """A slow reader is no silent one; once it stops it is."""
    connections = Connections(4, None, lambda *_: None)
    slow, silent = Reader(True, True, False), Reader(False)
    for one in (slow, silent):
        connections.enter(one)
    for told in ([], [], ["slow-head"]):
        connections.sweep(math.inf)
        connections.leave(silent)
        assert slow.told == told
    assert silent.told == ["slow-head"]


class TestRoom:
    def test_those_that_only_hold_a_place_make_room(self) -> None:
        """However many heads stay half-sent, whoever asks next is answered."""
        with small(2, CONNECTIONS) as it, ExitStack() as stack:
            oldest = stack.enter_context(dial(it, HALF))
            wait_until(lambda: half_sent(it), "half a head")
            for _ in range(3 * CONNECTIONS):
                stack.enter_context(dial(it, HALF))
            for path in ("/livez", "/readyz", "/metrics", "/v1/models"):
                assert it.http.get(path).status_code == 200
            first = rest(oldest)
            told(first, "overloaded")
            assert b"retry-after: 1\r\n" in first.lower()
            refusal = ("unmatched", "OTHER", 503)
            wait_until(lambda: refusal in [o[:3] for o in it.observed], "the count of the refusal")

    def test_only_the_excess_is_refused(self) -> None:
        """Of many at once as many are served as there is room for; a refusal is a counted 503."""
        with small(4, 64) as it, ThreadPoolExecutor(40) as pool:
            it.backend.open.clear()
            events = [event(f"e{i}") for i in range(40)]
            asked = [pool.submit(it.http.post, "/v1/events", json=one) for one in events]
            wait_until(lambda: len(it.observed) == 36, "the refusals")
            for path in ("/livez", "/readyz", "/metrics"):
                assert it.http.get(path).status_code == 200
            it.backend.open.set()
            answers = [one.result() for one in asked]
            assert Counter(a.status_code for a in answers) == {202: 4, 503: 36}
            for answer in answers:
                assert answer.status_code == 202 or problem(answer, "overloaded")
            assert Counter(o[2] for o in it.observed) == {202: 4, 503: 36, 200: 3}

    def test_scrapes_keep_out_no_probe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Metrics have a bound of their own; probes have none and need none."""
        monkeypatch.setattr("stream.http.edge.SCRAPES", 1)
        with small(2, CONNECTIONS) as it, ThreadPoolExecutor(1) as pool:
            entered, metrics = [], it.backend.metrics

            def slow() -> bytes:
                entered.append(True)
                it.backend.open.wait(DEADLINE_S)
                return metrics()

            monkeypatch.setattr(it.backend, "metrics", slow)
            it.backend.open.clear()
            first = pool.submit(it.http.get, "/metrics")
            wait_until(lambda: entered, "the first scrape")
            problem(it.http.get("/metrics"), "overloaded")
            assert it.http.get("/livez").status_code == 200
            it.backend.open.set()
            assert first.result().status_code == 200

    def test_few_files_mean_few_connections(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Half of what may be open beside logs and checkpoints, and half of that at work."""
        limits = {"getrlimit": lambda _: (1024, 1024), "setrlimit": lambda *_: None}
        for name, fake in limits.items():
            monkeypatch.setattr(f"stream.http.server.resource.{name}", fake)
        assert server._room(1024) == (192, 384)
        monkeypatch.setattr("stream.http.server.resource.getrlimit", lambda _: (1024, 1 << 20))
        assert server._room(1024) == (1280, 5120)


class TestProtocol:
    @pytest.mark.parametrize(
        "sent",
        [
            b"\x16\x03\x01\x02\x00\x01",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ],
    )
    def test_what_is_no_http_is_a_400_like_any_other(self, shared: Running, sent: bytes) -> None:
        """As a problem, with the security headers, counted."""
        shared.observed.clear()
        with dial(shared, sent) as one:
            told(rest(one), "protocol")
        assert [o[:3] for o in shared.observed] == [("unmatched", "OTHER", 400)]

    def test_a_body_that_is_no_http_ends_its_request(self, fresh: Running) -> None:
        """Its handler is told that nothing more comes; the request is one observation."""
        head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        with dial(fresh, f"{head}Content-Type: application/json\r\n\r\n".encode()) as one:
            one.sendall(b"1\r\n{\r\n")
            one.sendall(b"no size\r\n")
            told(rest(one), "protocol")
        wait_until(lambda: fresh.observed, "the observation")
        assert [o[:2] for o in fresh.observed] == [("/v1/events", "POST")]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], ssl.SSLContext]:
    """Settings with a certificate for localhost, and what its clients trust."""
    place = tmp_path_factory.mktemp("tls")
    by, authority = make_authority(place / "authority.pem")
    make_signed(place / "server.pem", "localhost", by, authority)
    both = str(place / "server.pem")
    trust = ssl.create_default_context(cafile=place / "authority.pem")
    return {"certfile": both, "keyfile": both}, trust


class TestTls:
    def test_requests_are_answered(self, tls: tuple[dict[str, str], ssl.SSLContext]) -> None:
        """The same API, several requests on a connection, to clients that check the name."""
        settings, trust = tls
        with running(config(tls=settings)) as it:
            base = f"https://localhost:{it.server.port}"
            with httpx.Client(base_url=base, verify=trust, timeout=DEADLINE_S) as client:
                for i in range(3):
                    assert client.post("/v1/score", json=event(f"e{i}")).status_code == 200
                assert client.get("/livez").headers["x-content-type-options"] == "nosniff"

    def test_who_still_takes_an_answer_is_left_at_it(
        self, tls: tuple[dict[str, str], ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is encrypted and not yet sent is an answer that is being taken."""
        settings, trust = tls
        with running(config(tls=settings)) as it:
            monkeypatch.setattr(it.backend, "metrics", lambda: b"x" * (16 << 20))
            with closing(HTTPSConnection("localhost", it.server.port, context=trust)) as one:
                one.request("GET", "/metrics")
                wait_until(
                    lambda: it.observed and it.server._connections._waiting, "the whole answer"
                )
                sweep(it)
                assert len(one.getresponse().read()) == 16 << 20

    def test_a_request_right_behind_the_handshake_is_answered(
        self, tls: tuple[dict[str, str], ssl.SSLContext]
    ) -> None:
        """It may come in one piece with the handshake's end."""
        settings, trust = tls
        with running(config(tls=settings)) as it, dial(it) as raw:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            shake = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
            while True:
                try:
                    shake.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    incoming.write(raw.recv(65536))
            shake.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            raw.sendall(outgoing.read())
            while True:
                try:
                    assert shake.read(12) == b"HTTP/1.1 200"
                    break
                except ssl.SSLWantReadError:
                    incoming.write(raw.recv(65536))

    def test_what_is_no_tls_is_closed(self, tls: tuple[dict[str, str], ssl.SSLContext]) -> None:
        """A client without TLS gets an alert at most, and no other one notices."""
        settings, trust = tls
        with running(config(tls=settings)) as it:
            with dial(it, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") as raw:
                assert not rest(raw).startswith(b"HTTP")
            url = f"https://localhost:{it.server.port}/livez"
            assert httpx.get(url, verify=trust).status_code == 200
            wait_until(lambda: not it.server._connections._open, "the end of both")

    def test_half_a_handshake_is_closed(
        self, hasty: None, tls: tuple[dict[str, str], ssl.SSLContext]
    ) -> None:
        """Nothing, or the beginning of a handshake: the deadline is that of half a head."""
        with running(config(tls=tls[0])) as it, dial(it) as one, dial(it, b"\x16\x03\x01") as two:
            assert rest(one) == rest(two) == b""
            wait_until(lambda: not it.server._connections._open, "the end of both")

    def test_handshakes_make_room(self, tls: tuple[dict[str, str], ssl.SSLContext]) -> None:
        """Those that never end one do not keep out those that do."""
        settings, trust = tls
        with small(2, CONNECTIONS, tls=settings) as it, ExitStack() as stack:
            for _ in range(3 * CONNECTIONS):
                stack.enter_context(dial(it))
            url = f"https://localhost:{it.server.port}/livez"
            assert httpx.get(url, verify=trust).status_code == 200

    def test_files_that_do_not_fit_are_told(
        self, tmp_path: Path, tls: tuple[dict[str, str], ssl.SSLContext]
    ) -> None:
        """A missing file, another's key, a key with a password: no prompt, no start."""
        by, _ = make_authority(tmp_path / "other.pem")
        locked = tmp_path / "locked.pem"
        locked.write_bytes(
            by.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password")
            )
        )
        waiters = ScoreWaiters(1)
        backend = FakeBackend(config(), waiters)
        for key in (tmp_path / "none.pem", tmp_path / "other.pem", locked):
            cfg = config(tls=tls[0] | {"keyfile": str(key)})
            with pytest.raises(CertificateError, match=rf"http\.tls: .*{key.name}"):
                server.Server(cfg, backend, waiters, print)
        backend.close()
