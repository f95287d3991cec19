"""Starting and stopping the server, and the waiting for scores beneath it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.contract.letters import DeadLetter
from stream.contract.records import Record
from stream.http.score import DeadLettered, Scored, ScoreWaiters, Stopped
from stream.http.server import HttpError, Server
from tests.support.http_fake import Running, config, event, problem, running
from tests.support.waiting import DEADLINE_S, wait_until


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    """One server for tests that leave nothing behind that others would see."""
    with running(config(max_body_bytes=4096)) as it:
        yield it


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
        with running(config()) as it, ThreadPoolExecutor(1) as pool:
            it.backend.scoring = False
            waiting = pool.submit(it.http.post, "/v1/score", json=event("w"))
            wait_until(lambda: it.backend.values("events"), "the append")
            assert it.server.stop(DEADLINE_S)
            assert problem(waiting.result(), "stopping")["offset"] == 0
            assert not it.server.alive

    def test_stopping_twice_or_before_start_is_harmless(self) -> None:
        """The caller need not know how far the start came."""
        with running(config()) as it:
            assert it.server.stop(DEADLINE_S)
            assert it.server.stop(DEADLINE_S)
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
            letter = DeadLetter(Record("events", 0, 0, None, b"B"), "null", "why")
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
