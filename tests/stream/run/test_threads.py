"""What runs beside the loop: nothing before the start, and nothing that dies unseen."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from stream.http.live.page import PageView
from stream.run import front as front_module
from stream.run.front import Front
from stream.run.service import Service
from stream.run.threads import NoTurn, Turns
from stream.state import anchors
from stream.state.generations import StateDirectory
from tests.support.factory import config, event
from tests.support.runner import append
from tests.support.waiting import DEADLINE_S, wait_until


def test_a_service_that_is_not_run_has_no_thread_and_holds_nothing(tmp_path: Path) -> None:
    """Made and thrown away, HTTP side included, it leaves no thread, no lock, no file."""
    before = threading.enumerate()
    service = Service(config(tmp_path, http={"enabled": True, "port": 0}))
    Front(service)
    assert threading.enumerate() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "name"),
    [
        pytest.param(StateDirectory, "write", id="checkpoint"),
        pytest.param(Front, "committed", id="commit"),
        pytest.param(anchors, "make_anchor", id="anchor"),
        pytest.param(PageView, "add_point", id="live page"),
        pytest.param(uvicorn.Server, "serve", id="http"),
        pytest.param(front_module, "readings", id="loop"),
    ],
)
def test_what_a_thread_fails_of_ends_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    """A defect in any thread is the error that `run` raises; the directory is free again."""

    def defect(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError(f"a defect of {name}")

    monkeypatch.setattr(where, name, defect)
    monkeypatch.setattr(front_module, "POINT_S", 0.01)
    c = config(
        tmp_path,
        http={"enabled": True, "port": 0},
        audit={"anchor_every": 1},
        checkpoints={"interval": "1ms"},
    )
    append(c, ("events", [event(i) for i in range(300)]))
    service = Service(c)
    front = Front(service)
    front.start()
    try:
        with pytest.raises(ZeroDivisionError, match=f"a defect of {name}"):
            service.run()
    finally:
        front.stop()
    assert service.health.state == "stopped"
    StateDirectory(c.state_dir).open().close()


class TestTurns:
    def test_a_question_is_answered_while_the_loop_waits(self) -> None:
        """Whatever it waits for, and however long."""
        turns = Turns()
        with turns.waiting():
            assert turns.ask(lambda: 7, DEADLINE_S) == 7

    def test_a_question_during_a_step_is_answered_after_it(self) -> None:
        """By the loop itself, before it waits."""
        turns, answered = Turns(), []
        asker = threading.Thread(target=lambda: answered.append(turns.ask(lambda: 7, DEADLINE_S)))
        asker.start()
        wait_until(lambda: turns.asked, "the question")
        assert answered == []
        with turns.waiting():
            asker.join(DEADLINE_S)
        assert answered == [7]

    def test_no_two_have_the_turn_at_once(self) -> None:
        """Many askers beside a loop that never waits for long: each is answered, alone."""
        turns, inside, answers = Turns(), threading.Semaphore(1), []

        def question() -> int:
            assert inside.acquire(blocking=False)
            inside.release()
            return 1

        def ask() -> None:
            for _ in range(200):
                answers.append(turns.ask(question, DEADLINE_S))

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        while any(asker.is_alive() for asker in askers):
            assert inside.acquire(blocking=False)
            inside.release()
            with turns.waiting():
                pass
        assert len(answers) == 800

    def test_a_question_that_nobody_has_answered_in_time_is_never_asked(self) -> None:
        """The asker has gone: nothing is computed for it."""
        turns, computed = Turns(), []
        with pytest.raises(TimeoutError):
            turns.ask(lambda: computed.append(1), 0.0)
        with turns.waiting():
            assert turns.ask(lambda: 7, DEADLINE_S) == 7
        assert computed == []

    def test_what_a_question_raises_is_the_askers(self) -> None:
        """The loop goes on."""
        turns = Turns()
        with turns.waiting(), pytest.raises(ZeroDivisionError):
            turns.ask(lambda: 1 // 0, DEADLINE_S)

    def test_once_the_loop_has_ended_nobody_has_the_turn(self) -> None:
        """Asked before or after, in words of its own."""
        turns = Turns()
        turns.end()
        with pytest.raises(NoTurn):
            turns.ask(lambda: 7, DEADLINE_S)
