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
from stream.state import anchors
from stream.state.generations import StateDirectory
from tests.support.factory import config, event
from tests.support.runner import append


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
