"""One audited shard for all tests of the tools that look at one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stream.settings.load import load
from tests.stream.cli.test_cli import toml
from tests.stream.tools.audit.audited import write_keys
from tests.support.factory import event, label, raw_config
from tests.support.runner import append, caught_up, running


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard that scored and learned 400 events in two sessions and was stopped in order."""
    directory = tmp_path_factory.mktemp("shard")
    write_keys(directory)
    raw = raw_config(
        directory,
        limits={"batch": 50},
        audit={"key": str(directory / "key.pem"), "summary_every": 100, "anchor_every": 4},
        members=[
            {"name": "linear", "type": "logistic"},
            {"name": "mlp", "type": "torch", "hidden": [4]},
        ],
    )
    (directory / "c.toml").write_text(toml(raw))
    c = load(directory / "c.toml", {})
    for start in (0, 200):
        span = range(start, start + 200)
        append(c, ("events", [event(i) for i in span]), ("labels", [label(i) for i in span]))
        with running(c) as service:
            caught_up(service, 2 * (start + 200))
    return directory


@pytest.fixture
def shard(ran: Path, tmp_path: Path) -> Path:
    """A copy of it to tamper with."""
    directory = tmp_path / "shard"
    shutil.copytree(ran, directory)
    text = (directory / "c.toml").read_text().replace(str(ran), str(directory))
    (directory / "c.toml").write_text(text)
    return directory
