"""What probes are told while the log does not answer, and that a stop never waits for it long."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from stream.contract.log import LogUnavailable
from stream.run import health as module
from stream.run.health import STALL_S, STOP_S, Health
from stream.run.service import Service
from tests.support.factory import config, event
from tests.support.runner import append, caught_up, contents, running
from tests.support.waiting import wait_until


@contextmanager
def held(service: Service, call: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A log that does not answer a call meanwhile."""
    real, answer = getattr(service.log, call), threading.Event()

    def wait(*arguments: Any) -> Any:
        answer.wait()
        return real(*arguments)

    monkeypatch.setattr(service.log, call, wait)
    try:
        yield
    finally:
        answer.set()


@pytest.mark.parametrize("call", ["poll", "commit", "lag"])
def test_a_call_that_does_not_come_back_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Before it fails of anything; ready again once it has come back, and nothing is lost."""
    c = config(tmp_path)
    with running(c) as service:
        with held(service, call, monkeypatch):
            append(c, ("events", [event(i) for i in range(50)]))
            wait_until(lambda: not service.health.ready()[0], "not to be ready")
            assert f"log.db: {call} under way for" in service.health.ready()[1]
        wait_until(lambda: service.health.ready()[0], "to be ready again")
        caught_up(service, 50)
    assert len(contents(c, "scores")) == 50


@contextmanager
def away(service: Service, call: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A log that fails each attempt of a call."""

    def fail(*_: Any) -> None:
        raise LogUnavailable("a broker that is ill")

    monkeypatch.setattr(service.log, call, fail)
    yield


@pytest.mark.parametrize("ill", [held, away])
def test_a_stop_does_not_wait_for_a_commit_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ill: Any
) -> None:
    """It ends in order; the next start finds what was not committed and scores it once."""
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    c = config(tmp_path)
    with ExitStack() as ending:
        with running(c) as service:
            append(c, ("events", [event(i) for i in range(20)]))
            caught_up(service, 20)
            ending.enter_context(ill(service, "commit", monkeypatch))
            append(c, ("events", [event(i) for i in range(20, 50)]))
            wait_until(lambda: service.committer.busy, "a commit under way")
        assert service.health.state == "stopped"
        with running(c) as service:
            caught_up(service, 50)
    assert len(contents(c, "scores")) == 50


def test_a_stop_ends_a_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay saves nothing, so that nobody waits for its end."""
    c = config(tmp_path, limits={"batch": 10})
    append(c, ("events", [event(i) for i in range(100)]))
    with running(c) as service:
        caught_up(service, 100)
    (tmp_path / "state" / "generations").rename(tmp_path / "taken-away")
    service = Service(c)
    beat = service.beat

    def stopped_meanwhile() -> None:
        if service.health.state == "restoring":
            service.stop()
        beat()

    monkeypatch.setattr(service, "beat", stopped_meanwhile)
    service.run()
    assert service.engine is None


@pytest.mark.parametrize(
    ("file", "key"),
    [("docs/operations.md", "TimeoutStopSec="), ("docker-compose.yml", "stop_grace_period: ")],
)
def test_supervisors_leave_a_stop_its_time(file: str, key: str) -> None:
    """What we give away kills no process that would still end by itself."""
    found = re.findall(rf"{key}(\d+)", Path(file).read_text())
    assert found
    assert min(map(int, found)) > STOP_S


def test_the_process_ends_when_nothing_else_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """75 for a loop that stands still; 130 for a stop that the log holds up, not its own work."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def health(state: module.State) -> Health:
        made = Health("a log")
        made.state = state
        return made

    still, saving, ended, kept = map(health, ("running", "stopping", "stopped", "connecting"))
    for stopped in (saving, ended, kept):
        stopped.asked()
    with pytest.raises(LogUnavailable), kept.calling("open"):
        raise LogUnavailable("away")
    now[0] = STOP_S + 1
    statuses = [each.overdue() for each in (still, saving, ended, kept)]
    assert statuses == [None, None, 130, 130]
    now[0] = STALL_S + 1
    assert still.overdue() == 75
    assert not still.alive()[0]
